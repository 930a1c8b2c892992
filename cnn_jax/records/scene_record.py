"""Test scenes one by one, kept beside a run's summary: what comparisons pair and show.

`scenes.json` holds names, sizes and counts. The pictures lie apart: the prediction of each scene in
`scenes/` of the run, its photograph and truth there too, or, where several runs share their data,
once for all of them in `scenes/<first 16 digits of the data's fingerprint>/` beside the runs or
beside those of another study. A record without its pictures loads and compares all the same.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data.resizing import displayable, reduced
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError
from cnn_jax.records.checks import MEND, are_classes, is_confusion
from cnn_jax.records.files import read_object, write_text

SHOWN = 12
"""So many scenes at most are kept as pictures."""

LONGEST_PX = 360
"""The longer side of a picture."""

KINDS = {"image": "jpg", "truth": "png", "prediction": "png"}
"""The pictures of a scene, and their formats."""


@dataclass(frozen=True)
class SceneRecord:
    """What a record says of each test scene.

    Attributes:
        classes: their names, in the order of their labels.
        colors: of each class, as `#RRGGBB`.
        names: of the scenes.
        sizes_px: height and width of each scene, None where the record doesn't say.
        confusions: int64 `[scenes, classes, classes]`, rows truth.
        boundaries: int64 `[scenes, classes, 2]`, as `evaluation.boundaries` counts them; None where
            the record doesn't say.
    """

    classes: tuple[str, ...]
    colors: tuple[str, ...]
    names: tuple[str, ...]
    sizes_px: tuple[tuple[int, int] | None, ...]
    confusions: np.ndarray
    boundaries: np.ndarray | None

    @cached_property
    def mious(self) -> np.ndarray:
        """Each scene's own mIoU, float64 `[scenes]`; NaN where all of it is ignored."""
        from cnn_jax.evaluation import metrics

        return np.array([metrics.miou(matrix) for matrix in self.confusions])


def shown(scenes: int) -> list[int]:
    """The scenes, of so many, that are kept as pictures: spread evenly, the same for every run."""
    return sorted(set(np.linspace(0, scenes - 1, min(scenes, SHOWN)).round().astype(int).tolist()))


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """A photograph uint8 `[height, width, 3]` or a mask `[height, width]` at the size it is kept;
    masks are never interpolated."""
    return reduced(picture, LONGEST_PX)


def shared_folder(study: Path, fingerprint: str) -> Path:
    """Where the runs in a study's folder keep the photographs and truths of a data set once."""
    return study / "scenes" / fingerprint[:16]


def picture_path(run: Path, fingerprint: str, index: int, kind: str) -> Path:
    """Where a picture of a test scene lies: in the run's own folder, in the one that it shares with
    the runs beside it, or in that of another study beside its own, of the same data. A picture that
    is in none would belong in its own.

    Args:
        run: the folder of the run.
        fingerprint: of its data.
        index: of the scene.
        kind: one of `KINDS`.
    """
    name = f"{index:03d}-{kind}.{KINDS[kind]}"
    own, shared = run / "scenes" / name, shared_folder(run.parent, fingerprint) / name
    # A fingerprint comes out of a file: only one that is a number leads to a folder.
    if own.is_file() or kind == "prediction" or not re.fullmatch("[0-9a-f]+", fingerprint):
        return own
    if shared.is_file():
        return shared
    studies = run.parent.parent.glob(str(shared_folder(Path("*"), fingerprint) / name))
    return min(studies, default=own)


