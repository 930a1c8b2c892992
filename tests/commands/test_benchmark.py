"""Benchmarks: the arithmetic of ratios, the turns, sides in processes of their own, each benchmark
at a tiny size; no time is asserted."""

import importlib
import json
import os
import re
import textwrap
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.benchmarks import (
    BENCHMARKS,
    evaluate,
    measuring,
    neighbours,
    networks,
    page,
    seeds,
    train_step,
)
from cnn_jax.commands import benchmark
from cnn_jax.runtime import processor
from tests.running import Finished, assert_refused, read

TINY = networks.Network("unet", {"base_width": 2, "depth": 1}, networks.unet)
# By hand: 3x3 convolutions 3-2, 2-2, 2-4, 4-4, 4-2 (two maps of 2), 2-2; five norms of two values a
# channel; upsampling 2x2 4-2 with bias; head 2-5 with bias.
TINY_PARAMETERS = (
    9 * (3 * 2 + 2 * 2 + 2 * 4 + 4 * 4 + 4 * 2 + 2 * 2)
    + 2 * (2 + 2 + 4 + 4 + 2 + 2)
    + (4 * 4 * 2 + 2)
    + (2 * 5 + 5)
)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Function that runs the command in this process, its sides too, and returns (what a child
    would, the record or None)."""
    monkeypatch.setattr(measuring, "apart", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(measuring, "Apart", measuring.Here)
    monkeypatch.setitem(networks.NETWORKS, "tiny", TINY)

    def run(*arguments):
        capsys.readouterr()
        output = tmp_path / "Ergebnis ä.json"
        code = benchmark.main([*arguments, "--output", str(output), "--repeats=2", "--seconds=0"])
        return Finished(code, *capsys.readouterr()), read(output) if output.exists() else None

    return run


# ---- arithmetic and turns


def test_ratio_by_hand():
    # Repetitions 4/2, 6/2 and 3/3 times as fast; medians 4 s and 2 s.
    assert measuring.ratio([2.0, 2.0, 3.0], [4.0, 6.0, 3.0]) == {
        "median": 2.0,
        "lowest": 1.0,
        "highest": 3.0,
    }


def test_ratio_of_medians_lies_within_its_range():
    random = np.random.default_rng(0)
    for length in range(1, 9):
        ours, theirs = random.exponential(size=(2, 200, length))
        for one, other in zip(ours, theirs, strict=True):
            value = measuring.ratio(one, other)
            assert value["lowest"] <= value["median"] * (1 + 1e-12)
            assert value["median"] <= value["highest"] * (1 + 1e-12)


def test_sides_take_turns():
    assert list(measuring.order(["ours", "theirs"], 3)) == [
        "ours",
        "theirs",
        "theirs",
        "ours",
        "ours",
        "theirs",
    ]
    assert list(measuring.order(["a", "b", "c"], 2)) == ["a", "b", "c", "c", "b", "a"]


def test_samples_are_taken_in_turns_and_for_one_run():
    calls = []

    def side(name, seconds):
        return lambda times: calls.append((name, times)) or seconds * times

    times, taken = measuring.samples(
        {"ours": side("ours", 0.25), "theirs": side("theirs", 2.0)}, repeats=2, seconds=0.9
    )
    assert times == 4  # the least number that takes the faster one 0.9 s
    assert taken == {"ours": [0.25, 0.25], "theirs": [2.0, 2.0]}
    assert calls == [
        ("ours", 1),
        ("theirs", 1),
        ("ours", 4),
        ("theirs", 4),
        ("theirs", 4),
        ("ours", 4),
    ]


def test_row_and_its_line():
    case = measuring.Case("a case", {"batch": 8}, work=8, unit="images")
    row = measuring.row(
        case,
        {"ours": [2.0, 4.0, 2.0], "theirs": [4.0, 4.0, 5.0]},
        {"ours": {"parameters": 7}},
        times=3,
    )
    assert row["rates"] == {"ours": 4.0, "theirs": 2.0}
    assert row["ratios"] == {"theirs": {"median": 2.0, "lowest": 1.0, "highest": 2.5}}
    assert (
        measuring.line(row)
        == "2.00 (1.00 to 2.50) x theirs  a case: ours 4.00 images/s; theirs 2.00 images/s"
    )
    alone = measuring.row(case, {"ours": [2.0]}, {}, failed={"theirs": "out of memory"})
    assert measuring.line(alone) == "a case: ours 4.00 images/s; theirs failed: out of memory"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0256, "0.0256"), (6.283, "6.28"), (43.51, "43.5"), (1234.5, "1,234"), (0, "0")],
)
def test_figures_have_three_digits(value, text):
    assert measuring.figure(value) == text


def test_share_of_peak_by_hand():
    facts = {"cnn_jax": {"multiply_adds": 10**9, "peak_flops": 6e12}}
    row = {"facts": facts, "rates": {"cnn_jax": 500.0, "pytorch": 250.0}}
    assert train_step.share_of_peak(row) == {"share_of_peak": {"cnn_jax": 0.5, "pytorch": 0.25}}
    assert train_step.share_of_peak({"facts": {"cnn_jax": {"peak_flops": None}}, "rates": {}}) == {}


# ---- processes


def test_each_side_has_a_process_and_failures_are_told(tmp_path, monkeypatch):
    (tmp_path / "three_sides.py").write_text(
        textwrap.dedent("""
            import os

            def prepare(side, settings):
                if side == "refuses":
                    raise ValueError("it needs\\nmore")
                made = {"pid": os.getpid(), **settings}
                return (lambda times: os._exit(3) if side == "dies" else None), made

            def die():
                os._exit(4)
        """),
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = SimpleNamespace(repeats=2, seconds=0, without_peers=False)
    case = measuring.Case("case", {"size": 3})
    row = measuring.compare(
        "three_sides", case, ("works", "refuses", "dies"), options, hidden={"folder": "/data"}
    )
    assert row["failed"] == {
        "refuses": "ValueError: it needs",
        "dies": "its process ended with exit code 3",
    }
    assert len(row["seconds"]["works"]) == 2
    assert row["ratios"] == {}
    facts = row["facts"]["works"]
    assert facts.pop("pid") != os.getpid()
    assert facts == {"size": 3, "folder": "/data"}
    assert row["settings"] == {"size": 3}
    with pytest.raises(measuring.SideFailed, match="ended before"):
        measuring.apart(importlib.import_module("three_sides").die)


# ---- the command


def test_benchmarks_are_listed_and_described(capsys):
    assert benchmark.main([]) == benchmark.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in BENCHMARKS:
        assert re.search(rf"^  {name} .*\.$", out, re.MULTILINE)
        assert benchmark.main([name, "--help"]) == 0
        assert "--repeats INT" in capsys.readouterr().out


def test_unknown_benchmark_names_the_nearest(run):
    finished, record = run("trainstep")
    assert_refused(finished, "'trainstep'", "did you mean train_step")
    assert record is None


def test_missing_peers_name_the_extra(run, monkeypatch):
    monkeypatch.setattr(train_step, "NEEDS", ("no_such_library",))
    assert_refused(run("train_step")[0], "no_such_library", "extra 'peers'", "--without-peers")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train_step", "--models=unet61"), ("unet61", "unet16")),
        (("train_step", "--sizes=64"), ("--sizes", "144x256")),
        (("train_step", "--batches=0"), ("--batches",)),
        (("evaluate", "--models=resnet50"), ("resnet50", "deeplabv3plus_resnet50")),
        (("evaluate", "--context=144"), ("--context", "--window")),
        (("objects", "--models=retinanet"), ("retinanet", "centernet")),
        (("seeds", "--seeds=two"), ("--seeds", "'two'")),
        (("neighbours", "--train=4"), ("--train", "at least 5")),
    ],
)
def test_unusable_flags_are_refused(run, arguments, words):
    assert_refused(run(*arguments, "--without-peers")[0], *words)


@pytest.mark.usefixtures("quick_compilation")
def test_a_step_of_a_classifier():
    """Of a thousand classes, whose labels are no bytes."""
    _, step, initial_state = train_step.our_step("resnet50", (32, 32), "float32")
    images, labels = train_step.example("resnet50", (32, 32), 2)
    batch = {"image": images, "label": labels, "position": np.arange(2, dtype=np.uint32)}
    state = jax.eval_shape(initial_state, 0)
    _, metrics = jax.eval_shape(step, state, batch, np.uint32(0))
    assert {"loss", "accuracy"} <= set(metrics)


def test_train_step_alone(run):
    finished, record = run(
        "train_step", "--models=tiny", "--sizes=8x12", "--batches", "1", "3", "--without-peers"
    )
    assert finished.code == 0, finished.err
    assert finished.out.startswith("without peers")
    assert record["peers"] is False
    assert record["environment"]["threads"] == len(processor.cores())
    assert record["command"].startswith(
        "python -m cnn_jax.commands.benchmark train_step --models=tiny"
    )
    one, three = record["rows"]
    assert (one["case"], three["case"]) == ("tiny 8x12 batch 1", "tiny 8x12 batch 3")
    assert one["ratios"] == {}
    assert len(three["seconds"]["cnn_jax"]) == 2
    assert three["rates"]["cnn_jax"] == pytest.approx(3 / np.median(three["seconds"]["cnn_jax"]))
    facts = three["facts"]["cnn_jax"]
    assert facts["parameters"] == TINY_PARAMETERS
    assert facts["dtype"] == "float32"
    assert facts["peak_flops"] is None  # nothing is claimed of a CPU


def test_parameters_must_agree():
    with pytest.raises(AssertionError, match="differ"):
        train_step.note({"cnn_jax": {"parameters": 3}, "pytorch": {"parameters": 4}})


@pytest.mark.usefixtures("quick_compilation")
def test_evaluate_alone(run):
    finished, record = run(
        "evaluate",
        "--models=tiny",
        "--scenes=2",
        "--scene=40x60",
        "--window=24x60",
        "--context=4",
        "--without-peers",
    )
    assert finished.code == 0, finished.err
    (row,) = record["rows"]
    assert (row["work"], row["unit"]) == (2 * 40 * 60 / 1e6, "megapixels")
    assert row["facts"]["cnn_jax"]["windows"] == 4  # rows 0 to 24 and 16 to 40 of each scene


@pytest.mark.usefixtures("quick_compilation")
def test_predict_alone(run):
    finished, record = run(
        "predict", "--models=tiny", "--scene=96x64", "--window=32x32", "--without-peers"
    )
    assert finished.code == 0, finished.err
    (row,) = record["rows"]
    assert (row["work"], row["unit"]) == (96 * 64 / 1e6, "megapixels")
    assert 100 < row["facts"]["cnn_jax"]["peak_mib"] < 4000


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("model", "work"),
    [
        ("tiny_fcos", "evaluation"),
        pytest.param("tiny_fcos", "training", marks=pytest.mark.long),
        pytest.param("tiny_centernet", "evaluation", marks=pytest.mark.long),
    ],
)
def test_objects_alone(run, model, work):
    words = ("--models", model, "--work", work, "--size=32x48", "--batch=1", "--without-peers")
    finished, record = run("objects", *words)
    assert finished.code == 0, finished.err
    [row] = record["rows"]
    assert row["case"] == f"{model} 32x48 batch 1, {work}"
    assert row["rates"]["cnn_jax"] > 0
    assert row["facts"]["cnn_jax"]["parameters"] > 0
    assert "greatest resident memory: cnn_jax" in row["note"]


@pytest.mark.usefixtures("quick_compilation")
def test_seeds_together_take_the_steps_of_each(run):
    finished, record = run("seeds", "--model=tiny", "--size=8x12", "--batch=2", "--seeds=2")
    assert finished.code == 0, finished.err
    (row,) = record["rows"]
    assert row["work"] == 4
    assert set(row["ratios"]) == {"one_after_another"}
    facts = row["facts"]["together"]
    assert facts["loss_difference"] < 1e-4
    assert facts["largest_weight"] > 0

    own = seeds.Seeds(
        "tiny", (8, 12), 2, "float32", 2
    )  # were one seed's weights or batch given to all, both losses would be one
    _, metrics = own.together(own.states(stacked=True))
    assert abs(metrics["loss"][0] - metrics["loss"][1]) > 1e-3


def test_neighbours_without_their_images(run, tmp_path):
    """No side begins, and the flag is the benchmark's own."""
    finished, record = run("neighbours", "--without-peers", f"--directory={tmp_path}")
    assert_refused(finished, "fashion_mnist is not in", "with --directory.")
    assert record is None


