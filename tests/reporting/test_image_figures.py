"""Pictures of classification show the images, weights and places that they claim to, for awkward
input too."""

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from cnn_jax.reporting import figures, image_figures, mosaic

NAMES = ["a very long name of a class that nobody can fit", "_hidden", "道路 $x^2"]


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a call draws, without writing it."""
    kept = []
    for module in (mosaic, image_figures, figures):
        monkeypatch.setattr(module, "save", lambda figure, path, **_: kept.append(figure))

    def draw(function, *arguments, **options):
        function(*arguments, "unused.png", **options)
        return kept.pop()

    return draw


def panels(figure) -> list[np.ndarray]:
    """The panels of a mosaic from the top left on: those with something drawn over them are axes,
    the others images."""
    _, height_px = figure.get_size_inches() * figure.dpi
    placed = [(image.oy + len(image.get_array()), image.ox, image) for image in figure.images]
    for axes in figure.axes:
        box = axes.get_window_extent()
        placed.append((box.y1, box.x0, axes.images[0]))
    placed.sort(key=lambda entry: (round(height_px - entry[0]), entry[1]))
    return [np.asarray(image.get_array()) for _, _, image in placed]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def small_images(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, channels), dtype=np.uint8)


def test_misclassified_shows_the_surest_errors_enlarged_pixel_by_pixel(drawn):
    images = small_images(7, channels=1)
    truths, predictions = [0, 1, 2, 0, 1, 2, 0], [0, 2, 2, 1, 0, 2, 2]
    probabilities = [0.99, 0.5, 0.8, 0.9, 0.9996, 0.7, 0.4]
    figure = drawn(
        image_figures.misclassified,
        images,
        truths,
        predictions,
        probabilities,
        list("abc"),
        count=3,
    )
    for panel, index in zip(panels(figure), (4, 3, 1), strict=True):
        factor = len(panel) // 28
        assert factor > 3
        np.testing.assert_array_equal(
            panel, np.kron(images[index], np.ones((factor, factor, 3), np.uint8))
        )
    found = texts(figure)
    assert found[0].startswith("The most confident of 4 errors among 7 examples")
    assert found[-9:] == ["b", "→ a", ">0.999", "a", "→ b", "0.900", "b", "→ c", "0.500"]


def test_misclassified_fetches_only_what_it_draws(drawn):
    class Images:
        fetched = ()

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            self.fetched += (index,)
            return np.zeros((300, 200, 3), np.uint8)

    images, predictions = Images(), np.zeros(1000, int)
    predictions[::5] = 1
    figure = drawn(
        image_figures.misclassified,
        images,
        np.zeros(1000, int),
        predictions,
        np.arange(1000) / 1000,
        NAMES,
    )
    assert images.fetched == tuple(range(995, 895, -5))
    assert all(max(panel.shape) <= 168 for panel in panels(figure))


def test_misclassified_says_that_nothing_is_wrong_and_refuses_what_does_not_agree(drawn):
    images = small_images(2)
    assert texts(drawn(image_figures.misclassified, images, [0, 1], [0, 1], [0.5, 0.6], NAMES)) == [
        "none of 2 examples is wrong"
    ]
    for arguments in ((images, [0, 1], [0], [0.5, 0.6]), (images[:0], [], [], [])):
        with pytest.raises(ValueError, match="as many of each"):
            image_figures.misclassified(*arguments, NAMES, "unused.png")


def test_filters_are_symmetric_about_mid_grey_on_one_scale(drawn):
    kernel = np.zeros((2, 3, 1, 2))
    kernel[..., 0, 0] = [[1, -1, 0], [0.5, 0, 0]]
    kernel[..., 0, 1] = [[0.25, 0, 0], [0, 0, 0]]
    figure = drawn(image_figures.filters, kernel)
    first, second = (
        panel[:: len(panel) // 2, :: panel.shape[1] // 3, 0] for panel in panels(figure)
    )
    np.testing.assert_array_equal(first, [[255, 0, 128], [191, 128, 128]])
    np.testing.assert_array_equal(second, [[159, 128, 128], [128, 128, 128]])
    assert {"-1 or less", "0", "+1 or more"} <= set(texts(figure))


def test_filters_of_three_channels_are_colours_and_of_others_their_mean(drawn):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 5))
    colours = panels(drawn(image_figures.filters, kernel))
    assert len(colours) == 5
    assert (
        np.sign(colours[2][::21, ::21].astype(int) - 127.5) == np.sign(kernel[..., 2])
    ).mean() > 0.95
    many = np.repeat(kernel[:, :, :1], 6, axis=2) + np.array([-1, 1, 2, -2, 0.5, -0.5])[:, None]
    figure = drawn(image_figures.filters, many)
    for found, expected in zip(
        panels(figure), panels(drawn(image_figures.filters, kernel[:, :, :1])), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert "mean over channels" in " ".join(texts(figure))


def test_weights_of_a_dense_layer_become_images_again(drawn):
    templates = np.random.default_rng(0).normal(size=(3, 20, 24, 3)).astype(np.float32)
    kernel = templates.reshape(3, -1).T  # as x.reshape(batch, -1) flattens images
    of_dense = drawn(image_figures.filters, kernel, image_px=(20, 24), channels=3, titles=NAMES)
    of_convolution = drawn(image_figures.filters, templates.transpose(1, 2, 3, 0), titles=NAMES)
    for found, expected in zip(panels(of_dense), panels(of_convolution), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert " _hidden" in texts(of_dense)
    for arguments in ({}, {"image_px": (20, 20), "channels": 3}):
        with pytest.raises(ValueError, match=r"\(1440, 3\)"):
            image_figures.filters(kernel, "unused.png", **arguments)


def test_feature_maps_show_the_strongest_channels_of_evenly_spaced_layers(drawn):
    rng = np.random.default_rng(0)
    maps = {
        f"layer_{n}": rng.normal(size=(4, 4, 9)) * 3.0 ** np.array([2, 9, 7, -9, 8, 6, 5, 4, 3])
        for n in range(21)
    }
    figure = drawn(image_figures.feature_maps, small_images(1)[0], maps)
    names = [text for text in texts(figure) if text.startswith("layer_")]
    assert names == [f"layer_{n}" for n in (0, 3, 6, 9, 11, 14, 17, 20)]
    assert sum(text.endswith("; channels 1, 4, 2, 5, 6, 7, 8, 0") for text in texts(figure)) == 8
    assert len(panels(figure)) == 1 + 8 * 8
    strongest = maps["layer_0"][..., [1, 4, 2, 5, 6, 7, 8, 0]]
    shade = (strongest - strongest.min()) / (strongest.max() - strongest.min()) * 255
    for channel, panel in enumerate(panels(figure)[1:9]):
        step = len(panel) // 4
        np.testing.assert_allclose(
            panel[step // 2 :: step, step // 2 :: step, 0], shade[..., channel], atol=4
        )  # six bits


def test_feature_maps_of_nothing_and_of_flat_or_broken_maps(drawn):
    image = small_images(1)[0]
    assert texts(drawn(image_figures.feature_maps, image, {})) == [
        "the network has no feature maps"
    ]
    broken = np.full((5, 7, 2), np.nan)
    assert (
        len(
            panels(
                drawn(
                    image_figures.feature_maps,
                    image,
                    {"flat": np.ones((5, 7, 12)), "broken": broken},
                )
            )
        )
        == 1 + 8 + 2
    )


def luminance(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).convert("L")).astype(int)


def test_grad_cam_brightens_what_speaks_for_a_class_even_in_grey_over_white(drawn):
    images = [np.full((28, 28, 1), 255, np.uint8), np.zeros((28, 28, 1), np.uint8)]
    heat = np.zeros((28, 28), np.float32)
    heat[:, 14:] = np.linspace(0, 1, 14)
    other = heat[:, ::-1]
    figure = drawn(
        image_figures.grad_cam,
        images,
        [heat, heat],
        [heat, other],
        [0, 1],
        [0, 2],
        [0.75, 0.5],
        NAMES,
    )
    right, prediction, same, wrong, of_prediction, of_truth = panels(figure)
    assert (right == 255).all()
    assert (wrong == 0).all()
    assert "the same" in texts(figure)
    assert np.ptp(same) == 0
    for panel in (prediction, of_prediction):
        grey = luminance(panel)[70]
        assert grey[-1] > grey[:60].max() + 60
        assert (np.diff(grey[80:]) >= 0).all()
    np.testing.assert_array_equal(luminance(of_truth), luminance(of_prediction)[:, ::-1])
    found = texts(figure)
    assert any(text.startswith("right, 0.750") for text in found)
    assert any(text.startswith("→ 道路 $x^2, 0.500") for text in found)


def test_pictures_have_the_same_bytes_each_time(tmp_path):
    images, heats = small_images(2), np.random.default_rng(1).random((2, 28, 28))

    def draw(folder):
        image_figures.misclassified(images, [0, 1], [1, 2], [0.5, 0.6], NAMES, folder / "m.png")
        image_figures.filters(np.random.default_rng(2).normal(size=(3, 3, 3, 4)), folder / "f.png")
        image_figures.feature_maps(images[0], {"a": heats.transpose(1, 2, 0)}, folder / "maps.png")
        image_figures.grad_cam(
            images, heats, heats[::-1], [0, 1], [0, 2], [0.5, 0.6], NAMES, folder / "g.png"
        )
        return [path.read_bytes() for path in sorted(folder.glob("*.png"))]

    first = draw(tmp_path / "one")
    with matplotlib.rc_context({"font.size": 20, "image.cmap": "jet", "lines.linewidth": 9}):
        assert draw(tmp_path / "two") == first
    assert len(first) == 4


def test_a_full_page_of_photographs_is_a_small_file(tmp_path):
    photograph = load_sample_image("china.jpg")  # 427 x 640
    images = [
        photograph[row : row + 224, column : column + 224]
        for row in (0, 60, 120, 200)
        for column in range(0, 400, 80)
    ]
    image_figures.misclassified(images, [0] * 20, [1] * 20, [0.5] * 20, NAMES, tmp_path / "m.png")
    assert 200_000 < (tmp_path / "m.png").stat().st_size < 1_500_000
