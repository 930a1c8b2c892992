"""CIFAR's own files: both versions hold the same images, and nothing in a pickle is run."""

import pickle
import struct

import numpy as np
import pytest

from cnn_jax.configuration.schema import ImageDataConfig
from cnn_jax.data import cifar
from cnn_jax.data.images import open_images
from cnn_jax.errors import InputError

PER_FILE = 6


def contents(classes):
    """(file's number, images [n, 32, 32, 3], labels [n]) of six files, the last one the test's."""
    rng = np.random.default_rng(classes)
    for number in range(1, 7):
        images = rng.integers(0, 256, (PER_FILE, 32, 32, 3), np.uint8)
        yield number, images, rng.integers(0, classes, PER_FILE)


def rows(images):
    """As CIFAR stores them: all red values of an image, then all green ones, then blue."""
    return np.ascontiguousarray(np.moveaxis(images, -1, 1)).reshape(len(images), -1)


def write_binary(folder):
    folder.mkdir(parents=True)
    for number, images, labels in contents(10):
        data = np.concatenate([labels[:, None].astype(np.uint8), rows(images)], 1)
        name = "test_batch" if number == 6 else f"data_batch_{number}"
        (folder / f"{name}.bin").write_bytes(data.tobytes())
    return folder


def write_python(folder):
    folder.mkdir(parents=True)
    for number, images, labels in contents(10):
        name = "test_batch" if number == 6 else f"data_batch_{number}"
        (folder / name).write_bytes(pickle_of_python_2(rows(images), labels.tolist()))
    return folder


def pickle_of_python_2(data, labels):
    """What cPickle of Python 2 wrote for `{"data": data, "labels": labels}`: protocol 2, where str
    is bytes."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01" + b"".join(b"J" + struct.pack("<i", size) for size in data.shape) + b"\x86"
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", data.nbytes) + data.tobytes() + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    name = text(b"batch_label") + text(b"training batch 1 of 5")
    pairs = name + text(b"labels") + numbers + text(b"data") + array
    return b"\x80\x02}(" + pairs + b"u."


def opened(folder, source="cifar10", **changes):
    return open_images(ImageDataConfig(source=source, directory=str(folder), **changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder into which both archives were unpacked."""
    folder = tmp_path_factory.mktemp("cifar") / "año"
    write_binary(folder / "cifar-10-batches-bin")
    return folder


def test_a_pickle_written_as_python_2_did_is_one():
    data = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    read = pickle.loads(pickle_of_python_2(data, [3, 7]), encoding="bytes")
    np.testing.assert_array_equal(read[b"data"], data)
    assert read[b"labels"] == [3, 7]


@pytest.mark.parametrize("write", [write_binary, write_python])
@pytest.mark.parametrize("below", ["", "archive"])
def test_every_image_and_label_is_read(tmp_path, write, below):
    name = {write_binary: "cifar-10-batches-bin", write_python: "cifar-10-batches-py"}[write]
    write(tmp_path / name if below else tmp_path / "own")
    images = opened(tmp_path if below else tmp_path / "own", validation_share=0.0)
    assert images.classes == cifar.CIFAR10
    assert (images.channels, images.image_px) == (3, (32, 32))
    parts = list(contents(10))
    for split, files in (("train", parts[:5]), ("test", parts[5:])):
        pixels, labels = images.splits[split].arrays()
        np.testing.assert_array_equal(pixels, np.concatenate([part[1] for part in files]))
        np.testing.assert_array_equal(labels, np.concatenate([part[2] for part in files]))
    image, label = images.splits["test"][2]
    np.testing.assert_array_equal(image, parts[5][1][2])
    assert label == parts[5][2][2]
    assert images.splits["test"].name(2) == "test 2"


def test_both_versions_are_the_same_set(tmp_path, folder):
    same = opened(write_python(tmp_path / "python"))
    assert same.fingerprint == opened(folder).fingerprint
    file = tmp_path / "python" / "data_batch_2"
    other = next(images for number, images, _ in contents(10) if number == 2)
    file.write_bytes(pickle_of_python_2(rows(other), [0] * PER_FILE))
    assert opened(tmp_path / "python").fingerprint != same.fingerprint


