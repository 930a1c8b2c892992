"""Parts of a network that learn at another rate than the rest, or not at all."""

import fnmatch
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from cnn_jax.configuration.schema import OptimizerConfig, nearest
from cnn_jax.errors import InputError
from cnn_jax.layers.normalization import keeping_statistics
from cnn_jax.training.initial import ENCODER, encoder_at

Path = tuple[str, ...]

NEVER = 2**31 - 1


@dataclass(frozen=True)
class Groups:
    """What becomes of each parameter's update; made by `make_groups`.

    Attributes:
        factors: of the learning rate, by the path of the parameter.
        thaws: the step from which on it learns: 0 at once, `NEVER` never.
        frozen_norms: modules of BatchNorm that keep their statistics, by path.
    """

    factors: dict[Path, float]
    thaws: dict[Path, int]
    frozen_norms: frozenset[Path]

    def hold(self, params: Any) -> Any:
        """The parameters, those that never learn as constants: their gradient is 0, and nothing is
        computed for it."""
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict(
            {
                path: jax.lax.stop_gradient(value) if self.thaws[path] == NEVER else value
                for path, value in flat.items()
            }
        )

    def keeping_statistics(self) -> AbstractContextManager[None]:
        """While this is entered, BatchNorm of frozen parts is traced as in inference."""
        return keeping_statistics(self.frozen_norms)

    def scale(self, updates: Any, step: jax.Array) -> Any:
        """The updates of a step, each times its factor; 0 while its parameter is frozen."""
        flat = traverse_util.flatten_dict(updates)

        def scaled(path, update):
            factor, thaws = self.factors[path], self.thaws[path]
            if thaws == NEVER or not factor:
                return jnp.zeros_like(update)
            if thaws:
                return update * jnp.where(step >= thaws, factor, 0).astype(update.dtype)
            return update if factor == 1 else update * factor

        return traverse_util.unflatten_dict({k: scaled(k, value) for k, value in flat.items()})


def make_groups(config: OptimizerConfig, variables: Any, head: frozenset[Path]) -> Groups:
    """The groups that a configuration asks for.

    A part that is named twice belongs to the first that names it. Frozen parts that are to thaw
    have their gradients from the start, and Adam's averages of these; only their weights rest. They
    keep their BatchNorm's statistics to the end: those of a few small batches would undo what the
    weights were trained with.

    Args:
        config: the `optimizer` section.
        variables: of the network, or their shapes.
        head: paths of variables that belong to the classes, with the collection's name.

    Raises:
        InputError: a name fits nothing, or nothing is left to learn.
    """
    paths = list(traverse_util.flatten_dict(variables["params"]))
    of_head = {path[1:] for path in head}
    thaws = dict.fromkeys(paths, 0)
    every, count = config.unfreeze_every_steps, len(config.frozen)
    for place, name in reversed(list(enumerate(config.frozen))):
        for path in _named(name, paths, of_head, "optimizer.frozen"):
            thaws[path] = (count - place) * every if every else NEVER
    factors = dict.fromkeys(paths, 1.0)
    for name, factor in reversed(list(zip(config.groups, config.group_factors, strict=True))):
        for path in _named(name, paths, of_head, "optimizer.groups"):
            factors[path] = factor
    if not any(factors[path] and thaws[path] != NEVER for path in paths):
        raise InputError(
            "optimizer.frozen and optimizer.group_factors leave nothing to learn: name less."
        )
    modules: dict[Path, list[Path]] = {}
    for path in paths:
        modules.setdefault(path[:-1], []).append(path)
    frozen = {module for module, held in modules.items() if all(thaws[path] for path in held)}
    return Groups(factors, thaws, frozenset(frozen))


def _named(name, paths, head, field):
    """The parameters that a name stands for."""
    if name == "head":
        found = [path for path in paths if path in head]
    elif name == "base":
        found = [path for path in paths if path not in head]
    elif name == ENCODER:
        place = encoder_at(("params", *path) for path in paths)
        found = [path for path in paths if place and path[: len(place)] == place]
    else:
        pattern = tuple(name.split("/"))
        found = [
            path
            for path in paths
            if len(path) >= len(pattern)
            and all(
                fnmatch.fnmatchcase(part, wild) for part, wild in zip(path, pattern, strict=False)
            )
        ]
    if not found:
        known = dict.fromkeys(["head", "base", *(path[0] for path in paths)])
        raise InputError(
            f"{field} names {name!r}, which the network lacks: {nearest(name, known)}."
        )
    return found
