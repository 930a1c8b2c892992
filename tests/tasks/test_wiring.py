"""What joins the parts of a task: a learner's normalisation and metrics reach its evaluators and
its training step, and the log says the learning rate that was used."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.configuration.schema import AugmentationConfig, OptimizerConfig
from cnn_jax.data.augmentation import example_keys
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.pipeline import training_batches
from cnn_jax.data.scenes import IGNORED
from cnn_jax.tasks import model_config, network, segmentation_learner
from cnn_jax.tasks.classification import Classification
from cnn_jax.tasks.segmentation import Segmentation
from cnn_jax.training.devices import Devices
from cnn_jax.training.optimizer import make_optimizer
from cnn_jax.training.state import create
from cnn_jax.training.step import make_train_step
from experiments import aerial_unet, classify
from tests import running as commands
from tests.data import fake_images

MEAN, STD = (0.4, 0.7, 0.2), (0.2, 0.15, 0.3)
"""Far from 0 and 1, and other for each channel."""

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Pixelwise(nn.Module):
    """Logits of a pixel: its channels times a matrix."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(self.num_classes, name="head")(images)


def normalised(images):
    """Stored pixels as the network should see them, float64."""
    return (np.asarray(images, np.float64) / 255 - MEAN) / STD


def drawn(shapes):
    """Parameters of these shapes, and so large that classes differ."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def scored(logits, labels):
    """(mean cross-entropy, share of right predictions, confusion matrix) of the pixels or images
    that count."""
    classes, kept = logits.shape[-1], labels != IGNORED
    logits, labels = logits[kept], labels[kept].astype(int)
    of_label = np.take_along_axis(log_softmax(logits), labels[:, None], -1)
    predicted = logits.argmax(-1)
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2)
    return -of_label.mean(), (predicted == labels).mean(), confusion.reshape(classes, classes)


def opened(task, config):
    """Data set and learner, the latter from what a record holds."""
    config.data.mean, config.data.std = MEAN, STD
    config.loss.class_weights = "none"
    dataset = task.dataset(config)
    info = DatasetInfo.from_dict(json.loads(json.dumps(dataset.info.to_dict())))
    learner = task.learner(config, info)
    image = jax.ShapeDtypeStruct((1, *learner.example_px), np.float32)
    init = jax.eval_shape(lambda x: learner.module().init(jax.random.key(0), x, train=False), image)
    return dataset, learner, drawn(init)


@pytest.fixture
def segmenter(monkeypatch):
    monkeypatch.setattr(
        segmentation_learner, "build_model", lambda _, num_classes, **bound: Pixelwise(num_classes)
    )
    config = aerial_unet.smoke()
    config.data.scene_px, config.data.scene_counts = (48, 64), (2, 1, 2)
    config.data.crop_px = (24, 32)
    config.evaluation.window_px, config.evaluation.context_px = (32, 32), 4
    off = {
        field.name: 0.0
        for field in dataclasses.fields(AugmentationConfig)
        if field.name.endswith("_probability")
    }
    config.augmentation = AugmentationConfig(**off)
    return opened(Segmentation(), config)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    fake_images.write_cifar10(folder)
    return folder


@pytest.fixture
def classifier(cifar10):
    config = classify.cifar10()
    config.data.directory = str(cifar10)
    config.model = model_config("softmax_regression")
    config.augmentation.shift_px, config.augmentation.flip_horizontal_probability = 0, 0.0
    return opened(Classification(), config)


def of_pixels(variables, images):
    head = jax.tree.map(np.float64, variables["params"]["head"])
    return images @ head["kernel"] + head["bias"]


def of_images(variables, images):
    return of_pixels(variables, images.reshape(len(images), -1))


def test_a_segmenter_is_evaluated_on_normalised_scenes(segmenter):
    dataset, learner, variables = segmenter
    pairs = [dataset.scenes["test"][number] for number in range(2)]
    images, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    loss, accuracy, confusion = scored(of_pixels(variables, normalised(images)), masks)
    assert (confusion.sum(0) > 20).sum() > 1, "more than one class must be predicted"
    figures = dataset.evaluator(learner, "test", Devices()).report(variables).figures
    assert figures["test/loss"] == pytest.approx(loss, rel=1e-4)
    assert figures["test/pixel_accuracy"] == pytest.approx(accuracy, abs=1e-3)
    assert np.abs(np.array(figures["test/confusion"]) - confusion).sum() <= 4  # rounding of ties


def test_a_classifier_is_evaluated_on_normalised_images(classifier):
    dataset, learner, variables = classifier
    images, labels = dataset.images["test"].arrays()
    loss, accuracy, confusion = scored(of_images(variables, normalised(images)), labels)
    assert (confusion.sum(0) > 0).sum() > 1, "more than one class must be predicted"
    figures = dataset.evaluator(learner, "test", Devices()).report(variables).figures
    assert figures["test/loss"] == pytest.approx(loss, rel=1e-4)
    assert figures["test/accuracy"] == pytest.approx(accuracy)
    np.testing.assert_array_equal(figures["test/confusion"], confusion)


def test_a_prediction_is_of_a_normalised_image(segmenter, classifier):
    dataset, learner, variables = segmenter
    image = dataset.scenes["test"][0][0]
    expected = np.exp(log_softmax(of_pixels(variables, normalised(image))))
    found = learner.probabilities(variables, image[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    dataset, learner, variables = classifier
    image = dataset.images["test"][0][0]
    (expected,) = np.exp(log_softmax(of_images(variables, normalised(image)[None])))
    found = learner.probabilities(variables, image[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def stepped(dataset, learner, variables, size):
    """What the training step says of its first batch, and what the network sees of that batch:
    (metrics, inputs, labels)."""
    optimizer = make_optimizer(OptimizerConfig(), 10)
    state = create(learner.module(), optimizer, 0, learner.example_px, averaged=False)
    state = state.replace(variables=variables)
    batch = training_batches(dataset.training_source(learner), seed=0, batch_size=size)[0]
    step = make_train_step(learner.module(), learner.loss_and_metrics, optimizer, learner.prepare)
    inputs, labels = learner.prepare(example_keys(0, batch["position"]), batch)
    return jax.jit(step)(state, batch, np.uint32(0))[1], np.float64(inputs), np.array(labels)


def assert_stored(inputs):
    """Undone, the normalisation gives pixels as files store them, from 0 to 255."""
    stored = (inputs * STD + MEAN) * 255
    assert stored.std() > 20
    np.testing.assert_allclose(stored, stored.round().clip(0, 255), atol=2e-2)


def test_a_step_of_a_segmenter_logs_loss_and_pixel_accuracy(segmenter):
    metrics, inputs, labels = stepped(*segmenter, 4)
    assert_stored(inputs)
    loss, accuracy, confusion = scored(of_pixels(segmenter[2], inputs), labels)
    assert (confusion.sum(0) > 20).sum() > 1, "more than one class must be predicted"
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(metrics["pixel_accuracy"]) == pytest.approx(accuracy, abs=1e-3)
    assert sorted(metrics) == ["gradient_norm", "loss", "pixel_accuracy"]


def test_a_step_of_a_classifier_logs_loss_and_accuracy(classifier):
    metrics, inputs, labels = stepped(*classifier, 32)
    assert_stored(inputs)
    assert labels.shape == (32, 10)
    loss, accuracy, _ = scored(of_images(classifier[2], inputs), labels.argmax(-1))
    assert 0 < accuracy < 1
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy)
    assert sorted(metrics) == ["accuracy", "gradient_norm", "loss"]


def test_metrics_of_a_tiny_batch_by_hand(segmenter, classifier):
    """An ignored pixel and an image without a label count in neither sum nor number."""
    _, learner, _ = segmenter
    logits = np.zeros((1, 1, 4, len(learner.names)), np.float32)
    logits[0, 0, range(4), [0, 1, 2, 2]] = 9
    labels = jnp.array([[[0, 1, 1, IGNORED]]])
    right, counted = learner.loss_and_metrics(logits, labels)["pixel_accuracy"]
    assert (float(right), float(counted)) == (2, 3)
    _, learner, _ = classifier
    labels = jax.nn.one_hot(jnp.array([3, 4, -1]), 10)
    logits = 9 * jax.nn.one_hot(jnp.array([3, 5, 1]), 10)
    right, counted = learner.loss_and_metrics(logits, labels)["accuracy"]
    assert (float(right), float(counted)) == (1, 2)


def test_the_logged_learning_rate_is_that_of_the_schedule(reference):
    """Warm-up from 0 and then a cosine, by the formula; step s is taken with the rate at s - 1."""
    config = commands.read(reference[0] / "config.json")
    peak, end = config["optimizer"]["learning_rate"], config["optimizer"]["end_factor"]
    assert config["optimizer"]["schedule"] == "cosine"
    logged = {
        line["step"]: line["train/learning_rate"]
        for line in commands.metrics(reference[0])
        if "train/learning_rate" in line
    }
    warmup, steps = config["optimizer"]["warmup_steps"], commands.STEPS
    assert len(logged) == steps // 2
    for step, rate in logged.items():
        at = step - 1
        cosine = (1 + np.cos(np.pi * (at - warmup) / (steps - warmup))) / 2
        expected = at / warmup if at < warmup else end + (1 - end) * cosine
        assert rate == pytest.approx(peak * expected, rel=1e-4), step


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_patience_waits_for_the_better_direction(higher_is_better):
    def over(*values, patience=2):
        signed = [value if higher_is_better or value is None else -value for value in values]
        return network._History(higher_is_better, signed).is_over(patience)

    assert not over()
    assert not over(1, 2, 3)
    assert not over(1, 3, 2)
    assert over(3, 2, 1)
    assert over(3, 3, 3), "of equals the earliest is the best"
    assert not over(None, 1, None)
    assert over(None, 1, None, None)
    assert not over(3, 2, 1, patience=0)
