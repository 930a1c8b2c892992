"""Pixels of any kind, from file to network, and masks that are read by choice: the cases that went
wrong in silence, made here, and those of a folder of examples where there is one."""

import json
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.warp
import tifffile
from PIL import Image

from cnn_jax.commands.inspect_data import inspect, report
from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data import augmentation
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.descriptions import BUILT_IN, Description, load_description
from cnn_jax.data.masks import check_lossless
from cnn_jax.data.normalization import moments, normalization
from cnn_jax.data.pipeline import DecodedScenes, training_batches
from cnn_jax.data.rasters import digest, open_raster, photograph, upright
from cnn_jax.data.scene_folders import class_counts, dataset_info, open_folder, warnings_of
from cnn_jax.data.scenes import IGNORED, SPLITS
from cnn_jax.errors import InputError
from cnn_jax.run import train_and_evaluate
from cnn_jax.tasks import build_model
from cnn_jax.tasks.segmentation import SegmentationDataset
from cnn_jax.tasks.segmentation_learner import SegmentationLearner
from experiments import aerial_unet

CASES = Path(__file__).parents[2].parent / "shared" / "cases"

TWO_CLASSES = """
image = "images/{name}.*"
mask = "masks/{name}.*"
mask_values = "index"
classes = [{name = "background", values = [0]}, {name = "road", values = [255]}]
[splits]
validation_share = 0.2
test_share = 0.2
"""
COLORS = TWO_CLASSES.replace('"index"', '"palette"').replace(
    'classes = [{name = "background", values = [0]}, {name = "road", values = [255]}]',
    'classes = [{name = "a", values = ["#3C1098"]}, {name = "b", values = ["#E2A929"]}]',
)


def scene(number):
    """Noise with a bright square, and the mask of the square: 6.25% of the pixels."""
    random = np.random.default_rng(number)
    image = random.integers(0, 120, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    top, left = random.integers(0, 48, 2)
    mask[top : top + 16, left : left + 16] = 1
    image[mask == 1] = 200
    return image, mask


def png(path, pixels):
    Image.fromarray(pixels).save(path.with_suffix(".png"))


def tiff(**options):
    return lambda path, pixels: tifffile.imwrite(path.with_suffix(".tif"), pixels, **options)


def write_folders(folder, image_writer=png, mask_writer=png):
    """A set in the layout `folders`."""
    for split, numbers in (("train", range(3)), ("test", range(3, 5))):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for number in numbers:
            image, mask = scene(number)
            image_writer(folder / split / "images" / str(number), image)
            mask_writer(folder / split / "masks" / str(number), mask)
    return DataConfig(source="folders", directory=str(folder))


def write_own(folder, toml, masks, image_writer=png, mask_writer=png, names=None):
    """A set of a TOML description: an image for each of the masks."""
    (folder / "set.toml").write_text(toml)
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        image_writer(folder / "data/images" / str(number), scene(number)[0][: len(mask)])
        mask_writer(folder / "data/masks" / str(number), mask)
    return DataConfig(source=str(folder / "set.toml"), directory=str(folder / "data"))


def every(scenes):
    return [scene for split in SPLITS for scene in scenes.splits[split]]


def shares(scenes):
    """Of each label, its share of all pixels."""
    masks = np.stack([scene.read()[1] for scene in every(scenes)])
    return {int(label): float((masks == label).mean()) for label in np.unique(masks)}


def refusal(config):
    with pytest.raises(InputError) as caught:
        open_folder(config)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "damaged" not in message
    return message


# ---- photographs

DEEP = {
    "16 bits, planar": (
        lambda image: np.uint16(image) * 257,
        lambda path, image: tifffile.imwrite(
            path.with_suffix(".tif"),
            image.transpose(2, 0, 1),
            photometric="rgb",
            planarconfig="separate",
        ),
    ),
    "11 bits": (lambda image: np.uint16(image) * 8, tiff(photometric="rgb")),
    "four bands of 12 bits": (
        lambda image: np.uint16(np.dstack([image, image[..., :1]])) * 16,
        tiff(photometric="minisblack", planarconfig="contig"),
    ),
    "one band of fractions": (lambda image: image[..., :1] / np.float32(7) - 3, tiff()),
    "grey, signed": (lambda image: np.int16(image[..., :1]) * -100, tiff()),
    "five bands, tiled": (
        lambda image: np.dstack([image, image[..., :2]]),
        tiff(photometric="minisblack", planarconfig="contig", tile=(16, 16)),
    ),
    "16 bits a colour in PNG": (
        lambda image: np.uint16(image) * 257 + 3,
        lambda path, image: write_png16(path.with_suffix(".png"), image),
    ),
}


def write_png16(path, image):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            *(path, "w", "PNG", image.shape[1], image.shape[0], image.shape[2]), dtype="uint16"
        ) as to:
            to.write(np.moveaxis(image, -1, 0))


@pytest.mark.parametrize("case", DEEP)
def test_photographs_are_as_stored(case, tmp_path):
    change, writer = DEEP[case]
    config = write_folders(tmp_path, lambda path, image: writer(path, change(image)))
    scenes = open_folder(config)
    expected = change(scene(0)[0])
    assert (scenes.channels, scenes.dtype) == (expected.shape[-1], expected.dtype.name)
    for split, numbers in (("train", (0, 1)), ("validation", (2,)), ("test", (3, 4))):
        for found, number in zip(scenes.splits[split], numbers, strict=True):
            image, mask = found.read()
            np.testing.assert_array_equal(image, change(scene(number)[0]))
            np.testing.assert_array_equal(mask, scene(number)[1])
    text = report(inspect(config, tmp_path / "sheet.png"))
    assert f"images: {scenes.channels} channels of {scenes.dtype}" in text
    assert (tmp_path / "sheet.png").is_file()
    if case == "11 bits":
        assert "no value exceeds 1600: say greatest = 2047" in text


def test_greatest_and_bands_of_a_description(tmp_path):
    change, writer = DEEP["11 bits"]
    toml = "greatest = 2047\nbands = [3, 1]\n" + TWO_CLASSES
    masks = [255 * scene(n)[1] for n in range(5)]
    config = write_own(tmp_path, toml, masks, lambda path, image: writer(path, change(image)))
    scenes = open_folder(config)
    assert (scenes.channels, scenes.dtype, scenes.greatest) == (2, "uint16", 2047.0)
    np.testing.assert_array_equal(every(scenes)[0].read()[0], change(scene(0)[0])[..., [2, 0]])
    (tmp_path / "set.toml").write_text("bands = [4]\n" + TWO_CLASSES)
    assert "has 3 bands, and the description's bands name 4" in refusal(config)


def test_an_orientation_that_the_mask_has_not_is_refused(tmp_path):
    def turned(path, image):
        Image.fromarray(image).save(path.with_suffix(".tif"), tiffinfo={274: 3})

    assert "differ in EXIF orientation (3 and 1)" in refusal(write_folders(tmp_path, turned))
    shutil.rmtree(tmp_path)
    scenes = open_folder(write_folders(tmp_path, turned, turned))
    np.testing.assert_array_equal(every(scenes)[0].read()[0], scene(0)[0])
    np.testing.assert_array_equal(every(scenes)[0].read()[1], scene(0)[1])


