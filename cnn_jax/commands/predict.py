"""Predict new pictures, and scenes of any size, by a finished run.

python -m cnn_jax.commands.predict RUN PICTURE_OR_FOLDER... --output DIR [--runs RUN ...]
[--probabilities uint8|float16] [--uncertainty] [--overlay] [--polygons --least-px N] [--augment]
[--blend gaussian|linear|uniform|none] [--bands 1 2 3] [--region ROW COLUMN HEIGHT WIDTH | --region
LEFT BOTTOM RIGHT TOP --region-crs CRS] [--cog] [--format FORMAT] [--least-score SCORE] [--resume |
--overwrite]

A segmenter writes a class map of each picture, with the place, projection and colours that a
GeoTIFF keeps, and areas.csv; a classifier writes predictions.csv; a run of detection or instances
writes annotations in --format, and counts.json. With --resume an interrupted command goes on.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.records.metrics import OBJECT_TASKS
from cnn_jax.run import guarded
from cnn_jax.runtime import memory

MODULE = "cnn_jax.commands.predict"

_DENSE = "probabilities uncertainty polygons least_px blend region region_crs cog"
_FOR = (
    ("segmenters", ("segmentation",), _DENSE.split()),
    ("segmenters and classifiers", ("segmentation", "classification"), ("runs", "augment")),
    ("segmenters and networks of objects", ("segmentation", *OBJECT_TASKS), ("overlay", "bands")),
    ("networks of objects", OBJECT_TASKS, ("format", "least_score")),
)
"""Whose options they are, of which tasks, and their names; those of all tasks are not here."""


@dataclass
class Options:
    """What is predicted, by which runs, and what is written."""

    paths: tuple[str, ...] = command_line.positional(
        (), "RUN PICTURE_OR_FOLDER", "folder of a finished run, then pictures or folders of them"
    )
    output: str = setting("", "folder of the predictions", path=True)
    runs: tuple[str, ...] = setting((), "further runs, which are averaged with the first")
    probabilities: str = setting(
        "none",
        "a band for each class; uint8: 0 to 254, 255 where there is nothing",
        choices=("none", "uint8", "float16"),
    )
    uncertainty: bool = setting(False, "confidence and entropy of each pixel")
    overlay: bool = setting(False, "the picture with its classes laid over")
    polygons: bool = setting(False, "areas as GeoJSON")
    least_px: int = setting(
        1, "areas of fewer pixels join a neighbour, in polygons", unit="px", at_least=1
    )
    augment: bool = setting(False, "average over flips and quarter turns")
    blend: str = setting(
        "gaussian",
        "weights of windows where they overlap",
        choices=("gaussian", "linear", "uniform", "none"),
    )
    bands: tuple[int, ...] = setting((), "bands to take, from 1; empty: as in training", at_least=1)
    region: tuple[float, ...] = setting(
        (), "ROW COLUMN HEIGHT WIDTH in px, or with --region-crs LEFT BOTTOM RIGHT TOP"
    )
    region_crs: str = setting("", "of --region's coordinates, such as EPSG:4326")
    format: str = setting(
        "coco",
        "of the objects that a run of detection or instances finds: coco, labelme, via, cvat, yolo,"
        " yolo_polygons, voc, geojson, index_masks, palette_masks",
    )
    least_score: float = setting(0.3, "objects below are left out", unit="0 to 1", at_least=0)
    cog: bool = setting(False, "write Cloud Optimized GeoTIFFs")
    resume: bool = setting(False, "go on: what is done is passed over")
    overwrite: bool = setting(False, "replace outputs that exist")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 1 where a part of the inputs could not be decoded."""
    if argv is None:
        memory.keep()
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        wanted = _checked(options)
        from cnn_jax.inference import pictures, predictor
        from cnn_jax.runtime.preemption import StopRequest

        run, *inputs = options.paths
        loaded = [predictor.load(folder) for folder in (run, *options.runs)]
        made = loaded[0] if len(loaded) == 1 else predictor.ensemble(loaded)
        _check_task(options, made.config.task)
        folder = Path(options.output)
        runs = [f"{one.digest} {one.summary['evaluated_step']}" for one in loaded]
        going = {"runs": runs, "resume": options.resume, "overwrite": options.overwrite}
        with StopRequest(ends_process=argv is None) as stop:
            if made.config.task == "segmentation":
                said = pictures.predict_pictures(
                    made,
                    inputs,
                    folder,
                    pictures.Wanted(**wanted),
                    **going,
                    check=stop.raise_if_set,
                )
            elif made.config.task in OBJECT_TASKS:
                from cnn_jax.inference.object_prediction import predict_objects

                said = predict_objects(
                    made,
                    inputs,
                    folder,
                    form=options.format,
                    overlay=options.overlay,
                    least_score=options.least_score,
                    bands=options.bands,
                    **going,
                    check=stop.raise_if_set,
                )
            else:
                said = pictures.predict_images(
                    made,
                    inputs,
                    folder,
                    augment=options.augment,
                    **going,
                    check=stop.raise_if_set,
                )
        for sentence in said:
            print(f"damaged: {sentence}", file=sys.stderr)
        print(f"predictions: {folder}")
        outcome.exit_code = int(bool(said))
    return outcome.exit_code


def _check_task(options, task):
    """Raises InputError where something is asked for that a run of the task doesn't give."""
    for whose, tasks, names in _FOR:
        for name in names:
            if task not in tasks and getattr(options, name) != getattr(Options(), name):
                raise InputError(
                    f"--{name.replace('_', '-')} is for {whose}, and the run is of {task}: leave it"
                    " out."
                )


def _checked(options):
    """The settings of `pictures.Wanted`."""
    if len(options.paths) < 2:
        raise InputError(
            "PICTURE_OR_FOLDER is missing: give pictures or folders of them after the run."
        )
    if not options.output:
        raise InputError("--output is missing: give the folder of the predictions.")
    if options.region and len(options.region) != 4:
        raise InputError(
            f"--region takes four numbers, not {len(options.region)}: ROW COLUMN HEIGHT WIDTH in"
            " px, or with --region-crs LEFT BOTTOM RIGHT TOP."
        )
    if options.region and not options.region_crs and any(at % 1 for at in options.region):
        raise InputError(
            f"--region is in px and takes whole numbers, not {' '.join(map(str, options.region))}:"
            " round them, or say with --region-crs which system's coordinates they are."
        )
    if options.region_crs and not options.region:
        raise InputError("--region-crs is of --region's coordinates: give them too.")
    if options.resume and options.overwrite:
        raise InputError("--resume keeps what --overwrite would replace: give one of them.")
    if options.least_px > 1 and not options.polygons:
        raise InputError("--least-px is for polygons: give --polygons too.")
    others = ("paths", "output", "runs", "resume", "overwrite", "format", "least_score")
    return {name: value for name, value in vars(options).items() if name not in others}


if __name__ == "__main__":
    sys.exit(main())
