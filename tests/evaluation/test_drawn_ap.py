"""AP of drawn and swapped sets beside faster-coco-eval's, whose own is beside pycocotools'."""

import numpy as np
import pytest

from cnn_jax.evaluation import coco, statistics
from cnn_jax.evaluation.drawn_ap import ap_of_draws, swapped_differences
from tests.evaluation import crowded
from tests.evaluation.crowded import CLASSES


@pytest.fixture(scope="module")
def case():
    return crowded.case()


def counted(truths, predictions, kind="box", most=100):
    return [
        coco.counted(truth, found, CLASSES, kind, most)
        for truth, found in zip(truths, predictions, strict=True)
    ]


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("most", [1, 100])
def test_ap_of_the_images_drawn(case, kind, most):
    truths, predictions = case
    every = counted(truths, predictions, kind, most)
    times = statistics.drawn(12, draws=3, seed=3)
    found, found50 = ap_of_draws(every, times), ap_of_draws(every, times, ious=0.5)
    found75 = ap_of_draws(every, times, ious=[0.75])
    for count, *values in zip(times, found, found50, found75, strict=True):
        places = np.repeat(np.arange(12), count)
        of_set = [truths[i] for i in places], [predictions[i] for i in places]
        wanted = coco.coco_figures(*of_set, CLASSES, kind, most).twelve
        assert values == pytest.approx([wanted[key] for key in ("ap", "ap50", "ap75")], abs=1e-9)
    curves = coco.coco_figures(truths, predictions, CLASSES, kind, most).precision
    np.testing.assert_allclose(coco.precision_curves(every), curves, atol=1e-9)


def test_ap_where_two_runs_are_swapped(case):
    truths, ours = case
    # Another run misses every other object, and is surer of what it sees.
    theirs = [tuple(crowded.surer(one) for one in found[::2]) for found in ours]
    ways = statistics.swaps(12, draws=4)
    assert ways.shape == (5, 12)
    found = swapped_differences(counted(truths, ours), counted(truths, theirs), ways)
    for way, value in zip(ways, found, strict=True):
        pairs = zip(way, ours, theirs, strict=True)
        one, other = zip(*((b, a) if swap else (a, b) for swap, a, b in pairs), strict=True)
        aps = [coco.coco_figures(truths, of, CLASSES).twelve["ap"] for of in (one, other)]
        assert value == pytest.approx(aps[0] - aps[1], abs=1e-9)
    assert len({*found.round(6)}) == 5


def test_the_bootstrap_of_a_difference(case):
    truths, predictions = case
    times = statistics.drawn(12, draws=99)
    ours, nothing = (
        ap_of_draws(counted(truths, of), times) for of in (predictions, [()] * len(truths))
    )
    assert statistics.paired_bootstrap(ours, ours) == (0.0, (0.0, 0.0))
    difference, (low, high) = statistics.paired_bootstrap([ours, ours], [nothing, nothing])
    assert difference == pytest.approx(ours[0])
    assert 0 < low < difference < high
    turned, interval = statistics.paired_bootstrap(nothing, ours)
    assert turned == pytest.approx(-difference)
    assert interval == pytest.approx((-high, -low))


def test_one_image_has_no_interval(case):
    truths, predictions = case
    drawn = ap_of_draws(counted(truths[:1], predictions[:1]), statistics.drawn(1))
    assert len(drawn) == 1
    assert np.isnan(statistics.paired_bootstrap(drawn, drawn)[1]).all()
