"""Draw what a trained network sees, from any finished run that kept its checkpoint.

python -m cnn_jax.commands.inspect_run RUN [--what overlays errors features attention grad_cam
    receptive_field] [--split test] [--scenes N] [--classes NAME ...] [--output FOLDER]
    [--directory DATA]
python -m cnn_jax.commands.inspect_run RUN RUN ... --output FOLDER     # how far several networks
look, side by side

The pictures go into the run's figures/, or into --output. Predictions are of whole scenes, at their
own resolution; what looks into the network sees crops of the size it was trained at. Runs that
don't segment have their own pictures drawn again.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import nearest, setting
from cnn_jax.errors import InputError
from cnn_jax.run import guarded

if TYPE_CHECKING:
    from cnn_jax.data.pipeline import RegionSource
    from cnn_jax.evaluation.evaluate import SceneEvaluator
    from cnn_jax.inference.predictor import Run
    from cnn_jax.reporting.segmenter_pictures import SeenField
    from cnn_jax.tasks.segmentation import SegmentationDataset

LOOKED_AT_CROPS = 8
"""Over so many crops the effective receptive field is averaged."""

ATTENTION_CROPS = 64
"""Over at most so many, evenly spaced, and the one that shows most of each class, the
excitations."""


MODULE = "cnn_jax.commands.inspect_run"


@dataclass(frozen=True)
class Inspection:
    """A segmenter's run that is looked at, and how.

    Attributes:
        run: the run.
        dataset: its scenes.
        split: whose scenes are looked at.
        scenes: how many at most are drawn.
        classes: indices of the classes asked about.
        folder: where the pictures go.
    """

    run: "Run"
    dataset: "SegmentationDataset"
    split: str
    scenes: int
    classes: Sequence[int]
    folder: Path

    @functools.cached_property
    def crops(self) -> "RegionSource":
        """Crops of the size of training, which divide the split's scenes: elements have `image` and
        `mask`."""
        from cnn_jax.data.pipeline import RegionSource

        crop_px = self.run.config.data.crop_px
        return RegionSource(self.dataset.scenes[self.split], crop_px, crop_px)

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """How many pixels of each class each crop has: int64 `[crops, classes]`."""
        count = len(self.run.info.classes)
        return np.stack(
            [
                np.bincount(self.crops[i]["mask"].ravel(), minlength=256)[:count]
                for i in range(len(self.crops))
            ]
        )

    def normalized(self, crop: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its image as the model sees it, float32 `[height, width, channels]`."""
        return np.asarray(self.run.normalize(crop["image"]))

    def spread(self, count: int) -> list[int]:
        """Numbers of so many crops, evenly spaced."""
        return sorted({*np.linspace(0, len(self.crops) - 1, count).round().astype(int).tolist()})

    @functools.cached_property
    def predicted(self) -> "tuple[SceneEvaluator, np.ndarray, list[int]]":
        """(evaluator, mIoU of each scene, which are in order from the worst; a scene without a
        labelled pixel is not)."""
        from cnn_jax.evaluation import metrics

        run = self.run
        evaluator = self.dataset.evaluator(run.learner, self.split, run.devices).windows
        miou = np.array(
            [metrics.miou(matrix) for matrix in evaluator.evaluate(run.variables).confusion]
        )
        return evaluator, miou, np.argsort(miou, kind="stable")[: np.isfinite(miou).sum()].tolist()

    def scene_pictures(
        self, function: Callable[..., None], chosen: Sequence[int], name: str, **options
    ) -> None:
        """Draws scenes with `function`, under their names and mIoU."""
        from cnn_jax.data.resizing import pictured

        evaluator, miou, _ = self.predicted
        rows = [
            pictured(*evaluator.scenes[i], evaluator.predict(self.run.variables, i)) for i in chosen
        ]
        titles = [f"{evaluator.scenes.scenes[i].name}: mIoU {miou[i]:.3f}" for i in chosen]
        names = self.run.info.classes
        function(
            *zip(*rows, strict=True),
            names,
            self.run.info.colors,
            self.folder / name,
            titles,
            **options,
        )


def overlays(seen: Inspection) -> str:
    """Scenes from the worst to the best, with prediction and truth laid over."""
    from cnn_jax.reporting import segmenter_pictures

    order = seen.predicted[2]
    if not order:
        return f"no scene of {seen.split} has a labelled pixel: nothing to lay over"
    chosen = [
        order[i]
        for i in np.linspace(0, len(order) - 1, min(seen.scenes, len(order))).round().astype(int)
    ]
    seen.scene_pictures(segmenter_pictures.overlays, chosen, "overlays.png")
    return f"overlays.png: {len(chosen)} of {len(order)} scenes, from the worst to the best"


