"""Random crops and colours, made on the device: one affine warp and a few colour operations for
image and mask together.

A *region* of a scene is large enough for any crop centred in the region's *cell*; the device
chooses the crop, and the host, which can make the same choice beforehand (`Windows`), reads no more
of the region than that. Flips, turns, rotation and zoom are composed into one matrix, so that each
image is resampled once: bilinearly the image, by nearest neighbour the mask. A crop that is only
moved, flipped or turned by right angles is a copy of its source, bit for bit.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.configuration.schema import AugmentationConfig
from cnn_jax.data.pipeline import DecodedScenes, RegionSource
from cnn_jax.data.rasters import greatest_of
from cnn_jax.data.scenes import nothing_of
from cnn_jax.errors import InputError

# One key each, whether used or not: switching one operation on changes none of the others' draws.
_DRAWS = (
    "position",
    "flip_horizontal",
    "flip_vertical",
    "quarter_turn",
    "rotation",
    "scale",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "blur",
    "noise",
    "noise_values",
)

_LEAST_SIGMA_PX = 0.01  # a Gaussian this narrow is one pixel, exactly; zero would divide by zero


def check(config: AugmentationConfig) -> None:
    """Raises `InputError`, naming the field, where `config` asks for something that can't be
    done."""
    for field in dataclasses.fields(config):
        if field.name.endswith("_probability"):
            _check_amount(config, field.name, 0.0, 1.0)
    _check_amount(config, "rotation_degrees", 0.0, 180.0)
    _check_amount(config, "brightness_delta", 0.0, 1.0)
    _check_amount(config, "hue_delta", 0.0, 0.5)
    for name in ("scale_range", "contrast_range", "saturation_range", "blur_sigma_px", "noise_std"):
        low, high = getattr(config, name)
        if (
            not (math.isfinite(low) and math.isfinite(high))
            or low < 0
            or (name == "scale_range" and low == 0)
        ):
            bound = "above 0" if name == "scale_range" else "0 or more"
            raise InputError(
                f"augmentation.{name} is ({low}, {high}): give two finite numbers, both {bound}."
            )
        if low > high:
            raise InputError(
                f"augmentation.{name} is ({low}, {high}): give the lower number first, ({high},"
                f" {low})."
            )


def check_channels(config: AugmentationConfig, channels: int, dtype: str, source: str) -> None:
    """Raises `InputError` where `config` changes colours that images haven't."""
    if not (config.saturation_probability or config.hue_probability):
        return
    if channels != 3 or np.dtype(dtype).kind != "u":
        held = "is grey" if channels == 1 else f"has {channels} channels of {dtype}"
        raise InputError(
            "augmentation.saturation_probability and augmentation.hue_probability need red, green"
            f" and blue, and {source} {held}: set both to 0."
        )


def _check_amount(config, name, low, high):
    value = getattr(config, name)
    if not low <= value <= high:  # written so that NaN fails too
        raise InputError(f"augmentation.{name} is {value}: give a number from {low:g} to {high:g}.")


def region_px(crop_px: tuple[int, int], config: AugmentationConfig) -> tuple[int, int]:
    """Height and width of the regions to cut, for crops of `crop_px` (height, width) centred in a
    cell of that same size.

    Along each axis, the largest source window (the crop at the smallest zoom) plus the cell.
    Quarter turns put the crop's longer side along either axis. What an any-angle rotation sees
    beyond that is not provided for: it becomes `IGNORED`.
    """
    window = _window_px(crop_px, config)
    return math.ceil(window[0] + crop_px[0]), math.ceil(window[1] + crop_px[1])


def _window_px(crop_px, config):
    """Height and width of the largest source window of a crop, any-angle rotation left out."""
    smallest_scale = min(1.0, config.scale_range[0]) if config.scale_probability else 1.0
    height, width = (max(crop_px), max(crop_px)) if config.quarter_turn_probability else crop_px
    return height / smallest_scale, width / smallest_scale


