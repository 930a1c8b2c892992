"""Writers of tiny data sets in the layouts that their publishers use."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_jax.data.descriptions import BUILT_IN, rgb

HEIGHT_PX, WIDTH_PX = 8, 12


def photograph(seed: int = 0, size: tuple[int, int] = (HEIGHT_PX, WIDTH_PX)) -> np.ndarray:
    """Noise, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def label_map(
    n_classes: int, seed: int = 0, size: tuple[int, int] = (HEIGHT_PX, WIDTH_PX)
) -> np.ndarray:
    """Class indices, uint8 [height, width]: every class as far as there is room, in an order that
    depends on the seed."""
    return ((np.arange(size[0] * size[1]).reshape(size) + seed) % n_classes).astype(np.uint8)


def save(array: np.ndarray, path: Path, **options) -> Path:
    """Writes an array as an image, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def write_pair(folder: Path, image: str, mask: str, name: str, seed: int = 0) -> None:
    """An image and its mask, with every class of the built-in description `name`."""
    description = BUILT_IN[name]
    labels = label_map(len(description.classes), seed)
    values = [known.values[0] for known in description.classes]
    if description.mask_values == "palette":
        table = np.array([rgb(value) for value in values], np.uint8)
    else:
        table = np.array(values, np.uint8)
    save(photograph(seed), folder / image)
    save(table[labels], folder / mask)


def write_dubai(folder: Path) -> None:
    """Tiles 1, 4, 8 and 10 with two parts each."""
    for tile in (1, 4, 8, 10):
        for part in (1, 2):
            file = f"image_part_{part:03d}"
            write_pair(
                folder,
                f"Tile {tile}/images/{file}.jpg",
                f"Tile {tile}/masks/{file}.png",
                "dubai",
                tile + part,
            )
    (folder / "classes.json").write_text("{}")


def write_folders(folder: Path, parts=("train", "test"), count: int = 20) -> None:
    """The plain layout, with `count` scenes in each part."""
    for part in parts:
        for number in range(count):
            write_pair(
                folder,
                f"{part}/images/{number}.png",
                f"{part}/masks/{number}.png",
                "folders",
                number,
            )


def write_aeroscapes(folder: Path) -> None:
    """Four sequences of two frames; the last one is the official validation."""
    lists = {"trn.txt": [], "val.txt": []}
    for sequence in range(1, 5):
        for frame in (1, 2):
            name = f"{sequence:06d}_{frame:03d}"
            write_pair(
                folder,
                f"JPEGImages/{name}.jpg",
                f"SegmentationClass/{name}.png",
                "aeroscapes",
                frame,
            )
            save(photograph(), folder / f"Visualizations/{name}.png")
            lists["val.txt" if sequence == 4 else "trn.txt"].append(name)
    (folder / "ImageSets").mkdir()
    for name, entries in lists.items():
        (folder / "ImageSets" / name).write_text("\n".join(entries) + "\n")


def write_uavid(folder: Path) -> None:
    """Three training sequences, one validation sequence, and a test sequence without labels."""
    for part, sequences in (("train", (1, 2, 31)), ("val", (16,))):
        for sequence in sequences:
            inside = f"uavid_{part}/seq{sequence}"
            for frame in ("000000", "000100"):
                write_pair(
                    folder,
                    f"{inside}/Images/{frame}.png",
                    f"{inside}/Labels/{frame}.png",
                    "uavid",
                    sequence,
                )
    save(photograph(), folder / "uavid_test/seq21/Images/000000.png")


def write_drone(folder: Path) -> None:
    """Ten of the public scenes, whose numbers have gaps."""
    for number in (0, 1, 2, 3, 4, 5, 6, 8, 9, 11):
        image, mask = (
            f"training_set/images/{number:03d}.jpg",
            f"training_set/gt/semantic/label_images/{number:03d}.png",
        )
        write_pair(folder, image, mask, "drone", number)
    (folder / "training_set/gt/semantic/class_dict.csv").write_text("name, r, g, b\n")


def write_loveda(folder: Path) -> None:
    """Four rural and four urban scenes of Train, one each of Val, and a Test without masks."""
    for part, area, numbers in (
        ("Train", "Rural", range(4)),
        ("Train", "Urban", range(4, 8)),
        ("Val", "Rural", (8,)),
        ("Val", "Urban", (9,)),
    ):
        for number in numbers:
            inside = f"{part}/{area}"
            write_pair(
                folder,
                f"{inside}/images_png/{number}.png",
                f"{inside}/masks_png/{number}.png",
                "loveda",
                number,
            )
    save(photograph(), folder / "Test/Rural/images_png/10.png")


def write_landcover(folder: Path) -> None:
    """Three chips as split.py leaves them (masks are grey RGB), beside the orthophotos."""
    for split, name in (
        ("train", "M-33-20-D-c-4-2_0"),
        ("val", "M-33-20-D-c-4-2_1"),
        ("test", "N-34-106-A-b-3-4_12"),
    ):
        save(photograph(), folder / f"output/{name}.jpg")
        save(np.repeat(label_map(5)[..., None], 3, axis=2), folder / f"output/{name}_m.png")
        (folder / f"{split}.txt").write_text(name + "\n")
    save(photograph(), folder / "images/M-33-20-D-c-4-2.tif")


def write_potsdam(folder: Path) -> None:
    """One training tile, and every tile that the splits name."""
    splits = BUILT_IN["potsdam"].splits
    for tile in ("6_7", *splits.validation, *splits.test):
        image, mask = (
            f"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif",
            f"5_Labels_all/top_potsdam_{tile}_label.tif",
        )
        write_pair(folder, image, mask, "potsdam")
        (folder / image).with_suffix(".tfw").write_text("0.05\n")


WRITERS = {
    "dubai": write_dubai,
    "folders": write_folders,
    "aeroscapes": write_aeroscapes,
    "uavid": write_uavid,
    "drone": write_drone,
    "loveda": write_loveda,
    "landcover": write_landcover,
    "potsdam": write_potsdam,
}
"""Built-in description -> function that writes a tiny set of its layout into a folder."""


def raw_png(width_px: int, height_px: int, bits: int, rows: bytes) -> bytes:
    """A grey PNG of any bit depth and claimed size, which Pillow doesn't write; `rows` are packed,
    each behind a zero byte."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width_px, height_px, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
