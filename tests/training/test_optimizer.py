"""Schedules by their formula, and one optimiser step after another against NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.configuration.schema import OptimizerConfig
from cnn_jax.training.optimizer import (
    decayed,
    learning_rate,
    make_optimizer,
    tell_of_late,
    tell_of_warmup,
    warmup_steps,
)

STEPS, WARMUP, PEAK, END = 110, 10, 0.5, 0.02


def rate(schedule, step, **options):
    config = OptimizerConfig(
        schedule=schedule, learning_rate=PEAK, warmup_steps=WARMUP, end_factor=END, **options
    )
    return float(learning_rate(config, STEPS)(step))


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "constant"])
def test_warm_up_is_a_line_from_zero_to_the_peak(schedule):
    assert rate(schedule, 0) == 0
    assert rate(schedule, 4) == pytest.approx(0.4 * PEAK)
    assert rate(schedule, WARMUP) == pytest.approx(PEAK)


def test_schedules_by_their_formulas():
    """The middle lies 50 of 100 steps after the warm-up; the last step taken is the one before
    `steps`."""
    assert rate("cosine", 60) == pytest.approx(PEAK * (END + (1 - END) / 2))
    assert rate("cosine", 109) == pytest.approx(
        PEAK * (END + (1 - END) * (1 + math.cos(math.pi * 0.99)) / 2), rel=1e-4
    )
    assert rate("cosine", STEPS) == pytest.approx(PEAK * END)
    assert rate("polynomial", 60, polynomial_power=2.0) == pytest.approx(
        PEAK * (END + (1 - END) * 0.25)
    )
    assert rate("polynomial", 109, polynomial_power=0.9) == pytest.approx(
        PEAK * (END + (1 - END) * 0.01**0.9), rel=1e-4
    )
    assert rate("polynomial", STEPS) == pytest.approx(PEAK * END)
    assert [rate("constant", step) for step in (60, 109, STEPS, 1000)] == [PEAK] * 4


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_after_the_last_step_the_rate_stays_and_before_it_falls(schedule):
    rates = [rate(schedule, step) for step in range(WARMUP, STEPS + 1, 10)]
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert rate(schedule, 10 * STEPS) == pytest.approx(PEAK * END)


def test_without_warm_up_the_first_step_has_the_peak():
    config = OptimizerConfig(learning_rate=PEAK, warmup_steps=0)
    assert float(learning_rate(config, STEPS)(0)) == pytest.approx(PEAK)


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 9, 10, 50, 500])
@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 50, 51, 500, 501])
def test_every_run_reaches_its_peak(schedule, warmup, steps):
    """A warm-up that a run is long enough for is as asked; of a shorter run it takes a tenth."""
    config = OptimizerConfig(
        schedule=schedule, learning_rate=PEAK, warmup_steps=warmup, end_factor=END
    )
    rates = [float(learning_rate(config, steps)(step)) for step in range(steps)]
    expected = warmup if warmup < steps else steps // 10
    assert warmup_steps(config, steps) == expected < steps
    assert int(np.argmax(rates)) == expected
    assert max(rates) == pytest.approx(PEAK)


def test_a_shorter_warm_up_is_told(capsys):
    tell_of_warmup(OptimizerConfig(warmup_steps=500), 501)
    assert capsys.readouterr().out == ""
    tell_of_warmup(OptimizerConfig(warmup_steps=500), 60)
    assert capsys.readouterr().out == (
        "note: optimizer.warmup_steps=500 is not less than training.steps=60: the learning rate"
        " rises over 6 steps.\n"
    )


def test_what_comes_after_the_last_step_is_told(capsys):
    drops = {"schedule": "drops", "drops": (30, 59), "warmup_steps": 0}
    tell_of_late(OptimizerConfig(**drops), 60)
    assert capsys.readouterr().out == ""
    tell_of_late(OptimizerConfig(**drops), 59)
    assert capsys.readouterr().out == (
        "note: the learning rate doesn't fall at 59, as optimizer.drops says: training.steps=59"
        " ends before.\n"
    )
    # As the schedule has it: the last of 60 steps, number 59, has dropped twice; of 59 none has.
    rates = [float(learning_rate(OptimizerConfig(**drops), 60)(step)) for step in range(60)]
    np.testing.assert_allclose(rates[58] / rates[59], 10, rtol=1e-5)
    thaws = {"frozen": ("stem", "stage_1"), "unfreeze_every_steps": 20}
    tell_of_late(OptimizerConfig(**thaws), 41)
    assert capsys.readouterr().out == ""
    tell_of_late(OptimizerConfig(**thaws), 40)
    assert capsys.readouterr().out == (
        "note: stem of optimizer.frozen never thaws, with optimizer.unfreeze_every_steps=20 and"
        " training.steps=40.\n"
    )
    tell_of_late(OptimizerConfig(frozen=("stem",)), 40)
    assert capsys.readouterr().out == ""


def test_one_step_is_a_schedule_too():
    config = OptimizerConfig(learning_rate=PEAK, warmup_steps=0, end_factor=END)
    assert float(learning_rate(config, 1)(0)) == pytest.approx(PEAK)


def tree(seed=0):
    """A convolution with its norm and bias, and gradients for three steps."""
    rng = np.random.default_rng(seed)
    shapes = {
        "convolution": {"kernel": (3, 3, 2, 4), "bias": (4,)},
        "norm": {"scale": (4,), "bias": (4,)},
    }
    trees = [
        jax.tree.map(
            lambda shape: rng.normal(size=shape), shapes, is_leaf=lambda x: isinstance(x, tuple)
        )
        for _ in range(4)
    ]
    return trees[0], trees[1:]


def run(config, params, gradients):
    """The parameters after each of the given gradients."""
    optimizer = make_optimizer(config, steps=100)
    params, *gradients = (
        jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree) for tree in (params, *gradients)
    )
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    trail = []
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        trail.append(params)
    return trail


def assert_same(trees, expected):
    for got, wanted in zip(trees, expected, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, wanted
        )


def test_weight_decay_acts_on_kernels_alone():
    params, _ = tree()
    assert decayed(params) == {
        "convolution": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
    }


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_zero_gradient_leaves_all_but_the_kernels(name):
    params, _ = tree()
    config = OptimizerConfig(
        name=name, learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.5
    )
    (after,) = run(config, params, [jax.tree.map(np.zeros_like, params)])
    expected = {
        **params,
        "convolution": {**params["convolution"], "kernel": 0.95 * params["convolution"]["kernel"]},
    }
    assert_same([after], [expected])


def clipped(gradient, limit):
    norm = math.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    return jax.tree.map(lambda g: g * min(1, limit / norm), gradient)


@pytest.mark.parametrize("clip_norm", [0.0, 2.0, 1e6])
def test_sgd_is_nesterov_momentum_with_decoupled_decay(clip_norm):
    params, gradients = tree()
    config = OptimizerConfig(
        name="sgd",
        learning_rate=0.1,
        schedule="constant",
        warmup_steps=0,
        momentum=0.8,
        weight_decay=0.01,
        clip_norm=clip_norm,
    )
    expected, velocity, p = [], jax.tree.map(np.zeros_like, params), params
    decay = {"convolution": {"kernel": 0.01, "bias": 0.0}, "norm": {"scale": 0.0, "bias": 0.0}}
    for gradient in gradients:
        g = clipped(gradient, clip_norm) if clip_norm else gradient
        velocity = jax.tree.map(lambda v, g: 0.8 * v + g, velocity, g)
        p = jax.tree.map(lambda p, v, g, d: p - 0.1 * (g + 0.8 * v + d * p), p, velocity, g, decay)
        expected.append(p)
    assert_same(run(config, params, gradients), expected)


def test_momentum_is_that_of_the_residual_networks():
    """As Torch's SGD, which He et al. (2015) trained with: the decay is part of the gradient."""
    params, gradients = tree()
    config = OptimizerConfig(
        name="momentum",
        learning_rate=0.1,
        schedule="drops",
        drops=(1,),
        warmup_steps=0,
        momentum=0.8,
        weight_decay=0.01,
        clip_norm=0.0,
    )
    expected, velocity, p = [], jax.tree.map(np.zeros_like, params), params
    decay = {"convolution": {"kernel": 0.01, "bias": 0.0}, "norm": {"scale": 0.0, "bias": 0.0}}
    for number, gradient in enumerate(gradients):
        rate = 0.1 if number < 1 else 0.01
        velocity = jax.tree.map(
            lambda v, g, d, p: 0.8 * v + g + d * p, velocity, gradient, decay, p
        )
        p = jax.tree.map(lambda p, v, rate=rate: p - rate * v, p, velocity)
        expected.append(p)
    assert_same(run(config, params, gradients), expected)


