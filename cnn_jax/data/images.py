"""What a set of labelled images is, whether prepared by TFDS or kept in a folder, and how its
images become arrays."""

import hashlib
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.configuration.schema import ImageDataConfig
from cnn_jax.data import cifar, image_folders, tfds
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.file_names import natural
from cnn_jax.data.folds import deal
from cnn_jax.data.normalization import normalization
from cnn_jax.data.pipeline import aligned
from cnn_jax.data.rasters import (
    DamagedError,
    Raster,
    greatest_of,
    image_kind,
    open_raster,
    photograph,
    upright,
)
from cnn_jax.data.scenes import SPLITS, alike, in_train_too, without_training
from cnn_jax.data.stored_images import Examples, Pooled, StoredImages, digest
from cnn_jax.errors import InputError

_CHUNK = 256  # examples read at once, where many are wanted
_UNREAD = np.iinfo(np.int32).min


class LabelledImages(Sequence):
    """Images of one split with their labels, decoded at first use: `images[i]` is `([height, width,
    channels], label)`.

    Decoded images are kept as far as the budget goes, those from the start first; the others are
    decoded again. Arrays that are kept can't be written to. Threads may share it.

    Args:
        examples: the stored split that they are of.
        indices: which of its examples, int [n].
        decode: from the bytes of an image to [height, width, channels]; raises `InputError`, or
            anything on damaged bytes.
        shape: height, width and channels; an attribute too.
        keep: how many decoded images are kept.
        dtype: of the decoded images; an attribute too.
    """

    def __init__(
        self,
        examples: Examples,
        indices: np.ndarray,
        decode: Callable,
        shape: tuple[int, int, int],
        keep: int,
        dtype: str = "uint8",
    ) -> None:
        self._examples, self._decode, self.shape = examples, decode, shape
        self.dtype = np.dtype(dtype)
        self._indices = np.asarray(indices)
        # Pages of empty arrays take memory when they are first written. Two threads that decode the
        # same image write the same.
        self._kept = np.empty((min(keep, len(self._indices)), *shape), self.dtype)
        self._decoded = np.zeros(len(self._kept), bool)
        self._labels = np.full(len(self._indices), _UNREAD, np.int32)

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        index = range(len(self))[index]
        if index < len(self._kept) and self._decoded[index]:
            image = self._kept[index]
            image.flags.writeable = False
            return image, int(self._labels[index])
        [(data, label)] = self._examples.read([int(self._indices[index])])
        return self._image(index, data, label), label

    @property
    def labels(self) -> np.ndarray:
        """All labels, int32 [n]. They are kept; what hasn't been read is, without decoding images.

        Labels of a TFDS set lie beside the images: to learn them all, all files are read once.
        """
        unread = np.flatnonzero(self._labels == _UNREAD)
        for chunk in _chunks(unread):
            self._labels[chunk] = self._examples.labels(self._indices[chunk].tolist())
        return self._labels.copy()

    def name(self, index: int) -> str:
        """What pictures call image `index`: a file's name, or "train 123"."""
        return self._examples.name(int(self._indices[index]))

    def arrays(self, indices: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """These images and labels (all, without `indices`), copied: [n, height, width, channels]
        and int32 [n]."""
        indices = np.arange(len(self)) if indices is None else np.asarray(indices, int)
        images, labels = (
            aligned((len(indices), *self.shape), self.dtype),
            np.empty(len(indices), np.int32),
        )

        def fill(chunk):
            wanted = indices[chunk]
            known = wanted < len(self._kept)
            known[known] = self._decoded[wanted[known]]
            images[chunk[known]] = self._kept[wanted[known]]
            labels[chunk[known]] = self._labels[wanted[known]]
            if not known.all():
                new = wanted[~known]
                read = self._examples.read(self._indices[new].tolist())
                for at, index, (data, label) in zip(chunk[~known], new.tolist(), read, strict=True):
                    images[at], labels[at] = self._image(index, data, label), label

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(fill, _chunks(np.arange(len(indices)))))
        return images, labels

    def _image(self, index, data, label):
        try:
            image = self._decode(data)
        except MemoryError:
            raise
        # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error and more
        except Exception as error:
            place = self._examples.place(int(self._indices[index]))
            if isinstance(error, InputError) and not isinstance(error, DamagedError):
                raise InputError(f"{place} {error}") from None
            raise InputError(
                f"{place} can't be decoded, being damaged or no image: {self._examples.mend}."
            ) from error
        self._labels[index] = label
        if index < len(self._kept):
            self._kept[index] = image
            self._decoded[index] = True  # last: other threads then take the rest as written
        return image


