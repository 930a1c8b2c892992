"""Sets on the devices: the same examples, the same crops and the same run, bit for bit, as read
from the host."""

import signal

import jax
import numpy as np
import pytest

from cnn_jax.configuration.schema import AugmentationConfig
from cnn_jax.data import resident
from cnn_jax.data.augmentation import augment_examples
from cnn_jax.data.images import ImageSource, LabelledImages
from cnn_jax.data.pipeline import DecodedScenes, RegionSource, training_batches
from cnn_jax.data.scenes import Scene
from cnn_jax.errors import InputError
from cnn_jax.records.run_directory import RunDirectory
from tests.running import STEPS, TINY, assert_refused, assert_same_run, saved_steps, when


def region_source():
    """Scenes of several sizes, one of them smaller than a region."""
    rng = np.random.default_rng(0)
    held = [
        (rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 5, size).astype(np.uint8))
        for size in ((40, 61), (30, 33), (64, 50))
    ]
    scenes = [Scene(str(i), *pair[1].shape, lambda pair=pair: pair) for i, pair in enumerate(held)]
    return RegionSource(DecodedScenes(scenes, 1e9), (16, 24), (36, 44))


def test_crops_are_those_of_regions_read_from_the_host(quick_compilation):
    source = region_source()
    config = AugmentationConfig(
        brightness_probability=0.0, contrast_probability=0.0, saturation_probability=0.0
    )
    ours = training_batches(resident.Numbers(len(source)), seed=4, batch_size=8)
    theirs = training_batches(source, seed=4, batch_size=8)
    augment = jax.jit(lambda keys, regions: augment_examples(keys, regions, config, (16, 24)))
    held = jax.device_put(resident.scenes(source, 1.0))
    assert held["image"].shape == (40 * 61 + 30 * 33 + 64 * 50, 3)
    assert held["mask"].shape == (40 * 61 + 30 * 33 + 64 * 50,)
    seen = set()
    for n in (0, 1, 2, 10**6):
        np.testing.assert_array_equal(ours[n]["position"], theirs[n]["position"])
        seen |= set(source.scene[ours[n]["number"]].tolist())
        keys = jax.random.split(jax.random.key(n), 8)
        expected = augment(keys, theirs[n])
        for one, other in zip(
            augment(keys, resident.regions({**ours[n], **held})), expected, strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert seen == {0, 1, 2}


class Bytes:
    """Stored images of which example i is the byte i, its label 100 + i."""

    def read(self, indices):
        return [(bytes([index]), 100 + index) for index in indices]


def labelled():
    return LabelledImages(
        Bytes(), np.arange(50), lambda data: np.full((4, 3, 1), data[0], np.uint8), (4, 3, 1), 50
    )


def test_images_are_those_read_from_the_host():
    ours = training_batches(resident.Numbers(50), seed=4, batch_size=8)
    theirs = training_batches(ImageSource(labelled()), seed=4, batch_size=8)
    held = jax.device_put(resident.images(labelled(), 1.0))
    for n in (0, 7):
        found = resident.examples({**ours[n], **held})
        assert found.keys() == {"image", "label"}
        for key, values in found.items():
            assert values.dtype == theirs[n][key].dtype
            np.testing.assert_array_equal(values, theirs[n][key])


def test_what_does_not_fit_is_refused_with_its_size():
    resident.images(labelled(), 600 / 2**30)
    with pytest.raises(
        InputError, match=r"data\.on_device .* 600 bytes, .* data\.memory_budget_gib="
    ):
        resident.images(labelled(), 599 / 2**30)
    size = 4 * (40 * 61 + 30 * 33 + 64 * 50)
    resident.scenes(region_source(), size / 2**30)
    with pytest.raises(InputError, match=rf"{size:,} bytes"):
        resident.scenes(region_source(), (size - 1) / 2**30)


def test_places_beyond_int32_are_refused(monkeypatch):
    monkeypatch.setattr(resident, "MOST_PX", 40 * 61 + 30 * 33 + 64 * 50)
    with pytest.raises(InputError, match=r"fewer than 6,630 pixels, not 6,630"):
        resident.scenes(region_source(), 1.0)


@pytest.mark.long
def test_a_run_begun_with_scenes_on_the_device_and_ended_with_scenes_on_the_host(
    tmp_path, optimized_command, monkeypatch, few_pictures
):
    """Compiled as for users: where a crop's pixels come from is another program, and only then its
    arithmetic is the same bit for bit."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        when(patch, RunDirectory, "log", 4, signal.SIGTERM)
        assert optimized_command(*TINY, "--data.on_device", "--workdir", workdir).code == 143
    assert 0 < saved_steps(workdir)[-1] < STEPS
    assert optimized_command(*TINY, "--workdir", workdir).code == 0
    assert optimized_command(*TINY, "--workdir", tmp_path / "host").code == 0
    assert_same_run(workdir, tmp_path / "host")


def test_pmap_is_refused(tmp_path, command):
    refused = command(
        *TINY,
        "--data.on_device",
        "--training.parallelism=pmap",
        "--workdir",
        tmp_path / "run",
    )
    assert_refused(refused, "data.on_device", "training.parallelism='jit'")
