"""Scenes from a folder of photographs and masks: pairing, splits, decoding, and what a folder holds in numbers."""

import functools
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cnn_jax.configuration import DataConfig
from cnn_jax.data.descriptions import Description, display_color, fields, load_description, patterns, value
from cnn_jax.data.scenes import IGNORED, SPLITS, Scene, SceneClass, SceneSet
from cnn_jax.errors import InputError

LARGEST_IMAGE_PX = 2**30
"""An image whose header claims more pixels is refused before it is decoded: a small file can claim any size."""

READ_THREADS = 8
"""Files read at once; reading, hashing and decoding leave Python's lock."""

# Pillow's readers, by how a file begins. They are called directly, not through Image.open, whose own limit on sizes is a global
# and below the largest orthophotos, and which would also try formats that nobody keeps photographs in.
_READERS = (
    (b"\xff\xd8\xff", JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImageFile),
    (b"II*\0", TiffImageFile),
    (b"MM\0*", TiffImageFile),
    (b"II+\0", TiffImageFile),
    (b"MM\0+", TiffImageFile),
    (b"BM", BmpImageFile),
    (b"RIFF", WebPImageFile),
)

_ORIENTATION = 0x0112
_UNKNOWN = 254

UnknownReport = Callable[[Path, Mapping[str, int]], None]
"""Called with a mask's path and its values outside the description ("#RRGGBB" or "17") with their pixels."""


def open_scenes(config: DataConfig, report_unknown: UnknownReport | None = None) -> SceneSet:
    """The scenes that `config.source` names: drawn ("synthetic") or from a folder. See `open_folder`."""
    if config.source == "synthetic":
        from cnn_jax.data import synthetic

        return synthetic.generate(config)
    return open_folder(config, report_unknown)


def open_folder(config: DataConfig, report_unknown: UnknownReport | None = None) -> SceneSet:
    """Scenes of the folder `config.directory`, laid out as the description `config.source` says.

    Every pair is found, its two sizes are compared and its bytes hashed now; pixels are decoded when a scene is read. Pixels are
    taken as stored: an EXIF orientation turns neither image nor mask, and a pair that differs in it is refused.

    Args:
        config: `source`, `directory`, `test_groups`, `validation_groups` and `unknown_colors` are used. Groups named there
            replace the description's split of that name; what it held goes to training.
        report_unknown: where given, mask values outside the description are told to it and read as ignored, whatever
            `unknown_colors` says.

    Raises:
        InputError: the description or folder can't be used; from a scene's `read`, a file can't be. It says which, and the mend.
    """
    description = load_description(config.source)
    if not config.directory:
        raise InputError(f"data.directory is empty: give the folder of {config.source} with --config.data.directory=FOLDER.")
    directory = Path(config.directory)
    if not directory.is_dir():
        raise InputError(f"data.directory {directory} is not a folder: check --config.data.directory.")
    if report_unknown is None:
        report_unknown = (
            functools.partial(_refuse_unknown, config.source) if config.unknown_colors == "error" else _accept_unknown
        )
    pairs = _find_pairs(description, directory)
    splits = _assign(pairs, description, config, directory)
    used = [pair for split in SPLITS for pair in splits[split]]
    with ThreadPoolExecutor(READ_THREADS) as threads:
        facts = dict(zip(used, threads.map(functools.partial(_examine, directory), used), strict=True))
    _check_sizes(facts)

    def scene(pair):
        height_px, width_px = facts[pair].image_px
        read = functools.partial(_read, directory / pair.image, directory / pair.mask, description, report_unknown)
        return Scene(pair.name, height_px, width_px, read)

    return SceneSet(
        classes=tuple(SceneClass(known.name, display_color(description, i)) for i, known in enumerate(description.classes)),
        splits={split: tuple(scene(pair) for pair in splits[split]) for split in SPLITS},
        fingerprint=_fingerprint(description, splits, facts),
    )


def class_counts(scenes: Iterable[Scene], n_classes: int) -> np.ndarray:
    """Pixels of each class over all scenes, int64 [n_classes]; ignored pixels are left out. Decodes every scene."""
    return sum(measured(scenes, lambda image, mask: label_histogram(mask)), np.zeros(256, np.int64))[:n_classes]


def label_histogram(mask: np.ndarray) -> np.ndarray:
    """Pixels of each label of a uint8 mask, int64 [256]."""
    return np.bincount(mask.ravel(), minlength=256)


