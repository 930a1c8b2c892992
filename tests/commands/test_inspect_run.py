"""Looking into finished runs: which pictures are drawn, of what, and what is refused; and opening a
run."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import rasterio
from PIL import Image

from cnn_jax.commands import inspect_run
from cnn_jax.errors import InputError
from cnn_jax.inference import predictor
from cnn_jax.inference.predictor import Run, load
from cnn_jax.tasks.segmentation import Segmentation, SegmentationDataset
from cnn_jax.training.devices import Devices
from experiments import aerial_unet

pytestmark = pytest.mark.usefixtures("quick_compilation")

ALL = {"overlays.png", "errors.png", "feature_maps.png", "grad_cam.png", "receptive_field.png"}


def tiny():
    """The smallest synthetic scenes and U-Net."""
    config = aerial_unet.smoke()
    config.model.base_width, config.model.depth = 2, 1
    config.data.scene_px, config.data.scene_counts, config.data.crop_px = (
        (32, 48),
        (1, 1, 3),
        (16, 24),
    )
    config.evaluation.window_px, config.evaluation.context_px = (32, 48), 4
    return config


@pytest.fixture(scope="module")
def opened():
    """A run of random weights of synthetic scenes, and these."""
    return untrained(tiny())


def untrained(config):
    """A run of random weights, never trained, and its data."""
    dataset = SegmentationDataset(config)
    learner = Segmentation().learner(config, dataset.info)
    image = np.zeros((1, 16, 24, dataset.info.channels), np.float32)
    shapes = jax.eval_shape(lambda: learner.module().init(jax.random.key(0), image, train=False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    return Run(Path("run"), config, dataset.info, {}, learner, variables, Devices()), dataset


@pytest.fixture
def look(opened, monkeypatch, capsys):
    """Function that runs the command on that run: (exit code, output, error)."""
    monkeypatch.setattr(predictor, "load", lambda folder: opened[0])
    monkeypatch.setattr(Run, "open_data", lambda run, directory, split: opened[1])

    def look(*arguments):
        capsys.readouterr()
        code = inspect_run.main(["run", *map(str, arguments)])
        return code, *capsys.readouterr()

    return look


def test_all_pictures_that_apply_are_drawn(look, tmp_path):
    code, out, err = look("--output", tmp_path / "seen", "--scenes", 2)
    assert (code, err) == (0, "")
    assert {path.name for path in (tmp_path / "seen").iterdir()} == ALL
    for path in (tmp_path / "seen").iterdir():
        with Image.open(path) as picture:
            assert np.ptp(np.asarray(picture.convert("L"))) > 100
    assert "the network has no squeeze and excitation: no attention.png" in out
    assert "overlays.png: 2 of 3 scenes, from the worst to the best" in out
    assert "feature_maps.png: 4 levels" in out
    assert "at bridge_convolution_2" in out


def test_all_are_drawn_of_four_channels_of_floating_point_too(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind, pixels in (
            ("images", rng.random((4, 32, 48), np.float32)),
            ("masks", rng.integers(0, 2, (1, 32, 48), np.uint8)),
        ):
            path = tmp_path / "data" / part / kind / "a.tif"
            path.parent.mkdir(parents=True)
            shape = {"count": len(pixels), "height": 32, "width": 48, "dtype": pixels.dtype}
            place = {"crs": "EPSG:32640", "transform": rasterio.Affine(1, 0, 5, 0, -1, 5)}
            with rasterio.open(path, "w", "GTiff", **shape, **place) as file:
                file.write(pixels)
    (tmp_path / "own.toml").write_text(
        'base = "folders"\nmask_values = "index"\n'
        'classes = [{name = "soil", values = [0]}, {name = "crop", values = [1]}]\n'
    )
    config = tiny()
    config.data.source, config.data.directory = str(tmp_path / "own.toml"), str(tmp_path / "data")
    config.augmentation.saturation_probability = 0.0
    run, dataset = untrained(config)
    monkeypatch.setattr(predictor, "load", lambda folder: run)
    monkeypatch.setattr(Run, "open_data", lambda run, directory, split: dataset)
    assert inspect_run.main(["run", "--output", str(tmp_path / "seen")]) == 0, capsys.readouterr()
    assert {path.name for path in (tmp_path / "seen").iterdir()} == ALL


def test_the_worst_scenes_come_first(look, opened, tmp_path, monkeypatch):
    from cnn_jax.evaluation import metrics
    from cnn_jax.reporting import segmenter_pictures

    drawn = {}
    for name in ("errors", "overlays"):
        monkeypatch.setattr(
            segmenter_pictures,
            name,
            lambda *seen, name=name, **options: drawn.setdefault(name, seen),
        )
    assert look("--what", "overlays", "errors", "--output", tmp_path)[0] == 0
    images, truths, predictions, *_, titles = drawn["errors"]
    found = []
    for image, truth, prediction, title in zip(images, truths, predictions, titles, strict=True):
        at = next(
            i
            for i, (known, _) in enumerate(opened[1].scenes["test"])
            if np.array_equal(image, known)
        )
        matrix = np.asarray(metrics.confusion(truth[None].astype(int), prediction[None], 6))[0]
        found.append(metrics.miou(matrix))
        assert title == f"{opened[1].scenes['test'].scenes[at].name}: mIoU {found[-1]:.3f}"
    assert len(found) == 3
    assert found == sorted(found)
    assert drawn["overlays"][-1] == titles


def test_classes_are_chosen_by_name_and_crops_to_show_them(look, opened, tmp_path, monkeypatch):
    from cnn_jax.reporting import segmenter_pictures

    drawn = []
    monkeypatch.setattr(segmenter_pictures, "grad_cam", lambda *seen, **options: drawn.append(seen))
    assert look("--what", "grad_cam", "--output", tmp_path, "--classes", "water", "road")[0] == 0
    images, _, heats, classes, *_ = drawn[0]
    assert (classes, len(heats)) == (
        [opened[0].info.classes.index(name) for name in ("water", "road")],
        2,
    )
    for image, index in zip(images, classes, strict=True):
        crops = [
            (scene[0][y : y + 16, x : x + 24], (scene[1][y : y + 16, x : x + 24] == index).mean())
            for scene in opened[1].scenes["test"]
            for y in (0, 16)
            for x in (0, 24)
        ]
        (share,) = [share for crop, share in crops if np.array_equal(crop, image)]
        assert abs(share - 0.5) == min(abs(share - 0.5) for _, share in crops)


def test_several_runs_are_compared_in_one_picture(look, tmp_path):
    assert look("again", "--output", tmp_path / "a")[0] == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["receptive_field.png"]


def test_pictures_of_others_are_not_replaced_and_ours_are(look, tmp_path):
    foreign = tmp_path / "receptive_field.png"
    Image.new("RGB", (2, 2)).save(foreign)
    before = foreign.read_bytes()
    code, _, error = look("--what", "receptive_field", "--output", tmp_path)
    assert (code, foreign.read_bytes()) == (2, before)
    assert "receptive_field.png isn't known to be of this software" in error
    foreign.unlink()
    for _ in range(2):
        assert look("--what", "receptive_field", "--output", tmp_path)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["receptive_field.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--what", "overlay"], ["--what is 'overlay'", "did you mean overlays"]),
        (["--what"], ["--what is empty", "grad_cam"]),
        (["--scenes", "0"], ["--scenes is 0"]),
        (["--classes", "roads"], ["--classes 'roads'", "did you mean road"]),
        (["again"], ["--output is missing"]),
        (
            ["again", "--output", "x", "--what", "errors"],
            ["--what is receptive_field", "several runs"],
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, words, look, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = look(*arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
    assert not list(tmp_path.rglob("*.png"))


def test_a_record_alone_is_not_loaded(reference, tmp_path):
    folder = shutil.copytree(reference[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(InputError, match=r"neither the checkpoint .* only the record"):
        load(folder)


def test_a_changed_record_is_not_loaded(reference, tmp_path):
    folder = shutil.copytree(reference[0], tmp_path / "run")
    path = folder / "environment.json"
    content = json.loads(path.read_text()) | {"digest": "0" * 16}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json .* digest"):
        load(folder)


def test_other_data_are_not_opened(reference):
    run = load(reference[0])
    run.config.data.scene_counts = (5, 1, 1)
    with pytest.raises(InputError, match=r"are not those of the run .* --directory"):
        run.open_data()
