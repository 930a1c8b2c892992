"""Labelled images of TensorFlow Datasets (TFDS), read without TensorFlow.

TFDS writes a set into a folder NAME/VERSION, or NAME/CONFIGURATION/VERSION: what it holds as JSON,
and its examples as records. Of the formats of records only ArrayRecord gives random access and
needs no TensorFlow. Images are decoded by Pillow from the records' bytes, in a sixth of the time
that TFDS takes for small ones.
"""

import os
import re
import shlex
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration import documents
from cnn_jax.configuration.schema import ImageDataConfig, nearest
from cnn_jax.data.scenes import SPLITS
from cnn_jax.data.stored_images import StoredImages, digest, file_digests
from cnn_jax.errors import InputError

HELD_BYTES = 2**28
"""A split whose encoded images are no larger is read at once, at first use: one by one, small
records take 30 times as long."""

_FEATURES = "tensorflow_datasets.core.features."
_PREPARING_NEEDS = "which takes pip install tensorflow apache-beam mlcroissant"
_LABELS_PEEKED = 16  # a test split whose labels are withheld has -1 for all of them


def find(config: ImageDataConfig) -> StoredImages:
    """The TFDS set `config.source`, such as "mnist" or "eurosat/rgb", in its newest version on
    disk.

    It is found in `config.directory`, or where that is empty in $TFDS_DATA_DIR or
    ~/tensorflow_datasets. Its image and label are the set's supervised keys, or its only image and
    only class label. No code that generates the set is run, so that any prepared set will do; nor
    is code that its JSON files name, and they name no file outside of their folder.

    Raises:
        InputError: TFDS isn't installed, the set isn't there, or it isn't one of images with one
            label each.
    """
    tfds = _library()
    directory = Path(
        config.directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    folder = _newest(tfds, config.source, directory)
    again = f"remove {folder} and prepare the set again with {_command(config.source, directory)}"
    _check_classes(folder, again)
    try:
        builder = tfds.builder_from_directory(folder)
        features = builder.info.features
        held = [
            name
            for name in SPLITS
            if name in builder.info.splits and builder.info.splits[name].num_examples
        ]
    except Exception as error:  # a damaged JSON file ends in any of many errors
        raise InputError(
            f"{folder} can't be read as a TFDS set ({_brief(error)}): {again}."
        ) from error
    if "array_record" not in {kind.value for kind in builder.info.available_file_formats()}:
        raise InputError(
            f"{folder} holds {builder.info.file_format.value} files, which can't be read without"
            " TensorFlow: convert them with `tfds convert_format"
            f" --dataset_version_dir={_quoted(folder)} --out_file_format=array_record`"
            f" ({_PREPARING_NEEDS})."
        )
    image, label = _keys(tfds, builder.info, config.source)
    if "train" not in held:
        known = ", ".join(sorted(builder.info.splits)) or "none"
        raise InputError(
            f"data.source {config.source} has no split called train (it has {known}): choose"
            " another set."
        )
    try:
        splits = {name: Records(tfds, builder, name, image, label) for name in held}
        shards = {
            Path(file): length
            for name in held
            for file, length in _shards(builder.info.splits[name])
        }
    except Exception as error:  # as above
        raise InputError(
            f"{folder} can't be read as a TFDS set ({_brief(error)}): {again}."
        ) from error
    for file, length in shards.items():
        if Path(os.path.normpath(file)).parent != Path(os.path.normpath(folder)):
            raise InputError(
                f"{folder / 'dataset_info.json'} names the file {file}, which is not in its folder:"
                f" {again}."
            )
        if not file.is_file():
            raise InputError(f"{file} is missing: {again}.")
        if _records(file) != length:
            raise InputError(
                f"{file} is damaged, or hasn't the {length:,} records that dataset_info.json says:"
                f" {again}."
            )
    files = list(shards)
    for name in ("test", "validation"):
        if name in splits and splits[name].withheld():
            del splits[name]
    classes = tuple(features[label].names)
    height, width, channels = features[image].shape
    facts = [
        builder.info.full_name,
        classes,
        image,
        label,
        {name: len(examples) for name, examples in splits.items()},
    ]
    return StoredImages(
        classes=classes,
        splits=splits,
        channels=1 if channels == 1 else 3,
        dtype=np.dtype(features[image].np_dtype).name,
        image_px=None if None in (height, width) else (height, width),
        digest=digest([facts, [file.name for file in files], file_digests(files)]),
    )


class Records:
    """The examples of one split of a TFDS set; see `stored_images.Examples`."""

    mend = "prepare the set again"
    digests: Sequence[str] = ()

    def __init__(self, tfds: Any, builder: Any, split: str, image: str, label: str) -> None:
        from tensorflow_datasets.proto import tf_example_pb2

        # protobuf makes its classes when they are imported, where no stub tells of them
        example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
        self._parse = example.FromString
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        # Of a set in several formats, this also makes the builder's facts about files those of
        # ArrayRecord.
        self._source = builder.as_data_source(
            split=split, file_format="array_record", deserialize_method=raw
        )
        self._hold, self._held, self._lock = (
            builder.info.splits[split].num_bytes <= HELD_BYTES,
            None,
            threading.Lock(),
        )
        self._set, self._split, self._image, self._label = (
            builder.info.full_name,
            split,
            image,
            label,
        )
        self._classes = builder.info.features[label].num_classes

    def __len__(self):
        return len(self._source)

    def read(self, indices: Sequence[int]) -> list[tuple[bytes, int]]:
        """See `stored_images.Examples.read`."""
        return [
            (features[self._image].bytes_list.value[0], self._checked(features, index))
            for index, features in zip(indices, self._features(indices), strict=True)
        ]

    def labels(self, indices: Sequence[int]) -> np.ndarray:
        """See `stored_images.Examples.labels`; records are read whole."""
        features = self._features(indices)
        return np.array(
            [self._checked(each, index) for index, each in zip(indices, features, strict=True)],
            np.int32,
        )

    def name(self, index: int) -> str:
        """See `stored_images.Examples.name`."""
        return f"{self._split} {index}"

    def place(self, index: int) -> str:
        """See `stored_images.Examples.place`."""
        return f"image {index} of {self._set}, split {self._split},"

    def withheld(self) -> bool:
        """Whether the first labels are all -1, which stands for a label that the publishers keep to
        themselves."""
        first = self._features(range(min(_LABELS_PEEKED, len(self))))
        return all(features[self._label].int64_list.value[0] == -1 for features in first)

    def _features(self, indices):
        try:
            return [self._parse(record).features.feature for record in self._records(indices)]
        except (
            Exception
        ) as error:  # of ArrayRecord (ValueError, RuntimeError) or protobuf (DecodeError)
            raise InputError(
                f"a record of {self._set}, split {self._split}, can't be read: {self.mend}."
            ) from error

    def _records(self, indices):
        if self._hold:
            with self._lock:
                if self._held is None:
                    self._held = self._source.__getitems__(range(len(self)))
            return [self._held[index] for index in indices]
        if len(indices) == 1:  # several are read by threads, whose start isn't worth it for one
            return [self._source[indices[0]]]
        return self._source.__getitems__(indices)

    def _checked(self, features, index):
        label = features[self._label].int64_list.value[0]
        if not 0 <= label < self._classes:
            raise InputError(
                f"{self.place(index)} has the label {label}, which is none of {self._classes}"
                f" classes: {self.mend}."
            )
        return label


def _library() -> Any:
    try:
        import tensorflow_datasets as tfds

        # where importlib_resources is missing, this is what fails
        import tensorflow_datasets.core.dataset_builder
    except ImportError as error:
        raise InputError(
            f"TFDS can't be imported ({_brief(error)}): install it with pip install"
            " 'cnn_jax[tfds]'."
        ) from error
    return tfds


def _newest(tfds, source, directory):
    """The folder of the newest version of a set, which holds its JSON files."""
    prepared = {}
    for depth in ("*/*", "*/*/*"):
        for facts in directory.glob(f"{depth}/dataset_info.json"):
            if re.fullmatch(r"\d+\.\d+\.\d+", facts.parent.name):
                prepared.setdefault(
                    facts.parent.parent.relative_to(directory).as_posix(), []
                ).append(facts.parent)
    if source in prepared:
        return max(
            prepared[source], key=lambda folder: [int(number) for number in folder.name.split(".")]
        )
    configured = sorted(name for name in prepared if name.startswith(f"{source}/"))
    if configured:
        raise InputError(
            f"data.source {source} comes in configurations: name one that is prepared,"
            f" {', '.join(configured)}."
        )
    known = set(tfds.list_builders(with_community_datasets=False))
    if source.split("/")[0] not in known:
        close = nearest(source, known | prepared.keys() | {"folders"})
        if not close.startswith("did you mean"):
            close = (
                f"{directory} has {', '.join(sorted(prepared)) or 'none'}; the others are listed by"
                " tfds.list_builders()"
            )
        raise InputError(
            f"data.source is {source!r}, which is neither a TFDS set nor folders: {close}."
        )
    raise InputError(
        f"{source} is not in {directory}: prepare it with {_command(source, directory)}, or say"
        " where it is with --data.directory."
    )


def _shards(split):
    """(file, number of records) of each shard of a split."""
    return zip(split.filepaths, split.shard_lengths, strict=True)


def _records(file):
    """How many records a file has, None where it is damaged."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(file))
        try:
            return reader.num_records()
        finally:
            reader.close()
    except (ValueError, RuntimeError):
        return None


def _check_classes(folder, again):
    """Refuses a features.json that names a class outside of TFDS: TFDS would import, and so run,
    whatever module it names."""
    path = folder / "features.json"
    try:
        waiting = [documents.parse(path.read_bytes())]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} can't be read as a TFDS set ({_brief(error)}): {again}."
        ) from error
    while waiting:
        content = waiting.pop()
        if isinstance(content, list):
            waiting += content
        elif isinstance(content, dict):
            waiting += content.values()
            for key in ("pythonClassName", "python_class_name", "type"):
                name = content.get(key)
                if isinstance(name, str) and not name.startswith(_FEATURES):
                    raise InputError(
                        f"{path} names the class {name!r}, which is not TFDS's own and isn't run:"
                        " choose another set."
                    )


def _keys(tfds, info, source):
    """The names of the image and of its label among the features."""
    features = info.features
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    named = info.supervised_keys
    if not (
        isinstance(named, tuple)
        and len(named) == 2
        and all(isinstance(key, str) and key in features for key in named)
    ):
        of_kind = [[key for key in features if type(features[key]) is kind] for kind in kinds]
        named = (
            tuple(keys[0] for keys in of_kind) if all(len(keys) == 1 for keys in of_kind) else None
        )
    if named is None or any(
        type(features[key]) is not kind for key, kind in zip(named, kinds, strict=True)
    ):
        held = ", ".join(f"{key} ({type(features[key]).__name__})" for key in sorted(features))
        raise InputError(
            f"data.source {source} is no set of images with one class label each; it has {held}:"
            " choose another set."
        )
    if len(features[named[0]].shape) != 3:
        raise InputError(
            f"data.source {source} has images of shape {features[named[0]].shape}, not of height,"
            " width and channels: choose another set."
        )
    if features[named[0]].np_dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"data.source {source} has images of {features[named[0]].np_dtype}, not of 8 or 16"
            " bits: choose another."
        )
    return named


def _command(source, directory):
    return (
        f"`tfds build {source} --data_dir={_quoted(directory)} --file_format=array_record`"
        f" ({_PREPARING_NEEDS})"
    )


def _quoted(path):
    return shlex.quote(str(path))


def _brief(error):
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
