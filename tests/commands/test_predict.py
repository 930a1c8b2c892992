"""`cnn-jax predict`: what is written of pictures and of scenes, that a killed command goes on, and
what is refused."""

import csv
import dataclasses
import json
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

import cnn_jax
from cnn_jax import tasks
from cnn_jax.commands import predict
from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.descriptions import load_description
from cnn_jax.data.polygons import burnt, open_polygons
from cnn_jax.data.rasters import open_raster
from cnn_jax.data.scene_folders import open_scenes
from cnn_jax.errors import InputError
from cnn_jax.inference import pictures, predictor
from cnn_jax.inference.outputs import quiet_gdal
from cnn_jax.inference.scenes import opened
from cnn_jax.training.devices import Devices
from tests.running import ROOT, environment

pytestmark = pytest.mark.usefixtures("quick_compilation")

UTM = "EPSG:32640"
PLACE = Affine(0.5, 0, 300_000, 0, -0.5, 2_780_000)
PART = Affine(0.5, 0, 300_010, 0, -0.5, 2_779_995)


@pytest.fixture(scope="module")
def run(reference):
    """The reference run, whose windows are 64x64 px."""
    return cnn_jax.load(reference[0])


@pytest.fixture
def command(run, reference, monkeypatch, capsys):
    """Function that runs the command on that run: (exit code, output, error)."""
    monkeypatch.setattr(predictor, "load", lambda folder: run)

    def command(*arguments):
        capsys.readouterr()
        code = predict.main([str(reference[0]), *map(str, arguments)])
        return code, *capsys.readouterr()

    return command


def pixels(height=150, width=131, channels=3, dtype=np.uint8):
    """Noise in patches, so that classes vary."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, np.iinfo(dtype).max, (height // 8 + 1, width // 8 + 1, channels))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(dtype)


def write(path, image, **options):
    """A GeoTIFF in tiles of 64x64 px."""
    options = {"crs": UTM, "transform": PLACE, "compress": "deflate", **options}
    options = {key: value for key, value in options.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=image.shape[0],
            width=image.shape[1],
            count=image.shape[2],
            dtype=image.dtype,
            tiled=True,
            blockxsize=64,
            blockysize=64,
            **options,
        ) as file:
            file.write(np.moveaxis(image, -1, 0))
    return path


def read(path):
    """(bands, what the file says of itself)."""
    said = ("crs", "transform", "nodata", "block_shapes", "compression", "descriptions", "scales")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            return file.read(), SimpleNamespace(**{name: getattr(file, name) for name in said})


def listed(folder):
    """Every file below a folder, hidden ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_pictures_become_palette_pngs_with_areas(command, run, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    images = {"a": pixels(), "deep/b": pixels(40, 50)}
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "notes.txt").write_text("no picture")
    code, out, err = command(folder, "--output", tmp_path / "out", "--overlay")
    assert (code, err) == (0, "")
    assert str(tmp_path / "out") in out
    expected = ["a-overlay.png", "a.png", "areas.csv", "deep/b-overlay.png", "deep/b.png"]
    assert listed(tmp_path / "out") == [*expected, "prediction.json"]
    with (tmp_path / "out/areas.csv").open() as file:
        areas = list(csv.DictReader(file))
    for name, image in images.items():
        prediction = run.predict(image)
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), prediction.classes)
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), prediction.colored())
        with Image.open(tmp_path / "out" / f"{name}-overlay.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), prediction.overlay(image))
        rows = [row for row in areas if row["picture"] == name]
        assert [row["class"] for row in rows] == list(run.info.classes)
        counts = np.bincount(prediction.classes.ravel(), minlength=len(run.info.classes))
        assert [int(row["pixels"]) for row in rows] == counts.tolist()
        assert {row["square_metres"] for row in rows} == {""}
        assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)


def test_a_folder_is_searched_through_links_and_only_files_are_pictures(command, tmp_path):
    """A folder may be called like a picture or be a link, but not lead back to where it lies."""
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    (folder / "sub.tif").mkdir(parents=True)
    elsewhere.mkdir()
    for path in (folder / "sub.tif/a.png", elsewhere / "b.png"):
        Image.fromarray(pixels(40, 50)).save(path)
    (folder / "link").symlink_to(elsewhere)
    code, _, err = command(folder, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    expected = ["areas.csv", "link/b.png", "prediction.json", "sub.tif/a.png"]
    assert listed(tmp_path / "out") == expected
    (elsewhere / "back").symlink_to(folder)
    code, _, err = command(folder, "--output", tmp_path / "again")
    assert code == 2
    assert "back is a link to a folder that it lies in: remove it." in err


def test_outputs_may_lie_above_the_pictures_and_not_among_them(command, run, tmp_path):
    """Both were told to hold no picture."""
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels(40, 50)).save(tmp_path / "in/a.png")
    assert command(tmp_path / "in", "--output", tmp_path)[0] == 0
    with Image.open(tmp_path / "a.png") as found:
        np.testing.assert_array_equal(np.asarray(found), run.predict(pixels(40, 50)).classes)
    before = listed(tmp_path)
    for same in (tmp_path / "in", tmp_path / "in/../in"):
        code, _, err = command(tmp_path / "in", "--output", same)
        assert code == 2
        assert f"error: --output {same} is the folder of the pictures" in err
    assert listed(tmp_path) == before
    assert command(tmp_path / "in", "--output", tmp_path / "in/out")[0] == 0
    assert command(tmp_path / "in", "--output", tmp_path / "in/out", "--resume")[0] == 0
    assert listed(tmp_path / "in/out") == ["a.png", "areas.csv", "prediction.json"]