def test_neighbours_beside_scikit_learn(run, monkeypatch):
    pytest.importorskip("sklearn")
    random = np.random.default_rng(0)
    images, labels, queries = (
        random.integers(0, 256, (60, 9), np.uint8),
        np.arange(60, dtype=np.int32) % 3,
        np.eye(7, 9, dtype=np.uint8),
    )
    monkeypatch.setattr(
        neighbours, "read", lambda settings: (images, labels, queries[: settings["queries"]])
    )
    finished, record = run("neighbours", "--train=60", "--queries=7", "--directory=/data")
    assert finished.code == 0, finished.err
    assert record["peers"] is True
    for row, distance in zip(record["rows"], ("l1", "l2"), strict=True):
        assert row["settings"] == {"distance": distance, "train": 60, "queries": 7}
        assert row["note"] == "100.00% of predictions equal"
        assert set(row["ratios"]) == {"scikit_learn"}
        assert row["facts"] == {"cnn_jax": {}, "scikit_learn": {}}


def test_folders_of_this_machine_are_not_recorded():
    typed = benchmark._typed(
        "evaluate", ["--data", "/home/me/Dübai 1", "--models=unet16", "--data=/data"]
    )
    assert (
        typed
        == "python -m cnn_jax.commands.benchmark evaluate --data DIR --models=unet16 --data=DIR"
    )