def errors(seen: Inspection) -> str:
    """The worst scenes, with what was taken for what."""
    from cnn_jax.reporting import segmenter_pictures

    order = seen.predicted[2]
    if not order:
        return f"no scene of {seen.split} has a labelled pixel: no errors to draw"
    chosen = order[: seen.scenes]
    caption = (
        f"The scenes of {seen.split} with the lowest mIoU, the lowest first: {len(chosen)} of"
        f" {len(order)}"
    )
    seen.scene_pictures(segmenter_pictures.errors, chosen, "errors.png", caption=caption)
    return f"errors.png: the {len(chosen)} worst of {len(order)} scenes"


def features(seen: Inspection) -> str:
    """Maps at every level, for the crop whose classes share its pixels most evenly."""
    from cnn_jax.analysis import attribution
    from cnn_jax.reporting import segmenter_pictures

    share = seen.pixels / np.maximum(seen.pixels.sum(1, keepdims=True), 1)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(1)
    crop = seen.crops[int(entropy.argmax())]
    maps = attribution.level_maps(seen.run.model, seen.run.variables, seen.normalized(crop))
    if not maps:
        return "the network has no feature maps"
    segmenter_pictures.feature_maps(crop["image"], maps, seen.folder / "feature_maps.png")
    return f"feature_maps.png: {len(maps)} levels"


def attention(seen: Inspection) -> str:
    """What squeeze and excitation lets through, by class."""
    from cnn_jax.analysis import attribution
    from cnn_jax.reporting import segmenter_pictures

    chosen = sorted(
        {*seen.spread(ATTENTION_CROPS), *seen.pixels.argmax(0)[list(seen.classes)].tolist()}
    )
    batches = (
        (seen.normalized(crop)[None], crop["mask"][None])
        for crop in map(seen.crops.__getitem__, chosen)
    )
    found = attribution.excitation_by_class(
        seen.run.model, seen.run.variables, batches, len(seen.run.info.classes)
    )
    if not found:
        return "the network has no squeeze and excitation: no attention.png"
    segmenter_pictures.attention(
        found, seen.classes, seen.run.info.classes, seen.folder / "attention.png", crops=len(chosen)
    )
    return f"attention.png: {len(found)} squeeze-and-excitations, {len(chosen)} crops"


def grad_cam(seen: Inspection) -> str:
    """Seg-Grad-CAM of each class, in the crop of which it has nearest to a half: there it must be
    told from others."""
    import jax

    from cnn_jax.analysis import attribution
    from cnn_jax.data.resizing import displayable
    from cnn_jax.reporting import segmenter_pictures

    share = seen.pixels / np.prod(seen.run.config.data.crop_px)
    crops = [
        seen.crops[int((share[:, index] * (1 - share[:, index])).argmax())]
        for index in seen.classes
    ]
    images = np.stack([seen.normalized(crop) for crop in crops])
    layer = attribution.deepest_map(seen.run.model, seen.run.variables, images[:1])
    heats = attribution.segmentation_grad_cam(
        seen.run.model, seen.run.variables, images, np.array(seen.classes), layer=layer
    )

    @jax.jit
    def predict(variables, images):
        logits: Any = seen.run.model.apply(variables, images, train=False)
        return attribution.logits_for_and_against(logits).argmax(-1).astype(np.uint8)

    predictions = [np.asarray(predict(seen.run.variables, image[None]))[0] for image in images]
    pictured = (
        [displayable(crop["image"]) for crop in crops],
        predictions,
        heats,
        seen.classes,
        seen.run.info.classes,
        seen.run.info.colors,
    )
    segmenter_pictures.grad_cam(*pictured, seen.folder / "grad_cam.png", layer=layer)
    return f"grad_cam.png: {len(crops)} classes, at {layer}"


def receptive_field(seen: Inspection) -> str:
    """How far the network looks."""
    from cnn_jax.reporting import segmenter_pictures

    segmenter_pictures.receptive_fields([field(seen)], seen.folder / "receptive_field.png")
    return "receptive_field.png"


def field(seen: Inspection) -> "SeenField":
    """The effective receptive field over crops of the split, as `receptive_fields` draws it."""
    from cnn_jax.analysis.effective_receptive_field import effective_receptive_field, radii_px
    from cnn_jax.analysis.layer_table import summarize
    from cnn_jax.reporting.segmenter_pictures import SeenField

    images = np.stack([seen.normalized(seen.crops[i]) for i in seen.spread(LOOKED_AT_CROPS)])
    values = effective_receptive_field(seen.run.model, seen.run.variables, images)
    layers = summarize(seen.run.model, images.shape[1:]).layers
    fields = [layer.field_px for layer in layers if layer.field_px]
    title = f"{seen.run.folder.resolve().name}, {seen.run.config.model.name}"
    return SeenField(title, values, radii_px(values), fields[-1], len(images))