def test_images_that_differ_in_kind_are_named(tmp_path):
    config = write_own(tmp_path, TWO_CLASSES, [255 * scene(n)[1] for n in range(6)])
    for number in (4, 5):
        (tmp_path / f"data/images/{number}.png").unlink()
        four = np.dstack([scene(number)[0], scene(number)[0][..., 0]])
        tiff(photometric="rgb")(tmp_path / f"data/images/{number}", four)
    said = refusal(config)
    assert "4 of 3 bands of uint8 (images/0.png), 2 of 4 bands of uint8 (images/4.tif)" in said
    (tmp_path / "set.toml").write_text("bands = [1, 2, 3]\n" + TWO_CLASSES)
    scenes = open_folder(config)
    assert "2 images of 4 bands, the last called alpha, uint8, RGB." in scenes.notes
    np.testing.assert_array_equal(every(scenes)[-1].read()[0], scene(5)[0])


def test_what_holds_no_data_is_ignored(tmp_path):
    image = np.random.default_rng(0).random((64, 64, 2)).astype(np.float32)
    image[:8] = -9999
    image[-1, 0, 1] = np.nan

    def writer(path, _):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(
                *(path.with_suffix(".tif"), "w", "GTiff", 64, 64, 2), dtype="float32", nodata=-9999
            ) as to:
                to.write(np.moveaxis(image, -1, 0))

    pixels, mask = every(open_folder(write_folders(tmp_path, writer)))[0].read()
    assert (mask[:8] == IGNORED).all()
    assert (pixels[:8] == 0).all()
    assert mask[-1, 0] == IGNORED
    np.testing.assert_array_equal(pixels[8:-1], image[8:-1])


def gtiff(pixels, **options):
    """Function that writes bands, [bands, height, width], by rasterio."""

    def write(path, _):
        bands, height, width = pixels.shape
        options.setdefault("transform", rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 2e6))
        options.setdefault("crs", "EPSG:32640")
        form = {"driver": "GTiff", "height": height, "width": width, "count": bands}
        with rasterio.open(
            path.with_suffix(".tif"), "w", dtype=pixels.dtype, **form, **options
        ) as to:
            to.write(pixels)

    return write


def test_a_band_that_is_not_taken_says_nothing_of_what_is_missing(tmp_path):
    image = np.random.default_rng(0).random((4, 64, 64)).astype(np.float32)
    image[3] = np.nan
    toml = "bands = [1, 2, 3]\n" + TWO_CLASSES
    config = write_own(tmp_path, toml, [scene(0)[1] * 255] * 5, gtiff(image))
    assert shares(open_folder(config)) == {0: 0.9375, 1: 0.0625}


def test_the_transparent_border_of_an_orthophoto_is_ignored_and_dark_infrared_is_not(tmp_path):
    image = np.random.default_rng(0).integers(1, 255, (4, 64, 64), np.uint8)
    image[:, :16] = 0  # a black border, transparent
    image[3, 20] = 0  # infrared of water, in a band that GDAL calls alpha where nothing is said
    image[:3, 30, :8], image[3, 30, :8] = 255, 0  # a white border
    for toml in (TWO_CLASSES, "bands = [1, 2, 3]\n" + TWO_CLASSES):
        folder = tmp_path / str(len(toml))
        folder.mkdir()
        config = write_own(folder, toml, [np.zeros((64, 64), np.uint8)] * 5, gtiff(image))
        _, mask = every(open_folder(config))[0].read()
        expected = np.zeros((64, 64), np.uint8)
        expected[:16] = expected[30, :8] = IGNORED
        np.testing.assert_array_equal(mask, expected)