def channel_histogram(image: np.ndarray) -> np.ndarray:
    """Pixels of each value of red, green and blue of a uint8 [height, width, 3] image, int64 [3, 256]."""
    return np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)])


def channel_statistics(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of red, green and blue, 0 to 1, each float64 [3], from a `channel_histogram` or a sum of them."""
    levels = np.arange(256) / 255
    pixels = histogram.sum(axis=1)
    mean = histogram @ levels / pixels
    return mean, np.sqrt(np.maximum(histogram @ levels**2 / pixels - mean**2, 0))


def measured(scenes: Iterable[Scene], measure: Callable[[np.ndarray, np.ndarray], Any]) -> Iterator[Any]:
    """`measure(image, mask)` of every scene, in order; no more scenes are decoded at once than there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(lambda scene: measure(*scene.read()), scenes)


# ---- finding pairs


@dataclass(frozen=True)
class _Pair:
    """An image and its mask, as paths relative to the folder, with the values of the template's fields."""

    image: str
    mask: str
    values: tuple[tuple[str, str], ...]
    group: str

    @property
    def name(self):
        return str(Path(self.image).with_suffix("").as_posix())


def _find_pairs(description, directory):
    found = {}
    for kind in ("image", "mask"):
        try:
            found[kind] = dict(_walk(directory, patterns(getattr(description, kind)), {}, ""))
        except OSError as error:
            raise InputError(f"{error.filename} can't be listed ({error.strerror}): check its permissions.") from error
    # In {name}.png beside {name}_mask.png, the second template is the more particular: what it matches isn't the first's.
    both = found["image"].keys() & found["mask"].keys()
    literal = {kind: len(re.sub(r"\{[^{}]*\}", "", getattr(description, kind))) for kind in found}
    if both and literal["image"] == literal["mask"]:
        raise InputError(f"the description's image and mask both match {min(both)}: write templates that tell them apart.")
    for file in both:
        del found[min(literal, key=literal.get)][file]
    if not found["image"]:
        raise InputError(
            f"data.directory {directory} holds no image at {description.image}: check the folder, or describe its layout in a TOML "
            "file and give that as data.source."
        )

    names = fields(description.image)
    by_key = {kind: defaultdict(list) for kind in found}
    for kind, files in found.items():
        for file, values in files.items():
            by_key[kind][tuple(values[name] for name in names)].append(file)
        for same in by_key[kind].values():
            if len(same) > 1:
                raise InputError(f"{directory}: {' and '.join(sorted(same))} are the same {kind} to the description: keep one.")
    lonely_images = [by_key["image"][key][0] for key in by_key["image"].keys() - by_key["mask"].keys()]
    lonely_masks = [by_key["mask"][key][0] for key in by_key["mask"].keys() - by_key["image"].keys()]
    if lonely_images or lonely_masks:
        problems = []
        if lonely_images:
            problems.append(f"{_counted(lonely_images, 'image')} without a mask at {description.mask}")
        if lonely_masks:
            problems.append(f"{_counted(lonely_masks, 'mask')} without an image at {description.image}")
        raise InputError(f"{directory} has {' and '.join(problems)}: complete the pairs or remove these files.")

    pairs = []
    for key, (image,) in by_key["image"].items():
        values = dict(zip(names, key, strict=True))
        group = value(description.group, values) if description.group else "/".join(key)
        pairs.append(_Pair(image, by_key["mask"][key][0], tuple(values.items()), group))
    return sorted(pairs, key=lambda pair: _natural(pair.image))


def _walk(folder, parts, bound, prefix):
    """Files below `folder` that match, as (relative path, values of the fields); goes only into folders that match."""
    for entry in os.scandir(folder):
        match = parts[0].fullmatch(unicodedata.normalize("NFC", entry.name))
        if not match or any(bound.get(name, found) != found for name, found in match.groupdict().items()):
            continue
        values = {**bound, **match.groupdict()}
        if len(parts) == 1 and entry.is_file():
            yield prefix + entry.name, values
        elif len(parts) > 1 and entry.is_dir():
            yield from _walk(entry.path, parts[1:], values, f"{prefix}{entry.name}/")


def _natural(text):
    """A sorting key that puts Tile 10 after Tile 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _counted(names, noun):
    names = sorted(names, key=_natural)
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({', '.join(names[:3])}{more})"


# ---- splits


def _assign(pairs, description, config, directory):
    """The pairs of each split, by the configuration's groups where it names some and else by the description."""
    splits = description.splits
    groups = {"test": config.test_groups, "validation": config.validation_groups}
    split_of = _described(pairs, splits, {split for split in groups if groups[split]}, directory)

    known = {pair.group for pair in pairs}
    for split, named in groups.items():
        for group in named:
            _check_group(group, known, f"data.{split}_groups")
        for pair in pairs:
            if named and split_of.get(pair) == split:
                split_of[pair] = "train"
    shared = set(groups["test"]) & set(groups["validation"])
    if shared:
        raise InputError(f"group {min(shared)!r} is in data.test_groups and data.validation_groups: name it in one of them.")
    for split, other in (("test", "validation"), ("validation", "test")):
        for pair in pairs:
            if pair.group in groups[split]:
                if split_of.get(pair) == other and not groups[other]:
                    raise InputError(
                        f"group {pair.group!r} is in data.{split}_groups and in the {other} split of {config.source}: name other "
                        f"groups for that in data.{other}_groups."
                    )
                split_of[pair] = split

    for split, share in (("test", splits.test_share), ("validation", splits.validation_share)):
        if share and split not in split_of.values():
            training = [pair for pair in pairs if split_of.get(pair) == "train"]
            for pair in _held_out(training, share, splits.within):
                split_of[pair] = split
    return {split: [pair for pair in pairs if split_of.get(pair) == split] for split in SPLITS}


def _described(pairs, splits, replaced, directory):
    """Pair -> split as the description says; pairs that it leaves out are missing. `replaced` splits may name what isn't there."""
    if splits.by == "list":
        return _listed(pairs, splits, directory)
    of = {pair: pair.group if splits.by == "group" else dict(pair.values)[splits.by] for pair in pairs}
    if splits.by == "group":
        for split in SPLITS:
            for group in getattr(splits, split) if split not in replaced else ():
                _check_group(group, set(of.values()), f"splits.{split} of the description", f" or set data.{split}_groups")
    named = {name: split for split in SPLITS for name in getattr(splits, split)}
    rest = {} if splits.train else {"rest": "train"}
    assigned = {pair: named.get(of[pair], rest.get("rest")) for pair in pairs}
    return {pair: split for pair, split in assigned.items() if split}


def _listed(pairs, splits, directory):
    by_entry = {value(splits.entry, dict(pair.values)): pair for pair in pairs}
    split_of, list_of = {}, {}
    for split in SPLITS:
        for name in getattr(splits, split):
            try:
                lines = (directory / name).read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{directory / name}, the list of {split} scenes, can't be read: check the folder.") from error
            entries = [unicodedata.normalize("NFC", line.strip()) for line in lines if line.strip()]
            missing = [entry for entry in entries if entry not in by_entry]
            if missing:
                raise InputError(f"{directory / name} lists {_counted(missing, 'scene')} that the folder has not: complete it.")
            for entry in entries:
                pair = by_entry[entry]
                if split_of.setdefault(pair, split) != split:
                    raise InputError(f"{directory / name} and {list_of[pair]} both list {entry}: take it out of one of them.")
                list_of[pair] = name
    if not splits.train:
        return {pair: split_of.get(pair, "train") for pair in pairs}
    return split_of


def _check_group(group, known, where, or_else=""):
    if group not in known:
        names = sorted(known, key=_natural)
        shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
        raise InputError(f"{where} names group {group!r}, which the folder has not: name one of {shown}{or_else}.")


def _held_out(pairs, share, within):
    """The last share of the groups (of each value of the field `within`), at least one where there are two or more."""
    strata = defaultdict(dict)
    seen = set()
    for pair in pairs:
        if pair.group not in seen:
            seen.add(pair.group)
            strata[dict(pair.values).get(within)][pair.group] = None
    held = set()
    for groups in strata.values():
        ordered = sorted(groups, key=_natural)
        count = max(1, round(share * len(ordered))) if len(ordered) > 1 else 0
        held.update(ordered[len(ordered) - count :])
    return [pair for pair in pairs if pair.group in held]


# ---- headers and bytes


@dataclass(frozen=True)
class _Facts:
    image_px: tuple[int, int]
    mask_px: tuple[int, int]
    digests: tuple[str, str]


def _examine(directory, pair):
    """Sizes from the headers and digests of the whole files, of one pair."""
    sizes, orientations, digests = [], [], []
    for file in (pair.image, pair.mask):
        path = directory / file
        with _explained(path), path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest())
            picture = _picture(path, stream)
            sizes.append((picture.height, picture.width))
            orientations.append(_orientation(picture))
            if file == pair.mask and isinstance(picture, JpegImageFile):
                raise InputError(f"{path} is a JPEG, whose compression changes labels: export the masks again as PNG.")
    if orientations[0] != orientations[1]:
        raise InputError(
            f"{directory / pair.image} and its mask differ in EXIF orientation ({orientations[0]} and {orientations[1]}), so which "
            "pixels belong together is unknown: save both upright and without the tag."
        )
    return _Facts(*sizes, tuple(digests))


