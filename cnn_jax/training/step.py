"""One training step: pure, from (state, batch) to (state, metrics), the same on one device and on
many."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cnn_jax.data.augmentation import example_keys
from cnn_jax.layers.convolution import CONVOLVED
from cnn_jax.training.losses import hits
from cnn_jax.training.state import TrainState


def make_train_step(
    model,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    augment: Callable,
    *,
    accuracy: str = "accuracy",
    accumulate: int = 1,
    remat: bool = False,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
):
    """The step function.

    Under `jit` with a sharded batch the sums below run over all devices by themselves. Under
    `pmap`, `axis_name` names the axis, and the same sums are made explicit. Either way loss and
    gradient are those of the whole batch: the sum over its counted pixels or images divided by
    their number.

    Args:
        model: a Flax module; `axis_name` is its own concern too. What it sows into "auxiliary" are
            the logits of further heads, whose losses are added, times its `auxiliary_weight`.
        loss: `(logits, labels) -> (sum, count)`.
        optimizer: an optax transformation.
        augment: `(keys [batch], batch) -> (images float32, labels)`, labels as `loss` takes them.
            An example's key comes from its position in the stream of examples, so that neither the
            layout of devices nor an interruption changes what it becomes.
        accuracy: what the share of right predictions is called.
        accumulate: the batch is computed in this many parts, one after another, for the gradient of
            the whole. BatchNorm sees the parts.
        remat: of the forward pass only the results of convolutions with normalisation are kept for
            the gradient; normalisations, activations and what else lies between are computed again.
            What that saves is the compiler's: XLA for CPUs, which orders a program for speed, uses
            as much memory as without.
        ema_decay: of the moving average of the variables, warmed up as (1 + step) / (10 + step); 0:
            none.
        axis_name: the `pmap` axis, or None.

    Returns:
        `(state, batch, seed, resident) -> (state, metrics)`; the seed, uint32, is that of
        augmentation and dropout, and an argument so that runs that differ in nothing else share one
        compiled program. `resident` is a dict of arrays whole on each device, which `augment` finds
        in every batch. Metrics are float32 scalars: loss, the accuracy, gradient_norm.
    """

    def total(tree):
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def loss_of(params, rest, images, labels, dropout_key):
        def predict(params, rest, images, dropout_key):
            return model.apply(
                {"params": params, **rest},
                images,
                train=True,
                mutable=[*rest, "auxiliary"],
                rngs={"dropout": dropout_key},
            )

        if remat:
            predict = jax.checkpoint(
                predict, policy=jax.checkpoint_policies.save_only_these_names(CONVOLVED)
            )
        logits, rest = predict(params, rest, images, dropout_key)
        loss_sum, count = loss(logits, labels)
        for further in jax.tree.leaves(rest.pop("auxiliary", ())):
            loss_sum += model.auxiliary_weight * loss(further, labels)[0]
        correct, labelled = hits(logits, labels)
        return loss_sum, (
            rest,
            {"loss": loss_sum, "count": count, "correct": correct, "labelled": labelled},
        )

    def step(state: TrainState, batch, seed, resident=()):
        _, dropout_key = jax.random.split(
            jax.random.key(seed, impl="threefry2x32")
        )  # the other half is the examples'
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
        params, rest = (
            state.variables["params"],
            {k: v for k, v in state.variables.items() if k != "params"},
        )

        def part(carry, numbered):
            rest, gradient, sums = carry
            number, examples = numbered
            images, labels = augment(
                example_keys(seed, examples["position"]), {**examples, **dict(resident)}
            )
            part_gradient, (rest, part_sums) = jax.grad(loss_of, has_aux=True)(
                params, rest, images, labels, jax.random.fold_in(dropout_key, number)
            )
            return (
                rest,
                jax.tree.map(jnp.add, gradient, part_gradient),
                jax.tree.map(jnp.add, sums, part_sums),
            ), None

        zero = jnp.zeros((), jnp.float32)
        carry = (
            rest,
            jax.tree.map(jnp.zeros_like, params),
            dict.fromkeys(("loss", "count", "correct", "labelled"), zero),
        )
        if accumulate == 1:
            carry, _ = part(carry, (0, batch))
        # every part takes every accumulate-th example, so that each lies spread over all devices
        else:
            parts = jax.tree.map(
                lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
            )
            carry, _ = jax.lax.scan(part, carry, (jnp.arange(accumulate), parts))
        rest, gradient, sums = carry
        gradient, sums = total((gradient, sums))
        count = jnp.maximum(sums["count"], 1e-6)  # a batch may hold ignored pixels alone
        norm = optax.tree.norm(gradient)
        # The update takes the parameters' place in memory only if nothing reads them any more: it
        # must depend on the whole gradient, as it does through its norm. Otherwise XLA copies every
        # parameter before the step begins. NaN anywhere becomes NaN everywhere.
        divisor = jnp.where(jnp.isnan(norm), norm, count)
        gradient = jax.tree.map(lambda g: g / divisor, gradient)

        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, params)
        variables = {"params": optax.apply_updates(params, updates), **rest}
        average = state.average
        if ema_decay:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            average = optax.incremental_update(variables, average, 1 - decay)
        metrics = {
            "loss": sums["loss"] / count,
            accuracy: sums["correct"] / jnp.maximum(sums["labelled"], 1),
            "gradient_norm": norm / count,
        }
        return TrainState(state.step + 1, variables, optimizer_state, average), metrics

    return step
