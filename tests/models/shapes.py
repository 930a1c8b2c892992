"""What a network has and gives, by its shapes alone: nothing is computed."""

import jax
import jax.numpy as jnp

KEY = jax.random.key(0)


def shapes(model, *size, **options):
    """Shapes of (result, variables) for one image of this size."""
    return jax.eval_shape(lambda: model.init_with_output(KEY, jnp.zeros((1, *size)), train=False, **options))


def maps(model, height: int, width: int):
    """({stride: shape of the feature map}, shapes of the variables) for one image of three channels."""
    found, variables = shapes(model, height, width, 3, feature_maps=True)
    return {stride: leaf.shape[1:] for stride, leaf in found.items()}, variables


def count(tree) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
