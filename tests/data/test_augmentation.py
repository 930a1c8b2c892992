"""Augmentation against numpy, scipy, Pillow and colorsys: every operation alone, then all of them
together."""

import colorsys
import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageEnhance

from cnn_jax.configuration.schema import AugmentationConfig
from cnn_jax.data import augmentation
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compilation")

CROP = (24, 40)
PROBABILITIES = [
    field.name
    for field in dataclasses.fields(AugmentationConfig)
    if field.name.endswith("_probability")
]
NOTHING = AugmentationConfig(**dict.fromkeys(PROBABILITIES, 0.0))
COLOURS = [
    name
    for name in PROBABILITIES
    if name.startswith(("brightness", "contrast", "saturation", "hue", "blur", "noise"))
]
EVERYTHING = AugmentationConfig(**dict.fromkeys(PROBABILITIES, 1.0))
TURNED = AugmentationConfig(
    **(dict.fromkeys(PROBABILITIES, 0.0) | {"rotation_probability": 1.0, "rotation_degrees": 180.0})
)


def only(**fields):
    """The configuration that does nothing but what is named."""
    return dataclasses.replace(NOTHING, **fields)


def regions_of(image, mask, *, centre=None, extent=None, count=1):
    """The same region `count` times; with `centre`, the cell is that pixel alone, so that the
    crop's place is known."""
    rows, columns = mask.shape
    cell = (0, 0, rows, columns) if centre is None else (*centre, centre[0] + 1, centre[1] + 1)
    one = {
        "image": image,
        "mask": mask,
        "cell_px": np.int32(cell),
        "extent_px": np.int32(extent or (rows, columns)),
    }
    return {name: jnp.asarray(np.repeat(value[None], count, axis=0)) for name, value in one.items()}


def random_scene(rows=96, columns=128, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, columns, 3), np.uint8), rng.integers(
        0, classes, (rows, columns), np.uint8
    )


def ramp_scene(rows=96, columns=128):
    """Red tells the row and green the column: a crop of it shows where each of its pixels came
    from."""
    row, column = np.indices((rows, columns), np.uint8)
    return np.stack([row, column, np.zeros_like(row)], -1), np.zeros((rows, columns), np.uint8)


def source_of(images):
    """Rows and columns that pixels of `ramp_scene` came from."""
    return images[..., 0] * 255, images[..., 1] * 255


@functools.cache
def compiled(frozen, crop_px):
    config = AugmentationConfig(**dict(frozen))
    return jax.jit(lambda key, regions: augmentation.augment(key, regions, config, crop_px))


def augment(regions, config, seed=0, crop_px=CROP):
    run = compiled(tuple(dataclasses.asdict(config).items()), crop_px)
    images, labels = run(jax.random.key(seed), regions)
    assert (images.dtype, labels.dtype) == (jnp.float32, jnp.int32)
    assert images.shape == (*labels.shape, regions["image"].shape[-1])
    return np.asarray(images), np.asarray(labels)


def as_float(image):
    return image.astype(np.float32) * np.float32(1 / 255)


@pytest.mark.parametrize("crop_px", [(24, 40), (7, 9)])
def test_a_crop_alone_copies_the_source_bit_for_bit(crop_px):
    image, mask = random_scene()
    top, left = 31, 17
    centre = top + crop_px[0] // 2, left + crop_px[1] // 2
    images, labels = augment(regions_of(image, mask, centre=centre), NOTHING, crop_px=crop_px)
    window = np.s_[top : top + crop_px[0], left : left + crop_px[1]]
    np.testing.assert_array_equal(images[0], as_float(image[window]))
    np.testing.assert_array_equal(labels[0], mask[window])


def test_positions_are_uniform_in_the_cell_and_moved_inside_the_extent():
    image, mask = ramp_scene()
    regions = regions_of(image, mask, count=4000) | {
        "cell_px": jnp.tile(jnp.int32([30, 40, 34, 45]), (4000, 1))
    }
    images, labels = augment(regions, NOTHING, crop_px=(8, 8))
    rows, columns = source_of(images[:, 0, 0])
    places, counts = np.unique(
        np.round(np.stack([rows + 4, columns + 4])), axis=1, return_counts=True
    )
    assert set(map(tuple, places.T)) == {
        (row, column) for row in range(30, 34) for column in range(40, 45)
    }
    assert counts.min() > 140  # 200 expected; more than four standard deviations
    assert counts.max() < 260
    images, labels = augment(regions_of(image, mask, extent=(70, 90), count=64), NOTHING)
    rows, columns = source_of(images)
    assert rows.min() == columns.min() == 0
    assert (rows.max(), columns.max()) == (69, 89)
    assert (labels == 0).all()


