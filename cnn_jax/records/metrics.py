"""Every figure of a record, described once: tables, comparisons and pages know it from here.

A summary keys a figure of a split as `split/name`, one of a class as `split/name/class`, and the
interval of a figure as `split/name_interval`.
"""

import math
from dataclasses import dataclass

NOTHING = "\N{EN DASH}"
"""What stands for a value that doesn't exist."""


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: as summaries key it, without the split.
        label: what tables and axes call it.
        least: the least value there can be.
        most: the greatest.
        higher_is_better: whether more is better; None where neither is (a count, say).
        tasks: those that have it.
        compared: whether tables of results and comparisons show it.
        of_classes: whether each class has its own, keyed `split/name/class`.
        omitted_for: tasks whose comparisons, which are narrower than tables, leave it out.
        averaging: how it is averaged, for the notes below tables.
    """

    name: str
    label: str
    least: float = 0.0
    most: float = 1.0
    higher_is_better: bool | None = True
    tasks: tuple[str, ...] = ("segmentation",)
    compared: bool = True
    of_classes: bool = False
    omitted_for: tuple[str, ...] = ()
    averaging: str = ""

    @property
    def sign(self) -> int:
        """What a value is multiplied by for more to be better."""
        return -1 if self.higher_is_better is False else 1


_IMAGES = ("classification", "classic")
_ALL = ("segmentation", *_IMAGES)
_PRESENT = "mean over the classes that occur in truth or prediction, each class counting the same"


OBJECT_TASKS = ("detection", "instances")
"""Those that find objects."""

_OF_CLASSES = "mean over the classes that occur in truth, each class counting the same"
_IOUS = f"{_OF_CLASSES}, and over the IoUs 0.5, 0.55, ..., 0.95"


def _coco(kind: str, tasks: tuple[str, ...]) -> tuple[Figure, ...]:
    """COCO's twelve figures of boxes or masks, the first of which ranks."""
    sizes = {
        "_small": ", small (under 32² px)",
        "_medium": ", medium (under 96² px)",
        "_large": ", large",
    }
    return (
        Figure(f"{kind}_ap", f"{kind} AP", tasks=tasks, averaging=_IOUS),
        Figure(f"{kind}_ap50", f"{kind} AP50", tasks=tasks, averaging=f"{_OF_CLASSES}; IoU 0.5"),
        Figure(f"{kind}_ap75", f"{kind} AP75", tasks=tasks, averaging=f"{_OF_CLASSES}; IoU 0.75"),
        *(
            Figure(f"{kind}_{name}{size}", f"{kind} {label}{meaning}", tasks=tasks, compared=False)
            for name, label in (("ap", "AP"), ("ar", "AR"))
            for size, meaning in sizes.items()
        ),
        *(
            Figure(f"{kind}_{name}", f"{kind} {label}", tasks=tasks, compared=False)
            for name, label in (
                ("ar1", "AR of 1 object"),
                ("ar10", "AR of 10 objects"),
                ("ar", "AR"),
            )
        ),
        Figure(f"class_{kind}_ap", f"{kind} AP", tasks=tasks, compared=False, of_classes=True),
        Figure(f"class_{kind}_ap50", f"{kind} AP50", tasks=tasks, compared=False, of_classes=True),
    )


def _count(name: str, label: str, tasks: tuple[str, ...] = ("segmentation",)) -> Figure:
    return Figure(name, label, most=math.inf, higher_is_better=None, tasks=tasks, compared=False)


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("miou", "mIoU", averaging=_PRESENT),
        Figure("accuracy", "accuracy", tasks=_IMAGES, averaging="share of images that are right"),
        Figure(
            "frequency_weighted_iou",
            "frequency-weighted IoU",
            omitted_for=("segmentation",),
            averaging="mean IoU of the classes, each weighted by its share of the true pixels",
        ),
        Figure("mean_dice", "mean Dice", averaging=_PRESENT),
        Figure("pixel_accuracy", "pixel accuracy", averaging="share of pixels that are right"),
        Figure(
            "mean_class_accuracy",
            "mean class accuracy",
            tasks=_ALL,
            omitted_for=("segmentation",),  # mean Dice is close to it
            averaging="mean recall over the classes that occur in truth",
        ),
        Figure(
            "boundary_miou",
            "boundary mIoU",
            averaging="mIoU of the pixels near the edges of classes, within 2% of the image's"
            " diagonal (Cheng et al., 2021)",
        ),
        Figure("image_miou", "image mIoU", averaging="mean over scenes of each scene's own mIoU"),
        Figure(
            "expected_calibration_error",
            "calibration error",
            higher_is_better=False,
            averaging="mean distance between confidence and accuracy, in 15 bins of confidence"
            " (Guo et al., 2017)",
        ),
        Figure("mean_f1", "mean F1", tasks=_IMAGES, averaging=_PRESENT),
        Figure(
            "top5_accuracy",
            "top-5 accuracy",
            tasks=_IMAGES,
            averaging="share of images whose class is among the five most probable",
        ),
        *_coco("mask", ("instances",)),
        *_coco("box", OBJECT_TASKS),
        Figure(
            "pq",
            "panoptic quality",
            tasks=("instances",),
            averaging="mean over the classes that occur, each class counting the same (Kirillov et"
            " al., 2019), objects alone",
        ),
        *(
            Figure(name, label, tasks=("instances",), compared=False)
            for name, label in (("sq", "segmentation quality"), ("rq", "recognition quality"))
        ),
        *(
            Figure(
                f"class_{name}", name.upper(), tasks=("instances",), compared=False, of_classes=True
            )
            for name in ("pq", "sq", "rq")
        ),
        Figure(
            "count_error",
            "count error",
            most=math.inf,
            higher_is_better=False,
            tasks=OBJECT_TASKS,
            averaging="mean over images of how far the number of objects is off, all classes",
        ),
        Figure(
            "class_count_error",
            "count error",
            most=math.inf,
            higher_is_better=False,
            tasks=OBJECT_TASKS,
            compared=False,
            of_classes=True,
        ),
        _count("objects", "objects", OBJECT_TASKS),
        Figure("iou", "IoU", compared=False, of_classes=True),
        Figure("class_accuracy", "recall", tasks=_ALL, compared=False, of_classes=True),
        Figure("f1", "F1", tasks=_IMAGES, compared=False, of_classes=True),
        Figure("dice", "Dice", compared=False, of_classes=True),
        Figure("boundary_iou", "boundary IoU", compared=False, of_classes=True),
        Figure("shifted_accuracy", "accuracy, moved", tasks=_IMAGES, compared=False),
        Figure("loss", "loss", most=math.inf, higher_is_better=False, tasks=_ALL, compared=False),
        _count("scenes", "scenes"),
        _count("pixels", "pixels"),
        _count("images", "images", (*_IMAGES, *OBJECT_TASKS)),
        _count("images_per_second", "images/s", _IMAGES),
    )
}
"""Name -> figure, the first of a task being what ranks its runs. A new figure is one line here."""


def leading(task: str) -> Figure | None:
    """The figure that ranks the runs of a task; None where no figure of it is known."""
    return next((f for f in FIGURES.values() if task in f.tasks and f.compared), None)
