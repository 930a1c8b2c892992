"""Parts of a network that are frozen, thaw, or learn at a rate of their own."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax.configuration.schema import OptimizerConfig
from cnn_jax.errors import InputError
from cnn_jax.layers.convolution import ConvolutionNormActivation
from cnn_jax.layers.cpu_arithmetic import fast_on_cpu
from cnn_jax.training import state as states
from cnn_jax.training.groups import NEVER, make_groups
from cnn_jax.training.losses import cross_entropy
from cnn_jax.training.step import make_train_step

CLASSES = 3
HEAD = frozenset({("params", "head", "kernel"), ("params", "head", "bias")})


class Small(nn.Module):
    """Two convolutions with BatchNorm, and a head for each pixel."""

    @nn.compact
    def __call__(self, x, *, train):
        x = ConvolutionNormActivation(4, name="stem")(x, train=train)
        x = ConvolutionNormActivation(4, name="stage_1")(x, train=train)
        return nn.Dense(CLASSES, name="head")(x)


def trained(steps=2, optimizer=None, fast=False, **options):
    """Variables before and after so many steps, or after each of several numbers of steps; AdamW
    with weight decay where no optimiser is given."""
    module = Small()
    optimizer = optimizer or optax.adamw(0.1, weight_decay=0.1)
    state = states.create(module, optimizer, 0, (8, 8, 3), averaged=False)
    groups = make_groups(OptimizerConfig(**options), state.variables, HEAD)
    step = make_train_step(
        module,
        lambda logits, labels: {"loss": cross_entropy(logits, labels)},
        optimizer,
        lambda keys, batch: (batch["image"], batch["mask"]),
        groups=groups,
    )
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.array(rng.normal(1, 1, (2, 8, 8, 3)), jnp.float32),
        "mask": jnp.array(rng.integers(0, CLASSES, (2, 8, 8)), jnp.int32),
        "position": jnp.arange(2, dtype=jnp.uint32),
    }
    before = jax.device_get(state.variables)
    with fast_on_cpu() if fast else contextlib.nullcontext():
        compiled = jax.jit(step).lower(state, batch, jnp.uint32(0)).compile()
    wanted = steps if isinstance(steps, tuple) else (steps,)
    found = [before]
    for step in range(1, max(wanted) + 1):
        state, _ = compiled(state, batch, jnp.uint32(0))
        if step in wanted:
            found.append(jax.device_get(state.variables))
    return found


def changed(before, after, *path):
    """Whether all numbers under a path differ, or none; the test fails on anything between."""
    pairs = [
        (np.asarray(a), np.asarray(b))
        for tree_a, tree_b in [(_at(before, path), _at(after, path))]
        for a, b in zip(jax.tree.leaves(tree_a), jax.tree.leaves(tree_b), strict=True)
    ]
    different = [bool((a != b).any()) for a, b in pairs]
    assert all(different) or not any(different)
    return different[0]


def _at(tree, path):
    for part in path:
        tree = tree[part]
    return tree


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("fast", [False, True], ids=["plain", "as on a CPU"])
def test_frozen_parts_keep_weights_and_statistics(fast):
    before, after = trained(frozen=("base",), fast=fast)
    for part in ("stem", "stage_1"):
        assert not changed(before, after, "params", part)
        assert not changed(before, after, "batch_stats", part)
    assert changed(before, after, "params", "head")


@pytest.mark.usefixtures("quick_compilation")
def test_only_what_is_named_is_frozen():
    before, after = trained(frozen=("stem",))
    assert not changed(before, after, "params", "stem")
    assert not changed(before, after, "batch_stats", "stem")
    assert changed(before, after, "batch_stats", "stage_1")
    assert changed(before, after, "params", "stage_1", "convolution")


def test_of_a_frozen_base_nothing_is_computed_backwards():
    """The gradient's program has no transposed convolution."""

    def convolutions(**options):
        module = Small()
        variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
        groups = make_groups(OptimizerConfig(**options), variables, HEAD)

        def loss(params):
            held = {"params": groups.hold(params), "batch_stats": variables["batch_stats"]}
            with groups.keeping_statistics():
                outputs, _ = module.apply(
                    held, jnp.ones((1, 8, 8, 3)), train=True, mutable=["batch_stats"]
                )
            return outputs.sum()

        jaxpr = jax.make_jaxpr(jax.grad(loss))(variables["params"])
        return str(jaxpr).count("conv_general_dilated[")

    assert convolutions(frozen=("base",)) == 2
    assert convolutions(frozen=("stem",)) == 3
    assert convolutions() > 4


@pytest.mark.usefixtures("quick_compilation")
def test_parts_thaw_one_after_another_the_last_named_first():
    options = {"frozen": ("stem", "stage_1"), "unfreeze_every_steps": 2}
    thawed = []
    before, *later = trained((2, 3, 4, 5), **options)
    for after in later:
        thawed.append(
            tuple(
                changed(before, after, "params", part, "convolution")
                for part in ("stage_1", "stem")
            )
        )
        assert not changed(before, after, "batch_stats")
    assert thawed == [(False, False), (True, False), (True, False), (True, True)]


@pytest.mark.usefixtures("quick_compilation")
def test_a_group_learns_at_its_own_rate():
    plain = optax.sgd(1e-3)
    before, all_alike = trained(1, plain)
    _, grouped = trained(1, plain, groups=("base",), group_factors=(0.1,))
    for part, factor in (("stem", 0.1), ("stage_1", 0.1), ("head", 1)):
        for usual, own, start in zip(
            *(jax.tree.leaves(tree["params"][part]) for tree in (all_alike, grouped, before)),
            strict=True,
        ):
            np.testing.assert_allclose(own - start, factor * (usual - start), atol=2e-7)


def test_names_are_those_of_the_network():
    variables = jax.eval_shape(
        lambda: Small().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    )

    def made(**options):
        return make_groups(OptimizerConfig(**options), variables, HEAD)

    wild = made(frozen=("st*",)).thaws
    assert {path[0] for path, thaws in wild.items() if thaws == NEVER} == {"stem", "stage_1"}
    within = made(frozen=("stem/norm",))
    assert within.frozen_norms == {("stem", "norm")}
    with pytest.raises(InputError, match="'steam', which the network lacks: did you mean st"):
        made(frozen=("steam",))
    with pytest.raises(InputError, match=r"did you mean head\.$"):
        made(frozen=("heads",))
    with pytest.raises(InputError, match="leave nothing to learn"):
        made(frozen=("base", "head"))
    with pytest.raises(InputError, match="leave nothing to learn"):
        made(groups=("base", "head"), group_factors=(0.0, 0.0))
