"""Images with their objects, by split: drawn, or from a folder of photographs and annotations."""

import functools
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration.schema import DataConfig, ObjectDataConfig, check_object_files, nearest
from cnn_jax.data import annotations, objects, synthetic
from cnn_jax.data.annotations import DENSE, FORMATS, palette_masks
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.file_names import IMAGE_SUFFIXES, composed
from cnn_jax.data.folders import passed_over, places
from cnn_jax.data.normalization import normalization
from cnn_jax.data.objects import AnnotatedImage, AnnotationSet, Report
from cnn_jax.data.rasters import digest, greatest_of, image_kind, photograph
from cnn_jax.data.scenes import SPLITS, Scene, alike, in_train_too, without_training
from cnn_jax.data.town.layers import OBJECT_COLORS, OBJECTS
from cnn_jax.errors import InputError

SOURCES = ("synthetic", "penn_fudan", *(name for name in FORMATS if name != "yolo_polygons"))
"""What `data.source` may be."""

PENN_FUDAN_SEED = 2007
PENN_FUDAN_TEST = 50
"""Of its 170 photographs, drawn within each of its two places in proportion."""


@dataclass(frozen=True)
class ObjectScene:
    """An image, not decoded yet, and its objects.

    Attributes:
        scene: the image; `read` gives it with its `objects.number_map`.
        objects: gives the objects; of a drawn scene that draws it.
    """

    scene: Scene
    objects: Callable[[], AnnotatedImage]


