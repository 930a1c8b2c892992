"""What PyTorch's libraries call the modules of our networks: torchvision, timm,
segmentation_models.pytorch and pytorch_resnet_cifar10.

A naming takes the path of one of our modules, such as `("stage_1_block_2", "convolution_1",
"convolution")`, and returns the name of theirs, such as `layer1.1.conv1`; None where they have no
such module.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from cnn_jax.models.conventions import family
from cnn_jax.models.efficientnet import BLOCKS as EFFICIENTNET_BLOCKS
from cnn_jax.models.inception_v3 import MODULES
from cnn_jax.models.mobilenet import BLOCKS as MOBILENET_BLOCKS
from cnn_jax.models.mobilenet_v2 import BOTTLENECKS
from cnn_jax.models.vgg import CONVOLUTIONS
from cnn_jax.models.xception import BLOCKS as XCEPTION_BLOCKS

Path = tuple[str, ...]
Names = Callable[[Path], str | None]


@dataclass(frozen=True)
class Naming:
    """How one library names an architecture.

    Attributes:
        source: of `conventions.CONVENTIONS`.
        names: path of our module -> name of theirs.
        left_out: beginnings of names of what our network lacks, such as auxiliary heads.
        flattened: our modules that see a map of channels, height and width as one row of numbers,
            and the channels of that map; PyTorch has the channels first, and we have them last.
        layer_scale: what follows a block's name for the numbers that its channels are scaled by.
    """

    source: str
    names: Names
    left_out: tuple[str, ...] = ()
    flattened: tuple[tuple[Path, int], ...] = ()
    layer_scale: str = "layer_scale"


def namings(model: str, depth: int = 0) -> list[Naming]:
    """The ways in which an architecture of `MODELS` may be named, with its head where it is a
    classifier; `depth` is the module's, 0 where it has none."""
    name = family(model)
    if name == "alexnet":
        return [Naming("torchvision", _alexnet, flattened=((("dense_1",), 256),))]
    if name == "vgg":
        dense: tuple[tuple[Path, int], ...] = ((("dense_1",), 512),)
        return [
            Naming(
                source,
                functools.partial(_vgg, depth=depth, norm=norm, timm=source == "timm"),
                flattened=dense,
            )
            for source in ("torchvision", "timm")
            for norm in (False, True)
        ]
    if name == "googlenet":
        return [Naming("torchvision", _googlenet, left_out=("aux1.", "aux2."))]
    if name == "inception_v3":
        return [Naming("torchvision", _inception_v3, left_out=("AuxLogits.",))]
    if name == "xception":
        return [Naming("timm", _xception)]
    if name == "mobilenet":
        return [Naming("timm", _mobilenet)]
    if name == "mobilenet_v2":
        return [Naming("torchvision", _mobilenet_v2), Naming("timm", _mobilenet_v2_of_timm)]
    if name == "efficientnet_b":
        return [Naming("torchvision", _efficientnet), Naming("timm", _efficientnet_of_timm)]
    if name.startswith("convnext"):
        return [
            Naming("torchvision", _convnext),
            Naming("timm", _convnext_of_timm, layer_scale="gamma"),
        ]
    if name == "densenet":
        return [Naming("torchvision", functools.partial(_densenet, depth=depth))]
    if name == "resnet":
        return [Naming("torchvision", _resnet)]
    if name == "se_resnet":
        return [Naming("timm", _resnet), Naming("smp", _resnet_of_caffe)]
    if name == "cifar_resnet":
        return [Naming("akamaster", _cifar_resnet)]
    if name == "dilated_fcn":
        return [Naming("torchvision", _fcn)]
    if name == "deeplabv3":
        return [Naming("torchvision", _deeplabv3)]
    return []


def _pair(path, convolution, norm):
    """The name of a `ConvolutionNormActivation`'s own two modules."""
    return {("convolution",): convolution, ("norm",): norm}.get(path)


