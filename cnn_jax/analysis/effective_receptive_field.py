"""How far a segmenter looks: which pixels its answer at one place depends on, and how much.

After Luo, Li, Urtasun, Zemel, Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks (2016): of the pixels that could matter (the theoretical field, which
`cnn_jax.analysis.receptive_field` follows) those in the middle matter by far the most.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def effective_receptive_field(
    model: nn.Module, variables: Any, images: jax.Array | np.ndarray, seed: int = 0
) -> np.ndarray:
    """The mean size of the gradient of the central place's logits with respect to each pixel;
    float64 `[height, width]`.

    The paper sends a gradient of 1 into one output. A classifier has several, and their sum says
    nothing: the gradient of cross-entropy sums to 0 over classes, so that training leaves it alone.
    Here each image asks for a contrast of the logits: random weights, normal, less their mean (and
    of length 1), for adding one number to all logits changes no prediction. Sizes are summed over
    the channels of the image and averaged over images, as the paper averages over inputs, since the
    field of a network with ReLU depends on what it sees.

    Args:
        model, variables: `[batch, height, width, channels]` to logits `[batch, height, width,
        classes]`, as in evaluation.
        images: float32 `[batch, height, width, channels]`, normalised. They are looked at one by
            one.
        seed: of the contrasts.
    """

    @jax.jit
    def gradient(variables, image, weights):
        def central(image):
            logits = model.apply(variables, image[None], train=False)[0]
            return (logits[logits.shape[0] // 2, logits.shape[1] // 2] * weights).sum()

        return jnp.abs(jax.grad(central)(image)).sum(-1)

    images = jnp.asarray(images, jnp.float32)
    classes = jax.eval_shape(lambda: model.apply(variables, images[:1], train=False)).shape[-1]
    weights = np.random.default_rng(seed).normal(size=(len(images), classes))
    if classes > 1:
        weights -= weights.mean(1, keepdims=True)
    weights = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
    return np.mean(
        [np.float64(gradient(variables, *one)) for one in zip(images, weights, strict=True)], axis=0
    )


def radii_px(field: np.ndarray, shares: Sequence[float] = (0.5, 0.95)) -> list[float]:
    """The radii of the circles about the central place `[height // 2, width // 2]` that hold these
    shares of a field's mass, in px.

    A pixel is held when its middle is. NaN where the field is 0 everywhere.
    """
    height, width = field.shape
    distance = np.hypot(
        np.arange(height)[:, None] - height // 2, np.arange(width)[None] - width // 2
    ).ravel()
    order = np.argsort(distance, kind="stable")
    held = np.cumsum(field.ravel()[order], dtype=np.float64)
    if not held[-1] > 0:
        return [float("nan")] * len(shares)
    # Rounding must not push the last share beyond the last pixel.
    return [
        float(distance[order[min(np.searchsorted(held, share * held[-1]), held.size - 1)]])
        for share in shares
    ]
