"""Images with objects, by split, and what predictions of them are worth."""

import csv
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration.schema import DetectionConfig, InstanceConfig
from cnn_jax.data import augmentation, object_scenes
from cnn_jax.data.object_source import ObjectSource
from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.data.pipeline import DecodedScenes
from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.evaluation import coco, drawn_ap, object_windows, panoptic, statistics
from cnn_jax.evaluation.windows import window_for
from cnn_jax.records import object_record, scene_record
from cnn_jax.tasks.network import LastEvaluation
from cnn_jax.tasks.object_learner import ObjectLearner
from cnn_jax.tasks.task import Report
from cnn_jax.training.devices import Devices


class ObjectDataset:
    """Images with objects, by split.

    Attributes:
        info: of the images.
        found: the `ObjectSet`.
        scenes: split -> `DecodedScenes` of images and `objects.number_map`s.

    Raises:
        InputError: an image or an annotation can't be used, or a split that is needed is empty.
    """

    def __init__(self, config: DetectionConfig | InstanceConfig) -> None:
        data = config.data
        self.found = object_scenes.open_objects(data)
        if config.evaluation.weights == "best" and not self.found.splits["validation"]:
            raise InputError(
                "evaluation.weights is 'best', but there is no validation split to choose by: use"
                " 'last', or hold some out."
            )
        pixel_bytes = self.found.channels * np.dtype(self.found.dtype).itemsize + 4
        sizes = {
            split: pixel_bytes * sum(s.scene.height_px * s.scene.width_px for s in scenes)
            for split, scenes in self.found.splits.items()
        }
        budget, total = data.memory_budget_gib * 2**30, max(sum(sizes.values()), 1)
        self.scenes = {
            split: DecodedScenes(
                [one.scene for one in self.found.splits[split]], budget * sizes[split] / total
            )
            for split in SPLITS
        }
        self.info = object_scenes.dataset_info(data, self.found, self.scenes["train"])
        if not sum(self.info.class_counts):
            raise InputError(
                f"no image of the train split of {data.source} has an object: look at it with"
                " cnn-jax inspect-data."
            )
        self._evaluators: dict[Any, ObjectEvaluator] = {}
        notes = list(self.found.notes)
        if isinstance(config, InstanceConfig) and data.source != "synthetic":
            scenes = [scene for split in SPLITS for scene in self.found.splits[split]]
            every = [one for scene in scenes for one in scene.objects().objects]
            boxes = sum(one.shape is None and not one.crowd for one in every)
            if boxes:
                notes.append(
                    f"{boxes:,} objects have a box and no mask: they are learnt and measured as if"
                    " they filled their boxes."
                )
        for sentence in notes:
            print(f"note: {sentence}", flush=True)

    def training_source(self, learner: ObjectLearner) -> ObjectSource:
        """Random access to the training regions, no larger than the largest image."""
        regions = augmentation.training_regions(self.scenes["train"], learner.config)
        return ObjectSource(regions, self.found.splits["train"])

    def resident(self, learner: ObjectLearner) -> dict[str, np.ndarray]:
        """Nothing: the host reads images with objects."""
        return {}

    def evaluator(self, learner: ObjectLearner, split: str, devices: Devices) -> "ObjectEvaluator":
        """Evaluates a split on the devices."""
        key = learner, split, devices
        if key not in self._evaluators:
            self._evaluators[key] = ObjectEvaluator(
                learner, self.scenes[split], self.found.splits[split], split, devices
            )
        return self._evaluators[key]


@dataclass(frozen=True)
class Evaluated:
    """What was found in a split's images.

    Attributes:
        truths: the images with their objects.
        predictions: of each image, best first.
        figures: "box" and "mask", as far as there are, -> `coco.CocoFigures`.
        classes: their number.
        most: objects of each class that count in an image.
    """

    truths: tuple[AnnotatedImage, ...]
    predictions: tuple[tuple[Annotation, ...], ...]
    figures: dict[str, coco.CocoFigures]
    classes: int
    most: int

    @functools.cached_property
    def counted(self) -> dict[str, tuple[coco.Counted, ...]]:
        """What each image adds to AP, by the names of `figures`."""
        pairs = list(zip(self.truths, self.predictions, strict=True))
        return {
            kind: tuple(coco.counted(*pair, self.classes, kind, self.most) for pair in pairs)
            for kind in self.figures
        }