PICTURES = {
    "overlays": overlays,
    "errors": errors,
    "features": features,
    "attention": attention,
    "grad_cam": grad_cam,
    "receptive_field": receptive_field,
}


def inspect(options: "Options", what: Sequence[str]) -> None:
    """Draws the pictures named in `what` of one run, and prints a line of each.

    Raises:
        InputError: as `load`, or a class that the run or the split doesn't have.
    """
    from cnn_jax.inference.predictor import load
    from cnn_jax.records.files import (
        check_picture,
        pictures_beside_others,
        pictures_can_be_written,
    )

    run = load(options.runs[0])
    dataset = run.open_data(options.directory, options.split)
    own, out = run.folder / "figures", options.output
    with pictures_beside_others(Path(out)) if out else pictures_can_be_written(own) as drawn:
        target = drawn or own
        target.mkdir(parents=True, exist_ok=True)
        if run.config.task != "segmentation":
            _redraw(run, dataset, options.split, target)
        else:
            if out:  # before anything is computed
                for name in what:
                    check_picture(Path(out) / f"{name}.png")
            seen = _inspection(run, dataset, options, target)
            for name in what:
                print(PICTURES[name](seen), flush=True)
    print(f"pictures: {out or own}")


def compare(options: "Options") -> None:
    """Draws how far several networks look into one receptive_field.png.

    Raises:
        InputError: as `load`, or a run that is not a segmenter's.
    """
    from cnn_jax.inference.predictor import load
    from cnn_jax.records.files import pictures_beside_others
    from cnn_jax.reporting import segmenter_pictures

    fields, out = [], Path(options.output)
    for folder in options.runs:
        run = load(folder)
        if run.config.task != "segmentation":
            raise InputError(
                f"{folder} is a run of {run.config.task}: receptive fields of segmentation networks"
                " alone are compared."
            )
        dataset = run.open_data(options.directory, options.split)
        fields.append(field(_inspection(run, dataset, options, out)))
    with pictures_beside_others(out) as drawn:
        segmenter_pictures.receptive_fields(fields, drawn / "receptive_field.png")
    print(f"receptive_field.png: {len(fields)} networks\npictures: {out}")


def _inspection(run, dataset, options, folder):
    known, split = list(run.info.classes), options.split
    for name in options.classes:
        if name not in known:
            raise InputError(
                f"--classes {name!r} is no class of {run.folder}: {nearest(name, known)}."
            )
        if not dataset.class_counts[split][known.index(name)]:
            raise InputError(
                f"--classes {name!r} has no pixel in the {split} split; choose another class or"
                " --split."
            )
    present = [index for index, count in enumerate(dataset.class_counts[split]) if count]
    classes = [known.index(name) for name in options.classes] or present
    return Inspection(run, dataset, split, options.scenes, classes, folder)


def _redraw(run, dataset, split, folder):
    from cnn_jax.records.files import metrics_lines
    from cnn_jax.reporting.figures import learning_curves

    lines = metrics_lines(run.folder / "metrics.jsonl")
    learning_curves(lines, folder / "learning_curves.png")
    evaluator = dataset.evaluator(run.learner, split, run.devices)
    report = evaluator.report(run.variables, lambda: None)
    evaluator.draw(folder, lines, report, run.variables)
    print(
        f"{run.folder} is a run of {run.config.task}: its own pictures are drawn again, of the"
        f" {split} split; --what is for segmenters."
    )


@dataclass
class Options:
    """Which runs are looked at, and which pictures are drawn."""

    runs: tuple[str, ...] = command_line.positional(
        (), "RUN", "folder of a finished run; several: receptive fields alone"
    )
    what: tuple[str, ...] = setting(
        tuple(PICTURES), "pictures, of segmentation networks", choices=PICTURES
    )
    split: str = setting("test", "examples drawn", choices=("train", "validation", "test"))
    scenes: int = setting(4, "scenes drawn at most", unit="scenes", at_least=1)
    classes: tuple[str, ...] = setting(
        (), "classes for attention and grad_cam; empty: those in the split"
    )
    output: str = setting("", "folder of the pictures; empty: the run's figures/", path=True)
    directory: str = setting(
        "", "where the data lie, if no longer where the configuration says", path=True
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for what the user can mend."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        what = [name for name in PICTURES if name in options.what]
        if not what:
            raise InputError(f"--what is empty; give some of {', '.join(PICTURES)}.")
        if len(options.runs) == 1:
            inspect(options, what)
        elif what not in (["receptive_field"], list(PICTURES)):
            raise InputError(
                "--what is receptive_field for several runs; give one RUN for other pictures."
            )
        elif not options.output:
            raise InputError(
                "--output is missing: give the folder for the picture of several runs."
            )
        else:
            compare(options)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
