"""Decoders of segmentation_models.pytorch and torchvision on maps and weights that are made from
names alone, so that ours can be given the same without PyTorch.

`smp_decoders.npz` holds what they compute; `python -m tests.models.smp_decoders` writes it.
"""

import math
import zlib
from pathlib import Path

import numpy as np

STORED = Path(__file__).with_suffix(".npz")

SIZE = (128, 96)
CHANNELS = {2: 4, 4: 5, 8: 6, 16: 9, 32: 8}
"""Stride -> channels of the maps that stand for a backbone's."""

WIDTHS = (8, 7, 6, 5, 4)
WIDTH, BINS = 4, (1, 2, 3)


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight of that name in PyTorch, or a map: float32, the same everywhere."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        made = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
        made = rng.normal(0, (2 / math.prod(shape[1:])) ** 0.5, shape)
    else:
        made = rng.normal(0, 0.1, shape)
    return made.astype(np.float32)


def maps() -> dict[int, np.ndarray]:
    """Stride -> map `[1, height, width, channels]`, values about 0."""
    return {
        stride: np.random.default_rng(stride)
        .normal(size=(1, SIZE[0] // stride, SIZE[1] // stride, channels))
        .astype(np.float32)
        for stride, channels in CHANNELS.items()
    }


def outputs() -> dict[str, np.ndarray]:
    """What each decoder makes of the maps, float32, `thinned` from the image's size. Needs PyTorch,
    torchvision and segmentation_models.pytorch.

    Theirs differ from ours in three ways, which are taken out: bilinear enlargement whose corners
    are those of the map; a batch's norm of the mean over a whole map; GroupNorm in FPN.
    """
    from cnn_jax.tasks.torch_segmentation import libraries

    torch, _ = libraries()
    from segmentation_models_pytorch.decoders.fpn.decoder import Conv3x3GNReLU
    from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
    from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
    from segmentation_models_pytorch.decoders.upernet.decoder import PSPModule, UPerNetDecoder
    from torchvision.ops import FeaturePyramidNetwork

    def enlarged(x, size=SIZE):
        return torch.nn.functional.interpolate(x, tuple(size), mode="bilinear")

    def filled(module):
        for name, weight in module.state_dict().items():
            if weight.ndim:
                weight.copy_(torch.from_numpy(value(name, tuple(weight.shape))))
        return module.eval()

    def of_groups(pooling):
        first = pooling.blocks[0][1]
        channels = first[1].num_features
        first[1] = torch.nn.GroupNorm(channels // math.gcd(16, channels), channels)
        return pooling

    class Branch(torch.nn.Module):
        """The semantic branch of Panoptic FPN from their parts."""

        def __init__(self):
            super().__init__()
            self.pyramid = FeaturePyramidNetwork([*CHANNELS.values()][1:], WIDTH)
            self.levels = torch.nn.ModuleList()
            for number in range(4):
                level = torch.nn.ModuleList()
                for step in range(max(number, 1)):
                    block = Conv3x3GNReLU(WIDTH if step == 0 else 32, 32).block
                    block[1] = torch.nn.BatchNorm2d(32)
                    level.append(block)
                self.levels.append(level)

        def forward(self, features):
            levels = [*self.pyramid({str(n): x for n, x in enumerate(features[2:])}).values()]
            total = 0
            for number, (x, blocks) in enumerate(zip(levels, self.levels, strict=True)):
                for step, block in enumerate(blocks, 1):
                    x = block(x)
                    if number:
                        x = enlarged(x, levels[number - step].shape[2:])
                total = total + x
            return total

    channels = (3, *CHANNELS.values())
    unet = UnetPlusPlusDecoder(channels, WIDTHS, interpolation_mode="bilinear")
    upernet = UPerNetDecoder(channels, decoder_channels=WIDTH)
    upernet.psp = of_groups(PSPModule(channels[-1], WIDTH, BINS))
    pspnet = of_groups(PSPModule(channels[-1], channels[-1] // len(BINS), BINS))
    with torch.no_grad():
        image = torch.zeros(1, 3, *SIZE)
        features = [image, *(torch.from_numpy(x).permute(0, 3, 1, 2) for x in maps().values())]
        made = {
            "unet_plus_plus": filled(unet)([*features]),
            "linknet": filled(LinknetDecoder(channels, WIDTH))([*features]),
            "upernet": enlarged(filled(upernet)([*features])),
            "pspnet": enlarged(filled(pspnet)(features[-1])),
            "fpn": enlarged(filled(Branch())(features)[:, :WIDTH]),
        }
    return {name: thinned(x.permute(0, 2, 3, 1).numpy()) for name, x in made.items()}


def thinned(x: np.ndarray) -> np.ndarray:
    """Every fifth row and third column of `[batch, height, width, channels]`: enough to compare."""
    return x[:, ::5, ::3]


if __name__ == "__main__":
    np.savez_compressed(STORED, **outputs())