def _alexnet(path: Path) -> str | None:
    first = path[0]
    found = re.fullmatch(r"convolution_(\d)", first)
    if found:
        return f"features.{(0, 3, 6, 8, 10)[int(found[1]) - 1]}"
    dense = {"dense_1": 1, "dense_2": 4, "head": 6}
    return f"classifier.{dense[first]}" if first in dense else None


def _vgg(path: Path, depth: int, norm: bool, timm: bool) -> str | None:
    found = re.fullmatch(r"block_(\d)_convolution_(\d)", path[0])
    if found:
        block, number = int(found[1]) - 1, int(found[2]) - 1
        each = 3 if norm else 2  # convolution, norm, activation
        index = block + each * (sum(CONVOLUTIONS[depth][:block]) + number)
        return _pair(path[1:], f"features.{index}", f"features.{index + 1}" if norm else None)
    if timm:
        names = {"dense_1": "pre_logits.fc1", "dense_2": "pre_logits.fc2", "head": "head.fc"}
    else:
        names = {"dense_1": "classifier.0", "dense_2": "classifier.3", "head": "classifier.6"}
    return names.get(path[0])


def _resnet(path: Path) -> str | None:
    first, *rest = path
    if first == "stem":
        return _pair(tuple(rest), "conv1", "bn1")
    if first == "head":
        return "fc"
    return _residual(path, {"reduction": "se.fc1", "excitation": "se.fc2"})


def _residual(path: Path, squeeze_excitation: dict[str, str]) -> str | None:
    found = re.fullmatch(r"stage_(\d)_block_(\d+)", path[0])
    if not found or len(path) < 3:
        return None
    block = f"layer{found[1]}.{int(found[2]) - 1}"
    part, rest = path[1], path[2:]
    if part == "shortcut":
        return _pair(rest, f"{block}.downsample.0", f"{block}.downsample.1")
    if part == "squeeze_excitation":
        return f"{block}.{squeeze_excitation[rest[0]]}"
    number = part.removeprefix("convolution_")
    return _pair(rest, f"{block}.conv{number}", f"{block}.bn{number}")


def _resnet_of_caffe(path: Path) -> str | None:
    first, *rest = path
    if first == "stem":
        return _pair(tuple(rest), "layer0.conv1", "layer0.bn1")
    if first == "head":
        return "last_linear"
    return _residual(path, {"reduction": "se_module.fc1", "excitation": "se_module.fc2"})


def _cifar_resnet(path: Path) -> str | None:
    return "linear" if path == ("head",) else _resnet(path)


def _densenet(path: Path, depth: int) -> str | None:
    (name,) = path
    fixed = {
        "stem_convolution": "features.conv0",
        "stem_norm": "features.norm0",
        "block_4_norm": "features.norm5",
        "head": "classifier",
    }
    if name in fixed:
        return fixed[name]
    found = re.fullmatch(r"block_(\d)_layer_(\d+)_(norm|convolution)_(\d)", name)
    if found:
        kind = "conv" if found[3] == "convolution" else "norm"
        return f"features.denseblock{found[1]}.denselayer{found[2]}.{kind}{found[4]}"
    found = re.fullmatch(r"block_(\d)_norm", name)
    if found:
        return f"features.transition{found[1]}.norm"
    found = re.fullmatch(r"transition_(\d)_convolution", name)
    return f"features.transition{found[1]}.conv" if found else None


def _googlenet(path: Path) -> str | None:
    first, *rest = path
    stems = {"convolution_1": "conv1", "convolution_2_reduce": "conv2", "convolution_2": "conv3"}
    if first in stems:
        return _pair(tuple(rest), f"{stems[first]}.conv", f"{stems[first]}.bn")
    if first == "head":
        return "fc"
    branches = {
        "1x1": "branch1",
        "3x3_reduce": "branch2.0",
        "3x3": "branch2.1",
        "5x5_reduce": "branch3.0",
        "5x5": "branch3.1",
        "pool_projection": "branch4.1",
    }
    if not first.startswith("inception_") or rest[0] not in branches:
        return None
    module = f"{first.replace('_', '')}.{branches[rest[0]]}"
    return _pair(tuple(rest[1:]), f"{module}.conv", f"{module}.bn")


