"""A scene of 400 megapixels through the whole command, in bounded memory."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import resizing
from cnn_jax.evaluation import boundaries
from tests import running as commands

SIDE_PX = 20_000
MOST_BYTES = 4 * 2**30
"""Peak resident size of the command, on one device, where the largest scene has 400 megapixels:
four bytes a pixel of it are held, two more while its prediction is looked at, and 3.2 GB in all
while it is decoded; the rest is JAX."""

SMALLEST = (
    "--config=folders",
    "--model.base_width=1",
    "--model.depth=0",
    "--data.crop_px",
    "64",
    "64",
    "--training.steps=2",
    "--training.batch_size=2",
    "--optimizer.warmup_steps=1",
    "--evaluation.window_px",
    "512",
    "512",
    "--evaluation.context_px=8",
)


def write_scene(folder, name, side_px):
    """A pattern that repeats, and a mask of two classes in blocks of another size."""
    tile = np.random.default_rng(0).integers(0, 8, (256, 256, 3), np.uint8) * 32
    times = -(-side_px // 256)
    row, column = np.ogrid[:side_px, :side_px]
    mask = (((row // 97) + (column // 131)) % 2).astype(np.uint8)
    for kind, array in (
        ("images", np.tile(tile, (times, times, 1))[:side_px, :side_px]),
        ("masks", mask),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.png", compress_level=1)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_peak_memory(tmp_path):
    pid = (
        os.fork()
    )  # what is written with takes more memory than what is tested, and must not be its parent's
    if not pid:
        for number in range(4):
            write_scene(tmp_path / "data" / "train", number, 256)
        write_scene(tmp_path / "data" / "test", "large", SIDE_PX)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    data = f"--data.directory={tmp_path / 'data'}"
    optimized = commands.environment(JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    process = commands.start(
        *SMALLEST, data, "--workdir", tmp_path / "run", stdout=None, stderr=None, env=optimized
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    peak_bytes = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak {peak_bytes / 2**30:.2f} GiB, {used.ru_utime + used.ru_stime:.0f} s of CPU")
    assert peak_bytes < MOST_BYTES
    summary = commands.summary(tmp_path / "run")
    assert summary["test/pixels"] == np.sum(summary["test/confusion"]) == SIDE_PX**2
    assert (tmp_path / "run" / "figures" / "gallery.png").is_file()


def test_strips_count_and_show_what_the_whole_does(monkeypatch):
    """Of a size that no strip divides, and boundaries that lie between strips."""
    rng = np.random.default_rng(0)
    truth, prediction = (
        np.kron(rng.integers(0, 4, (23, 31)), np.ones((5, 4), int)).astype(np.uint8)
        for _ in range(2)
    )
    truth[40:50, 20:60] = 255
    image = rng.integers(0, 256, (*truth.shape, 3), np.uint8)
    whole = boundaries.boundary_counts(truth, prediction, 4, 3)
    pictures = [resizing.reduced(image, 50), resizing.reduced(truth, 50)]
    monkeypatch.setattr(boundaries, "STRIP_PX", 700)
    monkeypatch.setattr(resizing, "AT_ONCE_PX", 700)
    np.testing.assert_array_equal(boundaries.boundary_counts(truth, prediction, 4, 3), whole)
    assert (
        np.abs(resizing.reduced(image, 50).astype(int) - pictures[0]).max() <= 1
    )  # of the box filter's rounding
    np.testing.assert_array_equal(resizing.reduced(truth, 50), pictures[1])
