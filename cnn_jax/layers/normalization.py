"""Normalisation of feature maps, chosen by name and bound once for a whole model."""

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any

from flax import linen as nn

from cnn_jax.errors import InputError

NORMS = ("batch", "group", "none")


def normalization(
    norm: str, *, train: bool, dtype: Any, axis_name: str | None = None, epsilon: float = 1e-5
) -> Callable[..., Any]:
    """A constructor of normalisation layers for maps `[batch, height, width, channels]`.

    `batch` is BatchNorm (Ioffe and Szegedy, 2015), its running averages with momentum 0.9 so that
    runs of a thousand steps settle; statistics are those of the whole batch, over all devices
    (under `pmap`, name the axis). `group` is GroupNorm (Wu and He, 2018) with 16 channels a group
    where they divide. Statistics are computed in float32 whatever the dtype. `none` is the
    identity.

    Args:
        norm: "batch", "group" or "none".
        train: whether BatchNorm uses the batch's own statistics.
        dtype: of the result.
        axis_name: the `pmap` axis over which BatchNorm averages; None outside `pmap`.
        epsilon: added to the variance.

    Raises:
        InputError: an unknown name.
    """
    if norm == "batch":
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=epsilon,
            dtype=dtype,
            axis_name=axis_name,
        )
    if norm == "group":
        return functools.partial(_GroupNorm, epsilon=epsilon, dtype=dtype)
    if norm == "none":
        return lambda **_: lambda x: x
    raise InputError(f"norm is {norm!r}; it must be one of {', '.join(NORMS)}.")


_KEPT: ContextVar[Collection[tuple[str, ...]]] = ContextVar("norms in inference", default=())


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a BatchNorm, by its path, is to be traced as in inference."""
    return module.path in _KEPT.get()


@contextlib.contextmanager
def keeping_statistics(paths: Collection[tuple[str, ...]]) -> Iterator[None]:
    """While this is entered, BatchNorms with these paths normalise by their running averages and
    leave them as they are, whatever `train` says."""

    def intercept(call, args, kwargs, context):
        module = context.module
        kept = isinstance(module, nn.BatchNorm) and keeps_statistics(module)
        if context.method_name != "__call__" or not kept:
            return call(*args, **kwargs)
        before = module.use_running_average
        object.__setattr__(module, "use_running_average", True)  # modules are frozen once made
        try:
            return call(*args, **kwargs)
        finally:
            object.__setattr__(module, "use_running_average", before)

    token = _KEPT.set(paths)
    try:
        with nn.intercept_methods(intercept):
            yield
    finally:
        _KEPT.reset(token)


class _GroupNorm(nn.Module):
    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x):
        size = math.gcd(16, x.shape[-1])
        return nn.GroupNorm(
            num_groups=None, group_size=size, epsilon=self.epsilon, dtype=self.dtype, name="norm"
        )(x)
