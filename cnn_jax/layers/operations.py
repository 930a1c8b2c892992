"""Operations that layers call by hand: XLA's own, unless a context puts others in their place."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jax
from flax import linen as nn
from jax import lax

_IN_FORCE: ContextVar[Mapping[str, Callable]] = ContextVar("operations in force")


@contextlib.contextmanager
def replaced(**operations: Callable) -> Iterator[None]:
    """While this is entered, `operations` are traced in place of those of the same name here."""
    token = _IN_FORCE.set({**_IN_FORCE.get({}), **operations})
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def _replaceable(operation):
    # Never inside `jax.jit`, which remembers what it traced, whatever was in force.
    @functools.wraps(operation)
    def in_force(*args, **kwargs):
        return _IN_FORCE.get({}).get(operation.__name__, operation)(*args, **kwargs)

    return in_force


@_replaceable
def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    *,
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
) -> jax.Array:
    """The convolution of maps `[batch, height, width, channels]` with a kernel `[height, width,
    channels / groups, features]`; the rest is as `lax.conv_general_dilated` takes it."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=rhs_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=feature_group_count,
    )


@_replaceable
def joined(one: jax.Array, other: jax.Array) -> jax.Array:
    """`[..., channels of one + channels of other]`: two maps of one size and type, side by side."""
    return lax.concatenate([one, other], one.ndim - 1)


@_replaceable
def max_of_windows(x: jax.Array, window_px: int, stride: int, padding: Any) -> jax.Array:
    """The largest value of each square window of `[batch, height, width, channels]`; outside lies
    minus infinity: `padding` is "VALID", "SAME", or zeros before and after each of both sides."""
    return nn.max_pool(x, (window_px, window_px), (stride, stride), padding)