def _orientation(picture):
    # TIFF is turned upright by its reader. A PNG that keeps its tag behind the pixels would have to be decoded to find it.
    if isinstance(picture, TiffImageFile) or (isinstance(picture, PngImageFile) and "exif" not in picture.info):
        return 1
    return picture.getexif().get(_ORIENTATION, 1)


def _check_sizes(facts):
    different = [(pair, fact) for pair, fact in facts.items() if fact.image_px != fact.mask_px]
    if different:
        named = [f"{pair.mask} is {_px(fact.mask_px)} for an image of {_px(fact.image_px)}" for pair, fact in different[:3]]
        more = ", ..." if len(different) > 3 else ""
        raise InputError(
            f"sizes of image and mask differ in {len(different)} pairs: {', '.join(named)}{more}; replace these masks."
        )


def _px(size):
    return f"{size[1]} x {size[0]} px"


def _fingerprint(description, splits, facts):
    identity = asdict(description)
    del identity["about"]
    pairs = {split: [(pair.image, pair.mask, *facts[pair].digests) for pair in splits[split]] for split in SPLITS}
    return hashlib.blake2b(json.dumps([identity, pairs], sort_keys=True).encode(), digest_size=16).hexdigest()


# ---- decoding


@contextmanager
def _explained(path):
    """Turns whatever a reader of images raises on a bad file into one sentence about the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error and more
        raise InputError(f"{path} can't be decoded ({error}): it is damaged or cut short; copy it again.") from error


def _picture(path, stream) -> ImageFile.ImageFile:
    """An image file opened but not decoded."""
    stream.seek(0)
    start = stream.read(16)
    stream.seek(0)
    reader = next((reader for magic, reader in _READERS if start.startswith(magic)), None)
    if reader is None:
        raise InputError(f"{path} is no JPEG, PNG, TIFF, BMP or WebP image: replace or remove it.")
    picture = reader(stream, path)
    if picture.width * picture.height > LARGEST_IMAGE_PX:
        limit = f"{LARGEST_IMAGE_PX:,}"
        raise InputError(
            f"{path} claims {_px((picture.height, picture.width))}, over the limit of {limit} pixels: cut it into parts."
        )
    return picture


def read_image(path: Path) -> np.ndarray:
    """A photograph as uint8 [height, width, 3]: grey is repeated, alpha and further bands are dropped, 16 bits scaled to 8.

    Raises:
        InputError: the file is no image, damaged, too large, or of floating-point numbers.
    """
    with _explained(path), path.open("rb") as stream:
        picture = _picture(path, stream)
        picture.load()
        mode = picture.mode
        if mode == "F":
            raise InputError(f"{path} holds floating-point numbers: save the photograph with 8 bits a channel.")
        if mode.startswith("I"):
            grey = np.asarray(picture).astype(np.int64)
            if grey.min() < 0 or grey.max() > 65535:
                raise InputError(f"{path} has numbers beyond 16 bits: save the photograph with 8 bits a channel.")
            return _repeated(((grey + 128) // 257).astype(np.uint8))  # 65535 is 255 times 257
        if mode == "P":
            return _palette(picture)[np.asarray(picture)]
        if mode in ("L", "LA"):
            array = np.asarray(picture)
            return _repeated(array if array.ndim == 2 else array[..., 0])
        return np.ascontiguousarray(np.asarray(picture if mode.startswith("RGB") else picture.convert("RGB"))[..., :3])


def read_mask(path: Path, description: Description) -> tuple[np.ndarray, dict[str, int]]:
    """A mask as labels, uint8 [height, width] with class indices or `IGNORED`, and its unknown values with their pixels.

    Unknown values ("#RRGGBB", or "17" in index masks) are labelled `IGNORED`.

    Raises:
        InputError: the file is no image, damaged, too large, or not of the kind that the description says.
    """
    table = _label_table(description)
    with _explained(path), path.open("rb") as stream:
        picture = _picture(path, stream)
        stored = picture.tile[0].args if picture.tile else ""  # how samples are stored, which decoding forgets
        picture.load()
    if description.mask_values == "index":
        labels, codes = _index_labels(path, picture, stored, table)
        form = "{}".format
    else:
        labels, codes = _palette_labels(path, picture, table)
        form = "#{:06X}".format
    unknown = labels == _UNKNOWN
    if not unknown.any():
        return labels, {}
    values, counts = np.unique(codes(unknown), return_counts=True)
    labels[unknown] = IGNORED
    return labels, {form(code): int(count) for code, count in zip(values.tolist(), counts, strict=True)}


def _palette_labels(path, picture, table):
    """Labels of a mask of colours, with `_UNKNOWN`, and a function from a boolean mask to the colours there as 0xRRGGBB."""
    if picture.mode == "P":
        indices = np.asarray(picture)
        colors = _codes(_palette(picture))
        return table[colors][indices], lambda where: colors[indices[where]]
    if picture.mode in ("1", "L", "LA"):
        grey = np.asarray(picture.convert("L"))
        colors = _codes(_repeated(np.arange(256, dtype=np.uint8)[None])[0])
        return table[colors][grey], lambda where: colors[grey[where]]
    if not picture.mode.startswith("RGB"):
        raise InputError(f"{path} is of mode {picture.mode}, which has no exact colours: save the mask as RGB.")
    array = np.asarray(picture)[..., :3]
    labels = np.empty(array.shape[:2], np.uint8)
    for top in range(0, len(array), 256):  # strips stay in the processor's cache; whole masks are three times as slow
        strip = slice(top, top + 256)
        np.take(table, _codes(array[strip]), out=labels[strip], mode="clip")
    return labels, lambda where: _codes(array[where])


def _index_labels(path, picture, stored, table):
    """Labels of a mask of numbers, with `_UNKNOWN`, and a function from a boolean mask to the numbers there."""
    array = np.asarray(picture)
    if picture.mode == "LA":
        array = array[..., 0]
    if array.ndim == 3 and (array[..., :3] == array[..., :1]).all():
        array = array[..., 0]  # a grey mask saved as RGB
    if array.ndim == 3 or picture.mode == "F":
        raise InputError(
            f"{path} holds colours or fractions where the description says index: set mask_values, or replace the mask."
        )
    raw_mode = stored if isinstance(stored, str) else stored[0]
    if raw_mode in ("L;2", "L;4"):
        array = array // (85 if raw_mode == "L;2" else 17)  # Pillow stretches few bits over 0 to 255, which are numbers here
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    within = array if array.dtype.itemsize <= 2 else np.clip(array, -1, len(table) - 1)  # -1 is the last entry, kept unknown
    return table[within], lambda where: array[where]


@functools.lru_cache(maxsize=4)
def _label_table(description):
    """Mask value -> label, uint8: [2**24] by colour 0xRRGGBB, or [2**16 + 1] by number, the last for what lies beyond."""
    palette = description.mask_values == "palette"
    table = np.full(2**24 if palette else 2**16 + 1, _UNKNOWN, np.uint8)
    for label, values in [*((i, c.values) for i, c in enumerate(description.classes)), (IGNORED, description.ignored)]:
        for mask_value in values:
            table[int(mask_value[1:], 16) if palette else mask_value] = label
    return table


def _codes(colors):
    """uint8 [..., 3] as uint32 [...] 0xRRGGBB."""
    codes = colors[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= colors[..., channel]
    return codes


def _palette(picture):
    """The palette of a mode P image, uint8 [256, 3]; entries that the file doesn't have are black."""
    colors = np.zeros((256, 3), np.uint8)
    given = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colors[: len(given)] = given
    return colors


def _repeated(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def _read(image_path, mask_path, description, report_unknown):
    """A scene's image and mask; see `Scene.read`."""
    mask, unknown = read_mask(mask_path, description)
    if unknown:
        report_unknown(mask_path, unknown)
    return read_image(image_path), mask


def _refuse_unknown(source, path, unknown):
    named = [f"{known} ({pixels:,} pixels)" for known, pixels in Counter(unknown).most_common(3)]
    more = f" and {len(unknown) - 3:,} more" if len(unknown) > 3 else ""
    raise InputError(
        f"{path} has the mask values {', '.join(named)}{more}, which {source} doesn't list: correct the mask or the description, or "
        "count them as ignored with --config.data.unknown_colors=ignore."
    )


def _accept_unknown(path, unknown):
    pass
