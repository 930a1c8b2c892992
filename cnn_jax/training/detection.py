"""What detectors learn, and how their maps become boxes: CenterNet's and FCOS's targets, losses and
decoding, all on the device.

Losses are a sum and a count, as everywhere. Labels are a dict: `boxes` float32 `[batch, rows, 4]`
(left, top, right, bottom in px of the crop, cut to it), `labels` int32 `[batch, rows]`, `counted`
and `ignored` bool `[batch, rows]`, and `numbers` int32 `[batch, height, width]`, -1 where nothing
counts. What lies in ignored boxes or where nothing counts is neither right nor wrong.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Labels = Mapping[str, jax.Array]

LEAST_OVERLAP = 0.7
"""A box moved by CenterNet's radius still has this IoU with itself."""

CANDIDATES = 1000
"""FCOS: boxes that are held against each other."""

NMS_IOU = 0.6
CENTRE_CELLS = 1.5
"""FCOS: cells so near to an object's centre are positive."""


def cut_to_crop(
    boxes: jax.Array,
    labels: jax.Array,
    crop_px: tuple[int, int],
    least_visible: float,
) -> dict[str, jax.Array]:
    """Objects as a crop shows them.

    Args:
        boxes: float32 `[batch, rows, 4]` in px of the crop, reaching beyond it.
        labels: int32 `[batch, rows]`, negative where a row is empty.
        crop_px: height and width.
        least_visible: the share of a box's area within the crop from which it counts.

    Returns:
        `boxes`, cut; `labels`; `counted`; and `ignored`: objects of which too little is seen.
    """
    limits = jnp.array([crop_px[1], crop_px[0]] * 2, jnp.float32)
    cut = jnp.clip(boxes, 0, limits)
    sides, whole = (jnp.maximum(b[..., 2:] - b[..., :2], 0) for b in (cut, boxes))
    area, share = jnp.prod(sides, -1), jnp.prod(sides, -1) / jnp.maximum(jnp.prod(whole, -1), 1e-6)
    present = (labels >= 0) & (area > 0)
    counted = present & (share >= least_visible)
    return {"boxes": cut, "labels": labels, "counted": counted, "ignored": present & ~counted}


def ignored_at(labels: Labels, y: jax.Array, x: jax.Array) -> jax.Array:
    """Whether nothing counts at rows `y` `[h]` and columns `x` `[w]`: bool `[batch, h, w]`."""
    numbers = labels["numbers"]
    rows = jnp.clip(y.astype(jnp.int32), 0, numbers.shape[1] - 1)
    columns = jnp.clip(x.astype(jnp.int32), 0, numbers.shape[2] - 1)
    nowhere = numbers[:, rows][:, :, columns] < 0
    left, top, right, bottom = jnp.moveaxis(labels["boxes"], -1, 0)[..., None]
    down = (y >= top) & (y < bottom) & labels["ignored"][..., None]
    across = (x >= left) & (x < right)
    within = jnp.einsum("bry,brx->byx", down.astype(jnp.float32), across.astype(jnp.float32))
    return nowhere | (within > 0)


# ---- CenterNet


def radius(width: jax.Array, height: jax.Array) -> jax.Array:
    """How far a corner of a box may move for its IoU to stay at `LEAST_OVERLAP`, the least of three
    cases: one corner inwards and one outwards, both inwards, both outwards (Law and Deng, 2018)."""
    t = LEAST_OVERLAP
    one = (
        height + width - jnp.sqrt((height + width) ** 2 - 4 * width * height * (1 - t) / (1 + t))
    ) / 2
    inwards = (height + width - jnp.sqrt((height + width) ** 2 - 4 * (1 - t) * width * height)) / 4
    outwards = (
        -t * (height + width)
        + jnp.sqrt((t * (height + width)) ** 2 + 4 * t * (1 - t) * width * height)
    ) / (4 * t)
    return jnp.minimum(jnp.minimum(one, inwards), outwards)


