"""A function of JAX as an ONNX model: its traced program, translated operation by operation.

Constants are folded by evaluating them. The sizes that stay free (batch, height, width) are traced
as large primes, which no other size of a program is a multiple of: what is one is worked out from
the input's shape when the model runs.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import jax
import numpy as np
from jax.extend import core

from cnn_jax.errors import InputError

OPSET = 17
"""Of ONNX, 2022: what onnxruntime reads from version 1.12 on, and onnxruntime-web."""

INPUT, OUTPUT = "images", "output"
"""Names of the model's one input and one output."""

FREE = (10007, 10009, 10037)
"""What batch, height and width are traced as where they are free; sizes are multiples of these."""

FREE_ALONE = (73_939_133,)
"""What batch is traced as where the others are fixed, and may be large."""

NAMES = ("batch", "height", "width")
"""Of the free sizes, in the model."""

LARGEST, LARGEST_ALONE = 5000, 30_000_000
"""A number of a program beyond which it must be a multiple of a free size, or a size of a constant:
anything else would follow the size in a way that isn't understood, such as (height - 11) / 4."""

BINARY = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "eq": "Equal",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "lt": "Less",
    "le": "LessOrEqual",
    "and": "And",
    "or": "Or",
}
UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "not": "Not",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
}
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
IDENTITIES = (
    "name",
    "copy",
    "copy_p",
    "optimization_barrier",
    "stop_gradient",
    "sharding_constraint",
)
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2")