def masked(path, seen, inside=True):
    """Gives a TIFF a mask, bool [height, width], inside it or beside it."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as file:
        file.write_mask(seen)


@pytest.mark.parametrize("file", ["image", "mask", "transparent"])
def test_what_a_file_hides_is_ignored_and_keeps_its_colours(file, tmp_path):
    """By a TIFF's own mask, the image's or the mask's, and by a PNG's alpha."""
    image, truth = scene(0)
    seen = np.ones((64, 64), bool)
    seen[:16], seen[40, 2] = False, False
    truth[:4] = 77  # no class, below what is hidden

    def hiding(path, pixels):
        if file == "transparent":
            alpha = np.where(seen, 255, 0).astype(np.uint8)
            Image.fromarray(np.dstack([pixels, alpha])).save(path.with_suffix(".png"))
            return
        bands = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        gtiff(bands, **({"photometric": "rgb"} if len(bands) == 3 else {}))(path, None)
        masked(path.with_suffix(".tif"), seen)

    writers = {"mask_writer" if file == "mask" else "image_writer": hiding}
    toml = with_values("[0]", "[1]") if file == "mask" else with_values("[0]", "[1, 77]")
    first = every(open_folder(write_own(tmp_path, toml, [truth] * 5, **writers)))
    read = {found[0].tobytes(): found for found in (one.read() for one in first)}
    pixels, labels = read[image.tobytes()]
    np.testing.assert_array_equal(labels, np.where(seen, truth == 1, IGNORED))
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize("place", [1, 3, 4])
def test_alpha_among_many_bands_counts_where_it_is_left_out(place, tmp_path):
    """Of five bands none is called alpha by default, so transparent pixels may have any colour."""
    image = np.random.default_rng(0).integers(1, 255, (5, 64, 64), np.uint8)
    image[place] = 255
    image[place, :16], image[place, 20] = 0, 1
    path, extra = tmp_path / "a.tif", ["unspecified"] * 4
    extra[place - 1] = "unassalpha"
    kind = {"photometric": "minisblack", "planarconfig": "separate", "extrasamples": extra}
    tifffile.imwrite(path, image, **kind)
    others = tuple(band for band in range(1, 6) if band != place + 1)[:3]
    pixels, void = photograph(open_raster(path), others)
    np.testing.assert_array_equal(void, image[place] == 0)
    stored = np.moveaxis(image[[band - 1 for band in others]], 0, -1)
    np.testing.assert_array_equal(pixels, np.where(void[..., None], 0, stored))
    assert photograph(open_raster(path), (1, 2, place + 1))[1] is None


# ---- masks


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("nodata", [None, -99])
def test_negative_values_of_a_mask_are_no_class(dtype, nodata, tmp_path):
    mask = np.zeros((1, 64, 64), dtype)
    mask[:, :16], mask[:, 32:] = 1, -99
    toml = with_values("[0]", "[1]")
    config = write_own(tmp_path, toml, mask, mask_writer=gtiff(mask, nodata=nodata))
    if nodata is None:
        with pytest.raises(InputError, match=r"the mask values -99 \(2,048 pixels\)"):
            every(open_folder(config))[0].read()
    else:
        assert shares(open_folder(config)) == {0: 0.25, 1: 0.25, IGNORED: 0.5}


def test_no_data_is_no_class_of_a_threshold_unless_it_is_listed(tmp_path):
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[:, :16], mask[:, 32:] = 254, 255
    for values, shown in (
        ("[254]", {0: 0.25, 1: 0.25, IGNORED: 0.5}),
        ("[255]", {0: 0.25, 1: 0.75}),
    ):
        folder = tmp_path / values
        folder.mkdir()
        toml = "threshold = 128\n" + with_values("[0]", values)
        config = write_own(folder, toml, mask, mask_writer=gtiff(mask, nodata=255))
        assert shares(open_folder(config)) == shown


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 255), ("int8", -1), ("int32", -(2**31)), ("float32", np.nan), ("float64", -1e308)],
)
@pytest.mark.parametrize("listed", ['["any other value"]', '["1-9", "any other value"]'])
def test_no_data_is_no_other_value(dtype, nodata, listed, tmp_path):
    mask = np.zeros((1, 64, 64), dtype)
    mask[:, :16], mask[:, 32:48], mask[:, 48:] = 7, 77, nodata
    config = write_own(
        tmp_path, with_values("[0]", listed), mask, mask_writer=gtiff(mask, nodata=nodata)
    )
    assert shares(open_folder(config)) == {0: 0.25, 1: 0.5, IGNORED: 0.25}


@pytest.mark.parametrize(
    ("listed", "shown"),
    [
        ('["#E2A929"]', {0: 0.5, 1: 0.25, IGNORED: 0.25}),
        ('["any other value"]', {0: 0.5, 1: 0.25, IGNORED: 0.25}),
        ('["#E2A929", "#000000"]', {0: 0.5, 1: 0.5}),
    ],
)
@pytest.mark.parametrize("nodata", [0, 255])
def test_no_data_is_no_colour_unless_it_is_listed(listed, shown, nodata, tmp_path):
    """As a class map of `cnn-jax predict`, whose no data is black in its palette; as colours too
    where it is 0."""
    indices = np.full((1, 64, 64), 3, np.uint8)
    indices[:, :16], indices[:, 16:32] = 7, nodata

    def numbered(path, _):
        gtiff(indices, nodata=nodata)(path, None)
        with rasterio.open(path.with_suffix(".tif"), "r+") as file:
            file.write_colormap(1, {3: (60, 16, 152), 7: (226, 169, 41), 255: (0, 0, 0)})

    colors = np.zeros((256, 3), np.uint8)
    colors[3], colors[7] = (60, 16, 152), (226, 169, 41)
    colored = gtiff(np.moveaxis(colors[indices[0]], -1, 0), nodata=nodata, photometric="rgb")
    toml = COLORS.replace('["#E2A929"]', listed)
    for name, writer in (("numbered", numbered), *([("colored", colored)] if not nodata else [])):
        (tmp_path / name).mkdir()
        config = write_own(tmp_path / name, toml, indices, mask_writer=writer)
        assert shares(open_folder(config)) == shown


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_numbers_whose_greys_are_in_another_order_are_refused(suffix, tmp_path):
    def turned(path, mask):
        picture = Image.fromarray(1 - mask, "P")  # 0 is the road's white
        picture.putpalette([255, 255, 255, 0, 0, 0])
        picture.save(path.with_suffix(suffix))

    config = write_own(tmp_path, with_values("[0]", "[1]"), [scene(0)[1]] * 5, mask_writer=turned)
    with pytest.raises(
        InputError,
        match=r"0\{suffix} holds numbers.*another order \(0 as 255\)".replace("{suffix}", suffix),
    ):
        every(open_folder(config))[0].read()
    colours = COLORS.replace("#3C1098", "#000000").replace("#E2A929", "#FFFFFF")
    (tmp_path / "set.toml").write_text(colours)
    assert shares(open_folder(config)) == {0: 0.9375, 1: 0.0625}


def test_colours_written_after_the_pixels_count(tmp_path):
    def write(path, mask):
        gtiff(mask[None])(path, None)
        with rasterio.open(path.with_suffix(".tif"), "r+") as to:
            to.write_colormap(1, {0: (60, 16, 152, 255), 1: (226, 169, 41, 255)})

    config = write_own(tmp_path, COLORS, [scene(0)[1]] * 5, mask_writer=write)
    assert open_raster(tmp_path / "data/masks/0.tif").photometric == "palette"
    assert shares(open_folder(config)) == {0: 0.9375, 1: 0.0625}


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (rasterio.Affine(0.5, 0, 3e5, 0, 0.5, 2e6 - 32), "EPSG:32640"),  # south-up
        (rasterio.Affine(0.5, 0, 3e5 + 1, 0, -0.5, 2e6), "EPSG:32640"),
    ],
    ids=["south up", "two pixels away"],
)
def test_a_mask_that_lies_elsewhere_is_refused(transform, crs, tmp_path):
    image = np.moveaxis(scene(0)[0], -1, 0)
    mask = scene(0)[1][None]
    config = write_own(
        *(tmp_path, with_values("[0]", "[1]"), [mask[0]] * 5),
        *(gtiff(image), gtiff(mask, transform=transform)),
    )
    assert "px away from" in refusal(config)
    write_own(
        *(tmp_path, with_values("[0]", "[1]"), [mask[0]] * 5, gtiff(image)),
        gtiff(mask, transform=rasterio.Affine(0.5, 0, 3e5 + 0.1, 0, -0.5, 2e6)),
    )
    assert shares(open_folder(config)) == {0: 0.9375, 1: 0.0625}


@pytest.mark.parametrize(
    ("crs", "away_px", "refused"),
    [
        ("EPSG:3857", 0, False),
        ("EPSG:3857", 9, True),
        ("EPSG:4326", 0, False),
        ("EPSG:4326", 9, True),
        ("EPSG:32240", None, False),  # the numbers are the image's: another name of its system
        ('LOCAL_CS["field",UNIT["metre",1]]', 9, True),
    ],
)
def test_a_mask_in_another_system_lies_where_it_says(crs, away_px, refused, tmp_path):
    image, mask = np.moveaxis(scene(0)[0], -1, 0), scene(0)[1][None]
    placed = rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 0)  # where meridians and parallels are straight
    left, bottom, right, top = 5e5, -32, 500032, 0
    if "field" not in crs:
        left, bottom, right, top = rasterio.warp.transform_bounds(
            "EPSG:32640", crs, left, bottom, right, top
        )
    moved = placed
    if away_px is not None:
        width, height = (right - left) / 64, (top - bottom) / 64
        moved = rasterio.Affine(width, 0, left + away_px * width, 0, -height, top)
    config = write_own(
        *(tmp_path, with_values("[0]", "[1]"), [mask[0]] * 5),
        *(gtiff(image, transform=placed), gtiff(mask, transform=moved, crs=crs)),
    )
    if refused:
        assert f"{tmp_path / 'data/masks/0.tif'} lies" in refusal(config)
    else:
        assert shares(open_folder(config)) == {0: 0.9375, 1: 0.0625}


def test_a_boolean_mask_is_as_stored_whatever_white_is(tmp_path):
    config = write_folders(
        tmp_path, png, lambda path, mask: tifffile.imwrite(path.with_suffix(".tif"), mask > 0)
    )
    assert open_raster(tmp_path / "train/masks/0.tif").photometric == "white is zero"
    assert shares(open_folder(config)) == {0: 0.9375, 1: 0.0625}


def lossy_tiff(path, mask):
    Image.fromarray(mask).save(path.with_suffix(".tif"), compression="jpeg", quality=50)


def webp(**options):
    return lambda path, mask: (
        Image.fromarray(mask * 255).convert("RGB").save(path.with_suffix(".webp"), **options)
    )


def jpeg(path, pixels):
    Image.fromarray(pixels).save(path.with_suffix(".jpg"), quality=75)


@pytest.mark.parametrize(
    ("writer", "said"),
    [
        (lossy_tiff, "0.tif is a TIFF of lossy compression (JPEG)"),
        (webp(quality=50), "0.webp is a lossy WebP"),
        (jpeg, "0.jpg is a JPEG"),
    ],
)
def test_lossy_masks_are_refused(writer, said, tmp_path):
    message = refusal(write_folders(tmp_path, png, writer))
    assert f"{said}, whose compression changes labels" in message
    assert "threshold, or ranges of values" in message


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_mosaic_of_lossy_masks_is_refused(suffix, tmp_path):
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / f"part{suffix}")
    path = tmp_path / "mask.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="40" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="1">part{suffix}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    mask = open_raster(path)
    if suffix == ".png":
        check_lossless(mask, BUILT_IN["folders"])
    else:
        with pytest.raises(InputError, match=r"part\.jpg is a JPEG, whose compression changes"):
            check_lossless(mask, BUILT_IN["folders"])


def test_a_lossless_webp_is_a_mask(tmp_path):
    config = write_folders(tmp_path, png, webp(lossless=True))
    assert shares(open_folder(config)) == {0: 0.9375, 1: 0.0625}


SOFT = [np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None], 64, 0) for _ in range(5)]


def with_values(background, road):
    named = TWO_CLASSES.replace("values = [0]", "values = {0}").replace("[255]", "{1}")
    return named.replace("{0}", background).replace("{1}", road)


@pytest.mark.parametrize(
    "toml",
    [
        "threshold = 128\n" + TWO_CLASSES,
        with_values('["0-127"]', '["128-255"]'),
        with_values("[0]", '["128-255"]'),
        with_values('["any other value"]', '["128-255"]'),
        "threshold = 128\n" + with_values("[255]", "[0]"),
    ],
    ids=["threshold", "ranges", "one range", "any other value", "the other way round"],
)
def test_soft_masks_by_choice(toml, tmp_path):
    config = write_own(tmp_path, toml, SOFT)
    expected = (SOFT[0] >= 128).astype(np.uint8)
    if "values = [0]}, {name" in toml and "threshold" not in toml:
        config.unknown_colors = "ignore"
        expected = np.where(SOFT[0] == 0, 0, np.where(expected, 1, IGNORED))
    if "values = [255]}, {name" in toml:
        expected = 1 - expected
    scenes = open_folder(config)
    np.testing.assert_array_equal(every(scenes)[0].read()[1], expected)
    if "threshold" in toml:
        # Nearer to 128 than to 0 or 255 are the values from 64 to 191.
        counted = int(((SOFT[0] >= 64) & (SOFT[0] <= 191)).sum())
        assert list(scenes.uncertain.values()) == [counted]


def test_values_outside_the_description_are_few_lines(tmp_path):
    config = write_own(tmp_path, TWO_CLASSES, SOFT)
    text = report(inspect(config, tmp_path / "sheet.png"))
    assert "and 57 more values" in text
    assert "threshold, ranges of" in text
    assert len(text.splitlines()) < 70
    config.unknown_colors = "ignore"
    decoded = DecodedScenes(open_folder(config).splits["train"], 1e9)
    assert class_counts(decoded, 2).tolist() == [3 * 64, 3 * 64]


def test_a_class_that_training_never_shows_is_told(tmp_path):
    config = write_own(tmp_path, TWO_CLASSES, [np.zeros((64, 64), np.uint8)] * 5)
    said = warnings_of(open_folder(config), {"train": [5, 0]})
    assert any("no training pixel is labelled road" in sentence for sentence in said)


A, B = (np.array(color) for color in ((0x3C, 0x10, 0x98), (0xE2, 0xA9, 0x29)))


def blended(number):
    """Two colours with a rim that blends them, and which is nearer."""
    share = np.clip((np.arange(64) - 20 - number) / 8, 0, 1)
    rows = np.rint(A + share[:, None] * (B - A)).astype(np.uint8)
    return np.repeat(rows[None], 64, 0), np.repeat((share > 0.5)[None], 64, 0)


@pytest.mark.parametrize("writer", [png, jpeg])
def test_colours_by_the_nearest_within_a_distance(writer, tmp_path):
    config = write_own(tmp_path, COLORS, [blended(n)[0] for n in range(5)], mask_writer=writer)
    if writer is jpeg:
        assert "0.jpg is a JPEG, whose compression changes labels" in refusal(config)
    (tmp_path / "set.toml").write_text("distance = 130\n" + COLORS)
    scenes = open_folder(config)
    for number, found in enumerate(every(scenes)):
        labels, expected = found.read()[1], blended(number)[1]
        middle = np.abs(np.arange(64) - 24 - number) < 2
        np.testing.assert_array_equal(labels[:, ~middle], expected[:, ~middle])
    assert 0 < sum(scenes.uncertain.values()) < 0.1 * 5 * 64 * 64
    said = warnings_of(scenes, {"train": [1, 1]})
    assert any("of masks (" in sentence and "uncertain" in sentence for sentence in said)
    (tmp_path / "set.toml").write_text("distance = 3\n" + COLORS)
    with pytest.raises(InputError, match="has the mask values"):
        [found.read() for found in every(open_folder(config))]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("threshold = 300", "doesn't part the values of background from those of road"),
        ("threshold = -1", "threshold is -1"),
        ("threshold = 0.5", "key threshold takes a whole number"),
        ("distance = 5", "distance is for palette masks"),
        ("bands = [0]", "bands is [0]; bands are numbered from 1"),
        ("greatest = -1", "greatest is -1"),
        ('ignored = ["9-3"]', "must be a whole number from 0 to 65535, or a range"),
        ('ignored = ["0-9"]', "ignored has 0, which classes[0].values has already"),
        ('ignored = ["any value"]', "must be a whole number from 0 to 65535, or a range"),
    ],
)
def test_descriptions_that_contradict_themselves(line, said, tmp_path):
    assert said in refusal(write_own(tmp_path, f"{line}\n{TWO_CLASSES}", SOFT))


# ---- folders


def test_pairs_that_lie_deeper_are_told(tmp_path):
    config = write_own(tmp_path, TWO_CLASSES, [255 * scene(n)[1] for n in range(5)])
    for kind in ("images", "masks"):
        shutil.copytree(tmp_path / "data" / kind, tmp_path / "data/b/deep" / kind)
    [note] = open_folder(config).notes
    assert note.startswith("10 image files match neither template and are left out: 5 in b/deep/")
    shutil.rmtree(tmp_path / "data/b")
    shutil.copy(next((tmp_path / "data/images").iterdir()), tmp_path / "data/overview.png")
    [note] = open_folder(config).notes
    assert note == (
        "1 image file matches neither template and is left out: 1 in the folder itself."
    )
    assert note in report(inspect(config, tmp_path / "sheet.png"))


def test_images_of_training_among_the_test_are_told(tmp_path):
    config = write_own(tmp_path, TWO_CLASSES, [255 * scene(n)[1] for n in range(5)])
    splits = open_folder(config).splits
    test, train = splits["test"][0].name, [one.name for one in splits["train"]]
    assert open_folder(config).notes == ()
    copied = tmp_path / "data/images" / f"{Path(train[0]).stem}.png"
    shutil.copy(copied, tmp_path / "data/images" / f"{Path(test).stem}.png")
    told = "1 images of test are images of train too: part them."
    assert open_folder(config).notes == (told,)
    assert told in report(inspect(config, tmp_path / "sheet.png"))


def test_images_without_a_mask_are_left_out_by_choice(tmp_path):
    config = write_own(tmp_path, TWO_CLASSES, [255 * scene(n)[1] for n in range(5)])
    png(tmp_path / "data/images/new", scene(9)[0])
    assert "--data.unlabelled=ignore" in refusal(config)
    config.unlabelled = "ignore"
    scenes = open_folder(config)
    assert len(every(scenes)) == 5
    assert scenes.notes == ("1 image (images/new.png) without a mask at masks/{name}.* left out.",)


def test_a_split_that_is_missing_is_told(tmp_path):
    config = write_own(tmp_path, TWO_CLASSES.partition("[splits]")[0], SOFT[:1] * 3)
    config.unknown_colors = "ignore"
    said = warnings_of(open_folder(config), {"train": [1, 1]})
    assert [sentence.split(",")[0] for sentence in said] == [
        "there are no validation scenes",
        "there are no test scenes",
    ]


def test_a_share_of_one_group_is_told_to_be_none(tmp_path):
    one = TWO_CLASSES.replace("mask_values", 'group = "all"\nmask_values').partition("[splits]")[0]
    config = write_own(tmp_path, f"{one}[splits]\nvalidation_share = 0.3\n", SOFT[:1] * 3)
    config.unknown_colors = "ignore"
    validation, test = warnings_of(open_folder(config), {"train": [1, 1]})
    assert "splits.validation_share takes whole groups" in validation
    assert "give the description splits.test_share" in test


def test_the_fingerprint_is_of_content(tmp_path):
    """Not of how names are composed, of suffixes in capitals, display colours or the TOML's
    place."""
    masks = [255 * scene(n)[1] for n in range(5)]
    (tmp_path / "one").mkdir()
    config = write_own(tmp_path / "one", TWO_CLASSES, masks)
    for kind in ("images", "masks"):
        file = tmp_path / "one/data" / kind / "0.png"
        file.rename(file.with_name("Sa\u00f1o.png"))
    first = open_folder(config).fingerprint
    two = tmp_path / "two"
    shutil.copytree(tmp_path / "one", two)
    for kind in ("images", "masks"):
        (two / "data" / kind / "Sa\u00f1o.png").rename(two / "data" / kind / "San\u0303o.PNG")
    shutil.move(two / "set.toml", two / "renamed.toml")
    shown = TWO_CLASSES.replace("values = [0]", 'values = [0], color = "#123456"')
    (two / "renamed.toml").write_text(shown)
    again = DataConfig(source=str(two / "renamed.toml"), directory=str(two / "data"))
    assert open_folder(again).fingerprint == first
    (two / "renamed.toml").write_text("threshold = 7\n" + shown)
    assert open_folder(again).fingerprint != first


# ---- what a record keeps


def test_a_description_is_read_back_from_a_record(tmp_path):
    for name, description in BUILT_IN.items():
        recorded = json.loads(json.dumps(description.to_dict()))
        assert load_description("gone.toml", recorded) == description, name
    config = write_own(tmp_path, "threshold = 128\n" + TWO_CLASSES, SOFT)
    scenes = open_folder(config)
    (tmp_path / "set.toml").unlink()
    again = open_folder(config, recorded=scenes.description)
    assert again.fingerprint == scenes.fingerprint
    with pytest.raises(InputError, match=r"the recorded description of .*: key imagge is unknown"):
        Description.from_dict({"imagge": "x"}, "the recorded description of a.toml")


def test_info_of_a_set(tmp_path):
    change, writer = DEEP["four bands of 12 bits"]
    config = write_folders(tmp_path, lambda path, image: writer(path, change(image)))
    config.mean, config.std = "auto", (0.5,)
    scenes = open_folder(config)
    decoded = {s: DecodedScenes(scenes.splits[s], 1e9) for s in SPLITS}
    info = dataset_info(config, scenes, decoded, class_counts(decoded["train"], 2))
    images = np.stack([change(scene(n)[0]) for n in (0, 1)])
    np.testing.assert_allclose(info.mean, images.mean((0, 1, 2)) / 65535, rtol=1e-12)
    assert info.std == (0.5,) * 4
    assert info.class_counts == (2 * 3840, 2 * 256)
    assert (info.channels, info.dtype, info.greatest) == (4, "uint16", 65535.0)
    assert (info.sizes, info.image_px) == ({"train": 2, "validation": 1, "test": 2}, (64, 64))
    assert DatasetInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_moments_are_exact_and_of_labelled_pixels(dtype):
    random = np.random.default_rng(0)
    image = (random.normal(300, 90, (50, 60, 3)) % 250).astype(dtype)
    mask = random.integers(0, 2, (50, 60)).astype(np.uint8) * IGNORED
    mean, std = moments(image, mask).statistics(250.0)
    kept = image[mask != IGNORED].astype(np.float64) / 250
    np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, kept.std(0), rtol=1e-9)
    deep = np.full((5000, 1, 1), 65535, np.uint16)
    deep[0] = 65534
    assert moments(deep).statistics()[1][0] == pytest.approx(np.sqrt(4999) / 5000, rel=1e-12)


def test_auto_takes_no_constant_channel_for_a_divisor():
    config = DataConfig(mean="auto", std="auto")
    image = np.dstack([np.full((4, 4), 51, np.uint8), np.arange(16, dtype=np.uint8).reshape(4, 4)])
    mean, std = normalization(config, 2, 255.0, [(image, np.zeros((4, 4), np.uint8))])
    assert mean[0] == pytest.approx(0.2)
    assert std == (1.0, pytest.approx(np.arange(16).std() / 255))
    with pytest.raises(InputError, match=r"data\.mean has 3 values, but .* have 2 channels"):
        normalization(DataConfig(mean=(0.1, 0.2, 0.3)), 2, 255.0, [])


# ---- codecs, types, layouts

CODECS = ("none", "deflate", "lzw", "packbits", "zstd", "lzma", "lerc")
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_type_layout_and_number_of_bands(codec, tmp_path):
    random = np.random.default_rng(0)
    for dtype in TYPES:
        for bands in (1, 2, 3, 4, 7):
            for layout in ("pixel", "band"):
                array = (random.normal(0, 60, (bands, 33, 41)) % 100).astype(dtype)
                path = tmp_path / f"{dtype}-{bands}-{layout}.tif"
                options = {} if codec == "none" else {"compress": codec}
                if bands % 2:
                    options |= {"tiled": True, "blockxsize": 16, "blockysize": 16}
                if codec == "lerc" and dtype == "int8":
                    continue  # LERC of this GDAL has none
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    with rasterio.open(
                        *(path, "w", "GTiff", 41, 33, bands),
                        dtype=dtype,
                        interleave=layout,
                        **options,
                    ) as to:
                        to.write(array)
                stored = open_raster(path)
                assert not stored.lossy
                assert (stored.bands, stored.planar) == (bands, layout == "band" and bands > 1)
                image, void = photograph(stored)
                assert void is None
                np.testing.assert_array_equal(image, np.moveaxis(array, 0, -1).astype(image.dtype))
                window = stored.read((slice(5, 20), slice(7, 9)))
                np.testing.assert_array_equal(window, image[5:20, 7:9])
                from_bytes = open_raster(path.read_bytes(), "bytes")
                np.testing.assert_array_equal(from_bytes.read(), stored.read())


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_tiff_and_bigtiff_are_read(order, bigtiff, tmp_path):
    array = np.random.default_rng(0).integers(0, 65536, (3, 20, 30), np.uint16)
    about = {"byteorder": order, "bigtiff": bigtiff, "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", array[0], **about)
    np.testing.assert_array_equal(open_raster(tmp_path / "a.tif").read()[..., 0], array[0])
    tifffile.imwrite(tmp_path / "pages.tif", array, **about)
    with pytest.raises(InputError, match="holds 3 pages"):
        open_raster(tmp_path / "pages.tif")


@pytest.mark.parametrize("dtype", ["int64", "uint64", "complex64", "complex128"])
def test_numbers_that_no_network_takes_are_named(dtype, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), dtype))
    with pytest.raises(InputError, match=f"numbers of type {dtype}.*save it as float32"):
        open_raster(tmp_path / "a.tif")


def recoded(data, code):
    """An uncompressed TIFF that claims another compression."""
    data = bytearray(data)
    first = int.from_bytes(data[4:8], "little")
    for entry in range(int.from_bytes(data[first : first + 2], "little")):
        at = first + 2 + 12 * entry
        if int.from_bytes(data[at : at + 2], "little") == 259:
            data[at + 8 : at + 10] = code.to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("code", "named"), [(34661, "JBIG"), (34712, "JPEG 2000"), (50002, "JPEG XL"), (12345, "12345")]
)
def test_a_codec_that_gdal_lacks_is_named(code, named, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((16, 16), np.uint8))
    (tmp_path / "a.tif").write_bytes(recoded((tmp_path / "a.tif").read_bytes(), code))
    with pytest.raises(
        InputError, match=f"compressed by .*{named}, which this build of GDAL lacks"
    ):
        photograph(open_raster(tmp_path / "a.tif"))


def test_a_jpeg_of_12_bits_is_not_called_damaged(tmp_path):
    Image.fromarray(scene(0)[0]).save(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    data[data.index(b"\xff\xc0") + 4] = 12
    (tmp_path / "a.jpg").write_bytes(data)
    for small in (False, True):
        with pytest.raises(InputError, match=r"a.jpg is of a kind.*12-bit.*save it as PNG") as told:
            open_raster(tmp_path / "a.jpg", small=small)
        assert "damaged" not in str(told.value)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_few_bits(bits, photometric, tmp_path):
    values = np.random.default_rng(0).integers(0, 2**bits, (10, 16)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            *(tmp_path / "a.tif", "w", "GTiff", 16, 10, 1),
            dtype="uint8",
            nbits=bits,
            photometric=photometric,
        ) as to:
            to.write(values, 1)
    stored = open_raster(tmp_path / "a.tif")
    assert stored.bits == bits
    np.testing.assert_array_equal(stored.read()[..., 0], values)
    spread = np.rint(values * 255.0 / (2**bits - 1))
    np.testing.assert_array_equal(photograph(stored)[0][..., 0], spread)


def test_grey_of_16_bits_with_alpha(tmp_path):
    """Which Pillow, of which the number of bands is taken, opens as colours."""
    values = np.random.default_rng(0).integers(0, 2**16, (2, 8, 12)).astype(np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(tmp_path / "a.png", "w", "PNG", 12, 8, 2, dtype="uint16") as to:
            to.write(values)
    stored = open_raster(tmp_path / "a.png")
    assert stored.alpha == "left out"
    np.testing.assert_array_equal(photograph(stored)[0], values[0][..., None])


def test_an_only_band_that_is_called_alpha_is_the_picture(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (1, 8, 12)).astype(np.uint8)
    size = {"width": 12, "height": 8, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=rasterio.Affine.scale(2), **size) as to:
        to.write(values)
        to.colorinterp = [rasterio.enums.ColorInterp.alpha]
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.colorinterp[0].name == "alpha"
    pixels, empty = photograph(open_raster(tmp_path / "a.tif"))
    np.testing.assert_array_equal(pixels, values[0][..., None])
    assert empty is None


@pytest.mark.parametrize(("mode", "alpha"), [("PA", "last"), ("CMYK", "")])
def test_bands_beside_colours_are_those_of_the_file(mode, alpha, tmp_path):
    """A palette's alpha keeps indices from being colours no more; GDAL's own isn't a band."""
    grey = np.random.default_rng(0).integers(0, 256, (8, 12)).astype(np.uint8)
    picture = Image.fromarray(grey).convert(mode if mode == "PA" else "RGB").convert(mode)
    picture.save(tmp_path / "a.tif")
    stored = open_raster(tmp_path / "a.tif")
    assert stored.alpha == alpha
    image = photograph(stored)[0]
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize("told", [0, 9, 65535])
def test_an_orientation_that_there_is_none_of_is_upright(told, tmp_path):
    tags = Image.Exif()
    tags[0x0112] = told
    Image.fromarray(scene(0)[0]).save(tmp_path / "a.jpg", exif=tags)
    assert open_raster(tmp_path / "a.jpg").orientation == 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_data_beyond_32_bits(tmp_path):
    values = np.ones((1, 8, 12))
    values[:, :2] = np.finfo(np.float64).min
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            *(tmp_path / "a.tif", "w", "GTiff", 12, 8, 1), dtype="float64", nodata=values.min()
        ) as to:
            to.write(values)
    image, void = photograph(open_raster(tmp_path / "a.tif"))
    np.testing.assert_array_equal(void, values[0] < 0)
    np.testing.assert_array_equal(image[..., 0], np.where(void, 0, 1))


