"""One training step: gradients and sums of the whole batch, moving averages, keys that follow the
examples."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax.data.scenes import IGNORED
from cnn_jax.models.unet import UNet
from cnn_jax.training import state as states
from cnn_jax.training.devices import arithmetic
from cnn_jax.training.losses import cross_entropy, hits
from cnn_jax.training.step import make_train_step

CLASSES = 3


class Pixelwise(nn.Module):
    """A softmax regression on each pixel, with as much dropout and BatchNorm as is asked for."""

    dropout: float = 0.0
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(CLASSES, name="head")(x)


class WithAuxiliary(nn.Module):
    """A hidden layer for each pixel, the logits, and in training those of a further head on the
    hidden layer."""

    auxiliary_weight = 0.3

    @nn.compact
    def __call__(self, x, *, train):
        hidden = nn.Dense(4, name="hidden")(x)
        further = nn.Dense(CLASSES, name="further")(hidden)
        if train:
            self.sow("auxiliary", "logits", further)
        return nn.Dense(CLASSES, name="head")(hidden)


def with_accuracy(loss=cross_entropy):
    """The loss and the share of right predictions, as a learner gives them to the step."""
    return lambda outputs, labels: {
        "loss": loss(outputs, labels),
        "accuracy": hits(outputs, labels),
    }


def unchanged(keys, batch):
    return batch["image"], batch["mask"].astype(jnp.int32)


def brightened(keys, batch):
    """A random factor for each example, drawn from its key."""
    factors = jax.vmap(jax.random.uniform)(keys)
    return batch["image"] * factors[:, None, None, None], batch["mask"].astype(jnp.int32)


def make_batch(size=4, seed=0, first=0):
    """Images [size, 3, 4, 2]; the examples have very different numbers of ignored pixels."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, CLASSES, (size, 3, 4)).astype(np.uint8)
    for i in range(size):
        mask[i].flat[: [0, 11, 5, 12][i % 4]] = IGNORED
    return {
        "image": rng.normal(size=(size, 3, 4, 2)).astype(np.float32),
        "mask": mask,
        "position": np.arange(first, first + size, dtype=np.uint32),
    }


SGD = optax.sgd(0.5)


def start(model=None, optimizer=SGD, averaged=False):
    return states.create(model or Pixelwise(), optimizer, 0, (3, 4, 2), averaged=averaged)


def compiled(model=None, loss=cross_entropy, optimizer=SGD, augment=unchanged, seed=0, **options):
    step = jax.jit(
        make_train_step(model or Pixelwise(), with_accuracy(loss), optimizer, augment, **options)
    )
    return lambda state, batch: step(state, batch, seed)


def reference(params, batch):
    """Loss, gradient and accuracy of softmax regression in float64, over the pixels that count."""
    kernel, bias = (np.asarray(params["head"][name], np.float64) for name in ("kernel", "bias"))
    kept = batch["mask"] != IGNORED
    x, truth = batch["image"][kept].astype(np.float64), batch["mask"][kept]
    logits = x @ kernel + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    loss = -np.log(probabilities[np.arange(len(truth)), truth]).mean()
    error = (probabilities - np.eye(CLASSES)[truth]) / len(truth)
    return loss, {"kernel": x.T @ error, "bias": error.sum(0)}, (logits.argmax(-1) == truth).mean()


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_step_is_that_of_the_whole_batch_by_hand(accumulate):
    """Also in parts that hold different numbers of counted pixels, one of them none."""
    before, batch = start(), make_batch()
    after, metrics = compiled(accumulate=accumulate)(before, batch)
    loss, gradient, accuracy = reference(before.variables["params"], batch)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy)
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-5)
    for name, value in gradient.items():
        expected = np.asarray(before.variables["params"]["head"][name]) - 0.5 * value
        np.testing.assert_allclose(after.variables["params"]["head"][name], expected, atol=1e-6)
    assert int(after.step) == 1