@pytest.mark.parametrize(
    ("field", "axis"), [("flip_horizontal_probability", 1), ("flip_vertical_probability", 0)]
)
def test_flips_are_numpys(field, axis):
    image, mask = random_scene()
    plain = augment(regions_of(image, mask, centre=(40, 60)), NOTHING)
    flipped = augment(regions_of(image, mask, centre=(40, 60)), only(**{field: 1.0}))
    for before, after in zip(plain, flipped, strict=True):
        np.testing.assert_array_equal(after[0], np.flip(before[0], axis))


@pytest.mark.parametrize("crop_px", [(24, 40), (25, 40)])
def test_quarter_turns_are_numpys_and_equally_likely(crop_px):
    image, mask = random_scene()
    images, labels = augment(
        regions_of(image, mask, centre=(48, 64), count=300),
        only(quarter_turn_probability=1.0),
        crop_px=crop_px,
    )
    height, width = crop_px
    seen = [0, 0, 0]
    for turned, turned_labels in zip(images, labels, strict=True):
        for turn in (1, 2, 3):
            rows, columns = (height, width) if turn == 2 else (width, height)
            window = np.s_[
                48 - rows // 2 : 48 - rows // 2 + rows,
                64 - columns // 2 : 64 - columns // 2 + columns,
            ]
            if np.array_equal(turned, as_float(np.rot90(image[window], turn))):
                np.testing.assert_array_equal(turned_labels, np.rot90(mask[window], turn))
                seen[turn - 1] += 1
    assert sum(seen) == 300
    assert min(seen) > 65


@pytest.mark.parametrize("extent", [None, (70, 100)])
@pytest.mark.parametrize("config", [TURNED, EVERYTHING], ids=["rotation", "all"])
def test_the_warp_is_scipys(config, extent):
    """The matrix is read off a ramp warped with the same key; scipy applies it to a random
    scene."""
    geometry = {
        name: getattr(config, name)
        for name in PROBABILITIES
        if name.startswith(("flip", "quarter", "rotation", "scale"))
    }
    config = only(**geometry, rotation_degrees=180.0)
    image, mask = random_scene()
    rows, columns = extent or mask.shape
    images, labels = augment(
        regions_of(image, mask, extent=extent, centre=(50, 64), count=6), config
    )
    ramps, _ = augment(regions_of(*ramp_scene(), extent=extent, centre=(50, 64), count=6), config)
    output = np.indices(CROP).reshape(2, -1).T
    for warped, labelled, ramp in zip(images, labels, ramps, strict=True):
        source = np.stack(source_of(ramp), -1).reshape(-1, 2).astype(np.float64)
        interior = ((source > 0.01) & (source < np.array([rows, columns]) - 1.01)).all(1)
        design = np.concatenate([output, np.ones((len(output), 1))], 1)
        affine, *_ = np.linalg.lstsq(design[interior], source[interior], rcond=None)
        assert np.abs(design[interior] @ affine - source[interior]).max() < 1e-3
        matrix, offset = affine[:2].T, affine[2]
        expected = np.stack(
            [
                scipy.ndimage.affine_transform(
                    image[:rows, :columns, channel].astype(np.float64),
                    matrix,
                    offset,
                    CROP,
                    order=1,
                    mode="nearest",
                )
                for channel in range(3)
            ],
            -1,
        )
        assert np.abs(warped - expected / 255).max() < 2e-3
        # Nearest neighbour and the uncovered area, away from ties.
        place = (design @ affine).reshape(*CROP, 2)
        clear = (np.abs(place - np.floor(place) - 0.5) > 1e-3).all(-1)
        nearest = np.round(place).astype(int)
        covered = ((nearest >= 0) & (nearest < [rows, columns])).all(-1)
        truth = np.where(
            covered,
            mask[tuple(np.clip(nearest, 0, [rows - 1, columns - 1]).transpose(2, 0, 1))],
            IGNORED,
        )
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(labelled[clear], truth[clear])


