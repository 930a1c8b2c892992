"""The command for a machine with an accelerator, rehearsed on the CPU: what each part does, the
limit, being killed and started again, failures, the report. No speed is asserted."""

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from cnn_jax.benchmarks import accelerator, measuring
from cnn_jax.benchmarks.accelerator import REHEARSAL, Options, Part, Parts
from cnn_jax.commands import benchmark
from cnn_jax.configuration import documents
from cnn_jax.training.devices import Devices
from experiments.aerial_compare import STUDIES
from tests.data import fake_sets
from tests.running import Finished, assert_refused, finish, read, start

MODULE = "cnn_jax.commands.benchmark"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder as experiments.accelerator fills one, with tiny photographs."""
    folder = tmp_path_factory.mktemp("data")
    fake_sets.write_dubai(folder / "photographs")
    (folder / "configurations").mkdir()
    for name, config in STUDIES["dubai_whole"]().variants.items():
        named = dataclasses.replace(config, variant=name)
        path = folder / "configurations" / f"{name}.json"
        path.write_text(documents.to_json(named), encoding="utf-8")
    return folder


@pytest.fixture
def here(monkeypatch, quick_compilation):
    """Sides, and what has a process of its own, work in this one."""
    monkeypatch.setattr(measuring, "apart", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(measuring, "Apart", measuring.Here)


def processes_of(folder: Path) -> list[str]:
    """The numbers of the processes whose command line names the folder, other than this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:  # it has ended
            continue
        if str(folder).encode() in words and path.parent.name != str(os.getpid()):
            found.append(path.parent.name)
    return found


def wait(condition, seconds=150):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# ---- what the parts do


@pytest.mark.long
@pytest.mark.usefixtures("quick_compilation")
def test_the_study_trains_and_predicts_without_rasterio(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rasterio", None)  # importing it fails
    parts = Parts(Options(data=str(data), output=str(tmp_path), rehearsal=True))
    tmp_path = parts.folder
    parts.machine = {"platform": "cpu"}
    (study,) = [p for _, stage in parts.stages() for p in stage if p.name == "study_steps"]
    result = accelerator.study_steps(**study.settings)
    assert set(result["networks"]) == {"asymmetric_unet", "deeplabv3"}
    # Compilation alone takes longer than there is: the fewest steps.
    assert result["steps"] == REHEARSAL.timed_steps
    for network in result["networks"].values():
        assert network["step_s"] * network["images_per_second"] == pytest.approx(2)
        assert 0 <= network["data_wait_fraction"] <= 1

    assert not [p for _, stage in parts.stages() for p in stage if p.name.startswith("run_")]
    (tmp_path / "study_steps.json").write_text(json.dumps({"result": {"steps": 2}}))
    runs = [p for _, stage in parts.stages() for p in stage if p.name.startswith("run_")]
    assert [p.name for p in runs] == ["run_asymmetric_unet_seed0", "run_deeplabv3_seed0"]
    summary = accelerator.train(**runs[0].settings)
    assert (summary["steps"], summary["seed"], summary["variant"]) == (2, 0, "asymmetric_unet")
    assert 0 <= summary["test/miou"] <= 1

    (tmp_path / "run_asymmetric_unet_seed0.json").write_text(json.dumps({"result": summary}))
    (predicted,) = [p for _, stage in parts.stages() for p in stage if p.name == "predict"]
    result = accelerator.predict(**predicted.settings)
    assert result["pixels"] == 2 * fake_sets.HEIGHT_PX * fake_sets.WIDTH_PX
    assert result["pixels_per_second"] > 0


def test_as_many_steps_as_there_is_time_for(data, monkeypatch):
    class Known:
        lower_s = 1.0

        def __init__(self, config, dataset):
            pass

        def compile(self):
            return None, 5.0

        def time(self, program, steps):
            return {"step_s": 0.25}

    monkeypatch.setattr(accelerator, "Trained", Known)
    monkeypatch.setattr(
        accelerator, "configured", lambda path, words: STUDIES["smoke"]().variants["unet"]
    )
    monkeypatch.setattr(accelerator, "STARTING_S", 20)
    result = accelerator.study_steps({"a": "", "b": ""}, [], 50, seconds=200, workers=2)
    # A run has 2 * (1 + 5) + 20 s and the opening of the data, two at once; a step of both 0.5 s.
    beside = result["seconds_beside_steps"]
    assert 32 <= beside < 60
    assert result["steps"] == int((200 - beside) / 0.5)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("flags", [["--data.on-device"], ["--training.parallelism", "pmap"]])
def test_a_step_is_timed_with_its_waiting(flags, monkeypatch):
    place, placed = Devices.place_for_training, []
    monkeypatch.setattr(
        Devices, "place_for_training", lambda *given: placed.append(0) or place(*given)
    )
    result = accelerator.timed("", [*REHEARSAL.words, *flags], 3)
    # A run's step takes numbers from the host by itself, once it is lowered.
    assert (len(placed) == 1) == result["on_device"]
    assert result["steps"] == 3
    assert result["images_per_second"] > 0
    assert 0 <= result["data_wait_fraction"] <= 1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "name", ["step_16x32_tiny", "evaluate", pytest.param("seeds", marks=pytest.mark.long)]
)
def test_other_benchmarks_are_measured(tmp_path, name):
    parts = Parts(Options(output=str(tmp_path), rehearsal=True))
    parts.machine = {"platform": "cpu"}
    (part,) = [p for _, stage in parts.stages() for p in stage if p.name == name]
    (row,) = accelerator.measured(**part.settings)["rows"]
    assert min(row["rates"].values()) > 0
    assert row["settings"]["dtype"] == "bfloat16"
    if name.startswith("step_"):
        assert row["facts"]["cnn_jax"]["compile_s"] > 0