def test_weighted_loss_is_divided_by_its_weights():
    weights = np.array([1.0, 4.0, 0.0], np.float32)
    before, batch = start(), make_batch()
    _, metrics = compiled(loss=functools.partial(cross_entropy, class_weights=weights))(
        before, batch
    )
    head = before.variables["params"]["head"]
    logits = batch["image"].astype(np.float64) @ np.asarray(head["kernel"]) + np.asarray(
        head["bias"]
    )
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = sum((batch["mask"] == k).sum() * weights[k] for k in range(CLASSES))
    loss = (
        -sum(
            (log_probabilities[..., k] * (batch["mask"] == k) * weights[k]).sum()
            for k in range(CLASSES)
        )
        / total
    )
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_of_ignored_pixels_changes_nothing_and_stays_finite(accumulate):
    model, batch = Pixelwise(batch_norm=True), make_batch()
    batch["mask"][:] = IGNORED
    before = start(model)
    after, metrics = compiled(model, accumulate=accumulate)(before, batch)
    jax.tree.map(
        np.testing.assert_array_equal, before.variables["params"], after.variables["params"]
    )
    assert {name: float(value) for name, value in metrics.items()} == {
        "loss": 0,
        "accuracy": 0,
        "gradient_norm": 0,
    }
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_parts_pass_on_the_running_averages():
    """BatchNorm sees the parts one after another: part k holds every second example, from example
    k."""
    model, batch = Pixelwise(batch_norm=True), make_batch()
    after, _ = compiled(model, accumulate=2)(start(model), batch)
    mean = np.zeros(2)
    for part in (batch["image"][0::2], batch["image"][1::2]):
        mean = 0.9 * mean + 0.1 * part.mean((0, 1, 2))
    np.testing.assert_allclose(
        after.variables["batch_stats"]["BatchNorm_0"]["mean"], mean, atol=1e-6
    )


def test_moving_average_by_hand():
    """With its warm-up: 1/10, 2/11, 3/12, 4/13, and never more than the decay asked for."""
    model, step = Pixelwise(batch_norm=True), compiled(Pixelwise(batch_norm=True), ema_decay=0.2)
    state = start(model, averaged=True)
    expected = jax.tree.map(np.asarray, state.variables)
    for number in range(4):
        state, _ = step(state, make_batch(seed=number))
        decay = min(0.2, (1 + number) / (10 + number))
        expected = jax.tree.map(
            lambda a, v, d=decay: d * a + (1 - d) * np.asarray(v), expected, state.variables
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.average, expected)
    assert state.evaluated is state.average


def test_without_moving_average_there_is_none():
    state, _ = compiled()(start(), make_batch())
    assert state.average is None
    assert state.evaluated is state.variables


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    model = Pixelwise(dropout=0.5, batch_norm=True)

    def train(step):
        state = start(model)
        for number in range(3):
            state, metrics = step(state, make_batch(seed=number, first=4 * number))
        return [np.asarray(leaf) for leaf in jax.tree.leaves((state, metrics))]

    one, again, other = (
        train(compiled(model, augment=brightened, seed=seed)) for seed in (7, 7, 8)
    )
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def loss_of_position(step, batch, position, state):
    """The loss of the batch's first example at a position in the stream."""
    alone = {key: value[:1] for key, value in batch.items()} | {
        "position": np.array([position], np.uint32)
    }
    return float(step(state, alone)[1]["loss"])


def test_an_examples_position_alone_determines_its_augmentation():
    step, batch, state = compiled(augment=brightened), make_batch(), start()
    alone = [loss_of_position(step, batch, position, state) for position in (0, 1, 2**32 - 1)]
    assert len(set(alone)) == 3
    assert loss_of_position(step, batch, 1, state.replace(step=jnp.int32(1000))) == alone[1]

    whole = {key: np.repeat(value[:1], 4, 0) for key, value in batch.items()}
    for row, accumulate in (
        (0, 1),
        (3, 1),
        (3, 2),
    ):  # wherever the example lies, and in whichever part it is computed
        whole["mask"][:] = IGNORED
        whole["mask"][row] = batch["mask"][0]
        whole["position"] = np.array([9, 8, 7, 6], np.uint32)
        whole["position"][row] = 1
        together = compiled(augment=brightened, accumulate=accumulate)(state, whole)[1]["loss"]
        assert float(together) == pytest.approx(alone[1], rel=1e-6)


