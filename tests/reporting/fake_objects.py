"""Records of detectors that never ran: they see the objects of drawn scenes through noise
of their own."""

from pathlib import Path

import numpy as np

from cnn_jax.data import objects, synthetic
from cnn_jax.data.objects import AnnotatedImage
from cnn_jax.evaluation import coco
from cnn_jax.records import object_record, scene_record
from cnn_jax.records.run_record import RunRecord, read
from tests.reporting import fake_records

CLASSES, COLORS = ("building", "car"), ((60, 16, 152), (226, 169, 41))
SIZE_PX = 144, 192


def pictures(count: int = 4) -> list[tuple[np.ndarray, AnnotatedImage]]:
    """Drawn scenes and their objects."""
    found = []
    for number in range(count):
        image, every = synthetic.draw_objects((number, 5), *SIZE_PX)
        found.append((image, AnnotatedImage(f"scene {number}", *SIZE_PX, tuple(every))))
    return found


def seen(rng: np.random.Generator, truth: AnnotatedImage, noise: float):
    """Predictions: some objects are missed, others are moved by so many px, some are alarms."""
    found = []
    for one in truth.objects:
        if rng.random() < 0.05 * noise:
            continue
        mask = objects.mask(one, *SIZE_PX)
        move = np.rint(rng.normal(0, noise, 2)).astype(int)
        moved = np.roll(mask, move, (0, 1))
        found.append(objects.of_mask(moved, one.label, score=float(rng.uniform(0.4, 1))))
    for _ in range(round(noise)):
        mask = np.zeros(SIZE_PX, bool)
        y, x = rng.integers(0, SIZE_PX[0] - 20), rng.integers(0, SIZE_PX[1] - 20)
        mask[y : y + 14, x : x + 10] = True
        found.append(objects.of_mask(mask, 1, score=float(rng.uniform(0.3, 0.7))))
    return tuple(sorted(found, key=lambda one: -one.score))


def write_study(
    folder: Path, variants: dict[str, float], kinds=("box", "mask"), seeds=(0, 1)
) -> list[RunRecord]:
    """Runs of variants that see with so much noise, with objects.json and photographs."""
    rng, drawn = np.random.default_rng(0), pictures()
    truths = [truth for _, truth in drawn]
    task = "instances" if "mask" in kinds else "detection"
    records = []
    for variant, noise in variants.items():
        for seed in seeds:
            every = [seen(rng, truth, noise) for truth in truths]
            summary = {"test/images": len(truths)}
            for kind in kinds:
                figures = coco.coco_figures(truths, every, len(CLASSES), kind)
                summary |= {
                    f"test/{kind}_{name}": None if np.isnan(value) else value
                    for name, value in figures.twelve.items()
                }
                for name, values in figures.by_class.items():
                    of = zip(CLASSES, values.tolist(), strict=True)
                    summary |= {f"test/class_{kind}_{name}/{c}": value for c, value in of}
            run = folder / f"{variant}-seed{seed}"
            fake_records.write_run(run, variant, seed, summary, config={"task": task})
            kept = object_record.ObjectRecord(
                CLASSES,
                tuple("#{:02X}{:02X}{:02X}".format(*color) for color in COLORS),
                tuple(truth.name for truth in truths),
                (SIZE_PX,) * len(truths),
                {
                    kind: tuple(
                        coco.counted(*pair, len(CLASSES), kind)
                        for pair in zip(truths, every, strict=True)
                    )
                    for kind in kinds
                },
                {
                    index: object_record.marks(
                        truths[index],
                        every[index],
                        coco.matches(truths[index], every[index], len(CLASSES), kinds[-1]),
                        "mask" in kinds,
                    )
                    for index in scene_record.shown(len(truths))
                },
            )
            object_record.write(run, kept, {i: image for i, (image, _) in enumerate(drawn)})
            records.append(read(run))
    return records
