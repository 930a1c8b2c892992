"""Show what a set of scenes or objects holds, before a model sees it.

python -m cnn_jax.commands.inspect_data [--config NAME|config.json] [--data.FIELD VALUE ...]
[--output FILE.png]

Of scenes it checks pairs and sizes, counts the pixels of each class and lists mask values outside
the description with their files; of objects it counts classes and sizes and lists those that can't
be used. It draws a contact sheet. NAME is a set or format that comes with the package; any other
set of scenes is reached by `--data.source FILE.toml` and `--data.directory`.
"""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import tasks
from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import (
    DataConfig,
    ObjectDataConfig,
    SegmentationConfig,
    nearest,
    setting,
)
from cnn_jax.data import object_scenes
from cnn_jax.data.descriptions import BUILT_IN
from cnn_jax.data.file_names import natural
from cnn_jax.data.normalization import Moments, moments
from cnn_jax.data.resizing import displayable
from cnn_jax.data.scene_folders import label_histogram, open_scenes, warnings_of
from cnn_jax.data.scenes import IGNORED, SPLITS, SceneSet
from cnn_jax.errors import InputError
from cnn_jax.evaluation import object_inspection
from cnn_jax.records.files import check_picture
from cnn_jax.reporting.object_figures import contact_sheet as object_contact_sheet
from cnn_jax.reporting.scene_figures import contact_sheet
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.inspect_data"
SHEET_SCENES = 12
SHEET_PX = 1024
MOST_LISTED = 5
"""So many mask values outside the description, and files of each, are listed."""


