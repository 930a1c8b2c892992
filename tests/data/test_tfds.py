"""TFDS sets on disk: found, split, read as TFDS itself reads them, and what is said of those that
can't be."""

import builtins
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from cnn_jax.configuration.schema import ImageDataConfig
from cnn_jax.data.images import open_images
from cnn_jax.errors import InputError
from tests.data.fake_images import (
    CIFAR10_CLASSES,
    encoded,
    picture,
    write_cifar10,
    write_cifar100,
    write_imagenet2012,
    write_tfds,
)

tfds = pytest.importorskip(
    "tensorflow_datasets", reason="TFDS is not installed: pip install 'cnn_jax[tfds]'"
)

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "tfds"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="no TFDS sets in shared/data/tfds beside this repository"
)


def open_set(source, directory, **options):
    return open_images(ImageDataConfig(source=source, directory=str(directory), **options))


def refusal(source, directory, **options):
    with pytest.raises(InputError) as caught:
        open_set(source, directory, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", ")"))
    return message


def layout(folder):
    """Names of a set's files without the set's name, and every path of keys in its JSON files."""

    def paths(value, prefix=""):
        if isinstance(value, dict):
            return {
                path for key, inner in value.items() for path in paths(inner, f"{prefix}/{key}")
            }
        if isinstance(value, list):
            return {path for inner in value for path in paths(inner, f"{prefix}/*")}
        return {prefix}

    names = {file.name.removeprefix(folder.parent.name) for file in folder.iterdir()}
    return names, *(
        paths(json.loads((folder / name).read_text()))
        for name in ("dataset_info.json", "features.json")
    )


@needs_real
def test_fakes_lie_on_disk_as_a_set_that_tfds_prepared(tmp_path):
    true, fake = (layout(folder) for folder in (REAL / "mnist" / "3.0.1", write_cifar10(tmp_path)))
    assert fake[0] == true[0]
    assert fake[1] == true[1] - {"/moduleName"}
    assert fake[2] - true[2] == {"/featuresDict/features/id/pythonClassName"}
    assert true[2] - fake[2] == {
        "/featuresDict/features/image/image/encodingFormat"
    }  # only MNIST's asks for PNG by name


def test_cifar10(tmp_path):
    write_cifar10(tmp_path / "año")
    cifar10 = open_set("cifar10", tmp_path / "año")
    assert cifar10.classes == CIFAR10_CLASSES
    assert (cifar10.channels, cifar10.image_px) == (3, (32, 32))
    assert {split: len(images) for split, images in cifar10.splits.items()} == {
        "train": 36,
        "validation": 4,
        "test": 20,
    }
    assert [cifar10.splits["test"].name(i) for i in (0, 19)] == ["test 0", "test 19"]
    for split, first in (("train", 0), ("validation", 0), ("test", 1000)):
        images = cifar10.splits[split]
        for i in range(len(images)):
            number = int(images.name(i).split()[1])
            image, label = images[i]
            assert label == number % 10
            np.testing.assert_array_equal(image, picture(first + number))


def test_images_and_labels_equal_those_that_tfds_reads(tmp_path):
    write_cifar10(tmp_path, shards=3)
    ours = open_set("cifar10", tmp_path).splits["test"]
    theirs = tfds.data_source("cifar10", split="test", data_dir=tmp_path)
    assert len(ours) == len(theirs) == 20
    for i in range(20):
        np.testing.assert_array_equal(ours[i][0], theirs[i]["image"])
        assert ours[i][1] == theirs[i]["label"]


