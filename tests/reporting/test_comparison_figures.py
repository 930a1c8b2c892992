"""Charts of a comparison hold the numbers they are given, and are the same twice."""

import itertools
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from cnn_jax.reporting import comparison_figures as figures
from cnn_jax.reporting.comparison_figures import Point

LOOKS = {"unet": 0, "fcn": 1, "deeplab": 2}
RUNS = {
    name: [
        [
            {"step": step, "train/loss": start / step, "validation/miou": None}
            for step in range(1, 31)
        ]
        for start in (3.0, 3.5)
    ]
    for name in LOOKS
}


def texts(svg):
    return [
        node.text for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_the_front_holds_whom_none_beats():
    rng = np.random.default_rng(0)
    for more_is_better in (False, True):
        points = {str(i): Point(*rng.integers(0, 6, 2).astype(float), math.nan) for i in range(12)}
        sign = -1 if more_is_better else 1

        def beaten(p, points=points, sign=sign):
            costs = [(sign * other.cost, other.score) for other in points.values()]
            return any(
                c <= sign * p.cost and s >= p.score and (c, s) != (sign * p.cost, p.score)
                for c, s in costs
            )

        front = figures.pareto_front(points, more_is_better)
        values = {points[name][:2] for name in front}
        assert values == {p[:2] for p in points.values() if not beaten(p)}
        assert len(front) == len(values), "of equals one"
        assert [points[name].score for name in front] == sorted(
            points[name].score for name in front
        )


def test_curves_are_aligned_by_step_and_bands_span_the_seeds():
    steps, values = figures._aligned(
        [([10, 20, 30], [1.0, 2.0, 3.0]), ([20, 30, 40], [4.0, 5.0, 6.0]), ([], [])], smooth=False
    )
    assert steps.tolist() == [20, 30]
    assert values.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    steps, values = figures._aligned([(list(range(1, 31)), list(range(1, 31)))], smooth=True)
    assert (steps[0], values[0, 0]) == (2, pytest.approx(2)), "the mean of the first three"


def test_charts_name_their_variants_and_repeat_themselves():
    curves = figures.learning_curves(RUNS, "train/loss", LOOKS, "training loss", smooth=True)
    assert {*LOOKS, "training loss", "step"} <= set(texts(curves))
    points = {
        "unet": Point(2e6, 0.6, 0.01),
        "fcn": Point(3e7, 0.5, math.nan),
        "deeplab": Point(math.nan, 0.7, 0.01),
    }
    costs = figures.against_cost(points, LOOKS, "parameters", "mIoU")
    assert {"unet", "fcn", "parameters"} <= set(texts(costs))
    assert "deeplab" not in texts(costs), "its cost isn't known"
    classes = figures.class_scores(
        {"unet": (0.612, 0.01), "fcn": (math.nan, math.nan)}, LOOKS, "IoU", (0, 1)
    )
    assert {"0.612", "unet", "fcn"} <= set(texts(classes))
    assert costs == figures.against_cost(points, LOOKS, "parameters", "mIoU")
    for svg in (curves, costs, classes, figures.reliability([0, 5, 9], [0.0, 2.5, 8.0], [0, 2, 9])):
        assert "<metadata" not in svg
        assert "date" not in svg.lower()


def test_without_values_a_chart_says_so():
    assert "nothing recorded" in texts(
        figures.learning_curves(RUNS, "validation/miou", LOOKS, "mIoU")
    )
    assert "nothing recorded" in texts(
        figures.against_cost({"unet": Point(math.nan, 0.5, 0.1)}, LOOKS, "time", "mIoU")
    )
    assert len(texts(figures.reliability([0, 0], [0.0, 0.0], [0, 0]))) > 0


def test_names_of_points_cover_no_other(monkeypatch):
    placed = []
    monkeypatch.setattr(figures, "_svg", lambda figure: placed.append(figure) or "")
    names = [f"a variant {i}" for i in range(8)]
    points = {name: Point(1 + 0.05 * i, 0.5 + 0.003 * i, 0.001) for i, name in enumerate(names)}
    figures.against_cost(points, {name: i for i, name in enumerate(names)}, "cost", "mIoU")
    (figure,) = placed
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [
        text.get_window_extent(canvas.get_renderer())
        for text in figure.axes[0].texts
        if text.get_text() in names
    ]
    assert len(boxes) == len(names)
    for one, other in itertools.combinations(boxes, 2):
        assert figures._overlap(one.extents, other.extents) < 0.1 * one.width * one.height
