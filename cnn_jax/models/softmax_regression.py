"""Softmax regression: Probabilistic Interpretation of Feedforward Classification Network Outputs
(Bridle, 1990)."""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers.convolution import DTYPES


class SoftmaxRegression(nn.Module):
    """One dense layer on all values of an image: `[batch, height, width, channels]` to float32
    logits `[batch, num_classes]`.

    Multinomial logistic regression, the least of all classifiers and the floor that any other must
    beat: a class is a template, and its logit the template's inner product with the image. Its loss
    is convex. Images may have any size, all the same one.

    Attributes:
        num_classes: classes to tell apart.
        dtype: float32 or bfloat16, of the image; the one layer is the head, and computes in
            float32.
        axis_name: without effect, for there is no BatchNorm.
    """

    num_classes: int
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (28, 28, 1)
    paper_classes = 10
    least_px = 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        """Logits of `images`; `train` changes nothing.

        Raises:
            InputError: `feature_maps` are asked for; there are none.
        """
        if feature_maps:
            raise InputError(
                "softmax_regression has no feature maps; choose a convolutional network as the"
                " encoder."
            )
        x = images.astype(self.dtype).reshape(images.shape[0], -1)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x.astype(jnp.float32))
