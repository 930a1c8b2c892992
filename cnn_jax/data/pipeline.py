"""From scenes to batches on the devices: decoded once, shuffled globally, sliced by process, read
ahead.

Training sees *regions*: cut-outs somewhat larger than a crop, which the device turns, zooms and
crops. Every scene is divided into cells no larger than a crop, and an epoch visits each cell of
each scene once, so that large scenes count for more than small ones and no part is left out. Of a
region only what its crop will see need be read. The step is the position: batch n is the same
however often the run was interrupted.
"""

import collections
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_jax.data.order import Order
from cnn_jax.data.scenes import Scene, nothing_of

if TYPE_CHECKING:
    import grain

    from cnn_jax.data.augmentation import Windows

READ_THREADS = (
    8  # reading and decoding release the interpreter; more threads than cores hide the disk
)


class DecodedScenes(Sequence):
    """Scenes decoded at first use: `scenes[i]` is `(image [h, w, channels], mask [h, w])`.

    Results are kept until they fill `budget_bytes`. Of the scenes beyond that, the last two used
    are kept besides, because evaluation takes many windows of one scene; the others are decoded
    again. Threads may share it.
    """

    def __init__(self, scenes: Sequence[Scene], budget_bytes: float) -> None:
        self.scenes = tuple(scenes)
        self._kept = {}
        self._recent = collections.deque(maxlen=2)
        self._left = budget_bytes
        self._locks = [threading.Lock() for _ in self.scenes]
        self._budget_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self._kept:
            return self._kept[index]
        with self._locks[index]:
            with self._budget_lock:
                known = dict(self._recent) | self._kept
            if index in known:
                return known[index]
            image, mask = self.scenes[index].read()
            size = image.nbytes + mask.nbytes
            with self._budget_lock:
                if size <= self._left:
                    self._left -= size
                    self._kept[index] = image, mask
                else:
                    self._recent.append((index, (image, mask)))
            return image, mask

    @property
    def largest_px(self) -> tuple[int, int]:
        """The greatest height and the greatest width among the scenes."""
        return max(s.height_px for s in self.scenes), max(s.width_px for s in self.scenes)