def test_pictures_of_formats_that_are_not_read_are_told(command, tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    Image.fromarray(pixels(40, 50)).save(tmp_path / "in/a.png")
    Image.fromarray(pixels(40, 50)).save(tmp_path / "in/deep/b.GIF")
    code, out, _ = command(tmp_path / "in", "--output", tmp_path / "out")
    assert code == 0
    assert f"note: {tmp_path / 'in'}: images of formats that aren't read (.gif) are left" in out
    assert "1 in deep." in out


def test_a_scene_keeps_its_place_and_its_outputs_agree(command, run, tmp_path):
    image = pixels()
    scene = write(tmp_path / "scene.tif", image, nodata=0)
    image[:20, :30] = 0
    write(scene, image, nodata=0)
    output = tmp_path / "out"
    flags = ["--probabilities", "uint8", "--uncertainty", "--overlay", "--polygons"]
    flags += ["--least-px", "9"]
    code, _, err = command(scene, "--output", output, *flags)
    assert (code, err) == (0, "")
    void = np.zeros(image.shape[:2], bool)
    void[:20, :30] = True
    prediction = run.predict(image)

    (classes,), file = read(output / "scene.tif")
    assert (file.crs, file.transform, file.nodata) == (CRS.from_string(UTM), PLACE, 255)
    assert file.block_shapes[0] == (256, 256)
    assert file.compression.name == "deflate"
    np.testing.assert_array_equal(classes, np.where(void, 255, prediction.classes))
    with rasterio.open(output / "scene.tif") as file:
        colors = file.colormap(1)
        assert file.tags()["CLASS_0"] == run.info.classes[0]
    assert [colors[i][:3] for i in range(len(run.info.colors))] == list(run.info.colors)

    stored, file = read(output / "scene-probabilities.tif")
    assert file.descriptions == run.info.classes
    assert file.scales == (1 / 254,) * len(run.info.classes)
    np.testing.assert_array_equal(stored[:, void], 255)
    np.testing.assert_allclose(
        stored[:, ~void].T / 254, prediction.probabilities[~void], atol=0.5 / 254 + 1e-6
    )
    for name in ("confidence", "entropy"):
        (values,), file = read(output / f"scene-{name}.tif")
        assert np.isnan(file.nodata)
        assert np.isnan(values[void]).all()
        np.testing.assert_allclose(values[~void], getattr(prediction, name)[~void], atol=1e-3)
    overlay, _ = read(output / "scene-overlay.tif")
    np.testing.assert_array_equal(overlay[:, void], 0)
    np.testing.assert_array_equal(
        np.moveaxis(overlay, 0, -1)[~void], prediction.overlay(image)[~void]
    )
    with (output / "areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["pixels"]) for row in rows) == (~void).sum()
    for row in rows:
        assert float(row["square_metres"]) == int(row["pixels"]) / 4

    areas = json.loads((output / "scene.geojson").read_text("utf-8"))["features"]
    known = sum(area["properties"]["pixels"] for area in areas)
    assert 0.9 * (~void).sum() < known <= (~void).sum()
    assert min(area["properties"]["pixels"] for area in areas) >= 9
    for area in areas:
        assert area["properties"]["square_metres"] == area["properties"]["pixels"] / 4
        for longitude, latitude in area["geometry"]["coordinates"][0]:
            assert 54 < longitude < 56
            assert 24 < latitude < 26


@pytest.mark.parametrize("turn", [0, 30, 180])
@pytest.mark.parametrize("scales", [(0.5, -0.5), (0.5, 0.5), (-0.5, -0.5)])
def test_outlines_run_counterclockwise_and_holes_clockwise(turn, scales, command, tmp_path):
    """As RFC 7946 has it, from scenes upside down and mirrored too: some programs take for an
    outline that runs clockwise the rest of the earth."""
    place = Affine.translation(300_000, 2_780_000) @ Affine.rotation(turn) @ Affine.scale(*scales)
    scene = write(tmp_path / "scene.tif", pixels(70, 60), transform=place)
    assert command(scene, "--output", tmp_path / "out", "--polygons")[0] == 0
    areas = json.loads((tmp_path / "out/scene.geojson").read_text("utf-8"))["features"]
    assert any(len(area["geometry"]["coordinates"]) > 1 for area in areas)
    for area in areas:
        for number, ring in enumerate(area["geometry"]["coordinates"]):
            x, y = np.array(ring).T
            x, y = x - x[0], y - y[0]
            twice = np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])
            assert (twice > 0) == (number == 0)


def test_polygons_without_a_least_size_give_back_every_pixel(command, tmp_path):
    from rasterio import features

    scene = write(tmp_path / "scene.tif", pixels(), crs=None, transform=None)
    code, _, _ = command(scene, "--output", tmp_path / "out", "--polygons")
    assert code == 0
    areas = json.loads((tmp_path / "out/scene.geojson").read_text("utf-8"))["features"]
    (classes,), _ = read(tmp_path / "out/scene.tif")
    shapes = [(area["geometry"], area["properties"]["label"]) for area in areas]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        burnt = features.rasterize(shapes, classes.shape, fill=200)
    np.testing.assert_array_equal(burnt, classes)