@pytest.mark.usefixtures("here")
def test_bits_are_compared(monkeypatch):
    settings = {"model": "tiny", "size_px": [8, 12], "batch": 1, "steps": 2, "dtype": "float32"}
    result = accelerator.same_bits(**settings)
    assert result["same"]
    assert (result["differing_arrays"], result["largest_difference"]) == (0, 0)
    weights = accelerator.weights_after
    drift = iter((0, 1e-3))
    monkeypatch.setattr(
        accelerator,
        "weights_after",
        lambda *a: [array + next(drift, 0) for array in weights(*a)[:1]],
    )
    result = accelerator.same_bits(**settings)
    assert not result["same"]
    assert result["largest_difference"] == pytest.approx(1e-3, rel=0.01)


# ---- the limit, and starting again


def test_a_part_that_the_limit_cuts_short_leaves_nothing(tmp_path):
    parts = Parts(Options(limit_s=0.4, output=str(tmp_path)))
    begun = time.monotonic()
    parts.work([Part("machine", "machine"), Part("other", "machine")])
    assert time.monotonic() - begun < 5
    assert parts.left_s <= 0
    assert not list(tmp_path.glob("*.json"))
    wait(lambda: not processes_of(tmp_path), 10)


def test_a_part_that_fails_is_recorded_and_the_next_begins(tmp_path):
    parts = Parts(Options(limit_s=250, output=str(tmp_path)))
    broken = Part("broken", "measured", {"benchmark": "nothing", "platform": "cpu"})
    parts.work([broken, Part("machine", "machine", environment={"XLA_FLAGS": ""})])
    record = read(tmp_path / "broken.json")
    assert record["failed"].endswith("No module named 'cnn_jax.benchmarks.nothing'")
    assert "result" not in record
    assert read(tmp_path / "machine.json")["result"]["platform"] == "cpu"
    assert parts.machine["platform"] == "cpu"
    assert "Traceback" in (tmp_path / "logs" / "broken.log").read_text(encoding="utf-8")


def test_what_takes_too_long_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "MOST_S", 0.2)
    parts = Parts(Options(limit_s=250, output=str(tmp_path)))
    parts.work([Part("machine", "machine")])
    assert "longer than 0.2 s" in read(tmp_path / "machine.json")["failed"]


def test_what_failed_or_waits_comes_after_what_was_never_tried(tmp_path, monkeypatch):
    parts = Parts(Options(limit_s=1000, output=str(tmp_path)))
    names = ("failed", "waits", "done", "new")
    every = [Part(name, "machine", until=0.0 if name == "waits" else 1.0) for name in names]
    monkeypatch.setattr(Parts, "stages", lambda self: [(1, [part]) for part in every])
    (tmp_path / "failed.json").write_text('{"part": "failed", "failed": "no"}')
    (tmp_path / "done.json").write_text('{"part": "done", "result": 1}')
    taken = []

    def work(self, chosen, workers):
        for part in chosen:
            self.tried.add(part.name)
            taken.append(part.name)

    monkeypatch.setattr(Parts, "work", work)
    parts.all()
    assert taken == ["new", "failed", "waits"]