# ---- the page


def written(folder, name="train_step", **changes):
    case = measuring.Case("unet_16|x", work=8, unit="images")
    seconds = {"cnn_jax": [2.0, 2.0], "pytorch": [4.0, 5.0]}
    rows = [
        measuring.row(case, seconds, {}, note="7 parameters"),
        measuring.row(case, {"cnn_jax": [1.0, 1.0]}, {}, failed={"pytorch": "no"}),
    ]
    environment = {
        "platform": "cpu",
        "device_kind": "cpu",
        "threads": 2,
        "versions": {"jax": "1"},
        "load_of_the_minute_before": 0.1,
    }
    record = {
        "benchmark": "train_step",
        "about": "What.",
        "command": "c",
        "repeats": 2,
        "rows": rows,
        "environment": environment,
    }
    (folder / f"{name}.json").write_text(json.dumps(record | changes), encoding="utf-8")


def test_page_is_made_from_records(tmp_path):
    written(tmp_path)
    written(tmp_path, "seeds", benchmark="seeds")
    written(tmp_path, "another", benchmark="added_later")
    records = page.read(tmp_path)
    assert list(records) == ["train_step", "seeds", "another"]
    text = page.page({"train_step": records["train_step"]})
    assert (
        "| [train_step](train_step.json) | 2 CPU cores, JAX 1 | pytorch | 1 | 2.25 | 2.25,"
        " unet_16\\|x | 2.25, unet_16\\|x |" in text
    )
    assert "| unet_16\\|x | 2.25 (2.00 to 2.50) | 4.00 | 1.78 | 7 parameters |" in text
    assert "2 CPU cores; JAX 1; 2 repetitions; load of the machine before it began: 0.1." in text
    known = records["train_step"]["environment"]
    known |= {"commit": "0123456789ab", "dirty": True, "glibc_tunables": "a=1:b=2"}
    known["processor"] = "AMD EPYC, family 25, model 17"
    text = page.page({"train_step": records["train_step"]})
    assert "2 CPU cores; AMD EPYC, family 25, model 17; JAX 1; 2 repetitions" in text
    assert "; code of 012345678, with changes; GLIBC_TUNABLES a=1, b=2." in text
    assert "| unet_16\\|x |  | 8.00 |  | pytorch failed: no |" in text


