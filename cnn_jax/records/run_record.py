"""The record of a finished run, read and verified: from any working directory, wherever its folder
lies now.

    record = read("results/aerial_unet/dubai_unet16")
    record.summary["test/miou"], record.info.classes

What a record doesn't hold is None or empty. What it holds is of the kind that a run writes and
agrees with the rest of it, or `read` names what doesn't.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.records import checks, formats, object_record, scene_record
from cnn_jax.records.files import metrics_lines, read_object
from cnn_jax.records.metrics import NOTHING, leading
from cnn_jax.records.object_record import ObjectRecord
from cnn_jax.records.scene_record import SceneRecord

FILES = ("config.json", "environment.json", "summary.json")
"""What makes a folder a record."""

STUDY = "study.json"
"""Beside the folders of a study's runs: which of its variants are tested against which."""

_GREY = ("mnist", "fashion_mnist", "kmnist", "emnist", "omniglot")
"""Sources of images with one channel, of which format 1 doesn't say it."""


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    Attributes:
        folder: where it was read.
        location: its POSIX path within a folder of results, such as `aerial_unet/dubai-seed0`.
        config: its configuration by today's names, as JSON holds it.
        environment: its `environment.json`.
        summary: its final figures.
        info: what its network needs to know of its data.
        scenes: its test scenes one by one; None where it has none.
        objects: its test images with objects one by one; None where it has none.
    """

    folder: Path
    location: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]
    info: DatasetInfo
    scenes: SceneRecord | None = None
    objects: ObjectRecord | None = None

    @property
    def experiment(self) -> str:
        """The first folder of the location."""
        return self.location.split("/")[0]

    @property
    def name(self) -> str:
        """The location within its experiment."""
        return self.location.removeprefix(f"{self.experiment}/")

    @property
    def variant(self) -> str:
        """What runs that differ in their seed alone are called: as their configuration says, or by
        the name without `-seed` and seed."""
        return str(
            self.config.get("variant") or self.name.removesuffix(f"-seed{self.config.get('seed')}")
        )

    @property
    def task(self) -> str:
        """Of its configuration: "segmentation", "classification", ..."""
        return str(self.config.get("task"))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of its metrics.jsonl. Raises InputError for one that no run wrote."""
        return metrics_lines(self.folder / "metrics.jsonl")

    @property
    def leading(self) -> str:
        """The figure that ranks it, a name in `FIGURES`; "" if it has none."""
        figure = leading(self.task)
        return figure.name if figure and f"test/{figure.name}" in self.summary else ""

    @property
    def leading_value(self) -> float | None:
        """That figure on the test split."""
        value = self.summary.get(f"test/{self.leading}")
        return value if value is not None and math.isfinite(value) else None

    @property
    def source(self) -> str:
        """The name of the data; of a description given as a file, the name of the file."""
        return self.info.source or NOTHING

    @property
    def device(self) -> str:
        """What the run was computed on, such as `2 x NVIDIA H200`."""
        kind, count = self.environment.get("device_kind"), self.environment.get("device_count")
        if not kind:
            return NOTHING
        kind = "CPU" if kind == "cpu" else str(kind)
        return f"{count} x {kind}" if isinstance(count, int) and count > 1 else kind

    @cached_property
    def identity(self) -> str:
        """What runs that differ in their seed alone share: every other field that can change a
        result, and the data's fingerprint. A study's variant may begin each seed with weights of
        its own, and its seeds may be of several studies that run the same."""
        outside = {*formats.outside_digest(self.config, self.environment), "seed", "configuration"}
        held = {k: v for k, v in formats.fields(self.config) if k not in outside}
        if held.get("initial_digest") and self.config.get("variant"):
            held["initial_digest"] = self.variant
        held["data.source"] = self.info.source
        return json.dumps([held, self.info.fingerprint], sort_keys=True)

    def picture(self, index: int, kind: str) -> Path:
        """Where the "image", "truth" or "prediction" of a test scene lies, or would lie."""
        return scene_record.picture_path(self.folder, self.info.fingerprint, index, kind)


