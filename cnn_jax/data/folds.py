"""Groups dealt into parts for cross-validation: no group is parted."""

from collections.abc import Hashable, Mapping, Set
from typing import Any, TypeVar

import numpy as np

from cnn_jax.errors import InputError

_Group = TypeVar("_Group", bound=Hashable)


def deal(sizes: Mapping[_Group, int], config: Any) -> dict[str, Set[_Group]]:
    """The groups of each split, from parts with as equal numbers of examples as they allow.

    Args:
        sizes: group -> how many examples it has, in an order that means something: the same order
            and seed give the same parts.
        config: of the data: `source`, `folds`, `fold` and `split_seed` are used.

    Raises:
        InputError: there are fewer groups than folds.
    """
    groups, folds = list(sizes), config.folds
    if len(groups) < folds:
        raise InputError(
            f"data.folds is {folds}, and {config.source} has {len(groups)} groups: ask for no more"
            " folds than there are groups."
        )
    order = np.random.default_rng(config.split_seed).permutation(len(groups))
    shuffled = [groups[i] for i in order]
    shuffled.sort(key=lambda group: -sizes[group])  # large ones first; equal ones stay shuffled
    parts: list[set[_Group]] = [set() for _ in range(folds)]
    held = [0] * folds
    for group in shuffled:
        part = min(range(folds), key=lambda number: (held[number], len(parts[number])))
        parts[part].add(group)
        held[part] += sizes[group]
    test, validation = parts[config.fold], parts[(config.fold + 1) % folds]
    return {"test": test, "validation": validation, "train": sizes.keys() - test - validation}