@dataclass
class Options:
    """Which data are inspected."""

    config: str = setting(
        "synthetic", "a data set's name, or the path of a recorded config.json", path=True
    )
    output: str = setting(
        "", "file of the contact sheet; empty: results/runs/inspect_SOURCE.png", path=True
    )
    data: DataConfig = setting(DataConfig, "data")


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    `labels` are pixels by split and label, int64 [256]; `channels` the moments of the images of
    each split, ignored pixels left out. `unknown` holds pixels by mask value and file, and
    `unreadable` a sentence for each scene that can't be decoded.
    """

    scenes: SceneSet
    labels: Mapping[str, np.ndarray]
    channels: Mapping[str, Moments]
    unknown: Mapping[str, Mapping[str, int]]
    unreadable: Sequence[str]


def inspect(config: DataConfig, output: Path) -> Inspection:
    """Decodes every scene once, counts, and draws the contact sheet into `output` (a PNG).

    Raises:
        InputError: the set can't be opened: no folder, no pairs, sizes that differ. What is wrong
            with a scene's pixels is collected instead.
    """
    found: dict[Path, Mapping[str, int]] = {}
    scenes = open_scenes(config, found.__setitem__)
    on_sheet = {id(scene) for _, scene in _for_sheet(scenes.splits)}

    def look(scene) -> str | tuple[np.ndarray, Moments, Any]:
        try:
            image, mask = scene.read()
        except InputError as error:
            return str(error)
        every = max(1, max(mask.shape) // SHEET_PX)
        thumbnail = (
            (displayable(image[::every, ::every]).copy(), mask[::every, ::every].copy())
            if id(scene) in on_sheet
            else None
        )
        return label_histogram(mask), moments(image, mask), thumbnail

    labels = {split: np.zeros(256, np.int64) for split in SPLITS}
    channels = {split: Moments.none(scenes.channels) for split in SPLITS}
    unreadable: list[str] = []
    thumbnails: dict[int, Any] = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for split in SPLITS:
            for scene, seen in zip(
                scenes.splits[split], threads.map(look, scenes.splits[split]), strict=True
            ):
                if isinstance(seen, str):
                    unreadable.append(seen)
                    continue
                mask_counts, image_counts, thumbnail = seen
                labels[split] += mask_counts
                channels[split] += image_counts
                thumbnails[id(scene)] = thumbnail

    sheet = [
        (split, scene) for split, scene in _for_sheet(scenes.splits) if thumbnails.get(id(scene))
    ]
    if sheet:
        output.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(
            [thumbnails[id(scene)][0] for _, scene in sheet],
            [thumbnails[id(scene)][1] for _, scene in sheet],
            [known.name for known in scenes.classes],
            [known.color for known in scenes.classes],
            output,
            [
                f"{scene.name}, {'val.' if split == 'validation' else split}"
                for split, scene in sheet
            ],
        )
    unknown: dict[str, dict[str, int]] = {}
    for path, values in sorted(found.items()):
        for value, pixels in values.items():
            unknown.setdefault(value, {})[str(path)] = pixels
    return Inspection(scenes, labels, channels, unknown, unreadable)


def report(inspection: Inspection) -> str:
    """An inspection as text."""
    scenes = inspection.scenes
    counts = ", ".join(f"{len(scenes.splits[split])} {split}" for split in SPLITS)
    sizes = Counter(
        (scene.height_px, scene.width_px) for split in SPLITS for scene in scenes.splits[split]
    )
    shown = [f"{number} of {width} x {height}" for (height, width), number in sizes.most_common(12)]
    lines = [
        f"scenes: {counts}; every image has one mask, of its size",
        f"images: {scenes.channels} channels of {scenes.dtype}, of which {scenes.greatest:g} is 1",
        f"sizes, width x height in px: {', '.join(shown)}"
        + (f", {len(sizes) - 12} more" if len(sizes) > 12 else ""),
        f"fingerprint: {scenes.fingerprint}",
    ]
    splits = [split for split in SPLITS if inspection.labels[split].any()]
    if splits:
        lines += _counted(inspection, splits)
    if inspection.unreadable:
        lines += [
            "",
            "scenes that can't be decoded:",
            *(f"  {sentence}" for sentence in inspection.unreadable),
        ]
    return "\n".join(lines)


def _counted(inspection: Inspection, splits: Sequence[str]) -> list[str]:
    """What `report` says of the pixels of the splits that have some."""
    scenes = inspection.scenes
    names = [known.name for known in scenes.classes]
    width = max(len(name) for name in [*names, "standard deviation"]) + 2
    lines = ["", "% of pixels".ljust(width) + "".join(f"{split:>26}" for split in splits)]
    for label, name in [*enumerate(names), (IGNORED, "ignored")]:
        shares = [
            100 * inspection.labels[split][label] / inspection.labels[split].sum()
            for split in splits
        ]
        lines.append(name.ljust(width) + "".join(f"{share:>26.2f}" for share in shares))
    lines += ["", "mean and standard deviation of each channel, on that scale"]
    greatest = max((inspection.channels[split].greatest for split in splits), default=0)
    for split in splits:
        mean, std = inspection.channels[split].statistics(scenes.greatest)
        cells = "  ".join(f"{m:.4g} ± {s:.4g}" for m, s in zip(mean, std, strict=True))
        lines.append(f"{split.ljust(width)}{cells}")
    if np.dtype(scenes.dtype).kind in "iu" and 8 * greatest <= scenes.greatest:
        bits = int(greatest).bit_length()
        lines.append(
            f"no value exceeds {greatest:g}: say greatest = {2**bits - 1} in the description if the"
            f" sensor has {bits} bits, and take mean and std from the data with 'auto'"
        )
    for split in splits:
        absent = [name for label, name in enumerate(names) if not inspection.labels[split][label]]
        if absent:
            lines.append(f"no {split} scene shows {', '.join(absent)}")
    counted = {split: inspection.labels[split][: len(names)] for split in SPLITS}
    lines += ["", *warnings_of(scenes, counted)]

    lines += ["", "mask values outside the description: " + ("" if inspection.unknown else "none")]
    pixels = {value: sum(files.values()) for value, files in inspection.unknown.items()}
    listed = sorted(pixels, key=lambda value: -pixels[value])[:MOST_LISTED]
    for value in sorted(listed, key=natural):
        files = sorted(inspection.unknown[value].items(), key=lambda file: -file[1])
        lines.append(f"  {value}: {pixels[value]:,} pixels in {len(files)} files")
        lines += [f"      {count:>12,}  {file}" for file, count in files[:MOST_LISTED]]
        if len(files) > MOST_LISTED:
            lines.append(f"      and {len(files) - MOST_LISTED:,} more files")
    if len(pixels) > MOST_LISTED:
        rest = sum(pixels.values()) - sum(pixels[value] for value in listed)
        lines.append(f"  and {len(pixels) - MOST_LISTED:,} more values, {rest:,} pixels")
    if pixels:
        lines.append(
            "  soft, anti-aliased or compressed masks: give the description a threshold, ranges of"
            " values such as '128-255', or a distance to the nearest colour"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for what the user can mend."""
    with guarded() as outcome:
        argv = sys.argv[1:] if argv is None else list(argv)
        (options,), _ = command_line.parse(argv, Options())
        if (of_objects := _object_data(options.config)) is not None:
            _inspect_objects(of_objects, argv)
            return outcome.exit_code
        options = Options(data=_data(options.config))
        options = command_line.options(options, argv, MODULE, f"{__doc__}\n{_sets()}")
        config = options.data
        output = Path(options.output or f"results/runs/inspect_{Path(config.source).stem}.png")
        check_picture(output)
        inspection = inspect(config, output)
        print(f"{config.source} {config.directory}".rstrip())
        if about := config.source in BUILT_IN and BUILT_IN[config.source].about:
            print(about)
        print(report(inspection))
        print(f"\ncontact sheet: {output}" if output.is_file() else "\nno scene to draw")
        if inspection.unreadable:
            raise InputError(
                f"{len(inspection.unreadable)} scenes can't be decoded, listed above: replace or"
                " remove these files."
            )

    return outcome.exit_code