def test_palettes_of_tiff_are_labels_or_colours(tmp_path):
    indices = np.random.default_rng(0).integers(0, 3, (8, 12)).astype(np.uint8)
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([60, 16, 152, 132, 41, 246, 110, 193, 228])
    picture.save(tmp_path / "a.tif")
    picture.save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        stored = open_raster(tmp_path / name)
        assert stored.photometric == "palette"
        np.testing.assert_array_equal(stored.read()[..., 0], indices)
        colors = np.array([(60, 16, 152), (132, 41, 246), (110, 193, 228)])
        np.testing.assert_array_equal(photograph(stored)[0], colors[indices])


def test_several_pages_are_refused_and_overviews_are_none(tmp_path):
    tifffile.imwrite(
        tmp_path / "pages.tif", np.zeros((3, 20, 20), np.uint8), photometric="minisblack"
    )
    with pytest.raises(InputError, match=r"holds 3 pages.*save each as a file of its own"):
        open_raster(tmp_path / "pages.tif")
    frames = [Image.fromarray(np.full((8, 8), 80 * i, np.uint8)) for i in range(3)]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"frames.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match="holds 3 frames"):
            open_raster(path, small=True)
    array = np.random.default_rng(0).integers(0, 99, (1, 600, 600)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(tmp_path / "a.tif", "w", "GTiff", 600, 600, 1, dtype="uint8") as to:
            to.write(array)
        with rasterio.open(tmp_path / "a.tif", "r+") as to:
            to.build_overviews([2, 4])
    np.testing.assert_array_equal(open_raster(tmp_path / "a.tif").read()[..., 0], array[0])


@pytest.mark.parametrize("within", [0, 1])
def test_a_preview_before_the_image_is_not_read_in_its_place(within, tmp_path):
    image = np.zeros((40, 60), np.uint8)
    about = {"photometric": "minisblack", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as to:
        to.write(image[::4, ::4].copy(), subfiletype=1, subifds=within, **about)
        to.write(image, subfiletype=0, **about)
    with pytest.raises(InputError, match=r"begins with a preview.*save the image itself"):
        open_raster(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "alone.tif", image, subfiletype=1, **about)
    assert open_raster(tmp_path / "alone.tif").read().shape == (40, 60, 1)


@pytest.mark.parametrize("inside", [True, False])
def test_a_tiffs_own_mask_is_read_and_known_by(inside, tmp_path):
    """As drones' orthophotos have it: JPEG, and one bit a pixel of what was photographed."""
    path, seen = tmp_path / "orthophoto.tif", np.ones((32, 48), bool)
    gtiff(np.full((3, 32, 48), 200, np.uint8), photometric="ycbcr", compress="jpeg")(path, None)
    plain = open_raster(path)
    assert plain.hidden() is None
    seen[:9], seen[20, 7] = False, False
    before = digest(path)
    masked(path, seen, inside)
    assert (tmp_path / "orthophoto.tif.msk").exists() != inside
    raster = open_raster(path)
    assert (plain.masked, raster.masked) == (False, True)
    assert digest(path) != before
    np.testing.assert_array_equal(raster.hidden()(slice(None), slice(None)), ~seen)
    np.testing.assert_array_equal(raster.hidden()(slice(8, 22), slice(5, 9)), ~seen[8:22, 5:9])
    np.testing.assert_array_equal(raster.read(), plain.read())


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_a_mask_beside_other_images_is_read(suffix, tmp_path):
    path, seen = tmp_path / f"a.{suffix}", np.ones((64, 64), bool)
    seen[:9], seen[20, 7] = False, False
    Image.fromarray(scene(0)[0]).save(path)
    Image.fromarray(scene(0)[0]).save(tmp_path / "other.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masked(tmp_path / "other.png", seen)
    (tmp_path / "other.png.msk").rename(tmp_path / f"a.{suffix}.msk")
    raster = open_raster(path)
    np.testing.assert_array_equal(raster.hidden()(slice(None), slice(None)), ~seen)
    assert not open_raster(path, small=True).masked


def test_a_mask_that_gdal_puts_into_a_jpeg_is_read(tmp_path):
    path, seen = tmp_path / "a.tif", np.ones((64, 64), bool)
    gtiff(np.moveaxis(scene(0)[0], -1, 0))(path, None)
    seen[:9], seen[20, 7] = False, False
    for name, hides in (("plain.jpg", False), ("a.jpg", True)):
        if hides:
            masked(path, seen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rasterio.shutil.copy(path, tmp_path / name, driver="JPEG")
        (tmp_path / f"{name}.aux.xml").unlink()
        raster = open_raster(tmp_path / name)
        assert raster.masked == hides
    assert not list(tmp_path.glob("*.msk"))
    np.testing.assert_array_equal(raster.hidden()(slice(None), slice(None)), ~seen)
    np.testing.assert_array_equal(photograph(raster)[0], np.asarray(Image.open(tmp_path / "a.jpg")))


def test_georeference_and_no_data_are_told(tmp_path):
    transform = rasterio.Affine(0.5, 0.0, 500000.0, 0.0, -0.5, 4600000.0)
    with rasterio.open(
        *(tmp_path / "a.tif", "w", "GTiff", 6, 5, 1),
        dtype="uint16",
        crs="EPSG:32618",
        transform=transform,
        nodata=7,
    ) as to:
        to.write(np.arange(30, dtype=np.uint16).reshape(1, 5, 6))
    stored = open_raster(tmp_path / "a.tif")
    assert stored.transform == (0.5, 0.0, 500000.0, 0.0, -0.5, 4600000.0)
    assert "32618" in stored.crs
    assert stored.nodata == 7
    image, void = photograph(stored)
    assert np.argwhere(void).tolist() == [[1, 1]]
    assert image[1, 1, 0] == 0


@pytest.mark.parametrize("sides", [(0, 0), (0.5, 0), (0, -0.5), (np.nan, -0.5), (0.5, np.inf)])
def test_pixels_without_area_place_nothing(sides, tmp_path):
    place = rasterio.Affine(sides[0], 0, 500_000, 0, sides[1], 4_600_000)
    gtiff(np.full((3, 32, 48), 9, np.uint8), transform=place)(tmp_path / "a.tif", None)
    stored = open_raster(tmp_path / "a.tif")
    assert stored.transform is None
    assert "32640" in stored.crs


@pytest.mark.parametrize(
    "name", ["a.tif", "a.png", "a.JPG", "a.bmp", "a.webp", "a.jp2", "deep.png"]
)
def test_what_gdal_keeps_beside_a_file_is_read(name, tmp_path):
    values = np.full((8, 12), 7, np.uint16 if name == "deep.png" else np.uint8)
    values[:, 5:] = 200
    path = tmp_path / name
    if name == "a.jp2":
        tiff = tmp_path / "within" / "a.tif"
        tiff.parent.mkdir()
        gtiff(values[None])(tiff, None)
        with rasterio.Env(GDAL_PAM_ENABLED=False):
            rasterio.shutil.copy(tiff, path, driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES")
    else:
        Image.fromarray(values).save(path, lossless=True)
    alone, bands = digest(path), 3 if name == "a.webp" else 1
    sidecar = tmp_path / f"{name}.aux.xml"
    sidecar.write_text("<PAMDataset><Metadata><MDI key='mean'>7</MDI></Metadata></PAMDataset>")
    assert digest(path) == alone
    nothing = "<NoDataValue>7</NoDataValue></PAMRasterBand>"
    nothing = "".join(f'<PAMRasterBand band="{band + 1}">{nothing}' for band in range(bands))
    place = "<SRS>EPSG:32618</SRS><GeoTransform>5e5,0.5,0,4.6e6,0,-0.5</GeoTransform>"
    sidecar.write_text(f"<PAMDataset>{place}{nothing}</PAMDataset>")
    stored = open_raster(path)
    with rasterio.open(path) as gdal:
        assert stored.transform == tuple(gdal.transform)[:6] == (0.5, 0, 5e5, 0, -0.5, 4.6e6)
        assert stored.crs == gdal.crs.to_wkt() != ""
        assert stored.nodata == gdal.nodata == 7
        void = (gdal.read() == 7).all(0)
    np.testing.assert_array_equal(photograph(stored)[1], void)
    assert digest(path) != alone
    assert sidecar.read_text().startswith("<PAMDataset><SRS>EPSG")


@pytest.mark.parametrize(
    "names",
    [
        *(("a.tif", "a.tfw"), ("a.png", "a.pgw"), ("a.jpg", "a.jgw"), ("a.JPG", "a.JGW")),
        *(("a.jpeg", "a.jpegw"), ("a.bmp", "a.bpw"), ("a.png", "a.wld"), ("a.TIF", "a.wld")),
    ],
)
def test_world_files_place_an_image(names, tmp_path):
    image, world = (tmp_path / name for name in names)
    Image.fromarray(scene(0)[0]).save(image)
    assert open_raster(image).transform is None
    world.write_text("0.5\n0\n0\n-0.5\n500000.25\n4599999.75\n")  # of the first pixel's middle
    stored = open_raster(image)
    assert stored.transform == (0.5, 0.0, 500000.0, 0.0, -0.5, 4600000.0)
    assert stored.crs == ""


def test_jpeg_2000(tmp_path):
    array = np.random.default_rng(0).integers(0, 60000, (3, 64, 48)).astype(np.uint16)
    for name, options, lossy in (
        ("exact", {"QUALITY": 100, "REVERSIBLE": "YES"}, False),
        ("lossy", {"QUALITY": 20}, True),
    ):
        path = tmp_path / f"{name}.jp2"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(
                *(path, "w", "JP2OpenJPEG", 48, 64, 3), dtype="uint16", **options
            ) as to:
                to.write(array)
        stored = open_raster(path)
        assert (stored.format, stored.bands, stored.dtype) == ("JPEG 2000", 3, "uint16")
        assert stored.lossy == lossy
        if not lossy:
            np.testing.assert_array_equal(stored.read(), np.moveaxis(array, 0, -1))


def test_a_vrt_reads_files_below_it_alone(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.arange(12, dtype=np.uint8).reshape(3, 4))
    text = (
        '<VRTDataset rasterXSize="4" rasterYSize="3"><VRTRasterBand dataType="Byte" band="1">'
        '<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    path = tmp_path / "a.vrt"
    band = text[text.index("<VRTRasterBand") : text.index("</VRTDataset>")]
    other = band.replace('"Byte" band="1"', '"UInt16" band="2"')
    path.write_text(text.replace("</VRTDataset>", f"{other}</VRTDataset>"))
    with pytest.raises(InputError, match=r"bands of different types \(uint16, uint8\): save it"):
        open_raster(path)
    path.write_text(text)
    np.testing.assert_array_equal(open_raster(path).read().ravel(), np.arange(12))
    declared = "<?xml version='1.0' encoding='utf-8'?>\n"  # as Python's own XML is written
    path.write_text(declared + text)
    np.testing.assert_array_equal(open_raster(path).read().ravel(), np.arange(12))
    path.write_text(declared + text.replace("a.tif", "../a.tif"))
    with pytest.raises(InputError, match="may name only files beside or below it"):
        open_raster(path)
    for wrong in ("/etc/hostname", "../a.tif", "/vsicurl/https://example.org/a.tif"):
        path.write_text(text.replace("a.tif", wrong))
        with pytest.raises(InputError, match="may name only files beside or below it"):
            open_raster(path)
    (tmp_path / "within").mkdir()
    within = tmp_path / "within" / "a.vrt"
    for wrong in (
        text.replace("a.tif", "&#46;&#46;/a.tif"),
        text.replace("a.tif", f"&#47;{str(tmp_path)[1:]}/a.tif"),
        text.replace("a.tif", f"{tmp_path}/a.tif").replace("SourceFilename", "sourcefilename"),
        text.replace("a.tif", "../a.tif").replace("<VRTDataset", '<VRTDataset xmlns="x"'),
    ):
        within.write_text(wrong)
        with pytest.raises(InputError, match="may name only files beside or below it"):
            open_raster(within)
    path.write_text(text)
    (tmp_path / "b.vrt").write_text(text.replace("a.tif", "a.vrt"))
    with pytest.raises(InputError, match=r"from a\.vrt, which is no image"):
        open_raster(tmp_path / "b.vrt")
    path.rename(tmp_path / "a.png")
    with pytest.raises(InputError, match="is no JPEG"):
        open_raster(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_pillows(orientation):
    from PIL import ImageOps

    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(image)
    picture.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(
        upright(image, orientation), np.asarray(ImageOps.exif_transpose(picture))
    )


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.9, 0.99])
def test_a_file_cut_short_is_one_sentence(share, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", compression="zlib")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"a\.tif can't be decoded \(.*copy it again\.$"):
        photograph(open_raster(tmp_path / "a.tif"))


# ---- the cases of a folder of examples

REFUSED = {
    "image_4band_tif": "images differ in what they store",
    "image_without_mask": "3 images (images/new_0.png",
    "jpeg_mask_binary": "is a JPEG, whose compression changes labels",
    "jpeg_mask_palette": "is a JPEG, whose compression changes labels",
}
MENDED = {
    "image_4band_tif": "bands = [1, 2, 3]\n",
    "soft_mask": "threshold = 128\n",
    "antialiased_palette": "distance = 160\n",
    "jpeg_mask_binary": "threshold = 128\n",
    "jpeg_mask_palette": "distance = 160\n",
}
KINDS = {
    "image_grey16": (1, "uint16"),
    "image_rgb16_tif": (3, "uint16"),
    "image_rgbnir_minisblack": (4, "uint8"),
}
FOLDERS = sorted(path.parent.name for path in CASES.glob("*/set.toml"))


@pytest.mark.skipif(not FOLDERS, reason="no shared/cases beside this repository")
@pytest.mark.parametrize("name", FOLDERS or ["none"])
def test_examples(name, tmp_path):
    config = DataConfig(source=str(CASES / name / "set.toml"), directory=str(CASES / name / "data"))
    if name in REFUSED:
        assert REFUSED[name] in refusal(config)
    if name in MENDED:
        toml = (CASES / name / "set.toml").read_text()
        (tmp_path / "set.toml").write_text(MENDED[name] + toml)
        config.source = str(tmp_path / "set.toml")
    if name == "image_without_mask":
        config.unlabelled = "ignore"
    scenes = open_folder(config)
    assert (scenes.channels, scenes.dtype) == KINDS.get(name, (3, "uint8"))
    held = shares(scenes)
    assert held.get(IGNORED, 0) == 0
    assert len(held) == len(scenes.classes)
    if name == "nested_varying_depth":
        assert any("6 image files match neither template" in note for note in scenes.notes)
    if name in ("soft_mask", "antialiased_palette", "jpeg_mask_binary", "jpeg_mask_palette"):
        assert scenes.uncertain or name == "jpeg_mask_binary"


# ---- to the end: a run

RUNS = {
    "four bands of 12 bits": {"mean": "auto", "std": "auto"},
    "one band of fractions": {"mean": (5.0,), "std": "auto"},
}


@pytest.mark.parametrize(
    "case",
    ["four bands of 12 bits", pytest.param("one band of fractions", marks=pytest.mark.long)],
)
def test_a_run_on_other_pixels(case, tmp_path, quick_compilation, few_pictures):
    """Trained for a few steps from files, and once more with the set on the device: the same
    figures."""
    change, writer = DEEP[case]
    data = write_folders(tmp_path / "data", lambda path, image: writer(path, change(image)))
    figures = []
    for on_device in (False, True):
        config = aerial_unet.smoke()
        config.data.source, config.data.directory = "folders", data.directory
        config.data.mean, config.data.std = RUNS[case]["mean"], RUNS[case]["std"]
        config.data.crop_px, config.data.on_device = (32, 32), on_device
        config.augmentation.saturation_probability = 0.0
        config.augmentation.noise_probability = 0.5
        config.model.base_width, config.model.depth = 4, 1
        config.training.steps, config.training.batch_size = 3, 2
        config.optimizer.warmup_steps = 1
        config.evaluation.window_px, config.evaluation.context_px = (48, 48), 4
        summary = train_and_evaluate(config, tmp_path / f"run{on_device}")
        figures.append([summary[f"{split}/loss"] for split in ("validation", "test")])
        assert summary["test/pixels"] == 2 * 64 * 64
        channels = change(scene(0)[0]).shape[-1]
        assert summary["parameters"] == figures_of_unet(config, channels)
    assert np.isfinite(figures).all()
    np.testing.assert_allclose(figures[0], figures[1], rtol=1e-5)


@pytest.mark.parametrize("case", ["11 bits", "four bands of 12 bits", "one band of fractions"])
def test_a_learner_normalises_stored_pixels_as_its_record_says(case, tmp_path, quick_compilation):
    """The record alone, gone through JSON, makes what NumPy makes; in training as in evaluation."""
    change, writer = DEEP[case]
    data = write_folders(tmp_path / "data", lambda path, image: writer(path, change(image)))
    config = aerial_unet.smoke()
    config.data.source, config.data.directory = "folders", data.directory
    config.data.mean = config.data.std = "auto"
    config.data.crop_px = (32, 32)
    for name in vars(config.augmentation):
        if name.endswith("_probability"):
            setattr(config.augmentation, name, 0.0)
    dataset = SegmentationDataset(config)
    info = DatasetInfo.from_dict(json.loads(json.dumps(dataset.info.to_dict())))
    learner = SegmentationLearner(config, info)
    stored = change(scene(0)[0])
    every_pixel = np.stack([change(scene(n)[0]) for n in (0, 1)]).astype(np.float64)
    mean, std = every_pixel.mean((0, 1, 2)), every_pixel.std((0, 1, 2))
    expected = (stored - mean) / std
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(learner.normalize(jax.numpy.asarray(stored)), expected, atol=1e-4)
    batch = training_batches(dataset.training_source(learner), seed=0, batch_size=4)[0]
    keys = augmentation.example_keys(config.seed, batch.pop("position"))
    crops, _ = learner.prepare(keys, batch)
    assert abs(float(crops.mean())) < 0.6
    assert 0.4 < float(crops.std()) < 1.6


def figures_of_unet(config, channels):
    """The parameters of the run's network for so many channels."""
    module = build_model(config.model, num_classes=2, axis_name=None, crop_px=(32, 32))
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), np.zeros((1, 32, 32, channels)), train=False)
    )
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))


def test_colours_that_the_bands_have_not_are_refused_before_a_run(tmp_path):
    change, writer = DEEP["four bands of 12 bits"]
    data = write_folders(tmp_path / "data", lambda path, image: writer(path, change(image)))
    config = aerial_unet.smoke()
    config.data.source, config.data.directory = "folders", data.directory
    config.augmentation.saturation_probability = 0.5
    with pytest.raises(InputError, match=r"augmentation\.saturation_probability .* 4 channels of"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
