"""COCO's figures beside pycocotools', and our own matching beside both."""

import contextlib
import io

import numpy as np
import pytest

from cnn_jax.data import objects
from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.evaluation import coco, statistics

SIZE = 80, 120
CLASSES = 4

# pycocotools' array has no `copy` of NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def blob(rng, label, **others):
    """An ellipse somewhere."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ry, rx = rng.uniform(2, 25, 2)
    at = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
    mask = ((y - at[0]) / ry) ** 2 + ((x - at[1]) / rx) ** 2 < 1
    mask[round(at[0]) % SIZE[0], round(at[1]) % SIZE[1]] = True
    return objects.of_mask(mask, label, **others)


def moved(rng, one):
    """A prediction near an object."""
    mask = objects.mask(one, *SIZE)
    mask = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
    label = one.label if rng.random() < 0.9 else int(rng.integers(CLASSES))
    return objects.of_mask(mask, label, score=float(rng.random()))


@pytest.fixture(scope="module")
def case():
    """Twelve images, crowds among their objects, one of them empty, a class that never occurs."""
    rng = np.random.default_rng(7)
    truths, predictions = [], []
    for number in range(12):
        count = 0 if number == 5 else rng.integers(1, 7)
        every = [
            blob(rng, int(rng.integers(CLASSES - 1)), crowd=bool(rng.random() < 0.15))
            for _ in range(count)
        ]
        truths.append(AnnotatedImage(f"{number}.png", *SIZE, tuple(every)))
        found = [moved(rng, one) for one in every for _ in range(rng.integers(0, 3))]
        found += [
            blob(rng, int(rng.integers(CLASSES)), score=float(rng.random())) for _ in range(2)
        ]
        predictions.append(tuple(found))
    return truths, predictions


def reference(truths, predictions, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        every = []
        for of in ([one.objects for one in truths], predictions):
            made = COCO()
            made.dataset = coco.dataset(truths, of, CLASSES, kind)
            made.createIndex()
            every.append(made)
        found = COCOeval(*every, coco.KINDS[kind])
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
@pytest.mark.parametrize("most", [1, 100])
def test_our_matches_give_the_same_ap50(case, kind, most):
    truths, predictions = case
    every = [
        coco.matches(truth, found, CLASSES, kind, most=most)
        for truth, found in zip(truths, predictions, strict=True)
    ]
    wanted = coco.coco_figures(truths, predictions, CLASSES, kind, most)
    np.testing.assert_allclose(coco.average_precision(every), wanted.by_class["ap50"], atol=1e-12)
    twice = coco.average_precision(every + every)
    np.testing.assert_allclose(coco.average_precision(every, np.full(12, 2)), twice, atol=1e-12)
    low, high = coco.bootstrap_interval(every, coco.mean_ap, draws=50)
    assert 0 <= low < wanted.twelve["ap50"] < high <= 1
    hits = sum((one.truth >= 0).sum() for one in every)
    assert hits + sum(len(one.missed) for one in every) == sum(one.wanted.sum() for one in every)


def test_nothing_found_and_nothing_there():
    image = AnnotatedImage("a", *SIZE, (Annotation(1, (5, 5, 20, 30)),))
    found = coco.coco_figures([image], [()], CLASSES)
    assert found.twelve["ap"] == 0
    assert np.isnan(found.by_class["ap"][0])
    empty = AnnotatedImage("a", *SIZE)
    found = coco.coco_figures([empty], [(Annotation(1, (5, 5, 20, 30), score=0.5),)], CLASSES)
    assert np.isnan(found.twelve["ap"])
    low, _ = coco.bootstrap_interval([coco.matches(image, (), CLASSES)], coco.mean_ap)
    assert np.isnan(low)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_ap_of_draws_is_pycocotools_of_the_images_drawn(case, kind):
    truths, predictions = case
    every = [
        coco.counted(truth, found, CLASSES, kind)
        for truth, found in zip(truths, predictions, strict=True)
    ]
    drawn = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=3)
    times = np.concatenate([np.ones((1, 12), int), drawn])
    curves = coco.coco_figures(truths, predictions, CLASSES, kind).precision
    np.testing.assert_allclose(coco.precision_curves(every), curves, atol=1e-9)
    found = coco.ap_of_draws(every, times)
    for count, value in zip(times, found, strict=True):
        places = np.repeat(np.arange(12), count)
        of_set = [truths[i] for i in places], [predictions[i] for i in places]
        wanted = coco.coco_figures(*of_set, CLASSES, kind).twelve["ap"]
        assert value == pytest.approx(wanted, abs=1e-9)
    assert found[0] == pytest.approx(reference(truths, predictions, kind)[0], abs=1e-9)


def test_differences_over_the_same_images(case):
    truths, predictions = case
    times = statistics.drawn(12, draws=99)
    ours, nothing = (
        coco.ap_of_draws(
            [
                coco.counted(t, found if some else (), CLASSES)
                for t, found in zip(truths, predictions, strict=True)
            ],
            times,
        )
        for some in (True, False)
    )
    assert statistics.paired_bootstrap(ours, ours) == (0.0, 1.0, (0.0, 0.0))
    difference, p, (low, high) = statistics.paired_bootstrap([ours, ours], [nothing, nothing])
    assert difference == pytest.approx(ours[0])
    assert p == pytest.approx(2 / 100)
    assert 0 < low < difference < high
    other = statistics.paired_bootstrap(nothing, ours)
    assert other[:2] == pytest.approx((-difference, p))
    assert other[2] == pytest.approx((-high, -low))
    assert np.isnan(statistics.paired_bootstrap(ours[:1], nothing[:1])[1])
