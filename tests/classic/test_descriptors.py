"""Descriptors of shapes drawn by hand, against hand-worked values, the plane's formulas and
scikit-image."""

import numpy as np
import pytest
from skimage.color import rgb2gray
from skimage.feature import hog
from skimage.filters import threshold_otsu
from skimage.measure import euler_number, label, perimeter, regionprops

from cnn_jax.classic import descriptors
from cnn_jax.classic.descriptors import GEOMETRIC, KINDS, STATISTICAL, TOPOLOGICAL, describe
from cnn_jax.errors import InputError


def drawn(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def named(names, values):
    return dict(zip(names, values, strict=True))


SHAPES = {
    #             components by 4 and 8, holes by 4 and 8
    "nothing": (drawn("....", "....", "...."), (0, 0, 0, 0)),
    "everything": (drawn("####", "####", "####"), (1, 1, 0, 0)),
    "ring": (drawn("###.", "#.#.", "###."), (1, 1, 1, 1)),
    "eight": (drawn("#####", "#.#.#", "#####"), (1, 1, 2, 2)),
    "diagonal": (drawn("#..", ".#.", "..#"), (3, 1, 0, 0)),
    # Touching by corners: no hole for the 4-adjacent foreground, whose background leaks between the
    # corners.
    "diamond": (drawn(".#.", "#.#", ".#."), (4, 1, 0, 1)),
    "open ring": (drawn("###", "#.#", "#.#"), (1, 1, 0, 0)),
    "dot in ring": (drawn("#####", "#...#", "#.#.#", "#...#", "#####"), (2, 2, 1, 1)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_topology_of_drawn_shapes(shape):
    binary, (components_4, components_8, holes_4, holes_8) = SHAPES[shape]
    found = named(
        TOPOLOGICAL, descriptors.topological(np.stack([~binary, binary]))[1]
    )  # a neighbour in the stack
    assert (found["components_4"], found["components_8"]) == (components_4, components_8)
    assert (found["holes_4"], found["holes_8"]) == (holes_4, holes_8)
    assert (found["euler_4"], found["euler_8"]) == (components_4 - holes_4, components_8 - holes_8)


def test_euler_numbers_are_those_of_scikit_image():
    binary = np.random.default_rng(0).random((30, 9, 14)) < 0.5
    found = descriptors.topological(binary)
    for column, connectivity in (("euler_4", 1), ("euler_8", 2)):
        expected = [euler_number(one, connectivity) for one in binary]
        np.testing.assert_array_equal(found[:, TOPOLOGICAL.index(column)], expected)


def test_skeleton_of_a_bar_is_its_middle_and_images_do_not_touch():
    bar = np.zeros((3, 7, 20), bool)
    bar[:2, 2:5] = True  # three pixels thick, from edge to edge, twice in the stack
    lengths = descriptors.topological(bar)[:, TOPOLOGICAL.index("skeleton_length_px")]
    assert lengths[0] == lengths[1]
    assert 18 <= lengths[0] <= 20
    assert lengths[2] == 0


def test_geometry_of_a_square():
    binary = np.zeros((1, 20, 25), bool)
    binary[0, 3:13, 5:15] = True
    binary[0, 18, 20:23] = True  # a smaller region, which doesn't count
    found = named(GEOMETRIC, descriptors.geometric(binary)[0])
    assert found["area_px2"] == 100
    assert found["perimeter_px"] == 36  # along the middles of the border's pixels
    assert found["diameter_px"] == pytest.approx(200**0.5)
    assert found["compactness"] == pytest.approx(36**2 / 100)
    assert found["eccentricity"] == pytest.approx(0, abs=1e-6)


def test_geometry_of_a_disc_and_an_ellipse():
    y, x = np.mgrid[-30:31, -50:51]
    disc, ellipse = y**2 + x**2 <= 25**2, (y / 20) ** 2 + (x / 40) ** 2 <= 1
    round_, long = (
        named(GEOMETRIC, row) for row in descriptors.geometric(np.stack([disc, ellipse]))
    )
    assert round_["area_px2"] == pytest.approx(np.pi * 25**2, rel=0.01)
    assert round_["diameter_px"] == pytest.approx(51, abs=0.5)
    assert round_["compactness"] == pytest.approx(4 * np.pi, rel=0.15)
    assert round_["eccentricity"] == pytest.approx(0, abs=0.01)
    assert long["diameter_px"] == pytest.approx(81, abs=0.5)
    assert long["eccentricity"] == pytest.approx(0.75**0.5, rel=0.01)


def test_the_axes_of_a_rectangle_are_in_the_ratio_of_its_sides():
    binary = np.zeros((2, 12, 12), bool)
    binary[0, 2:10, 3:10] = True  # 8 x 7
    long, short = descriptors.axes_px(binary)[0]
    assert long / short == pytest.approx(8 / 7)
    assert long == pytest.approx(4 * (8**2 / 12) ** 0.5)
    assert (descriptors.axes_px(binary)[1] == 0).all()


def test_geometry_is_that_of_scikit_images_largest_region():
    binary = np.random.default_rng(1).random((40, 12, 9)) < 0.45
    found, axes = descriptors.geometric(binary), descriptors.axes_px(binary)
    for image, row, pair in zip(binary, found, axes, strict=True):
        largest = max(
            regionprops(label(image, connectivity=2)), key=lambda region: region.area
        )  # the first of those as large
        y, x = largest.coords.T
        corners = np.concatenate([np.stack([y + dy, x + dx], 1) for dy in (0, 1) for dx in (0, 1)])
        diameter = np.sqrt(((corners[:, None] - corners) ** 2).sum(-1).max())
        length = perimeter(np.pad(largest.image, 1))
        expected = [largest.area, length, diameter, length**2 / largest.area, largest.eccentricity]
        np.testing.assert_allclose(row, expected, atol=1e-6)
        # There pixels are points; a unit square adds its own second moment, 1/12.
        points = [largest.axis_major_length, largest.axis_minor_length]
        np.testing.assert_allclose(pair**2, np.square(points) + 16 / 12, atol=1e-6)


def test_no_foreground_gives_zeros():
    images = np.stack([np.full((9, 9), level, np.uint8) for level in (0, 77, 255)])
    values, _ = describe(images, ("topological", "geometric"))
    np.testing.assert_array_equal(values, np.zeros_like(values))


def test_statistics_by_hand():
    # 0 twice, 100 once, 200 once: mean 75, deviations -75, -75, 25, 125.
    found = named(
        STATISTICAL, descriptors.statistical(np.array([[[0, 100], [200, 0]]], np.uint8))[0]
    )
    variance = (2 * 75**2 + 25**2 + 125**2) / 4
    assert found["mean"] == 75
    assert found["standard_deviation"] == pytest.approx(variance**0.5)
    assert found["smoothness"] == pytest.approx(1 - 1 / (1 + variance / 255**2))
    assert found["third_moment"] == pytest.approx((-2 * 75**3 + 25**3 + 125**3) / 4 / 255**2)
    assert found["uniformity"] == pytest.approx(0.5**2 + 0.25**2 + 0.25**2)
    assert found["entropy_bits"] == pytest.approx(1.5)


def test_otsu_is_that_of_scikit_image():
    rng = np.random.default_rng(2)
    grey = np.clip(
        rng.normal(60, 20, (20, 16, 16)) + 120 * (rng.random((20, 16, 16)) < 0.3), 0, 255
    ).astype(np.uint8)
    np.testing.assert_array_equal(descriptors.otsu(grey), [threshold_otsu(one) for one in grey])


def test_threshold_may_be_given():
    image = np.array([[[10, 20, 30]]], np.uint8).repeat(3, 1)
    areas = [describe(image, ("geometric",), threshold)[0][0, 0] for threshold in (0, 10, 20, 30)]
    assert areas == [9, 6, 3, 0]


def test_colours_become_luminance():
    images = np.random.default_rng(3).integers(0, 256, (4, 8, 8, 3), np.uint8)
    grey = descriptors.luminance(images)
    assert grey.dtype == np.uint8
    np.testing.assert_allclose(grey, rgb2gray(images) * 255, atol=40)  # other weights (BT.709)
    only = np.zeros((3, 1, 1, 3), np.uint8)
    only[[0, 1, 2], 0, 0, [0, 1, 2]] = 255
    np.testing.assert_array_equal(descriptors.luminance(only).ravel(), [76, 150, 29])


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 32, 40, 1), (3, 17, 9, 3)])
def test_every_kind_describes_with_names(shape):
    images = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    values, names = describe(images, KINDS)
    assert values.shape == (3, len(names))
    assert values.dtype == np.float32
    assert len(set(names)) == len(names)
    assert np.isfinite(values).all()
    pixels = [name.startswith("pixels_") for name in names]
    np.testing.assert_array_equal(values[:, pixels], images.reshape(3, -1))