@dataclass(frozen=True)
class ImageSet:
    """Labelled images as a model sees them.

    `classes` are the names in label order; `splits` has "train", "validation" and "test"
    (validation may be empty); `channels` and `dtype` are those of every image, and `image_px` its
    height and width as delivered. The fingerprint is a hexadecimal digest that changes when any
    image, label, class or split does; of sets beyond `stored_images.HASHED_BYTES`, when a file's
    name or size does. `notes` are sentences about what people should know.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, LabelledImages]
    channels: int
    image_px: tuple[int, int]
    fingerprint: str
    dtype: str = "uint8"
    notes: tuple[str, ...] = ()

    @property
    def greatest(self) -> float:
        """The value of an image that becomes 1."""
        return greatest_of(self.dtype)


class ImageSource:
    """Random access for `pipeline.training_batches`: {"image": [height, width, channels],
    "label": int32 []}."""

    def __init__(self, images: LabelledImages) -> None:
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, record_key):
        image, label = self.images[record_key]
        return {"image": image, "label": np.int32(label)}

    def batch(
        self, record_keys: Sequence[int], positions: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Several examples, stacked."""
        images, labels = self.images.arrays(record_keys)
        return {"image": images, "label": labels}


def open_images(config: ImageDataConfig) -> ImageSet:
    """The labelled images that `config` names: a TFDS set (see `tfds.find`), CIFAR's own files
    where they lie in the folder (see `cifar.find`), or a folder (see `image_folders.find`).

    The published test split is the test. Where there is none, or its labels are withheld
    (ImageNet), the published validation split is; where there is neither, `test_share` of train.
    Validation is the published split where it isn't needed as the test; else `validation_share` of
    train. What is held out of train, and which `train_examples` are used, follows from `split_seed`
    alone: a smaller training set is part of a larger one, and validation and test stay the same.
    With `folds`, all images are dealt anew into parts, of which one is the test and the next
    validation. Groups (see `image_folders.find`) are never parted.

    With `image_px`, the central part of an image that has the shape of `image_px` and spans
    `crop_share` of the largest such part is resized to it (`crop_share` of the shorter side, for
    squares), by `interpolation` (bilinear and bicubic over the area that a new pixel covers).
    Without, images must be of one size and stay as they are.

    Images have the set's number of channels and its type: where grey and coloured ones are mixed,
    colour becomes grey by ITU-R 601 or grey is repeated; alpha of PNG and WebP is dropped; where 8
    and 16 bits are mixed, 16 are scaled to 8. An orientation turns images upright. No image is
    decoded yet.

    Raises:
        InputError: the set can't be found or used; later, from reading, an image can't be. It says
            which, and the mend.
    """
    if 0 in config.image_px and tuple(config.image_px) != (0, 0):
        raise InputError(
            f"data.image_px is {tuple(config.image_px)}: give height and width, or (0,0) for the"
            " images' own."
        )
    if config.source == "folders":
        stored = image_folders.find(config)
    else:
        stored = (cifar if cifar.lies_in(config) else tfds).find(config)
    resized = tuple(config.image_px) != (0, 0)
    image_px = (config.image_px[0], config.image_px[1]) if resized else stored.image_px
    if image_px is None:
        raise InputError(
            f"images of {config.source} differ in size: give one to them all with data.image_px,"
            " such as (224,224)."
        )
    if resized and not 0 < config.crop_share <= 1:
        raise InputError(
            f"data.crop_share is {config.crop_share}: it must be above 0 and at most 1."
        )
    channels = config.channels or stored.channels
    shape = (*image_px, channels)
    order = (
        np.random.default_rng(0).permutation(image_px[0] * image_px[1]) if config.permuted else None
    )

    def decode(data):
        crop_share = config.crop_share if resized else None
        image = decoded(data, channels, stored.dtype, image_px, crop_share, config.interpolation)
        return image if order is None else image.reshape(-1, channels)[order].reshape(shape)

    chosen = _chosen(stored, config)
    total = sum(len(indices) for _, indices in chosen.values())
    image_bytes = int(np.prod(shape)) * np.dtype(stored.dtype).itemsize
    affordable = min(1.0, config.memory_budget_gib * 2**30 / (total * image_bytes))
    splits = {
        split: LabelledImages(
            examples, indices, decode, shape, int(affordable * len(indices)), stored.dtype
        )
        for split, (examples, indices) in chosen.items()
    }
    divided = {
        split: hashlib.blake2b(indices.astype("<i8").tobytes()).hexdigest()
        for split, (_, indices) in chosen.items()
    }
    files = {
        split: [examples.digests[i] for i in indices.tolist() if examples.digests]
        for split, (examples, indices) in chosen.items()
    }
    notes = [*stored.notes, *in_train_too(files), *alike(stored.classes)]
    if config.source == "folders":  # of others, all files would be read to learn the labels
        counts = np.bincount(splits["train"].labels, minlength=len(stored.classes)).tolist()
        mend = (
            "add images of it, lower data.validation_share or data.test_share, or raise"
            " data.train_examples"
        )
        notes += without_training("image", stored.classes, counts, mend)
    delivered = [image_px, channels, config.crop_share if resized else None, config.permuted]
    if resized and config.interpolation != "bilinear":
        delivered.append(config.interpolation)
    return ImageSet(
        stored.classes,
        splits,
        channels,
        image_px,
        digest([stored.digest, divided, delivered]),
        stored.dtype,
        tuple(notes),
    )


