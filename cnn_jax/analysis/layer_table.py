"""The layers of a network in a table: shapes, parameters, work and receptive fields, read off its
traced program.

The network is traced, not computed: every convolution, product, window and reduction of the program
that JAX makes of it carries its exact shapes, strides, padding and dilation, and the path of the
Flax module that it comes from. So the table holds for branches, for pooling (a function, not a
module) and for whatever a module does inside.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import Literal

from cnn_jax.analysis.receptive_field import ALL, FLAT, Field, through
from cnn_jax.layers.upsampling import TransposedUpsampling

FEW = 6
"""With up to so many layers that have parameters, the total is shown as their sum."""

TRAINING = "in training alone"
"""The kind of a layer that has parameters, but no part in predictions."""

_NORMS = {
    nn.BatchNorm: "batch norm",
    nn.GroupNorm: "group norm",
    nn.LayerNorm: "layer norm",
    nn.InstanceNorm: "instance norm",
}
_RESIZE = "bilinear_resize"
_ADAPTIVE = "adaptive_average_pool"
"""Functions of `cnn_jax.layers` that are traced under their own names: one row each, whatever they
do inside."""

_WINDOWS = {
    "reduce_window_max": ("max pooling", "max_pool"),
    "reduce_window_sum": ("average pooling", "average_pool"),
}
_REDUCTIONS = {"reduce_sum": "global average pooling", "reduce_max": "global max pooling"}


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Attributes:
        name: path of the module; with the name of the function, where it is none.
        kind: such as "convolution, batch norm".
        output: shape of the result for one image, without the batch.
        kernel: height and width, or None.
        stride: down and across, or None; below 1 where the map grows.
        padding: zeros above and below, and left and right, or None.
        parameters: trainable ones. A module that is used twice has them in its first row.
        multiply_adds: for one image. Zeros of the padding count, as is usual; biases, norms,
            pooling and resizing don't.
        field_px: height and width of what one value of the result depends on, what lies outside the
            image included; `ALL` for the whole image. Where branches join it is the largest. Norms
            count as seeing one place. None in training alone.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    kernel: tuple[int, int] | None = None
    stride: tuple[Fraction, Fraction] | None = None
    padding: tuple[tuple[int, int], tuple[int, int]] | None = None
    parameters: int = 0
    multiply_adds: int = 0
    field_px: tuple[float, float] | None = None
    least_field_px: tuple[float, float] | None = None


@dataclass(frozen=True)
class Summary:
    """The layers of a network in the order of computation, its trainable parameters, moving
    statistics, and work for one image."""

    layers: Sequence[Layer]
    parameters: int
    moving_statistics: int
    multiply_adds: int


def summarize(model: nn.Module, input_px: tuple[int, int, int]) -> Summary:
    """The layers of `model` for one image of `input_px` (height, width, channels), as it predicts
    (`train=False`)."""
    image = jax.ShapeDtypeStruct((1, *input_px), jnp.float32)
    in_training: dict[tuple, tuple] = {}
    with nn.intercept_methods(_noted(in_training)):
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    modules: dict[tuple, tuple] = {}
    with nn.intercept_methods(_noted(modules)):
        program = jax.make_jaxpr(lambda variables, x: model.apply(variables, x, train=False))(
            variables, image
        ).jaxpr
    parameters: dict[tuple, int] = {}
    for path, leaf in jax.tree.leaves_with_path(variables["params"]):
        owner = tuple(key.key for key in path[:-1])
        parameters[owner] = parameters.get(owner, 0) + leaf.size

    reader = _Reader(modules, dict(parameters))
    reader.read(program, [*[None] * (len(program.invars) - 1), Field()], ())
    for path in [*reader.unclaimed]:  # a learned scale, say, or a head that only training has
        kind, output = in_training[path]
        reader.add(path, kind.__name__ if path in modules else TRAINING, output, None)
    return Summary(
        layers=reader.layers,
        parameters=sum(parameters.values()),
        moving_statistics=sum(
            leaf.size for leaf in jax.tree.leaves(variables.get("batch_stats", {}))
        ),
        multiply_adds=sum(layer.multiply_adds for layer in reader.layers),
    )


def _noted(modules):
    """An interceptor that writes class and output of every module that is called into `modules`, by
    its path."""

    def note(call, args, kwargs, context):
        result = call(*args, **kwargs)
        modules[context.module.path] = type(context.module), getattr(result, "shape", (1,))[1:]
        return result

    return note


@dataclass
class _Reader:
    """Follows receptive fields through a program, and notes its layers.

    `modules` are class and output by path; `unclaimed` parameters by the path of their module,
    until a row has them.
    """

    modules: Mapping[tuple, tuple]
    unclaimed: dict[tuple, int]
    layers: list[Layer] = field(default_factory=list)

    def read(self, program, inputs, caller):
        """The fields of a program's results from those of its inputs; None for what doesn't depend
        on the image."""
        fields = {
            variable: seen for variable, seen in zip(program.invars, inputs, strict=True) if seen
        }

        def known(variable):
            return None if isinstance(variable, Literal) else fields.get(variable)

        for equation in program.eqns:
            seen = [known(variable) for variable in equation.invars]
            if any(seen):
                results = self.equation(equation, seen, self.path(equation) or caller)
                fields |= {
                    variable: one
                    for variable, one in zip(equation.outvars, results, strict=True)
                    if one
                }
        return [known(variable) for variable in program.outvars]

    def path(self, equation):
        """The module that an equation comes from; none inside a function that was traced by
        itself."""
        path = tuple(str(equation.source_info.name_stack).split("/")[1:])
        while path and path not in self.modules:
            path = path[:-1]
        return path

    def equation(self, equation, seen, path):
        """The fields of an equation's results, from those of its operands."""
        if norm := self.among(path, _NORMS):
            return self.norm(equation, seen, path, norm)
        if equation.params.get("name") == _RESIZE:
            return [self.resize(equation, seen[0], path)]
        if equation.params.get("name") == _ADAPTIVE:
            seen = seen[0].whole((0, 1))
            output = equation.outvars[0].aval.shape[1:]
            self.add(path, "adaptive average pooling", output, seen, _ADAPTIVE)
            return [seen]
        program = _program(equation)
        if program is not None:
            return self.read(program, seen, path)
        results = through(equation, seen)
        self.layer(equation, [one for one in seen if one], results[0], path)
        return results

    def norm(self, equation, seen, path, kind):
        """Within a normalisation: what it makes of a map is that map."""
        known = [one for one in seen if one]
        one = next((one for one in known if one.is_map), known[0])
        if path in self.unclaimed:
            block = self.block(path)
            if block != path and self.layers and self.layers[-1].name == "/".join(block):
                last = self.layers[-1]
                parameters = last.parameters + self.unclaimed.pop(path)
                self.layers[-1] = replace(
                    last, kind=f"{last.kind}, {_NORMS[kind]}", parameters=parameters
                )
            else:
                self.add(path, _NORMS[kind], self.modules[path][1], one)
        ranks = [result.aval.ndim for result in equation.outvars]
        return [one if len(one.axes) == rank else one.along((None,) * rank) for rank in ranks]

    def resize(self, equation, seen, path):
        """A bilinear resizing."""
        before, after = (values[0].aval.shape for values in (equation.invars, equation.outvars))
        steps = tuple(Fraction(old, new) for old, new in zip(before[1:3], after[1:3], strict=True))
        for axis in (0, 1):
            seen = seen.resized(axis, before[1 + axis], after[1 + axis])
        self.add(path, "bilinear resizing", after[1:], seen, _RESIZE, stride=steps)
        return seen

    def layer(self, equation, known, result, path):
        """Adds the row of an equation, if it is one of those that make a layer."""
        name, parameters = equation.primitive.name, equation.params
        shapes = [operand.aval.shape for operand in equation.invars]
        output = equation.outvars[0].aval.shape
        places = {axis for axis in known[0].axes if axis is not None}
        if name == "conv_general_dilated":
            self.convolution(equation, result, path)
        elif name == "dot_general":
            summed = math.prod(shapes[0][d] for d in parameters["dimension_numbers"][0][0])
            kind = "dense" if len(known) == 1 else "matrix product"
            self.add(path, kind, output[1:], result, multiply_adds=math.prod(output) * summed)
        elif name.startswith("reduce_window"):
            window, strides = parameters["window_dimensions"], parameters["window_strides"]
            if max(window[1:3]) > 1:
                padding = tuple(parameters["padding"][1:3])
                kind, function = _WINDOWS.get(name, ("pooling", name))
                self.add(
                    path,
                    kind,
                    output[1:],
                    result,
                    function,
                    kernel=window[1:3],
                    stride=strides[1:3],
                    padding=padding,
                )
        elif name in _REDUCTIONS and {known[0].axes[d] for d in parameters["axes"]} & {0, 1}:
            kind = _REDUCTIONS[name]
            kernel = tuple(shapes[0][d] for d in parameters["axes"] if known[0].axes[d] is not None)
            self.add(path, kind, output[1:], result, kind.replace(" ", "_"), kernel=kernel)
        elif name == "reshape" and FLAT in result.axes and FLAT not in places:
            self.add(path, "flatten", output[1:], result, "flatten")

    def convolution(self, equation, result, path):
        parameters = equation.params
        image, kernel = (operand.aval.shape for operand in equation.invars)
        output, groups = equation.outvars[0].aval.shape, parameters["feature_group_count"]
        dimensions, growth, dilation = (
            parameters["dimension_numbers"],
            parameters["lhs_dilation"],
            parameters["rhs_dilation"],
        )
        size = tuple(kernel[d] for d in dimensions.rhs_spec[2:])
        kind = "convolution"
        if groups > 1:
            kind = (
                "depthwise convolution"
                if groups == image[dimensions.lhs_spec[1]]
                else f"convolution, {groups} groups"
            )
        if max(dilation) > 1:
            kind += f", dilation {_both(dilation)}"
        work = math.prod(output) * math.prod(size) * kernel[dimensions.rhs_spec[1]]
        if max(growth) > 1:  # the zeros between values are nobody's work
            kind, work = (
                "transposed convolution",
                work * math.prod(image[1:3]) // math.prod(output[1:3]),
            )
        stride = tuple(
            Fraction(step, grown)
            for step, grown in zip(parameters["window_strides"], growth, strict=True)
        )
        shape = output[1:]
        if self.among(
            path, {TransposedUpsampling: ""}
        ):  # it computes its four taps as features, then sets them apart
            kind, size, stride = "transposed convolution", (2, 2), (Fraction(1, 2),) * 2
            shape = (2 * shape[0], 2 * shape[1], shape[2] // 4)
        rest = {"kernel": size, "stride": stride, "padding": tuple(parameters["padding"])}
        self.add(path, kind, shape, result, multiply_adds=work, **rest)

    def add(self, path, kind, output, seen, function="", **rest):
        """A row, with the parameters of the module unless an earlier one has them."""
        name = "/".join([*self.block(path), *([function] if function else [])])
        self.layers.append(
            Layer(
                name,
                kind,
                tuple(output),
                parameters=self.unclaimed.pop(path, 0),
                field_px=seen and seen.px,
                least_field_px=seen and seen.least_px,
                **rest,
            )
        )

    def block(self, path):
        """The module that is shown: one that holds a convolution and at most its normalisation is
        one layer."""
        for length in range(1, len(path)):
            parts = {
                other[length]
                for other in self.modules
                if len(other) == length + 1 and other[:length] == path[:length]
            }
            if "convolution" in parts and parts <= {"convolution", "norm"}:
                return path[:length]
        return path

    def among(self, path, classes):
        """Which of `classes` the module is, or None."""
        return next(
            (
                known
                for known in classes
                if issubclass(self.modules.get(path, (nn.Module,))[0], known)
            ),
            None,
        )


def _program(equation):
    """The program of an equation that calls one: a function that was traced by itself."""
    if equation.primitive.name == "scan":
        return None
    program = next(
        (equation.params[key] for key in ("jaxpr", "call_jaxpr") if key in equation.params), None
    )
    return getattr(program, "jaxpr", program)


def layer_table(summary: Summary) -> str:
    """A summary as text for a terminal: a line a layer, then the totals."""
    header = (
        "layer",
        "kind",
        "output",
        "kernel",
        "stride",
        "padding",
        "parameters",
        "multiply-adds",
        "field, px",
    )
    rows = [
        (
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output)),
            "x".join(map(str, layer.kernel or ())),
            _both(layer.stride),
            _both(
                layer.padding
                and ["+".join(map(str, dict.fromkeys(side))) for side in layer.padding]
            ),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            _both(
                layer.field_px
                and list(map(_range, layer.least_field_px or layer.field_px, layer.field_px))
            ),
        )
        for layer in summary.layers
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    counts = [f"{layer.parameters:,}" for layer in summary.layers if layer.parameters]
    terms = f"{' + '.join(counts)} = " if 1 < len(counts) <= FEW else ""
    lines += ["", f"parameters: {terms}{summary.parameters:,}"]
    if training := sum(layer.parameters for layer in summary.layers if layer.kind == TRAINING):
        lines.append(f"{TRAINING}, of these: {training:,}")
    if summary.moving_statistics:
        lines.append(f"moving statistics, not trained: {summary.moving_statistics:,}")
    lines.append(f"multiply-adds for one image: {summary.multiply_adds:,}")
    return "\n".join(lines)


def _range(least: float, most: float) -> str:
    """Of the places of a map: 188-204 where some see more than others."""
    ends = ["all" if side == ALL else str(math.ceil(side)) for side in (least, most)]
    return "-".join(dict.fromkeys(ends))


def _both(pair) -> str:
    """Of height and width: one where they are equal."""
    return "" if pair is None else "x".join(map(str, dict.fromkeys(pair)))
