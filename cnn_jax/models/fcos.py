"""FCOS: Fully Convolutional One-Stage Object Detection (Tian, Shen, Chen, He, 2019)."""

import math
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.layers.convolution import DTYPES
from cnn_jax.models.conventions import CONVENTIONS
from cnn_jax.models.encoders import ENCODERS, encoder, enlarged
from cnn_jax.models.fpn import FPN

PRIOR = 0.01


class FCOS(nn.Module):
    """FCOS: images `[batch, height, width, channels]` to `{stride: maps}` for each level of a
    feature pyramid; the maps are a dict, float32: `class` `[batch, h, w, num_classes]` logits;
    `box` `[batch, h, w, 4]`, distances left, top, right and bottom from the middle of the cell, in
    units of the stride, 0 or more; `centre` `[batch, h, w, 1]`, logits of how central the cell is.

    The heads are shared by all levels: convolutions of 3x3 with GroupNorm of 32 groups and ReLU, as
    many for classes as for boxes. Built as torchvision's `fcos_resnet50_fpn`: with `resnet50` and
    91 classes it has that one's 32,269,600 parameters, and scale and shift of the backbone's
    BatchNorm, 53,120, which torchvision freezes.

    Attributes:
        num_classes: classes to tell apart.
        encoder: the backbone: a classifier that halves the resolution stage by stage.
        conventions: whose way of padding and normalising the backbone has: ours, or that of the
            library its weights came from.
        encoder_width: multiplies the backbone's channels, where it has a width.
        fpn_width: channels of the pyramid and the heads, a multiple of 32.
        head_depth: convolutions in each head.
        strides: of the backbone's maps that are taken.
        further: levels beyond the deepest map.
        norm: batch or group, of the backbone.
        dtype: float32 or bfloat16, of the computation; parameters and results are float32.
        axis_name: the `pmap` axis of BatchNorm's statistics.
    """

    num_classes: int
    encoder: str = field(default="resnet50", metadata={"choices": ENCODERS})
    conventions: str = field(default="ours", metadata={"choices": CONVENTIONS, "absent": "ours"})
    encoder_width: float = field(default=1.0, metadata={"at_least": 0.05})
    fpn_width: int = field(default=256, metadata={"at_least": 32})
    head_depth: int = field(default=4, metadata={"at_least": 0})
    strides: tuple[int, ...] = field(default=(8, 16, 32), metadata={"at_least": 2})
    further: int = field(default=2, metadata={"at_least": 0})
    norm: str = field(default="batch", metadata={"choices": ("batch", "group")})
    dtype: str = field(default="float32", metadata={"choices": DTYPES})
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Any:
        options: dict[str, Any] = {
            "norm": self.norm,
            "dtype": self.dtype,
            "axis_name": self.axis_name,
        }
        backbone = encoder(
            self.encoder, conventions=self.conventions, width=self.encoder_width, **options
        )
        maps = backbone(enlarged(images, backbone.least_px), train=train, feature_maps=True)
        pyramid = FPN(self.fpn_width, self.strides, self.further, self.dtype, name="fpn")(maps)
        tower = {
            kind: [
                (
                    nn.Conv(
                        self.fpn_width, (3, 3), dtype=self.dtype, name=f"{kind}_convolution_{i}"
                    ),
                    nn.GroupNorm(32, epsilon=1e-5, dtype=self.dtype, name=f"{kind}_norm_{i}"),
                )
                for i in range(1, self.head_depth + 1)
            ]
            for kind in ("class", "box")
        }
        normal = nn.initializers.normal(0.01)

        def last(name, features, bias=0.0):
            constant = nn.initializers.constant(bias)
            return nn.Conv(
                features,
                (3, 3),
                dtype=jnp.float32,
                kernel_init=normal,
                bias_init=constant,
                name=name,
            )

        classes = last("class_head", self.num_classes, -math.log(1 / PRIOR - 1))
        boxes, centre = last("box_head", 4, 1.0), last("centre_head", 1)
        found = {}
        for stride, level in pyramid.items():
            seen = {}
            for kind, layers in tower.items():
                x = level
                for convolution, norm in layers:
                    x = nn.relu(norm(convolution(x)))
                seen[kind] = jnp.asarray(x, jnp.float32)
            found[stride] = {
                "class": classes(seen["class"]),
                "box": nn.relu(boxes(seen["box"])),
                "centre": centre(seen["box"]),
            }
        return found
