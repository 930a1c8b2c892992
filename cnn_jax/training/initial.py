"""Weights that a network begins with instead of those that its seed draws."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax.errors import InputError

Path = tuple[str, ...]

ENCODER = "encoder"
"""The module of a segmenter that is a classifier without its head."""


@dataclass(frozen=True)
class Initial:
    """Given weights.

    Attributes:
        name: of the run or file.
        variables: nested: "params" and, with BatchNorm, "batch_stats".
    """

    name: str
    variables: Any

    def laid_over(self, drawn: Any, head: Collection[Path], part: str) -> tuple[Any, str]:
        """The variables of a network with the given ones in their place, and what was taken, in
        words.

        Args:
            drawn: the network's own, as the seed draws them.
            head: the variables that belong to its classes.
            part: of `schema.PARTS`.

        Raises:
            InputError: the given weights don't fit the network; the sentence says where.
        """
        ours: dict[Path, Any] = traverse_util.flatten_dict(drawn)
        given: dict[Path, Any] = traverse_util.flatten_dict(self.variables)
        taken, what = self._taken(ours, given, head, part)
        laid = {
            path: jnp.asarray(taken[path], leaf.dtype) if path in taken else leaf
            for path, leaf in ours.items()
        }
        return traverse_util.unflatten_dict(laid), what

    def _taken(self, ours, given, head, part) -> tuple[dict[Path, Any], str]:
        have, has = _has_encoder(ours), _has_encoder(given)
        if part != "encoder" and have == has:
            body = {path for path in ours if path not in head}
            wrong = _differing(body, ours, given)
            if not wrong:
                whole = not _differing(head, ours, given)
                if part == "whole" and not whole:
                    raise self._refused(_differing(head, ours, given), ours, given)
                if whole and part != "all_but_head":
                    return {path: given[path] for path in ours}, "the whole network"
                return {path: given[path] for path in body}, "all but the head"
            if part != "auto" or not have:
                raise self._refused(wrong, ours, given)
        if part in ("whole", "all_but_head"):
            raise InputError(
                f"{self.name} is {'of a segmenter' if has else 'of a classifier'}, and the network"
                f" {'a segmenter' if have else 'a classifier'}: leave initial_part auto, or make it"
                " encoder."
            )
        if not have and not has:
            raise InputError(
                "initial_part is encoder, and neither the network nor the weights have one: use"
                " all_but_head."
            )
        given = given if has == have else _moved(given, into=have)
        body = {path for path in ours if (not have or path[1] == ENCODER) and path not in head}
        wrong = _differing(body, ours, given)
        if wrong:
            raise self._refused(wrong, ours, given)
        return {path: given[path] for path in body}, "the encoder"

    def _refused(self, wrong, ours, given):
        path = wrong[0]
        held = f"is {list(np.shape(given[path]))} there" if path in given else "is missing there"
        channels = ""
        if path in given and np.ndim(given[path]) == 4 and path[-1] == "kernel":
            theirs, own = np.shape(given[path])[2], ours[path].shape[2]
            if theirs == 3 and own == 1:
                channels = " (for grey images give --data.channels 3)"
        return InputError(
            f"{self.name} doesn't fit the network: {'/'.join(path)} {held} and"
            f" {list(ours[path].shape)} in the network, with {len(wrong)} such in all{channels}:"
            " choose the architecture and options that the weights are of."
        )


def _has_encoder(flat: Mapping[Path, Any]) -> bool:
    return any(path[1] == ENCODER for path in flat)


def _moved(given, into):
    """A classifier's variables where a segmenter has its encoder's, or the reverse."""
    if into:
        return {(path[0], ENCODER, *path[1:]): value for path, value in given.items()}
    return {(path[0], *path[2:]): value for path, value in given.items() if path[1] == ENCODER}


def _differing(paths, ours, given) -> list[Path]:
    """Those that the given lack, or have in another shape."""
    return sorted(
        path for path in paths if path not in given or np.shape(given[path]) != ours[path].shape
    )
