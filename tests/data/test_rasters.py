"""What files store and how it is read: codecs, types, layouts and bands, and every kind of mask."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import masks, rasters
from cnn_jax.data.descriptions import BUILT_IN, LabelClass
from cnn_jax.data.rasters import open_raster, photograph
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError
from tests.data import fake_sets
from tests.data.fake_sets import HEIGHT_PX, WIDTH_PX, label_map, save

COLORS = {
    "image": "photos/{name}.png",
    "mask": "labels/{name}.png",
    "mask_values": "palette",
    "classes": (LabelClass("roof", ("#FF0000",)), LabelClass("ground", ("#00FF00", "#0000FF"))),
    "ignored": ("#000000",),
}


@pytest.fixture
def palette_description():
    return dataclasses.replace(BUILT_IN["dubai"], **COLORS)


@pytest.fixture
def index_description():
    classes = (LabelClass("zero", (0,)), LabelClass("one", (1, 15)), LabelClass("large", (40000,)))
    return dataclasses.replace(BUILT_IN["folders"], classes=classes, ignored=(3,))


PHOTOGRAPH = fake_sets.photograph()
GREY = PHOTOGRAPH[..., 0]


def read_image(path):
    return photograph(open_raster(path))[0]


def read_mask(path, description):
    labels, unknown, _ = masks.read_mask(open_raster(path), description)
    return labels, unknown


@pytest.mark.parametrize(
    ("picture", "suffix", "expected"),
    [
        (Image.fromarray(PHOTOGRAPH), ".png", PHOTOGRAPH),
        (Image.fromarray(PHOTOGRAPH), ".bmp", PHOTOGRAPH),
        (Image.fromarray(PHOTOGRAPH), ".tif", PHOTOGRAPH),
        (Image.fromarray(np.dstack([PHOTOGRAPH, GREY])), ".png", PHOTOGRAPH),
        (Image.fromarray(np.dstack([PHOTOGRAPH, GREY])), ".tif", np.dstack([PHOTOGRAPH, GREY])),
        (Image.fromarray(GREY), ".png", GREY[..., None]),
        (Image.fromarray(np.dstack([GREY, GREY[::-1]])), ".png", GREY[..., None]),
        (Image.fromarray(GREY > 127), ".png", np.where(GREY > 127, 255, 0)[..., None]),
        (Image.fromarray(GREY > 127), ".tif", np.where(GREY > 127, 255, 0)[..., None]),
        (Image.fromarray(GREY.astype(np.uint16) * 257), ".png", np.uint16(GREY)[..., None] * 257),
        (Image.fromarray(GREY.astype(np.uint16) + 400), ".tif", np.uint16(GREY)[..., None] + 400),
        (Image.fromarray(GREY.astype(np.int32) * 9999), ".tif", np.int32(GREY)[..., None] * 9999),
        (Image.fromarray(GREY / np.float32(7)), ".tif", GREY[..., None] / np.float32(7)),
    ],
    ids=lambda v: v.mode if isinstance(v, Image.Image) else v if isinstance(v, str) else "",
)
def test_image_modes(picture, suffix, expected, tmp_path):
    path = tmp_path / f"image{suffix}"
    picture.save(path)
    image = read_image(path)
    assert image.dtype == (expected.dtype if expected.dtype != np.int64 else np.uint8)
    assert np.array_equal(image, expected)


def test_a_palette_image_with_transparency(tmp_path):
    picture = Image.fromarray(label_map(3)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "image.png", transparency=bytes([0, 128, 255]))
    assert np.array_equal(
        read_image(tmp_path / "image.png"),
        np.array([(10, 20, 30), (40, 50, 60), (70, 80, 90)])[label_map(3)],
    )


def test_palette_masks(tmp_path, palette_description):
    colors = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)], np.uint8)
    expected = np.array([0, 1, 1, IGNORED], np.uint8)[label_map(4)]
    rgb_mask = colors[label_map(4)]
    indexed = Image.frombytes("P", (WIDTH_PX, HEIGHT_PX), label_map(4).tobytes())
    indexed.putpalette(colors.tobytes())
    indexed.save(tmp_path / "indexed.png")
    files = [
        save(rgb_mask, tmp_path / "rgb.png"),
        save(np.dstack([rgb_mask, GREY]), tmp_path / "rgba.png"),
        save(rgb_mask, tmp_path / "rgb.tif"),
        tmp_path / "indexed.png",
    ]
    for file in files:
        labels, unknown = read_mask(file, palette_description)
        assert np.array_equal(labels, expected), file
        assert unknown == {}


def test_unknown_colours_of_every_kind_of_mask(tmp_path, palette_description):
    indexed = Image.frombytes("P", (WIDTH_PX, HEIGHT_PX), label_map(2).tobytes())
    indexed.putpalette([255, 0, 0, 1, 2, 3])
    indexed.save(tmp_path / "indexed.png")
    assert read_mask(tmp_path / "indexed.png", palette_description)[1] == {"#010203": 48}
    assert read_mask(save(label_map(2), tmp_path / "grey.png"), palette_description)[1] == {
        "#010101": 48
    }
    labels, unknown = read_mask(save(label_map(2) > 0, tmp_path / "bits.png"), palette_description)
    assert unknown == {"#FFFFFF": 48}
    assert (labels == IGNORED).all()
    with pytest.raises(InputError, match="no exact colours"):
        read_mask(save(label_map(2).astype(np.uint16), tmp_path / "deep.png"), palette_description)


def test_index_masks(tmp_path, index_description):
    values = np.array([0, 1, 3, 15], np.uint8)[label_map(4)]
    expected = np.array([0, 1, IGNORED, 1], np.uint8)[label_map(4)]
    indexed = Image.frombytes("P", (WIDTH_PX, HEIGHT_PX), values.tobytes())
    indexed.putpalette([9] * 768)
    indexed.save(tmp_path / "indexed.png")
    packed = b"".join(b"\0" + bytes((row[::2] << 4) | row[1::2]) for row in values)
    (tmp_path / "four_bits.png").write_bytes(fake_sets.raw_png(WIDTH_PX, HEIGHT_PX, 4, packed))
    files = [
        save(values, tmp_path / "grey.png"),
        save(np.dstack([values] * 3), tmp_path / "rgb.png"),
        save(np.dstack([values, GREY]), tmp_path / "alpha.png"),
        save(values.astype(np.uint16), tmp_path / "deep.png"),
        save(values.astype(np.int32), tmp_path / "deep.tif"),
        save(values.astype(np.float32), tmp_path / "float.tif"),
        tmp_path / "indexed.png",
        tmp_path / "four_bits.png",
    ]
    for file in files:
        labels, unknown = read_mask(file, index_description)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected), file
        assert unknown == {}, file


def test_index_masks_of_other_numbers(tmp_path, index_description):
    labels, unknown = read_mask(
        save(label_map(2).astype(np.uint16) * 40000, tmp_path / "deep.png"), index_description
    )
    assert set(np.unique(labels)) == {0, 2}
    assert read_mask(save(label_map(2) > 0, tmp_path / "bits.png"), index_description)[0].max() == 1
    _, unknown = read_mask(
        save(np.array([[-1, 70000, 65536, 0]], np.int32), tmp_path / "far.tif"), index_description
    )
    assert unknown == {"-1": 1, "70000": 1, "65536": 1}
    far = np.array([[-1, 70000, np.nan, 2.0**100, np.inf, 0]], np.float32)
    labels, unknown = read_mask(save(far, tmp_path / "float.tif"), index_description)
    assert labels.tolist() == [[IGNORED] * 5 + [0]]
    assert unknown == {"-1": 1, "70000": 1, "1.26765060022823e+30": 1, "inf": 1}
    with pytest.raises(InputError, match="holds colours or fractions"):
        read_mask(save(far[:, :2] + 0.5, tmp_path / "half.tif"), index_description)
    with pytest.raises(InputError, match="holds colours or fractions"):
        read_mask(save(PHOTOGRAPH, tmp_path / "rgb.png"), index_description)


def test_a_size_that_pillow_warns_of_is_no_problem(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(fake_sets.raw_png(20_000, 10_000, 8, b""))
    assert open_raster(path).width_px == 20_000


def test_files_decoded_in_strips_are_the_same(
    tmp_path, monkeypatch, palette_description, index_description
):
    """Of every mode, in strips that don't divide the height."""
    colors = np.array([(255, 0, 0), (0, 255, 0), (9, 9, 9), (0, 0, 0)], np.uint8)
    indexed = Image.fromarray(PHOTOGRAPH).convert("P")
    indexed.save(tmp_path / "p.png")
    images = [
        tmp_path / "p.png",
        save(PHOTOGRAPH, tmp_path / "rgb.jpg"),
        save(GREY, tmp_path / "grey.png"),
        save(GREY.astype(np.uint16) * 257, tmp_path / "deep.png"),
    ]
    masks = [
        (save(colors[label_map(4)], tmp_path / "palette.png"), palette_description),
        (
            save(np.array([0, 1, 3, 9], np.uint8)[label_map(4)], tmp_path / "index.png"),
            index_description,
        ),
        (
            save(np.array([0, 1, 3, 40001], np.uint16)[label_map(4)], tmp_path / "deep_index.png"),
            index_description,
        ),
    ]
    whole = [read_image(path) for path in images], [read_mask(*mask) for mask in masks]
    monkeypatch.setattr(rasters, "_STRIP_PX", 3 * WIDTH_PX)
    assert all(
        np.array_equal(read_image(path), expected)
        for path, expected in zip(images, whole[0], strict=True)
    )
    for mask, (labels, unknown) in zip(masks, whole[1], strict=True):
        again = read_mask(*mask)
        assert np.array_equal(again[0], labels)
        assert again[1] == unknown != {}
