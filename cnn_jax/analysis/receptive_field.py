"""Receptive fields, followed through the operations of a traced program.

After Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks (2019): a
window of k places widens the field by (k - 1) jumps, and its stride multiplies the jump. What lies
outside the image counts; where branches join, the largest does.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

ALL = math.inf
"""The field of a value that sees the whole image, however large that is."""

FLAT = "flat"

_NOT_IN_PLACE = (
    "gather",
    "scan",
    "while",
    "sort",
    "fft",
    "rev",
    "cumsum",
    "cumprod",
    "cummax",
    "cummin",
)
"""Operations without a rule that keep the number of dimensions, though not the places."""


@dataclass(frozen=True)
class Field:
    """What one value of an array depends on; an image `[batch, height, width, channels]` by
    default.

    Attributes:
        px: height and width of that part of the image.
        jump: px between the parts of neighbours, down and across.
        axes: of each dimension of the array, what it runs along: 0 for the image's height, 1 for
            its width, FLAT for both, None.
    """

    px: tuple[float, float] = (1, 1)
    jump: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))
    axes: tuple = (None, 0, 1, None)

    def window(
        self, axis: Any, taps: int, stride: int | Fraction = 1, dilation: int = 1
    ) -> "Field":
        """After a window of `taps` places, `dilation` apart, moved by `stride` along an axis;
        nothing if that is None."""
        if axis not in (0, 1):
            return self
        px, jump = list(self.px), list(self.jump)
        px[axis] += (taps - 1) * dilation * jump[axis]
        jump[axis] *= stride
        return replace(self, px=tuple(px), jump=tuple(jump))

    def whole(self, axes: Iterable) -> "Field":
        """After looking at all places along these axes."""
        seen = {*axes}
        return replace(
            self,
            px=tuple(
                ALL if axis in seen or FLAT in seen else px for axis, px in enumerate(self.px)
            ),
        )

    def along(self, axes: Iterable) -> "Field":
        """With other dimensions."""
        return replace(self, axes=tuple(axes))

    @property
    def is_map(self) -> bool:
        """Whether the array has places still."""
        return any(axis is not None for axis in self.axes)


def joined(fields: Sequence[Field]) -> Field:
    """Of values computed from one of each of several arrays of the same shape."""
    axes = [
        next((axis for axis in at if axis is not None), None)
        for at in zip(*(one.axes for one in fields), strict=True)
    ]
    most = max(
        fields, key=lambda one: one.is_map
    )  # a map's jump, not that of numbers spread over it
    px = max(one.px[0] for one in fields), max(one.px[1] for one in fields)
    return Field(px, most.jump, tuple(axes))


def through(equation: Any, seen: Sequence[Field | None]) -> list[Field]:
    """The fields of an equation's results, from those of its operands (None for one that doesn't
    depend on the image).

    An operation without a rule here goes place by place, if it keeps the number of dimensions; else
    it is taken to see everything.
    """
    name, parameters = equation.primitive.name, equation.params
    known = [one for one in seen if one]
    one = known[0]
    if name == "conv_general_dilated":
        return [_convolution(parameters, one, equation.invars[1].aval.shape)]
    if name == "dot_general":
        return [_product(parameters, seen, [operand.aval.ndim for operand in equation.invars])]
    if name.startswith("reduce_window"):
        windows = zip(
            *(parameters[f"window_{what}"] for what in ("dimensions", "strides", "dilation")),
            strict=True,
        )
        for axis, window in zip(one.axes, windows, strict=True):
            one = one.window(axis, *window)
        return [one]
    if name.startswith(("reduce_", "arg")) and "axes" in parameters:
        summed = parameters["axes"]
        return [one.whole(one.axes[d] for d in summed).along(_without(one.axes, summed))] * len(
            equation.outvars
        )
    if name == "reshape":
        return [_reshaped(one, equation.invars[0].aval.shape, parameters["new_sizes"])]
    if name == "squeeze":
        return [one.along(_without(one.axes, parameters["dimensions"]))]
    if name == "transpose":
        return [one.along(one.axes[d] for d in parameters["permutation"])]
    if name == "broadcast_in_dim":
        origin = dict(zip(parameters["broadcast_dimensions"], one.axes, strict=True))
        return [one.along(origin.get(d) for d in range(len(parameters["shape"])))]
    if name == "slice":
        for axis, stride in zip(one.axes, parameters["strides"] or (), strict=False):
            one = one.window(axis, 1, stride)
        return [one]
    ranks = [result.aval.ndim for result in equation.outvars]
    if name not in _NOT_IN_PLACE and all(len(one.axes) == rank for one in known for rank in ranks):
        return [joined(known)] * len(ranks)
    return [Field((ALL, ALL), axes=(None,) * rank) for rank in ranks]


def _without(axes, dimensions):
    return [axis for d, axis in enumerate(axes) if d not in dimensions]


def _convolution(parameters, one, kernel):
    dimensions = parameters["dimension_numbers"]
    axes = [None] * len(one.axes)
    for number, (source, tap, target) in enumerate(
        zip(dimensions.lhs_spec[2:], dimensions.rhs_spec[2:], dimensions.out_spec[2:], strict=True)
    ):
        axis = axes[target] = one.axes[source]
        span = (kernel[tap] - 1) * parameters["rhs_dilation"][number] + 1
        growth = parameters["lhs_dilation"][
            number
        ]  # one place of so many holds a value, the rest zeros
        one = one.window(
            axis, -(-span // growth), Fraction(parameters["window_strides"][number], growth)
        )
    return one.along(axes)


def _product(parameters, seen, ranks):
    """Each value is a sum over the contracted dimensions: it sees all places along them."""
    contracted, batched = parameters["dimension_numbers"]
    free = [
        [d for d in range(rank) if d not in (*contracted[side], *batched[side])]
        for side, rank in enumerate(ranks)
    ]
    results = []
    for side, one in enumerate(seen):
        if one:
            axes = [one.axes[d] for d in batched[side]]
            for other in (0, 1):
                axes += [one.axes[d] if other == side else None for d in free[other]]
            results.append(one.whole(one.axes[d] for d in contracted[side]).along(axes))
    return joined(results)


def _reshaped(one, shape, sizes):
    """Of a dimension of the map that is split, the first part runs over windows: whatever is made
    of a window's values, its field is the window's. One that is merged with a dimension of no place
    to its right is a finer map. All else is flattened.
    """
    if 0 in shape:
        return one.along([None] * len(sizes))
    axes, old, new = [], 0, 0
    while old < len(shape) and new < len(sizes):
        start, begin = old, new
        before, after = shape[old], sizes[new]
        old, new = old + 1, new + 1
        while before != after:  # the fewest dimensions that hold as much before as after
            if before < after:
                before, old = before * shape[old], old + 1
            else:
                after, new = after * sizes[new], new + 1
        runs = one.axes[start:old]
        places = [axis for axis in runs if axis is not None]
        if not places or (old - start == new - begin == 1):
            axes += [runs[0] if places else None] * (new - begin)
        elif places == [runs[0]] and old - start == 1:
            factor = shape[start] // sizes[begin]
            one = one.window(runs[0], factor, factor)
            axes += [runs[0]] + [None] * (new - begin - 1)
        elif places == [runs[0]] and new - begin == 1:
            one = one.window(runs[0], 1, Fraction(shape[start], sizes[begin]))
            axes.append(runs[0])
        else:
            axes += [FLAT] * (new - begin)
    return one.along(axes + [None] * (len(sizes) - new))
