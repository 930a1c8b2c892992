"""How large networks' kernels begin, beside torchvision's and timm's own: a comparison of networks
trained from scratch is one of their beginnings too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models.classifiers import CLASSIFIERS
from cnn_jax.models.weights import published
from cnn_jax.tasks.torch_segmentation import libraries

try:
    libraries()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.peers


def _torchvision(name):
    import torchvision

    return getattr(torchvision.models, name)(weights=None)


def _timm(name):
    import timm

    return timm.create_model(name)


def _kind(path, kernel):
    """What a kernel is: depthwise, dense, or its height and width."""
    if "depthwise" in jax.tree_util.keystr(path):
        return "depthwise"
    return "dense" if kernel.ndim == 2 else f"{kernel.shape[0]}x{kernel.shape[1]}"


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("resnet18", _torchvision),
        ("mobilenet_v2", _torchvision),
        ("convnext_tiny", _torchvision),
        ("xception", lambda name: _timm(f"legacy_{name}")),
    ],
)
def test_kernels_begin_about_as_large_as_the_other_librarys(name, make, tmp_path):
    import torch

    torch.manual_seed(0)
    torch.save(make(name).state_dict(), tmp_path / "weights.pth")
    theirs = published.read(tmp_path / "weights.pth", name).variables["params"]
    theirs = dict(jax.tree_util.tree_leaves_with_path(theirs))
    image = jnp.zeros((1, 96, 96, 3))
    ours = jax.jit(lambda key: CLASSIFIERS[name](num_classes=1000).init(key, image, train=False))(
        jax.random.key(0)
    )["params"]
    ratios = {}
    for path, kernel in jax.tree_util.tree_leaves_with_path(ours):
        if kernel.ndim > 1:
            ratio = float(np.std(kernel) / np.std(theirs[path]))
            ratios.setdefault(_kind(path, kernel), []).append(ratio)
    # Fan-in beside fan-out, normal beside uniform numbers are within a factor of three. First
    # layers and heads, of which a network has one, are not looked at.
    medians = {kind: np.median(of) for kind, of in ratios.items() if len(of) > 1}
    assert medians
    assert all(1 / 3 < ratio < 3 for ratio in medians.values()), medians