@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_of_python_3_and_cifar_100(tmp_path, protocol):
    (number, images, labels), test = list(contents(100))[4:]
    binary, python = tmp_path / "cifar-100-binary", tmp_path / "cifar-100-python"
    binary.mkdir()
    python.mkdir()
    for name, (_, pixels, fine) in {"train": (number, images, labels), "test": test}.items():
        coarse = (fine // 5).astype(np.uint8)[:, None]
        data = np.concatenate([coarse, fine.astype(np.uint8)[:, None], rows(pixels)], 1)
        (binary / f"{name}.bin").write_bytes(data.tobytes())
        batch = {"data": rows(pixels), "fine_labels": fine.tolist(), "coarse_labels": []}
        (python / name).write_bytes(pickle.dumps(batch, protocol))
    found = [opened(place, "cifar100", validation_share=0.0) for place in (binary, python)]
    assert found[0].fingerprint == found[1].fingerprint
    assert found[0].classes == cifar.CIFAR100
    assert len(set(cifar.CIFAR100)) == 100
    assert list(cifar.CIFAR100) == sorted(cifar.CIFAR100)
    for one in found:
        pixels, read = one.splits["train"].arrays()
        np.testing.assert_array_equal(pixels, images)
        np.testing.assert_array_equal(read, labels)


class Runs:
    """Something whose unpickling runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_what_a_pickle_names_is_not_run(tmp_path):
    write_python(tmp_path / "set")
    ran = tmp_path / "ran"
    for protocol in (0, 2, 4, 5):
        (tmp_path / "set" / "data_batch_1").write_bytes(pickle.dumps(Runs(str(ran)), protocol))
        with pytest.raises(InputError, match=r"data_batch_1 .*wants to run .*open, which is not"):
            opened(tmp_path / "set")
    assert not ran.exists()


BATCH = pickle_of_python_2(np.zeros((2, 3072), np.uint8), [1, 2])


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (b"", "no file of this set, or damaged"),
        (b"\x80\x02", "no file of this set, or damaged"),
        (BATCH[:-3000], "no file of this set, or damaged"),
        (BATCH.replace(b"u1", b"f8"), "no rows of uint8"),
        (BATCH.replace(struct.pack("<i", 2) + b"J", struct.pack("<i", 3) + b"J"), "cut short"),
        (BATCH.replace(b"](K\x01K\x02e", b"](K\x01e"), "1 labels for 2 images"),
        (BATCH.replace(b"](K\x01K\x02e", b"](K\x01K\x0ae"), "the label 10"),
        (BATCH.replace(b"](K\x01K\x02e", b"](K\x01Ne"), "no whole numbers"),
        (b"\x80\x02c_codecs\nencode\n}U\x0c__defaults__)sb.", "changes what it names"),
        (pickle.dumps([1, 2]), "no dictionary"),
        (pickle.dumps({"data": 3, "labels": [1]}), "no data"),
        (pickle.dumps({"data": np.zeros((1, 3072), object), "labels": [1]}), "no rows"),
    ],
)
def test_damaged_batches_are_named(tmp_path, damaged, words):
    write_python(tmp_path / "set")
    (tmp_path / "set" / "data_batch_4").write_bytes(damaged)
    with pytest.raises(InputError, match=f"data_batch_4 .*{words}"):
        opened(tmp_path / "set")


def test_damaged_binaries_are_named(tmp_path):
    write_binary(tmp_path / "set")
    file = tmp_path / "set" / "data_batch_5.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"data_batch_5\.bin .*18,437 bytes, which is no number"):
        opened(tmp_path / "set")
    file.write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(InputError, match=r"data_batch_5\.bin has the label 10"):
        opened(tmp_path / "set")
    file.unlink()
    with pytest.raises(InputError, match=r"data_batch_5\.bin is missing"):
        opened(tmp_path / "set")


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz is packed: unpack it"):
        opened(tmp_path)
