"""Losses against hand-worked sums, scikit-learn and optax; class weights against scikit-learn."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from cnn_jax.data.scenes import IGNORED
from cnn_jax.training.losses import class_weights, cross_entropy, hits


@pytest.fixture(scope="module")
def example():
    """Logits [2, 5, 7, 4] and labels with some ignored."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 5, 7, 4)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 3, IGNORED], (2, 5, 7)).astype(np.int32)
    return logits, labels


def test_by_hand_with_an_ignored_pixel():
    """Probabilities 1/2 1/4 1/4 with truth 0, then 1/10 1/10 8/10 with truth 1, then a pixel that is ignored."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])) + jnp.array([[5.0], [-3.0], [0.0]])
    total, count = cross_entropy(logits, jnp.array([0, 1, IGNORED]))
    assert float(total) == pytest.approx(math.log(2) + math.log(10), rel=1e-5)
    assert float(count) == 2


def test_weights_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]))
    total, count = cross_entropy(logits, jnp.array([0, 1, IGNORED]), class_weights=np.array([3.0, 0.5]))
    assert float(total) == pytest.approx(3 * math.log(2) + 0.5 * math.log(4 / 3), rel=1e-5)
    assert float(count) == 3.5


def test_smoothing_by_hand_weighs_the_whole_pixel_by_its_class():
    """Truth 0, smoothing 0.2, two classes: the target is 0.9 and 0.1."""
    logits = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    total, count = cross_entropy(logits, jnp.array([0, 0]), class_weights=np.array([2.0, 5.0]), label_smoothing=0.2)
    by_hand = math.log(2) + 0.9 * math.log(4) + 0.1 * math.log(4 / 3)
    assert float(total) == pytest.approx(2 * by_hand, rel=1e-5)
    assert float(count) == 4


def test_is_scikit_learns_log_loss(example):
    logits, labels = example
    kept = labels != IGNORED
    probabilities = np.asarray(jax.nn.softmax(logits.astype(np.float64)))[kept].astype(np.float64)
    probabilities /= probabilities.sum(-1, keepdims=True)
    weights = np.array([0.5, 1, 2, 4], np.float32)
    for class_weight in (None, weights):
        total, count = cross_entropy(logits, labels, class_weights=class_weight)
        sample_weight = None if class_weight is None else weights[labels[kept]]
        mean = log_loss(labels[kept], probabilities, sample_weight=sample_weight, labels=range(4))
        assert float(total) / float(count) == pytest.approx(mean, rel=1e-5)
    assert float(count) == pytest.approx(weights[labels[kept]].sum())


def test_is_optax_integer_and_smoothed_cross_entropy(example):
    logits, labels = example
    labels = np.where(labels == IGNORED, 0, labels)
    total, count = cross_entropy(logits, labels)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
    np.testing.assert_allclose([total, count], [expected, labels.size], rtol=1e-5)
    total, _ = cross_entropy(logits, labels, label_smoothing=0.3)
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.3)
    np.testing.assert_allclose(total, optax.softmax_cross_entropy(logits, smoothed).sum(), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ignored_pixels_get_no_gradient_and_all_ignored_is_zero_of_zero(example, smoothing):
    logits, labels = example
    loss = functools.partial(cross_entropy, class_weights=np.ones(4), label_smoothing=smoothing)
    gradient, count = jax.grad(loss, has_aux=True)(logits, labels)
    assert float(count) == (labels != IGNORED).sum()
    np.testing.assert_array_equal(np.abs(gradient).max(-1) > 0, labels != IGNORED)
    nothing = np.full_like(labels, IGNORED)
    assert [float(value) for value in loss(logits, nothing)] == [0, 0]
    gradient, _ = jax.grad(loss, has_aux=True)(logits, nothing)
    np.testing.assert_array_equal(gradient, 0)


def test_gradient_is_probability_minus_target(example):
    logits, labels = example
    labels = np.where(labels == IGNORED, 2, labels)
    gradient = jax.grad(lambda x: cross_entropy(x, labels)[0])(logits)
    np.testing.assert_allclose(gradient, np.asarray(jax.nn.softmax(logits)) - np.eye(4)[labels], atol=1e-5)


@pytest.mark.parametrize("weights", [None, np.array([0.5, 1, 2, 4], np.float32)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_hot_probabilities_are_integers(example, smoothing, weights):
    """All zero where ignored: nothing is counted there, and no gradient comes from it."""
    logits, labels = example
    one_hot = np.asarray(labels[..., None] == np.arange(4), np.float32)
    loss = functools.partial(cross_entropy, class_weights=weights, label_smoothing=smoothing)
    (total, gradient), (expected, its_gradient) = (
        jax.value_and_grad(loss, has_aux=True)(logits, given) for given in (one_hot, labels)
    )
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, its_gradient, atol=1e-5)
    assert hits(logits, one_hot) == hits(logits, labels)


def test_blended_labels_by_hand():
    """Half and half of classes 0 and 1: each part's loss by its share, and of the weights 2 and 4 their mean."""
    logits, labels = jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.array([[0.5, 0.5, 0.0]])
    total, count = cross_entropy(logits, labels, class_weights=np.array([2.0, 4.0, 9.0]))
    assert float(total) == pytest.approx(3 * (0.5 * math.log(2) + 0.5 * math.log(4)), rel=1e-5)
    assert float(count) == 3


def test_hits_by_hand():
    """Right, wrong, ignored; of blended labels the greater share is what is right."""
    logits = jnp.array([[3.0, 1.0], [3.0, 1.0], [0.0, 1.0]])
    assert [float(value) for value in hits(logits, jnp.array([0, 1, IGNORED]))] == [1, 2]
    labels = jnp.array([[0.6, 0.4], [0.4, 0.6], [0.0, 0.0]])
    assert [float(value) for value in hits(logits, labels)] == [1, 2]


def test_extreme_and_bfloat16_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]], jnp.bfloat16)
    total, count = cross_entropy(logits, jnp.array([0, 0]))
    assert total.dtype == count.dtype == jnp.float32
    assert float(total) == pytest.approx(2e4, rel=0.01)


def test_inverse_weights_are_scikit_learns_balanced():
    counts = np.array([10, 1, 289, 100])
    labels = np.repeat(np.arange(4), counts)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_weights(counts, "inverse"), expected, rtol=1e-6)


def test_median_weights_by_hand():
    """Median of 2, 4, 10 is 4; the class without pixels is left out of it and weighs nothing."""
    weights = class_weights(np.array([2, 0, 4, 10]), "median")
    np.testing.assert_allclose(weights, [2, 0, 1, 0.4])
    assert weights.dtype == np.float32


def test_an_absent_class_weighs_nothing_in_inverse_weights():
    np.testing.assert_allclose(class_weights(np.array([30, 0, 10]), "inverse"), [40 / 90, 0, 40 / 30], rtol=1e-6)


def test_no_weights_are_none_and_counts_may_be_large():
    assert class_weights(np.array([1, 2]), "none") is None
    np.testing.assert_allclose(class_weights(np.array([2**40, 2**41], np.int64), "inverse"), [1.5, 0.75])