def training_regions(scenes: DecodedScenes, config: Any) -> RegionSource:
    """The regions that a run's training crops are cut from, no larger than the largest scene.

    Args:
        scenes: of the train split.
        config: of the run.
    """
    crop_px, augmentation = config.data.crop_px, config.augmentation
    wanted, largest = region_px(crop_px, augmentation), scenes.largest_px
    try:
        windows = Windows(config.seed, crop_px, augmentation)
    except RuntimeError:  # without a CPU device regions are read whole
        windows = None
    size_px = min(wanted[0], largest[0]), min(wanted[1], largest[1])
    return RegionSource(scenes, crop_px, size_px, windows)


def example_keys(seed: int | jax.Array, positions: jax.Array) -> jax.Array:
    """The keys [batch] of the examples at `positions` uint32 [batch] in the stream of a run with
    this seed: the same on every device, by JAX's own generator, whichever JAX_DEFAULT_PRNG_IMPL
    names."""
    key, _ = jax.random.split(
        jax.random.key(seed, impl="threefry2x32")
    )  # the other half is dropout's
    return jax.vmap(functools.partial(jax.random.fold_in, key))(positions)


class Windows:
    """What the crops of a run will see of their regions: the host draws beforehand what the device
    will draw from `example_keys` of the same seed, and other keys, `crop_px` or `config` would see
    what isn't there.

    Args:
        seed: of the run.
        crop_px: height and width of the crops.
        config: what may happen to them.

    Attributes:
        size_px: height and width of the largest window, with the neighbours of its outermost
            pixels.

    Raises:
        RuntimeError: the process has no CPU device (JAX_PLATFORMS names others alone); an
            accelerator would draw after the steps that wait for it.
    """

    def __init__(self, seed: int, crop_px: tuple[int, int], config: AugmentationConfig) -> None:
        height, width = _window_px(crop_px, config)
        angle = math.radians(
            min(config.rotation_degrees, 90.0) if config.rotation_probability else 0.0
        )
        sides = (_longest(height, width, angle), _longest(width, height, angle))
        self.size_px = tuple(math.ceil(side) + 2 * _RIM_PX for side in sides)
        # A mirrored window is the same window.
        config = dataclasses.replace(
            config, flip_horizontal_probability=0.0, flip_vertical_probability=0.0
        )
        self._draw = _drawing(type(config), dataclasses.astuple(config), crop_px)
        self._seed, self._device = np.uint32(seed), jax.local_devices(backend="cpu")[0]

    def __call__(self, positions: np.ndarray, cells: np.ndarray, extents: np.ndarray) -> np.ndarray:
        """Top, left, bottom and right (half-open), int32 [n, 4], of what the examples at
        `positions` uint32 [n] see of regions with cells int32 [n, 4] and extents int32 [n, 2]."""
        with jax.default_device(self._device):
            return np.asarray(self._draw(self._seed, positions, cells, extents))


@functools.lru_cache(maxsize=8)  # runs that differ in their seed share it
def _drawing(kind, values, crop_px):
    draw = functools.partial(_seen_px, config=kind(*values), crop_px=crop_px)
    # Compiled in a third of the time, and no slower, without LLVM's care.
    return jax.jit(draw, compiler_options={"xla_backend_optimization_level": 0})


# About a window: one for the next pixel, which bilinear weights need, and two for a device that
# rounds otherwise than the host, whose centre may then lie a pixel further.
_RIM_PX = 3


def _longest(along, across, angle):
    """The longest side of the box about a window that is turned by up to `angle`."""
    angle = min(angle, math.atan2(across, along))
    return along * math.cos(angle) + across * math.sin(angle)


