"""Writers of tiny sets of labelled images, in the layouts of TFDS and of folders on disk. No
TensorFlow is needed."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def picture(seed: int, size: tuple[int, ...] = (32, 32, 3)) -> np.ndarray:
    """Noise, uint8 of any shape."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """An array as the bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(array.squeeze()).save(stream, kind, **options)
    return stream.getvalue()


def write_tfds(
    directory: Path,
    name: str,
    version: str,
    features: Mapping,
    splits: Mapping[str, Sequence[Mapping]],
    *,
    supervised: tuple[str, str] | None = ("image", "label"),
    shards: int = 1,
    file_format: str = "array_record",
) -> Path:
    """A set as TFDS leaves it on disk; returns its folder.

    Args:
        directory: TFDS's data_dir.
        name: of the set, such as "cifar10" or "eurosat/rgb".
        version: such as "3.0.2".
        features: name -> TFDS's feature.
        splits: name -> examples, each a dict of feature -> bytes or int.
        supervised: the supervised keys.
        shards: files a split.
        file_format: what the set claims to be stored as; its records are ArrayRecord whatever it
            says.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = directory / name / version
    folder.mkdir(parents=True)
    tfds.features.FeaturesDict(features).save_config(folder)
    base, _, configuration = name.partition("/")
    described = []
    for split, examples in splits.items():
        lengths, size = [], 0
        for shard, part in enumerate(np.array_split(np.arange(len(examples)), shards)):
            file = folder / f"{base}-{split}.{file_format}-{shard:05d}-of-{shards:05d}"
            writer = ArrayRecordWriter(str(file), "group_size:1")
            for index in part:
                message = tf_example_pb2.Example()
                for key, value in examples[index].items():
                    feature = message.features.feature[key]
                    values = (
                        feature.bytes_list.value
                        if isinstance(value, bytes)
                        else feature.int64_list.value
                    )
                    values.append(value)
                record = message.SerializeToString()
                size += len(record)
                writer.write(record)
            writer.close()
            lengths.append(str(len(part)))
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        described.append(
            {
                "filepathTemplate": template,
                "name": split,
                "numBytes": str(size),
                "shardLengths": lengths,
            }
        )
    facts = {
        "description": f"A fake of {base}",
        "fileFormat": file_format,
        "location": {"urls": ["https://example.org"]},
        "name": base,
        "splits": described,
        "version": version,
    }
    if configuration:
        facts["configName"] = configuration
    if supervised:
        facts["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in supervised]}}
    (folder / "dataset_info.json").write_text(json.dumps(facts, indent=2))
    return folder


def write_mnist(
    directory: Path, name: str = "mnist", train: int = 100, test: int = 40, **options
) -> Path:
    """MNIST or Fashion-MNIST in few: image i is noise, darker the lower its label, which is i
    modulo 10."""
    import tensorflow_datasets as tfds

    names = CLOTHES if name == "fashion_mnist" else [str(digit) for digit in range(10)]
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(names=names),
    }

    def example(i):
        return {
            "image": encoded((picture(i, (28, 28)) * ((1 + i % 10) / 10)).astype(np.uint8)),
            "label": i % 10,
        }

    splits = {
        "train": [example(i) for i in range(train)],
        "test": [example(1000 + i) for i in range(test)],
    }
    return write_tfds(directory, name, "3.0.1", features, splits, **options)


def write_cifar10(
    directory: Path, version: str = "3.0.2", counts: Mapping[str, int] | None = None, **options
) -> Path:
    """CIFAR-10 in few: image i of train is `picture(i)`, of test `picture(1000 + i)`; its label is
    i modulo 10."""
    import tensorflow_datasets as tfds

    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=CIFAR10_CLASSES),
    }
    splits = {
        split: [
            {
                "id": f"{split}_{i:05d}".encode(),
                "image": encoded(picture(i + 1000 * (split == "test"))),
                "label": i % 10,
            }
            for i in range(count)
        ]
        for split, count in (counts or {"train": 40, "test": 20}).items()
    }
    return write_tfds(directory, "cifar10", version, features, splits, **options)


def write_cifar100(directory: Path, **options) -> Path:
    """CIFAR-100 in few: label i modulo 100 beside coarse_label i modulo 20."""
    import tensorflow_datasets as tfds

    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=[f"fine {i}" for i in range(100)]),
        "coarse_label": tfds.features.ClassLabel(names=[f"coarse {i}" for i in range(20)]),
    }
    image = encoded(picture(0))
    splits = {
        split: [
            {"id": b"", "image": image, "label": i % 100, "coarse_label": i % 20}
            for i in range(count)
        ]
        for split, count in (("train", 110), ("test", 20))
    }
    return write_tfds(directory, "cifar100", "3.0.2", features, splits, **options)


def write_imagenet2012(directory: Path, **options) -> Path:
    """ImageNet in few: JPEGs of many sizes, one of them grey and one CMYK, in two shards a split;
    test has labels -1."""
    import tensorflow_datasets as tfds

    synsets = ("n01440764", "n01443537", "n01484850")
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=synsets),
        "file_name": tfds.features.Text(),
    }

    def example(split, i):
        array = picture(i, (40 + i, 60 - i, 3))
        image = encoded(array[..., 0] if i == 1 else array, "JPEG", quality=95)
        if i == 2:
            stream = io.BytesIO()
            Image.fromarray(array).convert("CMYK").save(stream, "JPEG")
            image = stream.getvalue()
        return {
            "image": image,
            "label": -1 if split == "test" else i % 3,
            "file_name": f"{split}_{i}.JPEG".encode(),
        }

    splits = {
        split: [example(split, i) for i in range(count)]
        for split, count in (("train", 20), ("validation", 9), ("test", 6))
    }
    return write_tfds(directory, "imagenet2012", "5.1.0", features, splits, shards=2, **options)


def write_folder(directory: Path, files: Mapping[str, np.ndarray], **options) -> Path:
    """Images by path relative to the folder, whose suffixes say the format; returns the folder."""
    for name, array in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.squeeze()).save(path, **options)
    return directory


def write_fingers(directory: Path, train: int = 24, test: int = 12) -> Path:
    """The layout of the "fingers" set: grey 128x128 in the original, 16x16 here; fingers shown and
    hand end each name."""
    for split, count in (("train", train), ("test", test)):
        files = {
            f"{split}/{i:08x}-3c1a_{i % 6}{'LR'[i % 2]}.png": picture(i, (16, 16))
            for i in range(count)
        }
        write_folder(directory, files)
    return directory
