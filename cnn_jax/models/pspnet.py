"""PSPNet: Pyramid Scene Parsing Network (Zhao, Shi, Qi, Wang, Jia, 2017)."""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.errors import InputError
from cnn_jax.layers.convolution import DTYPES
from cnn_jax.layers.pyramid_pooling import PyramidPooling
from cnn_jax.layers.upsampling import bilinear_resize
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.deeplab import sow_auxiliary
from cnn_jax.models.encoders import DILATED_ENCODERS, encoder, enlarged


class PSPNet(nn.Module):
    """PSPNet: `[batch, height, width, channels]` to float32 logits `[batch, height, width,
    num_classes]`.

    A dilated backbone, the pyramid of means over 1, 4, 9 and 36 areas, each with its share of the
    backbone's channels, one 3x3 convolution, and logits enlarged to the image (bilinear). With
    ResNet-50, the auxiliary head and 21 classes it has 48,957,802 parameters. Differs from the
    authors' in ResNet's stem, which is the paper's 7x7 convolution and not three of 3x3, and in
    how the mean over the whole map is normalised (see `PyramidPooling`).

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that can dilate.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels.
        output_stride: ratio of the image's side to the last map's, 8 or 16.
        width: channels of the convolution after the pyramid.
        bins: areas along each side of the map, one level of the pyramid each.
        dropout: share of that convolution's values dropped in training.
        auxiliary_weight: what the loss of a second head, on the map before the last stage, weighs
            in training; 0: no such head.
        norm: batch or group.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    encoder: str = field(default="resnet50", metadata={"choices": DILATED_ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    output_stride: int = field(default=8, metadata={"choices": (8, 16)})
    width: int = field(default=512, metadata={"at_least": 1})
    bins: tuple[int, ...] = field(default=(1, 2, 3, 6), metadata={"at_least": 1})
    dropout: float = field(default=0.1, metadata={"unit": "0 to 1"})
    auxiliary_weight: float = field(default=0.4, metadata={"at_least": 0})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_classes = 21  # of PASCAL VOC; unannotated, or it would be a field

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        check_bins(self.bins)
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        backbone = encoder(
            self.encoder,
            conventions=self.conventions,
            width=self.encoder_width,
            output_stride=self.output_stride,
            **options,
        )
        maps = backbone(enlarged(images, backbone.least_px), train=train, feature_maps=True)
        x = maps[max(maps)]
        share = max(x.shape[-1] // len(self.bins), 1)
        x = PyramidPooling(self.width, share, self.bins, name="pyramid_pooling", **options)(
            x, train=train
        )
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
        size_px = images.shape[1:3]
        sow_auxiliary(self, maps[max(maps) // 2], size_px, options, train)
        return bilinear_resize(logits, *size_px)


def check_bins(bins: tuple[int, ...]) -> None:
    """Raises InputError where two levels of a pyramid would be one, or there is none."""
    if not bins or len({*bins}) < len(bins):
        raise InputError(
            f"model.bins is {bins}; give one number at least, and none twice, such as 1 2 3 6."
        )
