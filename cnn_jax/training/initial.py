"""Weights that a network begins with instead of those that its seed draws."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax.errors import InputError

Path = tuple[str, ...]

ENCODER = "encoder"
"""The module of a segmenter or detector that is a classifier without its head."""


@dataclass(frozen=True)
class Initial:
    """Given weights.

    Attributes:
        name: of the run or file.
        variables: nested: "params" and, with BatchNorm, "batch_stats".
        classes: names of what the head tells apart, where they are known.
    """

    name: str
    variables: Any
    classes: tuple[str, ...] = ()

    def laid_over(
        self, drawn: Any, head: Collection[Path], part: str, classes: Sequence[str] = ()
    ) -> tuple[Any, str]:
        """The variables of a network with the given ones in their place, and what was taken, in
        words.

        Args:
            drawn: the network's own, as the seed draws them.
            head: the variables that belong to its classes.
            part: of `schema.PARTS`.
            classes: names of the network's; a head of as many others is taken only if `part` is
                "whole".

        Raises:
            InputError: the given weights don't fit the network; the sentence says where.
        """
        ours: dict[Path, Any] = traverse_util.flatten_dict(drawn)
        taken, what = self._taken(ours, head, part, classes)
        laid = {
            path: jnp.asarray(taken[path], leaf.dtype) if path in taken else leaf
            for path, leaf in ours.items()
        }
        return traverse_util.unflatten_dict(laid), what

    def check(
        self, drawn: Any, head: Collection[Path], part: str, classes: Sequence[str] = ()
    ) -> None:
        """Refuses what `laid_over` would, without laying anything; of `drawn` the shapes count.

        Raises:
            InputError: the given weights don't fit the network; the sentence says where.
        """
        self._taken(traverse_util.flatten_dict(drawn), head, part, classes)

    def _taken(self, ours, head, part, classes) -> tuple[dict[Path, Any], str]:
        given: dict[Path, Any] = traverse_util.flatten_dict(self.variables)
        others = bool(self.classes and classes) and tuple(self.classes) != tuple(classes)
        have, has = encoder_at(ours), encoder_at(given)
        if part != "encoder" and have == has:
            body = {path for path in ours if path not in head}
            wrong = _differing(body, ours, given)
            if not wrong:
                whole = not _differing(head, ours, given)
                if part == "whole" and not whole:
                    raise self._refused(_differing(head, ours, given), ours, given)
                if whole and part != "all_but_head" and not (others and part == "auto"):
                    return {path: given[path] for path in ours}, "the whole network"
                return {path: given[path] for path in body}, "all but the head"
            if part != "auto" or not have:
                raise self._refused(wrong, ours, given)
        if part in ("whole", "all_but_head"):
            raise InputError(
                f"{self.name} has {_described(has)}, and the network {_described(have)}: leave"
                " initial_part auto, or make it encoder."
            )
        if not have and not has:
            raise InputError(
                "initial_part is encoder, and neither the network nor the weights have one: use"
                " all_but_head."
            )
        given = _moved(given, has, have)
        body = {path for path in ours if _lies_in(path, have) and path not in head}
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


def encoder_at(paths: Iterable[Path]) -> Path:
    """Where the variables of a network's encoder lie, without the collection's name: in a network
    of instances within the segmenter; `()` where the network has none.

    Args:
        paths: of variables, with the collection's name.
    """
    for path in paths:
        if ENCODER in path[1:3]:
            return path[1 : path.index(ENCODER) + 1]
    return ()


def _described(place):
    return f"its encoder in {'/'.join(place)}" if place else "no encoder"


def _lies_in(path, place):
    return path[1 : 1 + len(place)] == place


def _moved(given, source, target):
    """The variables below one place in a network, below another; a classifier is all encoder."""
    return {
        (path[0], *target, *path[1 + len(source) :]): value
        for path, value in given.items()
        if _lies_in(path, source)
    }


def _differing(paths, ours, given) -> list[Path]:
    """Those that the given lack, or have in another shape."""
    return sorted(
        path for path in paths if path not in given or np.shape(given[path]) != ours[path].shape
    )
