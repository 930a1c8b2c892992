"""UNet++: Redesigning Skip Connections to Exploit Multiscale Features in Image Segmentation (Zhou,
Siddiquee, Tajbakhsh, Liang, 2020)."""

import functools
import itertools
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.upsampling import bilinear_resize
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.encoders import ENCODERS, encoder, enlarged


class UNetPlusPlus(nn.Module):
    """UNet++ with a classifier as its encoder: `[batch, height, width, channels]` to float32 logits
    `[batch, height, width, num_classes]`.

    Between the encoder's map at each stride and the decoder's stand further nodes: each joins all
    nodes before it at its stride and the enlarged (bilinear) node of one column less from the
    stride below, and convolves twice. So a map meets those of a decoder of every depth. Inner nodes
    have the channels of their stride's map, the last of each stride those of the decoder. Where the
    backbone has no map at the image's own size, a last stage without a skip gets there.

    It is the UnetPlusPlus of segmentation_models.pytorch, but for the bilinear enlargement (theirs
    repeats pixels), the 1x1 head (theirs is 3x3), and nodes at the image's own size where the
    backbone has a map there. Like theirs it has one head, without the paper's deep supervision.

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that halves the resolution stage by stage.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels, where it has a width.
        decoder_widths: channels of each stride's last node, the deepest first; the last value
            serves all that are left.
        norm: batch or group.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    encoder: str = field(default="resnet34", metadata={"choices": ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    decoder_widths: tuple[int, ...] = field(
        default=(256, 128, 64, 32, 16), metadata={"at_least": 1}
    )
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        if not self.decoder_widths:
            raise InputError(
                "model.decoder_widths is empty; give the channels of one stage at least."
            )
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        block = functools.partial(ConvolutionNormActivation, **options)

        def convolved(x, features, name):
            for number in (1, 2):
                x = block(features, name=f"{name}_convolution_{number}")(x, train=train)
            return x

        backbone = encoder(
            self.encoder, conventions=self.conventions, width=self.encoder_width, **options
        )
        inputs = enlarged(images, backbone.least_px)
        maps = backbone(inputs, train=train, feature_maps=True)
        strides = sorted(maps)
        widths = (*self.decoder_widths, *self.decoder_widths[-1:] * len(strides))
        nodes = {stride: [maps[stride].astype(self.dtype)] for stride in strides}
        for column in range(1, len(strides)):
            for stride, below in itertools.pairwise(strides[: len(strides) - column + 1]):
                size = maps[stride].shape[1:3]
                joined = [*nodes[stride], bilinear_resize(nodes[below][column - 1], *size)]
                stage = len(strides) - 1 - column  # of the stride whose last node this column has
                last = stride == strides[stage]
                features = widths[column - 1] if last else maps[stride].shape[-1]
                x = jnp.concatenate(joined, axis=-1)
                nodes[stride].append(convolved(x, features, f"node_{stride}_{column}"))
        x = nodes[strides[0]][-1]
        if 1 not in maps:
            x = bilinear_resize(x, *inputs.shape[1:3])
            x = convolved(x, widths[len(strides) - 1], "decoder_1")
        x = x[:, : images.shape[1], : images.shape[2]]
        return nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
