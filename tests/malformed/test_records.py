"""Records that no run wrote, given to the commands that read them."""

import json
import os
import shutil

import pytest
from hypothesis import strategies as st
from PIL import Image

from cnn_jax.commands import compare, evaluate, inspect_run, table
from cnn_jax.configuration import documents
from cnn_jax.records.run_directory import RunDirectory
from cnn_jax.records.run_record import read
from cnn_jax.reporting import comparison
from experiments import aerial_unet
from tests.data import fake_sets
from tests.malformed.refusals import SHARES, broken_json, changed, generated, paths, refused
from tests.records.beginnings import beginning
from tests.reporting import fake_records

FILES = ("config.json", "environment.json", "summary.json", "scenes.json", "metrics.jsonl")
NO_WHOLE = ["3", "", 0.5, True, [], {}, -1, [1]]
NO_SHARE = ["0.5", "", True, [], {}, -0.001, 1.001, 7, [0.5]]
NO_TEXT = [3, 0.5, True, [], {}, ["a"]]
NO_OBJECT = [3, "a", True, [], [{}]]
NO_TABLE = [
    3,
    "a",
    True,
    {},
    [1],
    [[1, 2]],
    [[1], [2]],
    [["1"]],
    [[0.5]],
    [[-1]],
    [[None]],
    [[True]],
    [[[1]]],
]


