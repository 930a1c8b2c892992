"""Images as a few numbers with names: topology, geometry, grey-level statistics, and histograms of
oriented gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from cnn_jax.classic import needed
from cnn_jax.errors import InputError

KINDS = ("topological", "geometric", "statistical", "hog", "pixels")
TOPOLOGICAL = (
    "components_4",
    "components_8",
    "holes_4",
    "holes_8",
    "euler_4",
    "euler_8",
    "skeleton_length_px",
)
GEOMETRIC = ("area_px2", "perimeter_px", "diameter_px", "compactness", "eccentricity")
STATISTICAL = (
    "mean",
    "standard_deviation",
    "smoothness",
    "third_moment",
    "uniformity",
    "entropy_bits",
)

ADJACENCY = {4: np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool), 8: np.ones((3, 3), bool)}
IMAGES_AT_ONCE = 512
HOG_CELLS = 4  # along the shorter side


def describe(
    images: ArrayLike, kinds: Sequence[str], threshold: int | None = None
) -> tuple[np.ndarray, list[str]]:
    """Values of the kinds named for every image.

    Args:
        images: uint8 `[images, height, width]`, or `[..., 1]`, or `[..., 3]`, of which the
            luminance is described (except by pixels, which keep their channels).
        kinds: of "topological", "geometric", "statistical", "hog" and "pixels" (the values
            themselves, 0 to 255), in the order wanted.
        threshold: grey levels above it are foreground for topology and geometry; None: each image's
            own by `otsu`.

    Returns:
        (float32 `[images, values]`, the names of the values).

    Raises:
        InputError: no images, or of another shape or dtype, an unknown kind, or scikit-image is
            absent.
    """
    images = np.asarray(images)
    channels = images.shape[3:] in ((), (1,), (3,))
    if images.dtype != np.uint8 or images.ndim < 3 or not channels or not images.size:
        raise InputError(
            f"images are {images.dtype} {list(images.shape)}; they must be uint8 [images, height,"
            " width], with no, one or three channels, and at least one image."
        )
    if not len(kinds) or set(kinds) - set(KINDS):
        raise InputError(f"kinds are {tuple(kinds)!r}; each must be one of {', '.join(KINDS)}.")
    parts = [
        images[start : start + IMAGES_AT_ONCE] for start in range(0, len(images), IMAGES_AT_ONCE)
    ]
    if len(parts) > 4 and set(kinds) - {
        "statistical",
        "pixels",
    }:  # else starting processes costs more than it saves
        try:
            from joblib import Parallel, delayed
        except ImportError as error:
            raise needed("Describing images", error) from error
        described: list[Any] = list(
            Parallel(n_jobs=-1)(delayed(_describe)(part, tuple(kinds), threshold) for part in parts)
        )
    else:
        described = [_describe(part, kinds, threshold) for part in parts]
    names = [name for kind in kinds for name in _names(kind, images.shape[1:])]
    return np.concatenate(described), names


def luminance(images: np.ndarray) -> np.ndarray:
    """uint8 `[images, height, width]` of images with no, one or three channels; three weigh as in
    ITU-R BT.601."""
    if images.ndim == 3:
        return images
    if images.shape[3] == 1:
        return images[..., 0]
    return np.rint(images @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def histograms(grey: np.ndarray) -> np.ndarray:
    """int64 `[images, 256]`: how many pixels of each image have each grey level."""
    levels = grey.reshape(len(grey), -1) + 256 * np.arange(len(grey))[:, None]
    return np.bincount(levels.ravel(), minlength=256 * len(grey)).reshape(len(grey), 256)


def otsu(grey: np.ndarray) -> np.ndarray:
    """int64 `[images]`: the threshold that separates each image's grey levels best (Otsu, 1979);
    foreground lies above it.

    Of equal thresholds it is the lowest. An image of one grey level has 255, and so no foreground.
    """
    counts, levels = histograms(grey).astype(np.float64), np.arange(256)
    below, sum_below = counts.cumsum(1), (counts * levels).cumsum(1)
    above, sum_above = below[:, -1:] - below, sum_below[:, -1:] - sum_below
    between = (
        below * above * (sum_below / np.maximum(below, 1) - sum_above / np.maximum(above, 1)) ** 2
    )
    return np.where((counts > 0).sum(1) > 1, between.argmax(1), 255)


def topological(binary: np.ndarray) -> np.ndarray:
    """Counts that stretching doesn't change, and the skeleton's length: float64 `[images, 7]` in
    the order of `TOPOLOGICAL`.

    Components of the foreground by 4- and 8-adjacency; holes in it, which are components of the
    background by the other adjacency that don't reach the outside (outside the image is
    background); Euler numbers, components less holes; pixels of the skeleton (Zhang and Suen,
    1984). All are 0 where there is no foreground.

    Args:
        binary: bool `[images, height, width]`.

    Raises:
        InputError: scikit-image is absent.
    """
    try:
        from skimage.morphology import skeletonize
    except ImportError as error:
        raise needed("Describing topology", error) from error
    count, height, width = binary.shape
    padded = np.pad(binary, ((0, 0), (1, 1), (1, 1)))
    components = {adjacency: _regions(binary, adjacency)[1] for adjacency in (4, 8)}
    holes = {
        adjacency: _regions(~padded, 12 - adjacency)[1] - 1 for adjacency in (4, 8)
    }  # less the outside
    # One tall picture of all images, apart by their rims: thinning looks at no more than a pixel's
    # neighbours.
    skeletons = skeletonize(padded.reshape(count * (height + 2), width + 2)).reshape(count, -1)
    return np.stack(
        [
            *components.values(),
            *holes.values(),
            *(components[adjacency] - holes[adjacency] for adjacency in (4, 8)),
            skeletons.sum(1),
        ],
        axis=1,
    ).astype(np.float64)


def geometric(binary: np.ndarray) -> np.ndarray:
    """Size and form of each image's largest region by 8-adjacency: float64 `[images, 5]` in the
    order of `GEOMETRIC`.

    Area in pixels; perimeter (Benkrid and Crookes, 2000, as scikit-image computes it); diameter,
    the largest distance between two points of the region, pixels being unit squares (the largest
    Feret diameter); compactness, perimeter^2 / area (4 pi for a disc in the plane, 16 for a square;
    a region of one pixel has the perimeter 0); eccentricity of the ellipse with the same second
    moments, 0 (circle) to 1 (line). All are 0 where there is no foreground. Of regions equally
    large it is the first by rows.

    Args:
        binary: bool `[images, height, width]`.

    Raises:
        InputError: scikit-image is absent.
    """
    try:
        from skimage.measure import perimeter
    except ImportError as error:
        raise needed("Describing geometry", error) from error
    region = largest_region(binary)
    area = region.sum((1, 2)).astype(np.float64)
    perimeters = np.array([perimeter(one) for one in region], np.float64)
    return np.stack(
        [
            area,
            perimeters,
            _diameter(region),
            perimeters**2 / np.maximum(area, 1),
            _eccentricity(region),
        ],
        axis=1,
    )


def largest_region(binary: np.ndarray) -> np.ndarray:
    """bool `[images, height, width]`: of each image the largest region by 8-adjacency, the first by
    rows of those as large."""
    labels, _ = _regions(binary, 8)
    sizes = np.bincount(labels.ravel())
    pixel = np.flatnonzero(labels)
    first = np.full(len(sizes), labels.size)
    np.minimum.at(first, labels.ravel()[pixel], pixel)
    region = np.arange(1, len(sizes))
    order = region[
        np.lexsort((-first[1:], sizes[1:]))
    ]  # of values assigned to one image the last stays
    largest = np.full(len(binary), -1)
    largest[first[order] // (binary.shape[1] * binary.shape[2])] = order
    return labels == largest[:, None, None]


def statistical(grey: np.ndarray) -> np.ndarray:
    """Grey-level statistics by the histogram p (Gonzalez and Woods, Digital Image Processing):
    float64 `[images, 6]`.

    In the order of `STATISTICAL`: mean and standard deviation in grey levels; smoothness R = 1 - 1
    / (1 + variance / 255^2); third central moment / 255^2; uniformity, the sum of p^2; entropy,
    -sum p log2 p, in bits.

    Args:
        grey: uint8 `[images, height, width]`.
    """
    p, levels = histograms(grey) / (grey.shape[1] * grey.shape[2]), np.arange(256)
    mean = p @ levels
    deviation = levels - mean[:, None]
    variance, third = (p * deviation**2).sum(1), (p * deviation**3).sum(1)
    smoothness = 1 - 1 / (1 + variance / 255**2)
    entropy = -(p * np.log2(np.where(p > 0, p, 1))).sum(1)
    return np.stack(
        [mean, np.sqrt(variance), smoothness, third / 255**2, (p**2).sum(1), entropy], axis=1
    )


def hog(grey: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients (Dalal and Triggs, 2005): float32 `[images, values]`.

    Nine orientations in square cells, four along the image's shorter side; blocks of 2 x 2 cells,
    L2-Hys: 324 values for a square image.

    Args:
        grey: uint8 `[images, height, width]`, at least 8 pixels either way.

    Raises:
        InputError: smaller images, or scikit-image is absent.
    """
    try:
        import skimage.feature
    except ImportError as error:
        raise needed("Describing oriented gradients", error) from error
    cell, _ = _hog_blocks(grey.shape[1:])
    options = {
        "orientations": 9,
        "pixels_per_cell": (cell, cell),
        "cells_per_block": (2, 2),
        "block_norm": "L2-Hys",
    }
    return np.stack([skimage.feature.hog(one, **options) for one in grey]).astype(np.float32)


