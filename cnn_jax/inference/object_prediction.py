"""Objects in pictures and scenes of any size, by a finished run: as arrays' worth, and as files."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data import annotations, objects
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet
from cnn_jax.data.rasters import DamagedError
from cnn_jax.data.resizing import displayable
from cnn_jax.errors import InputError
from cnn_jax.evaluation import object_windows
from cnn_jax.evaluation.windows import window_for
from cnn_jax.inference.kept import KeptAnswers
from cnn_jax.inference.scenes import found, opened_each
from cnn_jax.records.files import pictures_can_be_written, write_text
from cnn_jax.records.scene_record import save

OVERLAY_PX = 2**26
"""Scenes of more pixels get no overlay."""


@dataclass(frozen=True)
class ObjectPrediction:
    """What a network found in an image, best first.

    Attributes:
        image: its size, and the objects, with scores.
        names: of the classes.
        colors: of the classes.
    """

    image: AnnotatedImage
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    @property
    def objects(self) -> tuple[Annotation, ...]:
        """Label, box in px, mask as run lengths, and score of each."""
        return self.image.objects

    def mask(self, index: int) -> np.ndarray:
        """An object's pixels, bool `[height, width]`; of a detector, those of its box."""
        return objects.mask(self.objects[index], self.image.height_px, self.image.width_px)

    def counts(self, least_score: float = 0.3) -> dict[str, int]:
        """How many objects of each class have at least this score."""
        sure = [one.label for one in self.objects if (one.score or 0) >= least_score]
        return {name: sure.count(label) for label, name in enumerate(self.names)}

    def overlay(self, picture: np.ndarray, least_score: float = 0.3) -> np.ndarray:
        """The objects in the colours of their classes over the picture, as uint8 `[height, width,
        3]`: masks where there are any, and boxes."""
        from cnn_jax.reporting.object_figures import boxed, tinted

        sure = [one for one in self.objects if (one.score or 0) >= least_score]
        shown = displayable(picture)
        masked = [one for one in sure if isinstance(one.shape, bytes)]
        shown = tinted(shown, masked, self.image, self.colors)
        return boxed(shown, [one for one in sure if one.shape is None], self.colors)


