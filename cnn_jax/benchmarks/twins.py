"""The U-Net and the asymmetric U-Net as one writes them in PyTorch: the same layers as
`cnn_jax.models` have, and as many parameters.

Parts have the names of ours. Needs PyTorch at import.
"""

from collections import OrderedDict
from math import gcd

import torch
from torch import nn


class Convolution(nn.Sequential):
    """Convolution without bias, normalisation (BatchNorm unless given), ReLU: `[batch, inputs, h,
    w]` to `[batch, features, h, w]`."""

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel_px: int = 3,
        dilation: int = 1,
        norm: nn.Module | None = None,
    ) -> None:
        convolution = nn.Conv2d(
            inputs,
            features,
            kernel_px,
            padding=kernel_px // 2 * dilation,
            dilation=dilation,
            bias=False,
        )
        norm = norm or nn.BatchNorm2d(features)
        super().__init__(
            OrderedDict(convolution=convolution, norm=norm, activation=nn.ReLU(inplace=True))
        )


class SqueezeExcitation(nn.Module):
    """Channels weighed by what the whole map holds (Hu et al., 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.reduction = nn.Linear(channels, max(channels // reduction, 1))
        self.excitation = nn.Linear(max(channels // reduction, 1), channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, channels, h, w]` of the same shape."""
        weights = torch.sigmoid(self.excitation(torch.relu(self.reduction(x.mean((2, 3))))))
        return x * weights[:, :, None, None]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., 2017), the mean over the map normalised over
    groups of channels."""

    def __init__(self, inputs: int, features: int, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.convolution_1x1 = Convolution(inputs, features, 1)
        self.rates = nn.ModuleList(Convolution(inputs, features, 3, rate) for rate in rates)
        groups = nn.GroupNorm(features // gcd(16, features), features)
        self.image_pooling = Convolution(inputs, features, 1, norm=groups)
        self.projection = Convolution((2 + len(rates)) * features, features, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, inputs, h, w]` to `[batch, features, h, w]`."""
        pooled = self.image_pooling(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        branches = [self.convolution_1x1(x), *(branch(x) for branch in self.rates), pooled]
        return self.dropout(self.projection(torch.cat(branches, 1)))


class UNet(nn.Module):
    """`cnn_jax.models.unet.UNet`; with `rates`, `cnn_jax.models.asymmetric_unet.AsymmetricUNet`,
    each with its default options.

    Args:
        classes: channels of the logits.
        base_width: channels of the first stage.
        depth: how many times the resolution is halved.
        rates: of the asymmetric U-Net's ASPP; None: the plain U-Net.
    """

    def __init__(
        self, classes: int, base_width: int, depth: int = 4, rates: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        widths = [base_width * 2**level for level in range(depth)]
        self.encoder, self.excitation = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for width in widths:
            self.encoder.append(self._stage(channels, width, 2))
            self.excitation.append(nn.Identity() if rates is None else SqueezeExcitation(width))
            channels = width
        deepest = base_width * 2**depth
        if rates is None:
            self.bridge, below = self._stage(channels, deepest, 2), deepest
        else:
            below = deepest // 4
            self.bridge = ASPP(channels, below, rates, dropout=0.1)
        self.upsampling, self.decoder = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths):
            features = width if rates is None else max(width // 2, 1)
            self.upsampling.append(nn.ConvTranspose2d(below, features, 2, stride=2))
            self.decoder.append(self._stage(width + features, features, 2 if rates is None else 1))
            below = features
        self.head = nn.Conv2d(below, classes, 1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    @staticmethod
    def _stage(inputs, features, convolutions):
        return nn.Sequential(
            *(
                Convolution(inputs if number == 0 else features, features)
                for number in range(convolutions)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[batch, 3, height, width]` to logits `[batch, classes, height, width]`."""
        skips = []
        for stage, excitation in zip(self.encoder, self.excitation, strict=True):
            skips.append(excitation(stage(x)))
            x = self.pool(skips[-1])
        x = self.bridge(x)
        for enlarge, stage in zip(self.upsampling, self.decoder, strict=True):
            skip = skips.pop()
            x = enlarge(x)[:, :, : skip.shape[2], : skip.shape[3]]
            x = stage(torch.cat([skip, x], 1))
        return self.head(x)