def test_a_rotation_near_the_border_uncovers_something():
    image, mask = random_scene()
    config = only(rotation_probability=1.0, rotation_degrees=45.0)
    _, labels = augment(regions_of(image, mask, extent=CROP, centre=(12, 20), count=8), config)
    assert (labels == IGNORED).any(axis=(1, 2)).all()
    assert (labels[:, 12, 20] != IGNORED).all()


def test_the_angle_is_counter_clockwise_both_ways_and_bounded():
    config = only(rotation_probability=1.0, rotation_degrees=30.0)
    images, _ = augment(regions_of(*ramp_scene(), centre=(48, 64), count=200), config)
    rows, columns = source_of(images)
    step = rows[:, 12, 25] - rows[:, 12, 15], columns[:, 12, 25] - columns[:, 12, 15]
    angle = np.degrees(
        np.arctan2(-step[0], step[1])
    )  # the source row that the crop's row shows falls as the angle grows
    assert np.abs(angle).max() < 30
    assert angle.min() < -25
    assert angle.max() > 25
    np.testing.assert_allclose(np.hypot(*step), 10, rtol=1e-3)


def test_scale_two_doubles_a_square():
    image, mask = np.zeros((96, 128, 3), np.uint8), np.zeros((96, 128), np.uint8)
    image[44:52, 60:68], mask[44:52, 60:68] = 255, 1
    images, labels = augment(
        regions_of(image, mask, centre=(48, 64)),
        only(scale_probability=1.0, scale_range=(2.0, 2.0)),
    )
    expected = np.zeros(CROP, int)
    expected[4:20, 12:28] = 1
    np.testing.assert_array_equal(labels[0], expected)
    np.testing.assert_array_equal(images[0, ..., 0] > 0.5, expected)


def test_zoom_is_log_uniform():
    config = only(scale_probability=1.0, scale_range=(0.5, 2.0))
    images, _ = augment(regions_of(*ramp_scene(), centre=(48, 64), count=800), config)
    rows, _ = source_of(images)
    scale = 10 / (rows[:, 17, 20] - rows[:, 7, 20])
    assert 0.499 < scale.min() < 0.52
    assert 1.95 < scale.max() < 2.01
    assert abs(np.mean(scale < 1) - 0.5) < 0.06


def test_a_scene_smaller_than_the_crop_is_all_there_and_the_rest_is_ignored():
    image, mask = random_scene()
    regions = regions_of(image, mask, extent=(10, 20), count=8) | {
        "cell_px": jnp.tile(jnp.int32([0, 0, 10, 20]), (8, 1))
    }
    images, labels = augment(regions, NOTHING)
    places = set()
    for cropped, labelled in zip(images, labels, strict=True):
        rows, columns = np.nonzero(labelled != IGNORED)
        top, left = rows.min(), columns.min()
        places.add((top, left))
        np.testing.assert_array_equal(labelled[top : top + 10, left : left + 20], mask[:10, :20])
        assert (labelled != IGNORED).sum() == 200
        padding = ((top, CROP[0] - 10 - top), (left, CROP[1] - 20 - left), (0, 0))
        np.testing.assert_array_equal(
            cropped, as_float(np.pad(image[:10, :20], padding, mode="edge"))
        )
    assert len(places) > 4  # anywhere in the crop, not always in the same corner


def test_masks_keep_their_labels_and_images_their_range():
    image, _ = random_scene()
    mask = np.random.default_rng(1).choice(
        np.uint8([0, 3, 200]), (96, 128)
    )  # in between lie labels that must not appear
    images, labels = augment(regions_of(image, mask, count=8), EVERYTHING)
    assert set(np.unique(labels)) == {0, 3, 200, IGNORED}
    assert 0 <= images.min() < images.max() <= 1


