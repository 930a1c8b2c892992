"""COCO's figures beside pycocotools', and our own matching beside both."""

import contextlib
import io

import numpy as np
import pytest

from cnn_jax.data import objects
from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.evaluation import coco
from tests.evaluation import crowded
from tests.evaluation.crowded import CLASSES, SIZE

# pycocotools' array has no `copy` of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def case():
    return crowded.case()


def reference(truths, predictions, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = []
    for number, (image, of) in enumerate(zip(truths, predictions, strict=True), 1):
        for one in of:
            left, top, right, bottom = one.box
            rle = objects.rle(one, image.height_px, image.width_px)
            where = {
                "box": {"bbox": [left, top, right - left, bottom - top]},
                "mask": {"segmentation": {**rle, "counts": rle["counts"].decode()}},
            }[kind]
            results.append(
                {"image_id": number, "category_id": one.label + 1, "score": one.score, **where}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        made = COCO()
        made.dataset = coco.dataset(truths, [one.objects for one in truths], CLASSES, kind)
        made.createIndex()
        found = COCOeval(made, made.loadRes(results), coco.KINDS[kind])
        found.evaluate()
        found.accumulate()
        found.summarize()
    return found.stats


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_the_twelve_figures_are_those_of_pycocotools(case, kind):
    truths, predictions = case
    found = coco.coco_figures(truths, predictions, CLASSES, kind)
    wanted = reference(truths, predictions, kind)
    ours = np.array([found.twelve[name] for name in coco.TWELVE])
    np.testing.assert_allclose(np.where(np.isnan(ours), -1, ours), wanted, atol=1e-12)
    assert 0.1 < ours[0] < 0.9
    assert np.isnan(found.by_class["ap"][3])
    assert np.nanmean(found.by_class["ap50"]) == pytest.approx(ours[1])
    np.testing.assert_allclose(np.nanmean(found.precision), ours[1])


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_every_true_object_is_matched_or_missed(case, kind):
    for truth, found in zip(*case, strict=True):
        matched = coco.matches(truth, found, CLASSES, kind)
        hits = matched.truth[matched.truth >= 0].tolist()
        wanted = [place for place, one in enumerate(truth.objects) if not one.crowd]
        assert sorted([*hits, *matched.missed.tolist()]) == wanted
        assert matched.wanted.sum() == len(wanted)
        # What counts of each image says the same of IoU 0.5.
        assert len(hits) == (coco.counted(truth, found, CLASSES, kind).right & 1).sum()


def test_nothing_found_and_nothing_there():
    image = AnnotatedImage("a", *SIZE, (Annotation(1, (5, 5, 20, 30)),))
    found = coco.coco_figures([image], [()], CLASSES)
    assert found.twelve["ap"] == 0
    assert np.isnan(found.by_class["ap"][0])
    empty = AnnotatedImage("a", *SIZE)
    found = coco.coco_figures([empty], [(Annotation(1, (5, 5, 20, 30), score=0.5),)], CLASSES)
    assert np.isnan(found.twelve["ap"])
