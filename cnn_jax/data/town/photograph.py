"""The photograph of a town: sun and shadow, haze, a colour cast, blur and sensor noise."""

import numpy as np
import scipy

from cnn_jax.data.town.layers import Layers, noise
from cnn_jax.data.town.plan import Plan


def photograph(rng: np.random.Generator, plan: Plan, layers: Layers) -> np.ndarray:
    """The scene as a camera sees it, uint8: shadows, uneven light, haze, colour cast, blur and
    noise, different in each scene."""
    sunlit = 1 - _shadow(plan, layers.height)[..., None]
    sky = np.array([0.45, 0.48, 0.54], np.float32) * rng.uniform(0.85, 1.15)
    direct = np.array([0.58, 0.55, 0.49], np.float32) * rng.uniform(0.92, 1.1)
    picture = layers.color * (sky + direct * sunlit)
    picture *= 1 + 0.05 * noise(rng, plan.shape, 160)[..., None]
    haze, cast = rng.uniform(0, 0.12), np.float32(rng.uniform(0.965, 1.035, 3))
    picture = (picture * (1 - haze) + haze * np.array([0.66, 0.71, 0.78], np.float32)) * cast
    contrast, gain = rng.uniform(0.95, 1.15), rng.uniform(0.94, 1.08)
    picture = ((picture - 0.4) * contrast + 0.4) * gain
    picture = scipy.ndimage.gaussian_filter(
        picture, (rng.uniform(0.35, 0.5),) * 2 + (0,), truncate=3
    )
    picture += rng.uniform(0.012, 0.026) * rng.standard_normal(picture.shape, np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _shadow(plan, height):
    """How much of the sun each pixel is cut off from, 0 to 1: by walking towards it and looking for
    something higher."""
    highest = np.full_like(height, -99)
    rows, columns = height.shape
    for step in range(1, int(height.max(initial=0) * plan.shadow_length) + 2):
        right, down = (round(step * part) for part in plan.sun)
        to = (
            slice(max(-down, 0), rows - max(down, 0)),
            slice(max(-right, 0), columns - max(right, 0)),
        )
        source = (
            slice(max(down, 0), rows - max(-down, 0)),
            slice(max(right, 0), columns - max(-right, 0)),
        )
        if height[source].size:
            highest[to] = np.maximum(
                highest[to], height[source] - np.float32(step / plan.shadow_length)
            )
    return np.clip(highest - height - 0.3, 0, 1.2) / 1.2