@dataclass(frozen=True)
class ObjectSet:
    """Images and their objects, as a model sees them.

    Attributes:
        classes: their names, in the order of labels.
        category_ids: what COCO calls each.
        colors: of each class, from 0 to 255.
        splits: "train", "validation" and "test"; each may be empty.
        fingerprint: changes when any image, object, class or split does.
        channels: of every image.
        dtype: of every image.
        notes: sentences about what people should know.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    colors: tuple[tuple[int, int, int], ...]
    splits: Mapping[str, tuple[ObjectScene, ...]]
    fingerprint: str
    channels: int = 3
    dtype: str = "uint8"
    notes: tuple[str, ...] = ()

    @property
    def greatest(self) -> float:
        """The value of an image that becomes 1."""
        return greatest_of(self.dtype)


def open_objects(config: ObjectDataConfig, report: Report | None = None) -> ObjectSet:
    """The images and objects that a configuration names.

    Args:
        config: checked.
        report: told of objects that can't be used, which are then left out; None: what
            `config.faulty` says.

    Raises:
        InputError: a file is missing or can't be used.
    """
    if config.source not in SOURCES:
        raise InputError(
            f"data.source {config.source} is no source of objects:"
            f" {nearest(config.source, SOURCES)}."
        )
    if config.source == "synthetic":
        return _synthetic(config)
    if not config.directory:
        raise InputError(f"data.directory is empty: give the folder of {config.source}.")
    left_out: list[str] = []
    if report is None:
        report = left_out.append if config.faulty == "ignore" else _refuse
    directory = Path(config.directory).expanduser()
    if not directory.is_dir():
        raise InputError(f"data.directory {directory} is no folder: give that of the images.")
    if config.source == "penn_fudan":
        found, folders = _penn_fudan(directory, report)
    else:
        found, folders = _read(config, directory, report)
    notes = (
        [f"{len(left_out):,} objects are left out; the first: {left_out[0]}"] if left_out else []
    )
    notes += dict.fromkeys(sentence for of in found.values() for sentence in of.lost)
    return _opened(config, found, folders, notes)


def _refuse(sentence):
    raise InputError(f"{sentence} Or leave such objects out with --data.faulty ignore.")


def _synthetic(config):
    settings = DataConfig(scene_px=config.scene_px, scene_counts=config.scene_counts)
    scenes = synthetic.generate(settings)
    splits = {}
    for index, split in enumerate(SPLITS):
        splits[split] = []
        for number, scene in enumerate(scenes.splits[split]):
            draw = _Drawn(scene.name, (synthetic.DATA_SEED, index, number), config.scene_px)
            read = replace(scene, read=draw.read)
            splits[split].append(ObjectScene(read, draw.objects))
    fingerprint = hashlib.sha256(f"objects 1 {scenes.fingerprint}".encode()).hexdigest()
    return ObjectSet(
        OBJECTS,
        (1, 2),
        OBJECT_COLORS,
        {split: tuple(every) for split, every in splits.items()},
        fingerprint,
    )


class _Drawn:
    """A synthetic scene; its objects, a few kilobytes, are kept once it is drawn."""

    def __init__(self, name, seed, size_px):
        self._name, self._seed, self._size_px, self._known = name, seed, size_px, None

    def read(self):
        image, every = synthetic.draw_objects(self._seed, *self._size_px)
        height, width = self._size_px
        self._known = AnnotatedImage(self._name, height, width, every)
        return image, objects.number_map(self._known)

    def objects(self):
        if self._known is None:
            self.read()
        assert self._known is not None
        return self._known


def _penn_fudan(directory, report):
    """120 for training, of which a tenth validates, and 50 for test."""
    images = next(
        (directory / n for n in ("images", "PNGImages") if (directory / n).is_dir()), None
    )
    masks = next((directory / n for n in ("masks", "PedMasks") if (directory / n).is_dir()), None)
    if images is None or masks is None:
        raise InputError(
            f"{directory} has no folders images and masks (or PNGImages and PedMasks): give that of"
            " Penn-Fudan."
        )
    found = annotations.read("index_masks", masks, images, ["person"], report)
    test = round_robin(found.images, PENN_FUDAN_TEST, PENN_FUDAN_SEED)
    rest = [image for image in found.images if image not in test]
    validation = round_robin(rest, len(rest) // 10, PENN_FUDAN_SEED)
    splits = {
        "train": [image for image in rest if image not in validation],
        "validation": validation,
        "test": test,
    }
    sets = {split: replace(found, images=tuple(every)) for split, every in splits.items()}
    return sets, dict.fromkeys(SPLITS, images)


def round_robin(images: Sequence[AnnotatedImage], count: int, seed: int) -> list[AnnotatedImage]:
    """So many images, drawn by a seed within each place in proportion; the place is the name
    without its number."""
    places: dict[str, list[AnnotatedImage]] = {}
    for image in images:
        places.setdefault(image.name.rpartition(".")[0].rstrip("0123456789"), []).append(image)
    drawn, left, wanted = [], len(images), count
    for place in sorted(places):
        share = round(wanted * len(places[place]) / max(left, 1))
        drawn += random.Random(f"{seed} {place}").sample(places[place], share)
        left, wanted = left - len(places[place]), wanted - share
    return sorted(drawn, key=lambda image: image.name)


def _read(config, directory, report):
    sets: dict[str, AnnotationSet] = {}
    check_object_files(config)
    paths, images, classes = config.annotations or ("",), config.images, config.classes
    named = ("train", "test") if len(paths) == 2 else SPLITS[: len(paths)]
    images = images * len(paths) if len(images) == 1 else images
    folders = {split: directory / of for split, of in zip(named, images, strict=True)}
    for split, path in zip(named, paths, strict=True):
        where = directory / path
        if not where.exists():
            raise InputError(f"data.annotations names {where}, which isn't there: correct it.")
        sets[split] = annotations.read(config.source, where, folders[split], classes, report)
        classes = classes or sets[split].classes  # labels mean the same in all splits
    shares = dict(zip(SPLITS[1:], config.held_out, strict=True))
    train = sets["train"]
    order = sorted(train.images, key=lambda image: image.name)
    random.Random(f"{config.split_seed}").shuffle(order)
    for split in SPLITS[1:]:
        if split not in sets:
            count = round(shares[split] * len(train.images))
            held, order = order[:count], order[count:]
            sets[split] = replace(train, images=tuple(sorted(held, key=lambda i: i.name)))
            folders[split] = folders["train"]
    kept = {image.name for image in order}
    sets["train"] = replace(train, images=tuple(i for i in train.images if i.name in kept))
    return sets, folders


def _opened(config, sets, folders, notes):
    classes, ids = sets["train"].classes, sets["train"].ids
    if not sets["train"].images:
        raise InputError(f"no images of {config.source} are left to train on: give some.")
    kinds, splits, identity = {}, {}, []
    for split in SPLITS:
        opened = []
        for image in sets[split].images:
            raster = annotations.open_image(image, folders[split])
            path = Path(raster.name)
            kinds.setdefault(image_kind(raster), path)
            opened.append((image, raster, digest(path)))
        splits[split] = opened
        identity.append([[composed(i.name), file, _identity(i)] for i, _, file in opened])
    files = {split: [file for *_, file in opened] for split, opened in splits.items()}
    channels, dtype = _kind(kinds)
    fingerprint = hashlib.blake2b(
        json.dumps([classes, identity]).encode(), digest_size=16
    ).hexdigest()
    scenes = {
        split: tuple(
            ObjectScene(
                Scene(
                    image.name,
                    image.height_px,
                    image.width_px,
                    functools.partial(_decoded, raster, image, channels),
                ),
                functools.partial(_same, image),
            )
            for image, raster, _ in opened
        )
        for split, opened in splits.items()
    }
    colors = tuple(palette_masks.colors(len(classes) + 1)[1:])
    stored = {Path(raster.name) for opened in splits.values() for _, raster, _ in opened}
    notes = [
        *notes,
        *_without_annotations(config, folders, stored),
        *in_train_too(files),
        *alike(classes),
    ]
    mend = "add images of it, or lower data.held_out"
    notes += without_training("object", classes, _counts(classes, scenes["train"]), mend)
    return ObjectSet(classes, ids, colors, scenes, fingerprint, channels, dtype, tuple(notes))


def _without_annotations(config, folders, stored) -> list[str]:
    """Sentences on the images of folders that no annotations list; masks among them are none."""
    paths = [Path(config.directory).expanduser() / path for path in config.annotations or ()]
    masks = {path for path in paths if config.source in DENSE}
    said = []
    for folder in dict.fromkeys(folders.values()):
        left = [
            name
            for name in passed_over(folder, (*IMAGE_SUFFIXES, ".jp2", ".j2k"), stored)
            if masks.isdisjoint((folder / name).parents)
        ]
        if left:
            said.append(
                f"images of {folder} that no annotations list are left out: {places(left)}."
            )
    return said


def _counts(classes, train) -> list[int]:
    """Objects of each class, without crowds."""
    counts = [0] * len(classes)
    for scene in train:
        for one in scene.objects().objects:
            counts[one.label] += not one.crowd
    return counts


def _same(image):
    return image


def _kind(kinds):
    """Channels and type of all images; grey ones are repeated where others have colours."""
    dtypes = {dtype for _, dtype in kinds}
    channels = {count for count, _ in kinds}
    if len(dtypes) > 1 or (len(channels) > 1 and channels != {1, 3}):
        one, other = list(kinds.items())[:2]
        raise InputError(
            f"{other[1]} has {other[0][0]} channels of {other[0][1]}, and {one[1]} has"
            f" {one[0][0]} of {one[0][1]}: convert one of them."
        )
    return max(channels), dtypes.pop()


def _decoded(raster, image, channels):
    pixels, _ = photograph(raster)
    if pixels.shape[-1] != channels:
        pixels = np.repeat(pixels, channels, axis=-1)
    return pixels, objects.number_map(image)


def _identity(image: AnnotatedImage) -> list[Any]:
    """What of an image's objects decides about results."""
    every = []
    for one in image.objects:
        shape = one.shape
        if isinstance(shape, tuple):
            shape = [polygon.ravel().tolist() for polygon in shape]
        elif isinstance(shape, bytes):
            shape = shape.decode("ascii")
        every.append([one.label, one.box, shape, one.crowd])
    return every


