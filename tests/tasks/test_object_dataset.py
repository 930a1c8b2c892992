"""What is kept and drawn of a split's images, of a learner that never ran."""

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import rasterio.control
from PIL import Image

from cnn_jax.configuration.schema import ObjectEvaluationConfig
from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.data.pipeline import DecodedScenes
from cnn_jax.data.scenes import Scene
from cnn_jax.errors import InputError
from cnn_jax.evaluation.object_windows import Seen
from cnn_jax.inference import object_prediction
from cnn_jax.reporting import object_figures
from cnn_jax.tasks.object_dataset import Evaluated, ObjectEvaluator
from cnn_jax.tasks.task import Report

IMAGE = np.zeros((40, 60, 3), np.uint8)


def test_pictures_show_as_many_objects_as_count(tmp_path, monkeypatch):
    """Two objects are seen, but the figures count one of a class: the pictures do too."""
    boxes = (2, 2, 12, 12), (20, 2, 30, 12)
    truth = AnnotatedImage("a.png", 40, 60, tuple(Annotation(0, box) for box in boxes))
    seen = tuple(Annotation(0, box, score=0.9 - 0.1 * i) for i, box in enumerate(boxes))
    learner = SimpleNamespace(
        config=SimpleNamespace(evaluation=ObjectEvaluationConfig(most_objects=1)),
        names=("car",),
        colors=((226, 169, 41),),
        kinds=("box",),
        heat=lambda _, images: np.zeros(images.shape[:3], np.float32),
    )
    evaluator = ObjectEvaluator(learner, [(IMAGE, None)], [], "test", None)
    report = Report({}, Evaluated((truth,), (seen,), {"box": None}, 1, most=1))

    kept = []
    evaluator.keep(SimpleNamespace(write_objects=lambda *given: kept.append(given)), report)
    [(record, _)] = kept
    assert [mark.kind for mark in record.marks[0][1]] == ["found", "missed"]
    assert record.counted["box"][0].labels.tolist() == [0]

    drawn = []
    monkeypatch.setattr(object_figures, "gallery", lambda *given, **_: drawn.extend(given[3]))
    for name in ("heat_maps", "precision_recall", "by_size"):
        monkeypatch.setattr(object_figures, name, lambda *_, **__: None)
    report.evaluation.figures["box"] = SimpleNamespace(precision=None, twelve=None)
    evaluator.draw(tmp_path, [], report, None)
    [matched] = drawn
    assert matched.order.tolist() == [0]
    assert matched.missed.tolist() == [1]


def test_windows_of_small_images_have_the_alignment_of_training():
    """A convolution of stride 2 pads images of even and of odd sizes differently, so a network that
    sees a photograph of 45x61 px as it is finds everything beside its place."""
    image, sizes = np.arange(45 * 61 * 3).reshape(45, 61, 3).astype(np.uint8), []

    def see(images):
        sizes.append(images.shape[1:3])
        return [[Seen(0, 0.9, (1, 2, 30, 40))] for _ in images]

    learner = SimpleNamespace(
        config=SimpleNamespace(evaluation=ObjectEvaluationConfig(window_px=(288, 48))),
        see=lambda variables, devices: see,
        batch_size=lambda devices: 1,
        heat=lambda _, images: images[:, ::4, ::4, 0].astype(np.float32),
    )
    scenes = DecodedScenes([Scene("a", 45, 61, lambda: (image, np.zeros((45, 61))))], 0)
    evaluator = ObjectEvaluator(learner, scenes, [], "test", None)
    assert evaluator.find(None)[0][0].box == (1, 2, 30, 40)
    assert set(sizes) == {(64, 48)}
    heat = evaluator.heat(None, image)
    np.testing.assert_array_equal(heat, image[::4, :48:4, 0])

    sizes.clear()
    run = SimpleNamespace(config=learner.config, learner=learner, variables=None, devices=None)
    object_prediction.predict(run, lambda a, b: image[a:b], 45, 61)
    assert set(sizes) == {(64, 48)}


@pytest.mark.parametrize(
    ("form", "names", "sentence"),
    [
        ("coc", ["a.png"], "--format coc is no format: did you mean coco"),
        ("palette_masks", ["a.png"], "--format palette_masks takes 254 classes at most, not 255"),
        ("index_masks", ["large.tif"], "over the limit of"),
        ("geojson", ["gcps.tif"], "placed by ground control points"),
    ],
)
def test_what_a_format_cannot_take_is_told_before_anything_is_predicted(
    tmp_path, monkeypatch, form, names, sentence
):
    monkeypatch.setattr(object_prediction, "predict", lambda *_: pytest.fail("it was predicted"))
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names:
        if name.endswith("png"):
            Image.fromarray(IMAGE).save(folder / name)
            continue
        size = 30_000 if name == "large.tif" else 40  # of large ones no block is written
        corners = [(0, 0), (0, 40), (40, 0), (40, 40)]
        place = {
            "transform": rasterio.Affine(1, 0, 5, 0, -1, 5) if size > 40 else None,
            "gcps": [rasterio.control.GroundControlPoint(*at, *at[::-1]) for at in corners],
            "crs": "EPSG:32640",
        }
        shape = {"width": size, "height": size, "count": 3, "dtype": "uint8", "sparse_ok": True}
        rasterio.open(folder / name, "w", "GTiff", tiled=True, **place, **shape).close()
    classes = tuple(str(number) for number in range(255))
    run = SimpleNamespace(
        info=SimpleNamespace(channels=3, dtype="uint8", classes=classes, bands=())
    )
    with pytest.raises(InputError, match=sentence):
        object_prediction.predict_objects(run, [str(folder)], tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


def test_an_overlay_shows_what_the_files_hold(tmp_path, monkeypatch):
    """Of an object that `least_score` lets through, below what is shown by default."""
    found = (Annotation(0, (10, 10, 30, 30), score=0.2),)
    monkeypatch.setattr(object_prediction, "predict", lambda *_: found)
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    run = SimpleNamespace(
        info=SimpleNamespace(
            channels=3, dtype="uint8", classes=("car",), description=None, bands=()
        ),
        learner=SimpleNamespace(colors=((226, 169, 41),)),
    )
    for least_score in (0.1, 0.5):
        out = tmp_path / str(least_score)
        object_prediction.predict_objects(
            run, [str(tmp_path / "a.png")], out, overlay=True, least_score=least_score
        )
        shown = np.asarray(Image.open(out / "a_objects.png"))
        assert shown.any() == (least_score == 0.1)
