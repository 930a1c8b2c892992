"""Evaluation of classifiers: every image once, whatever the batch; moved images; figures against
scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn import metrics as sklearn_metrics

from cnn_jax.evaluation import metrics
from cnn_jax.evaluation.images import ImageEvaluation, ImageEvaluator, make_image_step, shifted
from cnn_jax.training.devices import Devices

CLASSES = 7


class Flat(nn.Module):
    """Softmax regression."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class Images:
    """Noise with labels, counting how often each image is read."""

    def __init__(self, count):
        rng = np.random.default_rng(1)
        self.images, self.labels = (
            rng.integers(0, 256, (count, 4, 5, 1), np.uint8),
            rng.integers(0, CLASSES, count).astype(np.int32),
        )
        self.reads = np.zeros(count, int)

    def __len__(self):
        return len(self.images)

    def arrays(self, indices):
        self.reads[list(indices)] += 1
        return self.images[list(indices)], self.labels[list(indices)]


@pytest.fixture(scope="module")
def compiled():
    model = Flat()
    variables = model.init(jax.random.key(0, impl="rbg"), jnp.zeros((1, 4, 5, 1)), train=False)
    devices = Devices()
    return devices, devices.predict(make_image_step(model, lambda x: x / 255, CLASSES)), variables


@pytest.mark.parametrize(("count", "batch_size"), [(23, 5), (20, 5), (3, 8), (1, 1)])
def test_every_image_counts_once(compiled, count, batch_size):
    devices, step, variables = compiled
    images = Images(count)
    found = ImageEvaluator(images, step, devices, batch_size, CLASSES).evaluate(variables)
    assert images.reads.tolist() == [1] * count
    kernel, bias = (
        np.asarray(variables["params"]["Dense_0"][name], np.float64) for name in ("kernel", "bias")
    )
    logits = images.images.reshape(count, -1) / 255 @ kernel + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_array_equal(found.labels, images.labels)
    np.testing.assert_array_equal(found.predictions, logits.argmax(1))
    np.testing.assert_allclose(found.probabilities, probabilities.max(1), rtol=1e-5)
    assert found.loss == pytest.approx(
        -np.log(probabilities[np.arange(count), images.labels]).mean(), rel=1e-5
    )
    assert found.within_five == sum(
        label in row.argsort()[-5:] for label, row in zip(images.labels, logits, strict=True)
    )
    assert found.total.sum() == count


def test_check_is_called_before_each_batch_and_may_stop(compiled):
    devices, step, variables = compiled
    calls = []

    def check():
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageEvaluator(Images(23), step, devices, 5, CLASSES).evaluate(variables, check)
    assert len(calls) == 3


@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (-1, 0), (0, 3), (0, -4), (1, -2), (3, 4)])
def test_shifted_images_lose_what_leaves_and_gain_zeros(shift):
    image = np.arange(1, 41, dtype=np.uint8).reshape(4, 5, 2)
    expected = np.zeros_like(image)
    for row in range(4):
        for column in range(5):
            if 0 <= row + shift[0] < 4 and 0 <= column + shift[1] < 5:
                expected[row + shift[0], column + shift[1]] = image[row, column]
    np.testing.assert_array_equal(shifted(jnp.asarray(image), jnp.asarray(shift)), expected)


def test_evaluation_of_moved_images_is_that_of_images_moved_beforehand(compiled):
    devices, step, variables = compiled
    images = Images(9)
    moved = Images(9)
    moved.images = np.stack(
        [np.asarray(shifted(jnp.asarray(i), jnp.array([1, -2]))) for i in images.images]
    )
    one = ImageEvaluator(images, step, devices, 4, CLASSES).evaluate(variables, shift_px=(1, -2))
    other = ImageEvaluator(moved, step, devices, 4, CLASSES).evaluate(variables)
    np.testing.assert_array_equal(one.predictions, other.predictions)
    assert one.loss == other.loss


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 5, 200)  # classes 5 and 6 never occur in truth, 6 nowhere
    predictions = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 6, 200))
    matrix = ImageEvaluation(CLASSES, labels, predictions, np.ones(200)).total
    np.testing.assert_array_equal(
        matrix, sklearn_metrics.confusion_matrix(labels, predictions, labels=range(CLASSES))
    )
    scores = metrics.image_scores(matrix, "abcdefg", "test")
    assert scores["test/accuracy"] == pytest.approx(
        sklearn_metrics.accuracy_score(labels, predictions)
    )
    recall = sklearn_metrics.recall_score(labels, predictions, labels=range(5), average="macro")
    assert scores["test/mean_class_accuracy"] == pytest.approx(recall)
    f1 = sklearn_metrics.f1_score(labels, predictions, labels=range(6), average="macro")
    assert scores["test/mean_f1"] == pytest.approx(f1)
    assert scores["test/class_accuracy/f"] is None
    assert scores["test/f1/f"] == 0
    assert scores["test/f1/g"] is None
