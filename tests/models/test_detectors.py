"""Detectors: published parameters, shapes, and the pyramid beside plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models.centernet import CenterNet
from cnn_jax.models.centre_offset import EMBEDDING, CentreOffset
from cnn_jax.models.fcos import FCOS
from cnn_jax.models.fpn import FPN
from cnn_jax.models.unet import UNet

IMAGE = jax.ShapeDtypeStruct((1, 100, 140, 3), np.float32)


def shapes(module, image=IMAGE):
    """(variables, outputs), as shapes."""
    init = functools.partial(module.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), image)
    apply = functools.partial(module.apply, train=False)
    return variables, jax.eval_shape(apply, variables, image)


def parameters(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_fcos_has_torchvisions_parameters():
    """fcos_resnet50_fpn: 32,269,600, the backbone's BatchNorm frozen, which is no parameter there:
    scale and shift of 26,560 channels."""
    variables, outputs = shapes(FCOS(num_classes=91))
    assert parameters(variables) == 32_269_600 + 2 * 26_560
    assert sorted(outputs) == [8, 16, 32, 64, 128]
    assert outputs[8]["class"].shape == (1, 13, 18, 91)
    assert outputs[128]["box"].shape == (1, 1, 2, 4)


@pytest.mark.parametrize("neck", ["unet", "fpn"])
@pytest.mark.parametrize("stride", [2, 4])
def test_centernets_maps_have_its_stride(neck, stride):
    module = CenterNet(5, encoder="mobilenet_v2", encoder_width=0.25, neck=neck, stride=stride)
    _, outputs = shapes(module)
    size = (100 // stride, 140 // stride)
    assert {k: v.shape for k, v in outputs.items()} == {
        "heat": (1, *size, 5),
        "size": (1, *size, 2),
        "offset": (1, *size, 2),
    }
    assert all(v.dtype == np.float32 for v in outputs.values())


def test_instance_heads_are_on_any_segmenter():
    module = CentreOffset(UNet(EMBEDDING, base_width=4, depth=2), num_classes=3)
    variables, outputs = shapes(module)
    assert {k: v.shape for k, v in outputs.items()} == {
        "semantic": (1, 100, 140, 3),
        "centre": (1, 100, 140),
        "offset": (1, 100, 140, 2),
    }
    heads = parameters(variables) - parameters({"params": variables["params"]["segmenter"]})
    assert heads == (16 * 3 + 3) + 2 * (16 * 9 * 32 + 32) + (32 + 1) + (2 * 32 + 2)


def test_the_pyramid_adds_from_the_top():
    rng = np.random.default_rng(0)
    maps = {s: jnp.array(rng.normal(size=(1, 16 // s, 16 // s, 3)), jnp.float32) for s in (2, 4)}
    module = FPN(features=3, strides=(2, 4), further=1)
    variables = jax.eval_shape(module.init, jax.random.key(0), maps)
    identity = jnp.eye(3)[None, None]
    three = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    params = {}
    for name, held in variables["params"].items():
        kernel = identity if name.startswith("lateral") else three
        assert held["kernel"].shape == kernel.shape
        params[name] = {"kernel": kernel, "bias": jnp.zeros(3)}
    found = jax.jit(module.apply)({"params": params}, maps)
    np.testing.assert_allclose(found[4], maps[4])
    np.testing.assert_allclose(
        found[2], maps[2] + np.asarray(maps[4]).repeat(2, 1).repeat(2, 2), rtol=1e-6
    )
    np.testing.assert_allclose(found[8], maps[4][:, ::2, ::2])
