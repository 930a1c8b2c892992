"""What training carries from step to step, and nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct


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
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    image_shape: tuple[int, int, int],
    *,
    averaged: bool,
) -> TrainState:
    """The state before step 0, with weights drawn from `seed`; `image_shape` is `(height, width,
    channels)`."""
    return Initializer(model, optimizer, image_shape, averaged=averaged)(seed)


class Initializer:
    """Draws the state before step 0 from a seed, by one program compiled for all seeds.

    Args:
        model: the Flax module. What it refuses is raised here.
        optimizer: an optax transformation.
        image_shape: `(height, width, channels)`.
        averaged: whether the state holds a moving average.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        image_shape: tuple[int, int, int],
        *,
        averaged: bool,
    ):
        def draw(key):
            variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
            average = jax.tree.map(jnp.copy, variables) if averaged else None
            optimizer_state = optimizer.init(variables["params"])
            return TrainState(jnp.zeros((), jnp.int32), variables, optimizer_state, average)

        self._lowered = jax.jit(draw).lower(_key(0))
        self._compiled: jax.stages.Compiled | None = None

    def compile(self) -> jax.stages.Compiled:
        """Compiles the program, unless it is compiled already; the first call would."""
        if self._compiled is None:
            self._compiled = self._lowered.compile()
        return self._compiled

    def __call__(self, seed: int) -> TrainState:
        """The state drawn from `seed`."""
        return self.compile()(_key(seed))


_GENERATOR = "rbg"
"""XLA's own: it compiles in a fifth of the time that JAX's default takes layer by layer. The same
seed may give other weights on another kind of device."""


def _key(seed):
    return jax.random.key(seed, impl=_GENERATOR)


def parameter_count(variables) -> int:
    """Trainable parameters; BatchNorm's running statistics are not among them."""
    return sum(p.size for p in jax.tree.leaves(variables["params"]))
