"""Panoptic-DeepLab's targets, losses and grouping: beside plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.configuration.schema import InstanceLossConfig
from cnn_jax.training import instances

CONFIG = InstanceLossConfig(centre_sigma_px=2.0, offset_scale_px=5.0, small_px=30)

# Compiled: each of their operations by itself would be compiled, too.
targets = jax.jit(functools.partial(instances.targets, sigma_px=2.0))
instance_loss = jax.jit(functools.partial(instances.instance_loss, config=CONFIG))
grouped = jax.jit(functools.partial(instances.grouped, config=CONFIG, most=6))


def example():
    """Three objects of two classes, one of them ignored, and a crowd."""
    numbers = np.zeros((24, 32), np.int32)
    numbers[2:8, 3:12] = 1
    numbers[2:8, 12:20] = 2
    numbers[12:16, 4:9] = 3
    numbers[20:, 28:] = 4
    numbers[12:, 20:24] = -1
    return numbers, {
        "numbers": jnp.array(numbers)[None],
        "boxes": jnp.zeros((1, 4, 4)),
        "labels": jnp.array([[0, 0, 1, 1]]),
        "counted": jnp.array([[True, True, True, False]]),
        "ignored": jnp.array([[False, False, False, True]]),
    }


def test_targets_are_those_of_plain_numpy():
    numbers, labels = example()
    found = {k: np.asarray(v)[0] for k, v in targets(labels).items()}
    y, x = np.mgrid[:24, :32]
    counts = (numbers >= 0) & (numbers != 4)
    np.testing.assert_array_equal(found["counts"], counts)
    semantic = np.array([0, 1, 1, 2, 0])[np.maximum(numbers, 0)]
    np.testing.assert_array_equal(found["semantic"][counts], semantic[counts])
    heat = np.zeros((24, 32))
    for number in (1, 2, 3):
        of = numbers == number
        middle = y[of].mean(), x[of].mean()
        squared = (y - middle[0]) ** 2 + (x - middle[1]) ** 2
        heat = np.maximum(heat, np.exp(-squared / 8))
        offset = np.stack([middle[0] - y[of], middle[1] - x[of]], -1)
        np.testing.assert_allclose(found["offset"][of], offset, atol=1e-4)
        assert (found["area"][of] == of.sum()).all()
    np.testing.assert_allclose(found["centre"], heat, atol=1e-5)
    np.testing.assert_array_equal(found["thing"], counts & (numbers > 0))


def test_losses_are_those_of_plain_numpy():
    _, labels = example()
    rng = np.random.default_rng(0)
    outputs = {
        "semantic": jnp.array(rng.normal(size=(1, 24, 32, 3)), jnp.float32),
        "centre": jnp.array(rng.random((1, 24, 32)), jnp.float32),
        "offset": jnp.array(rng.normal(size=(1, 24, 32, 2)), jnp.float32),
    }
    wanted = {k: np.asarray(v)[0] for k, v in targets(labels).items()}
    found = instance_loss(outputs, labels)
    logits = np.asarray(outputs["semantic"], np.float64)[0]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    entropy = -np.take_along_axis(log_p, wanted["semantic"][..., None], -1)[..., 0]
    weight = np.where(wanted["thing"] & (wanted["area"] < 30), 3.0, 1.0)
    counts, thing = wanted["counts"], wanted["thing"]
    sums = {
        "semantic_loss": (entropy * weight)[counts].sum(),
        "centre_loss": ((np.asarray(outputs["centre"])[0] - wanted["centre"]) ** 2)[counts].sum(),
        "offset_loss": np.abs(np.asarray(outputs["offset"])[0] - wanted["offset"] / 5)[thing].sum(),
    }
    for name, value in sums.items():
        assert float(found[name][0]) == pytest.approx(value, rel=1e-4)
        assert float(found[name][1]) == counts.sum()
    total = sums["semantic_loss"] + 200 * sums["centre_loss"] + sums["offset_loss"]
    assert float(found["loss"][0]) == pytest.approx(total, rel=1e-4)


def test_what_is_learnt_exactly_is_grouped_exactly():
    numbers, labels = example()
    numbers = np.where((numbers == 4) | (numbers < 0), 0, numbers)
    labels |= {"numbers": jnp.array(numbers)[None]}
    wanted = targets(labels)
    outputs = {
        "semantic": jnp.eye(3)[wanted["semantic"]] * 20,
        "centre": wanted["centre"],
        "offset": wanted["offset"] / CONFIG.offset_scale_px,
    }
    found = {k: np.asarray(v)[0] for k, v in grouped(outputs).items()}
    for number, label in ((1, 0), (2, 0), (3, 1)):
        theirs = np.unique(found["numbers"][numbers == number])
        assert len(theirs) == 1
        assert ((found["numbers"] == theirs[0]) == (numbers == number)).all()
        assert found["label"][theirs[0] - 1] == label
        assert found["score"][theirs[0] - 1] > 0.9
    assert (found["score"] > 0).sum() == 3
