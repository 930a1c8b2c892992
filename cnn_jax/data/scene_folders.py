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
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data import polygons
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.descriptions import (
    Description,
    display_color,
    fields,
    load_description,
    patterns,
    value,
)
from cnn_jax.data.file_names import IMAGE_SUFFIXES, OTHER_IMAGES, composed, natural
from cnn_jax.data.file_names import check as check_name
from cnn_jax.data.folders import passed_over, places
from cnn_jax.data.folds import deal
from cnn_jax.data.masks import check_lossless, read_mask
from cnn_jax.data.normalization import COUNTED_PX, normalization
from cnn_jax.data.rasters import (
    Raster,
    digest,
    greatest_of,
    image_kind,
    open_raster,
    photograph,
)
from cnn_jax.data.reference_systems import moved
from cnn_jax.data.scenes import IGNORED, SPLITS, Scene, SceneClass, SceneSet, in_train_too
from cnn_jax.errors import InputError

READ_THREADS = 8
"""Files read at once; reading, hashing and decoding leave Python's lock."""

UnknownReport = Callable[[Path, Mapping[str, int]], None]
"""Called with a mask's path and its values outside the description ("#RRGGBB" or "17") with their
pixels."""


def open_scenes(
    config: DataConfig,
    report_unknown: UnknownReport | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> SceneSet:
    """The scenes that `config.source` names: drawn ("synthetic") or from a folder. See
    `open_folder`."""
    if config.source == "synthetic":
        from cnn_jax.data import synthetic

        return synthetic.generate(config)
    return open_folder(config, report_unknown, recorded)


def open_folder(
    config: DataConfig,
    report_unknown: UnknownReport | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> SceneSet:
    """Scenes of the folder `config.directory`, laid out as the description `config.source` says.

    Every pair is found, its two sizes are compared and its bytes hashed now; pixels are decoded
    when a scene is read. Pixels are taken as stored: an orientation turns neither image nor mask,
    and a pair that differs in it is refused. What a file calls no data is 0 in the image and
    `IGNORED` in the mask.

    Args:
        config: `source`, `directory`, `test_groups`, `validation_groups`, `unknown_colors` and
            `unlabelled` are used. Groups named there replace the description's split of that name;
            what it held goes to training.
        report_unknown: where given, mask values outside the description are told to it and read as
            ignored, whatever `unknown_colors` says.
        recorded: the description as a record holds it, instead of what `config.source` names.

    Raises:
        InputError: the description or folder can't be used; from a scene's `read`, a file can't be.
            It says which, and the mend.
    """
    description = load_description(config.source, recorded)
    if not config.directory:
        raise InputError(
            f"data.directory is empty: give the folder of {config.source} with"
            " --data.directory=FOLDER."
        )
    directory = Path(config.directory).expanduser()
    if not directory.is_dir():
        raise InputError(f"data.directory {directory} is not a folder: check --data.directory.")
    if report_unknown is None:
        report_unknown = (
            functools.partial(_refuse_unknown, config.source)
            if config.unknown_colors == "error"
            else _accept_unknown
        )
    pairs, notes = _find_pairs(description, directory, config.unlabelled)
    splits = _assign(pairs, description, config, directory)
    used = [pair for split in SPLITS for pair in splits[split]]
    with ThreadPoolExecutor(READ_THREADS) as threads:
        examine = functools.partial(_examine, directory, description)
        facts = dict(zip(used, threads.map(examine, used), strict=True))
    _check_sizes(facts)
    channels, dtype, of_files = _check_kinds(facts, description)
    images = {split: [facts[pair][2] for pair in splits[split]] for split in SPLITS}
    uncertain: dict[str, int] = {}

    def scene(pair):
        image, mask = facts[pair][:2]
        read = functools.partial(
            _read, image, mask, description, (channels, dtype), report_unknown, uncertain
        )
        return Scene(pair.name, image.height_px, image.width_px, read)

    return SceneSet(
        classes=tuple(
            SceneClass(known.name, display_color(description, i))
            for i, known in enumerate(description.classes)
        ),
        splits={split: tuple(scene(pair) for pair in splits[split]) for split in SPLITS},
        fingerprint=_fingerprint(description, splits, facts),
        channels=channels,
        dtype=dtype,
        greatest=description.greatest or greatest_of(dtype),
        description=description.to_dict(),
        notes=(*of_files, *notes, *in_train_too(images)),
        uncertain=uncertain,
    )


def dataset_info(
    config: DataConfig, scenes: SceneSet, decoded: Mapping[str, Any], counts: np.ndarray
) -> DatasetInfo:
    """What a network needs to know of scenes; for `mean` or `std` of "auto", those of training.

    Args:
        config: `source`, `mean` and `std` are used.
        scenes: opened.
        decoded: `(image, mask)` by index of each split that isn't empty, such as
            `pipeline.DecodedScenes`; threads take them.
        counts: pixels of each class in training, int64 `[classes]`.

    Raises:
        InputError: a file can't be used, or `mean` and `std` don't fit the channels.
    """
    train = decoded["train"]
    mean, std = normalization(config, scenes.channels, scenes.greatest, train)
    every = {(s.height_px, s.width_px) for split in SPLITS for s in scenes.splits[split]}
    return DatasetInfo(
        source=Path(config.source).stem,
        classes=tuple(known.name for known in scenes.classes),
        colors=tuple(known.color for known in scenes.classes),
        channels=scenes.channels,
        dtype=scenes.dtype,
        greatest=scenes.greatest,
        mean=mean,
        std=std,
        class_counts=tuple(counts.tolist()),
        sizes={split: len(scenes.splits[split]) for split in SPLITS},
        image_px=every.pop() if len(every) == 1 else None,
        fingerprint=scenes.fingerprint,
        description=scenes.description,
    )


def warnings_of(scenes: SceneSet, class_counts: Mapping[str, Any]) -> list[str]:
    """Sentences to be read before the first step: what a run on these scenes will lack.

    Args:
        scenes: opened, and every one of them read.
        class_counts: pixels of each class, by split.
    """
    said = list(scenes.notes)
    for split in ("validation", "test"):
        if not scenes.splits[split]:
            share = (scenes.description or {}).get("splits", {}).get(f"{split}_share")
            mend = (
                f"splits.{split}_share takes whole groups, and training would have none left; give"
                " the description smaller groups"
                if share
                else f"give the description splits.{split}_share"
            )
            said.append(
                f"there are no {split} scenes, so {split} has no figures: {mend}, or name groups in"
                f" data.{split}_groups."
            )
    names = [known.name for known in scenes.classes]
    absent = [name for name, n in zip(names, class_counts["train"], strict=True) if not n]
    if absent:
        said.append(
            f"no training pixel is labelled {', '.join(absent)}, which can't be learnt: look at the"
            " masks with cnn_jax.commands.inspect_data."
        )
    if pixels := sum(scenes.uncertain.values()):
        every = sum(s.height_px * s.width_px for of in scenes.splits.values() for s in of)
        said.append(
            f"{pixels:,} pixels of masks ({pixels / every:.2%}) are uncertain: they lie nearer to"
            " the border between two classes than to a value of the description."
        )
    return said


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
    counts = np.zeros(256, np.int64)
    for top in range(0, len(mask), rows):
        counts += np.bincount(mask[top : top + rows].ravel(), minlength=256)
    return counts


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


def _find_pairs(description, directory, unlabelled):
    """The pairs, and sentences about files that are in none."""
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
        del found[min(literal, key=literal.__getitem__)][file]
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
    images, masks = by_key["image"], by_key["mask"]
    left_out, problems, way_out = [], [], ""
    if lonely := [images[key][0] for key in images.keys() - masks.keys()]:
        said = f"{_counted(lonely, 'image')} without a mask at {description.mask}"
        if unlabelled == "ignore":
            left_out = [f"{said} left out."]
        else:
            problems = [said]
            way_out = ", or leave such images out with --data.unlabelled=ignore"
    if lonely := [masks[key][0] for key in masks.keys() - images.keys()]:
        problems.append(f"{_counted(lonely, 'mask')} without an image at {description.image}")
    if problems:
        raise InputError(
            f"{directory} has {' and '.join(problems)}: complete the pairs or remove these"
            f" files{way_out}."
        )

    pairs = []
    for key, (image,) in images.items():
        if key not in masks:
            continue
        values = dict(zip(names, key, strict=True))
        group = value(description.group, values) if description.group else "/".join(key)
        telling = zip(image.split("/"), description.image.split("/"), strict=True)
        name = "/".join(part for part, template in telling if fields(template))
        name = name[: -len(Path(name).suffix)]
        pairs.append(_Pair(image, masks[key][0], tuple(values.items()), group, name))
    matched = found["image"].keys() | found["mask"].keys()
    return sorted(pairs, key=_order), [*left_out, *_unmatched(directory, matched)]


def _order(pair):
    """The same for names that are composed otherwise, or whose suffix is in capitals."""
    return natural(_plain(pair.image))


def _plain(path):
    suffix = Path(path).suffix
    return composed(path[: len(path) - len(suffix)]) + suffix.lower()


def _unmatched(directory, matched):
    """A sentence about image files that no template matches, such as those that lie deeper."""
    taken = [directory / file for file in matched]
    left = passed_over(directory, (*IMAGE_SUFFIXES, *OTHER_IMAGES), taken)
    matches, are = ("file matches", "is") if len(left) == 1 else ("files match", "are")
    said = f"{len(left)} image {matches} neither template and {are} left out: {places(left)}."
    return [said] if left else []


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
    """The pairs of each split, by the configuration's folds or groups where it names some and else
    by the description."""
    if config.folds:
        return _dealt(pairs, config)
    splits = description.splits
    groups = {
        split: tuple(map(composed, getattr(config, f"{split}_groups")))
        for split in ("test", "validation")
    }
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


def _dealt(pairs, config):
    """All groups, shuffled, dealt into parts with as equal numbers of scenes as they allow."""
    sizes = Counter(pair.group for pair in pairs)
    held = deal({group: sizes[group] for group in sorted(sizes, key=natural)}, config)
    return {split: [pair for pair in pairs if pair.group in held[split]] for split in SPLITS}


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
    by_entry = defaultdict(list)  # one of a folder's name is of all that lies there
    for pair in pairs:
        by_entry[value(splits.entry, dict(pair.values))].append(pair)
    split_of, list_of = {}, {}
    for split in SPLITS:
        for name in getattr(splits, split):
            try:
                lines = (directory / name).read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{directory / name}, the list of {split} scenes, isn't UTF-8: save it so."
                ) from error
            except OSError as error:
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
            named = [(pair, entry) for entry in entries for pair in by_entry[entry]]
            for pair, entry in named:
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


def _examine(directory, description, pair):
    """The image and the mask of a pair, not decoded, and the digests of their files."""
    image = open_raster(directory / pair.image)
    if description.mask_values == "polygons":
        mask = polygons.open_polygons(directory / pair.mask, image, description)
    else:
        mask = open_raster(directory / pair.mask)
        check_lossless(mask, description)
        _check_place(image, mask)
    if image.orientation != mask.orientation:
        raise InputError(
            f"{directory / pair.image} and its mask differ in EXIF orientation ({image.orientation}"
            f" and {mask.orientation}), so which pixels belong together is unknown: save both"
            " upright and without the tag."
        )
    return image, mask, *(digest(directory / file) for file in (pair.image, pair.mask))


def _check_place(image, mask):
    """Refuses a mask that lies elsewhere than its image, or is turned, where both say. Systems that
    differ while numbers agree are taken for one, written in two ways."""
    if image.transform is None or mask.transform is None:
        return
    if (image.height_px, image.width_px) != (mask.height_px, mask.width_px):
        return  # which `_check_sizes` tells
    to_map, of_mask = (np.array(raster.transform).reshape(2, 3) for raster in (image, mask))
    corners = np.array([[0, image.width_px, 0], [0, 0, image.height_px], [1, 1, 1]])
    if not np.linalg.det(to_map[:, :2]):
        return

    def away_px(places):
        return np.abs(np.linalg.solve(to_map[:, :2], places - to_map @ corners)).max()

    away = away_px(of_mask @ corners)
    if away > 0.5 and image.crs and mask.crs and image.crs != mask.crs:
        sentence = f"{mask.name} lies nowhere in the system of {image.name}: warp it there."
        x, y = of_mask @ corners
        away = away_px(np.stack(moved(mask.crs, image.crs, x, y, sentence)))
    if away > 0.5:
        raise InputError(
            f"{mask.name} lies {away:,.0f} px away from {image.name} by their georeference, or"
            " is turned: warp the mask onto the image's grid (gdalwarp), or take a wrong"
            " georeference out (gdal_edit.py -unsetgt)."
        )


def _check_kinds(facts, description):
    """Channels and type of every image, and sentences about what the files store."""
    kinds, stored = defaultdict(list), Counter()
    for pair, (image, *_) in facts.items():
        kinds[image_kind(image, description.bands)].append(pair.image)
        stored[_stored(image)] += 1
    notes = [f"{count} images of {kind}." for kind, count in stored.most_common(4)]
    if notes == [f"{len(facts)} images of 3 bands, uint8, RGB."] or not facts:
        notes = []
    if set(kinds) == {(1, "uint8"), (3, "uint8")}:
        return 3, "uint8", [*notes, "grey images are repeated as red, green and blue."]
    if len(kinds) > 1:
        held = [
            f"{len(files)} of {channels} bands of {dtype} ({min(files, key=natural)})"
            for (channels, dtype), files in sorted(kinds.items())
        ]
        raise InputError(
            f"images differ in what they store: {', '.join(held)}; save all alike, or choose bands"
            " that all have with bands = [1, 2, 3] in the description."
        )
    [(channels, dtype)] = kinds or {(3, "uint8"): ()}
    return channels, dtype, notes


def _stored(image: Raster):
    alpha = {"last": ", the last called alpha", "left out": ", alpha left out"}.get(image.alpha, "")
    photometric = "" if image.photometric == "grey" and image.bands > 1 else image.photometric
    bits = f" ({image.bits} bits)" if image.bits not in (8, 16, 32) else ""
    said = f"{image.bands} band{'s' if image.bands > 1 else ''}{alpha}, {image.dtype}{bits}"
    nodata = "" if image.nodata is None else f", no data where {image.nodata:g}"
    masked = ", masked" if image.masked else ""
    return said + (f", {photometric}" if photometric else "") + nodata + masked


def _check_sizes(facts):
    different = [
        f"{pair.mask} is {mask.width_px} x {mask.height_px} px for an image of {image.width_px} x"
        f" {image.height_px} px"
        for pair, (image, mask, *_) in facts.items()
        if (image.height_px, image.width_px) != (mask.height_px, mask.width_px)
    ]
    if different:
        more = ", ..." if len(different) > 3 else ""
        raise InputError(
            f"sizes of image and mask differ in {len(different)} pairs:"
            f" {', '.join(different[:3])}{more}; replace these masks."
        )


def _fingerprint(description, splits, facts):
    """Of what decides about pixels, labels and splits. Colours of display, how names compose their
    letters and whether a suffix is in capitals don't; nor do fields younger than the first records
    that keep their defaults."""
    plain = replace(
        description, classes=tuple(replace(known, color="") for known in description.classes)
    )
    identity = asdict(plain)
    del identity["about"]
    for field in fields_of(Description):
        if field.name in _YOUNGER and identity[field.name] == field.default:
            del identity[field.name]
    pairs = {
        split: [(_plain(pair.image), _plain(pair.mask), *facts[pair][2:]) for pair in splits[split]]
        for split in SPLITS
    }
    return hashlib.blake2b(
        json.dumps([identity, pairs], sort_keys=True).encode(), digest_size=16
    ).hexdigest()


_YOUNGER = ("threshold", "distance", "bands", "greatest", "attribute")


def _read(image, mask, description, kind, report_unknown, uncertain):
    """A scene's image and mask; see `Scene.read`."""
    if isinstance(mask, polygons.Polygons):
        (labels, unknown), doubtful = polygons.burnt(mask, description), 0
    else:
        labels, unknown, doubtful = read_mask(mask, description)
    if unknown:
        report_unknown(Path(mask.name), unknown)
    if doubtful:
        uncertain[mask.name] = doubtful
    pixels, void = photograph(image, description.bands)
    if (pixels.shape[-1], pixels.dtype) != kind:
        pixels = np.repeat(pixels, kind[0], axis=-1)
    if void is not None:
        labels[void] = IGNORED
    if (hidden := image.hidden()) is not None:
        labels[hidden(slice(None), slice(None))] = IGNORED
    return pixels, labels


def _refuse_unknown(source, path, unknown):
    named = [f"{known} ({pixels:,} pixels)" for known, pixels in Counter(unknown).most_common(3)]
    more = f" and {len(unknown) - 3:,} more" if len(unknown) > 3 else ""
    raise InputError(
        f"{path} has the mask values {', '.join(named)}{more}, which {source} doesn't list: correct"
        " the mask or the description (which can give a threshold, ranges of values, or a distance"
        " to the nearest colour), or count them as ignored with"
        " --data.unknown_colors=ignore."
    )


def _accept_unknown(path, unknown):
    pass