def dataset_info(config: ImageDataConfig, images: ImageSet, *, counted: bool) -> DatasetInfo:
    """What a network needs to know of labelled images; for `mean` or `std` of "auto", those of
    training.

    Args:
        config: `source`, `mean` and `std` are used.
        images: opened.
        counted: whether classes are counted: to learn the labels of a TFDS set, all of its files
            are read.

    Raises:
        InputError: a file can't be used, or `mean` and `std` don't fit the channels.
    """
    train = images.splits["train"]
    mean, std = normalization(config, images.channels, images.greatest, train)
    labels = train.labels if counted else np.zeros(0, np.int32)
    counts = np.bincount(labels, minlength=len(images.classes))
    return DatasetInfo(
        source=Path(config.source).name,
        classes=images.classes,
        colors=(),
        channels=images.channels,
        dtype=images.dtype,
        greatest=images.greatest,
        mean=mean,
        std=std,
        class_counts=tuple(counts.tolist()),
        sizes={split: len(of) for split, of in images.splits.items()},
        image_px=images.image_px,
        fingerprint=images.fingerprint,
    )


def _chosen(
    stored: StoredImages, config: ImageDataConfig
) -> dict[str, tuple[Examples, np.ndarray]]:
    """Split -> (stored examples, which of them, sorted int64 [n])."""
    if config.folds:
        chosen = _dealt(stored, config)
        train = chosen["train"][1]
        train = np.random.default_rng(config.split_seed).permutation(train)
    else:
        chosen, train = _held_out(stored, config)
    if config.train_examples > len(train):
        raise InputError(
            f"data.train_examples is {config.train_examples:,}, but {config.source} has only"
            f" {len(train):,} left to train on: lower it."
        )
    chosen["train"] = chosen["train"][0], np.sort(train[: config.train_examples or None])
    return {split: chosen[split] for split in SPLITS}


def _held_out(stored, config):
    """The published splits with what is held out of train for those that are missing, and what is
    left of train, shuffled."""
    published, groups = dict(stored.splits), dict(stored.groups or {})
    if "test" not in published and "validation" in published:
        published["test"], groups["test"] = published.pop("validation"), groups.get("validation")
    _check_apart(config, {split: groups[split] for split in SPLITS if groups.get(split)})
    train = np.random.default_rng(config.split_seed).permutation(len(published["train"]))
    chosen = {split: (examples, np.arange(len(examples))) for split, examples in published.items()}
    for split, share in (("test", config.test_share), ("validation", config.validation_share)):
        if split not in published:
            count = max(1, round(share * len(train))) if share else 0
            held, train = _parted(train, count, groups.get("train"))
            if not len(train):
                raise InputError(
                    f"{config.source} has {len(published['train'])} training images, which leaves"
                    f" none to train on once {split} is held out: add images, or lower"
                    f" data.{split}_share."
                )
            chosen[split] = published["train"], np.sort(held)
    return chosen, train


def _parted(order, count, groups):
    """The first so many of the examples, and the others; what is of a group goes with its first."""
    if groups is None or not count:
        return order[:count], order[count:]
    sizes, taken, held = Counter(groups[index] for index in order), set(), 0
    for index in order:
        if held >= count:
            break
        if groups[index] not in taken:
            taken.add(groups[index])
            held += sizes[groups[index]]
    chosen = np.array([groups[index] in taken for index in order])
    return order[chosen], order[~chosen]


