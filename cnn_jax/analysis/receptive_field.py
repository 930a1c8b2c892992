"""Receptive fields, followed through the operations of a traced program.

Of each place of a map, down and across, the first and last row or column of the image that it
depends on are followed, what lies outside the image included. After upsampling neighbours differ:
one place of a U-Net sees 188 rows and another 204. Spans repeat after some places, each time so
many px further, so those of one period are all there is to keep. Where branches join, a place sees
what it sees through any of them. (The rule that a window of k places adds (k - 1) jumps, Araujo,
Norris and Sim, 2019, is the same for maps that only shrink.)
"""

import math
from collections.abc import Callable, Iterable, Sequence
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


MOST_SPANS = 4096
"""Longer periods are given up: a single span then holds what any place sees."""


@dataclass(frozen=True)
class Spans:
    """What the places of a map see along one axis of the image.

    Attributes:
        spans: of each place of one period its first and last row (or column) of the image; a place
            that sees nothing has (inf, -inf).
        shift: px by which a place lies further than the one a period before.
    """

    spans: tuple[tuple[Any, Any], ...] = ((0, 0),)
    shift: int | Fraction = 1

    def at(self, place: int) -> tuple[Any, Any]:
        """(first, last) of any place, also one beyond the map."""
        periods, phase = divmod(place, len(self.spans))
        first, last = self.spans[phase]
        return first + periods * self.shift, last + periods * self.shift

    def read(self, places: Callable[[int], Iterable[int]], step: Fraction) -> "Spans":
        """Of a map each of whose places reads some `places` of this one; with every place these lie
        `step` further on average."""
        period = (len(self.spans) / step).numerator
        if period > MOST_SPANS and len(self.spans) > 1:
            return self.alike().read(places, step)
        spans = []
        for place in range(period):
            seen = [self.at(number) for number in places(place)] or [(ALL, -ALL)]
            spans.append((min(first for first, _ in seen), max(last for _, last in seen)))
        if all(span == (-ALL, ALL) for span in spans):
            return WHOLE
        return Spans(tuple(spans), self.shift * period * step / len(self.spans))

    def alike(self) -> "Spans":
        """One span for all places, as wide as any needs."""
        jump = Fraction(self.shift) / len(self.spans)
        first = min(span[0] - place * jump for place, span in enumerate(self.spans))
        last = max(span[1] - place * jump for place, span in enumerate(self.spans))
        return Spans(((first, last),), jump)

    def with_another(self, other: "Spans", size: int) -> "Spans":
        """What the places of a map of `size` see through either of two."""
        if WHOLE in (self, other):
            return WHOLE
        period = math.lcm(len(self.spans), len(other.spans))
        same_pace = self.shift * len(other.spans) == other.shift * len(self.spans)
        if not same_pace or period > MOST_SPANS:
            period = size  # they drift apart, so every place of the map has a span of its own
        spans = [
            (min(a[0], b[0]), max(a[1], b[1]))
            for a, b in ((self.at(place), other.at(place)) for place in range(period))
        ]
        return Spans(tuple(spans), self.shift * period / Fraction(len(self.spans)))

    @property
    def px(self) -> tuple[float, float]:
        """The least and the greatest number of rows (or columns) that a place sees."""
        widths = [last - first + 1 for first, last in self.spans if last >= first]
        return min(widths, default=0), max(widths, default=0)


WHOLE = Spans(((-ALL, ALL),), 0)
"""Of what sees the whole image."""


