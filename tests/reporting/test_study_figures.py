"""Comparisons of runs draw the values, means and intervals that they are given."""

import math

import matplotlib
import numpy as np
import pytest

from cnn_jax.reporting import study_figures


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a call draws, without writing it."""
    kept = []
    monkeypatch.setattr(study_figures, "save", lambda figure, path, **_: kept.append(figure))

    def draw(function, *arguments, **options):
        function(*arguments, path="unused.png", **options)
        return kept.pop()

    return draw


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def lines(axes) -> dict:
    return {line.get_label(): line.get_xydata() for line in axes.lines}


KS = [1, 5, 100]
ACCURACIES = {
    "L1": [[0.2, 0.4], [0.5, 0.5], [0.3, 0.1]],
    "L2": [[0.5, 0.5], [0.4, 0.2], [0.1, 0.1]],
}


def test_cross_validation_draws_means_folds_and_the_best_of_the_smallest_k(drawn):
    figure = drawn(study_figures.cross_validation, KS, ACCURACIES)
    (axes,) = figure.axes
    means = lines(axes)
    np.testing.assert_allclose(means["L1"][:, 1], [0.3, 0.5, 0.2])
    np.testing.assert_allclose(means["L2"][:, 1], [0.5, 0.3, 0.1])
    np.testing.assert_allclose(means["L2"][:, 0], KS, rtol=0.02)
    dots = [line.get_ydata().tolist() for line in axes.lines if line.get_marker() == "."]
    assert dots == [np.ravel(values).tolist() for values in ACCURACIES.values()]
    assert "2-fold cross-validation; ringed: L2, k = 1, mean 0.5000" in texts(figure)
    chosen = drawn(study_figures.cross_validation, KS, ACCURACIES, chosen=("L1", 100))
    assert "2-fold cross-validation; ringed: L1, k = 100, mean 0.2000" in texts(chosen)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([1, 5], ACCURACIES, "unused.png"), r"2 rows, not \(3, 2\)"),
        ((KS, ACCURACIES, "unused.png", ("L3", 1)), r"\('L3', 1\) is none"),
    ],
)
def test_cross_validation_refuses_what_does_not_agree(arguments, says):
    with pytest.raises(ValueError, match=says):
        study_figures.cross_validation(*arguments)


def rows(final: float, validation: float) -> list[dict]:
    """A hundred records of training that end in the mean `final`, and two of validation."""
    train = [
        {
            "step": 10 * n,
            "train/accuracy": final * min(1, n / 50) + 0.01 * (-1) ** n,
            "train/loss": 1 / n,
        }
        for n in range(1, 101)
    ]
    return [
        *train,
        {"step": 500, "validation/accuracy": 0.1},
        {"step": 1000, "validation/accuracy": validation},
    ]


def test_overfitting_draws_each_run_over_the_baseline_and_says_the_gap(drawn):
    runs = {
        "baseline": rows(0.9, 0.7),
        "dropout": rows(0.8, 0.75),
        "empty": [],
        "five": rows(0.5, 0.5),
        "six": rows(0.5, 0.5),
    }
    final = dict.fromkeys(runs, (0.91, 0.7)) | {"dropout": (0.7, 0.75)}
    figure = drawn(study_figures.overfitting, runs, final, baseline="baseline")
    accuracy, loss = figure.axes[::2], figure.axes[1::2]
    assert [axes.get_title(loc="left") for axes in accuracy] == list(runs)
    said = [text for text in texts(figure) if text.startswith("train 0")]
    assert said[:2] == [
        "train 0.910, test 0.700, gap +0.210",
        "train 0.700, test 0.750, gap -0.050",
    ]
    assert len(said) == 5
    grey, own = accuracy[1].lines[:2], accuracy[1].lines[2:]
    assert {line.get_color() for line in grey} == {"#A6A6A6"}
    for line, expected in zip(grey, accuracy[0].lines, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), expected.get_xydata())
    np.testing.assert_array_equal(own[1].get_xydata(), [[500, 0.1], [1000, 0.75]])
    assert abs(own[0].get_ydata()[-1] - 0.8) < 1e-3, "the running mean takes the scatter away"
    assert (
        len({axes.get_ylim() for axes in accuracy}) == len({axes.get_ylim() for axes in loss}) == 1
    )
    assert len(loss[2].lines) == 1, "the baseline alone, which records no loss of validation"


def test_overfitting_says_the_test_alone_where_training_images_were_not_counted(drawn):
    runs = {"baseline": rows(0.9, 0.7), "dropout": rows(0.8, 0.75)}
    final = {"baseline": (0.91, 0.7), "dropout": (math.nan, 0.75)}
    figure = drawn(study_figures.overfitting, runs, final, baseline="baseline")
    said = [text for text in texts(figure) if "test 0" in text]
    assert said == ["train 0.910, test 0.700, gap +0.210", "test 0.750"]


def test_overfitting_refuses_an_unknown_baseline_and_no_run():
    for runs, baseline in (({"a": []}, "b"), ({}, None)):
        with pytest.raises(ValueError, match="no run"):
            study_figures.overfitting(runs, {"a": (1, 1)}, "unused.png", baseline=baseline)


def test_seeds_are_sorted_with_students_interval(drawn):
    values = {
        "worse": [0.5, 0.7],
        "a name of a variant that is longer than any line": [0.9],
        "道路": [0.8, 0.9, 0.7],
    }
    (axes,) = drawn(study_figures.seeds, values, label="test accuracy").axes
    assert [text.get_text()[:5] for text in axes.get_yticklabels()] == ["worse", "道路", "a nam"]
    # Student's t at 97.5% is 12.706 with one degree of freedom and 4.303 with two (printed tables).
    halves = [12.706 * 0.1, 4.303 * 0.1 / 3**0.5]
    bars = [line.get_xdata() for line in axes.lines if line.get_marker() == "None"]
    np.testing.assert_allclose(
        bars,
        [[mean - half, mean + half] for mean, half in zip((0.6, 0.8), halves, strict=True)],
        atol=1e-3,
    )
    found = [text.get_text() for text in axes.texts]
    assert found == [f"0.6000 ± {halves[0]:.4f} (2)", f"0.8000 ± {halves[1]:.4f} (3)", "0.9000 (1)"]
    dots = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[0.5, 0.7], [0.8, 0.9, 0.7], [0.9]]
    assert axes.get_xlabel() == "test accuracy"


def test_against_shift_draws_means_over_seeds_in_the_order_of_shifts(drawn):
    values = {"mlp": {4: [0.1, 0.3], 0: [0.9, 0.7]}, "cnn": {0: [0.9], 2: [0.8], 4: [0.7]}}
    (axes,) = drawn(study_figures.against_shift, values).axes
    np.testing.assert_allclose(lines(axes)["mlp"], [[0, 0.8], [4, 0.2]], atol=0.21)
    np.testing.assert_allclose(lines(axes)["mlp"][:, 1], [0.8, 0.2])
    np.testing.assert_allclose(lines(axes)["cnn"][:, 1], [0.9, 0.8, 0.7])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["cnn", "mlp"]
    assert list(axes.get_xticks()) == [0, 2, 4]
    half = 12.706 * 0.1
    bars = np.array(axes.collections[0].get_segments())[:, :, 1]
    np.testing.assert_allclose(
        bars, [[0.8 - half, 0.8 + half], [0.2 - half, 0.2 + half]], atol=1e-3
    )


@pytest.mark.parametrize("values", [{}, {"a": {}}, {"a": {0: []}}])
def test_nothing_to_draw_is_refused(values):
    with pytest.raises(ValueError, match="nothing to draw"):
        study_figures.against_shift(values, "unused.png")


def test_pictures_have_the_same_bytes_each_time(tmp_path):
    def draw(folder):
        study_figures.cross_validation(KS, ACCURACIES, folder / "k.png")
        study_figures.overfitting(
            {"a": rows(0.9, 0.7), "b": []},
            dict.fromkeys("ab", (0.9, 0.8)),
            folder / "o.png",
            baseline="a",
        )
        study_figures.seeds({"one": [0.5], "two": [0.5, 0.6]}, folder / "s.png")
        study_figures.against_shift({"one": {0: [0.5]}}, folder / "a.png")
        return [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    first = draw(tmp_path / "one")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "errorbar.capsize": 9}):
        assert draw(tmp_path / "two") == first
    assert len(first) == 4
