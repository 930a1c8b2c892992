"""Fully Convolutional Networks for Semantic Segmentation (Long, Shelhamer, Darrell, 2015), and
their dilated descendant."""

from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES, ConvolutionNormActivation
from cnn_jax.layers.normalization import NORMS
from cnn_jax.layers.pooling import max_pool
from cnn_jax.layers.upsampling import BilinearTransposedConvolution, bilinear_resize
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.deeplab import sow_auxiliary
from cnn_jax.models.encoders import DILATED_ENCODERS, encoder, enlarged


class FCN(nn.Module):
    """FCN-32s, -16s and -8s on VGG-16: `[batch, height, width, channels]` to float32 logits
    `[batch, height, width, num_classes]`.

    VGG-16's dense layers as convolutions, 7x7 and 1x1; class scores at stride 32, and of the maps
    at strides 16 and 8; coarser scores enlarged by transposed convolutions that begin as bilinear
    interpolation, and added to finer ones. FCN-8s with 21 classes has 134,489,759 parameters.

    Differs from the paper in padding every convolution instead of the image by 100 pixels (the
    sizes come out alike, and the border is not mostly zeros), in carrying sizes that 32 doesn't
    divide (pooling rounds up, enlarged scores are cut), in its optional normalisation, and in being
    trained in one stage with all parameters, including the last enlargement, free. Score layers
    start at zero there, and random here.

    Attributes:
        num_classes: classes to tell apart.
        stride: of the finest scores: 32, 16 or 8.
        width: multiplies the filters of VGG-16.
        dense_width: channels of the two convolutions that were dense layers.
        norm: batch, group or none (the paper's).
        dropout: share of either such convolution's values dropped in training.
        skips: False leaves the scores of the finer maps out, to see what they are worth.
        dtype: float32 or bfloat16, of the computation; parameters and logits are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    stride: int = field(default=8, metadata={"choices": (8, 16, 32)})
    width: float = field(default=1.0, metadata={"at_least": 0.05})
    dense_width: int = field(default=4096, metadata={"at_least": 1})
    norm: str = field(default="none", metadata={"choices": NORMS})
    dropout: float = field(default=0.5, metadata={"unit": "0 to 1"})
    skips: bool = True
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_classes = 21  # of PASCAL VOC; unannotated, or it would be a field

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        options = {"norm": self.norm, "dtype": self.dtype, "axis_name": self.axis_name}
        maps = encoder("vgg16", width=self.width, **options)(images, train=train, feature_maps=True)

        def score(x, name):
            return nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name=name)(
                x.astype(jnp.float32)
            )

        def enlarge(x, factor, name, size):
            x = BilinearTransposedConvolution(self.num_classes, factor, name=name)(x)
            return x[:, : size[0], : size[1]]

        x = maps[32]
        for number, kernel_px in ((1, 7), (2, 1)):
            x = ConvolutionNormActivation(
                self.dense_width, kernel_px, name=f"dense_{number}", **options
            )(x, train=train)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x, reached = score(x, "score_32"), 32
        while reached > self.stride:
            reached //= 2
            # The last map at a stride, pooled: what the paper calls pool4 and pool3.
            finer = max_pool(maps[reached // 2])
            x = enlarge(x, 2, f"upsampling_{2 * reached}", finer.shape[1:3])
            if self.skips:
                x = x + score(finer, f"score_{reached}")
        return enlarge(x, self.stride, "upsampling", images.shape[1:3])


class DilatedFCN(nn.Module):
    """The FCN of today's libraries: `[batch, height, width, channels]` to float32 logits `[batch,
    height, width, num_classes]`.

    A dilated backbone instead of skips, a 3x3 convolution to a quarter of its channels, dropout,
    scores, enlarged to the image (bilinear). With ResNet-50, the auxiliary head and 21 classes it
    has the 35,322,218 parameters of torchvision's FCN-ResNet50.

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that can dilate.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels.
        output_stride: ratio of the image's side to the last map's, 8 or 16.
        dropout: share of the 3x3 convolution's values dropped in training.
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
    dropout: float = field(default=0.1, metadata={"unit": "0 to 1"})
    auxiliary_weight: float = field(default=0.5, metadata={"at_least": 0})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    paper_classes = 21  # of PASCAL VOC; unannotated, or it would be a field

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
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
        x = ConvolutionNormActivation(max(x.shape[-1] // 4, 1), name="convolution", **options)(
            x, train=train
        )
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Conv(self.num_classes, (1, 1), dtype=jnp.float32, name="head")(
            x.astype(jnp.float32)
        )
        sow_auxiliary(self, maps[max(maps) // 2], images.shape[1:3], options, train)
        return bilinear_resize(logits, *images.shape[1:3])
