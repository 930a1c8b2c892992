"""Pooling against windows taken one by one in NumPy: odd sizes, overlaps, gradients, ties."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.layers.cpu_arithmetic import fast_on_cpu
from cnn_jax.layers.pooling import average_pool, global_average_pool, max_pool

pytestmark = pytest.mark.usefixtures("arithmetic")


@pytest.fixture(params=[pytest.param("XLA's", marks=pytest.mark.long), "a CPU's"])
def arithmetic(request):
    """Every test runs with XLA's own operations, and with those of a CPU's training step."""
    with fast_on_cpu() if request.param == "a CPU's" else contextlib.nullcontext():
        yield request.param


RANDOM = np.random.default_rng(0)
CASES = [
    # height, width, window, stride
    (6, 4, 2, None),
    (5, 7, 2, None),
    (1, 1, 2, None),
    (1, 3, 2, 2),
    (7, 8, 3, None),
    (6, 7, 3, 2),
    (5, 4, 3, 1),
    (5, 6, 2, 3),
]


def windows(height, width, window, stride, centred):
    """For each result (i, j) the slices of the input that its window covers.

    What sticks out lies at the end, or, where `centred`, is split between both ends with the odd
    pixel at the end.
    """
    stride = stride or window
    for i in range(-(-height // stride)):
        for j in range(-(-width // stride)):
            cover = []
            for index, length in ((i, height), (j, width)):
                outside = max((-(-length // stride) - 1) * stride + window - length, 0)
                start = index * stride - (outside // 2 if centred else 0)
                cover.append(slice(max(start, 0), min(start + window, length)))
            yield i, j, tuple(cover)


def negative_images(height, width):
    """All below zero and all different, so that padding with zeros would show, and no two are
    equal."""
    values = -1 - np.random.default_rng(0).permutation(2 * height * width * 3).reshape(
        2, height, width, 3
    )
    return values.astype(np.float32)


def value_and_gradient(function, x):
    """(the value, what each of its numbers weighs in a sum, the sum's gradient), compiled: each
    operation by itself would be compiled, too."""
    shape = jax.eval_shape(function, x).shape
    weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)

    @jax.jit
    def both(x, weights):
        y, pull = jax.vjp(function, x)
        return y, pull(weights)[0]

    y, gradient = both(x, weights)
    return y, weights, gradient


@pytest.mark.parametrize("case", CASES)
def test_max_pool_value_and_gradient(case):
    height, width, window, stride = case
    x = negative_images(height, width)
    y, weights, found = value_and_gradient(lambda x: max_pool(x, window, stride), x)
    step = stride or window
    assert y.shape == (2, -(-height // step), -(-width // step), 3)
    expected, gradient = np.full(y.shape, np.nan), np.zeros(x.shape)
    for i, j, cover in windows(*case, centred=step != window):
        for b in range(2):
            for c in range(3):
                part = x[(b, *cover, c)]
                expected[b, i, j, c] = part.max()
                gradient[(b, *cover, c)] += (part == part.max()) * weights[b, i, j, c]
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(found, gradient, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_average_pool_value_and_gradient(case):
    height, width, window, stride = case
    x = negative_images(height, width)
    y, weights, found = value_and_gradient(lambda x: average_pool(x, window, stride), x)
    expected, gradient = np.full(y.shape, np.nan), np.zeros(x.shape)
    for i, j, cover in windows(*case, centred=True):
        part = x[:, cover[0], cover[1]]
        expected[:, i, j] = part.mean((1, 2))
        gradient[:, cover[0], cover[1]] += (weights[:, i, j] / (part.shape[1] * part.shape[2]))[
            :, None, None
        ]
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(found, gradient, atol=1e-6)


def test_first_of_equal_largest_values_takes_the_gradient_of_max_pool():
    gradient = jax.jit(jax.grad(lambda x: max_pool(x).sum()))(jnp.zeros((1, 3, 3, 1)))[0, :, :, 0]
    np.testing.assert_array_equal(gradient, [[1, 0, 1], [0, 0, 0], [1, 0, 1]])


def test_first_of_equal_largest_values_takes_the_gradient_of_overlapping_windows():
    """Windows of 3x3 at every second place: they begin at (0, 0), (0, 2), (2, 0) and (2, 2)."""
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, "VALID").sum()))(
        jnp.zeros((1, 5, 5, 1))
    )[0, :, :, 0]
    np.testing.assert_array_equal(np.argwhere(gradient), [(0, 0), (0, 2), (2, 0), (2, 2)])
    many = jax.jit(jax.grad(lambda x: max_pool(x, 3, 1, "VALID").sum()))(
        jnp.zeros((1, 4, 4, 1)).at[0, 1, 1].set(1)
    )[0, :, :, 0]
    assert many[1, 1] == 4  # it stands in all four windows


def test_max_pool_keeps_nan():
    for position in range(4):
        x = jnp.zeros(4).at[position].set(jnp.nan).reshape(1, 2, 2, 1)
        assert jnp.isnan(max_pool(x)).all()
        assert jnp.isnan(max_pool(x, 2, 1, "VALID")).all()


@pytest.mark.parametrize(
    "kernel",
    [
        (3, 2, 1),
        (3, 2, "SAME"),
        (3, 1, "SAME"),
        (5, 2, 2),
        (2, 1, "VALID"),
        (3, 2, "VALID"),
        (2, 3, 1),
    ],
)
def test_overlapping_windows_are_those_of_flax(kernel):
    """With ties, of which the first takes the gradient, and with rows that no window covers."""
    window, stride, padding = kernel
    sides = padding if isinstance(padding, str) else ((padding, padding), (padding, padding))
    x = np.random.default_rng(0).integers(-3, 4, (2, 12, 10, 3)).astype(np.float32)
    mine, _, gradient = value_and_gradient(lambda x: max_pool(x, window, stride, padding), x)
    its, _, expected = value_and_gradient(
        lambda x: nn.max_pool(x, (window, window), (stride, stride), padding=sides), x
    )
    np.testing.assert_array_equal(mine, its)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_overlapping_windows_keep_bfloat16_and_batches_of_batches():
    x = jnp.asarray(negative_images(7, 6), jnp.bfloat16)
    gradient = jax.grad(lambda x: (max_pool(x, 3, 2).astype(jnp.float32) ** 2).sum())
    assert gradient(x).dtype == jnp.bfloat16
    many = jnp.stack([x, -x])
    np.testing.assert_array_equal(jax.vmap(gradient)(many), jnp.stack([gradient(x), gradient(-x)]))


def test_windows_larger_than_the_map_leave_nothing():
    assert max_pool(jnp.zeros((1, 4, 2, 1)), 5, 2, "VALID").shape == (1, 0, 0, 1)
    assert jax.grad(lambda x: max_pool(x, 3, 2, "VALID").sum())(jnp.zeros((1, 2, 5, 1))).shape == (
        1,
        2,
        5,
        1,
    )


@pytest.mark.parametrize(("window_px", "stride"), [(6, 4), (3, 2), (2, 2)])
def test_a_cpu_takes_the_operations_of_xla_for_large_windows_alone(arithmetic, window_px, stride):
    program = jax.jit(jax.value_and_grad(lambda x: max_pool(x, window_px, stride).sum()))
    text = program.lower(jnp.zeros((1, 9, 9, 1))).as_text()
    its_own = window_px == 6 or arithmetic == "XLA's"
    assert ("select_and_scatter" in text) == its_own
    assert ("reduce_window" in text) == its_own


def test_pools_keep_bfloat16():
    x = jnp.asarray(negative_images(5, 5), jnp.bfloat16)
    assert max_pool(x).dtype == jnp.bfloat16
    assert average_pool(x).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, 2, "VALID"), (3, 2, "VALID"), (3, 2, 1), (2, 2, 1)]
)
def test_padding_agrees_with_flax(size, window, stride, padding):
    x = jax.random.normal(jax.random.key(2), (2, *size, 3))
    sides = padding if isinstance(padding, str) else ((padding, padding), (padding, padding))
    expected = nn.max_pool(x, (window, window), (stride, stride), padding=sides)
    np.testing.assert_array_equal(max_pool(x, window, stride, padding), expected)
    if padding == "VALID":
        expected = nn.avg_pool(x, (window, window), (stride, stride), padding=sides)
        np.testing.assert_allclose(average_pool(x, window, stride, padding), expected, rtol=1e-6)


@pytest.mark.parametrize("padding", ["SAME", "VALID", 0])
@pytest.mark.parametrize("window", [2, 3])
def test_padding_of_windows_side_by_side(window, padding):
    x = jnp.asarray(negative_images(7, 8))
    whole = padding != "SAME"
    rows, columns = (size // window if whole else -(-size // window) for size in (7, 8))
    y = max_pool(x, window, padding=padding)
    assert y.shape == (2, rows, columns, 3)
    for i in range(rows):
        for j in range(columns):
            part = x[:, i * window : (i + 1) * window, j * window : (j + 1) * window]
            np.testing.assert_array_equal(y[:, i, j], part.max((1, 2)))


@pytest.mark.parametrize("keepdims", [False, True])
def test_global_average(keepdims):
    x = RANDOM.normal(1, 2, (2, 5, 4, 3))
    mean = global_average_pool(jnp.asarray(x, jnp.float32), keepdims=keepdims)
    np.testing.assert_allclose(mean, x.mean((1, 2), keepdims=keepdims), rtol=1e-5, atol=1e-6)
    half = jnp.asarray(x, jnp.bfloat16)
    rough = jax.jit(lambda x: global_average_pool(x, keepdims=keepdims))(half)
    assert rough.dtype == jnp.float32  # of the rounded values, but not rounded itself
    exact = np.asarray(half, np.float64).mean((1, 2), keepdims=keepdims)
    np.testing.assert_allclose(rough, exact, rtol=1e-5, atol=1e-6)
    _, change = jax.jvp(global_average_pool, (half,), (jnp.ones_like(half),))
    np.testing.assert_allclose(change, np.ones((2, 3)), rtol=1e-6)
