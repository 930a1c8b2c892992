"""Panoptic-DeepLab (Cheng et al., 2020): heads for instances on any segmenter."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

EMBEDDING = 16
"""Channels that the segmenter hands over."""

HEAD_WIDTH = 32


class CentreOffset(nn.Module):
    """Images `[batch, height, width, channels]` to a dict of maps of their size, float32:
    `semantic` `[batch, height, width, num_classes]`, logits; `centre` `[batch, height, width]`, how
    near an object's centre is, about 0 to 1; `offset` `[batch, height, width, 2]`, from each pixel
    down and right to its object's centre, in units that the loss names.

    The segmenter is one that exists, its head giving channels in place of classes. Semantic logits
    are a 1x1 convolution of these; centre and offset have a 3x3 convolution and ReLU before theirs.
    Differs from the paper in sharing one decoder, and in 3x3 where it has 5x5.

    Attributes:
        segmenter: gives `[batch, height, width, EMBEDDING]`.
        num_classes: classes to tell apart, none being one.
    """

    segmenter: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        x = nn.relu(self.segmenter(images, train=train))

        def head(name, features, bias=0.0):
            y = nn.relu(nn.Conv(HEAD_WIDTH, (3, 3), name=f"{name}_convolution")(x))
            constant = nn.initializers.constant(bias)
            return nn.Conv(features, (1, 1), bias_init=constant, name=f"{name}_head")(y)

        return {
            "semantic": nn.Conv(self.num_classes, (1, 1), name="semantic_head")(x),
            "centre": jnp.squeeze(head("centre", 1), -1),
            "offset": head("offset", 2),
        }
