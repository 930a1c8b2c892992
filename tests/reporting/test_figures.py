"""The pictures of a run show what they claim to show, in the same bytes each time, for awkward
input too."""

import math
import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cnn_jax.reporting import figures, style

NAMES = ["edificación", "road", "道路"]


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("count", [1, 2, 13])
def test_confusion_matrix_takes_few_and_many_classes(tmp_path, count):
    matrix = np.random.default_rng(0).integers(0, 10**9, (count, count), dtype=np.int64)
    matrix[count // 2] = 0
    names = ["a very long name of a class that nobody can fit", "_hidden", "$x^2"] * 7
    figures.confusion_matrix(matrix, names[:count], tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size < 500_000


def drawn(monkeypatch, draw):
    """The figure that a call would save."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: kept.append(figure))
    draw()
    return kept[0]


def written(monkeypatch, draw) -> list[str]:
    """Every text that a picture holds."""
    return [text.get_text() for text in drawn(monkeypatch, draw).findobj(matplotlib.text.Text)]


def class_labels(figure) -> list[str]:
    """The names beside the rows of a confusion matrix."""
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def test_confusion_matrix_says_shares_counts_and_iou(monkeypatch):
    matrix = np.array([[3_000_000, 1_000_000, 0], [0, 2_999, 1], [500, 500, 0]], np.int64)
    texts = written(
        monkeypatch, lambda: figures.confusion_matrix(matrix, ["a", "b", "c"], "unused.png")
    )
    assert {"75.0\n3.00 M", "25.0\n1.00 M", ">99.9\n2,999", "<0.1\n1", "50.0\n500"} <= set(texts)
    assert {
        "0.750",
        "0.003",
        "0.000",
        f"mean {(3e6 / 4_000_500 + 2999 / 1_003_500) / 3:.3f}",
    } <= set(texts)


def test_confusion_matrix_leaves_absent_classes_out_of_the_mean(monkeypatch):
    matrix = np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]], np.int64)
    texts = written(
        monkeypatch, lambda: figures.confusion_matrix(matrix, ["a", "b", "c"], "unused.png")
    )
    assert f"mean {(1 / 2 + 2 / 3) / 2:.3f}" in texts
    nothing = written(
        monkeypatch,
        lambda: figures.confusion_matrix(np.zeros((2, 2), np.int64), ["a", "b"], "unused.png"),
    )
    assert "mean \N{EN DASH}" in nothing


def test_confusion_matrix_of_examples_says_recall_and_accuracy(monkeypatch):
    matrix = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]], np.int64)
    texts = written(
        monkeypatch,
        lambda: figures.confusion_matrix(matrix, ["a", "b", "c"], "unused.png", unit="examples"),
    )
    assert "% of true class, examples\naccuracy 0.7857 (11 of 14 right)" in texts
    assert {"Recall", "0.800", "0.750", "\N{EN DASH}", "mean 0.775", "80.0\n8", "25.0\n1"} <= set(
        texts
    )
    assert "IoU" not in texts


def test_confusion_matrix_of_a_hundred_classes_has_every_name_and_no_numbers(monkeypatch):
    names = [f"n{k}" for k in range(100)]
    figure = drawn(
        monkeypatch, lambda: figures.confusion_matrix(np.eye(100), names, "unused.png", "examples")
    )
    assert (
        class_labels(figure)
        == [text.get_text() for text in figure.axes[0].get_xticklabels()]
        == names
    )
    assert not figure.axes[0].texts


def test_confusion_matrix_of_a_thousand_classes_shows_the_most_confused_pair_by_pair(monkeypatch):
    matrix = np.diag(np.full(1000, 50))
    pairs = [(700 - 20 * k, 3 + 2 * k) for k in range(16)]
    for rank, (row, column) in enumerate(pairs):
        matrix[row, column] = 50 - rank
    names = [f"n{k}" for k in range(1000)]
    figure = drawn(
        monkeypatch, lambda: figures.confusion_matrix(matrix, names, "unused.png", "examples")
    )
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    right = f"accuracy {50_000 / matrix.sum():.4f} (50,000 of {matrix.sum():,} right)"
    assert (
        f"The 30 of 1,000 classes most confused with each other: % of true class, examples\n{right}"
        in texts
    )
    assert class_labels(figure) == [f"n{index}" for pair in pairs[:15] for index in sorted(pair)]
    assert "50.0\n50" in texts, "shares are of all the examples of a class"
    assert f"mean {(984 + sum(50 / (100 - rank) for rank in range(16))) / 1000:.3f}" in texts, (
        "means are over all classes"
    )


def test_confusion_matrix_refuses_another_unit(tmp_path):
    with pytest.raises(ValueError, match="'images'"):
        figures.confusion_matrix(np.eye(2), ["a", "b"], tmp_path / "c.png", "images")


def test_confusion_matrix_refuses_a_wrong_shape(tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        figures.confusion_matrix(np.zeros((2, 3), np.int64), ["a", "b"], tmp_path / "c.png")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (9999, "9,999"),
        (10_000, "10.0 k"),
        (999_499, "999 k"),
        (999_950, "1.00 M"),
        (28e6, "28.0 M"),
    ],
)
def test_counts_are_readable(count, text):
    assert style.readable(count) == text


ROWS = [
    {"step": 50, "train/loss": 0.9, "train/learning_rate": 1e-3, "train/images_per_second": 8.1},
    {"step": 100, "train/loss": 0.7, "train/learning_rate": 5e-4},
    {
        "step": 100,
        "validation/loss": 0.8,
        "validation/miou": 0.4,
        "validation/iou/road": 0.3,
        "validation/iou/_x": 0.5,
    },
]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        ROWS[:1],
        ROWS[:2],
        ROWS,
        [*ROWS, {"step": 150, "train/loss": math.nan, "validation/iou/道路": None}],
        [{"step": 0, "train/learning_rate": 0.0}],
        [{"step": 10, "train/accuracy": 0.5}],
        [{"step": 10, "validation/accuracy": None, "validation/iou/road": 0.3}],
        [{"step": 100, **{f"validation/iou/class {n}": n / 40 for n in range(40)}}],
    ],
)
def test_learning_curves_take_whatever_a_run_recorded(tmp_path, rows):
    figures.learning_curves(rows, tmp_path / "new" / "curves.png")
    assert pixels(tmp_path / "new" / "curves.png").std() > 0


def test_learning_curves_draw_the_values_and_keep_the_later_row_of_a_step(monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: kept.append(figure))
    figures.learning_curves(
        [*reversed(ROWS), {"step": 50, "train/loss": 0.6}, {"step": 150, "train/loss": math.inf}],
        "unused.png",
    )
    loss, rate, iou = kept[0].axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [
        [[50, 0.6], [100, 0.7]],
        [[100, 0.8]],
    ]
    assert rate.lines[0].get_xydata().tolist() == [[50, 1e-3], [100, 5e-4]]
    assert [text.get_text() for text in iou.get_legend().get_texts()] == [
        " _x",
        "mean (mIoU)",
        "road",
    ]
    assert "not finite at step 150" in [text.get_text() for text in loss.texts]


def test_learning_curves_of_a_classifier_show_accuracy_with_its_best_step(monkeypatch):
    train = [
        {
            "step": step,
            "train/loss": 1.0,
            "train/accuracy": 0.1 if step < 30 else 0.7 + 0.2 * (step % 2),
        }
        for step in range(200)
    ]
    rows = [
        *train,
        {"step": 100, "validation/accuracy": 0.75},
        {"step": 199, "validation/accuracy": 0.74},
    ]
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: kept.append(figure))
    figures.learning_curves(rows, "unused.png", best_step=100)
    loss, _, accuracy = kept[0].axes
    assert accuracy.get_title(loc="left") == "Accuracy"
    raw, mean, validation, best = accuracy.lines
    assert len(raw.get_xdata()) == 200
    np.testing.assert_allclose(
        mean.get_ydata()[-100:], 0.8
    )  # over 20 records, as many of either kind
    np.testing.assert_allclose(mean.get_xdata(), np.arange(9.5, 190))
    np.testing.assert_array_equal(validation.get_xydata(), [[100, 0.75], [199, 0.74]])
    assert best.get_xdata() == loss.lines[-1].get_xdata() == [100, 100]
    assert "best step 100" in [text.get_text() for text in accuracy.texts]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "train, mean of 20 records",
        "validation",
    ]


def test_the_axis_of_accuracy_leaves_the_steep_beginning_out(monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path, **_: kept.append(figure))
    figures.learning_curves(
        [
            {"step": k, "validation/accuracy": 0.1 if k < 5 else 0.99 + k / 10_000}
            for k in range(100)
        ],
        "u.png",
    )
    low, high = kept[0].axes[2].get_ylim()
    assert 0.9 < low < 0.9905
    assert 0.9999 <= high <= 1


def test_curves_of_classes_differ_without_colour():
    styles = [style.curve_style(index) for index in range(21)]
    assert len({(str(style["linestyle"]), style["marker"]) for style in styles}) == 21


def test_pictures_have_the_same_bytes_each_time_whatever_the_users_settings(tmp_path):
    def draw(folder):
        figures.confusion_matrix(np.eye(3, dtype=np.int64), NAMES, folder / "c.png")
        figures.learning_curves(ROWS, folder / "l.png")
        return [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    first = draw(tmp_path / "one")
    with matplotlib.rc_context(
        {
            "axes.facecolor": "black",
            "font.size": 20,
            "savefig.dpi": 40,
            "savefig.transparent": True,
            "hatch.linewidth": 9,
        }
    ):
        settings = dict(matplotlib.rcParams)
        second = draw(tmp_path / "two")
        assert dict(matplotlib.rcParams) == settings, "the user's settings are left as they were"
    assert len(first) == 2
    assert first == second


def test_png_names_neither_version_nor_date(tmp_path):
    figures.learning_curves(ROWS, tmp_path / "l.png")
    with Image.open(tmp_path / "l.png") as picture:
        assert set(picture.info) <= {"dpi", "Software"}
        assert picture.info["Software"] == "cnn_jax"  # by which it may be replaced


def test_characters_that_no_font_has_are_told_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(style, "_told", set())
    monkeypatch.setattr(style, "_fonts", lambda: ["DejaVu Sans"])
    for number in range(2):
        with style.style():
            figure = Figure(figsize=(1, 1))
            figure.text(0, 0, "建筑 land 建")
            style.save(figure, tmp_path / f"{number}.png")
    assert capsys.readouterr().out == (
        "note: no installed font has 建筑: pictures show boxes instead; install one that does, such"
        " as Noto Sans CJK.\n"
    )
    figure = Figure(figsize=(1, 1))
    figure.draw = lambda renderer: warnings.warn("of another kind", stacklevel=2)
    with pytest.warns(UserWarning, match="of another kind"):
        style.save(figure, tmp_path / "other.png")
