"""Training sets that lie on the devices: what the host then sends for an example is its number.

The step finds an example by that number and changes it as any other, so that a run computes the
same bits wherever its examples lie. The order is that of `pipeline.training_batches`, over
`Numbers` of the same length.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from cnn_jax.data.images import LabelledImages
from cnn_jax.data.pipeline import RegionSource, aligned
from cnn_jax.errors import InputError

MOST_PX = 2**31
"""Places in one array are counted in int32."""


class Numbers:
    """Random access to examples that know nothing but their `number`, int32 []."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, record_key):
        return {"number": np.int32(record_key)}

    def batch(
        self, record_keys: Sequence[int], positions: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Several numbers, stacked."""
        return {"number": np.array(record_keys, np.int32)}


def scenes(source: RegionSource, budget_gib: float) -> dict[str, np.ndarray]:
    """Scenes whole, and where in them each region lies, for `regions`.

    Returns:
        `image` [pixels, channels] and `mask` uint8 [pixels]: all scenes one after another, row by
        row; of each region, int32: `start` [n], the place of its first pixel; `stride` [n], from
        one row to the next; `cell_px` [n, 4] and `extent_px` [n, 2].

    Raises:
        InputError: they don't fit in `budget_gib`.
    """
    every = source.scenes.scenes
    sizes = np.array([scene.height_px * scene.width_px for scene in every], np.int64)
    like, _ = source.scenes[0]
    pixel_bytes = like.shape[-1] * like.itemsize + 1
    _check_size(pixel_bytes * sizes.sum(), budget_gib)
    if sizes.sum() >= MOST_PX:
        raise InputError(
            f"data.on_device holds fewer than {MOST_PX:,} pixels, not {sizes.sum():,}: give"
            " --data.no-on-device."
        )
    images = aligned((sizes.sum(), like.shape[-1]), like.dtype)
    masks, firsts = aligned((sizes.sum(),), np.uint8), np.cumsum(sizes) - sizes
    for index, (first, size) in enumerate(zip(firsts, sizes, strict=True)):
        image, mask = source.scenes[index]
        images[first : first + size] = image.reshape(size, -1)
        masks[first : first + size] = mask.reshape(-1)
    stride = np.array([scene.width_px for scene in every], np.int32)[source.scene]
    top, left = source.corner_px.T
    start = (firsts[source.scene] + top * stride + left).astype(np.int32)
    return {
        "image": images,
        "mask": masks,
        "start": start,
        "stride": stride,
        "cell_px": source.cell_px,
        "extent_px": source.extent_px,
    }


def regions(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The regions of a batch, `number` int32 [batch] beside what `scenes` returns, as
    `augmentation.augment_examples` takes them."""
    of_each = {
        name: batch[name][batch["number"]] for name in ("start", "stride", "cell_px", "extent_px")
    }
    return {"image": batch["image"], "mask": batch["mask"], **of_each}


def images(split: LabelledImages, budget_gib: float) -> dict[str, np.ndarray]:
    """`images` [n, height, width, channels] and `labels` int32 [n] of a split.

    Raises:
        InputError: they don't fit in `budget_gib`, or one can't be decoded.
    """
    _check_size(len(split) * int(np.prod(split.shape)) * split.dtype.itemsize, budget_gib)
    pixels, labels = split.arrays()
    return {"images": pixels, "labels": labels}


def examples(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The `image` and `label` of each example of a batch, `number` int32 [batch] beside what
    `images` returns."""
    return {"image": batch["images"][batch["number"]], "label": batch["labels"][batch["number"]]}


def _check_size(size: int, budget_gib: float) -> None:
    if size > budget_gib * 2**30:
        raise InputError(
            f"data.on_device puts the training set on each device, {size:,} bytes, which"
            f" data.memory_budget_gib={budget_gib:g} doesn't allow: raise that, or give"
            " --data.no-on-device."
        )