@needs_real
@pytest.mark.parametrize("source", ["mnist", "fashion_mnist"])
def test_a_real_set(source):
    real = open_set(source, REAL)
    assert {split: len(images) for split, images in real.splits.items()} == {
        "train": 54000,
        "validation": 6000,
        "test": 10000,
    }
    assert (len(real.classes), real.channels, real.image_px) == (10, 1, (28, 28))
    assert "Bag" in real.classes or real.classes == tuple("0123456789")
    test = real.splits["test"]
    np.testing.assert_array_equal(
        np.bincount(test.labels),
        (
            [1000] * 10
            if "Bag" in real.classes
            else [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        ),
    )
    theirs = tfds.data_source(source, split="train", data_dir=REAL)
    for index in (0, 26999, 53999):
        image, label = real.splits["train"][index]
        example = theirs[int(real.splits["train"].name(index).split()[1])]
        np.testing.assert_array_equal(image, example["image"])
        assert label == example["label"]


def test_the_supervised_label_wins(tmp_path):
    write_cifar100(tmp_path)
    cifar100 = open_set("cifar100", tmp_path, validation_share=0.0)
    assert len(cifar100.classes) == 100
    np.testing.assert_array_equal(cifar100.splits["train"].labels, np.arange(110) % 100)


def test_without_supervised_keys_the_only_image_and_class_label_are_taken(tmp_path):
    write_cifar10(tmp_path, supervised=None)
    assert open_set("cifar10", tmp_path).splits["test"][13][1] == 3
    write_cifar100(tmp_path, supervised=None)
    assert "coarse_label (ClassLabel), id (Text), image (Image), label (ClassLabel)" in refusal(
        "cifar100", tmp_path
    )


def test_withheld_test_labels_make_the_published_validation_the_test(tmp_path):
    write_imagenet2012(tmp_path)
    imagenet = open_set("imagenet2012", tmp_path, image_px=(24, 16), crop_share=0.875)
    assert {split: len(images) for split, images in imagenet.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 9,
    }
    assert imagenet.splits["test"].name(0) == "validation 0"
    assert imagenet.splits["validation"].name(0).startswith("train ")
    np.testing.assert_array_equal(imagenet.splits["test"].labels, np.arange(9) % 3)
    for images in imagenet.splits.values():
        assert images.arrays()[0].shape == (len(images), 24, 16, 3)
    assert "data.image_px" in refusal("imagenet2012", tmp_path)


def test_a_labelled_test_and_a_published_validation_stay(tmp_path):
    write_cifar10(tmp_path, counts={"train": 10, "validation": 7, "test": 5, "extra": 3})
    splits = open_set("cifar10", tmp_path).splits
    assert {split: len(images) for split, images in splits.items()} == {
        "train": 10,
        "validation": 7,
        "test": 5,
    }
    assert splits["validation"].name(0) == "validation 0"


def test_the_newest_version_by_number(tmp_path):
    for version, count in (("3.0.2", 10), ("3.0.10", 11), ("2.9.9", 12)):
        write_cifar10(tmp_path, version, counts={"train": 20, "test": count})
    assert len(open_set("cifar10", tmp_path).splits["test"]) == 11


def test_the_default_directory(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "tensorflow_datasets")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert len(open_set("cifar10", "").splits["test"]) == 20
    write_cifar10(tmp_path / "elsewhere", counts={"train": 20, "test": 3})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(open_set("cifar10", "").splits["test"]) == 3


def test_a_set_in_two_formats_is_read_in_the_one_with_random_access(tmp_path):
    folder = write_cifar10(tmp_path)
    facts = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(
        json.dumps({**facts, "fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]})
    )
    np.testing.assert_array_equal(open_set("cifar10", tmp_path).splits["test"][0][0], picture(1000))


def test_large_splits_are_not_held_but_read_alike(tmp_path, monkeypatch):
    from cnn_jax.data import tfds as ours

    write_cifar10(tmp_path, shards=2)
    held = open_set("cifar10", tmp_path)
    monkeypatch.setattr(ours, "HELD_BYTES", 0)
    read = open_set("cifar10", tmp_path)
    np.testing.assert_array_equal(read.splits["train"][7][0], held.splits["train"][7][0])
    np.testing.assert_array_equal(read.splits["train"].labels, held.splits["train"].labels)
    for one, other in zip(
        read.splits["train"].arrays(), held.splits["train"].arrays(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_fingerprint_follows_images_labels_and_classes(tmp_path):
    def fingerprint(name, **changes):
        folder = write_cifar10(tmp_path / name)
        for file, (old, new) in changes.items():
            path = next(folder.glob(file.replace("_", "*")))
            data = path.read_bytes()
            assert old in data
            path.write_bytes(data.replace(old, new))
        return open_set("cifar10", tmp_path / name).fingerprint

    plain = fingerprint("one")
    assert fingerprint("two") == plain
    assert fingerprint("three", label_=(b"frog", b"toad")) != plain
    write_cifar10(tmp_path / "four", counts={"train": 40, "test": 19})
    assert open_set("cifar10", tmp_path / "four").fingerprint != plain


# ---- what can't be used


def test_a_set_that_is_not_prepared_is_told_the_command(tmp_path):
    directory = tmp_path / "my data"
    message = refusal("cifar10", directory)
    command = message.split("`")[1]
    assert shlex.split(command) == [
        "tfds",
        "build",
        "cifar10",
        f"--data_dir={directory}",
        "--file_format=array_record",
    ]
    assert "pip install tensorflow" in message


def test_an_unknown_name_is_told_the_nearest(tmp_path):
    assert "did you mean cifar10" in refusal("cifar-10", tmp_path)
    write_cifar10(tmp_path).parent.rename(tmp_path / "zebrafish")
    assert "zebrafish" in refusal("zebrafishes", tmp_path)
    assert "zebrafish" in refusal("qqqqqq", tmp_path)
    assert "did you mean folders" in refusal("folder", tmp_path)


def test_configurations_are_named(tmp_path):
    image = {"image": encoded(picture(0)), "label": 0}
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
    }
    write_tfds(tmp_path, "eurosat/rgb", "2.0.0", features, {"train": [image] * 50})
    assert "eurosat/rgb" in refusal("eurosat", tmp_path)
    eurosat = open_set("eurosat/rgb", tmp_path)
    assert {split: len(images) for split, images in eurosat.splits.items()} == {
        "train": 36,
        "validation": 4,
        "test": 10,
    }


def test_tfrecord_is_told_how_to_convert(tmp_path):
    folder = write_cifar10(tmp_path, file_format="tfrecord")
    message = refusal("cifar10", tmp_path)
    assert (
        f"`tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record`"
        in message
    )


def test_sets_that_are_not_images_with_one_label(tmp_path):
    text, label = tfds.features.Text(), tfds.features.ClassLabel(names=["negative", "positive"])
    write_tfds(
        tmp_path,
        "imdb_reviews",
        "1.0.0",
        {"text": text, "label": label},
        {"train": []},
        supervised=("text", "label"),
    )
    assert "text (Text)" in refusal("imdb_reviews", tmp_path)
    depth = tfds.features.Image(shape=(4, 4, 1), dtype=np.float32)
    write_tfds(tmp_path, "nyu_depth_v2", "0.0.1", {"image": depth, "label": label}, {"train": []})
    assert "float32" in refusal("nyu_depth_v2", tmp_path)
    folder = write_cifar10(tmp_path)
    described = json.loads((folder / "features.json").read_text())
    described["featuresDict"]["features"]["image"]["image"]["shape"]["dimensions"] = [
        "2",
        "32",
        "32",
        "3",
    ]
    (folder / "features.json").write_text(json.dumps(described))
    assert "images of shape (2, 32, 32, 3), not of height, width and channels" in refusal(
        "cifar10", tmp_path
    )


def test_a_set_without_train(tmp_path):
    write_cifar10(tmp_path, counts={"test": 20})
    assert "no split called train (it has test)" in refusal("cifar10", tmp_path)


def test_damage_is_named(tmp_path):
    folder = write_cifar10(tmp_path)
    shard = folder / "cifar10-train.array_record-00000-of-00001"
    data = shard.read_bytes()
    shard.write_bytes(data[:2000] + bytes(len(data) - 2000))
    assert f"{shard} is damaged" in refusal("cifar10", tmp_path)
    shard.write_bytes(
        data[:2000] + bytes(20_000) + data[22_000:]
    )  # the end, which says what the file holds, is whole
    train = open_set("cifar10", tmp_path).splits["train"]
    with pytest.raises(
        InputError, match=r"cifar10/3\.0\.2, split train, can't be read: prepare the set again"
    ):
        train.arrays()
    shard.unlink()
    assert f"{shard} is missing: remove {folder} and prepare" in refusal("cifar10", tmp_path)
    (folder / "features.json").write_text("{")
    assert f"{folder / 'features.json'} can't be read as a TFDS set" in refusal("cifar10", tmp_path)


def test_a_damaged_image_and_a_wrong_label_are_named(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    whole = encoded(picture(0))
    examples = [
        {"image": whole, "label": 1},
        {"image": whole[: len(whole) // 2], "label": 0},
        {"image": whole, "label": 2},
    ]
    write_tfds(tmp_path, "cifar10", "3.0.2", features, {"train": examples, "test": examples[:1]})
    train = open_set("cifar10", tmp_path, validation_share=0.0).splits["train"]
    assert train[0][1] == 1
    with pytest.raises(
        InputError, match=r"image 1 of cifar10/3\.0\.2, split train, can't be decoded"
    ):
        train[1]
    with pytest.raises(
        InputError, match=r"image 2 of cifar10/3\.0\.2, split train, has the label 2"
    ):
        train.labels  # noqa: B018


def test_without_tfds_its_installation_is_named(tmp_path, monkeypatch):
    original = builtins.__import__

    def missing(name, *rest, **options):
        if name.startswith("tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert "pip install 'cnn_jax[tfds]'" in refusal("cifar10", tmp_path)
