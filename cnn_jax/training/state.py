"""What training carries from step to step, and nothing else."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cnn_jax.tracing_cache import NOT_KEPT


@struct.dataclass
class TrainState:
    """The whole of a run between two steps; with the configuration and the data it determines
    everything that follows.

    `step` counts optimiser steps (int32) and is the position in the data. `variables` holds
    "params" and what else the model keeps (BatchNorm's "batch_stats"); `average` is their moving
    average, or None.
    """

    step: jax.Array
    variables: Any
    optimizer_state: Any
    average: Any

    @property
    def evaluated(self):
        """The variables that predictions are made with: the moving average where there is one."""
        return self.variables if self.average is None else self.average


def create(
    model, optimizer: optax.GradientTransformation, seed: int, image_shape, *, averaged: bool
) -> TrainState:
    """The state before step 0, with weights drawn from `seed`; `image_shape` is `(height, width,
    channels)`."""
    return jax.jit(functools.partial(_drawn, model, optimizer, image_shape, averaged))(_key(seed))


def _drawn(model, optimizer, image_shape, averaged, key):
    """All in one program, and the key its argument: of arrays made one by one, each shape would be
    a program of its own, and another seed would be another program."""
    variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    average = jax.tree.map(jnp.copy, variables) if averaged else None
    return TrainState(
        jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]), average
    )


class Initializer:
    """What `create` does, compiled once for all seeds and with what it is traced to kept.

    Args:
        model: the Flax module. What it refuses is raised here.
        optimizer: an optax transformation.
        image_shape: `(height, width, channels)`.
        averaged: whether the state holds a moving average.
        tracings: where what is traced here is kept.
    """

    def __init__(
        self,
        model,
        optimizer: optax.GradientTransformation,
        image_shape,
        *,
        averaged: bool,
        tracings=NOT_KEPT,
    ):
        self._optimizer = optimizer

        def draw(key_data):
            key = jax.random.wrap_key_data(key_data, impl=_GENERATOR)
            state = _drawn(model, optimizer, image_shape, averaged, key)
            leaves = jax.tree.leaves(state.optimizer_state)
            return {
                "step": state.step,
                "variables": state.variables,
                "optimizer": leaves,
                "average": state.average,
            }

        self._lowered = tracings.lower("state before step 0", draw, jax.random.key_data(_key(0)))
        self._compiled = None

    def compile(self) -> None:
        """Compiles the program, if it isn't yet; the first call would."""
        if self._compiled is None:
            self._compiled, self._lowered = self._lowered.compile(), None

    def __call__(self, seed: int) -> TrainState:
        """The state that belongs to a seed."""
        self.compile()
        drawn = self._compiled(jax.random.key_data(_key(seed)))
        structure = jax.tree.structure(
            jax.eval_shape(self._optimizer.init, drawn["variables"]["params"])
        )
        return TrainState(
            drawn["step"],
            drawn["variables"],
            jax.tree.unflatten(structure, drawn["optimizer"]),
            drawn["average"],
        )


_GENERATOR = "rbg"
"""XLA's own: it compiles in a fifth of the time that JAX's default takes layer by layer. The same
seed may give other weights on another kind of device."""


def _key(seed):
    return jax.random.key(seed, impl=_GENERATOR)


def parameter_count(variables) -> int:
    """Trainable parameters; BatchNorm's running statistics are not among them."""
    return sum(p.size for p in jax.tree.leaves(variables["params"]))
