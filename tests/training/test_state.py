"""The state before step 0, and what counts as a parameter."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax import tracing_cache
from cnn_jax.training import state as states


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(4)(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)


@pytest.fixture(
    scope="module",
    params=["create", "Initializer", "Initializer that keeps", "Initializer that finds"],
)
def created(request, tmp_path_factory):
    """States of seeds 3, 3 and 4, with moving averages."""
    arguments, averaged = (Small(), optax.adam(1e-3)), {"averaged": True}
    if request.param == "create":
        return [states.create(*arguments, seed, (2, 2, 5), **averaged) for seed in (3, 3, 4)]
    folder = None if request.param == "Initializer" else tmp_path_factory.mktemp("kept") / "traced"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing_cache, "_code", lambda: "the code")
        draw = states.Initializer(
            *arguments, (2, 2, 5), **averaged, tracings=tracing_cache.Tracings("known", folder)
        )
        assert folder is None or len(list(folder.iterdir())) == 1
        if "finds" in request.param:
            patch.setattr(states, "_drawn", None)  # nothing is traced
            draw = states.Initializer(
                *arguments, (2, 2, 5), **averaged, tracings=tracing_cache.Tracings("known", folder)
            )
        return [draw(seed) for seed in (3, 3, 4)]


def test_it_is_the_same_state_however_it_is_made(created):
    expected = states.create(Small(), optax.adam(1e-3), 3, (2, 2, 5), averaged=True)
    assert jax.tree.structure(created[0]) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(created[0]), jax.tree.leaves(expected), strict=True):
        assert (leaf.dtype, leaf.weak_type) == (other.dtype, other.weak_type)
        np.testing.assert_array_equal(leaf, other)


def test_the_state_starts_at_step_0_with_the_average_at_the_weights(created):
    state = created[0]
    assert state.step.dtype == "int32"
    assert int(state.step) == 0
    jax.tree.map(np.testing.assert_array_equal, state.variables, state.average)
    for variable, average in zip(
        jax.tree.leaves(state.variables), jax.tree.leaves(state.average), strict=True
    ):
        assert variable is not average
        assert variable.unsafe_buffer_pointer() != average.unsafe_buffer_pointer(), (
            "both would be donated"
        )


def test_weights_come_from_the_seed(created):
    one, same, other = (state.variables["params"]["Dense_0"]["kernel"] for state in created)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_parameters_are_counted_without_running_statistics(created):
    assert states.parameter_count(created[0].variables) == (5 * 4 + 4) + (4 + 4)


def test_without_average_predictions_use_the_weights():
    state = states.create(Small(), optax.sgd(1.0), 0, (2, 2, 5), averaged=False)
    assert state.average is None
    assert state.evaluated is state.variables
