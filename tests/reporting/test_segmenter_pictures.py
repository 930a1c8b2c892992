"""Pictures of what a segmenter sees show the pixels, numbers and scales that they claim to, for
awkward input too."""

import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cnn_jax.analysis.attribution import ClassExcitation
from cnn_jax.data.scenes import IGNORED
from cnn_jax.reporting import mosaic, segmenter_pictures
from cnn_jax.reporting.segmenter_pictures import SeenField

NAMES = ["edificación", "_road $x^2", "道路"]
COLORS = [(60, 16, 152), (110, 193, 228), (254, 221, 58)]


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a call draws, without writing it."""
    kept = []
    for module in (mosaic, segmenter_pictures):
        monkeypatch.setattr(module, "save", lambda figure, path, **_: kept.append(figure))

    def draw(function, *arguments, **options):
        function(*arguments, path="unused.png", **options)
        return kept.pop()

    return draw


def panels(figure) -> list[np.ndarray]:
    """The panels of a mosaic from the top left on."""
    _, height_px = figure.get_size_inches() * figure.dpi
    placed = [(image.oy + len(image.get_array()), image.ox, image) for image in figure.images]
    placed += [
        (axes.get_window_extent().y1, axes.get_window_extent().x0, axes.images[0])
        for axes in figure.axes
    ]
    placed.sort(key=lambda entry: (round(height_px - entry[0]), entry[1]))
    return [np.asarray(image.get_array()) for _, _, image in placed]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def scene(height=40, width=60):
    """A grey photograph; truth in thirds, a corner ignored; the prediction takes the lower left for
    the third class."""
    image = np.full((height, width, 3), 128, np.uint8)
    truth = np.repeat((np.arange(width) * 3 // width).astype(np.uint8)[None], height, axis=0)
    prediction = truth.copy()
    truth[: height // 4, : width // 4] = IGNORED
    prediction[height // 2 :, : width // 3] = 2
    return image, truth, prediction


def hue_of(pixel, colors=COLORS) -> int:
    """Which class's colour a pixel is tinted with: the nearest in direction from grey."""
    pixel = np.float64(pixel) - np.mean(pixel)
    tints = [np.float64(color) - np.mean(color) for color in colors]
    return int(np.argmax([pixel @ tint / np.linalg.norm(tint) for tint in tints]))