def write(
    folder: Path,
    scenes: Any,
    evaluation: Any,
    classes: Sequence,
    predictions: Mapping[int, np.ndarray],
    shared: Path | None = None,
) -> None:
    """Writes scenes.json (names, sizes, confusion matrices, boundary counts) and the pictures.

    Args:
        folder: of the run.
        scenes: the test split, decoded.
        evaluation: of it, with boundaries.
        classes: names and colours.
        predictions: scene -> thumbnail of the prediction.
        shared: the `shared_folder` of runs on the same data, where photographs and truths that are
            there already stay as they are; None: the run's own `scenes/`.

    Raises:
        OSError: the disk is full or the folder can't be written.
    """
    entries = [
        {
            "name": scene.name,
            "height_px": scene.height_px,
            "width_px": scene.width_px,
            "confusion": confusion.tolist(),
            "boundary": boundary.tolist(),
        }
        for scene, confusion, boundary in zip(
            scenes.scenes, evaluation.confusion, evaluation.boundary, strict=True
        )
    ]
    content = {
        "split": "test",
        "classes": [c.name for c in classes],
        "colors": ["#{:02X}{:02X}{:02X}".format(*c.color) for c in classes],
        "scenes": entries,
    }
    own = folder / "scenes"
    own.mkdir(exist_ok=True)
    for index in range(len(entries)):  # of an earlier evaluation
        for kind, suffix in KINDS.items():
            (own / f"{index:03d}-{kind}.{suffix}").unlink(missing_ok=True)
    beside = own if shared is None else shared
    beside.mkdir(parents=True, exist_ok=True)
    palette = np.zeros((256, 3), np.uint8)  # ignored pixels are black
    palette[: len(classes)] = [c.color for c in classes]
    for index, prediction in predictions.items():
        image, truth = scenes[index]
        image, truth = thumbnail(displayable(image)), thumbnail(truth)
        prediction = np.where(truth == IGNORED, IGNORED, prediction)
        save(own / f"{index:03d}-prediction.png", _paletted(prediction, palette), optimize=True)
        if not (path := beside / f"{index:03d}-truth.png").is_file():
            save(path, _paletted(truth, palette), optimize=True)
        if not (path := beside / f"{index:03d}-image.jpg").is_file():
            save(path, Image.fromarray(image), quality=80)
    write_text(folder / "scenes.json", json.dumps(content, ensure_ascii=False) + "\n")


def _paletted(mask, palette):
    """A mask as a picture of eight bits in the colours of its classes: unused colours take no
    room."""
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    picture.putpalette(palette.tobytes())
    return picture


def save(path: Path, picture: Image.Image, **options: Any) -> None:
    """Saves a picture whole or not at all: another run may look for it."""
    partial = path.with_name(path.name + ".partial")
    picture.save(partial, format="JPEG" if path.suffix == ".jpg" else "PNG", **options)
    partial.replace(path)


def read(folder: Path) -> SceneRecord | None:
    """What the scenes.json of a run says; None where there is none.

    Raises:
        InputError: it doesn't hold what a run writes there.
    """
    path = folder / "scenes.json"
    if not path.is_file():
        return None
    content = read_object(path)
    classes: Any = content.get("classes")
    colors: Any = content.get("colors")
    scenes: Any = content.get("scenes")
    if not (
        are_classes(classes, colors)
        and isinstance(scenes, list)
        and all(isinstance(scene, dict) and isinstance(scene.get("name"), str) for scene in scenes)
        and all(is_confusion(scene.get("confusion"), len(classes)) for scene in scenes)
    ):
        raise InputError(f"{path} doesn't hold what a run writes there: {MEND}")
    shape = (len(scenes), len(classes), len(classes))
    sizes = [(scene.get("height_px"), scene.get("width_px")) for scene in scenes]
    return SceneRecord(
        tuple(classes),
        tuple(colors),
        tuple(scene["name"] for scene in scenes),
        tuple(size if all(type(side) is int for side in size) else None for size in sizes),
        np.array([scene["confusion"] for scene in scenes], np.int64).reshape(shape),
        _boundaries(scenes, len(classes)),
    )


def _boundaries(scenes: list[dict[str, Any]], classes: int) -> np.ndarray | None:
    """Of all scenes, None where one has none or something else."""
    counts: list[Any] = [scene.get("boundary") for scene in scenes]
    whole = all(
        isinstance(of_scene, list)
        and len(of_scene) == classes
        and all(
            isinstance(pair, list) and [type(n) for n in pair] == [int, int] for pair in of_scene
        )
        for of_scene in counts
    )
    return np.array(counts, np.int64).reshape(len(counts), classes, 2) if whole else None