def test_the_rate_drops_to_a_tenth_where_it_is_told():
    def rates(warmup, *steps):
        config = OptimizerConfig(
            schedule="drops", drops=(32_000, 48_000), learning_rate=0.1, warmup_steps=warmup
        )
        schedule = learning_rate(config, 64_000)
        return [float(schedule(step)) for step in steps]

    steps = (0, 31_999, 32_000, 47_999, 48_000, 63_999)
    assert rates(0, *steps) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert rates(400, *steps) == pytest.approx([0, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("clip_norm", [0.0, 2.0])
def test_adamw_follows_its_paper(clip_norm):
    """Loshchilov and Hutter (2019), algorithm 2, with a schedule that warms up over two steps;
    betas 0.9 and 0.999, epsilon 1e-8."""
    params, gradients = tree()
    gradients[1] = jax.tree.map(lambda g: 10 * g, gradients[1])
    config = OptimizerConfig(
        learning_rate=0.1,
        schedule="constant",
        warmup_steps=2,
        weight_decay=0.2,
        clip_norm=clip_norm,
    )
    zero = jax.tree.map(np.zeros_like, params)
    expected, first, second, p = [], zero, zero, params
    decay = {"convolution": {"kernel": 0.2, "bias": 0.0}, "norm": {"scale": 0.0, "bias": 0.0}}
    for number, gradient in enumerate(gradients, start=1):
        g = clipped(gradient, clip_norm) if clip_norm else gradient
        rate = 0.1 * min(1, (number - 1) / 2)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, g)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, g)

        def step(p, m, v, d, rate=rate, number=number):
            return p - rate * (
                m / (1 - 0.9**number) / (np.sqrt(v / (1 - 0.999**number)) + 1e-8) + d * p
            )

        p = jax.tree.map(step, p, first, second, decay)
        expected.append(p)
    assert_same(run(config, params, gradients), expected)