def test_probabilities_of_16_bits_and_a_cog(command, run, tmp_path):
    scene = write(tmp_path / "scene.tif", pixels(600, 520))
    code, _, _ = command(scene, "--output", tmp_path / "out", "--probabilities", "float16", "--cog")
    assert code == 0
    stored, file = read(tmp_path / "out/scene-probabilities.tif")
    np.testing.assert_allclose(
        np.moveaxis(stored, 0, -1), run.predict(pixels(600, 520)).probabilities, atol=1e-3
    )
    (classes,), file = read(tmp_path / "out/scene.tif")
    assert (file.crs, file.transform, file.nodata) == (CRS.from_string(UTM), PLACE, 255)
    np.testing.assert_array_equal(classes, run.predict(pixels(600, 520)).classes)
    with rasterio.open(tmp_path / "out/scene.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.overviews(1)
        assert file.colormap(1)[0][:3] == tuple(run.info.colors[0])


def test_bands_region_and_alpha(command, run, tmp_path):
    image = pixels(channels=4)
    image[..., 3] = 255
    image[70:90, :50, 3] = 0
    scene = write(tmp_path / "four.tif", image, photometric="rgb", alpha="yes")
    assert command(scene, "--output", tmp_path / "alpha")[0] == 0
    (classes,), _ = read(tmp_path / "alpha/four.tif")
    whole = run.predict(image[..., :3]).classes
    np.testing.assert_array_equal(classes == 255, image[..., 3] == 0)
    np.testing.assert_array_equal(classes[classes != 255], whole[classes != 255])

    flags = ["--bands", 3, 2, 1, "--region", 10, 20, 80, 90]
    assert command(scene, "--output", tmp_path / "part", *flags)[0] == 0
    (classes,), file = read(tmp_path / "part/four.tif")
    np.testing.assert_array_equal(classes, run.predict(image[10:90, 20:110, 2::-1]).classes)
    assert file.transform == PART

    left, top, right, bottom = 300_010, 2_779_995, 300_055, 2_779_955
    flags = [*flags[:4], "--region", left, bottom, right, top, "--region-crs", UTM]
    assert command(scene, "--output", tmp_path / "box", *flags)[0] == 0
    (same,), file = read(tmp_path / "box/four.tif")
    assert file.transform == PART
    np.testing.assert_array_equal(same, classes)


@pytest.mark.parametrize("inside", [True, False])
def test_what_a_tiffs_own_mask_hides_is_in_no_class(inside, command, run, tmp_path):
    image, seen = pixels(200, 150), np.ones((200, 150), bool)
    seen[60:70, 20:], seen[3, 4] = False, False
    scene = write(tmp_path / "a.tif", image)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(scene, "r+") as file:
        file.write_mask(seen)
    flags = ["--bands", 1, 2, 3, "--region", 2, 1, 190, 140]
    assert command(scene, "--output", tmp_path / "out", *flags)[0] == 0
    (classes,), _ = read(tmp_path / "out/a.tif")
    expected = run.predict(image[2:192, 1:141]).classes
    np.testing.assert_array_equal(classes, np.where(seen[2:192, 1:141], expected, 255))


def write_bmp(path, image):
    """A BMP of 32 bits with alpha, which Pillow doesn't write."""
    height, width, _ = image.shape
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, image.size, 0, 0, 0, 0)
    header += struct.pack("<IIII", *masks) + b"BGRs" + bytes(48)
    start = b"BM" + struct.pack("<IHHI", 122 + image.size, 0, 0, 122)
    path.write_bytes(start + header + image[::-1][..., [2, 1, 0, 3]].tobytes())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_with_files_beside_it_keeps_its_place(suffix, command, run, tmp_path):
    """A world file, and what GDAL says of the system and of what holds nothing."""
    image, path = pixels(48, 64), tmp_path / f"a.{suffix}"
    image[:, :32] = 9
    Image.fromarray(image).save(path)
    (tmp_path / f"a.{suffix[0]}{suffix[-1]}w").write_text(
        "0.5\n0\n0\n-0.5\n300000.25\n2779999.75\n"
    )
    assert command(path, "--output", tmp_path / "world", "--polygons", "--overlay")[0] == 0
    (classes,), file = read(tmp_path / "world/a.tif")
    assert (file.transform, file.crs) == (PLACE, None)
    assert read(tmp_path / "world/a-overlay.tif")[1].transform == PLACE
    np.testing.assert_array_equal(classes, run.predict(image).classes)
    areas = json.loads((tmp_path / "world/a.geojson").read_text())["features"]
    corners = np.array([at for area in areas for at in area["geometry"]["coordinates"][0]])
    assert corners.min(0).tolist() == [300_000, 2_780_000 - 24]
    assert corners.max(0).tolist() == [300_032, 2_780_000]

    nothing = "<NoDataValue>9</NoDataValue></PAMRasterBand>"
    nothing = "".join(f'<PAMRasterBand band="{band}">{nothing}' for band in (1, 2, 3))
    beside = tmp_path / f"a.{suffix}.aux.xml"
    beside.write_text(f"<PAMDataset><SRS>{UTM}</SRS>{nothing}</PAMDataset>")
    assert command(path, "--output", tmp_path / "all")[0] == 0
    (classes,), file = read(tmp_path / "all/a.tif")
    assert (file.transform, file.crs) == (PLACE, CRS.from_user_input(UTM))
    np.testing.assert_array_equal(classes == 255, (image == 9).all(-1))
    with (tmp_path / "all/areas.csv").open() as file:
        assert sum(float(row["square_metres"]) for row in csv.DictReader(file)) == 48 * 32 / 4


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "named.png", "p.png", "all.png"])
def test_transparent_pixels_are_in_no_class(name, command, run, tmp_path):
    """By alpha; by a colour, or entries of a palette, that the file names as transparent."""
    image = pixels(48, 64, 4)
    image[..., 3] = 255
    image[:, :32, 3] = 0
    image[0, 40, 3] = 1  # not wholly
    void = image[..., 3] == 0
    whole, path = Image.fromarray(image), tmp_path / name
    if name == "a.bmp":
        write_bmp(path, image)
    elif name == "named.png":
        image[void] = 7
        image[5, 50, :3] = 7, 7, 8
        Image.fromarray(image[..., :3]).save(path, transparency=(7, 7, 7))
    elif name == "p.png":
        indices = whole.convert("RGB").quantize(99)
        indices.save(path, transparency=bytes(9) + b"\1")
        void, image = np.asarray(indices) < 9, np.asarray(indices.convert("RGB"))
    elif name == "all.png":
        void = np.ones_like(void)
        image[..., 3] = 0
        Image.fromarray(image).save(path)
    else:
        whole.save(path, lossless=True, exact=True)
    code, _, err = command(path, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "out" / f"{path.stem}.png") as picture:
        found = np.asarray(picture)
    expected = run.predict(np.ascontiguousarray(image[..., :3])).classes
    np.testing.assert_array_equal(found, np.where(void, 255, expected))
    with (tmp_path / "out/areas.csv").open() as file:
        assert sum(int(row["pixels"]) for row in csv.DictReader(file)) == (~void).sum()


