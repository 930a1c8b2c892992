"""Sets of labelled images, in folders and of TFDS, that can't be used."""

import json
import os
import shutil

import pytest
from hypothesis import strategies as st

from cnn_jax import run
from cnn_jax.configuration.schema import ImageDataConfig
from cnn_jax.data.images import open_images
from experiments import classify
from tests.data import fake_images, fake_sets
from tests.malformed.refusals import SHARES, broken_json, changed, generated, refused


def command(argv):
    return run.main("experiments.classify", classify.CONFIGURATIONS, argv)


def refused_set(source, directory, *arguments):
    never = directory.parent / "never"
    data = f"--data.source={source}", f"--data.directory={directory}"
    said = refused(
        command,
        "--config=smoke",
        "--model.widths",
        "1",
        *data,
        *arguments,
        "--workdir",
        never,
    )
    assert not never.exists()
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of grey images, in train and test."""
    names = [
        f"{split}/{label}/{number}.png"
        for split in ("train", "test")
        for label in "ab"
        for number in range(3)
    ]
    files = {name: fake_images.picture(i, (8, 8)) for i, name in enumerate(names)}
    return fake_images.write_folder(tmp_path_factory.mktemp("images") / "whole", files)


def replaced(path, content):
    path.write_bytes(content)


OF_FILES = {
    "nothing": lambda path: replaced(path, b""),
    "text": lambda path: replaced(path, b"<html>404</html>"),
    "bomb": lambda path: replaced(path, fake_sets.raw_png(65535, 65535, 8, b"")),
    "no width": lambda path: replaced(path, fake_sets.raw_png(0, 8, 8, b"")),
    "other size": lambda path: replaced(path, fake_images.encoded(fake_images.picture(0, (8, 9)))),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
    "link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "circle": lambda path: (path.parent / "more").symlink_to(".."),
    "two circles": lambda path: [
        (path.parent / name).symlink_to(path.parent) for name in ("x", "y", "z")
    ],
    "a class alone": lambda path: [shutil.rmtree(folder) for folder in path.parents[2].glob("*/b")],
    "an empty class": lambda path: (path.parents[1] / "c").mkdir(),
    "an unknown class": lambda path: shutil.copytree(
        path.parents[2] / "train" / "a", path.parents[2] / "test" / "c"
    ),
    "no train": lambda path: shutil.rmtree(path.parents[2] / "train"),
    "two trains": lambda path: shutil.copytree(
        path.parents[2] / "train", path.parents[2] / "TRAIN"
    ),
    "a file": lambda path: (shutil.rmtree(path.parents[1]), path.parents[1].write_text("")),
}
PATTERNS = [
    "(",
    "[",
    "*",
    "(?P<>a)",
    "a{99999999999}(b)",
    r"\d",
    "(z)",
    "()",
    "(?z)",
    "(" * 5000,
    r"(\d",
    "(?<=a+)(b)",
]


@st.composite
def damages(draw):
    """(what happens to a file, in a split, further arguments)."""
    split = draw(st.sampled_from(["train", "test"]))
    kind = draw(st.sampled_from(["file", "file", "file", "cut", "name", "pattern"]))
    file, further = f"{split}/a/{draw(st.integers(0, 2))}.png", []
    if kind == "pattern":
        return None, file, [f"--data.label_pattern={draw(st.sampled_from(PATTERNS))}"]
    if kind == "cut":
        share = draw(
            SHARES.map(lambda share: 0.3 * share)
        )  # within the header: pixels are decoded when they are needed
        return (lambda path: os.truncate(path, int(share * 60))), file, further
    if kind == "name":
        name = draw(st.sampled_from(["a\nb.png", "\udcff.png", "\x1b[2J.png"]))
        return (lambda path: path.rename(path.with_name(name))), file, further
    name = draw(st.sampled_from(sorted(OF_FILES)))
    file = "train/a/0.png" if name in ("no width", "other size") else file
    if name == "a file":
        file = "train/a/0.png"
    return OF_FILES[name], file, further


@generated(25, 1000, damages())
def test_folders(damage, folder):
    apply, file, further = damage
    again = folder.parent / "damaged"
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(folder, again)
    if apply is not None:
        apply(again / file)
    refused_set("folders", again, *further)


# ---- TFDS


@pytest.fixture(scope="module")
def tfds_set(tmp_path_factory):
    """A tiny MNIST as TFDS leaves it: the folder of its version."""
    pytest.importorskip(
        "tensorflow_datasets", reason="TFDS is not installed: pip install 'cnn_jax[tfds]'"
    )
    return fake_images.write_mnist(tmp_path_factory.mktemp("tfds") / "whole", train=20, test=10)


OF_INFO = {
    ("name",): [3, None, {}, "../mnist"],
    ("version",): [3, {}, "x", "1", ...],
    ("fileFormat",): ["tfrecord", "x", 3, "parquet"],
    ("splits",): [3, {}, [], [{}], "x", ...],
    ("splits", 0, "name"): ["", "../x", "all", 3, {}, "trainx"],
    ("splits", 0, "shardLengths"): [
        ["x"],
        ["-5"],
        [],
        ["99999999999"],
        ["21"],
        {},
        "3",
        ["1", "2", "3"],
        [None],
    ],
    ("splits", 0, "numBytes"): ["x", {}, "9" * 30],
    ("splits", 0, "filepathTemplate"): [
        3,
        "../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "/etc/passwd",
        "{X}",
        {},
    ],
    ("unknown",): [{"a": 1}],
}
IMAGE, LABEL = (("featuresDict", "features", name) for name in ("image", "label"))
OF_FEATURES = {
    ("pythonClassName",): [
        "os.system",
        "antigravity.X",
        "x",
        "",
        3,
        {},
        "tensorflow_datasets.core.features.none.None",
    ],
    ("featuresDict",): [3, {}, [], ...],
    (*IMAGE, "pythonClassName"): ["this.that.Image", "subprocess.Popen", "a.b.c", ".x", "Image"],
    (*LABEL, "pythonClassName"): [
        "this.that.Label",
        "tensorflow_datasets.core.features.text_feature.Text",
    ],
    IMAGE: [3, {}, "x", [], ...],
    LABEL: [3, {}, "x", [], ...],
    (*IMAGE, "image", "dtype"): ["float32", "x", 3, {}],
    (*IMAGE, "image", "shape", "dimensions"): [
        ["x"],
        ["28"],
        ["28", "29", "1"],
        ["-1", "28", "1"],
        ["28", "28", "1", "1"],
        "x",
    ],
    (*LABEL, "classLabel", "numClasses"): ["0", "x", "-3", "5", "999999999999999999999"],
}


@st.composite
def tfds_damages(draw):
    """(file of a TFDS set, its content, None where it is cut short)."""
    kind = draw(st.sampled_from(["info", "info", "features", "features", "broken", "shard"]))
    if kind == "shard":
        return (
            f"mnist-{draw(st.sampled_from(['train', 'test']))}.array_record-00000-of-00001",
            draw(SHARES),
        )
    file = (
        draw(st.sampled_from(["dataset_info.json", "features.json"])) if kind == "broken" else None
    )
    if file:
        return file, draw(broken_json('{"name": "mnist", "version": "3.0.1"}'))
    wrong = OF_INFO if kind == "info" else OF_FEATURES
    path = draw(st.sampled_from(sorted(wrong, key=str)))
    return {"info": "dataset_info.json", "features": "features.json"}[kind], (
        path,
        draw(st.sampled_from(wrong[path])),
    )


@generated(30, 500, tfds_damages())
def test_tfds(damage, tfds_set):
    file, what = damage
    again = tfds_set.parents[2] / "damaged"
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(tfds_set.parents[1], again)
    path = again / "mnist" / "3.0.1" / file
    if isinstance(what, float):
        os.truncate(path, int(0.9 * what * path.stat().st_size))
    elif isinstance(what, bytes):
        path.write_bytes(what)
    else:
        path.write_text(json.dumps(changed(json.loads(path.read_text()), *what)))
    refused_set("mnist", again)


def test_what_is_not_damaged_is_not_refused(folder, tfds_set):
    """Or the tests here would show nothing."""
    for source, directory in (("folders", folder), ("mnist", tfds_set.parents[1])):
        assert len(
            open_images(ImageDataConfig(source=source, directory=str(directory))).classes
        ) in (2, 10)
