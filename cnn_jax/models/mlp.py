"""Multilayer perceptron: Learning Representations by Back-Propagating Errors (Rumelhart, Hinton,
Williams, 1986)."""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers.convolution import DTYPES


class MLP(nn.Module):
    """Dense layers on all values of an image: `[batch, height, width, channels]` to float32 logits
    `[batch, num_classes]`.

    It doesn't know which pixels are neighbours: shuffling the pixels of every image alike would
    change nothing. Images may have any size, all the same one. Differs from the paper in its ReLU
    (the paper: sigmoid), its initial weights (He et al., 2015) and its dropout after every hidden
    layer (Srivastava et al., 2014), which is off by default.

    Attributes:
        num_classes: classes to tell apart.
        widths: units of each hidden layer.
        dropout: share of every hidden layer's values dropped in training.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: without effect, for there is no BatchNorm.
    """

    num_classes: int
    widths: tuple[int, ...] = field(default=(256, 128), metadata={"at_least": 1})
    dropout: float = field(default=0.0, metadata={"unit": "0 to 1"})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_px = (28, 28, 1)
    paper_classes = 10
    least_px = 1

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, feature_maps: bool = False) -> Any:
        """Logits of `images`; `train` turns dropout on.

        Raises:
            InputError: `feature_maps` are asked for; there are none.
        """
        if feature_maps:
            raise InputError(
                "mlp has no feature maps; choose a convolutional network as the encoder."
            )
        x = images.astype(self.dtype).reshape(images.shape[0], -1)
        for number, width in enumerate(self.widths, 1):
            x = nn.Dense(
                width,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"dense_{number}",
            )(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x.astype(jnp.float32))
