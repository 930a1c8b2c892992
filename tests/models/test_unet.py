"""U-Net: the paper's parameter count, sizes and channels of its stages, dtypes. Its skips are in
the tester of all segmenters."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models.unet import UNet
from cnn_jax.training.state import parameter_count


@pytest.mark.parametrize(("norm", "count"), [("none", 31_031_810), ("batch", 31_037_698)])
def test_parameter_count_at_base_64_with_two_classes(norm, count):
    variables = jax.eval_shape(
        lambda: UNet(2, norm=norm).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    assert parameter_count(variables) == count


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_each_level_halves_the_size_and_doubles_the_channels(depth):
    model = UNet(2, base_width=2, depth=depth)
    shapes = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0),
            jnp.zeros((1, 33, 20, 3)),
            train=False,
            capture_intermediates=True,
            mutable=True,
        )
    )[1]["intermediates"]
    for level, (height, width) in enumerate([(33, 20), (17, 10), (9, 5), (5, 3)][: depth + 1]):
        name = "bridge" if level == depth else f"encoder_{level}"
        assert shapes[f"{name}_convolution_2"]["__call__"][0].shape == (
            1,
            height,
            width,
            2 * 2**level,
        )
        if level < depth:
            assert shapes[f"decoder_{level}_convolution_2"]["__call__"][0].shape == (
                1,
                height,
                width,
                2 * 2**level,
            )


@pytest.mark.parametrize("option", ["norm", "upsampling"])
def test_an_unknown_choice_is_an_input_error(option):
    model = UNet(2, **{option: "layer"})
    with pytest.raises(InputError, match=f"^{option} is 'layer'"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


def test_with_bfloat16_every_map_but_the_logits_is_bfloat16():
    model = UNet(2, base_width=2, depth=2, dtype="bfloat16")
    made = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0),
            jnp.zeros((1, 8, 8, 3)),
            train=False,
            capture_intermediates=True,
            mutable=True,
        )
    )[1]["intermediates"]
    maps = {
        jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree.leaves_with_path(made)
    }
    assert len(maps) > 20
    assert {path for path, dtype in maps.items() if dtype != jnp.bfloat16} == {
        "['__call__'][0]",
        "['head']['__call__'][0]",
    }
