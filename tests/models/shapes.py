"""What a network has and gives, by its shapes alone: nothing is computed."""

from contextlib import ExitStack, contextmanager
from unittest import mock

import jax
import jax.numpy as jnp

from cnn_jax.models import (
    densenet,
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
]
"""Tables of the papers that networks are built from, shortened: every stage and every kind of block
stays."""


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
