"""What Panoptic-DeepLab's heads learn, and how their maps become objects (Cheng et al., 2020).

Losses are a sum and a count. Labels are those of `training.detection`, `numbers` saying for each
pixel its row of the table from 1, 0: none, or -1: it counts nowhere.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax.configuration.schema import InstanceLossConfig

LEAST_CENTRE = 0.1
"""Of the heat map at a centre; lower peaks are no objects."""

LEAST_AREA_PX = 4


def targets(labels: Mapping[str, jax.Array], sigma_px: float) -> dict[str, jax.Array]:
    """Of each pixel, `[batch, height, width]`: `semantic` int32, its class from 1, or 0; `centre`
    float32, a Gaussian about the nearest centre; `offset` float32 `[..., 2]`, rows and columns to
    its own object's centre; `area` float32, of its object in px; `counts` and `thing` bool. A
    centre is the mean of what is seen of its object."""
    height, width = labels["numbers"].shape[1:]
    y = jnp.arange(height, dtype=jnp.float32) - height / 2  # about 0, for sums to stay exact
    x = jnp.arange(width, dtype=jnp.float32) - width / 2

    def of_image(numbers, label, counted):
        rows = len(label)
        known = jnp.concatenate([jnp.ones(1, bool), counted])
        index = jnp.maximum(numbers, 0)
        counts = (numbers >= 0) & known[index]
        index = jnp.where(counts, index, 0)
        flat = index.ravel()

        def total(values):
            every = jnp.broadcast_to(values, (height, width)).ravel()
            return jax.ops.segment_sum(every, flat, rows + 1)

        area = total(jnp.float32(1))
        middle_y, middle_x = total(y[:, None]), total(x[None])
        middle_y, middle_x = (of / jnp.maximum(area, 1) for of in (middle_y, middle_x))
        present = counted & (area[1:] > 0)

        def nearest(least, row):
            y_, x_, there = row
            squared = (y[:, None] - y_) ** 2 + (x[None] - x_) ** 2
            return jnp.minimum(least, jnp.where(there, squared, jnp.inf)), None

        least = jnp.full((height, width), jnp.inf)
        least = jax.lax.scan(nearest, least, (middle_y[1:], middle_x[1:], present))[0]
        semantic = jnp.concatenate([jnp.zeros(1, jnp.int32), label + 1])[index]
        offset = jnp.stack([middle_y[index] - y[:, None], middle_x[index] - x[None]], -1)
        return {
            "semantic": semantic,
            "centre": jnp.exp(-least / (2 * sigma_px**2)),
            "offset": offset,
            "area": area[index],
            "counts": counts,
            "thing": counts & (index > 0),
        }

    return jax.vmap(of_image)(labels["numbers"], labels["labels"], labels["counted"])


def instance_loss(
    outputs: Mapping[str, jax.Array], labels: Mapping[str, jax.Array], config: InstanceLossConfig
) -> dict[str, tuple[Any, Any]]:
    """Each part (sum, pixels that count): `semantic_loss`, cross entropy, in which small objects
    weigh more; `centre_loss`, squared error; `offset_loss`, absolute error of an object's pixels in
    units of `offset_scale_px`; their weighted sum, `loss`; and `pixel_accuracy`."""
    wanted = targets(labels, config.centre_sigma_px)
    counts, thing = wanted["counts"], wanted["thing"]
    log_p = jax.nn.log_softmax(outputs["semantic"])
    entropy = -jnp.take_along_axis(log_p, wanted["semantic"][..., None], -1)[..., 0]
    small = thing & (wanted["area"] < config.small_px)
    weight = jnp.where(small, config.small_weight, 1.0)
    right = (outputs["semantic"].argmax(-1) == wanted["semantic"]) & counts
    error = jnp.abs(outputs["offset"] - wanted["offset"] / config.offset_scale_px).sum(-1)
    sums = {
        "semantic_loss": jnp.where(counts, weight * entropy, 0.0).sum(),
        "centre_loss": jnp.where(counts, (outputs["centre"] - wanted["centre"]) ** 2, 0.0).sum(),
        "offset_loss": jnp.where(thing, error, 0.0).sum(),
        "pixel_accuracy": right.sum().astype(jnp.float32),
    }
    loss = (
        config.semantic_weight * sums["semantic_loss"]
        + config.centre_weight * sums["centre_loss"]
        + config.offset_weight * sums["offset_loss"]
    )
    count = counts.sum().astype(jnp.float32)
    return {name: (total, count) for name, total in {"loss": loss, **sums}.items()}


def reach_px(config: InstanceLossConfig) -> int:
    """A centre is where the map is as high as anywhere within so many px, across and down."""
    return max(round(config.centre_sigma_px) - 1, 1)


def grouped(
    outputs: Mapping[str, jax.Array], config: InstanceLossConfig, most: int
) -> dict[str, jax.Array]:
    """Objects: each pixel of a class goes to the centre that its offset points nearest to.

    Args:
        outputs: of `CentreOffset`.
        config: of the loss: sigma and scale.
        most: objects at most.

    Returns:
        `numbers` int32 `[batch, height, width]`: 0, or the object from 1; and of each object
        `label` int32, the class of most of its pixels; `score` float32, its centre's height times
        the mean probability of that class in its pixels, 0 where there is no object: `[batch,
        most]`.
    """
    height, width = outputs["centre"].shape[1:]
    side = 2 * reach_px(config) + 1
    heat = outputs["centre"][..., None]
    peaks = nn.max_pool(heat, (side, side), (1, 1), "SAME") == heat
    peaks = jnp.where(peaks & (heat > LEAST_CENTRE), heat, 0.0)[..., 0]
    most = min(most, height * width)

    def of_image(peaks, semantic, offset):
        strength, at = jax.lax.top_k(peaks.ravel(), most)
        rows, columns = at // width, at % width
        probability = jax.nn.softmax(semantic)
        thing = probability.argmax(-1) > 0
        y = jnp.arange(height)[:, None] + offset[..., 0] * config.offset_scale_px
        x = jnp.arange(width)[None] + offset[..., 1] * config.offset_scale_px

        def nearer(best, centre):
            least, index = best
            number, row, column, there = centre
            squared = jnp.where(there, (y - row) ** 2 + (x - column) ** 2, jnp.inf)
            closer = squared < least
            return (jnp.where(closer, squared, least), jnp.where(closer, number, index)), None

        none = jnp.full((height, width), jnp.inf), jnp.zeros((height, width), jnp.int32)
        centres = jnp.arange(1, most + 1), rows, columns, strength > 0
        (_, index), _ = jax.lax.scan(nearer, none, centres)
        index = jnp.where(thing, index, 0)
        flat = index.ravel()
        of_class = jax.nn.one_hot(semantic[..., 1:].argmax(-1), semantic.shape[-1] - 1)
        votes = jax.ops.segment_sum(of_class.reshape(height * width, -1), flat, most + 1)[1:]
        mass = jax.ops.segment_sum(
            probability[..., 1:].reshape(height * width, -1), flat, most + 1
        )[1:]
        area, label = votes.sum(-1), votes.argmax(-1)
        mean = jnp.take_along_axis(mass, label[:, None], 1)[:, 0] / jnp.maximum(area, 1)
        score = jnp.where(area >= LEAST_AREA_PX, jnp.clip(strength, 0, 1) * mean, 0.0)
        return {"numbers": index, "label": label.astype(jnp.int32), "score": score}

    return jax.vmap(of_image)(peaks, outputs["semantic"], outputs["offset"])
