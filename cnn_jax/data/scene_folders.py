"""Scenes from a folder of photographs and masks: pairing, splits, decoding, and what a folder holds
in numbers."""

import functools
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data.decoding import examine, read_image, read_mask
from cnn_jax.data.descriptions import display_color, fields, load_description, patterns, value
from cnn_jax.data.file_names import check as check_name
from cnn_jax.data.file_names import composed, natural
from cnn_jax.data.scenes import SPLITS, Scene, SceneClass, SceneSet
from cnn_jax.errors import InputError

READ_THREADS = 8
"""Files read at once; reading, hashing and decoding leave Python's lock."""

COUNTED_PX = 2**22
"""Pixels counted at once: while they are, each takes eight bytes."""

UnknownReport = Callable[[Path, Mapping[str, int]], None]
"""Called with a mask's path and its values outside the description ("#RRGGBB" or "17") with their
pixels."""


def open_scenes(config: DataConfig, report_unknown: UnknownReport | None = None) -> SceneSet:
    """The scenes that `config.source` names: drawn ("synthetic") or from a folder. See
    `open_folder`."""
    if config.source == "synthetic":
        from cnn_jax.data import synthetic

        return synthetic.generate(config)
    return open_folder(config, report_unknown)


def open_folder(config: DataConfig, report_unknown: UnknownReport | None = None) -> SceneSet:
    """Scenes of the folder `config.directory`, laid out as the description `config.source` says.

    Every pair is found, its two sizes are compared and its bytes hashed now; pixels are decoded
    when a scene is read. Pixels are taken as stored: an EXIF orientation turns neither image nor
    mask, and a pair that differs in it is refused.

    Args:
        config: `source`, `directory`, `test_groups`, `validation_groups` and `unknown_colors` are
            used. Groups named there replace the description's split of that name; what it held goes
            to training.
        report_unknown: where given, mask values outside the description are told to it and read as
            ignored, whatever `unknown_colors` says.

    Raises:
        InputError: the description or folder can't be used; from a scene's `read`, a file can't be.
            It says which, and the mend.
    """
    description = load_description(config.source)
    if not config.directory:
        raise InputError(
            f"data.directory is empty: give the folder of {config.source} with"
            " --data.directory=FOLDER."
        )
    directory = Path(config.directory)
    if not directory.is_dir():
        raise InputError(f"data.directory {directory} is not a folder: check --data.directory.")
    if report_unknown is None:
        report_unknown = (
            functools.partial(_refuse_unknown, config.source)
            if config.unknown_colors == "error"
            else _accept_unknown
        )
    pairs = _find_pairs(description, directory)
    splits = _assign(pairs, description, config, directory)
    used = [pair for split in SPLITS for pair in splits[split]]
    with ThreadPoolExecutor(READ_THREADS) as threads:
        facts = dict(
            zip(used, threads.map(functools.partial(_examine, directory), used), strict=True)
        )
    _check_sizes(facts)

    def scene(pair):
        image, _ = facts[pair]
        read = functools.partial(
            _read, directory / pair.image, directory / pair.mask, description, report_unknown
        )
        return Scene(pair.name, image.height_px, image.width_px, read)

    return SceneSet(
        classes=tuple(
            SceneClass(known.name, display_color(description, i))
            for i, known in enumerate(description.classes)
        ),
        splits={split: tuple(scene(pair) for pair in splits[split]) for split in SPLITS},
        fingerprint=_fingerprint(description, splits, facts),
    )


def class_counts(scenes: Sequence[tuple[np.ndarray, np.ndarray]], n_classes: int) -> np.ndarray:
    """Pixels of each class over all scenes, int64 [n_classes]; ignored pixels are left out.

    Args:
        scenes: `(image, mask)` by index, such as `pipeline.DecodedScenes`; threads take them.
        n_classes: the number of classes.
    """
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        counts = threads.map(lambda index: label_histogram(scenes[index][1]), range(len(scenes)))
        return sum(counts, np.zeros(256, np.int64))[:n_classes]