def test_page_refuses_what_is_no_record(tmp_path):
    from cnn_jax.errors import InputError

    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"other\.json is no record of a benchmark"):
        page.read(tmp_path)


# ---- beside PyTorch, where it is


@pytest.fixture
def torch():
    """PyTorch, where it is installed."""
    return pytest.importorskip("torch")


def give_weights(variables, network):
    """Writes a Flax module's variables into its twin, layer by layer in the order in which both are
    called."""
    import torch

    modules = {}
    for path, value in jax.tree_util.tree_leaves_with_path(variables):
        _, *names, leaf = (key.key for key in path)
        modules.setdefault(tuple(names), {})[leaf] = np.array(value)
    taken = []
    for name, module in network.named_modules():
        if not list(module.parameters(recurse=False)):
            continue
        values = modules[flax_name(name)]
        taken.append(flax_name(name))
        kernel = values.get("kernel", values.get("scale"))
        if isinstance(module, torch.nn.ConvTranspose2d):
            kernel = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        elif kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        elif kernel.ndim == 2:
            kernel = kernel.T
        own = {
            "weight": kernel,
            "bias": values.get("bias"),
            "running_mean": values.get("mean"),
            "running_var": values.get("var"),
        }
        state = {
            key: torch.tensor(np.ascontiguousarray(value))
            for key, value in own.items()
            if value is not None
        }
        module.load_state_dict(state, strict=False)
    assert set(taken) == set(modules)


