"""The state before step 0, and what counts as a parameter."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnn_jax.training import state as states


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(4)(x)
        return nn.BatchNorm(not train, momentum=0.9)(x)


@pytest.fixture(scope="module")
def created():
    """States of seeds 3, 3 and 4, with moving averages."""
    optimizer = optax.adam(1e-3)
    return [states.create(Small(), optimizer, seed, (2, 2, 5), averaged=True) for seed in (3, 3, 4)]


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