def test_a_call_that_is_killed_is_gone_on_with(tmp_path):
    arguments = ("--accelerator", "--rehearsal", "--limit-s=200", "--output", tmp_path)
    first = start(*arguments, module=MODULE)
    tmp_path /= "rehearsal"
    one, two = tmp_path / "step_16x32_tiny.json", tmp_path / "step_32x32_tiny.json"
    try:
        wait(one.exists)
        wait((tmp_path / "logs" / "step_32x32_tiny.log").exists)
    finally:
        first.kill()
        first.communicate()
    wait(lambda: not processes_of(tmp_path), 10)  # the part's process has noticed
    assert not two.exists()
    kept = one.read_bytes()

    # What a shell runs in the background ignores SIGINT, and hands that on to its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    second = start(*arguments, module=MODULE)
    signal.signal(signal.SIGINT, before)
    try:
        wait(two.exists)
        second.send_signal(signal.SIGINT)
        ended = finish(second)
    finally:
        second.kill()
    assert ended.code == 130, ended
    wait(lambda: not processes_of(tmp_path), 10)
    assert one.read_bytes() == kept
    assert "step_16x32" not in ended.out


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_whole_rehearsal(data, tmp_path):
    arguments = ("--accelerator", "--rehearsal", "--data", data, "--output", tmp_path)
    ended = finish(start(*arguments, "--limit-s=800", module=MODULE), 850)
    tmp_path /= "rehearsal"
    assert ended.code == 0, ended
    assert "the time is over" not in ended.out
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        *("machine", "step_16x32_tiny", "step_32x32_tiny"),
        *("study_steps", "run_asymmetric_unet_seed0", "run_deeplabv3_seed0"),
        *("evaluate", "predict", "jit_set_on_host", "jit_set_on_device", "pmap_set_on_host"),
        *("seeds", "same_bits", "same_bits_deterministic"),
    }
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.strip() in ended.out
    assert "failed" not in text

    again = finish(start(*arguments, "--limit-s=100", module=MODULE))
    assert again.code == 0, again
    assert again.out.count(" done, ") == 1  # the machine's


# ---- the command and its report


def command(capsys, *arguments):
    capsys.readouterr()
    code = benchmark.main(["--accelerator", *map(str, arguments)])
    return Finished(code, *capsys.readouterr())


def test_without_an_accelerator_it_is_rehearsed_alone(capsys, tmp_path):
    refused = command(capsys, "--output", tmp_path)
    assert_refused(refused, "no accelerator", "--rehearsal")


def test_unusable_flags_are_refused(capsys, tmp_path):
    refused = command(capsys, "--data", tmp_path)
    assert_refused(refused, "--data", "experiments.accelerator")
    assert_refused(command(capsys, "--limit-s=0"), "--limit_s")
    assert command(capsys, "--help").code == 0


def test_the_report_says_what_was_reached():
    machine = {"device_kind": "A card"}
    facts = {"cnn_jax": {"compile_s": 31.0}, "pytorch": {"compile_s": 42.0}}
    row = {
        "case": "unet64 512x512 batch 8",
        "rates": {"cnn_jax": 121.0, "pytorch": 100.0},
        "ratios": {"pytorch": {"median": 1.21}},
        "share_of_peak": {"cnn_jax": 0.39, "pytorch": 0.32},
        "facts": facts,
        "failed": {},
    }
    run = {"steps": 1234, "test/miou": 0.5, "train/images_per_second": 800, "wall_time_s": 20}
    records = [
        {"part": "step_512x512_unet64", "result": {"rows": [row]}, "machine": machine},
        {"part": "run_unet_seed0", "result": run, "machine": machine},
        {
            "part": "jit_set_on_host",
            "result": {"images_per_second": 900.0, "data_wait_fraction": 0.125},
            "machine": machine,
        },
        {"part": "evaluate", "failed": "no memory", "machine": machine},
    ]
    text = accelerator.report(records)
    assert text.startswith("# A card\n")
    assert "| unet64 512x512 batch 8 | 121 | 100 | 1.21 | yes | 39.0% | no | 31 s, 42 s |" in text
    assert "| unet_seed0 | 1,234 | 0.5000 | 800 | 20 s |" in text.replace("\\", "")
    assert "12.5% of the time waiting for data" in text
    assert "evaluate failed: no memory" in text
