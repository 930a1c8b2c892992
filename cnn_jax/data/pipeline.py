"""From scenes to batches on the devices: decoded once, shuffled globally, sliced by process, read ahead.

Training sees *regions*: uint8 cut-outs somewhat larger than a crop, which the device turns, zooms and crops. Every scene is
divided into cells no larger than a crop, and an epoch visits each cell of each scene once, so that large scenes count for more
than small ones and no part is left out. The step is the position: batch n is the same however often the run was interrupted.
"""

import collections
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from cnn_jax.data.scenes import IGNORED, Scene

READ_THREADS = 8  # reading and decoding release the interpreter; more threads than cores hide the disk


class DecodedScenes(Sequence):
    """Scenes decoded at first use: `scenes[i]` is `(image uint8 [h, w, 3], mask uint8 [h, w])`.

    Results are kept until they fill `budget_bytes`. Of the scenes beyond that, the last two used are kept besides, because evaluation
    takes many windows of one scene; the others are decoded again. Threads may share it.
    """

    def __init__(self, scenes: Sequence[Scene], budget_bytes: float):
        self.scenes = tuple(scenes)
        self._kept = {}
        self._recent = collections.deque(maxlen=2)
        self._left = budget_bytes
        self._locks = [threading.Lock() for _ in self.scenes]
        self._budget_lock = threading.Lock()

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        if index in self._kept:
            return self._kept[index]
        with self._locks[index]:
            with self._budget_lock:
                known = dict(self._recent)
            if index in self._kept or index in known:
                return self._kept.get(index) or known[index]
            image, mask = self.scenes[index].read()
            with self._budget_lock:
                if image.nbytes + mask.nbytes <= self._left:
                    self._left -= image.nbytes + mask.nbytes
                    self._kept[index] = image, mask
                else:
                    self._recent.append((index, (image, mask)))
            return image, mask

    @property
    def largest_px(self) -> tuple[int, int]:
        """The greatest height and the greatest width among the scenes."""
        return max(s.height_px for s in self.scenes), max(s.width_px for s in self.scenes)


def cell_bounds(size_px: int, cell_px: int) -> list[tuple[int, int]]:
    """Divides a length into as few equal cells as are no longer than `cell_px`: half-open bounds that cover it exactly once."""
    cells = -(-size_px // cell_px)
    edges = [i * size_px // cells for i in range(cells + 1)]
    return list(itertools.pairwise(edges))


class RegionSource(grain.sources.RandomAccessDataSource):
    """Random access to the training regions of scenes, one a cell.

    An element holds `image` uint8 [height, width, 3] and `mask` uint8 [height, width] of `region_px`; `cell_px` int32 [4] (top,
    left, bottom, right, half-open) is the cell in the region's coordinates; `extent_px` int32 [2] is how much of the region, from
    its top left corner, holds scene: a smaller scene is padded, its mask with `IGNORED`.
    """

    def __init__(self, scenes: DecodedScenes, crop_px: tuple[int, int], region_px: tuple[int, int]):
        self.scenes, self.region_px = scenes, region_px
        self.cells = [
            (index, top, left, bottom, right)
            for index, scene in enumerate(scenes.scenes)
            for top, bottom in cell_bounds(scene.height_px, crop_px[0])
            for left, right in cell_bounds(scene.width_px, crop_px[1])
        ]

    def __len__(self):
        return len(self.cells)

    def __getitem__(self, record_key):
        index, top, left, bottom, right = self.cells[record_key]
        image, mask = self.scenes[index]
        rows, columns = self.region_px
        y = int(np.clip((top + bottom - rows) // 2, 0, max(image.shape[0] - rows, 0)))
        x = int(np.clip((left + right - columns) // 2, 0, max(image.shape[1] - columns, 0)))
        return {
            **cut(image, mask, y, x, self.region_px),
            "cell_px": np.array([top - y, left - x, bottom - y, right - x], np.int32),
            "extent_px": np.array([min(rows, image.shape[0] - y), min(columns, image.shape[1] - x)], np.int32),
        }


def cut(image, mask, y: int, x: int, size_px: tuple[int, int]) -> dict[str, np.ndarray]:
    """The part of a scene from (y, x) with `size_px`; beyond the scene the image repeats its edge and the mask is `IGNORED`."""
    image, mask = image[y : y + size_px[0], x : x + size_px[1]], mask[y : y + size_px[0], x : x + size_px[1]]
    down, right = size_px[0] - mask.shape[0], size_px[1] - mask.shape[1]
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
        mask = np.pad(mask, ((0, down), (0, right)), constant_values=IGNORED)
    return {"image": image, "mask": mask}


def training_batches(source, *, seed: int, batch_size: int, process_index: int = 0, process_count: int = 1) -> grain.MapDataset:
    """The endless sequence of training batches of one process: element n is batch n, a dict of arrays.

    Each epoch is shuffled anew over the whole source, then processes take turns, so that the union of what they read is what one
    process would. Each example carries its `position` (uint32) in the stream, from which its augmentation follows.

    Args:
        source: random access to examples, which are dicts of arrays. One with a method `batch(indices)`, which returns the examples
            stacked, is asked for whole batches: small images are read many times as fast.
        seed: of the order.
        batch_size: over all processes.
        process_index: which of `process_count` processes this is.
        process_count: processes that share a batch.
    """
    numbers = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    numbered = numbers.map_with_index(lambda position, number: (number, position))
    read = getattr(source, "batch", None) or (lambda numbers: stacked([source[number] for number in numbers]))

    def read_batch(numbered):
        numbers, positions = zip(*numbered, strict=True)
        return {**read(numbers), "position": np.array(positions, np.uint64).astype(np.uint32)}

    return numbered[process_index::process_count].batch(batch_size // process_count, batch_fn=read_batch)


def stacked(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Examples of the same shapes as one batch."""
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def read_ahead(batches: grain.MapDataset, start: int, place: Callable, prefetch_batches: int) -> Iterator:
    """Batches from number `start` on, read by threads and placed on the devices before they are asked for.

    Args:
        batches: element n is batch n.
        start: the first number.
        place: puts a host batch on the devices.
        prefetch_batches: how many are read ahead on the host; two more lie on the devices.
    """
    threads = min(READ_THREADS, prefetch_batches)  # Grain warns of threads that the buffer leaves without work
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch_batches)
    on_devices = batches[start:].to_iter_dataset(options).map(place)
    return iter(grain.experimental.ThreadPrefetchIterDataset(on_devices, prefetch_buffer_size=2))


class Timed:
    """An iterator that adds up, in `waited_s`, the seconds its user spends waiting for it."""

    def __init__(self, iterator: Iterator):
        self._iterator = iterator
        self.waited_s = 0.0

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        try:
            return next(self._iterator)
        finally:
            self.waited_s += time.perf_counter() - start
