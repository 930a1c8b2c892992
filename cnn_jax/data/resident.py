"""Training sets that lie on the devices: what the host then sends for an example is its number.

The step finds an example by that number and changes it as any other, so that a run computes the
same bits wherever its examples lie. The order is that of `pipeline.training_batches`, over
`Numbers` of the same length.
"""

from collections.abc import Mapping

import grain
import jax
import numpy as np

from cnn_jax.data.images import LabelledImages
from cnn_jax.data.pipeline import RegionSource, aligned
from cnn_jax.errors import InputError

MOST_WORDS = 2**31
"""Places in one array are counted in int32."""


class Numbers(grain.sources.RandomAccessDataSource):
    """Random access to examples that know nothing but their `number`, int32 []."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, record_key):
        return {"number": np.int32(record_key)}

    def batch(self, record_keys, positions=None) -> dict[str, np.ndarray]:
        """Several numbers, stacked."""
        return {"number": np.array(record_keys, np.int32)}


def scenes(source: RegionSource, budget_gib: float) -> dict[str, np.ndarray]:
    """Scenes whole, and where in them each region lies, for `regions`.

    Returns:
        `words` uint32 [words]: all scenes one after another, row by row, pixels as in
        `DecodedScenes.words`; of each region, int32: `start` [n], the place of its first pixel;
        `stride` [n], from one row to the next; `cell_px` [n, 4] and `extent_px` [n, 2].

    Raises:
        InputError: they don't fit in `budget_gib`.
    """
    every = source.scenes.scenes
    sizes = np.array([scene.height_px * scene.width_px for scene in every], np.int64)
    _check_size(4 * sizes.sum(), budget_gib)
    if sizes.sum() >= MOST_WORDS:
        raise InputError(
            f"data.on_device holds fewer than {MOST_WORDS:,} pixels, not {sizes.sum():,}: set it to"
            " False."
        )
    words, firsts = aligned((sizes.sum(),), np.uint32), np.cumsum(sizes) - sizes
    for index, (first, size) in enumerate(zip(firsts, sizes, strict=True)):
        words[first : first + size] = source.scenes.words(index).reshape(-1)
    stride = np.array([scene.width_px for scene in every], np.int32)[source.scene]
    top, left = source.corner_px.T
    start = (firsts[source.scene] + top * stride + left).astype(np.int32)
    return {
        "words": words,
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
    return {"words": batch["words"], **of_each}


def images(split: LabelledImages, budget_gib: float) -> dict[str, np.ndarray]:
    """`images` uint8 [n, height, width, channels] and `labels` int32 [n] of a split.

    Raises:
        InputError: they don't fit in `budget_gib`, or one can't be decoded.
    """
    _check_size(len(split) * int(np.prod(split.shape)), budget_gib)
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
            f" data.memory_budget_gib={budget_gib:g} doesn't allow: raise that, or set"
            " data.on_device=False."
        )