def flax_name(name):
    """Where ours keeps the weights of a twin's layer."""
    words = name.split(".")
    if words[0] in ("encoder", "decoder"):
        level = int(words[1]) if words[0] == "encoder" else 3 - int(words[1])
        return f"{words[0]}_{level}_convolution_{int(words[2]) + 1}", words[3]
    if words[0] == "excitation":
        return f"encoder_{words[1]}_squeeze_excitation", words[2]
    if words[0] == "upsampling":
        return (f"decoder_{3 - int(words[1])}_upsampling",)
    if words[0] == "bridge" and words[1].isdecimal():
        return f"bridge_convolution_{int(words[1]) + 1}", words[2]
    if words[0] == "bridge" and words[1] == "rates":
        return "bridge", f"convolution_rate_{int(words[2]) + 1}", words[3]
    return tuple(words) + (("norm",) if words[-2:] == ["image_pooling", "norm"] else ())


def pair(name, size_px, classes=5, batch=2):
    """(our module, its variables with statistics unlike those at first, the twin with the same,
    images float32)."""
    ours = networks.ours(name, size_px, classes=classes)
    images = np.random.default_rng(1).normal(size=(batch, *size_px, 3)).astype(np.float32)
    variables = jax.jit(lambda key: ours.init(key, images, train=False))(jax.random.key(0))
    variables["batch_stats"] = jax.tree.map(lambda x: x + 0.1, variables["batch_stats"])
    twin = networks.theirs(name, size_px, classes)
    give_weights(variables, twin)
    return ours, variables, twin, images


@pytest.fixture
def small(monkeypatch):
    """U-Nets of base 4 under the names plain and asymmetric."""
    for name, model, twin in (
        ("plain", "unet", networks.unet),
        ("asymmetric", "asymmetric_unet", networks.asymmetric_unet),
    ):
        monkeypatch.setitem(networks.NETWORKS, name, networks._by_width(model, twin, 4))


@pytest.mark.usefixtures("quick_compilation", "small")
@pytest.mark.parametrize("name", ["plain", "asymmetric"])
def test_twins_compute_what_ours_do(torch, name):
    ours, variables, twin, images = pair(name, (37, 50))
    expected = ours.apply(variables, images, train=False)
    with torch.inference_mode():
        got = twin.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_sides_have_as_many_parameters(torch, name):
    ours = networks.ours(name, (144, 256))
    shapes = jax.eval_shape(
        lambda key: ours.init(key, jnp.zeros((1, 144, 256, 3)), train=False), jax.random.key(0)
    )
    with torch.device("meta"):
        theirs = networks.theirs(name, (144, 256))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert sum(parameter.numel() for parameter in theirs.parameters()) == count


