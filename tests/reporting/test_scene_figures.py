"""Pictures of scenes show what they claim to show, for awkward input too."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.scenes import IGNORED
from cnn_jax.reporting import mosaic, scene_figures

NAMES = ["edificación", "road", "道路"]
COLORS = [(60, 16, 152), (110, 193, 228), (254, 221, 58)]


def example(height: int, width: int, seed: int = 0):
    """A photograph of noise, a truth of stripes with an ignored corner, and a prediction that is
    wrong in a block."""
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
    painted = scene_figures.paint_errors(image, truth, prediction)
    wrong = (truth != prediction) & (truth != IGNORED)
    assert wrong.any()
    np.testing.assert_array_equal((painted == scene_figures.ERROR_COLOR).all(-1), wrong)
    right = painted[(truth == prediction)]
    assert (right == right[:, :1]).all(), "right pixels are grey"
    assert right.max() <= 0.45 * 255, "and dark"


def test_errors_stand_out_in_grey():
    image, truth, prediction = example(40, 60)
    grey = np.asarray(
        Image.fromarray(scene_figures.paint_errors(image, truth, prediction)).convert("L")
    ).astype(int)
    assert (
        grey[(truth != prediction) & (truth != IGNORED)].min()
        > grey[truth == prediction].max() + 50
    )


def test_paint_gives_classes_their_colors_outlines_and_ignored_its_hatch():
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 1
    mask[10:, :4] = IGNORED
    painted = scene_figures.paint(mask, COLORS)
    assert tuple(painted[0, 0]) == COLORS[0]
    assert tuple(painted[0, 15]) == COLORS[1]
    assert painted[0, 7].max() < 40, "the border between two classes is dark"
    hatch = painted[10:, :4].reshape(-1, 3)
    assert (hatch == hatch[:, :1]).all(), "ignored pixels are grey"
    assert len(np.unique(hatch)) == 2, "in two stripes"


def test_gallery_shows_the_error_pixels_of_each_row(tmp_path):
    image, truth, prediction = example(300, 300)
    image[:] = 128
    scene_figures.gallery(
        [image] * 2,
        [truth] * 2,
        [prediction, truth],
        NAMES,
        COLORS,
        tmp_path / "g.png",
        ["one", "two"],
    )
    picture = pixels(tmp_path / "g.png")
    panel = (
        (scene_figures.paint_errors(image, truth, prediction) == scene_figures.ERROR_COLOR)
        .all(-1)
        .mean()
    )
    found = (picture == scene_figures.ERROR_COLOR).all(-1)
    rows = np.flatnonzero(found[:, picture.shape[1] * 3 // 4 :].any(1))
    # Only the first row has errors: as many as there are, at the panel's size. Below it is only the
    # swatch of the legend.
    side = mosaic.panel_px(4, [image])
    block = found[rows[0] : rows[0] + side // 2 - 1, -side - 8 :]
    assert block.sum() == pytest.approx(panel * side * side, rel=0.03)


def test_gallery_enlarges_small_and_shrinks_large_to_one_width(tmp_path):
    rows = [example(16, 24), example(900, 1200, seed=1), example(64, 20, seed=2)]
    scene_figures.gallery(*map(list, zip(*rows, strict=True)), NAMES, COLORS, tmp_path / "g.png")
    assert pixels(tmp_path / "g.png").shape[1] <= 4 * 330 + 5 * 8


def test_gallery_of_six_photographs_is_small_even_for_noise(tmp_path):
    rows = [example(800, 900, seed) for seed in range(6)]
    scene_figures.gallery(
        *map(list, zip(*rows, strict=True)),
        NAMES,
        COLORS,
        tmp_path / "g.png",
        [f"row {n}" for n in range(6)],
    )
    assert (tmp_path / "g.png").stat().st_size < 1_500_000


def test_contact_sheet_takes_many_sizes_and_hatches_ignored(tmp_path):
    pairs = [example(20 + 10 * n, 60, n)[:2] for n in range(5)]
    images, masks = map(list, zip(*pairs, strict=True))
    scene_figures.contact_sheet(
        images, masks, NAMES, COLORS, tmp_path / "s.png", ["a title " * 30] * 5
    )
    with_ignored = pixels(tmp_path / "s.png")
    scene_figures.contact_sheet(
        images, [np.zeros_like(mask) for mask in masks], NAMES, COLORS, tmp_path / "s.png"
    )
    light = (225, 225, 225)
    assert (
        (with_ignored == light).all(-1).sum()
        > 200
        > (pixels(tmp_path / "s.png") == light).all(-1).sum()
    )


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
    given = {
        "images": [np.zeros((8, 8, 3), np.uint8)],
        "truths": [mask],
        "predictions": [mask],
        "class_names": NAMES,
    }
    with pytest.raises(ValueError, match=says):
        scene_figures.gallery(**(given | {"colors": COLORS} | change), path=tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


def test_pictures_have_the_same_bytes_each_time_whatever_the_users_settings(tmp_path):
    image, truth, prediction = example(50, 70)

    def draw(folder):
        scene_figures.gallery(
            [image], [truth], [prediction], NAMES, COLORS, folder / "g.png", ["a $title"]
        )
        scene_figures.contact_sheet([image], [truth], NAMES, COLORS, folder / "s.png")
        return [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    first = draw(tmp_path / "one")
    with matplotlib.rc_context({"font.size": 20, "savefig.dpi": 40, "hatch.linewidth": 9}):
        second = draw(tmp_path / "two")
    assert len(first) == 2
    assert first == second
