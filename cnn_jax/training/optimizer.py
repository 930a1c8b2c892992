"""The optimiser and its schedule, assembled from optax."""

from typing import Any

import jax
import optax

from cnn_jax.configuration.schema import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """step -> learning rate: a linear warm-up to the peak, then cosine, polynomial or constant
    until `steps`."""
    peak, end = config.learning_rate, config.learning_rate * config.end_factor
    rest = max(steps - config.warmup_steps, 1)
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=config.end_factor),
        "polynomial": lambda: optax.polynomial_schedule(peak, end, config.polynomial_power, rest),
        "constant": lambda: optax.constant_schedule(peak),
    }[config.schedule]()
    if not config.warmup_steps:
        return decay
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, config.warmup_steps), decay], [config.warmup_steps]
    )


def decayed(params: Any) -> Any:
    """Which parameters weight decay acts on: kernels (two axes or more), never norms and biases. A
    tree of bools."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW (Loshchilov and Hutter, 2019) or SGD with Nesterov
    momentum and decoupled decay."""
    schedule = learning_rate(config, steps)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "adamw":
        parts += [optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed)]
    else:
        parts += [
            optax.trace(config.momentum, nesterov=True),
            optax.add_decayed_weights(config.weight_decay, mask=decayed),
            optax.scale_by_learning_rate(schedule),
        ]
    return optax.chain(*parts)
