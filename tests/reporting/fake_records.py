"""Records of runs that never ran: scenes are made of smooth noise, and a variant sees them through
noise of its own."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from cnn_jax.evaluation import metrics
from cnn_jax.records import formats
from cnn_jax.records.run_record import RunRecord, read

CLASSES = ("building", "land", "road", "vegetation", "water")
COLORS = ("#3C1098", "#8429F6", "#6EC1E4", "#FEDD3A", "#E2A929")
DATA = {
    "source": "dubai",
    "directory": "somewhere",
    "crop_px": [144, 256],
    "mean": [0.5, 0.5, 0.5],
    "memory_budget_gib": 4.0,
    "prefetch_batches": 4,
}
CONFIG = {
    "task": "segmentation",
    "experiment": "study",
    "configuration": "default",
    "data": DATA,
    "training": {"steps": 1500, "batch_size": 8},
    "evaluation": {"window_px": [512, 512], "context_px": 64},
}
ENVIRONMENT = {"data_fingerprint": "089b95", "device_kind": "cpu", "device_count": 1}


def write_run(
    folder: Path,
    variant: str | None,
    seed: int,
    summary: dict,
    *,
    lines=(),
    config=None,
    environment=None,
) -> RunRecord:
    """A record of a run with these figures; `config` changes whole sections."""
    folder.mkdir(parents=True)
    config = (
        CONFIG | {"seed": seed} | ({} if variant is None else {"variant": variant}) | (config or {})
    )
    summary = {"seed": seed, "variant": variant, "steps": 1500} | summary
    for name, content in (
        ("config", config),
        ("environment", ENVIRONMENT | (environment or {})),
        ("summary", summary),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    return read(digested(folder))


def digested(folder: Path) -> Path:
    """The folder, with the digest of whatever its config.json holds: as if a run had had it."""
    config, environment = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("config", "environment")
    )
    environment["digest"] = formats.digest_as_written(config, environment)
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    return folder


def write_scenes(folder: Path, confusions, *, names=None, classes=CLASSES, colors=COLORS) -> None:
    """The scenes.json of a run from matrices [scenes, classes, classes]."""
    names = names or [f"tile 8, part {index + 1}" for index in range(len(confusions))]
    scenes = [
        {
            "name": name,
            "height_px": 1,
            "width_px": 1,
            "confusion": np.asarray(matrix).tolist(),
            "boundary": _boundary(np.asarray(matrix)),
        }
        for name, matrix in zip(names, confusions, strict=True)
    ]
    content = {"split": "test", "classes": list(classes), "colors": list(colors), "scenes": scenes}
    (folder / "scenes.json").write_text(json.dumps(content), encoding="utf-8")


def write_study(
    folder: Path, variants: dict[str, float], *, seeds=(0, 1, 2), scenes=9, size_px=(27, 36)
) -> list[RunRecord]:
    """Runs of variants that see with so much noise (0 is perfect), with scenes and their
    pictures."""
    rng = np.random.default_rng(0)
    smooth = size_px[1] / 14
    fields = [
        _fields(rng, size_px, smooth) + np.linspace(0.4, -0.4, 5)[:, None, None]
        for _ in range(scenes)
    ]
    truths = [field.argmax(0).astype(np.uint8) for field in fields]
    for truth in truths:
        truth[: size_px[0] // 12, : size_px[1] // 8] = 255
    hardness = rng.uniform(0.6, 1.5, scenes)
    records = []
    for number, (variant, noise) in enumerate(variants.items()):
        for seed in seeds:
            own = noise * (1 + 0.06 * rng.standard_normal())
            predictions = [
                (field + own * hard * _fields(rng, size_px, smooth / 3)).argmax(0).astype(np.uint8)
                for field, hard in zip(fields, hardness, strict=True)
            ]
            confusions = np.stack(
                [_confusion(t, p) for t, p in zip(truths, predictions, strict=True)]
            )
            total = confusions.sum(0)
            summary = {
                "parameters": 400_000 * (number + 1) ** 2,
                "multiply_adds": 10**9 * (number + 1) * 2,
                "step_memory_bytes": 2**20 * 300 * (number + 2) if number else None,
                "train/images_per_second": 40 / (number + 1) + rng.uniform(0, 2),
                "wall_time_s": 500.0 * (number + 1) + rng.uniform(0, 40),
                **metrics.scores(total, CLASSES, "test"),
                "test/confusion": total.tolist(),
                "test/image_miou": float(np.mean([metrics.miou(matrix) for matrix in confusions])),
                "test/boundary_miou": 0.6 * metrics.miou(total),  # as `_boundary` has it
                **_calibration(rng, 1 + 0.1 * number),
            }
            end = 0.8 * metrics.miou(total)
            lines = [
                {
                    "step": s,
                    "train/loss": (
                        0.4 + own * 0.2 + 1.3 * np.exp(-s / 300) + 0.05 * rng.standard_normal()
                    ),
                    "elapsed_s": s / 3,
                }
                for s in range(10, 1501, 10)
            ]
            lines += [
                {
                    "step": s,
                    "validation/miou": end * (1 - np.exp(-s / 350)) + 0.01 * rng.standard_normal(),
                    "elapsed_s": s / 3 + 1,
                }
                for s in range(250, 1501, 250)
            ]
            run = folder / f"{variant}-seed{seed}".replace("/", "_")
            write_run(
                run, variant, seed, summary, lines=sorted(lines, key=lambda line: line["step"])
            )
            write_scenes(run, confusions)
            _write_pictures(run / "scenes", truths, predictions, fields)
            records.append(read(run))
    return records


def _fields(rng, size_px, smooth):
    fields = ndimage.gaussian_filter(rng.standard_normal((5, *size_px)), (0, smooth, smooth))
    return fields / fields.std()


def _confusion(truth, prediction):
    seen = truth < 5
    return np.bincount(5 * truth[seen].astype(int) + prediction[seen], minlength=25).reshape(5, 5)


def _boundary(matrix):
    """Counts near borders that give each class 0.6 of its IoU."""
    hits = np.diagonal(matrix)
    return np.stack([6 * hits, 10 * (matrix.sum(0) + matrix.sum(1) - hits)], axis=1).tolist()


def _calibration(rng, sureness):
    count = (1000 * np.linspace(0.01, 1, 15) ** 2).astype(int)
    centers = (np.arange(15) + 0.5) / 15
    right = (count * np.clip(centers / sureness + 0.02 * rng.standard_normal(15), 0, 1)).astype(int)
    error = float(np.abs(right - count * centers).sum() / count.sum())
    calibration = {
        "count": count.tolist(),
        "confidence": (count * centers).tolist(),
        "correct": right.tolist(),
    }
    return {"test/expected_calibration_error": error, "test/calibration": calibration}


def _write_pictures(folder, truths, predictions, fields):
    folder.mkdir()
    palette = [int(color[i : i + 2], 16) for color in COLORS for i in (1, 3, 5)]
    for index, (truth, prediction, field) in enumerate(
        zip(truths, predictions, fields, strict=True)
    ):
        light = np.clip(120 + 40 * field[:3] + 25 * field[3], 0, 255).astype(np.uint8)
        Image.fromarray(np.moveaxis(light, 0, -1)).save(folder / f"{index:03d}-image.jpg")
        for kind, mask in (
            ("truth", truth),
            ("prediction", np.where(truth == 255, truth, prediction)),
        ):
            picture = Image.fromarray(mask, "P")
            picture.putpalette(palette + [0] * (768 - len(palette)))
            picture.save(folder / f"{index:03d}-{kind}.png")