@dataclass
class ObjectOptions:
    """Which images with objects are inspected."""

    config: str = setting(
        "objects", "a set's name or format, or the path of a recorded config.json", path=True
    )
    output: str = setting(
        "", "file of the contact sheet; empty: results/runs/inspect_SOURCE.png", path=True
    )
    data: ObjectDataConfig = setting(ObjectDataConfig, "data")


def _object_data(name) -> ObjectDataConfig | None:
    """The data of a set of objects, or of a recorded run that finds them; None of others."""
    if name == "objects":
        return ObjectDataConfig()
    if name in object_scenes.SOURCES and name != "synthetic":
        return ObjectDataConfig(source=name)
    if name.endswith(".json") and Path(name).is_file():
        data = getattr(tasks.read_config(name), "data", None)
        return data if isinstance(data, ObjectDataConfig) else None
    return None


def _inspect_objects(data: ObjectDataConfig, argv: Sequence[str]) -> None:
    """Counts the objects of a set, says what is wrong with them, and draws a sheet."""
    options = command_line.options(ObjectOptions(data=data), argv, MODULE, __doc__)
    config = options.data
    output = Path(options.output or f"results/runs/inspect_{Path(config.source).stem}_objects.png")
    check_picture(output)
    inspection = object_inspection.inspect_objects(config)
    found = inspection.found
    print(f"{config.source} {config.directory}".rstrip())
    print(object_inspection.report(inspection))
    if chosen := _for_sheet(inspection.readable):
        output.parent.mkdir(parents=True, exist_ok=True)
        object_contact_sheet(
            [one.scene.read()[0] for _, one in chosen],
            [one.objects() for _, one in chosen],
            found.classes,
            found.colors,
            output,
            [f"{one.scene.name}, {split}" for split, one in chosen],
        )
    print(f"\ncontact sheet: {output}" if chosen else "\nno image to draw")
    if inspection.unreadable:
        raise InputError(
            f"{len(inspection.unreadable)} images can't be decoded, listed above: replace or remove"
            " these files."
        )


def _data(name):
    """The data of a set that comes with the package, or of a recorded run."""
    if name == "synthetic" or name in BUILT_IN:
        return DataConfig(source=name)
    if not (name.endswith(".json") or "/" in name or Path(name).is_file()):
        known = nearest(name, ("synthetic", *BUILT_IN, "objects", *object_scenes.SOURCES[1:]))
        raise InputError(
            f"--config {name} is neither a data set nor the path of a recorded config.json:"
            f" {known}."
        )
    config = tasks.read_config(name)
    if not isinstance(config, SegmentationConfig):
        raise InputError(f"{name} is of {config.task}: give a segmentation run's config.json.")
    return config.data


def _sets():
    """The package's own data sets, for `--help`."""
    known = {name: description.about for name, description in BUILT_IN.items()}
    lines = [f"  {name:<14}{about.partition('. ')[0]}" for name, about in known.items()]
    formats = ", ".join(object_scenes.SOURCES[1:])
    others = ["sets with objects:", f"  objects (synthetic), {formats}"]
    return "\n".join(["data sets:", "  synthetic", *lines, "", *others])


def _for_sheet(splits):
    """Scenes to draw, as (split, scene): as many of each split as there is room for, evenly
    spaced."""
    filled = [split for split in SPLITS if splits[split]]
    chosen = []
    for split in filled:
        of_split = splits[split]
        room = min(SHEET_SCENES // len(filled), len(of_split))
        chosen += [(split, of_split[i * len(of_split) // room]) for i in range(room)]
    return chosen


if __name__ == "__main__":
    sys.exit(main())