def predict(
    run: Any,
    read: Callable[[int, int], np.ndarray],
    height: int,
    width: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[Annotation, ...]:
    """The objects of a scene of any size, best first; what lies in memory is one row of windows.

    Args:
        run: finished, of detection or instances.
        read: `(first row, last row) -> pixels [rows, width, channels]`; each row is asked for once,
            in order.
        height: of the scene.
        width: of the scene.
        check: called between batches of windows.
    """
    settings = run.config.evaluation
    window = window_for((height, width), settings.window_px)
    overlap = min(settings.overlap_px, min(window) // 2)
    places = object_windows.grid(height, width, window, overlap)
    see = run.learner.see(run.variables, run.devices)
    size = run.learner.batch_size(run.devices)
    every = object_windows.find(places, read, see, size, check)
    return tuple(one for one in every if (one.score or 0) >= settings.least_score)


def of_array(run: Any, image: np.ndarray) -> ObjectPrediction:
    """The objects of an image `[height, width, channels]` of the type that the run's files have."""
    height, width = image.shape[:2]
    every = predict(run, lambda first, last: image[first:last], height, width)
    annotated = AnnotatedImage("", height, width, every)
    return ObjectPrediction(annotated, run.info.classes, tuple(run.learner.colors))


def predict_objects(
    run: Any,
    inputs: Sequence[str],
    folder: Path,
    *,
    form: str = "coco",
    overlay: bool = False,
    least_score: float = 0.3,
    bands: tuple[int, ...] = (),
    runs: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Finds the objects of pictures and writes them as annotations, from which an annotator can go
    on; and counts.json, how many objects of each class each picture has. Each answer is kept as it
    is found, for `resume`.

    Args:
        run: finished, of detection or instances.
        inputs: pictures, or folders of them.
        folder: of the outputs.
        form: of the annotations, a key of `annotations.FORMATS`.
        overlay: whether each picture is written with its objects over it.
        least_score: objects below are left out.
        bands: of each picture, numbers from 1; empty: all, grey ones repeated where the run takes
            three.
        runs: the run's digest, for `resume` to compare.
        resume: whether pictures are passed over whose objects an earlier command found.
        overwrite: whether outputs that exist are replaced.
        check: called between batches of windows.

    Returns:
        A sentence for each picture or part of one that could not be decoded.

    Raises:
        InputError: an output exists, an input can't be used, or the format can't take them: told
            before anything is predicted.
    """
    one_file = annotations.ONE_FILE.get(form)
    output = folder / (f"predictions{one_file}" if one_file else form)
    pictures = found(inputs, folder)
    single = Path(inputs[0]) if len(inputs) == 1 and Path(inputs[0]).is_dir() else None
    if form == "geojson" and single is None:
        raise InputError("--format geojson takes places from one folder of scenes: give that.")
    overlays = [folder / f"{name}_objects.png" for name, _ in pictures] if overlay else []
    written = folder / "counts.json"
    about = {"runs": list(runs), "format": form, "bands": list(bands), "overlay": overlay}
    about["least_score"] = least_score
    kept = KeptAnswers(folder, about, [output, written, *overlays], resume, overwrite)
    scenes, said = opened_each(pictures, run.info, bands)
    empty = [AnnotatedImage(_whole(one), one.height_px, one.width_px) for one in scenes]
    annotations.check(form, run.info.classes, empty, "--format")
    if form == "geojson":
        for scene in scenes:
            scene.check_polygons()
    # It is written last, and people correct what is written.
    finished = resume and written.exists() and output.exists()
    for scene in scenes if finished else ():
        if kept.get(scene.name, scene.path) is None:
            raise InputError(
                f"{output} exists, without {scene.path}, which is new or has changed: give another"
                " --output, or --overwrite to replace it."
            )
    with pictures_can_be_written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            written.unlink(missing_ok=True)
    if turned := [scene.path for scene in scenes if scene.raster.orientation != 1]:
        print(
            f"note: {len(turned):,} pictures have an EXIF orientation, and their objects lie on the"
            " pixels as stored, so programs that turn pictures show them elsewhere; the first:"
            f" {turned[0]}",
            flush=True,
        )
    every, counts = [], {}
    for scene in scenes:
        check()
        answer = kept.get(scene.name, scene.path)
        if answer is None:
            answer = _answer(run, scene, folder, overlay, least_score, check)
            kept.put(scene.name, scene.path, answer)
        said += answer["damaged"]
        scene.close()
        if answer["objects"] is None:
            continue
        image = _image(scene, answer["objects"])
        every.append(image)
        made = ObjectPrediction(image, run.info.classes, tuple(run.learner.colors))
        counts[image.name] = made.counts(least_score)
        numbers = ", ".join(f"{n} {c}" for c, n in counts[image.name].items())
        print(f"{image.name}: {numbers}", flush=True)
    if finished:
        return said
    ids = tuple((run.info.description or {}).get("category_ids", ()))
    answers = AnnotationSet(run.info.classes, tuple(every), ids)
    lost = annotations.write(answers, form, output, single, overwrite=overwrite or resume)
    write_text(written, json.dumps(counts, ensure_ascii=False, indent=1) + "\n")
    for sentence in lost:
        print(f"lost: {sentence}", flush=True)
    return said


def _answer(run, scene, folder, overlay, least_score, check) -> dict[str, Any]:
    """What is found in a scene, as JSON has it, and the places that can't be decoded."""
    try:
        read = functools.partial(_rows, scene)
        ours = predict(run, read, scene.height_px, scene.width_px, check)
    except DamagedError as error:
        return {"objects": None, "damaged": [str(error)]}
    sure = [one for one in ours if (one.score or 0) >= least_score]
    runs = [one.shape.decode("ascii") if isinstance(one.shape, bytes) else None for one in sure]
    found = [[one.label, one.box, mask, one.score] for one, mask in zip(sure, runs, strict=True)]
    if overlay and scene.height_px * scene.width_px <= OVERLAY_PX:
        made = ObjectPrediction(_image(scene, found), run.info.classes, tuple(run.learner.colors))
        picture = made.overlay(scene.read(0, scene.height_px), least_score)
        path = folder / f"{scene.name}_objects.png"
        with pictures_can_be_written(folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, Image.fromarray(picture))
    return {"objects": found, "damaged": scene.damaged}


def _image(scene, found):
    """A scene with what `_answer` found in it."""
    every = (
        Annotation(label, tuple(box), shape and shape.encode("ascii"), score=score)
        for label, box, shape, score in found
    )
    return AnnotatedImage(_whole(scene), scene.height_px, scene.width_px, tuple(every))


def _whole(scene):
    return f"{scene.name}{scene.path.suffix}"


def _rows(scene, first, last):
    pixels = scene.read(first, last)
    scene.taken(last - 1, last)  # the scene needn't keep them
    return pixels