def test_image_and_mask_move_together():
    """The image shows its own mask: half-way between two values is where the mask changes, to a
    fraction of a pixel."""
    blocks = np.random.default_rng(2).integers(0, 2, (12, 16), np.uint8)
    mask = np.kron(blocks, np.ones((8, 8), np.uint8))
    image = np.repeat(mask[..., None] * np.uint8(255), 3, -1)
    config = dataclasses.replace(EVERYTHING, **dict.fromkeys(COLOURS, 0.0))
    images, labels = augment(regions_of(image, mask, centre=(48, 64), count=16), config)
    counted = labels != IGNORED
    # Bilinear and nearest agree everywhere but at corners, where three of the four neighbours may
    # outvote the nearest.
    agreement = (images[..., 0] > 0.5) == labels
    assert agreement[counted].mean() > 0.99
    flat = (images[..., 0] == 0) | (images[..., 0] == 1)
    assert agreement[counted & flat].all()


def test_brightness_adds_one_amount():
    image = np.random.default_rng(0).integers(80, 170, (96, 128, 3), np.uint8)
    regions = regions_of(image, np.zeros((96, 128), np.uint8), centre=(48, 64), count=200)
    before, _ = augment(regions, NOTHING)
    after, _ = augment(regions, only(brightness_probability=1.0, brightness_delta=0.2))
    delta = (after - before).reshape(200, -1)
    assert np.ptp(delta, axis=1).max() < 1e-6
    assert -0.2 <= delta.min() < -0.18
    assert 0.18 < delta.max() <= 0.2


def test_contrast_stretches_about_each_channels_mean():
    image = np.random.default_rng(0).integers(80, 170, (96, 128, 3), np.uint8)
    regions = regions_of(image, np.zeros((96, 128), np.uint8), centre=(48, 64))
    before, _ = augment(regions, NOTHING)
    after, _ = augment(regions, only(contrast_probability=1.0, contrast_range=(1.25, 1.25)))
    mean = before.astype(np.float64).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(after, mean + 1.25 * (before - mean), atol=1e-6)


LUMA = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.6, 0.999, 1.3, 2.5])
def test_saturation_moves_from_or_to_grey(factor):
    """Formula, Pillow's own (to the rounding of its grey), and what matters: what fades stays as
    bright as it was."""
    image, mask = random_scene()
    image[48, 64], image[49, 64] = (255, 0, 0), (0, 0, 255)
    before, _ = augment(regions_of(image, mask, centre=(48, 64)), NOTHING)
    after, _ = augment(
        regions_of(image, mask, centre=(48, 64)),
        only(saturation_probability=1.0, saturation_range=(factor, factor)),
    )
    grey = (before @ LUMA)[..., None]
    np.testing.assert_allclose(after, np.clip(grey + factor * (before - grey), 0, 1), atol=1e-6)
    if factor < 1:
        np.testing.assert_allclose(after @ LUMA, before @ LUMA, atol=1e-6)
    for one, changed in zip(before, after, strict=True):
        picture = Image.fromarray((255 * one).round().astype(np.uint8))
        enhanced = np.asarray(ImageEnhance.Color(picture).enhance(factor)) / 255
        np.testing.assert_allclose(changed, enhanced, atol=(1 + abs(1 - factor)) / 255)


def test_hue_is_colorsys():
    image, mask = random_scene()
    image[48, 64] = 200, 40, 40  # read the turn off this pixel, the crop's centre
    before, _ = augment(regions_of(image, mask, centre=(48, 64)), NOTHING)
    after, _ = augment(
        regions_of(image, mask, centre=(48, 64)), only(hue_probability=1.0, hue_delta=0.1)
    )
    turn = (
        colorsys.rgb_to_hsv(*map(float, after[0, 12, 20]))[0]
        - colorsys.rgb_to_hsv(*map(float, before[0, 12, 20]))[0]
    )
    turn = (turn + 0.5) % 1 - 0.5
    assert 0 < abs(turn) <= 0.1
    for rgb, changed in zip(before.reshape(-1, 3), after.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, rgb))
        np.testing.assert_allclose(
            changed, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=2e-5
        )


def test_blur_is_scipys():
    image, mask = random_scene()
    before, _ = augment(regions_of(image, mask, centre=(48, 64)), NOTHING)
    after, _ = augment(
        regions_of(image, mask, centre=(48, 64)),
        only(blur_probability=1.0, blur_sigma_px=(1.2, 1.2)),
    )
    expected = scipy.ndimage.gaussian_filter(
        before[0].astype(np.float64), (1.2, 1.2, 0), mode="nearest", radius=(4, 4, 0)
    )
    np.testing.assert_allclose(after[0], expected, atol=1e-6)