def read(folder: str | Path, results: str | Path | None = None) -> RunRecord:
    """Reads and verifies the record in a run's folder; its pictures may be missing. That
    objects.json gives the AP of the summary is left to `object_record.verify`.

    Args:
        folder: of the run.
        results: what the record's `location` is relative to; None: two folders above it.

    Raises:
        InputError: the folder holds no finished run, or a file there is not as a run wrote it.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no finished run: {folder / name} is missing; finish the run, or"
                " give the folder of one that has ended."
            )
    config, environment = read_origin(folder)
    summary = read_object(folder / "summary.json")
    checks.check_summary(folder / "summary.json", summary)
    scenes = scene_record.read(folder)
    info = _info(folder, config, environment, summary, scenes)
    if scenes is not None and scenes.classes != info.classes:
        raise InputError(
            f"{folder / 'scenes.json'} has other classes than data.json beside it: {checks.MEND}"
        )
    checks.check_agreement(folder, config, environment, summary, info.classes, scenes)
    objects = object_record.read(folder, summary)
    if objects is not None and info.classes not in ((), objects.classes):
        raise InputError(
            f"{folder / object_record.NAME} has other classes than data.json beside it:"
            f" {checks.MEND}"
        )
    where = _absolute(folder)
    location = where.relative_to(_absolute(results) if results else where.parent.parent)
    name = location.as_posix()
    return RunRecord(folder, name, config, environment, summary, info, scenes, objects)


def read_origin(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(configuration by today's names, environment) of a run, finished or not.

    Raises:
        InputError: a file is missing, isn't as a run wrote it, or they don't belong together.
    """
    config, environment = (read_object(folder / name) for name in FILES[:2])
    checks.check_origin(folder, config, environment)
    checks.check_digest(folder, config, environment)
    return formats.migrated(config, environment), environment


def read_info(folder: Path, environment: Mapping[str, Any]) -> DatasetInfo:
    """What the data.json of a run says; not of format 1, which has none.

    Raises:
        InputError: it is missing, or isn't what the run wrote.
    """
    path = folder / "data.json"
    content = read_object(path)
    found = formats.digest(content, ())
    if found != environment.get("data_digest"):
        raise InputError(
            f"{path} is not what the run wrote: its digest is {found}, and environment.json has"
            f" {environment.get('data_digest')}: restore it."
        )
    try:
        info = DatasetInfo.from_dict(content)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path} doesn't hold what a run writes there: {checks.MEND}") from error
    if info.fingerprint != environment.get("data_fingerprint"):
        raise InputError(
            f"{path} and environment.json beside it have different fingerprints: {checks.MEND}"
        )
    return info


def _info(folder, config, environment, summary, scenes) -> DatasetInfo:
    if formats.format_of(environment) > 1:
        return read_info(folder, environment)
    # Format 1 has no data.json; what it knew lies about.
    data = config.get("data") or {}
    mean, std = (tuple(data.get(name) or ()) for name in ("mean", "std"))
    source = formats.source_name(str(data.get("source") or ""))
    colors = () if scenes is None else scenes.colors
    known = [names for split in reversed(SPLITS) if (names := checks.classes_of(summary, split))]
    sizes = {
        split: summary[f"{split}/{kind}"]
        for split in SPLITS
        for kind in ("scenes", "images")
        if summary.get(f"{split}/{kind}") is not None
    }
    return DatasetInfo(
        source=source,
        classes=tuple(scenes.classes if scenes is not None else known[0] if known else ()),
        colors=tuple((r, g, b) for r, g, b in (bytes.fromhex(color[1:]) for color in colors)),
        channels=1 if source in _GREY else 3,
        dtype="uint8",
        greatest=255.0,
        mean=mean,
        std=std,
        class_counts=(),
        sizes=sizes,
        image_px=None,
        fingerprint=environment.get("data_fingerprint") or "",
    )


# ---- several records