_INCEPTION_STEM = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
)
_INCEPTION_MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
_INCEPTION_BRANCHES = {
    "5": ("1x1", "5x5_{}", "3x3dbl_{}"),
    "6a": ("3x3", "3x3dbl_{}"),
    "6": ("1x1", "7x7_{}", "7x7dbl_{}"),
    "7a": ("3x3_{}", "7x7x3_{}"),
    "7": ("1x1", "3x3_{}", "3x3dbl_{}"),
}
assert len(_INCEPTION_MIXED) == len(MODULES)


def _inception_v3(path: Path) -> str | None:
    first, *rest = path
    found = re.fullmatch(r"stem_convolution_(\d)", first)
    if found:
        module = _INCEPTION_STEM[int(found[1]) - 1]
        return _pair(tuple(rest), f"{module}.conv", f"{module}.bn")
    if first == "head":
        return "fc"
    found = re.fullmatch(r"mixed_(\d+)", first)
    if not found:
        return None
    mixed = _INCEPTION_MIXED[int(found[1])]
    if rest[0] == "pool_projection":
        branch = "branch_pool"
    else:
        number, index = re.fullmatch(r"branch_(\d)_convolution_(\d\w?)", rest[0]).groups()  # type: ignore[union-attr]
        kinds = _INCEPTION_BRANCHES.get(mixed, _INCEPTION_BRANCHES[mixed[0]])
        branch = f"branch{kinds[int(number) - 1].format(index)}"
    module = f"Mixed_{mixed}.{branch}"
    return _pair(tuple(rest[1:]), f"{module}.conv", f"{module}.bn")


def _separable(path: Path, convolution: str, norm: str) -> str | None:
    """Xception's: a depthwise and a pointwise kernel within one module, then a norm."""
    if path == ("depthwise_kernel",):
        return f"{convolution}.conv1"
    return _pair(path[1:], f"{convolution}.pointwise", norm) if path[0] == "pointwise" else None


def _xception(path: Path) -> str | None:
    first, *rest = path
    if first == "head":
        return "fc"
    block, part = re.fullmatch(r"block_(\d+)(?:_convolution_(\d))?", first).groups()  # type: ignore[union-attr]
    block = int(block)
    if block == 1:
        return _pair(tuple(rest), f"conv{part}", f"bn{part}")
    if part:  # of block 14
        return _separable(tuple(rest), f"conv{int(part) + 2}", f"bn{int(part) + 2}")
    name, (inner, *rest) = f"block{block - 1}", rest
    if inner == "shortcut":
        return _pair(tuple(rest), f"{name}.skip", f"{name}.skipbn")
    index = 3 * (int(inner.removeprefix("convolution_")) - 1)
    index += 0 if block == 2 else 1  # only the first block doesn't begin with a ReLU
    assert block - 2 < len(XCEPTION_BLOCKS)
    return _separable(tuple(rest), f"{name}.rep.{index}", f"{name}.rep.{index + 1}")


def _mobile(path: Path, depthwise: str, depthwise_norm: str, pointwise: str, norm: str):
    """A `SeparableConvolution` with a norm between."""
    if path == ("depthwise_kernel",):
        return depthwise
    if path == ("depthwise_norm",):
        return depthwise_norm
    return _pair(path[1:], pointwise, norm) if path[0] == "pointwise" else None


def _mobilenet(path: Path) -> str | None:
    first, *rest = path
    if first == "stem":
        return _pair(tuple(rest), "conv_stem", "bn1")
    if first == "head":
        return "classifier"
    number = int(first.removeprefix("block_")) - 1
    # timm begins a stage wherever the stride is 2.
    starts = [n for n, (_, stride) in enumerate(MOBILENET_BLOCKS) if n == 0 or stride == 2]
    stage = sum(start <= number for start in starts) - 1
    block = f"blocks.{stage}.{number - starts[stage]}"
    return _mobile(
        tuple(rest), f"{block}.conv_dw", f"{block}.bn1", f"{block}.conv_pw", f"{block}.bn2"
    )