@pytest.mark.peers
def test_fcos_of_torchvision_has_our_parameters(torch):
    from cnn_jax.benchmarks import objects
    from cnn_jax.models.fcos import FCOS

    ours = FCOS(objects.CLASSES, **objects.MODELS["fcos"])
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(lambda x: ours.init(jax.random.key(0), x, train=False), image)
    with torch.device("meta"):
        theirs, _ = objects.their_network((64, 64))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert sum(parameter.numel() for parameter in theirs.parameters()) == count


@pytest.mark.peers
def test_suppression_that_torchvision_is_given(torch):
    pytest.importorskip("torchvision")
    from cnn_jax.benchmarks import objects
    from cnn_jax.tasks.torch_segmentation import libraries
    from cnn_jax.training import detection

    libraries()
    random = np.random.default_rng(0)
    first = random.uniform(0, 10, (60, 2))
    boxes = np.concatenate([first, first + random.uniform(4, 8, (60, 2))], -1).astype(np.float32)
    scores = np.linspace(1, 0.1, 60, dtype=np.float32)
    kept = objects.suppressed(torch.from_numpy(boxes), torch.from_numpy(scores), detection.NMS_IOU)
    ours = detection.suppressed(jnp.array(boxes), jnp.array(scores), jnp.zeros(60, int))
    np.testing.assert_array_equal(kept.numpy(), np.flatnonzero(ours))
    assert len(kept) < 60


@pytest.mark.usefixtures("quick_compilation", "small")
def test_sliding_window_counts_what_our_evaluator_counts(torch):
    from cnn_jax.configuration.schema import EvaluationConfig
    from cnn_jax.evaluation.evaluate import SceneEvaluator, make_window_step
    from cnn_jax.training.devices import Devices
    from cnn_jax.training.losses import cross_entropy

    scenes, classes = evaluate.open_scenes("", 2, (40, 60))
    ours, variables, twin, _ = pair("plain", (24, 40), classes)
    devices = Devices()
    step = devices.predict(
        make_window_step(ours, cross_entropy, lambda images: (images / 255 - 0.5) / 0.25, classes)
    )
    config = EvaluationConfig(window_px=(24, 40), context_px=4, batch_size=devices.count)
    evaluator = SceneEvaluator(scenes, step, devices, config, classes)
    windows = torch.utils.data.DataLoader(evaluator.source, 3)
    counted = evaluate.sliding_window(twin.eval(), windows, len(scenes), classes).numpy()
    expected = evaluator.evaluate(variables).confusion
    np.testing.assert_array_equal(counted.sum((1, 2)), [40 * 60] * 2)
    assert (
        np.abs(counted - expected).sum() <= 8
    )  # where two classes are all but equal, rounding decides
    assert (expected.sum((0, 1)) > 0).sum() > 1  # more than one class is predicted


def test_collectives_of_a_program_by_hand():
    from cnn_jax.benchmarks.scaling import collectives

    program = """
      %all-reduce.1 = (f32[3,4]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={{0,1}}
      ROOT all-gather-start.2 = (bf16[8]{0}, bf16[16]{0}) all-gather-start(%c), dimensions={0}
      %fusion = f32[100]{0} fusion(%all-reduce.1), calls=%all-reduce_computation
      %get = f32[3,4]{1,0} get-tuple-element(%all-reduce.1), index=0
    """
    assert collectives(program) == [("all-reduce", 4 * 12 + 4), ("all-gather", 2 * 24)]


@pytest.mark.long
def test_devices_say_each_other_the_gradient_and_the_statistics(monkeypatch):
    from cnn_jax.benchmarks import scaling

    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of the child

    settings = {"model": "unet16", "size_px": [16, 16], "batch": 1, "processes": 1, "devices": 2}
    facts = scaling._in_processes(settings)
    assert (facts["devices"], set(facts["operations"])) == (2, {"all-reduce"})
    assert 1 < facts["collective_bytes"] / facts["parameter_bytes"] < 1.01
    assert facts["sent_bytes_per_device"] == facts["collective_bytes"]