def heat_targets(labels: Labels, shape: tuple[int, int, int], stride: int) -> jax.Array:
    """CenterNet's heat map: of each class the greatest of the Gaussians about its objects' centres,
    1 at the cell of a centre; float32 `[batch, h, w, classes]`, `shape` being the last three."""
    height, width, classes = shape
    y, x = jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32)

    def of_image(boxes, label, counted):
        def add(heat, row):
            box, which, counts = row
            left, top, right, bottom = box / stride
            sigma = (2 * jnp.maximum(radius(right - left, bottom - top), 0) + 1) / 6
            middle_y, middle_x = jnp.floor((top + bottom) / 2), jnp.floor((left + right) / 2)
            down = jnp.exp(-((y - middle_y) ** 2) / (2 * sigma**2))
            across = jnp.exp(-((x - middle_x) ** 2) / (2 * sigma**2))
            bump = jnp.where(counts, down[:, None] * across, 0.0)
            return heat.at[:, :, which].max(bump), None

        zero = jnp.zeros((height, width, classes))
        return jax.lax.scan(add, zero, (boxes, label, counted))[0]

    which = jnp.maximum(labels["labels"], 0)
    return jax.vmap(of_image)(labels["boxes"], which, labels["counted"])


def centernet_loss(
    outputs: Mapping[str, jax.Array],
    labels: Labels,
    stride: int,
    size_weight: float,
    offset_weight: float,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """CenterNet's loss, each part (sum, objects): `heat_loss`, the focal loss that forgives near
    misses, -(1 - p)^2 log p at centres and -(1 - target)^4 p^2 log(1 - p) elsewhere; `size_loss`
    and `offset_loss`, absolute errors in cells at centres; and their weighted sum, `loss`."""
    heat = outputs["heat"]
    _, height, width, classes = heat.shape
    target = heat_targets(labels, (height, width, classes), stride)
    p, log_p, log_not = nn.sigmoid(heat), nn.log_sigmoid(heat), nn.log_sigmoid(-heat)
    y, x = ((jnp.arange(side) + 0.5) * stride for side in (height, width))
    counts = ~ignored_at(labels, y, x)[..., None]
    centre = target == 1
    miss = jnp.where(centre, (1 - p) ** 2 * log_p, 0.0)
    alarm = jnp.where(centre | ~counts, 0.0, (1 - target) ** 4 * p**2 * log_not)
    heat_loss = -(miss.sum() + alarm.sum())

    boxes = labels["boxes"] / stride
    sizes = boxes[..., 2:] - boxes[..., :2]
    middles = (boxes[..., 2:] + boxes[..., :2]) / 2
    cells = jnp.floor(middles)
    column = jnp.clip(cells[..., 0].astype(jnp.int32), 0, width - 1)
    row = jnp.clip(cells[..., 1].astype(jnp.int32), 0, height - 1)
    counted = labels["counted"]
    image = jnp.arange(len(heat))[:, None]

    def error(name, wanted):
        found = outputs[name][image, row, column]
        return jnp.where(counted[..., None], jnp.abs(found - wanted), 0.0).sum()

    size_loss, offset_loss = error("size", sizes), error("offset", middles - cells)
    count = counted.sum().astype(jnp.float32)
    loss = heat_loss + size_weight * size_loss + offset_weight * offset_loss
    sums = {"loss": loss, "heat_loss": heat_loss}
    sums |= {"size_loss": size_loss, "offset_loss": offset_loss}
    return {name: (total, count) for name, total in sums.items()}


def centernet_cells(outputs: Mapping[str, jax.Array], stride: int) -> jax.Array:
    """Of each cell, row by row, float32 `[batch, cells, classes + 4]`: the probability that it is
    an object's centre, class by class, 0 where one of its eight neighbours has a higher one; and
    the object's box: left, top, right, bottom in px."""
    heat = nn.sigmoid(outputs["heat"])
    batch, height, width, _ = heat.shape
    peaks = jnp.where(nn.max_pool(heat, (3, 3), (1, 1), "SAME") == heat, heat, 0.0)
    row, column = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    middle, size = jnp.stack([column, row], -1) + outputs["offset"], outputs["size"]
    box = jnp.concatenate([middle - size / 2, middle + size / 2], -1) * stride
    return jnp.concatenate([peaks, box], -1).reshape(batch, height * width, -1)


def centernet_boxes(
    outputs: Mapping[str, jax.Array], stride: int, most: int
) -> dict[str, jax.Array]:
    """The best peaks, cells above their eight neighbours, as boxes: `box` float32 `[batch, most,
    4]` in px, `score` float32 and `label` int32 `[batch, most]`."""
    return _best(centernet_cells(outputs, stride), most)


def _best(cells, most):
    """The boxes with the highest scores of any class."""
    score, box = cells[..., :-4], cells[..., -4:]
    batch, count, classes = score.shape
    score, at = jax.lax.top_k(score.reshape(batch, -1), min(most, count * classes))
    box = jnp.take_along_axis(box, (at // classes)[..., None], axis=1)
    return {"box": box, "score": score, "label": (at % classes).astype(jnp.int32)}


# ---- FCOS


def _cells(outputs: Mapping[Any, Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """All levels' cells in one row, and of each its `stride` `[cells]` and its middle `x` and `y`
    in px."""
    found: dict[str, list[jax.Array]] = {n: [] for n in ("class", "box", "centre")}
    place: dict[str, list[jax.Array]] = {n: [] for n in ("stride", "x", "y")}
    for stride, maps in sorted(outputs.items()):
        batch, height, width, _ = maps["class"].shape
        for name in found:
            found[name].append(maps[name].reshape(batch, height * width, -1))
        y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
        place["stride"].append(jnp.full(height * width, stride, jnp.float32))
        place["x"].append((x.ravel() + 0.5) * stride)
        place["y"].append((y.ravel() + 0.5) * stride)
    joined = {name: jnp.concatenate(of, axis=1) for name, of in found.items()}
    return joined | {name: jnp.concatenate(of) for name, of in place.items()}


def fcos_targets(
    labels: Labels, stride: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Which object each cell stands for, int32 `[batch, cells]`, -1: none; and the distances to its
    box's sides in px, float32 `[batch, cells, 4]`.

    A cell stands for the smallest object whose centre it is near to (`CENTRE_CELLS`), whose box it
    lies in, and whose farthest side is between 4 and 8 strides away; from 0 on the first level, to
    any distance on the last.
    """
    boxes = labels["boxes"][:, None]
    left, top = x[:, None] - boxes[..., 0], y[:, None] - boxes[..., 1]
    right, bottom = boxes[..., 2] - x[:, None], boxes[..., 3] - y[:, None]
    sides = jnp.stack([left, top, right, bottom], -1)  # [batch, cells, rows, 4]
    inside = sides.min(-1) > 0
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    near = jnp.maximum(jnp.abs(x[:, None] - middle[..., 0]), jnp.abs(y[:, None] - middle[..., 1]))
    near = near < CENTRE_CELLS * stride[:, None]
    low = jnp.where(stride == stride.min(), 0.0, 4 * stride)[:, None]
    high = jnp.where(stride == stride.max(), jnp.inf, 8 * stride)[:, None]
    farthest = sides.max(-1)
    fits = inside & near & (farthest >= low) & (farthest < high) & labels["counted"][:, None]
    area = jnp.prod(boxes[..., 2:] - boxes[..., :2], -1)
    area = jnp.where(fits, area, jnp.inf)
    row = area.argmin(-1)
    which = jnp.where(fits.any(-1), row, -1)
    wanted = jnp.take_along_axis(sides, row[..., None, None], axis=2)[:, :, 0]
    return which, wanted


def fcos_loss(
    outputs: Mapping[Any, Mapping[str, jax.Array]],
    labels: Labels,
    box_weight: float,
    centre_weight: float,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """FCOS's loss, each part (sum, positive cells): `class_loss`, the focal loss with alpha 0.25
    and gamma 2; `box_loss`, 1 - generalised IoU of positive cells; `centre_loss`, the cross entropy
    of their centre-ness; and their weighted sum, `loss`."""
    cells = _cells(outputs)
    which, wanted = fcos_targets(labels, cells["stride"], cells["x"], cells["y"])
    positive = which >= 0
    classes = cells["class"].shape[-1]
    label = jnp.take_along_axis(labels["labels"], jnp.maximum(which, 0), axis=1)
    target = jax.nn.one_hot(jnp.where(positive, label, -1), classes)
    logits = cells["class"]
    cross_entropy = -(target * nn.log_sigmoid(logits) + (1 - target) * nn.log_sigmoid(-logits))
    p = nn.sigmoid(logits)
    right = p * target + (1 - p) * (1 - target)
    alpha = 0.25 * target + 0.75 * (1 - target)
    focal = alpha * (1 - right) ** 2 * cross_entropy
    nowhere = _ignored_cells(labels, cells["x"], cells["y"]) & ~positive
    class_loss = jnp.where(nowhere[..., None], 0.0, focal).sum()

    found = cells["box"] * cells["stride"][:, None]
    box_loss = jnp.where(positive, 1 - generalised_iou(found, wanted), 0.0).sum()
    shares = [
        jnp.minimum(wanted[..., i], wanted[..., i + 2])
        / jnp.maximum(jnp.maximum(wanted[..., i], wanted[..., i + 2]), 1e-6)
        for i in (0, 1)
    ]
    central = jnp.sqrt(jnp.clip(shares[0] * shares[1], 1e-12, 1))
    logit = cells["centre"][..., 0]
    entropy = -(central * nn.log_sigmoid(logit) + (1 - central) * nn.log_sigmoid(-logit))
    centre_loss = jnp.where(positive, entropy, 0.0).sum()
    count = positive.sum().astype(jnp.float32)
    loss = class_loss + box_weight * box_loss + centre_weight * centre_loss
    sums = {"loss": loss, "class_loss": class_loss}
    sums |= {"box_loss": box_loss, "centre_loss": centre_loss}
    return {name: (total, count) for name, total in sums.items()}


def _ignored_cells(labels, x, y):
    """As `ignored_at`, of cells one by one: bool `[batch, cells]`."""
    numbers = labels["numbers"]
    rows = jnp.clip(y.astype(jnp.int32), 0, numbers.shape[1] - 1)
    columns = jnp.clip(x.astype(jnp.int32), 0, numbers.shape[2] - 1)
    left, top, right, bottom = jnp.moveaxis(labels["boxes"], -1, 0)[..., None]
    within = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return (numbers[:, rows, columns] < 0) | (within & labels["ignored"][..., None]).any(1)


def generalised_iou(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """Of boxes about one point, as distances `[..., 4]` left, top, right, bottom: IoU, less the
    share of the box about both that neither covers (Rezatofighi et al., 2019); `[...]`."""
    areas = [(of[..., 0] + of[..., 2]) * (of[..., 1] + of[..., 3]) for of in (found, wanted)]
    inner, outer = jnp.minimum(found, wanted), jnp.maximum(found, wanted)
    both = jnp.maximum(inner[..., 0] + inner[..., 2], 0) * jnp.maximum(
        inner[..., 1] + inner[..., 3], 0
    )
    about = (outer[..., 0] + outer[..., 2]) * (outer[..., 1] + outer[..., 3])
    union = areas[0] + areas[1] - both
    return both / jnp.maximum(union, 1e-6) - (about - union) / jnp.maximum(about, 1e-6)


def fcos_cells(outputs: Mapping[Any, Mapping[str, jax.Array]]) -> jax.Array:
    """Of each cell, level by level, the finest first, float32 `[batch, cells, classes + 4]`: the
    score of each class, the root of its probability times centre-ness; and the box: left, top,
    right, bottom in px."""
    cells = _cells(outputs)
    score = jnp.sqrt(nn.sigmoid(cells["class"]) * nn.sigmoid(cells["centre"]))
    sides = cells["box"] * cells["stride"][:, None]
    middle = jnp.stack([cells["x"], cells["y"]], -1)
    return jnp.concatenate([score, middle - sides[..., :2], middle + sides[..., 2:]], -1)


def fcos_boxes(outputs: Mapping[Any, Mapping[str, jax.Array]], most: int) -> dict[str, jax.Array]:
    """The best boxes that overlap no better one of their class by more than `NMS_IOU`: as
    `centernet_boxes`."""
    found = _best(fcos_cells(outputs), CANDIDATES)
    box, label = found["box"], found["label"]
    score = jax.vmap(suppressed)(box, found["score"], label)
    score, order = jax.lax.top_k(score, min(most, score.shape[1]))
    return {
        "box": jnp.take_along_axis(box, order[..., None], axis=1),
        "score": score,
        "label": jnp.take_along_axis(label, order, axis=1),
    }


def suppressed(box: jax.Array, score: jax.Array, label: jax.Array) -> jax.Array:
    """Scores `[n]`, 0 where a box overlaps a better one of its label by more than `NMS_IOU`; boxes
    `[n, 4]` are sorted, best first."""
    low = jnp.maximum(box[:, None, :2], box[None, :, :2])
    high = jnp.minimum(box[:, None, 2:], box[None, :, 2:])
    both = jnp.prod(jnp.maximum(high - low, 0), -1)
    area = jnp.prod(jnp.maximum(box[:, 2:] - box[:, :2], 0), -1)
    iou = both / jnp.maximum(area[:, None] + area[None] - both, 1e-6)
    later = jnp.arange(len(box))
    worse = (iou > NMS_IOU) & (label[:, None] == label[None]) & (later[None] > later[:, None])

    def step(i, kept):
        return kept & ~(kept[i] & worse[i])

    kept = jax.lax.fori_loop(0, len(box), step, jnp.ones(len(box), bool))
    return jnp.where(kept, score, 0.0)
