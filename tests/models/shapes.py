"""What a network has and gives, by its shapes alone: nothing is computed."""

from contextlib import ExitStack, contextmanager
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.models import (
    convnext,
    densenet,
    efficientnet,
    googlenet,
    inception_v3,
    mobilenet,
    mobilenet_v2,
    resnet,
    vgg,
    xception,
)

KEY = jax.random.key(0)

SHALLOW = [
    (vgg, "CONVOLUTIONS", dict.fromkeys(vgg.CONVOLUTIONS, (1, 1, 1, 1, 1))),
    (
        googlenet,
        "INCEPTIONS",
        {name: googlenet.INCEPTIONS[name] for name in ("3a", "4a", "4d", "5a")},
    ),
    (inception_v3, "MODULES", tuple(inception_v3.MODULES[number] for number in (3, 4, 8, 9))),
    (xception, "BLOCKS", tuple(xception.BLOCKS[number] for number in (0, 1, 2, 3, 11))),
    (mobilenet, "BLOCKS", tuple(mobilenet.BLOCKS[number] for number in (0, 1, 3, 5, 11, 12))),
    (
        mobilenet_v2,
        "BOTTLENECKS",
        tuple((t, c, min(n, 2), s) for t, c, n, s in mobilenet_v2.BOTTLENECKS),
    ),
    (resnet, "BLOCKS", dict.fromkeys(resnet.BLOCKS, (1, 1, 1, 2)) | {18: (1, 1, 1, 1)}),
    (densenet, "LAYERS", dict.fromkeys(densenet.LAYERS, (1, 1, 1, 1))),
    (
        efficientnet,
        "BLOCKS",
        tuple((t, c, 2 if c == 40 else 1, s, k) for t, c, _, s, k in efficientnet.BLOCKS),
    ),
    (
        efficientnet,
        "SCALING",
        {b: (wide, 1.0, px) for b, (wide, _, px) in efficientnet.SCALING.items()},
    ),
    (convnext, "BLOCKS", dict.fromkeys(convnext.BLOCKS, (1, 1, 2, 1))),
]
"""Tables of the papers that networks are built from, shortened: every stage and every kind of block
stays."""

RELATIVES = {
    "vgg13": "vgg11",
    "vgg16": "vgg11",
    "vgg19": "vgg11",
    "resnet34": "resnet18",
    "resnet101": "resnet50",
    "resnet152": "resnet50",
    **dict.fromkeys(("resnet32", "resnet44", "resnet56", "resnet110"), "resnet20"),
    "densenet169": "densenet121",
    "densenet201": "densenet121",
    **{f"efficientnet_b{number}": "efficientnet_b0" for number in range(1, 8)},
    **{f"convnext_{size}": "convnext_tiny" for size in ("small", "base", "large", "xlarge")},
}
"""Networks that differ from another in nothing but how many blocks of how many channels they have:
while `shallow`, what holds for one holds for the other."""

LATER = (
    "pspnet",
    "unet_plus_plus",
    "linknet",
    "fpn",
    "upernet",
    "efficientnet_b0",
    "convnext_tiny",
)
"""Architectures that quick tests hold to twins and to an export; what they share with all others
takes its time in the long tests."""


def mostly_later(names):
    """Names as parameters of a test, those in `LATER` for the long tests."""
    return [pytest.param(name, marks=pytest.mark.long) if name in LATER else name for name in names]


@contextmanager
def shallow():
    """While this is entered, classifiers are built from `SHALLOW`, and traced and compiled in a
    fraction of the time."""
    with ExitStack() as stack:
        for table in SHALLOW:
            stack.enter_context(mock.patch.object(*table))
        yield


def shapes(model, *size, **options):
    """Shapes of (result, variables) for one image of this size."""
    return jax.eval_shape(
        lambda: model.init_with_output(KEY, jnp.zeros((1, *size)), train=False, **options)
    )


def maps(model, height: int, width: int):
    """({stride: shape of the feature map}, shapes of the variables) for one image of three
    channels."""
    found, variables = shapes(model, height, width, 3, feature_maps=True)
    return {stride: leaf.shape[1:] for stride, leaf in found.items()}, variables


def count(tree) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