def test_dropout_differs_from_step_to_step_and_between_parts():
    model = Pixelwise(dropout=0.5)
    batch = {key: np.repeat(value[:1], 2, 0) for key, value in make_batch().items()}
    state = start(model)
    step = compiled(model)
    losses = [
        float(step(state.replace(step=jnp.int32(number)), batch)[1]["loss"]) for number in (0, 1, 0)
    ]
    assert losses[0] != losses[1]
    assert losses[0] == losses[2]
    alone = {key: value[:1] for key, value in batch.items()}  # with the key of the first part
    assert float(compiled(model, accumulate=2)(state, batch)[1]["loss"]) != pytest.approx(
        float(step(state, alone)[1]["loss"])
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_auxiliary_heads_add_their_weighted_loss_by_hand(accumulate):
    """Loss and gradients of two softmax regressions on one hidden layer, in float64; the figures of
    accuracy are the main head's."""
    model, batch = WithAuxiliary(), make_batch()
    before = start(model)
    assert set(before.variables) == {"params"}
    after, metrics = compiled(model, accumulate=accumulate)(before, batch)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), before.variables["params"])
    hidden = (
        batch["image"].astype(np.float64) @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    )
    main, main_gradient, accuracy = reference({"head": params["head"]}, batch | {"image": hidden})
    further, further_gradient, _ = reference({"head": params["further"]}, batch | {"image": hidden})
    assert float(metrics["loss"]) == pytest.approx(main + 0.3 * further, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy)
    for head, gradient, weight in (
        ("head", main_gradient, 1.0),
        ("further", further_gradient, 0.3),
    ):
        for name, value in gradient.items():
            expected = params[head][name] - 0.5 * weight * value
            np.testing.assert_allclose(after.variables["params"][head][name], expected, atol=1e-6)
    assert np.abs(further_gradient["kernel"]).max() > 1e-3
    assert set(after.variables) == {"params"}  # what was sown is gone

    logits, sown = model.apply(after.variables, batch["image"], train=False, mutable=["auxiliary"])
    assert logits.shape == (4, 3, 4, CLASSES)
    assert not jax.tree.leaves(sown)


def test_labels_may_be_probabilities():
    """Of one-hot labels, all zero where ignored, the step is that of integers."""
    batch = make_batch()

    def one_hot(keys, examples):
        return examples["image"], jax.nn.one_hot(examples["mask"], CLASSES)

    (after, metrics), (expected, theirs) = (
        compiled(augment=augment)(start(), batch) for augment in (one_hot, unchanged)
    )
    for name, value in theirs.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5), name
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        after.variables,
        expected.variables,
    )


@pytest.mark.usefixtures("quick_compilation")
def test_computing_again_and_in_half_precision_is_the_same_step():
    """`remat` computes normalisations twice and changes no figure; bfloat16 changes them within its
    rounding."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(2, 16, 16, 3)).astype(np.float32),
        "mask": rng.integers(0, CLASSES, (2, 16, 16)).astype(np.uint8),
        "position": np.arange(2, dtype=np.uint32),
    }
    before = states.create(
        UNet(CLASSES, base_width=4, depth=1), SGD, 0, (16, 16, 3), averaged=False
    )
    done, roots = {}, {}
    for name, dtype, options in [
        ("plain", "float32", {}),
        ("remat", "float32", {"remat": True}),
        ("half", "bfloat16", {}),
    ]:
        step = jax.jit(
            make_train_step(
                UNet(CLASSES, base_width=4, depth=1, dtype=dtype),
                with_accuracy(),
                SGD,
                unchanged,
                **options,
            )
        )
        program = step.lower(before, batch, np.uint32(0))
        roots[name] = program.as_text().count("rsqrt")
        done[name] = program.compile()(before, batch, np.uint32(0))
    assert roots["remat"] > roots["plain"]
    for name, tolerance in (("remat", 1e-6), ("half", 2e-2)):
        assert float(done[name][1]["loss"]) == pytest.approx(
            float(done["plain"][1]["loss"]), rel=tolerance
        )
        ours, plain = (jax.tree.leaves(done[run][0].variables) for run in (name, "plain"))
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance)


def compiled_step(model, size):
    state = start(model, optax.adam(1e-3))
    batch = {
        "image": jnp.ones((2, *size, 2)),
        "mask": jnp.zeros((2, *size), jnp.uint8),
        "position": jnp.arange(2, dtype=jnp.uint32),
    }
    step = make_train_step(model, with_accuracy(), optax.adam(1e-3), unchanged)
    with arithmetic():
        lowered = jax.jit(step, donate_argnums=0).lower(state, batch, jnp.uint32(0))
    return lowered.compile(), state, batch


@pytest.mark.usefixtures("users_compilation")
def test_no_parameter_is_copied_before_the_step():
    """But for the bias of the head, which XLA may."""
    text = compiled_step(UNet(CLASSES, base_width=4, depth=1), (4, 6))[0].as_text()
    assert "%state_variables__params" in text
    assert set(re.findall(r"= (\S+?)\{\S* copy\(%state_variables__params", text)) <= {"f32[3]"}


def test_not_a_number_in_one_gradient_is_told_by_the_norm():
    """And in all parameters."""
    step, state, batch = compiled_step(Pixelwise(), (3, 4))
    state, metrics = step(
        state, {**batch, "image": batch["image"].at[0, 0, 0, 0].set(jnp.nan)}, jnp.uint32(0)
    )
    assert jnp.isnan(metrics["gradient_norm"])
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(state.variables["params"]))