def _inverted(path: Path) -> tuple[int, int, bool, Path]:
    """(stage, block, whether it expands, what follows) of a block of MobileNetV2, from 0."""
    stage, block = map(int, re.fullmatch(r"stage_(\d)_block_(\d)", path[0]).groups())  # type: ignore[union-attr]
    return stage - 1, block - 1, BOTTLENECKS[stage - 1][0] > 1, path[1:]


def _mobilenet_v2(path: Path) -> str | None:
    first, *rest = path
    if first in ("stem", "last"):
        number = 0 if first == "stem" else 1 + sum(blocks for _, _, blocks, _ in BOTTLENECKS)
        return _pair(tuple(rest), f"features.{number}.0", f"features.{number}.1")
    if first == "head":
        return "classifier.1"
    stage, number, expands, inner = _inverted(path)
    block = f"features.{1 + number + sum(b for _, _, b, _ in BOTTLENECKS[:stage])}.conv"
    if inner[0] == "expansion":
        return _pair(inner[1:], f"{block}.0.0", f"{block}.0.1")
    at = 1 if expands else 0
    return _mobile(
        inner[1:], f"{block}.{at}.0", f"{block}.{at}.1", f"{block}.{at + 1}", f"{block}.{at + 2}"
    )


_ENDS_OF_TIMM = {"stem": ("conv_stem", "bn1"), "last": ("conv_head", "bn2")}


def _mobilenet_v2_of_timm(path: Path) -> str | None:
    first, *rest = path
    if first in _ENDS_OF_TIMM:
        return _pair(tuple(rest), *_ENDS_OF_TIMM[first])
    if first == "head":
        return "classifier"
    stage, number, expands, inner = _inverted(path)
    block = f"blocks.{stage}.{number}"
    if inner[0] == "expansion":
        return _pair(inner[1:], f"{block}.conv_pw", f"{block}.bn1")
    norms = (2, 3) if expands else (1, 2)
    return _mobile(
        inner[1:],
        f"{block}.conv_dw",
        f"{block}.bn{norms[0]}",
        f"{block}.conv_pwl" if expands else f"{block}.conv_pw",
        f"{block}.bn{norms[1]}",
    )


_SQUEEZE_EXCITATION = ("reduction", "excitation")


def _efficientnet(path: Path) -> str | None:
    first, *rest = path
    if first in ("stem", "last"):
        number = 0 if first == "stem" else len(EFFICIENTNET_BLOCKS) + 1
        return _pair(tuple(rest), f"features.{number}.0", f"features.{number}.1")
    if first == "head":
        return "classifier.1"
    stage, block, expands = _mbconv(first)
    module, (part, *inner) = f"features.{stage}.{block - 1}.block", rest
    parts = ["depthwise", "squeeze_excitation", "projection"]
    number = (["expansion", *parts] if expands else parts).index(part)
    if part == "squeeze_excitation":
        return f"{module}.{number}.fc{_SQUEEZE_EXCITATION.index(inner[0]) + 1}"
    return _pair(tuple(inner), f"{module}.{number}.0", f"{module}.{number}.1")


def _efficientnet_of_timm(path: Path) -> str | None:
    first, *rest = path
    if first in _ENDS_OF_TIMM:
        return _pair(tuple(rest), *_ENDS_OF_TIMM[first])
    if first == "head":
        return "classifier"
    stage, block, expands = _mbconv(first)
    module, (part, *inner) = f"blocks.{stage - 1}.{block - 1}", rest
    if part == "squeeze_excitation":
        return f"{module}.se.conv_{('reduce', 'expand')[_SQUEEZE_EXCITATION.index(inner[0])]}"
    names = {"depthwise": "conv_dw", "projection": "conv_pw"}
    if expands:
        names = {"expansion": "conv_pw", "depthwise": "conv_dw", "projection": "conv_pwl"}
    number = list(names).index(part) + 1
    return _pair(tuple(inner), f"{module}.{names[part]}", f"{module}.bn{number}")