def library() -> ModuleType:
    """The package onnx.

    Raises:
        InputError: it isn't installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            "ONNX needs the package onnx, which isn't installed: pip install 'cnn_jax[onnx]'."
        ) from error
    return onnx


def reason(error: Exception) -> str:
    """What Flax or JAX says of a layer made for another size, without the address of a page."""
    first = str(error).strip().partition("\n")[0]
    return first.partition(" (http")[0][:200].rstrip(".")


def translated(
    function: Callable[[jax.Array], Any],
    image: Sequence[int],
    *,
    stride: int | None = None,
) -> Any:
    """The ONNX model of a function of float32 images `[batch, height, width, channels]`.

    Args:
        function: of one array to one array; its batch is free.
        image: height, width and channels.
        stride: height and width are free too, if given, as multiples of this.

    Returns:
        An `onnx.ModelProto`, with the weights inside.

    Raises:
        InputError: an operation that ONNX, or this translator, can't hold: which, and where.
    """
    onnx = library()
    height, width, channels = image
    shape = [FREE[0] if stride else FREE_ALONE[0], height, width, channels]
    if stride:
        shape[1:3] = [stride * FREE[1], stride * FREE[2]]
    try:
        program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, np.float32))
    except InputError:
        raise
    except Exception as error:  # Flax's and JAX's own, of layers made for one size
        if not stride:
            raise
        raise InputError(
            f"this network takes images of one size ({reason(error)}): leave out --any-size, and"
            " give no --size-px but that of the run."
        ) from error
    graph = _Graph(onnx, stride)
    images = _Value(INPUT, (0, 1, 2, 3), tuple(shape))
    (result,) = graph.run(program.jaxpr, program.consts, [images], "")
    named = graph.plain(graph.whole(result, program.out_avals[0].shape))
    graph.node("Identity", [named], name="output", output=OUTPUT)

    def described(name, sizes):
        known = [graph.in_words(size) or size for size in sizes]
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, known)

    made = onnx.helper.make_graph(
        graph.nodes,
        "network",
        [described(INPUT, shape)],
        [described(OUTPUT, program.out_avals[0].shape)],
        graph.initializers,
    )
    model = onnx.helper.make_model(
        made, producer_name="cnn_jax", opset_imports=[onnx.helper.make_opsetid("", OPSET)]
    )
    model.ir_version = 8  # of that opset; the newest isn't read by older runtimes
    return model


@dataclass(frozen=True)
class _Value:
    """A tensor of the graph, or a constant.

    Attributes:
        held: the tensor's name, or the array, whose axes are those of the program.
        axes: which axis of the program each axis of the tensor is. Convolutions leave their maps as
            [batch, channels, height, width], and what follows takes them so.
        shape: of the program's axes; 1 where the program has repeated values (a broadcast).
    """

    held: Any
    axes: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def constant(self) -> bool:
        return not isinstance(self.held, str)


def _constant(array: Any) -> _Value:
    array = np.asarray(array)
    return _Value(array, tuple(range(array.ndim)), array.shape)


class _Graph:
    """Nodes and initializers, as the operations of a program come."""

    def __init__(self, onnx: ModuleType, stride: int | None) -> None:
        self.onnx, self.stride = onnx, stride or 1
        self.free = FREE if stride else FREE_ALONE
        self.largest = LARGEST if stride else LARGEST_ALONE
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._names: set[str] = {INPUT, OUTPUT}
        self._kept: dict[Any, Any] = {}
        self._sizes: set[int] = set()
        self._sums: dict[str, tuple[_Value, tuple[int, ...], Callable]] = {}
        self.where = ""

    # ---- nodes

    def unique(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name

    def node(self, kind: str, inputs: Sequence[str], name: str = "", output: str = "", **options):
        """Adds a node; returns the name of its result, which is also the node's: where in the
        network it is, then its kind."""
        label = name or self.unique("/".join(filter(None, [self.where, kind])))
        output = output or label
        self.nodes.append(
            self.onnx.helper.make_node(kind, list(inputs), [output], name=label, **options)
        )
        return output

    def initializer(self, array: np.ndarray, stem: str = "constant") -> str:
        array = np.ascontiguousarray(array)
        key = array.dtype.str, array.shape, array.tobytes() if array.size < 4096 else id(array)
        if key not in self._kept:
            name = self.unique("/".join(filter(None, [self.where, stem])))
            self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
            self._kept[key] = name, array  # which keeps the id taken
        return self._kept[key][0]

    # ---- sizes

    def factors(self, size: int) -> tuple[int, tuple[int, ...]] | None:
        """(whole number, the free sizes of which it is a multiple, as traced); None of a size that
        isn't free.

        Raises:
            InputError: a size that follows the free ones in another way.
        """
        rest, free = size, []
        for prime in self.free:
            while size and rest % prime == 0:
                rest //= prime
                free.append(prime)
        if self.largest < rest < np.iinfo(np.int64).max and rest not in self._sizes:
            self.refuse("a size that doesn't divide as the image's does", "for a fixed size")
        return (rest, tuple(free)) if free else None

    def in_words(self, size: int) -> str:
        """A free size of input or output as the model names it; "" of another."""
        found = self.factors(size)
        return "*".join(NAMES[self.free.index(prime)] for prime in found[1]) if found else ""

    def size(self, size: int) -> str:
        """A tensor int64 [1]: the size, worked out from the input's shape where it is free."""
        found = self.factors(size)
        if found is None:
            return self.initializer(np.array([size], np.int64), "size")
        if ("size", size) not in self._kept:
            where, self.where = self.where, "sizes"
            if "shape" not in self._kept:
                self._kept["shape"] = self.node("Shape", [INPUT])
            rest, free = found
            value = ""
            for prime in free:
                axis = self.free.index(prime)
                place = self.initializer(np.array([axis], np.int64), "axis")
                part = self.node("Gather", [self._kept["shape"], place], axis=0)
                if axis and self.stride > 1:
                    step = self.initializer(np.array([self.stride], np.int64), "stride")
                    part = self.node("Div", [part, step])
                value = self.node("Mul", [value, part]) if value else part
            if rest != 1:
                value = self.node(
                    "Mul", [value, self.initializer(np.array([rest], np.int64), "size")]
                )
            self._kept["size", size] = value
            self.where = where
        return self._kept["size", size]

    def sizes(self, shape: Sequence[int], infer: bool = False) -> str:
        """A tensor int64 `[len(shape)]`; `infer`: one free size may be given as -1."""
        free = [index for index, size in enumerate(shape) if self.factors(size)]
        if not free or (infer and len(free) == 1):
            known = [-1 if index in free else size for index, size in enumerate(shape)]
            return self.initializer(np.array(known, np.int64), "shape")
        parts = [self.size(size) for size in shape]
        where, self.where = self.where, "sizes"
        made = self.node("Concat", parts, axis=0)
        self.where = where
        return made

    # ---- values

    def laid(self, value: _Value, axes: Sequence[int]) -> str:
        """The name of a tensor whose axes are these of the program."""
        axes = tuple(axes)
        if value.constant:
            array = value.held.transpose(axes) if len(axes) > 1 else value.held
            if array.dtype == np.float64:
                array = array.astype(np.float32)
            key = "laid", id(value.held), axes
            if key not in self._kept:
                self._kept[key] = self.initializer(array), value.held
            return self._kept[key][0]
        if value.axes == axes:
            return value.held
        order = [value.axes.index(axis) for axis in axes]
        key = "laid", value.held, axes
        if key not in self._kept:
            self._kept[key] = self.node("Transpose", [value.held], perm=order)
        return self._kept[key]

    def whole(self, value: _Value, shape: Sequence[int]) -> _Value:
        """With values that the program repeats (1 in `value.shape`) repeated."""
        if value.shape == tuple(shape):
            return value
        if value.constant and not any(self.factors(size) for size in shape):
            return _constant(np.broadcast_to(value.held, shape))
        laid = self.laid(value, value.axes)
        target = self.sizes([shape[axis] for axis in value.axes])
        return _Value(self.node("Expand", [laid, target]), value.axes, tuple(shape))

    def plain(self, value: _Value) -> str:
        """The name of a tensor with the program's own order of axes."""
        return self.laid(value, range(len(value.shape)))

    # ---- the program

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[_Value], scope: str):
        """Translates a program; returns its results."""
        known: dict[Any, _Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        for variable, array in zip(jaxpr.constvars, consts, strict=True):
            self._sizes |= {*np.shape(array), np.size(array)}
            known[variable] = array if isinstance(array, _Value) else _constant(array)

        def read(variable: Any) -> _Value:
            if isinstance(variable, core.Literal):
                aval: Any = variable.aval
                return _constant(np.asarray(variable.val, aval.dtype))
            return known[variable]

        for equation in jaxpr.eqns:
            values = [read(variable) for variable in equation.invars]
            stack = str(equation.source_info.name_stack)
            inner = "/".join(filter(None, [scope, *stack.split("/")[0 if scope else 1 :]]))
            self.where = inner
            results = self.operation(equation, values, inner)
            known |= dict(zip(equation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def operation(self, equation: Any, values: list[_Value], scope: str) -> Sequence[_Value]:
        """Translates one operation; returns its results."""
        name, params = equation.primitive.name, equation.params
        shapes = [tuple(variable.aval.shape) for variable in equation.outvars]
        ins = [tuple(variable.aval.shape) for variable in equation.invars]
        free = any(self.factors(size) for shape in [*shapes, *ins] for size in shape)
        if name in CALLS:
            bilinear = params.get("name") == "bilinear_resize" and not values[0].constant
            if bilinear and all(new >= old for new, old in zip(shapes[0], ins[0], strict=True)):
                return [self.enlarged(values[0], ins[0], shapes[0])]
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            closed = hasattr(inner, "consts")
            program, consts = (inner.jaxpr, inner.consts) if closed else (inner, ())
            return self.run(program, consts, values, scope)
        if name in IDENTITIES:
            return values
        if all(value.constant for value in values) and not free:
            arrays = [
                np.broadcast_to(value.held, shape) for value, shape in zip(values, ins, strict=True)
            ]
            found = equation.primitive.bind(*arrays, **params)
            found = found if equation.primitive.multiple_results else [found]
            return [_constant(array) for array in found]
        if all(0 in shape for shape in shapes):  # a pad of no width; joining leaves it out
            return [_constant(np.zeros([0 if size == 0 else 1 for size in s])) for s in shapes]
        translate = getattr(self, f"_{name}", None)
        if name in BINARY:
            return [self.binary(name, values, shapes[0])]
        if name in UNARY:
            value = values[0]
            made = self.node(UNARY[name], [self.laid(value, value.axes)])
            return [_Value(made, value.axes, value.shape)]
        if name in REDUCTIONS:
            return [self.reduced(name, self.whole(values[0], ins[0]), params["axes"])]
        if translate is None:
            self.refuse(f"the operation {name}", "in another format")
        if name not in ("broadcast_in_dim", "convert_element_type", "transpose", "select_n"):
            values = [
                value if 0 in shape else self.whole(value, shape)
                for value, shape in zip(values, ins, strict=True)
            ]
        found = translate(equation, values, shapes[0])
        return found if isinstance(found, list) else [found]

    def refuse(self, what: str, mend: str) -> NoReturn:
        """Raises InputError: what can't be translated, and where it is."""
        where = f" at {self.where}" if self.where else ""
        raise InputError(f"ONNX can't hold {what}{where}: export the run {mend}.")

    # ---- operations

    def elementwise(self, kind: str, values: Sequence[_Value], **options) -> _Value:
        """Of values of equal rank, or scalars, in the order of axes that the largest has."""
        lead = max(values, key=lambda value: (not value.constant, math.prod(value.shape)))
        laid = [self.laid(value, lead.axes if value.shape else ()) for value in values]
        sizes = (value.shape for value in values if value.shape)
        shape = tuple(max(column) for column in zip(*sizes, strict=True))
        return _Value(self.node(kind, laid, **options), lead.axes, shape)

    def binary(self, name: str, values: list[_Value], shape: tuple[int, ...]) -> _Value:
        first, second = values
        if name == "div" and second.constant and not first.constant and first.held in self._sums:
            summed, axes, after = self._sums[first.held]  # a mean: how many they are may be free
            count = math.prod(summed.shape[axis] for axis in axes)
            if np.all(np.abs(second.held / count - 1) < 1e-6):
                return after(self.reduced("mean", summed, axes))
        if name == "sub" and second.constant:  # as sums, runtimes join them with convolutions
            return self.elementwise("Add", [first, _constant(-second.held)])
        if name == "max":
            for value, other in (values, values[::-1]):
                if other.constant and not np.any(other.held) and not value.constant:
                    made = self.node("Relu", [self.laid(value, value.axes)])
                    return _Value(made, value.axes, value.shape)
        for value in values:
            if value.constant and value.held.dtype.kind == "f" and self.follows(value.held):
                self.refuse(f"a number that follows the image's size in {name}", "for a fixed size")
        return self.elementwise(BINARY[name], values)

    def follows(self, array: np.ndarray) -> bool:
        """Whether a constant scalar is made of free sizes; float32 has rounded it."""
        if array.size != 1:
            return False
        value = abs(float(array.reshape(())))
        for one in (value, 1 / value if value else 0.0):
            for primes in itertools.product(*((1, prime) for prime in self.free)):
                ratio = one / math.prod(primes)
                near = 1 <= ratio <= LARGEST and abs(ratio - round(ratio)) <= 2e-7 * ratio
                if math.prod(primes) > 1 and near:
                    return True
        return False

    def reduced(self, name: str, value: _Value, axes: Sequence[int]) -> _Value:
        kind = "ReduceMean" if name == "mean" else REDUCTIONS[name]
        places = [value.axes.index(axis) for axis in axes]
        laid = self.laid(value, value.axes)
        if kind == "ReduceSum":  # the one whose axes are an input in this opset
            inputs = [laid, self.initializer(np.array(places, np.int64), "axes")]
            made = self.node(kind, inputs, keepdims=0)
            self._sums[made] = value, tuple(axes), lambda mean: mean
        else:
            made = self.node(kind, [laid], axes=places, keepdims=0)
        left = [axis for axis in range(len(value.shape)) if axis not in axes]
        order = tuple(left.index(axis) for axis in value.axes if axis in left)
        return _Value(made, order, tuple(value.shape[axis] for axis in left))

    def enlarged(self, value: _Value, before: Sequence[int], shape: tuple[int, ...]) -> _Value:
        """Bilinear interpolation to a larger size, places being the middles of their areas."""
        axes = (0, 3, 1, 2)
        laid = self.laid(self.whole(value, before), axes)
        target = self.sizes([shape[axis] for axis in axes])
        made = self.node(
            "Resize",
            [laid, "", "", target],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        return _Value(made, axes, shape)

    def _square(self, equation, values, shape):
        return self.elementwise("Mul", [values[0], values[0]])

    def _integer_pow(self, equation, values, shape):
        power = np.float32(equation.params["y"])
        return self.elementwise("Pow", [values[0], _constant(power)])

    def _expm1(self, equation, values, shape):
        value = values[0]
        power = self.node("Exp", [self.laid(value, value.axes)])
        return self.elementwise(
            "Add", [_Value(power, value.axes, value.shape), _constant(np.float32(-1))]
        )

    def _erfc(self, equation, values, shape):
        value = values[0]
        erf = self.node("Erf", [self.laid(value, value.axes)])
        less = self.elementwise(
            "Mul", [_Value(erf, value.axes, value.shape), _constant(np.float32(-1))]
        )
        return self.elementwise("Add", [less, _constant(np.float32(1))])

    def _rsqrt(self, equation, values, shape):
        value = values[0]
        root = self.node("Sqrt", [self.laid(value, value.axes)])
        return _Value(self.node("Reciprocal", [root]), value.axes, value.shape)

    def _select_n(self, equation, values, shape):
        which, no, yes = values
        return self.elementwise("Where", [which, yes, no])

    def _convert_element_type(self, equation, values, shape):
        value, kind = values[0], np.dtype(equation.params["new_dtype"])
        if value.constant:
            return _Value(np.asarray(value.held).astype(kind), value.axes, value.shape)
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(kind)
        made = self.node("Cast", [self.laid(value, value.axes)], to=kind)
        return _Value(made, value.axes, value.shape)

    def _transpose(self, equation, values, shape):
        value, order = values[0], tuple(equation.params["permutation"])
        if value.constant:
            return _constant(value.held.transpose(order))
        axes = tuple(order.index(axis) for axis in value.axes)
        return _Value(value.held, axes, tuple(value.shape[axis] for axis in order))

    def _broadcast_in_dim(self, equation, values, shape):
        value, places = values[0], equation.params["broadcast_dimensions"]
        sizes = [1] * len(shape)
        for axis, place in enumerate(places):
            sizes[place] = value.shape[axis]
        if value.constant:
            return _constant(value.held.reshape(sizes))
        if len(places) == len(shape):
            return value  # only repeated, which `whole` does where it matters
        added = [axis for axis in range(len(shape)) if axis not in places]
        axes = self.initializer(np.array(added, np.int64), "axes")
        made = self.node("Unsqueeze", [self.plain(value), axes])
        if value.held in self._sums:
            summed, places, after = self._sums[value.held]
            self._sums[made] = (
                summed,
                places,
                lambda mean: self._broadcast_in_dim(equation, [after(mean)], shape),
            )
        return _Value(made, tuple(range(len(shape))), tuple(sizes))

    def _reshape(self, equation, values, shape):
        value = values[0]
        if shape == value.shape:
            return value
        made = self.node("Reshape", [self.plain(value), self.sizes(shape, infer=True)])
        return _Value(made, tuple(range(len(shape))), shape)

    def _squeeze(self, equation, values, shape):
        return self._reshape(equation, values, shape)

    def _concatenate(self, equation, values, shape):
        along = equation.params["dimension"]
        values = [value for value in values if value.shape[along]]
        axes = values[0].axes
        laid = [self.laid(value, axes) for value in values]
        return _Value(self.node("Concat", laid, axis=axes.index(along)), axes, shape)

    def _slice(self, equation, values, shape):
        value, params = values[0], equation.params
        steps = params["strides"] or (1,) * len(shape)
        cut = [
            axis
            for axis, (start, limit, step) in enumerate(
                zip(params["start_indices"], params["limit_indices"], steps, strict=True)
            )
            if start or step != 1 or limit != value.shape[axis]
        ]
        # Counted from the end where that is nearer, so that no free size need be worked out.
        starts, limits = [], []
        for axis in cut:
            start, limit = params["start_indices"][axis], params["limit_indices"][axis]
            size = value.shape[axis]
            starts.append(start - size if start > size - start else start)
            beyond = limit - size if limit > size - limit else limit
            limits.append(np.iinfo(np.int64).max if limit == size else beyond)
        lists = (
            self.sizes(starts),
            self.sizes(limits),
            self.initializer(np.array([value.axes.index(axis) for axis in cut], np.int64), "axes"),
            self.initializer(np.array([steps[axis] for axis in cut], np.int64), "steps"),
        )
        made = self.node("Slice", [self.laid(value, value.axes), *lists])
        return _Value(made, value.axes, shape)

    def _pad(self, equation, values, shape):
        value, padding = values
        config = equation.params["padding_config"]
        if any(low < 0 or high < 0 or between for low, high, between in config):
            self.refuse("a pad that cuts or spreads", "in another format")
        pads = [config[axis][side] for side in (0, 1) for axis in value.axes]
        self.fixed(pads)
        inputs = [
            self.laid(value, value.axes),
            self.initializer(np.array(pads, np.int64), "pads"),
            self.plain(padding),
        ]
        return _Value(self.node("Pad", inputs), value.axes, shape)

    def fixed(self, numbers: Sequence[int]) -> None:
        """Refuses numbers that follow the free sizes where ONNX takes none that do."""
        for number in numbers:
            if number > self.largest or self.factors(number):
                self.refuse("padding or dilation that follows the image's size", "for a fixed size")

    def _dot_general(self, equation, values, shape):
        first, second = values
        (ours, theirs), (batch, others) = equation.params["dimension_numbers"]
        last = len(first.shape) - 1
        if (tuple(ours), tuple(theirs)) == ((last,), (0,)) and len(second.shape) == 2 and not batch:
            made = self.node("MatMul", [self.plain(first), self.plain(second)])
            return _Value(made, tuple(range(len(shape))), shape)
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        left = [next(letters) for _ in first.shape]
        right = [next(letters) for _ in second.shape]
        for here, there in [*zip(ours, theirs, strict=True), *zip(batch, others, strict=True)]:
            right[there] = left[here]
        result = [left[axis] for axis in batch]
        result += [left[axis] for axis in range(len(left)) if axis not in (*batch, *ours)]
        result += [right[axis] for axis in range(len(right)) if axis not in (*others, *theirs)]
        rule = f"{''.join(left)},{''.join(right)}->{''.join(result)}"
        made = self.node("Einsum", [self.plain(first), self.plain(second)], equation=rule)
        return _Value(made, tuple(range(len(shape))), shape)

    def _conv_general_dilated(self, equation, values, shape):
        value, kernel = values
        params = equation.params
        spec, padding = params["dimension_numbers"], params["padding"]
        spread, dilation = params["lhs_dilation"], params["rhs_dilation"]
        groups = params["feature_group_count"]
        self.fixed([*dilation, *(size for pair in padding for size in pair)])
        laid = self.laid(value, spec.lhs_spec)
        extent = [kernel.shape[axis] for axis in spec.rhs_spec[2:]]
        if params["batch_group_count"] != 1 or not kernel.constant:
            self.refuse("a convolution with a kernel that the image decides", "in another format")
        array = kernel.held.transpose(spec.rhs_spec)
        if any(step != 1 for step in spread):
            # Spread out, then convolved with stride 1: ONNX's ConvTranspose, whose kernel is turned
            # and whose padding counts from the other end.
            if groups != 1 or {*params["window_strides"], *dilation} != {1}:
                self.refuse("a transposed convolution in groups, or dilated", "in another format")
            pads = [size - 1 - low for size, (low, _) in zip(extent, padding, strict=True)]
            pads += [size - 1 - high for size, (_, high) in zip(extent, padding, strict=True)]
            if min(pads) < 0:
                self.refuse("a transposed convolution padded beyond its kernel", "otherwise")
            turned = array[:, :, ::-1, ::-1].swapaxes(0, 1)
            inputs = [laid, self.initializer(turned, "kernel")]
            made = self.node("ConvTranspose", inputs, strides=list(spread), pads=pads)
        else:
            made = self.node(
                "Conv",
                [laid, self.initializer(array, "kernel")],
                kernel_shape=extent,
                strides=list(params["window_strides"]),
                dilations=list(dilation),
                pads=[pair[side] for side in (0, 1) for pair in padding],
                group=groups,
            )
        return _Value(made, tuple(spec.out_spec), shape)

    def windows(self, kind, equation, value, **options):
        """A pooling of `[batch, height, width, channels]`; returns its name, laid out as
        convolutions take it."""
        params = equation.params
        around = [params["window_dimensions"], params["window_strides"], params["padding"]]
        around += [params["base_dilation"], params["window_dilation"]]
        plain = [(1, 1, (0, 0), 1, 1)] * 2
        if [tuple(column[axis] for column in around) for axis in (0, 3)] != plain or {
            *params["base_dilation"],
            *params["window_dilation"],
        } != {1}:
            self.refuse("windows over batch or channels, or dilated ones", "in another format")
        pads = [params["padding"][axis][side] for side in (0, 1) for axis in (1, 2)]
        self.fixed(pads)
        return self.node(
            kind,
            [self.laid(value, (0, 3, 1, 2))],
            kernel_shape=list(params["window_dimensions"][1:3]),
            strides=list(params["window_strides"][1:3]),
            pads=pads,
            **options,
        )

    def _reduce_window_max(self, equation, values, shape):
        return _Value(self.windows("MaxPool", equation, values[0]), (0, 3, 1, 2), shape)

    def _reduce_window_sum(self, equation, values, shape):
        mean = self.windows("AveragePool", equation, values[0], count_include_pad=1)
        count = np.float32(math.prod(equation.params["window_dimensions"]))
        mean = _Value(mean, (0, 3, 1, 2), shape)
        return self.elementwise("Mul", [mean, _constant(count)])