class ObjectEvaluator:
    """Evaluates the images of one split: whole, at their own resolution; what windows cut is
    joined.

    Args:
        learner: that finds objects.
        scenes: the images, decoded.
        annotated: the same images' objects.
        split: their name.
        devices: that it computes on.
    """

    def __init__(
        self,
        learner: ObjectLearner,
        scenes: DecodedScenes,
        annotated: Sequence[object_scenes.ObjectScene],
        split: str,
        devices: Devices,
    ) -> None:
        self.learner, self.scenes, self.annotated = learner, scenes, annotated
        self.split, self.devices = split, devices
        self._last = LastEvaluation()

    def find(self, variables: Any, check: Callable = lambda: None) -> list[tuple[Annotation, ...]]:
        """The objects of each image, best first."""
        settings = self.learner.config.evaluation
        window = window_for(self.scenes.largest_px, settings.window_px)
        overlap = min(settings.overlap_px, min(window) // 2)
        see = self.learner.see(variables, self.devices)
        size, found = self.learner.batch_size(self.devices), []
        for index, scene in enumerate(self.scenes.scenes):
            places = object_windows.grid(scene.height_px, scene.width_px, window, overlap)
            image, _ = self.scenes[index]
            every = object_windows.find(
                places, lambda a, b, image=image: image[a:b], see, size, check
            )
            found.append(tuple(one for one in every if (one.score or 0) >= settings.least_score))
        return found

    def evaluate(self, variables: Any, check: Callable = lambda: None) -> Evaluated:
        """What is found, and COCO's figures of it."""
        predictions = tuple(self.find(variables, check))
        truths = tuple(one.objects() for one in self.annotated)
        most = self.learner.config.evaluation.most_objects
        figures = {
            kind: coco.coco_figures(truths, predictions, len(self.learner.names), kind, most)
            for kind in self.learner.kinds
        }
        return Evaluated(truths, predictions, figures, len(self.learner.names), most)

    def scores(
        self, variables: Any, check: Callable = lambda: None, last: bool = False
    ) -> dict[str, Any]:
        """COCO's figures, keyed by split and kind; None where there is none."""
        evaluated = self.evaluate(variables, check)
        self._last.keep(variables, evaluated)
        return self._scores(evaluated)

    def _scores(self, evaluated: Evaluated) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for kind, found in evaluated.figures.items():
            figures |= {f"{kind}_{name}": value for name, value in found.twelve.items()}
            for name, values in found.by_class.items():
                of_classes = zip(self.learner.names, values, strict=True)
                figures |= {f"class_{kind}_{name}/{c}": float(value) for c, value in of_classes}
        return self._keyed(figures)

    def _keyed(self, figures):
        return {
            f"{self.split}/{name}": None if isinstance(v, float) and math.isnan(v) else v
            for name, v in figures.items()
        }

    def report(self, variables: Any, check: Callable = lambda: None) -> Report:
        """The scores, with intervals over images; panoptic quality of masks; how many objects
        there are and were found."""
        evaluated = self._last.of(variables) if self.split == "validation" else None
        evaluated = evaluated or self.evaluate(variables, check)
        classes = len(self.learner.names)
        figures: dict[str, Any] = {}
        for kind, every in evaluated.counted.items():
            times = statistics.drawn(len(every), draws=500)
            drawn = drawn_ap.ap_of_draws(every, times, ious=0.5)
            interval = statistics.percentile_interval(drawn[1:])
            known = not any(map(math.isnan, interval))
            figures[f"{kind}_ap50_interval"] = list(interval) if known else None
        sure = [self._sure(found) for found in evaluated.predictions]
        pairs = list(zip(evaluated.truths, sure, strict=True))
        if "mask" in evaluated.figures:
            counts = sum(panoptic.panoptic_counts(*pair, classes) for pair in pairs)
            for name, values in panoptic.panoptic_quality(np.asarray(counts)).items():
                known = values[np.isfinite(values)]
                figures[name] = float(known.mean()) if known.size else math.nan
                of_classes = zip(self.learner.names, values, strict=True)
                figures |= {f"class_{name}/{c}": float(value) for c, value in of_classes}
        counts = np.array([panoptic.object_counts(*pair, classes) for pair in pairs])
        errors = np.abs(counts[:, :, 1] - counts[:, :, 0])
        figures["count_error"] = float(errors.sum(1).mean())
        figures["objects"] = int(counts[:, :, 0].sum())
        for label, name in enumerate(self.learner.names):
            figures[f"class_count_error/{name}"] = float(errors[:, label].mean())
        figures["images"] = len(pairs)
        return Report(self._scores(evaluated) | self._keyed(figures), evaluated)

    def keep(self, record: Any, report: Report) -> None:
        """Writes what comparisons need of each image: what it adds to AP, and of some the objects
        and a small picture."""
        evaluated: Evaluated = report.evaluation
        names = self.learner.names
        pairs = list(zip(evaluated.truths, evaluated.predictions, strict=True))
        shown, marks = scene_record.shown(len(pairs)), {}
        for index in shown:
            truth, sure = pairs[index][0], self._sure(pairs[index][1])
            kind = self.learner.kinds[-1]
            matched = coco.matches(truth, sure, len(names), kind, most=evaluated.most)
            marks[index] = object_record.marks(truth, sure, matched, kind == "mask")
        held = object_record.ObjectRecord(
            tuple(names),
            tuple("#{:02X}{:02X}{:02X}".format(*color) for color in self.learner.colors),
            tuple(truth.name for truth, _ in pairs),
            tuple((truth.height_px, truth.width_px) for truth, _ in pairs),
            evaluated.counted,
            marks,
        )
        record.write_objects(held, {index: self.scenes[index][0] for index in shown})

    def _sure(self, found: Sequence[Annotation]) -> tuple[Annotation, ...]:
        """Predictions with a score from which on they count in pictures and counts."""
        least = self.learner.config.evaluation.counted_score
        return tuple(one for one in found if (one.score or 0) >= least)

    def draw(self, folder: Path, lines: list[dict], report: Report, variables: Any) -> None:
        """A gallery from the worst image to the best, curves of precision and recall, AP by size,
        heat maps, and counts.csv: how many objects each image has and was found to have."""
        from cnn_jax.reporting import object_figures

        evaluated: Evaluated = report.evaluation
        settings, learner = self.learner.config.evaluation, self.learner
        sure = [self._sure(found) for found in evaluated.predictions]
        classes, kind = len(learner.names), learner.kinds[-1]
        every = [
            coco.matches(truth, found, classes, kind, most=evaluated.most)
            for truth, found in zip(evaluated.truths, sure, strict=True)
        ]
        worth = np.array([object_figures.f1(one) for one in every])
        order = np.argsort(worth, kind="stable")[: np.isfinite(worth).sum()]
        count = min(settings.gallery_scenes, len(order))
        if count:
            chosen = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
            object_figures.gallery(
                [self.scenes[int(i)][0] for i in chosen],
                [evaluated.truths[i] for i in chosen],
                [sure[i] for i in chosen],
                [every[i] for i in chosen],
                learner.names,
                learner.colors,
                folder / "gallery.png",
                masks=kind == "mask",
            )
            heat = functools.partial(self.heat, variables)
            object_figures.heat_maps(
                [self.scenes[int(i)][0] for i in chosen[:2]],
                [heat(self.scenes[int(i)][0]) for i in chosen[:2]],
                [evaluated.truths[i].name for i in chosen[:2]],
                folder / "heat_maps.png",
            )
        object_figures.precision_recall(
            {kind: found.precision for kind, found in evaluated.figures.items()},
            learner.names,
            folder / "precision_recall.png",
        )
        object_figures.by_size(
            {kind: found.twelve for kind, found in evaluated.figures.items()},
            folder / "ap_by_size.png",
        )
        self._write_counts(folder / "counts.csv", evaluated.truths, sure)

    def heat(self, variables: Any, image: np.ndarray) -> np.ndarray:
        """How probable the centre of an object is, float32 `[h, w]` of the upper left window."""
        height, width = image.shape[:2]
        window = window_for((height, width), self.learner.config.evaluation.window_px)
        places = object_windows.grid(height, width, window, 0)
        _, seen = next(object_windows.windows_of(places, lambda a, b: image[a:b]))
        heat = np.asarray(self.learner.heat(variables, seen[None]))[0]  # type: ignore[attr-defined]
        rows, columns = (
            -(-min(length, side) * cells // side)
            for length, side, cells in zip((height, width), window, heat.shape, strict=True)
        )
        return heat[:rows, :columns]

    def _write_counts(self, path, truths, sure):
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "class", "objects", "found"])
            for truth, found in zip(truths, sure, strict=True):
                counts = panoptic.object_counts(truth, found, len(self.learner.names))
                for name, (there, seen) in zip(self.learner.names, counts.tolist(), strict=True):
                    rows.writerow([truth.name, name, there, seen])
