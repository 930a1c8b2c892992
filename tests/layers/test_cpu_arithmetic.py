"""A CPU's arithmetic is in force inside its context alone, and computes what Flax and XLA do."""

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.layers import operations
from cnn_jax.layers.cpu_arithmetic import fast_on_cpu
from cnn_jax.layers.pooling import average_pool, global_average_pool, max_pool
from cnn_jax.layers.separable_convolution import SeparableConvolution
from cnn_jax.layers.upsampling import BilinearUpsampling, TransposedUpsampling
from cnn_jax.models.resnet import ResNet
from cnn_jax.models.unet import UNet
from tests.models.shapes import shallow
from tests.models.test_all import filled

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Model(nn.Module):
    """A function of `(x, train)` as a module."""

    function: Callable

    @nn.compact
    def __call__(self, x, *, train: bool):
        return self.function(x, train)


LAYERS = {
    "conv 1x1": lambda x, train: nn.Conv(7, (1, 1))(x),
    "conv 1x1 strided": lambda x, train: nn.Conv(7, (1, 1), strides=2, use_bias=False)(x),
    "conv 3x3": lambda x, train: nn.Conv(9, (3, 3))(x),
    "conv 3x3 padded by number": lambda x, train: nn.Conv(9, (3, 3), padding=1)(x),
    "conv 3x3 of few places": lambda x, train: nn.Conv(90, (3, 3))(x[:, :4, :5]),
    "conv 3x3 strided": lambda x, train: nn.Conv(4, (3, 3), strides=2)(x),
    "conv 3x3 dilated": lambda x, train: nn.Conv(4, (3, 3), kernel_dilation=2)(x),
    "conv 3x3 grouped": lambda x, train: nn.Conv(8, (3, 3), feature_group_count=2)(x),
    "conv 3x3 depthwise": lambda x, train: nn.Conv(4, (3, 3), padding=1, feature_group_count=4)(x),
    "conv of each channel twice": lambda x, train: nn.Conv(8, (3, 3), feature_group_count=4)(x),
    "conv 5x2 unpadded": lambda x, train: nn.Conv(4, (5, 2), padding="VALID")(x),
    "conv 1d": lambda x, train: nn.Conv(4, (1,))(x[:, 0]),
    "transposed": lambda x, train: TransposedUpsampling(6)(x),
    "bilinear": lambda x, train: BilinearUpsampling(6)(x),
    "separable": lambda x, train: SeparableConvolution(6, stride=2)(x, train=train),
    "batch norm": lambda x, train: nn.BatchNorm(use_running_average=not train)(x),
    "batch norm, told at its call": lambda x, train: nn.BatchNorm()(x, not train),
    "batch norm without scale": lambda x, train: nn.BatchNorm(not train, use_scale=False)(x),
    "batch norm without bias": lambda x, train: nn.BatchNorm(not train, use_bias=False)(x),
    "batch norm along rows": lambda x, train: nn.BatchNorm(not train, axis=1)(x),
    "joined": lambda x, train: operations.joined(x[..., :1], nn.Conv(9, (1, 1))(x)),
    "max pool": lambda x, train: max_pool(x),
    "max pool, whole windows": lambda x, train: max_pool(x, 2, padding="VALID"),
    "max pool 3x3 stride 2": lambda x, train: max_pool(x, 3, 2, padding=1),
    "max pool 6x6 stride 2": lambda x, train: max_pool(x, 6, 2),
    "average pool": lambda x, train: average_pool(x, 3, 2),
    "global average pool": lambda x, train: global_average_pool(x),
}
UNTOUCHED = {
    "conv 3x3 strided",
    "conv 3x3 dilated",
    "conv 3x3 grouped",
    "conv of each channel twice",
    "conv 5x2 unpadded",
    "conv 1d",
    "batch norm without bias",
    "batch norm along rows",
    "max pool 6x6 stride 2",
    "average pool",
    "global average pool",
}
"""What a CPU computes as every device does."""

MAPS = np.random.default_rng(0).normal(0.5, 2, (3, 7, 9, 4)).astype(np.float32)


def step(model, variables, x):
    """`(variables, x) -> (result, statistics, gradient by both)` of a loss in which all values
    weigh differently."""

    def loss(params, x):
        rest = {key: value for key, value in variables.items() if key != "params"}
        y, moved = model.apply({"params": params, **rest}, x, train=True, mutable=[*rest])
        weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.mean(weights * jnp.tanh(y)), (y, moved)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True)).trace(
        variables.get("params", {}), x
    )


def computed(traced, variables, x):
    return jax.device_get(traced.lower().compile()(variables.get("params", {}), x))


