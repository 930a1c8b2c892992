"""Norms are chosen by name; what the norms compute is tested with the convolution block."""

import re

import jax
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.layers.normalization import NORMS, normalization


def test_unknown_norm_is_an_input_error_that_names_the_known_ones():
    with pytest.raises(
        InputError, match=re.escape("norm is 'layer'; it must be one of batch, group, none.")
    ):
        normalization("layer", train=True, dtype="float32")


def test_none_gives_back_what_it_got():
    x = np.arange(4.0)
    assert normalization("none", train=True, dtype="float32")(name="norm")(x) is x


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "none"])
def test_every_other_norm_standardises_and_gives_the_dtype(norm):
    x = np.random.default_rng(0).normal(5, 3, (4, 6, 6, 16)).astype(np.float32)
    layer = normalization(norm, train=True, dtype="bfloat16")()
    y, _ = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == "bfloat16"
    y = np.asarray(y, np.float32)
    assert abs(y.mean()) < 0.01
    assert y.std() == pytest.approx(1, abs=0.01)