def read_records(results: str | Path) -> list[RunRecord]:
    """Every record under a folder of results, except under `runs/`, in the order of their
    locations.

    Raises:
        InputError: the folder doesn't exist, a folder within holds some of a record's files but not
            all, or a record can't be used.
    """
    results = Path(results)
    if not results.is_dir():
        raise InputError(
            f"{results} is no folder: give the folder that holds the records with --results."
        )
    if (results / "config.json").exists():
        raise InputError(f"{results} is a run itself: give the folder of all with --results.")
    folders = []
    for experiment in sorted(results.iterdir()):
        # Unfinished and private runs lie in runs/, with checkpoints of thousands of files.
        if (
            experiment.is_dir()
            and experiment.name != "runs"
            and not experiment.name.startswith(".")
        ):
            folders += [
                experiment,
                *sorted(path for path in experiment.rglob("*") if path.is_dir()),
            ]
    return [read(folder, results) for folder in folders if _is_run(folder)]


def records_in(folders: Sequence[Path], unfinished: bool = False) -> list[RunRecord]:
    """The records in the folders given, or one below them, each once.

    Args:
        folders: of runs, or of studies.
        unfinished: whether runs that aren't finished are left out, and not an error.

    Raises:
        InputError: a folder doesn't exist or holds no run, or a run isn't finished.
    """
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder: give the folders of finished runs.")
        within = [folder] if _is_run(folder) else sorted(folder.iterdir())
        runs = [p for p in within if p.is_dir() and not p.name.startswith(".") and _is_run(p)]
        if not runs:
            studies = [p.name for p in within if p.is_dir() and any(map(_is_run, p.iterdir()))]
            if studies:
                raise InputError(
                    f"{folder} holds studies ({', '.join(studies)}), which have tests of their own:"
                    f" give one, such as {folder / studies[0]}."
                )
            raise InputError(
                f"{folder} holds no record of a run: give the folder of a finished run, or one that"
                " holds such folders."
            )
        for run in runs:
            if (run / "summary.json").is_file():
                found[run.resolve()] = read(_absolute(run))
            elif not unfinished:
                raise InputError(
                    f"{run} holds a run that isn't finished (summary.json is missing): finish it,"
                    " or leave it out."
                )
    return list(found.values())


def study_groups(records: Sequence[RunRecord]) -> dict[str, list[str]] | None:
    """Title -> names of the variants that are tested against each other, as the study says that all
    the records are of; None where one is of no study, or their studies say different things.

    Raises:
        InputError: a study.json is not as a study writes it.
    """
    said = []
    for folder in sorted({_absolute(record.folder).parent for record in records}):
        path = folder / STUDY
        groups = read_object(path).get("groups") if path.is_file() else None
        known = isinstance(groups, dict) and all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in groups.values()
        )
        if path.is_file() and not known:
            raise InputError(f"{path} doesn't hold what a study writes there: {checks.MEND}")
        said.append(groups)
    return said[0] if said and all(groups == said[0] for groups in said) else None


def _absolute(folder):
    """Where a folder is seen: a link stays, which `resolve` would follow out of the results."""
    return Path(os.path.abspath(folder))  # noqa: PTH100


def _is_run(folder):
    return any((folder / name).is_file() for name in FILES)


def variants(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Records that differ in their seed alone, together: of one configuration but for the seed, on
    the same data, whatever their folders are called. Best first.

    A seed that was run twice counts once: the second record stands by itself.
    """
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        key = (record.identity,)
        while any(
            record.config.get("seed") == other.config.get("seed") for other in groups.get(key, ())
        ):
            key = (*key, "again")
        groups.setdefault(key, []).append(record)

    return sorted(groups.values(), key=rank)


def rank(group: Sequence[RunRecord]) -> tuple[str, str, bool, float, str]:
    """What groups of records are sorted by for the best to stand first: experiment, source of the
    data, the mean of the leading figure by its direction."""
    first = group[0]
    known = [record.leading_value for record in group if record.leading_value is not None]
    figure = leading(first.task)
    mean = sum(known) / max(len(known), 1)
    worth = figure.sign * mean if figure else mean
    return first.experiment, first.source, not known, -worth, first.location