def test_alpha_beside_a_palette_is_heeded(command, tmp_path):
    indices = pixels(48, 64, 2)
    indices[..., 1] = 255
    indices[:, :32, 1] = 0
    scene = write(tmp_path / "p.tif", indices, photometric="palette", alpha="yes")
    with rasterio.open(scene, "r+") as file:
        file.write_colormap(1, {i: (i, 255 - i, i // 2, 255) for i in range(256)})
    assert command(scene, "--output", tmp_path / "out")[0] == 0
    (classes,), _ = read(tmp_path / "out/p.tif")
    np.testing.assert_array_equal(classes == 255, indices[..., 1] == 0)


def test_several_runs_and_augmentation_change_the_answer(run, tmp_path, monkeypatch, capsys):
    second = dataclasses.replace(
        run, variables=jax.tree.map(lambda leaf: leaf * 1.3, run.variables)
    )
    monkeypatch.setattr(predictor, "load", lambda folder: second if folder == "two" else run)
    image = pixels(70, 70)
    Image.fromarray(image).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    assert predict.main(["one", path, "--output", str(tmp_path / "x"), "--runs", "two"]) == 0
    with Image.open(tmp_path / "x/a.png") as found:
        expected = cnn_jax.ensemble([run, second]).predict(image).classes
        np.testing.assert_array_equal(np.asarray(found), expected)
    assert predict.main(["one", path, "--output", str(tmp_path / "y"), "--augment"]) == 0
    with Image.open(tmp_path / "y/a.png") as found:
        expected = run.predict(image, augment=True).classes
        np.testing.assert_array_equal(np.asarray(found), expected)


# ---- what is interrupted


def test_a_command_stopped_at_any_moment_goes_on_to_the_same_bytes(
    command, run, tmp_path, monkeypatch
):
    """Scenes keep chunks of 256 rows here; the command is stopped at each place in turn."""
    monkeypatch.setattr(pictures, "LARGE_PX", 1)
    monkeypatch.setattr(pictures, "CHUNK_ROWS", 256)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/first.tif", pixels(700, 60))
    write(tmp_path / "in/second.tif", pixels(530, 60))
    flags = ["--overlay", "--uncertainty", "--polygons"]
    assert command(tmp_path / "in", "--output", tmp_path / "whole", *flags)[0] == 0
    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in listed(tmp_path / "whole")}
    assert not any("chunks" in name or "partial" in name for name in whole)

    asked = []
    compute = predictor.Run.probabilities

    class KilledError(Exception):
        """The process ends."""

    def killed(run, images):
        asked.append(1)
        if len(asked) == limit:
            raise KilledError
        return compute(run, images)

    monkeypatch.setattr(predictor.Run, "probabilities", killed)
    output, limit, turns = tmp_path / "out", 9, 0
    while True:
        asked.clear()
        turns += 1
        assert turns < 20
        try:
            code, _, err = command(
                tmp_path / "in", "--output", output, *flags, *(["--resume"] if turns > 1 else [])
            )
        except KilledError:
            for name in listed(output):
                if ".chunks/" not in name and name not in ("prediction.json", "areas.csv"):
                    assert (output / name).read_bytes() == whole[name], name
            continue
        assert (code, err) == (0, "")
        break
    assert turns > 2
    assert {name: (output / name).read_bytes() for name in listed(output)} == whole


def test_a_damaged_chunk_is_predicted_again(command, tmp_path, monkeypatch):
    scene, output = write(tmp_path / "scene.tif", pixels(700, 60)), tmp_path / "out"
    monkeypatch.setattr(pictures, "LARGE_PX", 1)
    monkeypatch.setattr(pictures, "CHUNK_ROWS", 256)
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "renamed", lambda files: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command(scene, "--output", output)
    chunk = output / ".scene.chunks/256.npz"
    chunk.write_bytes(chunk.read_bytes()[:-50])
    assert command(scene, "--output", output, "--resume")[0] == 0
    assert command(scene, "--output", tmp_path / "whole")[0] == 0
    assert (output / "scene.tif").read_bytes() == (tmp_path / "whole/scene.tif").read_bytes()


@pytest.mark.parametrize("name", ["areas.csv", "prediction.json"])
def test_a_folders_own_files_are_not_replaced(name, command, tmp_path):
    """Neither somebody's of that name, nor those of other pictures, predicted before."""
    first, second, output = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out"
    for path in (first, second):
        Image.fromarray(pixels(40, 50)).save(path)
    output.mkdir()
    (output / name).write_text("mine")
    code, _, err = command(first, "--output", output)
    assert (code, name in err, "exists: give --overwrite" in err) == (2, True, True)
    if name == "areas.csv":
        code, _, err = command(first, "--output", output, "--resume")
        assert (code, "is of no prediction" in err) == (2, True)
    assert [(path.name, path.read_text()) for path in output.iterdir()] == [(name, "mine")]

    (output / name).unlink()
    assert command(first, "--output", output)[0] == 0
    assert command(second, "--output", output)[0] == 2
    assert command(second, "--output", output, "--resume")[0] == 0
    with (output / "areas.csv").open() as file:
        assert {row["picture"] for row in csv.DictReader(file)} == {"a", "b"}


def test_what_exists_is_kept_unless_told_otherwise(command, tmp_path):
    Image.fromarray(pixels(40, 50)).save(tmp_path / "a.png")
    Image.fromarray(pixels(50, 40)).save(tmp_path / "b.png")
    a, output = tmp_path / "a.png", tmp_path / "out"
    assert command(a, "--output", output)[0] == 0
    code, _, err = command(a, "--output", output)
    assert code == 2
    assert f"{output / 'a.png'} exists" in err
    before = (output / "a.png").stat().st_mtime_ns
    assert command(a, tmp_path / "b.png", "--output", output, "--resume")[0] == 0
    assert (output / "a.png").stat().st_mtime_ns == before
    with (output / "areas.csv").open() as file:
        assert {row["picture"] for row in csv.DictReader(file)} == {"a", "b"}
    code, _, err = command(a, "--output", output, "--resume", "--augment")
    assert code == 2
    assert "another augment" in err
    assert command(a, "--output", output, "--overwrite", "--augment")[0] == 0
    assert (output / "a.png").stat().st_mtime_ns > before


def test_a_damaged_tile_is_named_and_the_rest_written(command, run, tmp_path):
    image = pixels()
    scene = write(tmp_path / "scene.tif", image)
    data = bytearray(scene.read_bytes())
    with rasterio.open(scene) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    data[offset : offset + 40] = bytes(40)
    scene.write_bytes(data)
    Image.fromarray(image).save(tmp_path / "cut.png")
    cut = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])
    code, _, err = command(scene, tmp_path / "cut.png", "--output", tmp_path / "out")
    assert code == 1
    assert f"{scene}: rows 64 to 127, columns 64 to 127 can't be decoded" in err
    assert str(tmp_path / "cut.png") in err
    (classes,), _ = read(tmp_path / "out/scene.tif")
    void = np.zeros(image.shape[:2], bool)
    void[64:128, 64:128] = True
    np.testing.assert_array_equal(classes == 255, void)
    image[void] = 0
    np.testing.assert_array_equal(classes[~void], run.predict(image).classes[~void])
    assert "cut.png" not in listed(tmp_path / "out")
    again = command(scene, "--output", tmp_path / "out", "--resume")
    assert again[0] == 1, "its class map is passed over, and what it lacks is told again"
    assert f"{scene}: rows 64 to 127, columns 64 to 127 can't be decoded" in again[2]
    write(scene, pixels())
    assert command(scene, "--output", tmp_path / "out", "--overwrite")[0] == 0
    assert command(scene, "--output", tmp_path / "out", "--resume")[0] == 0


