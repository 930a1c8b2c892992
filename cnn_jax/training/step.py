"""One training step: pure, from (state, batch) to (state, metrics), the same on one device and on
many."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from cnn_jax.data.augmentation import example_keys
from cnn_jax.layers.convolution import CONVOLVED
from cnn_jax.training.groups import Groups
from cnn_jax.training.state import TrainState


def make_train_step(
    module: nn.Module,
    loss_and_metrics: Callable,
    optimizer: optax.GradientTransformation,
    prepare: Callable,
    *,
    accumulate: int = 1,
    remat: bool = False,
    ema_decay: float = 0.0,
    groups: Groups | None = None,
    axis_name: str | None = None,
) -> Callable:
    """The step function.

    Under `jit` with a sharded batch the sums below run over all devices by themselves. Under
    `pmap`, `axis_name` names the axis, and the same sums are made explicit. Either way loss and
    gradient are those of the whole batch: the sum over what counts divided by its number.

    Args:
        module: the network; `axis_name` is its own concern too. What it sows into "auxiliary" are
            the outputs of further heads, whose losses are added, times its `auxiliary_weight`.
        loss_and_metrics: `(outputs, labels) -> {name: (sum, count)}`; "loss" is minimised, the
            others are logged.
        optimizer: an optax transformation.
        prepare: `(keys [batch], batch) -> (inputs, labels)`: augments and normalises. An example's
            key comes from its position in the stream of examples, so that neither the layout of
            devices nor an interruption changes what it becomes.
        accumulate: the batch is computed in this many parts, one after another, for the gradient of
            the whole. BatchNorm sees the parts.
        remat: only the results of convolutions are kept for the gradient; what lies between is
            computed again. What that saves is the compiler's: XLA for CPUs, which orders a program
            for speed, uses as much memory as without.
        ema_decay: of the moving average of the variables, warmed up as (1 + step) / (10 + step); 0:
            none.
        groups: which parameters are frozen, and which learn at another rate; None: all alike.
        axis_name: the `pmap` axis, or None.

    Returns:
        `(state, batch, seed, resident) -> (state, metrics)`; the seed, uint32, is that of
        augmentation and dropout, and an argument so that runs that differ in nothing else share one
        compiled program. `resident` is a dict of arrays replicated on the devices, which `prepare`
        finds in every batch. Metrics are float32 scalars: those of `loss_and_metrics` as ratios,
        and gradient_norm.
    """

    def forward(params, rest, inputs, dropout_key):
        variables, mutable = {"params": params, **rest}, [*rest, "auxiliary"]
        rngs = {"dropout": dropout_key}
        if groups is None:
            return module.apply(variables, inputs, train=True, mutable=mutable, rngs=rngs)
        variables["params"] = groups.hold(params)
        with groups.keeping_statistics():
            return module.apply(variables, inputs, train=True, mutable=mutable, rngs=rngs)

    apply = forward
    if remat:
        policy = jax.checkpoint_policies.save_only_these_names(CONVOLVED)
        apply = jax.checkpoint(forward, policy=policy)

    def loss_of(params, rest, examples, seed, dropout_key):
        inputs, labels = prepare(example_keys(seed, examples["position"]), examples)
        outputs, rest = apply(params, rest, inputs, dropout_key)
        rest = dict(rest)
        sums = loss_and_metrics(outputs, labels)
        loss = sums["loss"][0]
        for further in jax.tree.leaves(rest.pop("auxiliary", ())):
            loss += module.auxiliary_weight * loss_and_metrics(further, labels)["loss"][0]
        sums["loss"] = loss, sums["loss"][1]
        return loss, (rest, sums)

    gradient_of = jax.grad(loss_of, has_aux=True)

    def step(state: TrainState, batch, seed, resident=()):
        # The other half of the split is the examples'.
        _, dropout_key = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
        params = state.variables["params"]
        rest = {name: value for name, value in state.variables.items() if name != "params"}

        if accumulate == 1:
            key = jax.random.fold_in(dropout_key, 0)
            gradient, (rest, sums) = gradient_of(
                params, rest, {**batch, **dict(resident)}, seed, key
            )
        else:  # every part takes every accumulate-th example, so that each lies on all devices
            parts = jax.tree.map(
                lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
            )

            def part(rest, number, examples):
                key = jax.random.fold_in(dropout_key, number)
                return gradient_of(params, rest, {**examples, **dict(resident)}, seed, key)

            def add(carry, numbered):
                rest, total = carry
                gradient, (rest, sums) = part(rest, *numbered)
                return (rest, jax.tree.map(jnp.add, total, (gradient, sums))), None

            first = jax.tree.map(lambda x: x[0], parts)
            gradient, (_, sums) = jax.eval_shape(part, rest, 0, first)
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (gradient, sums))
            (rest, (gradient, sums)), _ = jax.lax.scan(
                add, (rest, zero), (jnp.arange(accumulate), parts)
            )
        if axis_name is not None:
            gradient, sums = jax.lax.psum((gradient, sums), axis_name)
        metrics = {name: total / _counted(count) for name, (total, count) in sums.items()}
        count = _counted(sums["loss"][1])
        norm = optax.tree.norm(gradient)
        # The update takes the parameters' place in memory only if nothing reads them any more: it
        # must depend on the whole gradient, as it does through its norm. Otherwise XLA copies every
        # parameter before the step begins. NaN anywhere becomes NaN everywhere.
        divisor = jnp.where(jnp.isnan(norm), norm, count)
        gradient = jax.tree.map(lambda g: g / divisor, gradient)

        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, params)
        if groups is not None:
            updates = groups.scale(updates, state.step)
        variables = {"params": optax.apply_updates(params, updates), **rest}
        average = state.average
        if ema_decay:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            average = optax.incremental_update(variables, average, 1 - decay)
        metrics["gradient_norm"] = norm / count
        return TrainState(state.step + 1, variables, optimizer_state, average), metrics

    return step


def _counted(count):
    """A divisor: 1 where nothing is counted, as in a batch of ignored pixels alone."""
    return jnp.where(count > 0, count, 1)
