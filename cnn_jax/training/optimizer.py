"""The optimiser and its schedule, assembled from optax."""

from typing import Any

import jax
import optax

from cnn_jax.configuration.schema import OptimizerConfig


def warmup_steps(config: OptimizerConfig, steps: int) -> int:
    """What the warm-up takes of a run's steps: as many as the configuration says, but a tenth of
    a run that is too short for these."""
    return config.warmup_steps if config.warmup_steps < steps else steps // 10


def tell_of_warmup(config: OptimizerConfig, steps: int) -> None:
    """Prints how long the warm-up is where it isn't what the configuration says."""
    taken = warmup_steps(config, steps)
    if taken != config.warmup_steps:
        rise = f"rises over {taken} steps" if taken else "is whole from the first step on"
        print(
            f"note: optimizer.warmup_steps={config.warmup_steps} is not less than"
            f" training.steps={steps}: the learning rate {rise}."
        )


def tell_of_late(config: OptimizerConfig, steps: int) -> None:
    """Prints what the configuration has set for steps that a run doesn't come to."""
    late = [str(step) for step in config.drops if step >= steps]
    if late:
        print(
            f"note: the learning rate doesn't fall at {', '.join(late)}, as optimizer.drops says:"
            f" training.steps={steps} ends before."
        )
    every, count = config.unfreeze_every_steps, len(config.frozen)
    frozen = [name for k, name in enumerate(config.frozen) if (count - k) * every >= steps]
    if every and frozen:
        print(
            f"note: {', '.join(frozen)} of optimizer.frozen never thaws, with"
            f" optimizer.unfreeze_every_steps={every} and training.steps={steps}."
        )


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """step -> learning rate: a linear warm-up to the peak, then cosine, polynomial or constant
    until `steps`, or divided by 10 at each of `config.drops`."""
    peak, end = config.learning_rate, config.learning_rate * config.end_factor
    warmup = warmup_steps(config, steps)
    rest = max(steps - warmup, 1)
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=config.end_factor),
        "polynomial": lambda: optax.polynomial_schedule(peak, end, config.polynomial_power, rest),
        "constant": lambda: optax.constant_schedule(peak),
        # A joined schedule counts from the end of the warm-up, the drops from the run's start.
        "drops": lambda: optax.piecewise_constant_schedule(
            peak, {step - warmup: 0.1 for step in config.drops}
        ),
    }[config.schedule]()
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def decayed(params: Any) -> Any:
    """Which parameters weight decay acts on: kernels (two axes or more), never norms and biases. A
    tree of bools."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW (Loshchilov and Hutter, 2019), SGD with Nesterov
    momentum and decoupled decay, or with plain momentum that the decay goes through (He et al.,
    2015)."""
    schedule = learning_rate(config, steps)
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "adamw":
        parts += [optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed)]
    else:
        momentum = optax.trace(config.momentum, nesterov=config.name == "sgd")
        decay = optax.add_decayed_weights(config.weight_decay, mask=decayed)
        parts += [momentum, decay] if config.name == "sgd" else [decay, momentum]
        parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts)
