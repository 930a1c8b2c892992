"""What a set of images with objects holds, in words: before a model sees it."""

import itertools
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cnn_jax.configuration.schema import ObjectDataConfig
from cnn_jax.data import objects
from cnn_jax.data.object_scenes import ObjectScene, ObjectSet, open_objects
from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.evaluation.object_windows import box_ious

SMALL_PX, LARGE_PX = 32**2, 96**2
"""COCO's small objects have fewer pixels, its large ones more."""

SAME_IOU = 0.95
"""Boxes of one class in one image are duplicates from this IoU on."""

MOST_LISTED = 10


@dataclass(frozen=True)
class ObjectInspection:
    """What `inspect_objects` found.

    Attributes:
        found: the set.
        faulty: a sentence for each object that can't be used.
        duplicates: a sentence for each pair of objects that are one.
        counts: of each split, int64 [classes, 3]: small, medium and large objects.
        crowds: of each split.
        empty: images without objects, of each split.
        unreadable: a sentence for each image that can't be decoded.
        readable: the images that can, by split.
    """

    found: ObjectSet
    faulty: tuple[str, ...]
    duplicates: tuple[str, ...]
    counts: dict[str, np.ndarray]
    crowds: dict[str, int]
    empty: dict[str, int]
    unreadable: tuple[str, ...]
    readable: dict[str, tuple[ObjectScene, ...]]


def inspect_objects(config: ObjectDataConfig) -> ObjectInspection:
    """Opens a set of images with objects, decodes each once, counts, and looks for what is wrong.

    Raises:
        InputError: the set can't be opened at all.
    """
    faulty: list[str] = []
    found = open_objects(config, faulty.append)
    counts = {split: np.zeros((len(found.classes), 3), np.int64) for split in SPLITS}
    crowds, empty, duplicates = Counter(), Counter(), []
    complaints: dict[str, list[str]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for split in SPLITS:
            complaints[split] = list(threads.map(_complaint, found.splits[split]))
    readable = {
        split: tuple(itertools.compress(found.splits[split], [not one for one in of]))
        for split, of in complaints.items()
    }
    for split in SPLITS:
        for scene in found.splits[split]:
            image = scene.objects()
            empty[split] += not image.objects
            size = image.height_px, image.width_px
            for one in image.objects:
                if one.crowd:
                    crowds[split] += 1
                    continue
                area = one.box_area
                if one.shape is not None:
                    area = objects.area(objects.shape_runs(one.shape, one.box, *size), *size)
                counts[split][one.label, int(area >= SMALL_PX) + int(area > LARGE_PX)] += 1
            duplicates += _duplicates(image, found.classes)
    return ObjectInspection(
        found,
        tuple(faulty),
        tuple(duplicates),
        counts,
        {split: crowds[split] for split in SPLITS},
        {split: empty[split] for split in SPLITS},
        tuple(filter(None, itertools.chain(*complaints.values()))),
        readable,
    )


def _complaint(scene) -> str:
    """What is wrong with an image's file; "" where it can be decoded."""
    try:
        scene.scene.read()
    except InputError as error:
        return str(error)
    return ""


def _duplicates(image, classes):
    """Sentences on objects of one class with nearly the same box."""
    every = [(i, one) for i, one in enumerate(image.objects) if not one.crowd]
    if len(every) < 2:
        return
    boxes = np.array([one.box for _, one in every])
    labels = np.array([one.label for _, one in every])
    same = (box_ious(boxes, boxes) >= SAME_IOU) & (labels[:, None] == labels)
    for i, j in np.argwhere(np.triu(same, 1)).tolist():
        ids = [one.id if one.id is not None else n for n, one in (every[i], every[j])]
        yield (
            f"{image.name}: {classes[labels[i]]} {ids[0]} and {ids[1]} have nearly the same box:"
            " remove one."
        )


def report(inspection: ObjectInspection) -> str:
    """An inspection as text."""
    found = inspection.found
    sizes = Counter(
        (one.scene.height_px, one.scene.width_px) for of in found.splits.values() for one in of
    )
    shown = [f"{number} of {width} x {height}" for (height, width), number in sizes.most_common(8)]
    more = f", {len(sizes) - 8} more" if len(sizes) > 8 else ""
    counts = ", ".join(f"{len(found.splits[split])} {split}" for split in SPLITS)
    lines = [
        f"images: {counts}",
        f"channels: {found.channels} of {found.dtype}, of which {found.greatest:g} is 1",
        f"sizes, width x height in px: {', '.join(shown)}{more}",
        f"fingerprint: {found.fingerprint}",
        "",
    ]
    splits = [split for split in SPLITS if found.splits[split]]
    width = max(map(len, ("images without objects", *found.classes))) + 2
    lines.append("objects".ljust(width) + "".join(f"{split:>26}" for split in splits))
    lines.append(" " * width + f"{'small / medium / large':>26}" * len(splits))
    for label, name in enumerate(found.classes):
        cells = (inspection.counts[split][label] for split in splits)
        texts = (f"{small:,} / {medium:,} / {large:,}" for small, medium, large in cells)
        lines.append(name.ljust(width) + "".join(f"{text:>26}" for text in texts))
    totals = {
        "crowds": inspection.crowds,
        "images without objects": inspection.empty,
        "images": {split: len(found.splits[split]) for split in splits},
    }
    for name, values in totals.items():
        lines.append(name.ljust(width) + "".join(f"{values[split]:>26,}" for split in splits))
    for split in splits:
        absent = [
            n for n, of in zip(found.classes, inspection.counts[split], strict=True) if not of.any()
        ]
        if absent and len(absent) < 20:
            lines.append(f"no {split} image has {', '.join(absent)}")
        elif absent:
            lines.append(f"no {split} image has {len(absent)} of the classes")
    lines += [f"note: {sentence}" for sentence in found.notes]
    for title, sentences in (
        ("objects that can't be used", inspection.faulty),
        ("duplicates", inspection.duplicates),
    ):
        lines += ["", f"{title}: {len(sentences) or 'none'}"]
        lines += [f"  {sentence}" for sentence in sentences[:MOST_LISTED]]
        if len(sentences) > MOST_LISTED:
            lines.append(f"  and {len(sentences) - MOST_LISTED:,} more")
    if inspection.unreadable:
        lines += ["", "images that can't be decoded:", *(f"  {s}" for s in inspection.unreadable)]
    return "\n".join(lines)