def dataset_info(config: ObjectDataConfig, found: ObjectSet, train: Sequence) -> DatasetInfo:
    """What a network needs to know of images with objects; class counts are of objects.

    Args:
        config: `source`, `mean` and `std` are used.
        found: opened.
        train: `(image, numbers)` by index.

    Raises:
        InputError: a file can't be used, or `mean` and `std` don't fit the channels.
    """
    pixels = _Images(train)
    mean, std = normalization(config, found.channels, found.greatest, pixels)
    every = {(s.scene.height_px, s.scene.width_px) for of in found.splits.values() for s in of}
    return DatasetInfo(
        source=config.source,
        classes=found.classes,
        colors=found.colors,
        channels=found.channels,
        dtype=found.dtype,
        greatest=found.greatest,
        mean=mean,
        std=std,
        class_counts=tuple(_counts(found.classes, found.splits["train"])),
        sizes={split: len(found.splits[split]) for split in SPLITS},
        image_px=every.pop() if len(every) == 1 else None,
        fingerprint=found.fingerprint,
        description={"category_ids": list(found.category_ids)},
    )


class _Images(Sequence):
    """Images alone, whose pixels all count."""

    def __init__(self, scenes):
        self._scenes = scenes

    def __len__(self):
        return len(self._scenes)

    def __getitem__(self, index):
        return self._scenes[index][0], None