@dataclass(frozen=True)
class Field:
    """What the values of an array depend on; an image `[batch, height, width, channels]` by
    default.

    Attributes:
        spans: down and across.
        axes: of each dimension of the array, what it runs along: 0 for the image's height, 1 for
            its width, FLAT for both, None.
    """

    spans: tuple[Spans, Spans] = (Spans(), Spans())
    axes: tuple = (None, 0, 1, None)

    @property
    def px(self) -> tuple[float, float]:
        """The greatest height and width of that part of the image."""
        down, across = self.spans
        return down.px[1], across.px[1]

    @property
    def least_px(self) -> tuple[float, float]:
        """The least height and width of it, of the places between whose views there are
        differences."""
        down, across = self.spans
        return down.px[0], across.px[0]

    def read(
        self, axis: Any, places: Callable[[int], Iterable[int]], step: int | Fraction
    ) -> "Field":
        """Of a map whose places read some of this one along an axis, as `Spans.read`; nothing
        changes if that is None."""
        if axis not in (0, 1):
            return self
        down, across = (
            spans.read(places, Fraction(step)) if number == axis else spans
            for number, spans in enumerate(self.spans)
        )
        return replace(self, spans=(down, across))

    def window(
        self,
        axis: Any,
        taps: int,
        stride: int = 1,
        dilation: int = 1,
        before: int = 0,
        growth: int = 1,
    ) -> "Field":
        """After a window of `taps` places, `dilation` apart, moved by `stride` along an axis from
        `before` places ahead of the map, whose places were first set `growth` apart."""

        def places(place):
            start = place * stride - before
            reached = (start + tap * dilation for tap in range(taps))
            return [position // growth for position in reached if position % growth == 0]

        return self.read(axis, places, Fraction(stride, growth))

    def resized(self, axis: Any, old: int, new: int) -> "Field":
        """After bilinear interpolation from `old` to `new` places, which are the middles of their
        areas; a triangle reaches one place of the coarser map to either side."""
        step = Fraction(old, new)
        reach = max(Fraction(1), step)

        def places(place):
            middle = (place + Fraction(1, 2)) * step - Fraction(1, 2)
            return range(math.floor(middle - reach) + 1, math.ceil(middle + reach))

        return self if old == new else self.read(axis, places, step)

    def whole(self, axes: Iterable) -> "Field":
        """After looking at all places along these axes."""
        seen = {*axes}
        down, across = (
            WHOLE if axis in seen or FLAT in seen else spans
            for axis, spans in enumerate(self.spans)
        )
        return replace(self, spans=(down, across))

    def along(self, axes: Iterable) -> "Field":
        """With other dimensions."""
        return replace(self, axes=tuple(axes))

    @property
    def is_map(self) -> bool:
        """Whether the array has places still."""
        return any(axis is not None for axis in self.axes)


def joined(fields: Sequence[Field], shape: Sequence[int]) -> Field:
    """Of values computed from one of each of several arrays of the same number of dimensions, with
    the shape of the result."""
    axes = [
        next((axis for axis in at if axis is not None), None)
        for at in zip(*(one.axes for one in fields), strict=True)
    ]

    def along(axis: int) -> Spans:
        spans = fields[0].spans[axis]
        for one in fields[1:]:
            size = shape[axes.index(axis)] if axis in axes else 1
            spans = spans.with_another(one.spans[axis], max(size, 1))
        # A number that saw a part only, spread over a map, lies anywhere from a place.
        spread = axis in axes and any(axis not in one.axes for one in fields)
        return WHOLE if spread else spans

    return Field((along(0), along(1)), tuple(axes))


def through(equation: Any, seen: Sequence[Field | None]) -> list[Field]:
    """The fields of an equation's results, from those of its operands (None for one that doesn't
    depend on the image).

    An operation without a rule here goes place by place, if it keeps the number of dimensions; else
    it is taken to see everything.
    """
    name, parameters = equation.primitive.name, equation.params
    known = [one for one in seen if one]
    one = known[0]
    shapes = [operand.aval.shape for operand in equation.invars]
    if name == "conv_general_dilated":
        return [_convolution(parameters, one, shapes[1])]
    if name == "dot_general":
        return [_product(parameters, seen, [len(shape) for shape in shapes], equation)]
    if name.startswith("reduce_window"):
        windows = zip(
            parameters["window_dimensions"],
            parameters["window_strides"],
            parameters["window_dilation"],
            (low for low, _ in parameters["padding"]),
            parameters["base_dilation"],
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
        return [_reshaped(one, shapes[0], parameters["new_sizes"])]
    if name == "squeeze":
        return [one.along(_without(one.axes, parameters["dimensions"]))]
    if name == "transpose":
        return [one.along(one.axes[d] for d in parameters["permutation"])]
    if name == "broadcast_in_dim":
        origin = dict(zip(parameters["broadcast_dimensions"], one.axes, strict=True))
        return [one.along(origin.get(d) for d in range(len(parameters["shape"])))]
    if name == "slice":
        strides = parameters["strides"] or (1,) * len(one.axes)
        for axis, start, stride in zip(one.axes, parameters["start_indices"], strides, strict=True):
            one = one.window(axis, 1, stride, before=-start)
        return [one]
    if name == "pad" and seen[0]:
        for axis, (low, _, inner) in zip(one.axes, parameters["padding_config"], strict=True):
            one = one.window(axis, 1, before=low, growth=inner + 1)
        return [one]
    results = [result.aval.shape for result in equation.outvars]
    if name not in _NOT_IN_PLACE and all(
        len(one.axes) == len(shape) for one in known for shape in results
    ):
        return [joined(known, shape) for shape in results]
    return [Field((WHOLE, WHOLE), axes=(None,) * len(shape)) for shape in results]


def _without(axes, dimensions):
    return [axis for d, axis in enumerate(axes) if d not in dimensions]


def _convolution(parameters, one, kernel):
    dimensions = parameters["dimension_numbers"]
    axes = [None] * len(one.axes)
    for number, (source, tap, target) in enumerate(
        zip(dimensions.lhs_spec[2:], dimensions.rhs_spec[2:], dimensions.out_spec[2:], strict=True)
    ):
        axis = axes[target] = one.axes[source]
        one = one.window(
            axis,
            kernel[tap],
            parameters["window_strides"][number],
            parameters["rhs_dilation"][number],
            parameters["padding"][number][0],
            parameters["lhs_dilation"][number],
        )
    return one.along(axes)


def _product(parameters, seen, ranks, equation):
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
    return joined(results, equation.outvars[0].aval.shape)


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
            factor = sizes[begin] // shape[start]
            one = one.read(runs[0], lambda place, by=factor: [place // by], Fraction(1, factor))
            axes.append(runs[0])
        else:
            axes += [FLAT] * (new - begin)
    return one.along(axes + [None] * (len(sizes) - new))
