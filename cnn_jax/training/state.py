"""What training carries from step to step, and nothing else."""

from collections.abc import Callable
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
    def evaluated(self) -> Any:
        """The variables that predictions are made with: the moving average where there is one."""
        return self.variables if self.average is None else self.average


def create(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    image_shape: tuple[int, int, int],
    *,
    averaged: bool,
) -> TrainState:
    """The state before step 0, with weights drawn from `seed`.

    Args:
        module: the network.
        optimizer: an optax transformation.
        seed: of the weights.
        image_shape: `(height, width, channels)`.
        averaged: whether the state holds a moving average.
    """
    return beginning(drawing(module, image_shape), optimizer, averaged=averaged)(key_of(seed))


def key_of(seed: int) -> jax.Array:
    """The key from which weights are drawn.

    XLA's own generator compiles in a fifth of the time that JAX's default takes layer by layer. The
    same seed may give other weights on another kind of device.
    """
    return jax.random.key(seed, impl="rbg")


def drawing(
    module: nn.Module, image_shape: tuple[int, int, int]
) -> Callable[[jax.Array], dict[str, Any]]:
    """`key -> variables` of a network for images of `(height, width, channels)`, traced once."""
    return jax.jit(
        lambda key: module.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    )


def beginning(
    draw: Callable[[jax.Array], dict[str, Any]],
    optimizer: optax.GradientTransformation,
    *,
    averaged: bool,
) -> Callable[[jax.Array], TrainState]:
    """`key -> the state before step 0`, compiled when it is first called.

    Args:
        draw: of `drawing`.
        optimizer: an optax transformation.
        averaged: whether the state holds a moving average.
    """

    # All in one program, and the key its argument: of arrays made one by one, each shape would be a
    # program of its own, and another seed would be another program.
    @jax.jit
    def begin(key):
        variables = draw(key)
        average = jax.tree.map(jnp.copy, variables) if averaged else None
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, variables, optimizer.init(variables["params"]), average)

    return begin


def parameter_count(variables: Any) -> int:
    """Trainable parameters; BatchNorm's running statistics are not among them."""
    return sum(p.size for p in jax.tree.leaves(variables["params"]))
