"""The pictures show what they claim to show, in the same bytes each time, for awkward input too."""

import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.scenes import IGNORED
from cnn_jax.reporting import figures

NAMES = ["edificación", "road", "道路"]
COLORS = [(60, 16, 152), (110, 193, 228), (254, 221, 58)]


def example(height: int, width: int, seed: int = 0):
    """A photograph of noise, a truth of stripes with an ignored corner, and a prediction that is wrong in a block."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    truth = np.repeat((np.arange(width) * 3 // width).astype(np.uint8)[None], height, axis=0)
    prediction = truth.copy()
    truth[: height // 4, : width // 4] = IGNORED
    prediction[height // 2 :, : width // 3] = 2
    return image, truth, prediction


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_errors_are_painted_where_prediction_is_wrong_and_nowhere_else():
    image, truth, prediction = example(40, 60)
    painted = figures.paint_errors(image, truth, prediction)
    wrong = (truth != prediction) & (truth != IGNORED)
    assert wrong.any()
    np.testing.assert_array_equal((painted == figures.ERROR_COLOR).all(-1), wrong)
    right = painted[(truth == prediction)]
    assert (right == right[:, :1]).all(), "right pixels are grey"
    assert right.max() <= 0.45 * 255, "and dark"


def test_errors_stand_out_in_grey():
    image, truth, prediction = example(40, 60)
    grey = np.asarray(Image.fromarray(figures.paint_errors(image, truth, prediction)).convert("L")).astype(int)
    assert grey[(truth != prediction) & (truth != IGNORED)].min() > grey[truth == prediction].max() + 50


def test_paint_gives_classes_their_colors_outlines_and_ignored_its_hatch():
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 1
    mask[10:, :4] = IGNORED
    painted = figures.paint(mask, COLORS)
    assert tuple(painted[0, 0]) == COLORS[0]
    assert tuple(painted[0, 15]) == COLORS[1]
    assert painted[0, 7].max() < 40, "the border between two classes is dark"
    hatch = painted[10:, :4].reshape(-1, 3)
    assert (hatch == hatch[:, :1]).all(), "ignored pixels are grey"
    assert len(np.unique(hatch)) == 2, "in two stripes"


def test_gallery_shows_the_error_pixels_of_each_row(tmp_path):
    image, truth, prediction = example(300, 300)
    image[:] = 128
    figures.gallery([image] * 2, [truth] * 2, [prediction, truth], NAMES, COLORS, tmp_path / "g.png", ["one", "two"])
    picture = pixels(tmp_path / "g.png")
    panel = (figures.paint_errors(image, truth, prediction) == figures.ERROR_COLOR).all(-1).mean()
    found = (picture == figures.ERROR_COLOR).all(-1)
    rows = np.flatnonzero(found[:, picture.shape[1] * 3 // 4 :].any(1))
    # Only the first row has errors: as many as there are, at the panel's size. Below it is only the swatch of the legend.
    side = figures._panel_px(4, [image])
    block = found[rows[0] : rows[0] + side // 2 - 1, -side - 8 :]
    assert block.sum() == pytest.approx(panel * side * side, rel=0.03)


def test_gallery_enlarges_small_and_shrinks_large_to_one_width(tmp_path):
    rows = [example(16, 24), example(900, 1200, seed=1), example(64, 20, seed=2)]
    figures.gallery(*map(list, zip(*rows, strict=True)), NAMES, COLORS, tmp_path / "g.png")
    assert pixels(tmp_path / "g.png").shape[1] <= 4 * 330 + 5 * 8


def test_gallery_of_six_photographs_is_small_even_for_noise(tmp_path):
    rows = [example(800, 900, seed) for seed in range(6)]
    figures.gallery(*map(list, zip(*rows, strict=True)), NAMES, COLORS, tmp_path / "g.png", [f"row {n}" for n in range(6)])
    assert (tmp_path / "g.png").stat().st_size < 1_500_000


def test_contact_sheet_takes_many_sizes_and_hatches_ignored(tmp_path):
    pairs = [example(20 + 10 * n, 60, n)[:2] for n in range(5)]
    images, masks = map(list, zip(*pairs, strict=True))
    figures.contact_sheet(images, masks, NAMES, COLORS, tmp_path / "s.png", ["a title " * 30] * 5)
    with_ignored = pixels(tmp_path / "s.png")
    figures.contact_sheet(images, [np.zeros_like(mask) for mask in masks], NAMES, COLORS, tmp_path / "s.png")
    light = (225, 225, 225)
    assert (with_ignored == light).all(-1).sum() > 200 > (pixels(tmp_path / "s.png") == light).all(-1).sum()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": []}, "shorter|longer"),
        ({"titles": ["one", "two"]}, "shorter|longer"),
        ({"truths": [np.full((8, 8), 3, np.uint8)]}, r"\[3\] are neither"),
        ({"truths": [np.zeros((8, 9), np.uint8)]}, r"\(8, 9\)"),
        ({"predictions": [np.zeros((8, 8), np.int64)]}, "int64"),
        ({"images": [np.zeros((8, 8, 3), np.float32)]}, "float32"),
        ({"colors": COLORS[:2]}, "as many colours"),
        ({"images": [], "truths": [], "predictions": []}, "at least one"),
    ],
)
def test_gallery_refuses_input_that_does_not_agree(tmp_path, change, says):
    mask = np.zeros((8, 8), np.uint8)
    given = {"images": [np.zeros((8, 8, 3), np.uint8)], "truths": [mask], "predictions": [mask], "class_names": NAMES}
    with pytest.raises(ValueError, match=says):
        figures.gallery(**(given | {"colors": COLORS} | change), path=tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


@pytest.mark.parametrize("count", [1, 2, 21])
def test_confusion_matrix_takes_few_and_many_classes(tmp_path, count):
    matrix = np.random.default_rng(0).integers(0, 10**9, (count, count), dtype=np.int64)
    matrix[count // 2] = 0
    names = ["a very long name of a class that nobody can fit", "_hidden", "$x^2"] * 7
    figures.confusion_matrix(matrix, names[:count], tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size < 500_000


def written(monkeypatch, draw) -> list[str]:
    """Every text that a picture holds."""
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path, **_: kept.append(figure))
    draw()
    return [text.get_text() for text in kept[0].findobj(matplotlib.text.Text)]


def test_confusion_matrix_says_shares_counts_and_iou(monkeypatch):
    matrix = np.array([[3_000_000, 1_000_000, 0], [0, 2_999, 1], [500, 500, 0]], np.int64)
    texts = written(monkeypatch, lambda: figures.confusion_matrix(matrix, ["a", "b", "c"], "unused.png"))
    assert {"75.0\n3.00 M", "25.0\n1.00 M", ">99.9\n3.00 k", "<0.1\n1", "50.0\n500"} <= set(texts)
    assert {"0.750", "0.003", "0.000", f"mean {(3e6 / 4_000_500 + 2999 / 1_003_500) / 3:.3f}"} <= set(texts)


def test_confusion_matrix_leaves_absent_classes_out_of_the_mean(monkeypatch):
    matrix = np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]], np.int64)
    texts = written(monkeypatch, lambda: figures.confusion_matrix(matrix, ["a", "b", "c"], "unused.png"))
    assert f"mean {(1 / 2 + 2 / 3) / 2:.3f}" in texts
    nothing = written(monkeypatch, lambda: figures.confusion_matrix(np.zeros((2, 2), np.int64), ["a", "b"], "unused.png"))
    assert "mean \N{EN DASH}" in nothing


def test_confusion_matrix_refuses_a_wrong_shape(tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        figures.confusion_matrix(np.zeros((2, 3), np.int64), ["a", "b"], tmp_path / "c.png")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_499, "999 k"), (999_950, "1.00 M"), (28e6, "28.0 M")]
)
def test_counts_are_readable(count, text):
    assert figures._readable(count) == text


ROWS = [
    {"step": 50, "train/loss": 0.9, "train/learning_rate": 1e-3, "train/images_per_second": 8.1},
    {"step": 100, "train/loss": 0.7, "train/learning_rate": 5e-4},
    {"step": 100, "validation/loss": 0.8, "validation/miou": 0.4, "validation/iou/road": 0.3, "validation/iou/_x": 0.5},
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
        [{"step": 100, **{f"validation/iou/class {n}": n / 40 for n in range(40)}}],
    ],
)
def test_learning_curves_take_whatever_a_run_recorded(tmp_path, rows):
    figures.learning_curves(rows, tmp_path / "new" / "curves.png")
    assert pixels(tmp_path / "new" / "curves.png").std() > 0


def test_learning_curves_draw_the_values_and_keep_the_later_row_of_a_step(monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path, **_: kept.append(figure))
    figures.learning_curves(
        [*reversed(ROWS), {"step": 50, "train/loss": 0.6}, {"step": 150, "train/loss": math.inf}], "unused.png"
    )
    loss, rate, iou = kept[0].axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[50, 0.6], [100, 0.7]], [[100, 0.8]]]
    assert rate.lines[0].get_xydata().tolist() == [[50, 1e-3], [100, 5e-4]]
    assert [text.get_text() for text in iou.get_legend().get_texts()] == [" _x", "mean (mIoU)", "road"]
    assert "not finite at step 150" in [text.get_text() for text in loss.texts]


def test_curves_of_classes_differ_without_colour():
    styles = [figures._curve_style(index) for index in range(21)]
    assert len({(str(style["linestyle"]), style["marker"]) for style in styles}) == 21


def test_pictures_have_the_same_bytes_each_time_whatever_the_users_settings(tmp_path):
    image, truth, prediction = example(50, 70)

    def draw(folder):
        figures.gallery([image], [truth], [prediction], NAMES, COLORS, folder / "g.png", ["a $title"])
        figures.contact_sheet([image], [truth], NAMES, COLORS, folder / "s.png")
        figures.confusion_matrix(np.eye(3, dtype=np.int64), NAMES, folder / "c.png")
        figures.learning_curves(ROWS, folder / "l.png")
        return [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    first = draw(tmp_path / "one")
    with matplotlib.rc_context(
        {"axes.facecolor": "black", "font.size": 20, "savefig.dpi": 40, "savefig.transparent": True, "hatch.linewidth": 9}
    ):
        settings = dict(matplotlib.rcParams)
        second = draw(tmp_path / "two")
        assert dict(matplotlib.rcParams) == settings, "the user's settings are left as they were"
    assert len(first) == 4
    assert first == second


def test_png_names_neither_software_nor_date(tmp_path):
    figures.learning_curves(ROWS, tmp_path / "l.png")
    with Image.open(tmp_path / "l.png") as picture:
        assert set(picture.info) <= {"dpi"}