def test_overlays_have_the_colours_of_prediction_and_truth(drawn):
    image, truth, prediction = scene()
    figure = drawn(
        segmenter_pictures.overlays,
        [image],
        [truth],
        [prediction],
        NAMES,
        COLORS,
        titles=["scene: mIoU 0.5"],
    )
    photograph, predicted, true = panels(figure)
    assert photograph.shape == predicted.shape == true.shape
    assert np.ptp(photograph) == 0
    height, width = true.shape[:2]
    places = [
        (height * 3 // 4, width // 6),
        (height * 3 // 4, width // 2),
        (height // 8, width * 5 // 6),
    ]
    assert [hue_of(predicted[at]) for at in places] == [2, 1, 2]
    assert [hue_of(true[at]) for at in places] == [0, 1, 2]
    corner = true[: height // 5, : width // 5].reshape(-1, 3)
    assert (corner == corner[:, :1]).all(), "ignored pixels are grey"
    assert len(np.unique(corner)) == 2, "in two stripes"
    found = texts(figure)
    assert {"scene: mIoU 0.5", "Prediction", "Truth", "0 edificación", "ignored"} <= set(found)


def test_errors_are_coloured_by_prediction_and_by_truth_and_the_rest_is_pale(drawn):
    image, truth, prediction = scene()
    right = truth.copy()
    right[truth == IGNORED] = 0
    scenes = [image] * 2, [truth] * 2, [prediction, right]
    figure = drawn(
        segmenter_pictures.errors,
        *scenes,
        NAMES,
        COLORS,
        titles=["a", "b"],
        caption="The worst of test",
    )
    _, predicted, true, _, *faultless = panels(figure)
    height, width = true.shape[:2]
    wrong = np.zeros((height, width), bool)
    wrong[height // 2 :, : width // 3] = True
    for panel, index in ((predicted, 2), (true, 0)):
        tinted = np.ptp(panel.astype(int), axis=-1) > 0
        np.testing.assert_array_equal(tinted, wrong)
        assert hue_of(panel[wrong].mean(0)) == index
        assert panel[~wrong & (np.arange(width) > width // 2)].min() > 180
    for panel in faultless:
        assert (panel == panel[..., :1]).all()
    assert {"The worst of test", "right", "ignored", "a", "b"} <= set(texts(figure))


def test_scenes_of_any_size_and_many_classes_are_drawn(tmp_path):
    rows = [scene(8, 8), scene(1500, 900), scene(64, 20)]
    for number, (image, truth, prediction) in enumerate(rows):
        rows[number] = (
            np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8),
            truth,
            prediction,
        )
    images, truths, predictions = map(list, zip(*rows, strict=True))
    for function in (segmenter_pictures.overlays, segmenter_pictures.errors):
        function(
            images, truths, predictions, NAMES, COLORS, tmp_path / "p.png", ["x" * 300, "", "道"]
        )
        assert (tmp_path / "p.png").stat().st_size < 1.5e6
    with pytest.raises(ValueError, match="neither one of 2 classes"):
        segmenter_pictures.overlays(
            images, truths, predictions, NAMES[:2], COLORS[:2], tmp_path / "q.png", ["", "", ""]
        )
    with pytest.raises(ValueError, match="at least one image"):
        segmenter_pictures.errors([], [], [], NAMES, COLORS, tmp_path / "q.png", [])


def test_feature_maps_show_the_channels_that_vary_most_level_by_level(drawn):
    rng = np.random.default_rng(0)
    # The n-th channel varies n times as much, upwards or downwards.
    maps = {
        "encoder": rng.random((6, 8, 1)) * np.arange(9) * (-1) ** np.arange(9),
        "bridge": rng.random((3, 4, 2)),
    }
    figure = drawn(segmenter_pictures.feature_maps, scene(12, 16)[0], maps, channels=3)
    shown = panels(figure)
    assert len(shown) == 1 + 3 + 2
    low, high = maps["encoder"][..., 6:].min(), maps["encoder"][..., 6:].max()
    for panel, channel in zip(shown[1:4], (8, 7, 6), strict=True):
        factor = panel.shape[1] // 8
        expected = 255 * (maps["encoder"][..., channel] - low) / (high - low)
        np.testing.assert_allclose(
            panel[factor // 2 :: factor, factor // 2 :: factor, 0], expected, atol=4
        )
    found = texts(figure)
    assert "encoder" in found
    assert any(
        text.startswith("6x8, 9 channels") and text.endswith("channels 8, 7, 6") for text in found
    )
    deep = {f"level_{number}": np.zeros((2, 2, 1)) for number in range(40)}
    found = texts(drawn(segmenter_pictures.feature_maps, scene(12, 16)[0], deep))
    drawn_levels = [text for text in found if text.startswith("level_")]
    assert (len(drawn_levels), drawn_levels[0], drawn_levels[-1]) == (
        segmenter_pictures.MOST_LEVELS,
        "level_0",
        "level_39",
    )


def test_grad_cam_shows_the_pixels_asked_about_and_the_heat(drawn):
    image, _, prediction = scene()
    heat = np.zeros((40, 60), np.float32)
    heat[:20] = 1
    heats = [heat, np.zeros_like(heat)]
    nowhere = np.where(prediction == 1, 0, prediction).astype(np.uint8)
    pictured = [image] * 2, [prediction, nowhere], heats, [2, 1], NAMES, COLORS
    figure = drawn(segmenter_pictures.grad_cam, *pictured, layer="bridge")
    _, region, hot, _, none, cold = panels(figure)
    height = len(region)
    tinted = np.ptp(region.astype(int), axis=-1) > 0
    assert tinted.mean() == pytest.approx((prediction == 2).mean(), abs=0.02)
    assert not np.ptp(none.astype(int), axis=-1).any()
    assert hot[: height // 3].mean() > 3 * hot[-height // 3 :].mean()
    assert np.ptp(cold) == 0
    found = texts(figure)
    assert "2 道路, at 50% of the pixels" in found
    assert "1 _road $x^2, predicted nowhere here" in found
    assert "nothing here speaks for it" in found
    assert any(text.startswith("Grad-CAM at bridge: ") for text in found)


def test_attention_sorts_channels_and_leaves_the_mean_of_the_classes_out(drawn):
    channels = np.array([[0.1, 0.9, 0.4], [np.nan] * 3, [0.3, 0.7, 0.4]], np.float32)
    seen = {
        "encoder/first": ClassExcitation(channels, None),
        "second": ClassExcitation(channels, np.array([0.25, np.nan, 0.75], np.float32)),
    }
    figure = drawn(segmenter_pictures.attention, seen, [0, 2], NAMES, crops=7)
    heats = [axes for axes in figure.axes if axes.images]
    assert len(heats) == 4
    np.testing.assert_allclose(heats[0].images[0].get_array(), [[0.9, 0.4, 0.1], [0.7, 0.4, 0.3]])
    np.testing.assert_allclose(
        heats[1].images[0].get_array(), [[0.1, 0, -0.1], [-0.1, 0, 0.1]], atol=1e-6
    )
    assert heats[1].images[0].get_clim() == pytest.approx((-0.1, 0.1))
    assert [label.get_text() for label in heats[0].get_yticklabels()] == ["edificación", "道路"]
    (gate,) = [
        axes for axes in figure.axes if axes.patches and not axes.images and len(axes.patches) == 2
    ]
    assert [bar.get_width() for bar in gate.patches] == [0.25, 0.75]
    found = texts(figure)
    assert "encoder/first, 3 channels" in found
    assert any("over 7 crops" in text for text in found)
    alike = {"dead": ClassExcitation(np.full((3, 4), 0.5, np.float32) + 1e-8 * np.arange(4), None)}
    figure = drawn(segmenter_pictures.attention, alike, [0, 1, 2], NAMES, crops=7)
    assert figure.axes[2].images[0].get_clim() == (
        -1e-3,
        1e-3,
    ), "rounding is not drawn as attention"
    with pytest.raises(ValueError, match="at least one module"):
        segmenter_pictures.attention({}, [0], NAMES, "unused.png", crops=1)


def test_receptive_fields_share_one_scale_and_carry_their_circles(drawn):
    field = np.zeros((40, 60))
    field[20, 30], field[20, 33] = 2, 1
    fields = [
        SeenField("one, unet", field, [0.0, 3.0], (20, 30.5), 4),
        SeenField("道路, aspp", field[:10, :10] * 0, [math.nan, math.nan], (math.inf, math.inf), 4),
    ]
    figure = drawn(segmenter_pictures.receptive_fields, fields)
    one, other = (axes for axes in figure.axes if axes.images)
    assert one.get_xlim() == other.get_xlim() == (-30.5, 29.5)
    assert one.get_ylim() == other.get_ylim() == (19.5, -20.5)
    shown = np.asarray(one.images[0].get_array())
    assert (shown[20, 30], shown[20, 33]) == (1, 0.5)
    left, right, bottom, top = one.images[0].get_extent()
    assert (left, right, bottom, top) == (
        -30.5,
        29.5,
        19.5,
        -20.5,
    ), "the central place is at (0, 0)"
    circles = [
        patch.get_radius() for patch in one.patches if isinstance(patch, matplotlib.patches.Circle)
    ]
    frames = [
        patch.get_bbox().size.tolist()
        for patch in one.patches
        if type(patch) is matplotlib.patches.Rectangle
    ]
    assert (circles, frames) == ([0, 3], [[30.5, 20]])
    found = texts(figure)
    assert "theoretical field" in found
    assert "theoretical field" not in texts(drawn(segmenter_pictures.receptive_fields, fields[1:]))
    assert "50% within 0 px, 95% within 3 px\ntheoretical field: 20x31 px; 4 crops" in found
    assert (
        "50% within no radius, 95% within no radius\ntheoretical field: the whole image; 4 crops"
        in found
    )


def test_pictures_are_the_same_bytes_twice(tmp_path):
    image, truth, prediction = scene()
    for name in "ab":
        segmenter_pictures.errors(
            [image], [truth], [prediction], NAMES, COLORS, tmp_path / f"{name}.png", ["t"]
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
