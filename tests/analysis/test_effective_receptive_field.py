"""Effective receptive fields against the binomial profile of constant kernels, and against
hand-made contrasts."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.analysis.effective_receptive_field import effective_receptive_field, radii_px

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Stack(nn.Module):
    """Convolutions 3x3 without bias, linear, then a head."""

    layers: int
    classes: int = 1

    @nn.compact
    def __call__(self, images, *, train):
        x = images
        for number in range(self.layers):
            x = nn.Conv(1, (3, 3), use_bias=False, name=f"convolution_{number}")(x)
        return nn.Conv(self.classes, (1, 1), use_bias=False, name="head")(x)


def weights(model, images, value=1.0):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, np.float32), shapes)


def test_constant_kernels_give_the_coefficients_of_a_trinomial():
    """Luo et al., section 2.2: n layers of ones, then the field is that of (1 + t + 1/t)^n along
    each axis."""
    model, images = Stack(layers=4), np.zeros((2, 15, 13, 1), np.float32)
    field = effective_receptive_field(model, weights(model, images), images)
    row = np.array([1])
    for _ in range(4):
        row = np.convolve(row, [1, 1, 1])
    expected = np.zeros((15, 13))
    expected[7 - 4 : 7 + 5, 6 - 4 : 6 + 5] = np.outer(row, row)
    assert field.shape == (15, 13)
    np.testing.assert_allclose(field, expected, rtol=1e-6)


def test_of_colours_sizes_are_summed_and_of_images_averaged():
    class Gated(nn.Module):
        """Each pixel's logit is 2 red - 3 green where blue is positive, else 0."""

        @nn.compact
        def __call__(self, images, *, train):
            return nn.relu(images[..., 2:]) * 0 + (images[..., :1] * 2 - images[..., 1:2] * 3) * (
                images[..., 2:] > 0
            )

    images = np.zeros((4, 5, 5, 3), np.float32)
    images[:3, ..., 2] = 1
    field = effective_receptive_field(Gated(), {}, images)
    expected = np.zeros((5, 5))
    expected[2, 2] = (2 + 3) * 3 / 4
    np.testing.assert_allclose(field, expected, rtol=1e-6)


def test_what_all_logits_share_is_not_seen():
    """A number added to every logit changes no prediction; of two classes the contrast is their
    difference, over the root of 2."""
    model, images = Stack(layers=2, classes=2), np.zeros((3, 9, 9, 1), np.float32)
    variables = weights(model, images)
    assert effective_receptive_field(model, variables, images).max() < 1e-5
    variables["params"]["head"]["kernel"][..., 0] = 3
    field = effective_receptive_field(model, variables, images)
    assert field[4, 4] == pytest.approx(9 * (3 - 1) / np.sqrt(2), rel=1e-5)
    np.testing.assert_array_equal(field, effective_receptive_field(model, variables, images))


def test_radii_hold_their_shares_of_the_mass():
    field = np.zeros((9, 12))
    field[4, 6], field[4, 9], field[0, 6], field[4, 1] = 50, 25, 20, 5  # at 0, 3, 4 and 5 px
    assert radii_px(field, (0.5, 0.51, 0.75, 0.9, 0.95, 1.0)) == [0, 3, 3, 4, 4, 5]
    uniform = np.ones((201, 201))
    uniform[np.hypot(*np.mgrid[-100:101, -100:101]) > 100] = 0
    half, most = radii_px(uniform)
    assert half == pytest.approx(100 * np.sqrt(0.5), abs=0.5)
    assert most == pytest.approx(100 * np.sqrt(0.95), abs=0.5)
    assert np.isnan(radii_px(np.zeros((3, 3)))).all()