def _hog_blocks(shape):
    """A cell's side in pixels, and how many blocks fit in `[height, width]`."""
    cell = min(shape[:2]) // HOG_CELLS
    if cell < 2:
        raise InputError(
            f"images are {shape[0]} x {shape[1]}; hog needs at least {2 * HOG_CELLS} pixels either"
            " way: give larger images, or model.features without hog."
        )
    return cell, (shape[0] // cell - 1) * (shape[1] // cell - 1)


def _names(kind, shape):
    named = {"topological": TOPOLOGICAL, "geometric": GEOMETRIC, "statistical": STATISTICAL}
    if kind in named:
        return named[kind]
    return [
        f"{kind}_{i}"
        for i in range(_hog_blocks(shape)[1] * 4 * 9 if kind == "hog" else int(np.prod(shape)))
    ]


def _describe(images, kinds, threshold):
    grey = luminance(images)
    limit = otsu(grey) if threshold is None else np.full(len(grey), threshold)
    binary = grey > limit[:, None, None]
    compute = {
        "topological": lambda: topological(binary),
        "geometric": lambda: geometric(binary),
        "statistical": lambda: statistical(grey),
        "hog": lambda: hog(grey),
        "pixels": lambda: images.reshape(len(images), -1),
    }
    return np.concatenate([compute[kind]().astype(np.float32) for kind in kinds], axis=1)


def _regions(binary, adjacency):
    """Labels of connected regions, 0 being none, each region within one image; and how many each
    image has."""
    apart = np.zeros((3, 3), bool)
    labels, count = scipy.ndimage.label(binary, np.stack([apart, ADJACENCY[adjacency], apart]))
    image = np.full(count + 1, len(binary))
    image[labels] = np.arange(len(binary))[:, None, None]
    return labels, np.bincount(image[1:], minlength=len(binary))


def _diameter(region):
    """The largest distance between corners of pixels: each line between rows of pixels has a
    leftmost and a rightmost one."""
    count, _, width = region.shape
    any_pixel = region.any(2)
    left = np.where(any_pixel, region.argmax(2), np.inf)
    right = np.where(any_pixel, width - region[:, :, ::-1].argmax(2), -np.inf)
    outside = np.full((count, 1), np.inf)
    left = np.minimum(np.hstack([left, outside]), np.hstack([outside, left]))
    right = np.maximum(np.hstack([right, -outside]), np.hstack([-outside, right]))
    used = np.isfinite(left)
    line = np.arange(left.shape[1])
    left, right = np.where(used, left, 0), np.where(used, right, 0)
    squares = (line[:, None] - line) ** 2 + (right[:, None, :] - left[:, :, None]) ** 2
    return np.sqrt(np.where(used[:, :, None] & used[:, None, :], squares, 0).max((1, 2)))


def axes_px(binary: np.ndarray) -> np.ndarray:
    """The long and the short axis, in pixels, of the ellipse with the same second moments as each
    image's largest region by 8-adjacency: float64 `[images, 2]`, 0 where there is no foreground.

    Pixels are unit squares, so a filled rectangle of a x b pixels has axes whose ratio is a / b.

    Args:
        binary: bool `[images, height, width]`.
    """
    region = largest_region(binary)
    middle, spread = _second_moments(region)
    middle = middle + np.where(region.any((1, 2)), 1 / 12, 0)  # of a unit square about its middle
    return 4 * np.sqrt(np.clip(np.stack([middle + spread, middle - spread], axis=1), 0, None))


def _eccentricity(region):
    """sqrt(1 - minor^2 / major^2) by the eigenvalues of the central second moments."""
    middle, spread = _second_moments(region)
    return np.sqrt(np.clip(2 * spread / np.where(middle + spread > 0, middle + spread, 1), 0, 1))


def _second_moments(region):
    """The mean of the two eigenvalues of the central second moments, and half their difference."""
    y, x = np.arange(region.shape[1]), np.arange(region.shape[2])
    rows, columns = region.sum(2), region.sum(1)
    area = np.maximum(rows.sum(1), 1)
    mean_y, mean_x = rows @ y / area, columns @ x / area
    dy, dx = y - mean_y[:, None], x - mean_x[:, None]
    yy, xx = (rows * dy**2).sum(1) / area, (columns * dx**2).sum(1) / area
    yx = np.einsum("nyx,ny,nx->n", region.astype(np.float64), dy, dx) / area
    return (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