def _check_apart(config, groups):
    """Refuses a group that lies in two published splits: what is tested on would be trained on."""
    for (one, ours), (other, theirs) in itertools.combinations(groups.items(), 2):
        if shared := set(ours) & set(theirs):
            raise InputError(
                f"group {min(shared)!r} by data.group_pattern lies in {one} and in {other} of"
                f" {config.directory}: move its images together, or deal all groups anew with"
                " data.folds."
            )


def _dealt(stored, config):
    """All images as one, and which of them each split has: groups are dealt into parts."""
    names = [split for split in SPLITS if split in stored.splits]
    pooled = Pooled([stored.splits[split] for split in names])
    if stored.groups:
        groups = [group for split in names for group in stored.groups[split]]
        counts = Counter(groups)
        sizes = {group: counts[group] for group in sorted(counts, key=natural)}
    else:
        groups = range(len(pooled))
        sizes = dict.fromkeys(groups, 1)
    held = deal(sizes, config)
    return {
        split: (pooled, np.flatnonzero([group in held[split] for group in groups]))
        for split in SPLITS
    }


def _chunks(indices):
    return [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]


# ---- decoding


def decoded(
    data: bytes,
    channels: int,
    dtype: str,
    image_px: tuple[int, int],
    crop_share: float | None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """An encoded image as [height, width, channels] of `image_px` and `dtype`; `crop_share` None:
    it must have that size."""
    height, width = image_px
    stored = of_kind(data, channels, dtype, image_px, crop_share)  # told before memory is taken
    image = upright(photograph(stored)[0], stored.orientation)
    image = _with_channels(_with_dtype(image, dtype), channels)
    if crop_share is not None:
        return _resized(image, image_px, crop_share, interpolation)
    if image.shape[:2] != (height, width):
        raise _other_size(image.shape, image_px)
    return image


def of_kind(
    source: Path | bytes,
    channels: int,
    dtype: str,
    image_px: tuple[int, int],
    crop_share: float | None,
) -> Raster:
    """An encoded image, not decoded yet, that `decoded` takes, as far as its header tells.

    Raises:
        InputError: it is damaged, or of another kind; the sentence lacks the file's name.
    """
    stored = open_raster(source, "", small=True)
    size = stored.height_px, stored.width_px
    if crop_share is None and sorted(size) != sorted(image_px):
        raise _other_size(size, image_px)
    held, kind = image_kind(stored)
    _with_channels(_with_dtype(np.zeros((1, 1, held), kind), dtype), channels)
    return stored


def _resized(image, image_px, crop_share, interpolation):
    """The central part of an image at another size."""
    (height, width), (rows, columns) = image_px, image.shape[:2]
    # What is resized is a window about the centre, which Pillow takes with fractions of a pixel.
    scale = crop_share * min(columns / width, rows / height)
    left, top = (columns - scale * width) / 2, (rows - scale * height) / 2
    right, bottom = columns - left, rows - top
    if scale == 1:  # cut out alone: half a pixel aside would blur it
        left, top = math.floor(left), math.floor(top)
        right, bottom = left + width, top + height
    window = max(left, 0), max(top, 0), min(right, columns), min(bottom, rows)
    how = Image.Resampling[interpolation.upper()]

    def one(plane):
        picture = Image.fromarray(plane)
        return np.asarray(picture.resize((width, height), how, box=window))

    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return one(np.ascontiguousarray(image))
    if image.dtype == np.uint8:
        planes = [one(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0)]
        return np.stack(planes, -1)
    planes = np.stack([one(plane) for plane in np.moveaxis(image, -1, 0).astype(np.float32)], -1)
    if image.dtype.kind == "f":
        return planes
    limits = np.iinfo(image.dtype)
    return np.clip(np.rint(planes.astype(np.float64)), limits.min, limits.max).astype(image.dtype)


def _other_size(size, image_px):
    return InputError(
        f"is {size[0]} x {size[1]} px where others are {image_px[0]} x {image_px[1]} px: give one"
        " size to them all with data.image_px."
    )


def _with_dtype(image, dtype):
    """The image in the type of its set."""
    if image.dtype == dtype:
        return image
    if (image.dtype, dtype) == (np.uint16, "uint8"):
        return ((image.astype(np.int64) + 128) // 257).astype(np.uint8)  # 65535 is 255 times 257
    raise InputError(f"holds {image.dtype} where others hold {dtype}: save it as they are.")


def _with_channels(image, channels):
    """The image with the number of channels of its set."""
    held = image.shape[-1]
    if held == channels:
        return image
    if held == 1:
        return np.repeat(image, channels, -1)
    if channels == 1 and held == 3 and image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).convert("L"))[..., None]
    raise InputError(f"has {held} bands where others have {channels}: save it as they are.")