def test_colours_that_are_not_drawn_change_nothing():
    image, mask = random_scene()
    regions = regions_of(image, mask, centre=(48, 64), count=4)
    before, _ = augment(regions, NOTHING)
    after, _ = augment(regions, only(**dict.fromkeys(COLOURS, 1e-6)))
    np.testing.assert_array_equal(after, before)


def test_noise_is_gaussian_and_differs_between_examples_and_channels():
    image = np.full((96, 128, 3), 128, np.uint8)
    regions = regions_of(image, np.zeros((96, 128), np.uint8), count=8)
    after, _ = augment(regions, only(noise_probability=1.0, noise_std=(0.05, 0.05)))
    noise = (after - np.float32(128 / 255)).transpose(0, 3, 1, 2).reshape(24, -1)
    np.testing.assert_allclose(noise.std(1), 0.05, rtol=0.1)
    assert abs(noise.mean()) < 0.002
    correlation = np.corrcoef(noise) - np.eye(24)
    assert np.abs(correlation).max() < 0.15


@pytest.mark.parametrize("name", ["quarter_turn_probability", *COLOURS])
def test_an_operation_happens_as_often_as_asked(name):
    image, mask = random_scene(24, 24)
    regions = regions_of(image, mask, centre=(12, 12), count=1000)
    before, _ = augment(regions, NOTHING, crop_px=(8, 8))
    after, _ = augment(regions, only(**{name: 0.3}), crop_px=(8, 8))
    changed = (before != after).any(axis=(1, 2, 3)).mean()
    assert abs(changed - 0.3) < 0.06


def test_flips_rotation_and_zoom_happen_as_often_as_asked_and_independently():
    names = ("flip_horizontal", "flip_vertical", "rotation", "scale")
    config = only(**{f"{name}_probability": 0.3 for name in names})
    rows, columns = source_of(
        augment(regions_of(*ramp_scene(), centre=(48, 64), count=1000), config, crop_px=(8, 8))[0]
    )
    down, across = (
        np.stack([place[:, i, j] - place[:, 2, 2] for place in (rows, columns)])
        for i, j in ((5, 2), (2, 5))
    )
    straight = np.abs(down[1]) < 1e-4
    unscaled = np.abs(np.hypot(*down) - 3) < 1e-4
    happened = np.stack([across[1] < 0, down[0] < 0, ~straight, ~unscaled])
    np.testing.assert_allclose(happened.mean(1), 0.3, atol=0.06)
    np.testing.assert_allclose(np.corrcoef(happened), np.eye(4), atol=0.13)


def test_operations_are_drawn_independently_of_each_other():
    image, mask = random_scene()
    regions = regions_of(image, mask, count=8)
    _, plain = augment(regions, only(flip_horizontal_probability=0.5))
    _, coloured = augment(
        regions,
        only(
            flip_horizontal_probability=0.5,
            flip_vertical_probability=1e-6,
            brightness_probability=0.5,
        ),
    )
    np.testing.assert_array_equal(plain, coloured)


def test_the_same_key_gives_the_same_bits_wherever_the_example_lies():
    image, mask = random_scene()
    regions = regions_of(image, mask, count=8)
    images, labels = augment(regions, EVERYTHING)
    again, labels_again = augment(regions, EVERYTHING)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert len(np.unique(images.reshape(8, -1), axis=0)) == 8
    other, _ = augment(regions, EVERYTHING, seed=1)
    assert not np.array_equal(images, other)
    keys = jax.random.split(jax.random.key(0), 8)[::-1]
    images, labels = augment(regions, TURNED)
    backwards = jax.jit(
        lambda keys, regions: augmentation.augment_examples(keys, regions, TURNED, CROP)
    )
    moved, moved_labels = backwards(keys, regions)
    np.testing.assert_array_equal(moved[::-1], images)
    np.testing.assert_array_equal(moved_labels[::-1], labels)


