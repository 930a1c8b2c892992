"""Files of torch.save: read without PyTorch, and never run."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models.weights import torch_files

SMALL = Path(__file__).parent / "fixtures"
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
EXPECTED = {
    "plain.weight": MATRIX,
    "turned.weight": MATRIX.T,
    "cut.weight": MATRIX[1:, ::2],
    "half.weight": MATRIX.astype(np.float16),
    "brain.weight": MATRIX,
    "parameter.weight": MATRIX[0],
    "count.num_batches_tracked": np.array(7),
}


@pytest.mark.parametrize("name", ["small.pth", "small_older.pth"])
def test_every_kind_of_tensor_is_read_in_both_formats(name):
    found = torch_files.read(SMALL / name)
    assert set(found) == {f"state_dict.module.{key}" for key in EXPECTED}
    for key, value in EXPECTED.items():
        read = found[f"state_dict.module.{key}"]
        assert read.shape == value.shape
        np.testing.assert_array_equal(read.astype(np.float64), value.astype(np.float64))
    assert found["state_dict.module.half.weight"].dtype == np.float16


class Called:
    """Unpickled by an unpickler that calls what it is told, it makes a folder."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def zipped(data, path, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return path


def opcodes(*parts):
    """A pickle put together by hand."""
    return b"\x80\x02" + b"".join(parts) + b"."


def tensor(size=b"K\x02", stride=b"K\x01", offset=b"K\x00", count=b"K\x02"):
    """Opcodes of a tensor of one axis."""
    return b"".join(
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu",
            count,
            b"tQ",
            offset,
            size,
            b"\x85",
            stride,
            b"\x85\x89ccollections\nOrderedDict\n)RtR",
        ]
    )


def refused(path, words):
    with pytest.raises(InputError) as error:
        torch_files.read(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


STORAGE = {"data/0": np.zeros(2, "<f4").tobytes()}


def test_the_hand_made_pickle_is_a_tensor(tmp_path):
    path = zipped(opcodes(b"}X\x01\x00\x00\x00w", tensor(), b"s"), tmp_path / "a.pth", **STORAGE)
    np.testing.assert_array_equal(torch_files.read(path)["w"], [0, 0])


def test_a_list_of_tensors_names_none(tmp_path):
    path = zipped(opcodes(b"](", tensor(), b"e"), tmp_path / "a.pth", **STORAGE)
    refused(path, "holds no tensors by name: save a state_dict")


def test_nothing_that_a_pickle_names_is_called(tmp_path):
    made = tmp_path / "made"
    for number, call in enumerate((os.mkdir, os.system, eval, print, open)):
        argument = f"mkdir {made}" if call is os.system else str(made)
        data = pickle.dumps({"weight": Called(call, argument)}, protocol=2)
        refused(zipped(data, tmp_path / f"{number}.pth"), "asks to call")
    assert not made.exists()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tensor(size=b"K\x03"), id="more than its storage"),
        pytest.param(tensor(stride=b"J\x00\x00\x00\x7f"), id="far beyond"),
        pytest.param(tensor(stride=b"J\xff\xff\xff\xff"), id="before it"),
        pytest.param(tensor(offset=b"J\x00\x00\x00\x80"), id="a negative offset"),
        pytest.param(tensor(count=b"K\x05"), id="another size of storage"),
        pytest.param(tensor(stride=b"K\x00", size=b"J\x00\x00\x00\x7f"), id="repeated for ever"),
        pytest.param(tensor() + b"}X\x06\x00\x00\x00offsetJ\x00\x00\x00\x80sb", id="changed later"),
        pytest.param(
            b"ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00callK\x01sb", id="a name changed"
        ),
        pytest.param(b"ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypeK\x01sb", id="a type changed"),
    ],
)
def test_a_tensor_never_reaches_beyond_the_file(data, tmp_path):
    path = zipped(opcodes(b"}X\x01\x00\x00\x00w", data, b"s"), tmp_path / "a.pth", **STORAGE)
    refused(path, "damaged")


def test_dictionaries_within_themselves_end(tmp_path):
    knots = b"}q\x00" + b"".join(
        b"}q%cX\x01\x00\x00\x00ah%csX\x01\x00\x00\x00bh%cs" % (n, n - 1, n - 1)
        for n in range(1, 60)
    )
    refused(zipped(opcodes(knots), tmp_path / "a.pth"), "nested")


def test_files_cut_anywhere_are_refused(tmp_path):
    for name in ("small.pth", "small_older.pth"):
        whole = (SMALL / name).read_bytes()
        for end in range(0, len(whole) - 1, len(whole) // 23):
            path = tmp_path / name
            path.write_bytes(whole[:end])
            refused(path, "damaged")


def test_a_storage_that_is_compressed_is_no_storage_of_torch(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", opcodes(b"}X\x01\x00\x00\x00w", tensor(), b"s"))
        archive.writestr("archive/data/0", bytes(8))
    refused(path, "damaged")


def test_of_the_older_format_the_storages_must_be_there(tmp_path):
    path = tmp_path / "a.pth"
    stream = io.BytesIO(torch_files.MAGIC)
    stream.seek(0, io.SEEK_END)
    for value in (1001, {"little_endian": True}):
        stream.write(pickle.dumps(value, protocol=2))
    stream.write(pickle.dumps({}, protocol=2) + pickle.dumps(["0"], protocol=2))
    stream.write(struct.pack("<q", 2**40))
    path.write_bytes(stream.getvalue())
    refused(path, "damaged")
