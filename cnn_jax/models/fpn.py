"""Feature Pyramid Networks for Object Detection (Lin et al., 2017)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.upsampling import repeated_pixels


class FPN(nn.Module):
    """Maps of a backbone, `{stride: [batch, h, w, c]}`, to maps of one width, `{stride: [batch, h,
    w, features]}`, that see more the deeper maps do too.

    Each map is convolved 1x1, what came of the next deeper one so, enlarged by repeating pixels, is
    added, and a 3x3 convolution follows. With `further` levels, 3x3 convolutions of stride 2 go on
    from the deepest result, a ReLU between them (Lin et al., 2017, for RetinaNet; FCOS).

    Attributes:
        features: channels of every result.
        strides: of the backbone's maps that are taken, each twice the one before.
        further: levels beyond the deepest.
        dtype: of the computation.
    """

    features: int = 256
    strides: tuple[int, ...] = (8, 16, 32)
    further: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, maps: Mapping[int, jax.Array]) -> Any:
        def convolution(name, kernel_px, stride=1):
            return nn.Conv(
                self.features,
                (kernel_px, kernel_px),
                (stride, stride),
                padding=kernel_px // 2,
                dtype=self.dtype,
                name=name,
            )

        found, above = {}, None
        for stride in sorted(self.strides, reverse=True):
            x = convolution(f"lateral_{stride}", 1)(maps[stride])
            if above is not None:
                x = x + repeated_pixels(above, *x.shape[1:3])
            above = x
            found[stride] = convolution(f"output_{stride}", 3)(x)
        deepest = max(self.strides)
        x = found[deepest]
        for number in range(self.further):
            x = nn.relu(x) if number else x
            deepest *= 2
            x = convolution(f"further_{deepest}", 3, 2)(x)
            found[deepest] = x
        return {stride: jnp.asarray(found[stride]) for stride in sorted(found)}