def test_a_picture_whose_beginning_is_damaged_is_left_out(command, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.tif"):
        Image.fromarray(pixels(20, 30)).save(folder / name)
    for name in ("b.png", "c.tif"):
        (folder / name).write_bytes((folder / name).read_bytes()[:20])
    (folder / "empty.jpg").write_bytes(b"")
    code, _, err = command(folder, "--output", tmp_path / "out")
    assert code == 1
    assert [line.split(" can't")[0] for line in err.splitlines()] == [
        f"damaged: {folder / name}" for name in ("b.png", "c.tif", "empty.jpg")
    ]
    assert listed(tmp_path / "out") == ["a.png", "areas.csv", "prediction.json"]


def test_grey_pictures_are_repeated_to_three_channels_as_in_training(command, run, tmp_path):
    """Of one band, of one bit, of 8 bits and transparent beside, which is in no class."""
    grey = pixels()[..., 0]
    bits, clear = np.where(grey > 127, 255, 0).astype(np.uint8), grey < 60
    kinds = {
        "grey.png": (Image.fromarray(grey), grey),
        "bits.png": (Image.fromarray(bits > 0), bits),
        "clear.png": (Image.fromarray(np.dstack([grey, ~clear * np.uint8(255)]), "LA"), grey),
    }
    for name, (picture, _) in kinds.items():
        picture.save(tmp_path / name)
    write(tmp_path / "place.tif", grey[..., None])
    files = [tmp_path / name for name in (*kinds, "place.tif")]
    assert command(*files, "--output", tmp_path / "out")[0] == 0
    for file in files:
        image = np.repeat(kinds.get(file.name, (None, grey))[1][..., None], 3, -1)
        expected = run.predict(image).classes
        np.testing.assert_array_equal(run.predict(file).probabilities.argmax(-1), expected)
        expected[clear if file.stem == "clear" else np.zeros_like(clear)] = 255
        np.testing.assert_array_equal(read(tmp_path / "out" / file.name)[0][0], expected)


@pytest.mark.parametrize("own", [[4, 3, 2], [1, 2, 3], [3, 2, 1]])
def test_bands_are_those_of_the_description_that_was_trained_on(own, tmp_path, run):
    """As training reads them: GDAL calls the last of four bands alpha, where nothing is said."""
    image = pixels(32, 48, 4)
    image[..., 3] |= 1
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    path = write(tmp_path / "train/images/a.tif", image)
    Image.new("L", (48, 32)).save(tmp_path / "train/masks/a.png")
    (tmp_path / "set.toml").write_text(f'base = "folders"\nbands = {own}\n')
    config = DataConfig(source=str(tmp_path / "set.toml"), directory=str(tmp_path))
    scenes = open_scenes(config)
    [scene] = scenes.splits["train"]
    info = dataclasses.replace(run.info, description=scenes.description)
    picture = opened("a", path, info)
    np.testing.assert_array_equal(picture.read(0, 32), scene.read()[0])
    np.testing.assert_array_equal(picture.read(0, 32), image[..., np.array(own) - 1])
    other = opened("a", path, info, (1, 1, 2))
    np.testing.assert_array_equal(other.read(0, 32), image[..., [0, 0, 1]])
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match=rf"grey\.png has 1 bands, and the run's .* {max(own)}: "):
        opened("grey", tmp_path / "grey.png", info)


# ---- what is refused


def on_the_ellipsoid(northing):
    """Square metres on WGS84 of a square metre of Web Mercator, in closed form."""
    radius, flattening = 6_378_137, 1 / 298.257223563
    latitude = 2 * np.arctan(np.exp(northing / radius)) - np.pi / 2
    squared = flattening * (2 - flattening)
    bent = 1 - squared * np.sin(latitude) ** 2
    return np.cos(latitude) ** 2 * (1 - squared) / bent**2


def test_square_metres_of_mercator_are_those_on_the_earth(command, tmp_path):
    """Row by row: over these 150 km they change by a twenty-fifth."""
    place = Affine(1000, 0, 1_000_000, 0, -1000, 8_400_000)
    scene = write(tmp_path / "scene.tif", pixels(), crs="EPSG:3857", transform=place)
    assert command(scene, "--output", tmp_path / "out", "--polygons")[0] == 0
    (classes,), _ = read(tmp_path / "out/scene.tif")
    of_row = 1e6 * on_the_ellipsoid(8_400_000 - 1000 * (np.arange(150) + 0.5))
    assert of_row[0] == pytest.approx(250_800, rel=1e-3)
    assert of_row[-1] > 1.04 * of_row[0]
    areas = json.loads((tmp_path / "out/scene.geojson").read_text("utf-8"))["features"]
    with (tmp_path / "out/areas.csv").open() as file:
        for label, row in enumerate(csv.DictReader(file)):
            expected = ((classes == label) * of_row[:, None]).sum()
            assert float(row["square_metres"]) == pytest.approx(expected, rel=1e-6)
            ours = [area["properties"] for area in areas if area["properties"]["label"] == label]
            metres = sum(area["square_metres"] for area in ours)
            assert metres == pytest.approx(expected, rel=1e-6)


def test_square_metres_that_a_projection_falsifies_are_left_out(command, tmp_path):
    place = Affine(1, 0, 0, 0, -1, -1_000_000)
    scene = write(tmp_path / "polar.tif", pixels(40, 50), crs="EPSG:3413", transform=place)
    code, out, err = command(scene, "--output", tmp_path / "out", "--polygons")
    assert (code, err, f"{scene}: no square metres" in out) == (0, "", True)
    with (tmp_path / "out/areas.csv").open() as file:
        assert {row["square_metres"] for row in csv.DictReader(file)} == {""}
    areas = json.loads((tmp_path / "out/polar.geojson").read_text("utf-8"))["features"]
    assert not any("square_metres" in area["properties"] for area in areas)


