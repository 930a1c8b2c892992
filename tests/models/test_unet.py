"""U-Net: the paper's parameter count, and skips that reach the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models.unet import UNet
from cnn_jax.training.state import parameter_count


@pytest.mark.parametrize(("norm", "count"), [("none", 31_031_810), ("batch", 31_037_698)])
def test_parameter_count_at_base_64_with_two_classes(norm, count):
    variables = jax.eval_shape(lambda: UNet(2, norm=norm).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert parameter_count(variables) == count


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_each_level_halves_the_size_and_doubles_the_channels(depth):
    model = UNet(2, base_width=2, depth=depth)
    shapes = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), jnp.zeros((1, 33, 20, 3)), train=False, capture_intermediates=True, mutable=True
        )
    )[1]["intermediates"]
    for level, (height, width) in enumerate([(33, 20), (17, 10), (9, 5), (5, 3)][: depth + 1]):
        name = "bridge" if level == depth else f"encoder_{level}"
        assert shapes[f"{name}_convolution_2"]["__call__"][0].shape == (1, height, width, 2 * 2**level)
        if level < depth:
            assert shapes[f"decoder_{level}_convolution_2"]["__call__"][0].shape == (1, height, width, 2 * 2**level)


@pytest.mark.parametrize("skips", [True, False])
def test_each_skip_reaches_the_logits_and_none_does_without_skips(skips):
    """With the way up from below shut at a level, what that level's encoder made can reach the logits by its skip alone."""
    model = UNet(2, base_width=4, depth=3, norm="none", skips=skips)
    x = jax.random.normal(jax.random.key(1), (1, 13, 16, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(0, (2 / max(p.size // p.shape[-1], 2)) ** 0.5, p.shape).astype(p.dtype), shapes)
    gradient = jax.jit(jax.grad(lambda params: model.apply({"params": params}, x, train=False).std()))

    def reached(params, name):
        return float(jnp.abs(gradient(params)[f"{name}_convolution_2"]["convolution"]["kernel"]).max()) > 1e-7

    for level in range(3):
        assert reached(params, f"encoder_{level}"), "by one way or another"
        shut = f"decoder_{level}_upsampling"
        cut = {**params, shut: jax.tree.map(jnp.zeros_like, params[shut])}
        assert not reached(cut, "bridge"), "the way up is not shut, so the next line would say nothing"
        assert reached(cut, f"encoder_{level}") == skips


@pytest.mark.parametrize("option", ["norm", "upsampling"])
def test_an_unknown_choice_is_an_input_error(option):
    model = UNet(2, **{option: "layer"})
    with pytest.raises(InputError, match=f"^{option} is 'layer'"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


def test_with_bfloat16_every_map_but_the_logits_is_bfloat16():
    model = UNet(2, base_width=2, depth=2, dtype="bfloat16")
    made = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False, capture_intermediates=True, mutable=True
        )
    )[1]["intermediates"]
    maps = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree.leaves_with_path(made)}
    assert len(maps) > 20
    assert {path for path, dtype in maps.items() if dtype != jnp.bfloat16} == {"['__call__'][0]", "['head']['__call__'][0]"}