def test_hog_sees_the_direction_of_an_edge():
    images = np.zeros((2, 28, 28), np.uint8)
    images[0, :, 14:], images[1, 14:] = 255, 255  # an upright edge, a level one
    values = descriptors.hog(images)
    assert values.shape == (2, 324)
    strongest = values.reshape(2, -1, 9).sum(1).argmax(1)
    assert tuple(strongest) == (0, 4)  # gradients at 0 and at 90 degrees, in bins of 20
    np.testing.assert_allclose(values[0], hog(images[0], 9, (7, 7), (2, 2)), rtol=1e-6)


def test_parts_come_back_in_order(monkeypatch):
    images = np.random.default_rng(5).integers(0, 256, (23, 8, 8), np.uint8)
    whole, _ = describe(images, ("geometric", "statistical"))
    monkeypatch.setattr(descriptors, "IMAGES_AT_ONCE", 10)
    np.testing.assert_array_equal(describe(images, ("geometric", "statistical"))[0], whole)


@pytest.mark.parametrize(
    ("images", "kinds", "word"),
    [
        (np.zeros((2, 9, 9), np.float32), ("hog",), "float32"),
        (np.zeros((2, 9, 9, 4), np.uint8), ("hog",), "channels"),
        (np.zeros((0, 9, 9), np.uint8), ("hog",), "at least one image"),
        (np.zeros((2, 9, 9), np.uint8), ("texture",), "topological"),
        (np.zeros((2, 9, 9), np.uint8), (), "topological"),
        (np.zeros((2, 7, 9), np.uint8), ("hog",), "at least 8 pixels either way: give larger"),
    ],
)
def test_what_can_not_be_described_is_refused(images, kinds, word):
    with pytest.raises(InputError, match=word):
        describe(images, kinds)


def test_absent_libraries_are_named_with_the_mend(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage.measure", None)
    with pytest.raises(
        InputError, match=r"needs scikit-image and scikit-learn.*pip install 'cnn_jax\[classic\]'"
    ):
        describe(np.zeros((1, 9, 9), np.uint8), ("geometric",))
