"""Training regions with their objects: `pipeline.RegionSource`, and a table beside the pixels."""

from collections.abc import Sequence

import numpy as np

from cnn_jax.data.object_scenes import ObjectScene
from cnn_jax.data.pipeline import RegionSource

NO_OBJECT = -1
"""The label of rows of a table that no object fills."""


class ObjectSource:
    """Random access to training regions, one a cell, and the objects that reach into each.

    An element is that of `RegionSource`, whose `mask` is int32: 0, the row of `boxes` and `labels`
    from 1, or `objects.NOWHERE`; and beside it `boxes` float32 [rows, 4] (left, top, right, bottom
    in px of the region) and `labels` int32 [rows], `NO_OBJECT` where no object fills a row. The
    number of rows is that of the fullest region. Crowds fill none: the mask knows their pixels.

    Args:
        regions: of scenes whose masks are `objects.number_map`s.
        annotated: the same scenes' objects.
    """

    def __init__(self, regions: RegionSource, annotated: Sequence[ObjectScene]) -> None:
        self.regions = regions
        every = [scene.objects().objects for scene in annotated]
        self._boxes = [np.array([one.box for one in of], np.float32).reshape(-1, 4) for of in every]
        self._labels = [np.array([one.label for one in of], np.int32) for of in every]
        self._alone = [np.array([not one.crowd for one in of], bool) for of in every]
        self.rows = max(max(len(self._within(key)) for key in range(len(self.regions))), 1)

    def __len__(self):
        return len(self.regions)

    def __getitem__(self, record_key):
        return {name: values[0] for name, values in self.batch([record_key]).items()}

    def _within(self, key: int) -> np.ndarray:
        """The numbers of the objects, but for crowds, of which a part lies in a region."""
        scene = self.regions.scene[key]
        boxes = self._boxes[scene]
        top, left = self.regions.corner_px[key]
        height, width = self.regions.extent_px[key]
        across = (boxes[:, 0] < left + width) & (boxes[:, 2] > left)
        down = (boxes[:, 1] < top + height) & (boxes[:, 3] > top)
        return np.flatnonzero(across & down & self._alone[scene])

    def batch(
        self, record_keys: Sequence[int], positions: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Several elements, stacked; `positions` as `RegionSource.batch` takes them."""
        found = self.regions.batch(record_keys, positions)
        count = len(record_keys)
        boxes = np.zeros((count, self.rows, 4), np.float32)
        labels = np.full((count, self.rows), NO_OBJECT, np.int32)
        for place, key in enumerate(record_keys):
            scene, within = self.regions.scene[key], self._within(key)
            corner = self.regions.corner_px[key]
            boxes[place, : len(within)] = self._boxes[scene][within] - np.tile(corner[::-1], 2)
            labels[place, : len(within)] = self._labels[scene][within]
            # From numbers in the scene to rows of the table. What the room beyond the pixels that
            # were read holds is anything, and stays so.
            rows = np.zeros(len(self._boxes[scene]) + 2, np.int32)
            rows[within + 1] = np.arange(1, len(within) + 1)
            rows[-1] = -1
            mask = found["mask"][place]
            np.clip(mask, -1, len(rows) - 2, out=mask)
            mask[:] = rows[mask]
        return {**found, "boxes": boxes, "labels": labels}