def _mbconv(name: str) -> tuple[int, int, bool]:
    """(stage, block, whether it expands) of a block of EfficientNet, from 1."""
    stage, block = map(int, re.fullmatch(r"stage_(\d)_block_(\d+)", name).groups())  # type: ignore[union-attr]
    return stage, block, EFFICIENTNET_BLOCKS[stage - 1][0] > 1


def _convnext(path: Path) -> str | None:
    fixed = {
        "stem_convolution": "features.0.0",
        "stem_norm": "features.0.1",
        "head_norm": "classifier.0",
        "head": "classifier.2",
    }
    parts = {"depthwise": 0, "norm": 2, "expansion": 3, "projection": 5}
    if path[0] in fixed:
        return fixed[path[0]]
    kind, number, block = _of_convnext(path[0])
    if not block:
        return f"features.{2 * number - 2}.{0 if kind == 'norm' else 1}"
    module = f"features.{2 * number - 1}.{block - 1}"
    return f"{module}.block.{parts[path[1]]}" if len(path) > 1 else module


def _convnext_of_timm(path: Path) -> str | None:
    fixed = {
        "stem_convolution": "stem.0",
        "stem_norm": "stem.1",
        "head_norm": "head.norm",
        "head": "head.fc",
    }
    parts = {"depthwise": "conv_dw", "expansion": "mlp.fc1", "projection": "mlp.fc2"}
    if path[0] in fixed:
        return fixed[path[0]]
    kind, number, block = _of_convnext(path[0])
    if not block:
        return f"stages.{number - 1}.downsample.{0 if kind == 'norm' else 1}"
    module = f"stages.{number - 1}.blocks.{block - 1}"
    return f"{module}.{parts.get(path[1], path[1])}" if len(path) > 1 else module


def _of_convnext(name: str) -> tuple[str, int, int]:
    """(norm or convolution, stage, 0) before a stage; ("", stage, block) within it; from 1."""
    found = re.fullmatch(r"downsampling_(\d)_(norm|convolution)", name)
    if found:
        return found[2], int(found[1]), 0
    stage, block = map(int, re.fullmatch(r"stage_(\d)_block_(\d+)", name).groups())  # type: ignore[union-attr]
    return "", stage, block


def _of_backbone(path: Path) -> str | None:
    name = _resnet(path)
    return None if name is None or name == "fc" else f"backbone.{name}"


def _fcn(path: Path) -> str | None:
    if path[0] == "encoder":
        return _of_backbone(path[1:])
    if path[0] == "auxiliary":
        return _fcn_head(path[1:], "aux_classifier")
    return _fcn_head(path, "classifier")


def _fcn_head(path: Path, name: str) -> str | None:
    if path[0] == "convolution":
        return _pair(path[1:], f"{name}.0", f"{name}.1")
    return f"{name}.4" if path == ("head",) else None


def _deeplabv3(path: Path) -> str | None:
    first, *rest = path
    if first in ("encoder", "auxiliary"):
        return _fcn(path)
    if first == "aspp":
        part = rest[0]
        rates = {f"convolution_rate_{n}": f"classifier.0.convs.{n}" for n in range(1, 10)}
        name = {"convolution_1x1": "classifier.0.convs.0", **rates}.get(part)
        if name:
            return _pair(tuple(rest[1:]), f"{name}.0", f"{name}.1")
        if part == "image_pooling":
            return _pair(tuple(rest[1:]), "classifier.0.convs.4.1", "classifier.0.convs.4.2")
        return _pair(tuple(rest[1:]), "classifier.0.project.0", "classifier.0.project.1")
    if first == "convolution":
        return _pair(tuple(rest), "classifier.1", "classifier.2")
    return "classifier.4" if first == "head" else None