def wrong_values(file, path):
    """What can't stand at a path of a file of a record, or None where anything may."""
    key = path[0]
    if file == "config.json":
        fields = {
            "seed": NO_WHOLE,
            "variant": NO_TEXT,
            "experiment": NO_TEXT,
            "task": NO_TEXT,
            "configuration": NO_TEXT,
        }
        fields |= dict.fromkeys(("data", "training", "evaluation", "model"), NO_OBJECT)
        deep = {
            ("data", "source"): NO_TEXT,
            ("training", "steps"): [*NO_WHOLE, 0],
            ("training", "batch_size"): [*NO_WHOLE, 0],
        }
        deep |= {
            ("data", "crop_px"): [3, "a", [], [1], [1, 2, 3], [0, 1], [1.5, 2], ["1", "2"], {}]
        }
        return fields.get(key) if len(path) == 1 else deep.get(path)
    if file == "environment.json":
        return {
            "device_kind": NO_TEXT,
            "device_count": [*NO_WHOLE, 0],
            "data_fingerprint": NO_TEXT,
        }.get(key)
    if file == "summary.json":
        if key == "test/confusion":
            return NO_TABLE if len(path) == 1 else None
        if key == "test/calibration":
            return (
                [*NO_OBJECT[:3], [[]], {"count": [1]}]
                if len(path) == 1
                else [3, "a", {}, ["a"], [-1], [1, 2]]
                if len(path) == 2
                else None
            )
        if key in ("parameters", "multiply_adds", "steps"):
            return NO_WHOLE
        if key == "wall_time_s":
            return ["3", True, [], {}, -1]
        if not key.startswith("test/"):
            return None
        return [value for value in NO_SHARE if not key.endswith("/loss") or value not in (1.001, 7)]
    # scenes.json
    if len(path) == 1:
        return {
            "classes": [3, "a", {}, [], ["a"], [3] * 5, ["a"] * 5],
            "scenes": [3, "a", {}, [], [3]],
        }.get(key) or (
            [3, "a", {}, [], ["#000000"], ["red"] * 5, ["url(x)"] * 5] if key == "colors" else None
        )
    if path[-1] == "confusion":
        return [*NO_TABLE, ...]
    return [*NO_TEXT, ...] if path[-1] == "name" else None


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A run that never was, whole: its folder, within an experiment's, within that of the
    results."""
    folder = tmp_path_factory.mktemp("records") / "results" / "study"
    fake_records.write_study(folder, {"unet": 0.3}, seeds=(0,), scenes=2)
    return folder / "unet-seed0"


def pretty(content):
    return json.dumps(content, indent=1)


BOMB = fake_sets.raw_png(20_000, 20_000, 8, b"")
PICTURES = {
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<script>alert(1)</script>"),
    "bomb": lambda path: path.write_bytes(BOMB),
    "large": lambda path: Image.new("L", (1000, 1000)).save(path),
    "gif": lambda path: Image.new("L", (9, 9)).save(path, format="GIF"),
    "other format": (
        lambda path: Image.new("L", (9, 9)).save(
            path, format="PNG" if path.suffix == ".jpg" else "JPEG"
        )
    ),
}


@st.composite
def damages(draw):
    """(file of a record, what happens to it: bytes that replace it, or (path, value) or a picture's
    damage, or a share that stays)."""
    kind = draw(
        st.sampled_from(["value", "value", "value", "value", "broken", "lines", "picture", "gone"])
    )
    if kind == "value":
        return (
            draw(st.sampled_from(FILES[:4])),
            kind,
            draw(st.integers(0, 2**30)),
            draw(st.integers(0, 2**30)),
        )
    if kind == "broken":
        return (
            draw(st.sampled_from(FILES[:4])),
            kind,
            draw(broken_json('{"seed": 0, "more": [1]}')),
            None,
        )
    if kind == "lines":
        line = draw(
            st.sampled_from(
                [
                    *(
                        b"\n",
                        b"[]\n",
                        b"3\n",
                        b"null\n",
                        b"{}\n",
                        b'{"step": 3}\n',
                        b'{"elapsed_s": 3}\n',
                        b"\xff\n",
                        b'"step"\n',
                    ),
                    *(
                        b'{"step": -1, "elapsed_s": 1}\n',
                        b'{"step": 1, "elapsed_s": -1}\n',
                        b'{"step": "1", "elapsed_s": 1}\n',
                    ),
                    *(
                        b'{"step": 1, "elapsed_s": NaN}\n',
                        b'{"step": true, "elapsed_s": 1}\n',
                        b'{"step": 1.5, "elapsed_s": 1}\n',
                    ),
                    *(
                        b'{"step": 1, "elapsed_s": 1, "validation/miou": "x"}\n',
                        b'{"step": 1, "elapsed_s": 1, "train/loss": []}\n',
                    ),
                    *(
                        b'{"step": 1, "elapsed_s": 1, "train/loss": 1e999}\n',
                        b'{"step": 1, "step": 2, "elapsed_s": 1}\n',
                    ),
                ]
            )
        )
        return "metrics.jsonl", kind, line, None
    if kind == "gone":
        return draw(st.sampled_from(FILES[:3])), kind, None, None
    name = draw(st.sampled_from(["000-image.jpg", "001-truth.png", "000-prediction.png"]))
    return (
        f"scenes/{name}",
        kind,
        draw(st.sampled_from([*sorted(PICTURES), "cut"])),
        draw(SHARES.map(lambda share: 0.7 * share)),
    )


@generated(90, 2000, damages())
def test_tables_and_comparisons(damage, record):
    file, kind, what, where = damage
    folder = record.parent / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(record, folder)
    path = folder / file
    if kind == "value":
        content = json.loads(path.read_text())
        places = [(place, wrong_values(file, place)) for place in paths(content)]
        places = [(place, wrong) for place, wrong in places if wrong]
        place, wrong = places[what % len(places)]
        path.write_text(pretty(changed(content, place, wrong[where % len(wrong)])))
    elif kind == "picture":
        if what == "cut":
            os.truncate(path, int(where * path.stat().st_size))
        else:
            PICTURES[what](path)
    elif kind == "lines":
        path.write_bytes(path.read_bytes() + what)
    elif kind == "gone":
        path.unlink()
    else:
        path.write_bytes(what)
    out = record.parent.parent.parent / "out"
    said = refused(compare.main, folder, "--output", out)
    assert folder.name in said, said
    assert not out.exists() or not list(out.iterdir())
    if file in FILES[:3]:
        results = record.parent.parent
        assert folder.name in refused(table.main, "--results", results)
        assert not (results / "README.md").exists()


# ---- what opens a run again


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What evaluate and inspect_run look at before they touch weights and data: a run's record."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = aerial_unet.CONFIGURATIONS["smoke"]()
    with RunDirectory(folder, config) as directory:
        directory.begin(*beginning(config, "0"))
    (folder / "summary.json").write_text(
        pretty({"evaluated_step": 40, "test/miou": 11 / 36, "test/confusion": [[1, 2], [3, 4]]})
    )
    return folder


@st.composite
def of_runs(draw):
    """(file, its content): one of the three files of a run that is opened again."""
    file = draw(st.sampled_from(FILES[:3]))
    config = aerial_unet.CONFIGURATIONS["smoke"]()
    if draw(st.booleans()):
        return file, draw(broken_json('{"task": "segmentation", "seed": 0}'))
    if file == "config.json":
        other = draw(
            st.sampled_from(
                [
                    ("seed", 1),
                    ("training", None),
                    ("loss", {}),
                    ("future", 3),
                    ("model", {"name": "unetx"}),
                ]
            )
        )
        record = json.loads(documents.to_json(config)) | dict([other])
        return file, pretty(record).encode()
    if file == "environment.json":
        digest = draw(st.sampled_from([3, None, [], "", "0" * 16, {}]))
        return file, pretty({"digest": digest, "data_fingerprint": "0"}).encode()
    key = draw(
        st.sampled_from(
            ["evaluated_step", "test/miou", "test/confusion", "test/iou/ñ", "test/miou_interval"]
        )
    )
    wrong = {
        "evaluated_step": NO_WHOLE,
        "test/confusion": NO_TABLE,
        "test/miou_interval": [3, "a", [], [1], ["a", "b"]],
    }
    return file, pretty({key: draw(st.sampled_from(wrong.get(key, NO_SHARE)))}).encode()


@generated(40, 1000, of_runs())
def test_runs_that_are_opened_again(damage, run):
    file, content = damage
    folder = run.parent / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    (folder / file).write_bytes(content)
    for main in (evaluate.main, inspect_run.main):
        said = refused(main, folder)
        assert file in said or "model.name" in said, said


def test_what_is_not_damaged_is_not_refused(record, run):
    """Or the tests above would show nothing: the record is compared; of the run only the weights
    are missing."""
    assert comparison.compare([read(record)]).variants[0].name == "unet"
    for main in (evaluate.main, inspect_run.main):
        assert "neither the checkpoint of step 40" in refused(main, run)
