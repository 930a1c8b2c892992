"""Groups dealt into parts for cross-validation: no group is parted."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

_Group = TypeVar("_Group", bound=Hashable)


def deal(sizes: Mapping[_Group, int], folds: int, seed: int) -> list[set[_Group]]:
    """The groups of each part, with as equal numbers of examples as they allow.

    Args:
        sizes: group -> how many examples it has, in an order that means something: the same order
            and seed give the same parts.
        folds: how many parts.
        seed: of the shuffling.
    """
    groups = list(sizes)
    shuffled = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    shuffled.sort(key=lambda group: -sizes[group])  # large ones first; equal ones stay shuffled
    parts: list[set[_Group]] = [set() for _ in range(folds)]
    held = [0] * folds
    for group in shuffled:
        part = min(range(folds), key=lambda number: (held[number], len(parts[number])))
        parts[part].add(group)
        held[part] += sizes[group]
    return parts