@pytest.mark.parametrize("crs", [UTM, ""])
@pytest.mark.parametrize("flags", [(), ("--cog",), ("--region", 10, 20, 80, 90)])
def test_ground_control_points_are_kept(crs, flags, command, tmp_path):
    corners = [(0, 0, 5.5), (0, 131, 0), (150, 131, 0), (150, 0, 0)]
    points = [
        GroundControlPoint(row, column, 300_000 + column / 2, 2_780_000 - row / 2, z)
        for row, column, z in corners
    ]
    place = {"gcps": points, "transform": None, "crs": CRS.from_user_input(crs) if crs else CRS()}
    scene = write(tmp_path / "scene.tif", pixels(), **place)
    assert command(scene, "--output", tmp_path / "out", "--overlay", *flags)[0] == 0
    top, left = flags[1:3] if "--region" in flags else (0, 0)
    for name in ("scene.tif", "scene-overlay.tif"):
        with quiet_gdal(), rasterio.open(tmp_path / "out" / name) as file:
            found, system = file.gcps
            assert (system or CRS()) == place["crs"]
        expected = [(p.row - top, p.col - left, p.x, p.y, p.z) for p in points]
        assert [(p.row, p.col, p.x, p.y, p.z) for p in found] == expected
    with (tmp_path / "out/areas.csv").open() as file:
        assert {row["square_metres"] for row in csv.DictReader(file)} == {""}

    Image.fromarray(pixels(20, 20)).save(tmp_path / "a.png")
    code, _, err = command(tmp_path / "a.png", scene, "--output", tmp_path / "none", "--polygons")
    assert (code, f"{scene} is placed by ground control points" in err) == (2, True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("place", [PLACE, None])
@pytest.mark.parametrize("flags", [(), ("--cog",), ("--region", 10, 20, 80, 90)])
def test_rational_polynomials_are_kept(place, flags, command, tmp_path):
    """By which a satellite's scene, and so its class map, is warped onto the ground."""
    one, row, column = [1.0, *[0.0] * 19], [0.0, 0.0, -1.0, *[0.1] * 17], [0.0, 1.0, *[0.2] * 18]
    rpcs = RPC(10, 500, 25, 0.1, one, row, 75, 80.5, 55, 0.2, one, column, 65, 70)
    scene = write(tmp_path / "scene.tif", pixels(), rpcs=rpcs, transform=place)
    assert command(scene, "--output", tmp_path / "out", "--overlay", *flags)[0] == 0
    top, left = flags[1:3] if "--region" in flags else (0, 0)
    for name in ("scene.tif", "scene-overlay.tif"):
        with quiet_gdal(), rasterio.open(tmp_path / "out" / name) as file:
            found = file.rpcs
        assert (found.line_off, found.samp_off) == (75 - top, 65 - left)
        assert (found.line_scale, found.samp_scale, found.lat_off) == (80.5, 70, 25)
        assert (found.line_num_coeff, found.samp_num_coeff) == (row, column)
    code, _, err = command(scene, "--output", tmp_path / "areas", "--polygons")
    assert (code, "is placed by rational polynomials (RPC)" in err) == ((0, False), (2, True))[
        place is None
    ]


def test_a_least_size_beyond_the_picture_leaves_no_area(command, tmp_path):
    Image.fromarray(pixels(40, 50)).save(tmp_path / "a.png")
    flags = ["--polygons", "--least-px", 2_001]
    assert command(tmp_path / "a.png", "--output", tmp_path / "out", *flags)[0] == 0
    assert json.loads((tmp_path / "out/a.geojson").read_text("utf-8"))["features"] == []


def test_areas_across_the_date_line_stay_whole(command, run, tmp_path):
    """A leap from 180 to -180 within an outline would lead around the earth."""
    place = Affine(10, 0, 818_700, 0, -10, 8_118_700)  # in Fiji, the 180th meridian in its middle
    scene = write(tmp_path / "scene.tif", pixels(), crs="EPSG:32760", transform=place)
    assert command(scene, "--output", tmp_path / "out", "--polygons")[0] == 0
    areas = json.loads((tmp_path / "out/scene.geojson").read_text("utf-8"))["features"]
    every = [at for area in areas for ring in area["geometry"]["coordinates"] for at in ring]
    assert 179.9 < min(x for x, _ in every) < 180 < max(x for x, _ in every) < 180.1

    (classes,), _ = read(tmp_path / "out/scene.tif")
    toml = 'image = "{n}.tif"\nmask = "{n}.geojson"\nmask_values = "polygons"\n'
    toml += "".join(f'[[classes]]\nname = "{n}"\nvalues = ["{n}"]\n' for n in run.info.classes)
    (tmp_path / "areas.toml").write_text(toml)
    description = load_description(str(tmp_path / "areas.toml"))
    polygons = open_polygons(tmp_path / "out/scene.geojson", open_raster(scene), description)
    np.testing.assert_array_equal(burnt(polygons, description)[0], classes)


@pytest.mark.parametrize(
    ("west", "region", "crs", "columns"),
    [
        (170, (179, 0, -179, 1), "EPSG:4326", (90, 110)),
        (170, (-179.5, 0, -179, 1), "EPSG:4326", (105, 110)),
        (170, (171, 0, 172, 1), "EPSG:4326", (10, 20)),
        (-190, (179, 0, -179, 1), "EPSG:4326", (90, 110)),
        # from -178.99 to -178.01 degrees
        (170, (278_000, 10_000_000, 388_000, 10_100_000), "EPSG:32701", (110, 120)),
    ],
)
def test_a_region_across_the_date_line(west, region, crs, columns, run, tmp_path):
    """Longitudes run from -180 to 180, or on, as a scene has them."""
    place = Affine(0.1, 0, west, 0, -0.1, 1)
    path = write(tmp_path / "a.tif", pixels(20, 200), crs="EPSG:4326", transform=place)
    scene = opened("a", path, run.info, (), region, crs)
    assert (scene.left, scene.left + scene.width_px) == columns


def test_a_region_at_both_ends_of_the_earth_is_refused(command, tmp_path):
    place = Affine(2, 0, -180, 0, -2, 90)
    scene = write(tmp_path / "earth.tif", pixels(90, 180), crs="EPSG:4326", transform=place)
    flags = ["--region", 170, 0, -170, 10, "--region-crs", "EPSG:4326"]
    code, _, err = command(scene, "--output", tmp_path / "out", *flags)
    assert (code, "lies at both ends of" in err, len(err.splitlines())) == (2, True, 1)


def test_resuming_replaces_no_file_of_somebody_elses(command, tmp_path):
    """Such as a mask beside its picture, where nothing was predicted before."""
    Image.fromarray(pixels(40, 50)).save(tmp_path / "a.jpg")
    mine = tmp_path / "a.png"
    mine.write_bytes(b"mine")
    code, _, err = command(tmp_path / "a.jpg", "--output", tmp_path, "--resume")
    assert (code, f"{mine} exists: give --overwrite" in err, "--resume" in err) == (2, True, False)
    assert listed(tmp_path) == ["a.jpg", "a.png"]
    assert mine.read_bytes() == b"mine"


def test_areas_that_somebody_saved_otherwise_can_be_resumed_or_are_refused(command, tmp_path):
    """A spreadsheet adds blank lines, or writes another encoding."""
    Image.fromarray(pixels(40, 50)).save(tmp_path / "ñ.jpg")
    again = (tmp_path / "ñ.jpg", "--output", tmp_path / "out", "--resume")
    assert command(*again[:-1])[0] == 0
    areas = tmp_path / "out" / "areas.csv"
    written = areas.read_text(encoding="utf-8")
    areas.write_text(written + "\n\n", encoding="utf-8")
    assert command(*again)[0] == 0
    areas.write_text(written, encoding="utf-16")
    code, _, err = command(*again)
    assert (code, f"{areas} is not as it was written" in err, len(err.splitlines())) == (2, True, 1)


def test_a_scene_in_a_system_of_its_own_gets_no_polygons(command, tmp_path):
    """As photographs by drones come from some programs; their rasters are as any others."""
    local = CRS.from_wkt('LOCAL_CS["Mine",LOCAL_DATUM["Local Datum",0],UNIT["metre",1]]')
    scene = write(tmp_path / "scene.tif", pixels(), crs=local)
    Image.fromarray(pixels(20, 20)).save(tmp_path / "a.png")
    code, _, err = command(tmp_path / "a.png", scene, "--output", tmp_path / "out", "--polygons")
    assert (code, len(err.splitlines()), f"{scene} is in Mine" in err) == (2, 1, True)
    code, _, err = command(
        scene, "--output", tmp_path / "out", "--region", 1, 1, 2, 2, "--region-crs", UTM
    )
    assert (code, len(err.splitlines()), f"{UTM} into Mine" in err) == (2, 1, True)
    assert not (tmp_path / "out").exists()
    assert command(scene, "--output", tmp_path / "out")[0] == 0
    _, file = read(tmp_path / "out/scene.tif")
    assert (file.crs.to_wkt().split('"')[1], file.transform) == ("Mine", PLACE)


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("missing.tif", (), "missing.tif doesn't exist"),
        ("five.tif", (), "has 5 bands, and the run takes 3"),
        ("five.tif", ("--bands", 1, 2, 6), "bands"),
        ("five.tif", ("--bands", 1, 2), "has 2 bands"),
        ("deep.tif", (), "holds uint16, and the run takes uint8"),
        ("plain.tif", ("--region", 0, 0, 1, 1, "--region-crs", UTM), "isn't georeferenced"),
        ("scene.tif", ("--region", 900, 0, 10, 10), "no pixel in --region"),
        ("scene.tif", ("--region", 9, 0), "four numbers"),
        ("scene.tif", ("--region", 0, 0, 1, 1, "--region-crs", "EPSG:0"), "no coordinate ref"),
        ("scene.tif", ("--region-crs", UTM), "give them too"),
        ("scene.tif", ("--region", 55, 24.9, 55.1, 25), "say with --region-crs"),
        (
            "scene.tif",
            ("--region", 300_000, 2_780_000, 300_005, 2_779_995, "--region-crs", UTM),
            "another order",
        ),
        (
            "scene.tif",
            ("--region", 300_005, 2_779_995, 300_000, 2_780_000, "--region-crs", UTM),
            "another order",
        ),
        ("scene.tif", ("--region", 55, 25.2, 56, 25.1, "--region-crs", "EPSG:4326"), "order"),
        ("scene.tif", ("--format", "yolo"), "--format is for networks of objects"),
        ("scene.tif", ("--least-score", 0.5), "--least-score is for networks of objects"),
        ("scene.tif", ("--least-px", 4), "give --polygons"),
        ("scene.tif", ("--resume", "--overwrite"), "give one of them"),
        ("empty", (), "holds no picture"),
        ("text.png", (), "is no JPEG"),
        ("unnameable", (), "bytes that are no UTF-8: rename it"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(command, tmp_path, name, flags, words):
    if name == "five.tif":
        write(tmp_path / name, pixels(20, 20, 5))
    elif name == "deep.tif":
        write(tmp_path / name, pixels(20, 20, dtype=np.uint16))
    elif name == "plain.tif":
        write(tmp_path / name, pixels(20, 20), crs=None, transform=None)
    elif name == "scene.tif":
        write(tmp_path / name, pixels(20, 20))
    elif name == "empty":
        (tmp_path / name).mkdir()
    elif name == "text.png":
        (tmp_path / name).write_text("no picture")
    elif name == "unnameable":
        (tmp_path / name).mkdir()
        try:
            Path(os.fsdecode(bytes(tmp_path / name) + b"/\xff.png")).write_bytes(b"")
        except OSError:
            pytest.skip("this file system takes no such name")
    code, _, err = command(tmp_path / name, "--output", tmp_path / "out", *flags)
    assert code == 2
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_names_that_meet_are_refused(command, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels(20, 20)).save(tmp_path / folder / "a.png")
    code, _, err = command(tmp_path / "x/a.png", tmp_path / "y/a.png", "--output", tmp_path / "out")
    assert code == 2
    assert "would both be written as a" in err
    code, _, err = command(tmp_path / "x/a.png", "--output", tmp_path / "x", "--overwrite")
    assert code == 2
    assert "is an input" in err


def test_run_and_pictures_and_output_are_asked_for(command, tmp_path):
    code, _, err = command()
    assert code == 2
    assert "PICTURE_OR_FOLDER is missing" in err
    code, _, err = command(tmp_path)
    assert code == 2
    assert "--output is missing" in err


# ---- a full disk


def test_a_disk_that_is_full_is_one_sentence_and_leaves_nothing(reference, tmp_path):
    """Files may not grow beyond 64 KiB: as much as a small picture's class map, and less than its
    probabilities."""
    if sys.platform != "linux":
        pytest.skip("sizes of files are limited as Linux does it")
    scene = write(tmp_path / "scene.tif", pixels(600, 520))
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        " from cnn_jax.commands.predict import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [reference[0], scene, "--output", tmp_path / "out", "--probabilities", "uint8"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *map(str, arguments)],
        env=environment(JAX_ENABLE_COMPILATION_CACHE="false"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'out/scene-probabilities.tif'} can't be written")
    assert "Traceback" not in done.stderr
    assert listed(tmp_path / "out") == ["prediction.json"]


# ---- classifiers


@pytest.fixture
def classifier():
    """A classifier of 8x8 px images with random weights."""
    config = tasks.of("classification").configuration(model=tasks.model_config("mlp"))
    info = DatasetInfo(
        source="leaves",
        classes=tuple("abcdefg"),
        colors=(),
        channels=3,
        dtype="uint8",
        greatest=255.0,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        class_counts=(1,) * 7,
        sizes={"train": 7, "validation": 0, "test": 0},
        image_px=(8, 8),
        fingerprint="",
    )
    learner = tasks.of("classification").learner(config, info)
    blank = np.zeros((1, 8, 8, 3), np.float32)
    variables = jax.jit(lambda key: learner.module().init(key, blank, train=False))(
        jax.random.key(0)
    )
    return predictor.Run(
        Path("run"), config, info, {"evaluated_step": 1}, learner, variables, Devices()
    )


def test_a_classifier_refuses_before_it_predicts(classifier, tmp_path, monkeypatch, capsys):
    """And pictures of one stem are two of its lines."""
    monkeypatch.setattr(predictor, "load", lambda folder: classifier)
    for name in ("a.png", "a.bmp"):
        Image.fromarray(pixels(8, 8)).save(tmp_path / name)
    arguments = ["run", str(tmp_path), "--output", str(tmp_path / "out")]
    assert predict.main(arguments) == 0
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == [str(tmp_path / name) for name in ("a.bmp", "a.png")]
    capsys.readouterr()
    Image.fromarray(pixels(8, 8)[..., 0] / np.float32(255)).save(tmp_path / "z.tif")
    with monkeypatch.context() as patch:
        patch.setattr(predictor.Predictor, "predict", lambda *_, **__: pytest.fail("predicted"))
        assert predict.main([*arguments, "--overwrite"]) == 2
    assert f"{tmp_path / 'z.tif'} holds float32 where others hold uint8" in capsys.readouterr().err


def test_a_classifier_writes_its_five_best_classes(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predictor, "load", lambda folder: classifier)
    image = pixels(8, 8)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(pixels(30, 20)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:90])
    arguments = ["run", str(tmp_path), "--output", str(tmp_path / "out")]
    assert predict.main(arguments) == 1
    assert f"{tmp_path / 'c.png'}" in capsys.readouterr().err
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == [str(tmp_path / name) for name in ("a.png", "b.png")]
    logits = classifier.model.apply(
        classifier.variables, classifier.normalize(image[None]), train=False
    )
    expected = np.sort(np.asarray(jax.nn.softmax(logits))[0])[::-1][:5]
    found = [float(rows[0][f"probability_{i}"]) for i in range(1, 6)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert rows[0]["class_1"] == classifier.info.classes[int(np.argmax(logits))]
    assert predict.main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert predict.main([*arguments, "--resume", "--augment"]) == 2
    assert "holds predictions with another augment: give the same" in capsys.readouterr().err
    (tmp_path / "out/.answers.jsonl").unlink()
    assert predict.main([*arguments, "--resume"]) == 2  # they may be another run's
    assert "predictions.csv exists: give --overwrite" in capsys.readouterr().err
    assert predict.main([*arguments, "--overwrite", "--polygons"]) == 2
    assert "--polygons is for segmenters" in capsys.readouterr().err
    for flag in (("--blend", "none"), ("--overlay",), ("--format", "yolo")):
        assert predict.main([*arguments, "--overwrite", *flag]) == 2
        assert f"{flag[0]} is for" in capsys.readouterr().err
    assert predict.main([*arguments, "--overwrite", "--augment"]) == 1


@pytest.mark.parametrize("cut_px", [0, 3])
def test_a_classifier_stopped_at_any_moment_goes_on(cut_px, classifier, tmp_path, monkeypatch):
    """Even where its last line was cut short; a picture that was replaced is predicted again."""
    monkeypatch.setattr(predictor, "load", lambda folder: classifier)
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("ñandú", "b", "c", "d")):
        image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"in/{name}.png")
    seen, compute = [], predictor.Run.probabilities

    def killed(run, images):
        seen.append(images)
        if len(seen) == limit:
            raise ZeroDivisionError
        return compute(run, images)

    monkeypatch.setattr(predictor.Run, "probabilities", killed)
    arguments = ["run", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    limit = 3
    with pytest.raises(ZeroDivisionError):
        predict.main(arguments)
    assert predict.main(arguments) == 2  # what was found isn't lost by mistake
    kept = tmp_path / "out/.answers.jsonl"
    kept.write_bytes(kept.read_bytes()[: -cut_px or None])
    seen.clear()
    limit = 3 if cut_px else 2
    with pytest.raises(ZeroDivisionError):
        predict.main([*arguments, "--resume"])
    assert not (tmp_path / "out/predictions.csv").exists()
    Image.fromarray(pixels(8, 8)).save(tmp_path / "in/b.png")
    seen.clear()
    limit = 0
    assert predict.main([*arguments, "--resume"]) == 0
    assert len(seen) == 2 if cut_px else 3
    assert predict.main([*arguments[:3], str(tmp_path / "whole")]) == 0
    found, whole = (tmp_path / folder / "predictions.csv" for folder in ("out", "whole"))
    assert found.read_bytes() == whole.read_bytes()
    seen.clear()
    assert predict.main([*arguments, "--resume"]) == 0
    assert not seen


def test_a_file_that_is_gone_meanwhile_costs_no_other_prediction(
    classifier, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(predictor, "load", lambda folder: classifier)
    for name in "abc":
        Image.fromarray(pixels(8, 8)).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(predictor.Predictor, "check_file", lambda *_: gone.unlink(missing_ok=True))
    gone = tmp_path / "b.png"
    assert predict.main(["run", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert f"damaged: {gone} can't be read (No such file" in capsys.readouterr().err
    with (tmp_path / "out/predictions.csv").open() as file:
        assert [Path(row["picture"]).stem for row in csv.DictReader(file)] == ["a", "c"]


def test_a_file_is_cropped_only_where_training_cropped(classifier, tmp_path):
    """Without `data.image_px` images are trained on whole, whatever `data.crop_share` is."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    whole = classifier.predict(image).probabilities
    classifier.config.data.crop_share = 0.5
    np.testing.assert_array_equal(classifier.predict(tmp_path / "a.png").probabilities, whole)
    classifier.config.data.image_px = (8, 8)
    middle = np.asarray(Image.fromarray(image).resize((8, 8), 2, box=(2, 2, 6, 6)))
    np.testing.assert_array_equal(
        classifier.predict(tmp_path / "a.png").probabilities,
        classifier.predict(middle).probabilities,
    )


@pytest.mark.parametrize("suffix", [".gif", ".PGM", ".ppm"])
def test_a_folder_of_a_classifiers_pictures_holds_all_that_training_reads(
    suffix, classifier, tmp_path, monkeypatch
):
    monkeypatch.setattr(predictor, "load", lambda folder: classifier)
    Image.fromarray(pixels(8, 8)).save(tmp_path / "a.png")
    Image.fromarray(pixels(8, 8)[..., 0]).save(tmp_path / f"b{suffix}")
    assert predict.main(["run", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out/predictions.csv").open() as file:
        found = [row["picture"] for row in csv.DictReader(file)]
    assert found == [str(tmp_path / "a.png"), str(tmp_path / f"b{suffix}")]


def test_a_classifier_tells_of_an_output_that_cant_be_made_before_it_predicts(
    classifier, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(predictor, "load", lambda folder: classifier)
    monkeypatch.setattr(predictor.Predictor, "predict", lambda *_, **__: pytest.fail("predicted"))
    Image.fromarray(pixels(8, 8)).save(tmp_path / "a.png")
    (tmp_path / "notes").write_text("mine")
    for folder in (tmp_path / "notes", tmp_path / "notes/out"):
        assert predict.main(["run", str(tmp_path / "a.png"), "--output", str(folder)]) == 2
        assert f"error: {folder} can't be used" in capsys.readouterr().err
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_vrt_is_refused_before_a_classifier_predicts(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predictor, "load", lambda folder: classifier)
    monkeypatch.setattr(predictor.Predictor, "predict", lambda *_, **__: pytest.fail("predicted"))
    Image.fromarray(pixels(8, 8)).save(tmp_path / "a.png")
    write(tmp_path / "b.tif", pixels(8, 8))
    rasterio.shutil.copy(tmp_path / "b.tif", tmp_path / "b.vrt", driver="VRT")
    arguments = ["run", str(tmp_path / "a.png"), str(tmp_path / "b.vrt")]
    assert predict.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert f"error: {tmp_path / 'b.vrt'} is no JPEG" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