def _seen_px(seed, positions, cells, extents, config, crop_px):
    """As `Windows`. What an affine map makes of a rectangle lies between what it makes of the
    corners."""

    def one(key, cell, extent):
        draws = dict(zip(_DRAWS, jax.random.split(key, len(_DRAWS)), strict=True))
        corners = _source_px(draws, cell, extent, config, crop_px, corners=True)
        first = jnp.stack([jnp.floor(of.min()) for of in corners]) - (_RIM_PX - 1)
        last = jnp.stack([jnp.floor(of.max()) for of in corners]) + _RIM_PX
        # Beyond the extent its nearest pixel is seen.
        return jnp.concatenate(
            [jnp.clip(first, 0, extent - 1), jnp.clip(last + 1, 1, extent)]
        ).astype(jnp.int32)

    return jax.vmap(one)(example_keys(seed, positions), cells, extents)


def augment(
    key: jax.Array,
    regions: Mapping[str, jax.Array],
    config: AugmentationConfig,
    crop_px: tuple[int, int],
    greatest: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One random training crop from each region.

    Args:
        key: one JAX key for the batch; each example draws from its own part of it, wherever the
            example lies.
        regions: `image` [batch, rows, columns, channels] of any real type and `mask` uint8 [batch,
            rows, columns] of classes or `IGNORED`; `cell_px` int32 [batch, 4]: top, left, bottom,
            right (half-open) of the pixels among which the crop's centre is drawn uniformly;
            `extent_px` int32 [batch, 2]: the height and width that hold real pixels, from the top
            left corner. Or `image` [pixels, channels] and `mask` [pixels] are of many scenes, and
            `start` and `stride` int32 [batch] say where each region's first pixel lies and how far
            it is from one row to the next.
        config: what may happen, how often and how strongly; static under `jax.jit`. An operation of
            probability 0 is not compiled.
        crop_px: height and width of the crops; static under `jax.jit`.
        greatest: the value that becomes 1; None: `rasters.greatest_of` the images' type.

    Returns:
        Images float32 [batch, height, width, channels], scaled by `greatest` and, of integers,
        within what their type can hold (uint8: 0 to 1), and labels int32 [batch, height, width].
        A crop whose source window reaches beyond the extent is moved inside where it fits; what
        still lies outside repeats the nearest pixel in the image and is `IGNORED` in the labels.
    """
    return augment_examples(
        jax.random.split(key, regions["cell_px"].shape[0]), regions, config, crop_px, greatest
    )


def augment_examples(
    keys: jax.Array,
    regions: Mapping[str, jax.Array],
    config: AugmentationConfig,
    crop_px: tuple[int, int],
    greatest: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """As `augment`, with one key per example: `keys` [batch]. For a step that slices the batch and
    its keys itself.

    With keys from `example_keys`, an example's pixels may also be those alone that `Windows` of the
    same seed finds, and `start` int32 [batch] says how many places after the first of them the
    region's would lie (none or fewer).
    """

    image, mask = regions["image"], regions["mask"]
    greatest = greatest or greatest_of(image.dtype)

    def one(key, image, mask, start, stride, cell, extent):
        draws = dict(zip(_DRAWS, jax.random.split(key, len(_DRAWS)), strict=True))
        rows, columns = _source_px(draws, cell, extent, config, crop_px)
        pixels, labels = image.reshape(-1, image.shape[-1]), mask.reshape(-1)
        planes, labels = _warp(pixels, labels, start, stride, rows, columns, extent)
        limits = _limits(image.dtype, greatest)
        planes = _colour(draws, planes * (1 / greatest), config, limits)
        return jnp.stack(planes, axis=-1), labels

    start, stride = regions.get("start", 0), regions.get("stride", mask.shape[-1])
    axes = (
        *(0 if mask.ndim == 3 else None,) * 2,
        0 if "start" in regions else None,
        0 if "stride" in regions else None,
    )
    mapped = jax.vmap(one, in_axes=(0, *axes, 0, 0))
    return mapped(keys, image, mask, start, stride, regions["cell_px"], regions["extent_px"])


def moved_boxes(
    keys: jax.Array,
    boxes: jax.Array,
    regions: Mapping[str, jax.Array],
    config: AugmentationConfig,
    crop_px: tuple[int, int],
) -> jax.Array:
    """Where boxes lie in the crops that `augment_examples` takes with the same keys: they go with
    the pixels.

    Args:
        keys: as there, [batch].
        boxes: float32 [batch, n, 4]: left, top, right, bottom in px of the regions' edges.
        regions: `cell_px` and `extent_px`, as there.
        config: as there.
        crop_px: as there.

    Returns:
        float32 [batch, n, 4] in px of the crops, not clipped. Mirrored, turned by right angles and
        zoomed boxes are exact; turned by any other angle, a box becomes the box around itself,
        which is larger than its object's.
    """

    def one(key, boxes, cell, extent):
        draws = dict(zip(_DRAWS, jax.random.split(key, len(_DRAWS)), strict=True))
        rows, columns = _source_px(draws, cell, extent, config, crop_px, corners=True)
        # From the crop to its source the map is affine: what three of its corner pixels come to.
        high, wide = max(crop_px[0] - 1, 1), max(crop_px[1] - 1, 1)
        down = (rows[1, 0] - rows[0, 0]) / high, (columns[1, 0] - columns[0, 0]) / high
        right = (rows[0, 1] - rows[0, 0]) / wide, (columns[0, 1] - columns[0, 0]) / wide
        area = down[0] * right[1] - down[1] * right[0]
        # Middles of pixels lie half a pixel after their edges.
        y = boxes[:, jnp.array([1, 1, 3, 3])] - 0.5 - rows[0, 0]
        x = boxes[:, jnp.array([0, 2, 0, 2])] - 0.5 - columns[0, 0]
        row = (y * right[1] - x * right[0]) / area + 0.5
        column = (x * down[0] - y * down[1]) / area + 0.5
        return jnp.stack([column.min(1), row.min(1), column.max(1), row.max(1)], axis=-1)

    return jax.vmap(one)(keys, boxes, regions["cell_px"], regions["extent_px"])


def _limits(dtype, greatest):
    """The least and greatest scaled value of an integer type; of floating-point numbers, none."""
    if dtype.kind == "f":
        return None
    return np.iinfo(dtype).min / greatest, np.iinfo(dtype).max / greatest


def scaled(images: jax.Array, greatest: float | None = None) -> jax.Array:
    """Stored pixels of any real type as float32, `greatest` being 1; None: `rasters.greatest_of`
    their type."""
    return images.astype(jnp.float32) / (greatest or greatest_of(images.dtype))


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """`(images - mean) / std` channel by channel, for scaled images [..., channels]; float32.
    `mean` and `std` are one value a channel, or one for all."""
    images = jnp.asarray(images, jnp.float32)
    return (images - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def _draw(key, probability, limits, neutral):
    """A number uniform within `limits` with the given probability, else `neutral`; a constant where
    the probability is 0."""
    if not probability:
        return jnp.float32(neutral)
    low, high = limits
    chance, amount = jax.random.uniform(key, (2,))
    return jnp.where(chance < probability, low + (high - low) * amount, neutral)


def _source_px(draws, cell, extent, config, crop_px, corners=False):
    """Where each pixel of the crop comes from: rows and columns of the region, float32 [height,
    width] each, whole at centres; of its corner pixels alone, [2, 2].

    Every step is exact in float32 unless an angle or a zoom is drawn. (No matrix product:
    accelerators round its factors.)
    """
    mirror_x = _draw(
        draws["flip_horizontal"], config.flip_horizontal_probability, (-1.0, -1.0), 1.0
    )
    mirror_y = _draw(draws["flip_vertical"], config.flip_vertical_probability, (-1.0, -1.0), 1.0)
    # Rounded up from the half-open interval 3 down to 0: one, two or three.
    turns = jnp.ceil(
        _draw(draws["quarter_turn"], config.quarter_turn_probability, (3.0, 0.0), 0.0)
    ).astype(jnp.int32)
    angle = _draw(
        draws["rotation"],
        config.rotation_probability,
        (-config.rotation_degrees, config.rotation_degrees),
        0.0,
    )
    zoom = _draw(
        draws["scale"],
        config.scale_probability,
        [math.log(scale) for scale in config.scale_range],
        0.0,
    )
    scale = jnp.where(zoom == 0, 1.0, jnp.exp(zoom))

    # The window in the source, before any-angle rotation; on its side after an odd number of
    # quarter turns.
    height, width = crop_px
    half_crop = jnp.array([height, width], jnp.float32) / 2
    half_crop = jnp.where(turns % 2 == 1, half_crop[::-1], half_crop)
    half_window = half_crop / scale

    # A whole pixel is drawn, and its middle taken where the window has an odd side, so that an
    # unscaled window starts on a pixel.
    cell = cell.astype(jnp.float32)
    pixel = jnp.floor(
        cell[:2] + (cell[2:] - cell[:2]) * jax.random.uniform(draws["position"], (2,))
    )
    centre = jnp.minimum(pixel, cell[2:] - 1) + half_crop % 1
    # A window larger than the extent may lie anywhere that covers the extent: the two limits change
    # places.
    limits = half_window, extent.astype(jnp.float32) - half_window
    centre = jnp.clip(centre, jnp.minimum(*limits), jnp.maximum(*limits))

    # From the crop to the source: mirror, turn counter-clockwise by quarters and by the angle,
    # shrink by the zoom.
    quarter_cos, quarter_sin = (
        jnp.array([1.0, 0.0, -1.0, 0.0])[turns],
        jnp.array([0.0, 1.0, 0.0, -1.0])[turns],
    )
    cos, sin = jnp.cos(jnp.radians(angle)), jnp.sin(jnp.radians(angle))
    cos, sin = (
        (cos * quarter_cos - sin * quarter_sin) / scale,
        (sin * quarter_cos + cos * quarter_sin) / scale,
    )
    rows, columns = (jnp.array([0, side - 1]) if corners else jnp.arange(side) for side in crop_px)
    y = mirror_y * (rows[:, None] + 0.5 - height / 2)
    x = mirror_x * (columns[None, :] + 0.5 - width / 2)
    return centre[0] + cos * y + sin * x - 0.5, centre[1] - sin * y + cos * x - 0.5


def _warp(image, mask, start, stride, rows, columns, extent):
    """Values and labels at the given coordinates of a region: float32 [channels, height, width],
    and int32 [height, width].

    In `image` [pixels, channels] and `mask` [pixels] the region begins at `start`, and its rows lie
    `stride` apart. The four neighbours of all pixels come in one gather from one dimension: on a
    CPU several times as fast as `jax.scipy.ndimage.map_coordinates` channel by channel, and the
    same to rounding.
    """
    bottom, right = extent[0] - 1, extent[1] - 1
    row, column = jnp.clip(rows, 0, bottom), jnp.clip(columns, 0, right)
    top, left = jnp.floor(row).astype(jnp.int32), jnp.floor(column).astype(jnp.int32)
    down, across = row - top, column - left  # how far towards the next row and column, 0 to 1

    upper, lower = (start + stride * row for row in (top, jnp.minimum(top + 1, bottom)))
    beside = jnp.minimum(left + 1, right)
    places = jnp.stack([upper + left, upper + beside, lower + left, lower + beside])
    corners = image.at[places].get(mode="promise_in_bounds")
    weights = (1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across

    if image.dtype == jnp.uint8:
        # Four bytes at a time are a word, whose parts a CPU's vectors take apart: three times as
        # fast as bytes that lie a pixel apart.
        channels = image.shape[-1]
        corners = jnp.pad(corners, ((0, 0), (0, 0), (0, 0), (0, -channels % 4)))
        corners = corners.reshape(*places.shape, -1, 4)
        words = jax.lax.bitcast_convert_type(corners, jnp.uint32)

        def plane(channel):
            parts = (words[..., channel // 4] >> 8 * (channel % 4)) & 255
            return sum(w * part.astype(jnp.float32) for w, part in zip(weights, parts, strict=True))

        values = jnp.stack([plane(channel) for channel in range(channels)])
    else:
        planes = jnp.moveaxis(corners, -1, 0).astype(jnp.float32)
        values = sum(weight * planes[:, i] for i, weight in enumerate(weights))
    upper, lower = (jnp.where(across < 0.5, places[i], places[i + 1]) for i in (0, 2))
    nearest = jnp.where(down < 0.5, upper, lower)
    labels = mask.at[nearest].get(mode="promise_in_bounds").astype(jnp.int32)
    inside = (rows >= -0.5) & (rows < bottom + 0.5) & (columns >= -0.5) & (columns < right + 0.5)
    return values, jnp.where(inside, labels, nothing_of(mask.dtype))


def _colour(draws, image, config, limits):
    """The image float32 [channels, height, width] after the colour operations, clipped to `limits`
    unless they are None. Those not drawn change no bit of it.

    Channels come first here, as planes that a CPU's vectors run along.
    """
    import dm_pix  # here: what only predicts does without its second

    if config.brightness_probability:
        most = config.brightness_delta
        delta = _draw(draws["brightness"], config.brightness_probability, (-most, most), 0.0)
        image = jnp.asarray(dm_pix.adjust_brightness(image, delta))
    if config.contrast_probability:
        factor = _draw(draws["contrast"], config.contrast_probability, config.contrast_range, 1.0)
        image = jnp.where(factor == 1, image, dm_pix.adjust_contrast(image, factor, channel_axis=0))
    if config.saturation_probability or config.hue_probability:
        image = jnp.clip(image, 0, 1)  # hue and saturation are defined only there
    if config.saturation_probability:
        factor = _draw(
            draws["saturation"], config.saturation_probability, config.saturation_range, 1.0
        )
        image = jnp.where(factor == 1, image, _saturate(image, factor))
    if config.hue_probability:
        delta = _draw(
            draws["hue"], config.hue_probability, (-config.hue_delta, config.hue_delta), 0.0
        )
        turned = dm_pix.adjust_hue(jnp.moveaxis(image, 0, -1), delta)
        image = jnp.where(delta == 0, image, jnp.moveaxis(turned, -1, 0))
    if config.blur_probability:
        sigma = _draw(draws["blur"], config.blur_probability, config.blur_sigma_px, 0.0)
        image = _blur(
            image, jnp.maximum(sigma, _LEAST_SIGMA_PX), math.ceil(3 * config.blur_sigma_px[1])
        )
    if config.noise_probability:
        std = _draw(draws["noise"], config.noise_probability, config.noise_std, 0.0)
        # Three at least, so that grey images get the noise that they would as red, green and blue.
        shape = (*image.shape[1:], max(len(image), 3))
        noise = jax.random.normal(draws["noise_values"], shape)[..., : len(image)]
        image = image + std * jnp.moveaxis(noise, -1, 0)
    return image if limits is None else jnp.clip(image, *limits)


_LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in how bright a colour is (ITU-R BT.601), as in Pillow's grey."""


def _saturate(image, factor):
    """Colours drawn from grey of their own brightness, or by a factor below 1 towards it; clipped
    to 0 to 1. A picture whose colours fade stays as bright as it was."""
    red, green, blue = image
    grey = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return jnp.clip(grey + factor * (image - grey), 0, 1)


def _blur(image, sigma, radius):
    """Gaussian blur with edge pixels repeated, as a weighted sum of shifted images: `dm_pix` pads
    with zeros, which darkens the border, and its convolution, with another kernel for each example,
    is ten times slower on a CPU.
    """
    _, height, width = image.shape
    offsets = jnp.arange(-radius, radius + 1)
    weights = jnp.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    padded = jnp.pad(image, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    rows = reduce(add, (weight * padded[:, i : i + height] for i, weight in enumerate(weights)))
    return reduce(add, (weight * rows[:, :, i : i + width] for i, weight in enumerate(weights)))