def primitives(jaxpr):
    """The names of all operations of a program and of those within."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves([*equation.params.values()], is_leaf=is_program):
            if is_program(inner):
                yield from primitives(getattr(inner, "jaxpr", inner))


def is_program(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def agree(one, other, rounding=1e-4):
    for (path, mine), its in zip(
        jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        assert mine.dtype == its.dtype
        np.testing.assert_allclose(
            mine, its, rtol=rounding, atol=rounding * np.abs(its).max(), err_msg=str(path)
        )


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_computes_the_same_inside_and_differently_there_alone(name):
    model = Model(LAYERS[name])
    with fast_on_cpu():
        variables = filled(model, MAPS)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, filled(model, MAPS))
    before = step(model, variables, MAPS)
    with fast_on_cpu():
        inside = step(model, variables, MAPS)
        with fast_on_cpu():
            twice = step(model, variables, MAPS)
        again = step(model, variables, MAPS)
    after = step(model, variables, MAPS)
    assert str(before.jaxpr) == str(after.jaxpr)
    programs = [list(primitives(one.jaxpr)) for one in (before, inside, twice, again)]
    assert programs[1] == programs[2] == programs[3]
    assert (programs[0] == programs[1]) == (name in UNTOUCHED)
    agree(computed(inside, variables, MAPS), computed(before, variables, MAPS))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_joined_maps_keep_every_value(dtype):
    one = (
        jnp.asarray(MAPS, dtype)
        .at[0, 0, 0]
        .set(jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 0], dtype))
    )
    other = jnp.asarray(MAPS[..., :3], dtype).at[1, 2, 3, 0].set(-jnp.inf)
    with fast_on_cpu():
        found = jax.jit(operations.joined)(one, other)
    assert found.dtype == dtype
    np.testing.assert_array_equal(
        np.asarray(found, np.float32),
        np.concatenate([np.asarray(one, np.float32), np.asarray(other, np.float32)], -1),
    )


def test_an_error_inside_leaves_it():
    def program():
        return str(jax.make_jaxpr(lambda x: max_pool(x, 3, 2))(MAPS))

    before = program()
    with contextlib.suppress(ZeroDivisionError), fast_on_cpu():
        assert program() != before
        raise ZeroDivisionError
    assert program() == before


def test_a_module_of_its_own_arithmetic_keeps_it_and_a_bound_one_is_itself_again():
    called = []

    def its_own(*args, **options):
        called.append(args)
        return jax.lax.conv_general_dilated(*args, **options)

    layer = nn.Conv(2, (1, 1), conv_general_dilated=its_own)
    variables = layer.init(jax.random.key(0), MAPS)
    bound = nn.Conv(2, (1, 1)).bind(variables)
    with fast_on_cpu():
        layer.apply(variables, MAPS)
        inside = jax.make_jaxpr(bound)(MAPS)
    assert len(called) == 2
    assert "custom_vjp_call" in set(primitives(inside.jaxpr))
    assert "custom_vjp_call" not in set(primitives(jax.make_jaxpr(bound)(MAPS).jaxpr))


@pytest.mark.parametrize("network", ["unet", "resnet"])
def test_a_network_trains_alike_and_outside_has_xlas_derivatives(network):
    x = np.random.default_rng(1).normal(size=(4, 33, 20, 3)).astype(np.float32)
    with shallow():
        model = {
            "unet": UNet(3, base_width=8, depth=2),
            "resnet": ResNet(5, depth=50, width=0.125),
        }[network]
        variables = filled(model, x)
        outside = step(model, variables, x)
        with fast_on_cpu():
            inside = step(model, variables, x)
            traced = jax.make_jaxpr(lambda x: model.apply(variables, x, train=False))(x)
        evaluated = jax.make_jaxpr(lambda x: model.apply(variables, x, train=False))(x)
    assert "custom_vjp_call" in set(primitives(traced.jaxpr))
    assert not {"custom_vjp_call", "platform_index"} & set(primitives(evaluated.jaxpr))
    assert "optimization_barrier" in set(primitives(inside.jaxpr))
    assert "optimization_barrier" not in set(primitives(outside.jaxpr))
    (value, (y, moved)), gradients = computed(inside, variables, x)
    (its_value, (its_y, its_moved)), its_gradients = computed(outside, variables, x)
    agree((value, y, moved), (its_value, its_y, its_moved), 1e-3)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(its_gradients)))
    away = jax.tree.map(lambda one, other: np.square(one - other).sum(), gradients, its_gradients)
    assert np.sqrt(sum(jax.tree.leaves(away))) < 1e-3 * norm