EIGHT_DEVICES = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from cnn_jax.configuration.schema import AugmentationConfig
from cnn_jax.data.augmentation import augment
config = AugmentationConfig(rotation_probability=1.0, saturation_probability=0.0)
rng = np.random.default_rng(0)
regions = {
    "image": rng.integers(0, 256, (8, 64, 80, 3), np.uint8),
    "mask": rng.integers(0, 5, (8, 64, 80)).astype(np.uint8),
    "cell_px": np.tile(np.int32([20, 20, 44, 60]), (8, 1)),
    "extent_px": np.tile(np.int32([64, 70]), (8, 1)),
}
run = jax.jit(lambda key, regions: augment(key, regions, config, (16, 24)))
key = jax.random.key(0)
one = run(key, jax.device_put(regions, jax.devices()[0]))
mesh = Mesh(np.array(jax.devices()), ("data",))
batch = NamedSharding(mesh, P("data"))
run = jax.jit(run, in_shardings=(NamedSharding(mesh, P()), batch), out_shardings=batch)
program = run.lower(key, regions).compile().as_text()
assert "all-gather(" not in program, "examples must not travel between devices"
eight = run(key, jax.device_put(regions, batch))
assert len(eight[0].sharding.device_set) == 8
np.testing.assert_allclose(one[0], eight[0], atol=1e-6)
np.testing.assert_array_equal(one[1], eight[1])
"""


@pytest.mark.long
def test_eight_devices_give_what_one_gives():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", EIGHT_DEVICES],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_switched_off_operation_is_not_compiled():
    regions = regions_of(*random_scene())
    key = jax.random.key(0)

    def operations(config):
        return str(
            jax.make_jaxpr(lambda key, regions: augmentation.augment(key, regions, config, CROP))(
                key, regions
            )
        ).count("=")

    least = operations(NOTHING)
    for name in PROBABILITIES:
        assert operations(only(**{name: 0.5})) > least, name


def test_a_region_holds_the_largest_window_at_every_place_in_the_cell():
    assert augmentation.region_px((144, 256), NOTHING) == (288, 512)
    assert augmentation.region_px(
        (144, 256), only(scale_probability=1.0, scale_range=(0.75, 1.5))
    ) == (336, 598)
    assert augmentation.region_px(
        (144, 256), only(scale_probability=1.0, scale_range=(1.5, 2.0))
    ) == (288, 512)
    assert augmentation.region_px((144, 256), only(quarter_turn_probability=0.5)) == (400, 512)

    config = only(scale_probability=1.0, scale_range=(0.75, 0.75), quarter_turn_probability=0.5)
    rows, columns = augmentation.region_px(CROP, config)
    top, left = (rows - CROP[0]) // 2, (columns - CROP[1]) // 2
    regions = regions_of(*ramp_scene(rows, columns), count=400)
    regions["cell_px"] = jnp.tile(jnp.int32([top, left, top + CROP[0], left + CROP[1]]), (400, 1))
    images, labels = augment(regions, config)
    assert (labels != IGNORED).all()
    row, column = (
        place[:, 11:13, 19:21].mean((1, 2)) + 0.5 for place in source_of(images)
    )  # the crop's centre
    assert (
        len(np.unique(np.floor(row + 0.01))) == CROP[0]
    )  # not one place of the cell is clamped away
    assert len(np.unique(np.floor(column + 0.01))) == CROP[1]


def test_normalize():
    images = np.random.default_rng(0).random((2, 3, 4, 3), np.float32)
    normalized = augmentation.normalize(images, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert normalized.dtype == jnp.float32
    np.testing.assert_allclose(
        normalized, (images - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, bad) for name in PROBABILITIES for bad in (-0.1, 1.5)),
        ("hue_probability", float("nan")),
        ("rotation_degrees", -1.0),
        ("rotation_degrees", 200.0),
        ("brightness_delta", -0.1),
        ("hue_delta", 0.7),
        ("scale_range", (0.0, 1.0)),
        ("scale_range", (1.5, 0.75)),
        ("scale_range", (1.0, float("inf"))),
        ("contrast_range", (-0.5, 1.0)),
        ("saturation_range", (1.3, 0.7)),
        ("blur_sigma_px", (-1.0, 1.0)),
        ("noise_std", (0.1, 0.0)),
    ],
)
def test_check_names_the_field(field, value):
    augmentation.check(AugmentationConfig())
    with pytest.raises(InputError, match=rf"^augmentation\.{field} is .*: give .*\.$"):
        augmentation.check(dataclasses.replace(AugmentationConfig(), **{field: value}))


# ---- pixels of other kinds than red, green and blue of 8 bits

KINDS = {
    "five channels of 8 bits": ((0, 256), np.uint8, 5),
    "grey": ((0, 256), np.uint8, 1),
    "16 bits": ((0, 65536), np.uint16, 4),
    "signed": ((-32768, 32768), np.int16, 2),
    "32 bits": ((-(2**31), 2**31), np.int32, 1),
    "fractions": ((-500, 4000), np.float32, 3),
}


def scene_of(kind):
    (low, high), dtype, channels = KINDS[kind]
    _, mask = random_scene()
    values = np.random.default_rng(1).uniform(low, high, (*mask.shape, channels))
    image = np.floor(values).astype(dtype) if dtype != np.float32 else values.astype(dtype)
    return image, mask, float(np.iinfo(dtype).max) if dtype != np.float32 else 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_crops_of_any_kind_are_copies_and_flips_of_them(kind):
    image, mask, greatest = scene_of(kind)
    regions = regions_of(image, mask, centre=(48, 64))
    expected = image[36:60, 44:84] / np.float32(greatest)
    images, labels = augment(regions, NOTHING)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(labels[0], mask[36:60, 44:84])
    images, _ = augment(regions, only(flip_horizontal_probability=1.0))
    np.testing.assert_allclose(images[0], expected[:, ::-1], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_warp_of_any_kind_is_channel_by_channel_that_of_another(kind):
    """Of each channel as of a float image that holds it alone, but for coordinates: of 100 px they
    are rounded to 8e-6 px, between neighbours that differ by 2."""
    image, mask, greatest = scene_of(kind)
    config = only(rotation_probability=1.0, rotation_degrees=40.0, scale_probability=1.0)
    whole, labels = augment(regions_of(image, mask), config)
    for channel in range(image.shape[-1]):
        alone = (image[..., [channel]].astype(np.float64) / greatest).astype(np.float32)
        one, same = augment(regions_of(alone, mask), config)
        scale = max(1.0, np.abs(alone).max())
        np.testing.assert_allclose(whole[..., channel], one[..., 0], atol=3e-5 * scale)
        np.testing.assert_array_equal(labels, same)


def test_colours_of_any_kind():
    image, mask, _ = scene_of("fractions")
    regions = regions_of(image, mask, centre=(48, 64), count=3)
    plain, _ = augment(regions, NOTHING)
    brighter, _ = augment(regions, only(brightness_probability=1.0, brightness_delta=1.0))
    change = brighter - plain
    assert np.abs(change).max() > 0.1
    assert np.ptp(change, axis=(1, 2, 3)).max() < 1e-3
    assert plain.max() > 3000  # floating-point numbers are clipped nowhere
    image, mask, _ = scene_of("five channels of 8 bits")
    noisy, _ = augment(regions_of(image, mask), only(noise_probability=1.0, noise_std=(0.1, 0.1)))
    assert noisy.shape[-1] == 5
    assert noisy.min() >= 0
    assert noisy.max() <= 1


def test_colours_that_images_have_not_are_refused():
    config = only(saturation_probability=0.5)
    augmentation.check_channels(config, 3, "uint8", "set")
    augmentation.check_channels(config, 3, "uint16", "set")
    augmentation.check_channels(NOTHING, 4, "float32", "set")
    for channels, dtype, said in ((1, "uint8", "is grey"), (4, "uint16", "4 channels of uint16")):
        with pytest.raises(InputError, match=rf"augmentation\.saturation_probability.*{said}"):
            augmentation.check_channels(config, channels, dtype, "set")
    with pytest.raises(InputError, match="3 channels of float32: set both to 0"):
        augmentation.check_channels(only(hue_probability=1.0), 3, "float32", "set")


def test_the_greatest_value_is_what_a_description_says():
    image = np.full((96, 128, 2), 1000, np.uint16)
    regions = regions_of(image, np.zeros((96, 128), np.uint8))
    images, _ = augmentation.augment(jax.random.key(0), regions, NOTHING, CROP, 2000.0)
    np.testing.assert_array_equal(images, np.float32(0.5))
    np.testing.assert_array_equal(augmentation.scaled(jnp.asarray(image), 2000.0), 0.5)
    np.testing.assert_allclose(augmentation.scaled(jnp.asarray(image)), 1000 / 65535)
