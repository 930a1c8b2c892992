"""The folder of a run while it is written: what the run is, where it runs, what comes of it. Small
files of plain JSON; `cnn_jax.records.run_record` reads them again.

A run's folder (`--workdir`) holds

    config.json        the resolved configuration
    data.json          its data in words and numbers: classes, colours, normalisation, fingerprint
    environment.json   format and digest of the record, versions, devices, processor, commit
    metrics.jsonl      one object a line, each with its step
    summary.json       the final figures; it is there once the run is finished
    scenes.json        the test scenes of a segmentation one by one; pictures of them in scenes/
    objects.json       likewise the test images of detection and instances
    figures/           pictures
    checkpoints/       not part of the record
    tensorboard/       the metrics again, for TensorBoard

The first three are written before step 0.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from cnn_jax.configuration import documents, schema
from cnn_jax.configuration.schema import Config
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.errors import InputError
from cnn_jax.records import checks, formats, object_record, run_record, scene_record
from cnn_jax.records.files import line_of, metrics_lines, read_object, write_object, write_text
from cnn_jax.runtime import processor

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "scipy",
    "pillow",
    "dm-pix",
)
OPTIONAL_PACKAGES = (
    "cnn_jax",
    "rasterio",
    "faster-coco-eval",
    "tensorflow-datasets",
    "array-record",
    "scikit-learn",
    "scikit-image",
    "joblib",
)
"""This one, which may be read from a checkout, what a machine for speed alone does without, and
extras; those installed are recorded."""


class RunDirectory:
    """The folder of one run, held by one process.

    Use as a context manager: entering makes the folder, takes its lock and compares configurations.
    A folder that holds files of others is refused and left as it is.

    Args:
        workdir: the folder.
        config: the configuration to run.
        study: the folder of the study that the run belongs to, if any, whose runs keep photographs
            and truths of their test scenes once.
        flag: of the command, which names the folder.

    Raises:
        InputError: on entering, if another process holds the folder, it can't be written, or it
            holds a run of another configuration or files of others.
    """

    def __init__(
        self,
        workdir: str | Path,
        config: Config,
        study: Path | None = None,
        flag: str = "--workdir",
    ) -> None:
        self.workdir, self.config, self.study = Path(workdir), config, study
        self._flag = flag
        self._lock = filelock.FileLock(self.workdir / ".lock", timeout=0)
        self._tensorboard: Any = None
        self._resumes = False

    def __enter__(self) -> "RunDirectory":
        where = self.workdir.absolute()
        if not documents.is_utf8(str(where)):
            raise InputError(
                f"{str(where)!a} has bytes that are no UTF-8, which no record can hold; give"
                f" another {self._flag}."
            )
        locked_before = (self.workdir / ".lock").exists()
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout as error:
            raise InputError(
                f"{self.workdir} is in use by another process; wait for it, or give another"
                f" {self._flag}."
            ) from error
        except OSError as error:
            raise InputError(
                f"{self.workdir} can't be written ({error.strerror}); give another {self._flag}."
            ) from error
        try:
            self._check_owner()
        except BaseException:
            self._lock.release()
            if not locked_before:  # nothing of ours stays in a folder of others
                (self.workdir / ".lock").unlink(missing_ok=True)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):  # of a full disk; `log` has told of it
                self._tensorboard.close()
        self._lock.release()
        with contextlib.suppress(OSError):
            # A command that failed before it wrote anything leaves no folder behind.
            if {path.name for path in self.workdir.iterdir()} <= {".lock"}:
                (self.workdir / ".lock").unlink(missing_ok=True)
                self.workdir.rmdir()

    def _check_owner(self):
        """Refuses a folder that holds anything but a run of this configuration, or of another one
        under which nothing was computed. What is in the files decides: a config.json is ours if it
        has the digest that the environment.json beside it says."""
        names = {path.name for path in self.workdir.iterdir()}
        others = sorted(names - {".lock", "config.json", "config.json.partial"})
        if others and not {"config.json", "environment.json"} <= names:
            raise InputError(
                f"{self.workdir} holds other files ({', '.join(others[:3])}) and no run; give an"
                f" empty or new {self._flag}."
            )
        if "config.json" not in names:
            return
        own = origin(self.config)
        try:
            if "environment.json" not in names:
                # A run that was interrupted after its first file left its own configuration.
                if read_object(self.config_path) != own[0]:
                    raise InputError(f"{self.config_path} is of no run that was begun here.")
                return
            config, environment = run_record.read_origin(self.workdir)
            self._resumes = begun(self.workdir)
            if formats.format_of(environment) > 1 and (self._resumes or "data.json" in names):
                run_record.read_info(self.workdir, environment)
        except InputError as error:
            raise InputError(f"{str(error).rstrip('.')}, or give another {self._flag}.") from error
        if not self._resumes:
            return
        different = formats.differences((config, environment), own)
        if (self.workdir / "summary.json").exists():  # its configuration's name computes no more
            different = [each for each in different if not each.startswith("configuration:")]
        if different:
            raise InputError(
                f"{self.workdir} holds a run of another configuration (there, here):"
                f" {'; '.join(different)}; give another {self._flag}, or the same values to resume."
            )

    @property
    def config_path(self) -> Path:
        """Its config.json."""
        return self.workdir / "config.json"

    @property
    def figures(self) -> Path:
        """The folder for pictures, made if missing."""
        folder = self.workdir / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def summary(self) -> dict[str, Any] | None:
        """The final figures; None while the run isn't finished."""
        path = self.workdir / "summary.json"
        if not path.exists():
            return None
        summary = read_object(path)
        checks.check_summary(path, summary)
        return summary

    def begin(self, environment: Mapping[str, Any], info: DatasetInfo) -> None:
        """Writes config.json, environment.json and data.json before step 0; of a run that is
        resumed, notes where it goes on.

        Args:
            environment: what `environment` gave.
            info: what the network needs to know of the data.

        Raises:
            InputError: the data are not those that the run, or others of its study, were begun
                with, or it was begun by an older version.
        """
        path, data = self.workdir / "environment.json", json.loads(json.dumps(info.to_dict()))
        environment = {**environment, "data_digest": formats.digest(data, ())}
        if not self._resumes:
            self._check_data(environment["data_fingerprint"])
            for name in ("environment.json", "data.json"):  # of a command that was refused later
                (self.workdir / name).unlink(missing_ok=True)
            write_text(self.config_path, documents.to_json(self.config))
            write_object(path, environment)
            write_object(self.workdir / "data.json", data)
            self._resumes = True
            return
        recorded = read_object(path)
        if formats.format_of(recorded) != formats.FORMAT:
            raise InputError(
                f"{self.workdir} holds an unfinished run of an older version: finish it there, or"
                f" give another {self._flag}."
            )
        if recorded.get("data_fingerprint") != environment["data_fingerprint"]:
            raise InputError(
                f"the data differ from those that the run in {self.workdir} was begun with"
                f" (fingerprint {environment['data_fingerprint']}, recorded"
                f" {recorded.get('data_fingerprint')}); restore them, or give another {self._flag}."
            )
        kept = ("command", "data_digest")  # a class may be shown in another colour by now
        differing = {k: v for k, v in environment.items() if k not in kept and recorded.get(k) != v}
        recorded.setdefault("resumed", []).append(differing)
        write_object(path, recorded)

    def _check_data(self, fingerprint):
        """Refuses data that finished runs of the study didn't have which ask for the same: scores
        of both would stand in one table."""
        for path in sorted(self.study.glob("*/summary.json")) if self.study else ():
            config, environment = run_record.read_origin(path.parent)
            theirs = environment.get("data_fingerprint")
            if theirs == fingerprint:
                continue
            asked = ("task:", "data.")  # given weights bring mean and std
            if not any(
                each.startswith(asked) and not each.startswith(("data.mean:", "data.std:"))
                for each in formats.differences((config, environment), origin(self.config))
            ):
                raise InputError(
                    f"the data differ from those of {path.parent} (fingerprint {fingerprint},"
                    f" recorded {theirs}); restore them, or give another {self._flag}."
                )

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, as `metrics_lines` reads them."""
        return metrics_lines(self.workdir / "metrics.jsonl")

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Drops the lines of metrics.jsonl that don't satisfy `keep`, because their steps will be
        taken again; returns the others."""
        lines = [line for line in self.metrics() if keep(line)]
        write_text(self.workdir / "metrics.jsonl", "".join(map(line_of, lines)))
        return lines

    def log(self, values: Mapping[str, Any]) -> None:
        """Appends one line, which has a `step`, to metrics.jsonl and to TensorBoard."""
        try:
            with (self.workdir / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(line_of(values))
            self._to_tensorboard(values)
        except OSError as error:
            raise InputError(
                f"{self.workdir / 'metrics.jsonl'} can't be written ({error.strerror}); free the"
                " disk or make it writable, and run the same command again to resume."
            ) from error

    def _to_tensorboard(self, values):
        # Not by tensorboardX's SummaryWriter: it writes from a thread, which on a full disk dies
        # and then blocks the run.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        # Names that protobuf makes while it is imported, which no type checker sees.
        event, session, summary = (
            getattr(module, name)
            for module, name in (
                (event_pb2, "Event"),
                (event_pb2, "SessionLog"),
                (summary_pb2, "Summary"),
            )
        )
        step, now = values["step"], time.time()
        if self._tensorboard is None:
            folder = self.workdir / "tensorboard"
            folder.mkdir(exist_ok=True)
            self._tensorboard = EventsWriter(str(folder / "events"), f".{step}")
            # Of a run that is resumed, TensorBoard forgets what came from this step on.
            start = session(status=session.SessionStatus.Value("START"))
            self._tensorboard.write_event(event(wall_time=now, step=step, session_log=start))
        scalars = [
            summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if name != "step" and isinstance(value, int | float)
        ]
        self._tensorboard.write_event(
            event(wall_time=now, step=step, summary=summary(value=scalars))
        )
        self._tensorboard.flush()

    def write_scenes(
        self, scenes: Any, evaluation: Any, classes: Sequence, predictions: Mapping[int, np.ndarray]
    ) -> None:
        """Writes scenes.json and the pictures of test scenes, as `scene_record.write` does; runs of
        a study keep photographs and truths together. To be called after `begin`."""
        shared = self._shared_pictures()
        scene_record.write(self.workdir, scenes, evaluation, classes, predictions, shared)

    def write_objects(self, record: Any, images: Mapping[int, np.ndarray]) -> None:
        """Writes objects.json and the photographs of test images, as `object_record.write` does;
        runs of a study keep photographs together. To be called after `begin`."""
        object_record.write(self.workdir, record, images, self._shared_pictures())

    def _shared_pictures(self) -> Path | None:
        """Where runs of a study keep the photographs of their test images; None outside of one."""
        if self.study is None:
            return None
        environment = read_object(self.workdir / "environment.json")
        return scene_record.shared_folder(self.study, environment["data_fingerprint"])

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json, which says that the run is finished."""
        write_object(self.workdir / "summary.json", summary)


class Onlooker:
    """What a process holds in place of the `RunDirectory` that another process of the same run
    writes: it writes nothing and knows nothing."""

    summary = None

    def __init__(self, workdir: str | Path, config: Config) -> None:
        self.workdir, self.config = Path(workdir), config

    def __enter__(self) -> "Onlooker":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, environment: Mapping[str, Any], info: DatasetInfo) -> None:
        """Nothing."""

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """No lines."""
        return []

    def metrics(self) -> list[dict[str, Any]]:
        """No lines."""
        return []

    def log(self, values: Mapping[str, Any]) -> None:
        """Nothing."""


def environment(config: Config, fingerprint: str, command: str) -> dict[str, Any]:
    """What besides the configuration a run depends on, and what its record is checked by.

    Args:
        config: the configuration.
        fingerprint: of the data.
        command: what to type to run or resume this.
    """
    return {
        **_digested(config),
        "data_fingerprint": fingerprint,
        "command": command,
    } | surroundings()


def begun(folder: Path) -> bool:
    """Whether a folder holds anything that a run computed."""
    metrics, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    logged = metrics.exists() and metrics.stat().st_size > 0
    return (
        logged
        or (folder / "summary.json").exists()
        or (checkpoints.is_dir() and any(checkpoints.iterdir()))
    )


def origin(config: Config) -> formats.Origin:
    """What `run_record.read_origin` would give of a run of this configuration, as far as its digest
    goes."""
    return json.loads(documents.to_json(config)), _digested(config)


def _digested(config):
    """Format and digest, and which fields lie outside the digest."""
    options = {path: option.metadata for path, option, _ in schema.leaves(config)}
    never = [path for path, option in options.items() if not option["result"]]
    absent = {
        path: option["absent"]
        for path, option in options.items()
        if path not in never and option["absent"] is not dataclasses.MISSING
    }
    return {
        "format": formats.FORMAT,
        "digest": documents.digest(config),
        "outside_digest": never,
        "absent_values": json.loads(json.dumps(absent)),
    }


def surroundings() -> dict[str, Any]:
    """Versions, devices, processor and commit: what any figure depends on, whatever was run."""
    import jax

    devices = jax.devices()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in OPTIONAL_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "processes": jax.process_count(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_used": len(processor.cores()),
        "machine": platform.machine(),
        "processor": processor.name(),
        "vector_instructions": processor.vector_instructions(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        **commit_of(Path(__file__).resolve().parents[1]),
    }


def commit_of(package: Path) -> dict[str, Any]:
    """`commit` that the repository of a package is at, and `dirty`, whether its tree differs from
    that, records apart.

    Both are None unless the package lies at the top of a repository that tracks it: installed into
    somebody's environment, it isn't part of their repository.
    """
    # Git's own variables, as hooks have them, would speak of another repository.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*words):
        answer = subprocess.run(
            ["git", "-C", str(package), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env=variables,
        )
        return answer.stdout.strip() if answer.returncode == 0 else None

    nothing = {"commit": None, "dirty": None}
    try:
        top = git("rev-parse", "--show-toplevel")
        if top is None or Path(top).resolve() != package.resolve().parent:
            return nothing
        if not git("ls-files", "--", "."):
            return nothing
        commit = git("rev-parse", "HEAD")
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results"
        )
    except (OSError, subprocess.TimeoutExpired):
        return nothing
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}