def cell_bounds(size_px: int, cell_px: int) -> list[tuple[int, int]]:
    """Divides a length into as few equal cells as are no longer than `cell_px`: half-open bounds
    that cover it exactly once."""
    cells = -(-size_px // cell_px)
    edges = [i * size_px // cells for i in range(cells + 1)]
    return list(itertools.pairwise(edges))


class RegionSource:
    """Random access to the training regions of scenes, one a cell.

    An element holds `image` [height, width, channels] of `region_px`, of the scenes' own type, and
    `mask` uint8 [height, width]; `cell_px` int32 [4] (top, left, bottom, right, half-open) is the
    cell in the region's coordinates; `extent_px` int32 [2] is how much of the region, from its top
    left corner, holds scene: a smaller scene is padded, its image with its edge, its mask with
    `IGNORED`.

    Args:
        scenes: to take regions from.
        crop_px: height and width of the crops, and at most of the cells.
        region_px: height and width of the regions.
        windows: an `augmentation.Windows`: what of a region `batch` need read; None: all.

    Attributes:
        scene: of each element, int32 [n].
        corner_px: of each element, its region's first row and column in the scene, int32 [n, 2].
        cell_px: of all elements, int32 [n, 4].
        extent_px: of all elements, int32 [n, 2].
    """

    def __init__(
        self,
        scenes: DecodedScenes,
        crop_px: tuple[int, int],
        region_px: tuple[int, int],
        windows: "Windows | None" = None,
    ) -> None:
        self.scenes, self.region_px, self.windows = scenes, region_px, windows
        cells = [
            (index, top, left, bottom, right)
            for index, scene in enumerate(scenes.scenes)
            for top, bottom in cell_bounds(scene.height_px, crop_px[0])
            for left, right in cell_bounds(scene.width_px, crop_px[1])
        ]
        cells, region = np.array(cells, np.int32), np.array(region_px, np.int32)
        self.scene = cells[:, 0]
        sizes = np.array([(s.height_px, s.width_px) for s in scenes.scenes], np.int32)[self.scene]
        self.corner_px = np.clip(
            (cells[:, 1:3] + cells[:, 3:] - region) // 2, 0, np.maximum(sizes - region, 0)
        )
        self.cell_px = cells[:, 1:] - np.tile(self.corner_px, 2)
        self.extent_px = np.minimum(region, sizes - self.corner_px)

    def __len__(self):
        return len(self.scene)

    def __getitem__(self, record_key):
        return {name: values[0] for name, values in self.batch([record_key]).items()}

    def batch(
        self, record_keys: Sequence[int], positions: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Several elements, stacked.

        With `positions` uint32 [n] of the examples in the stream, and windows, pixels are those
        that each crop will see of its region, in the top left corner of a room for the largest
        window, whose rest holds anything; `start` int32 [n] says how many places after the first
        pixel the region's would lie.
        """
        keys = np.asarray(record_keys)
        cells, extents = self.cell_px[keys], self.extent_px[keys]
        found = {"cell_px": cells, "extent_px": extents}
        windows = None if positions is None else self.windows
        if positions is None or windows is None:
            size, corners, sizes = self.region_px, self.corner_px[keys], extents
        else:
            size = tuple(map(min, self.region_px, windows.size_px))
            seen = windows(positions, cells, extents)
            corners, sizes = self.corner_px[keys] + seen[:, :2], seen[:, 2:] - seen[:, :2]
            found["start"] = -(seen[:, 0] * size[1] + seen[:, 1])
        like, like_mask = self.scenes[int(self.scene[keys[0]])]
        images = aligned((len(keys), *size, like.shape[-1]), like.dtype)
        masks = aligned((len(keys), *size), like_mask.dtype)
        for number, scene, (top, left), (height, width) in zip(
            range(len(keys)), self.scene[keys], corners.tolist(), sizes.tolist(), strict=True
        ):
            part = slice(top, top + height), slice(left, left + width)
            for to, of in zip((images[number], masks[number]), self.scenes[scene], strict=True):
                to[:height, :width] = of[part]
            if windows is None:
                _pad(images[number], masks[number], height, width)
        return {"image": images, "mask": masks, **found}


def _pad(image, mask, height, width):
    """Fills what lies outside [:height, :width]: the image with its edge, the mask with
    `nothing_of` its type."""
    image[:height, width:] = image[:height, width - 1 : width]
    image[height:] = image[height - 1 : height]
    mask[:height, width:] = nothing_of(mask.dtype)
    mask[height:] = nothing_of(mask.dtype)


def cut(
    image: np.ndarray, mask: np.ndarray, y: int, x: int, size_px: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The part of a scene from (y, x) with `size_px`; beyond the scene the image repeats its edge
    and the mask is `IGNORED`."""
    image, mask = (
        image[y : y + size_px[0], x : x + size_px[1]],
        mask[y : y + size_px[0], x : x + size_px[1]],
    )
    down, right = size_px[0] - mask.shape[0], size_px[1] - mask.shape[1]
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
        mask = np.pad(mask, ((0, down), (0, right)), constant_values=nothing_of(mask.dtype))
    return {"image": image, "mask": mask}


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array not yet written, begun where a CPU device takes it as it is; any other would be
    copied there once more."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    bytes_ = np.empty(size + 64, np.uint8)
    start = -bytes_.ctypes.data % 64
    return bytes_[start : start + size].view(dtype).reshape(shape)


def training_batches(
    source: Any, *, seed: int, batch_size: int, share: slice = slice(None)
) -> "grain.MapDataset":
    """The endless sequence of training batches of one process: element n is batch n, a dict of
    arrays.

    Each epoch is shuffled anew over the whole source, then batches are divided among processes, so
    that what they read, one after the other, is what one process would. Each example carries its
    `position` (uint32) in the stream, from which its augmentation follows.

    Args:
        source: random access to examples, which are dicts of arrays. One with a method
            `batch(indices, positions)`, which returns the examples stacked, is asked for whole
            batches: small images are read many times as fast.
        seed: of the order.
        batch_size: over all processes.
        share: the part of each batch that this process reads.
    """
    read = getattr(source, "batch", None) or (
        lambda numbers, _: stacked([source[number] for number in numbers])
    )
    order = Order(len(source), seed)

    def read_batch(n):
        positions = range(n * batch_size, (n + 1) * batch_size)[share]
        numbers = order(positions)
        positions = np.arange(positions.start, positions.stop).astype(np.uint32)
        return {**read(numbers, positions), "position": positions}

    import grain  # here, as everywhere in this file: what only predicts does without its second

    return grain.MapDataset.range(sys.maxsize).map(read_batch)


def in_order(
    count: int, batch_size: int, read: Callable[[Sequence[int]], Any]
) -> "grain.MapDataset":
    """The batches that `read` makes of the numbers 0 to `count` - 1; the last may be shorter."""
    import grain

    return grain.MapDataset.range(count).batch(batch_size, batch_fn=read)


def stacked(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Examples of the same shapes as one batch."""
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def read_ahead(
    batches: "grain.MapDataset", start: int, place: Callable, prefetch_batches: int
) -> Iterator:
    """Batches from number `start` on, read by threads and placed on the devices before they are
    asked for.

    Args:
        batches: element n is batch n.
        start: the first number.
        place: puts a host batch on the devices.
        prefetch_batches: how many are read ahead on the host; two more lie on the devices. 0: each
            is read when it is asked for, which is faster for batches of a few hundred bytes.
    """
    import grain

    if not prefetch_batches:
        return (place(batches[n]) for n in range(start, len(batches)))
    threads = min(
        READ_THREADS, prefetch_batches
    )  # Grain warns of threads that the buffer leaves without work
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch_batches)
    on_devices = batches[start:].to_iter_dataset(options).map(place)
    return iter(grain.experimental.ThreadPrefetchIterDataset(on_devices, prefetch_buffer_size=2))


class Timed:
    """An iterator that adds up, in `waited_s`, for how many seconds the devices wait for it.

    A wait costs nothing while the devices are still at an earlier step. It counts whole if they
    have finished by its end, so the sum is an upper bound.

    Attributes:
        computing: what the step before makes, a pytree; numbers and no arrays: the devices have
            nothing to do.
    """

    def __init__(self, iterator: Iterator) -> None:
        self._iterator = iterator
        self.waited_s = 0.0
        self.computing: Any = ()

    def __iter__(self):
        return self

    def __next__(self):
        import jax

        start = time.perf_counter()
        try:
            return next(self._iterator)
        finally:
            waited_s = time.perf_counter() - start
            made = jax.tree.leaves(self.computing)
            if all(leaf.is_ready() for leaf in made if hasattr(leaf, "is_ready")):
                self.waited_s += waited_s