def label_histogram(mask: np.ndarray) -> np.ndarray:
    """Pixels of each label of a uint8 mask, int64 [256]."""
    rows = max(1, COUNTED_PX // mask.shape[1])
    return sum(
        np.bincount(mask[top : top + rows].ravel(), minlength=256)
        for top in range(0, len(mask), rows)
    )


def channel_histogram(image: np.ndarray) -> np.ndarray:
    """Pixels of each value of red, green and blue of a uint8 [height, width, 3] image, int64 [3,
    256]."""
    return np.stack([label_histogram(image[..., channel]) for channel in range(3)])


def channel_statistics(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of red, green and blue, 0 to 1, each float64 [3], from a
    `channel_histogram` or a sum of them."""
    levels = np.arange(256) / 255
    pixels = histogram.sum(axis=1)
    mean = histogram @ levels / pixels
    return mean, np.sqrt(np.maximum(histogram @ levels**2 / pixels - mean**2, 0))


# ---- finding pairs


@dataclass(frozen=True)
class _Pair:
    """An image and its mask, as paths relative to the folder, with the values of the template's
    fields.

    `name` is the image's path without suffix and without the folders that are the same for all.
    """

    image: str
    mask: str
    values: tuple[tuple[str, str], ...]
    group: str
    name: str


def _find_pairs(description, directory):
    found = {}
    for kind in ("image", "mask"):
        try:
            found[kind] = dict(_walk(directory, patterns(getattr(description, kind)), {}, ""))
        except OSError as error:
            raise InputError(
                f"{error.filename} can't be listed ({error.strerror}): check its permissions."
            ) from error
    # In {name}.png beside {name}_mask.png, the second template is the more particular: what it
    # matches isn't the first's.
    both = found["image"].keys() & found["mask"].keys()
    literal = {kind: len(re.sub(r"\{[^{}]*\}", "", getattr(description, kind))) for kind in found}
    if both and literal["image"] == literal["mask"]:
        raise InputError(
            f"the description's image and mask both match {min(both)}: write templates that tell"
            " them apart."
        )
    for file in both:
        del found[min(literal, key=literal.get)][file]
    if not found["image"]:
        raise InputError(
            f"data.directory {directory} holds no image at {description.image}: check the folder,"
            " or describe its layout in a TOML file and give that as data.source."
        )

    names = fields(description.image)
    by_key = {kind: defaultdict(list) for kind in found}
    for kind, files in found.items():
        for file, values in files.items():
            by_key[kind][tuple(values[name] for name in names)].append(file)
        for same in by_key[kind].values():
            if len(same) > 1:
                raise InputError(
                    f"{directory}: {' and '.join(sorted(same))} are the same {kind} to the"
                    " description: keep one."
                )
    lonely_images = [
        by_key["image"][key][0] for key in by_key["image"].keys() - by_key["mask"].keys()
    ]
    lonely_masks = [
        by_key["mask"][key][0] for key in by_key["mask"].keys() - by_key["image"].keys()
    ]
    if lonely_images or lonely_masks:
        problems = []
        if lonely_images:
            problems.append(
                f"{_counted(lonely_images, 'image')} without a mask at {description.mask}"
            )
        if lonely_masks:
            problems.append(
                f"{_counted(lonely_masks, 'mask')} without an image at {description.image}"
            )
        raise InputError(
            f"{directory} has {' and '.join(problems)}: complete the pairs or remove these files."
        )

    pairs = []
    for key, (image,) in by_key["image"].items():
        values = dict(zip(names, key, strict=True))
        group = value(description.group, values) if description.group else "/".join(key)
        telling = zip(image.split("/"), description.image.split("/"), strict=True)
        name = "/".join(part for part, template in telling if fields(template))
        name = name[: -len(Path(name).suffix)]
        pairs.append(_Pair(image, by_key["mask"][key][0], tuple(values.items()), group, name))
    return sorted(pairs, key=lambda pair: natural(pair.image))


def _walk(folder, parts, bound, prefix):
    """Files below `folder` that match, as (relative path, values of the fields); goes only into
    folders that match."""
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        match = parts[0].fullmatch(composed(entry.name))
        if not match or any(
            bound.get(name, text) != text for name, text in match.groupdict().items()
        ):
            continue
        check_name(folder, entry.name)
        values = {**bound, **match.groupdict()}
        if len(parts) == 1 and entry.is_file():
            yield prefix + entry.name, values
        elif len(parts) > 1 and entry.is_dir():
            yield from _walk(entry.path, parts[1:], values, f"{prefix}{entry.name}/")


def _counted(names, noun):
    names = sorted(names, key=natural)
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({', '.join(names[:3])}{more})"


# ---- splits


def _assign(pairs, description, config, directory):
    """The pairs of each split, by the configuration's groups where it names some and else by the
    description."""
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
        raise InputError(
            f"group {min(shared)!r} is in data.test_groups and data.validation_groups: name it in"
            " one of them."
        )
    for split, other in (("test", "validation"), ("validation", "test")):
        for pair in pairs:
            if pair.group in groups[split]:
                if split_of.get(pair) == other and not groups[other]:
                    raise InputError(
                        f"group {pair.group!r} is in data.{split}_groups and in the {other} split"
                        f" of {config.source}: name other groups for that in data.{other}_groups."
                    )
                split_of[pair] = split

    for split, share in (("test", splits.test_share), ("validation", splits.validation_share)):
        if share and split not in split_of.values():
            training = [pair for pair in pairs if split_of.get(pair) == "train"]
            for pair in _held_out(training, share, splits.within):
                split_of[pair] = split
    return {split: [pair for pair in pairs if split_of.get(pair) == split] for split in SPLITS}


def _described(pairs, splits, replaced, directory):
    """Pair -> split as the description says; pairs that it leaves out are missing. `replaced`
    splits may name what isn't there."""
    if splits.by == "list":
        return _listed(pairs, splits, directory)
    of = {
        pair: pair.group if splits.by == "group" else dict(pair.values)[splits.by] for pair in pairs
    }
    if splits.by == "group":
        for split in SPLITS:
            for group in getattr(splits, split) if split not in replaced else ():
                _check_group(
                    group,
                    set(of.values()),
                    f"splits.{split} of the description",
                    f" or set data.{split}_groups",
                )
    named = {name: split for split in SPLITS for name in getattr(splits, split)}
    assigned = {pair: named.get(of[pair], None if splits.train else "train") for pair in pairs}
    return {pair: split for pair, split in assigned.items() if split}


def _listed(pairs, splits, directory):
    by_entry = {value(splits.entry, dict(pair.values)): pair for pair in pairs}
    split_of, list_of = {}, {}
    for split in SPLITS:
        for name in getattr(splits, split):
            try:
                lines = (directory / name).read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    f"{directory / name}, the list of {split} scenes, can't be read: check the"
                    " folder."
                ) from error
            entries = [composed(line.strip()) for line in lines if line.strip()]
            missing = [entry for entry in entries if entry not in by_entry]
            if missing:
                raise InputError(
                    f"{directory / name} lists {_counted(missing, 'scene')} that the folder has"
                    " not: complete it."
                )
            for entry in entries:
                pair = by_entry[entry]
                if split_of.setdefault(pair, split) != split:
                    raise InputError(
                        f"{directory / name} and {list_of[pair]} both list {entry}: take it out of"
                        " one of them."
                    )
                list_of[pair] = name
    if not splits.train:
        return {pair: split_of.get(pair, "train") for pair in pairs}
    return split_of


def _check_group(group, known, where, or_else=""):
    if group not in known:
        names = sorted(known, key=natural)
        shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
        raise InputError(
            f"{where} names group {group!r}, which the folder has not: name one of"
            f" {shown}{or_else}."
        )


def _held_out(pairs, share, within):
    """The last share of the groups (of each value of the field `within`), at least one where there
    are two or more."""
    stratum = {}
    for pair in pairs:
        stratum.setdefault(pair.group, dict(pair.values).get(within))
    strata = defaultdict(list)
    for group in sorted(stratum, key=natural):
        strata[stratum[group]].append(group)
    held = set()
    for groups in strata.values():
        count = max(1, round(share * len(groups))) if len(groups) > 1 else 0
        held.update(groups[len(groups) - count :])
    return [pair for pair in pairs if pair.group in held]


# ---- files


def _examine(directory, pair):
    """The facts of an image and of its mask."""
    image, mask = (examine(directory / file) for file in (pair.image, pair.mask))
    if mask.is_jpeg:
        raise InputError(
            f"{directory / pair.mask} is a JPEG, whose compression changes labels: export the masks"
            " again as PNG."
        )
    if image.orientation != mask.orientation:
        raise InputError(
            f"{directory / pair.image} and its mask differ in EXIF orientation ({image.orientation}"
            f" and {mask.orientation}), so which pixels belong together is unknown: save both"
            " upright and without the tag."
        )
    return image, mask


def _check_sizes(facts):
    different = [
        f"{pair.mask} is {mask.width_px} x {mask.height_px} px for an image of {image.width_px} x"
        f" {image.height_px} px"
        for pair, (image, mask) in facts.items()
        if (image.height_px, image.width_px) != (mask.height_px, mask.width_px)
    ]
    if different:
        more = ", ..." if len(different) > 3 else ""
        raise InputError(
            f"sizes of image and mask differ in {len(different)} pairs:"
            f" {', '.join(different[:3])}{more}; replace these masks."
        )


def _fingerprint(description, splits, facts):
    identity = asdict(description)
    del identity["about"]
    pairs = {
        split: [
            (pair.image, pair.mask, *(fact.digest for fact in facts[pair]))
            for pair in splits[split]
        ]
        for split in SPLITS
    }
    return hashlib.blake2b(
        json.dumps([identity, pairs], sort_keys=True).encode(), digest_size=16
    ).hexdigest()


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
        f"{path} has the mask values {', '.join(named)}{more}, which {source} doesn't list: correct"
        " the mask or the description, or count them as ignored with"
        " --data.unknown_colors=ignore."
    )


def _accept_unknown(path, unknown):
    pass
