"""The record of a run: what it was, where it ran, what came of it. Small files, plain JSON, made to
be read again.

A run's folder (the workdir) holds

    config.json        the resolved configuration
    description.toml   of the data, where it is the user's own
    environment.json   its digest, the data's fingerprint, versions, devices, commit: all before
    step 0 metrics.jsonl      one object a line, each with its step summary.json       the final
    figures; its presence says that the run is finished checkpoints/       not part of the record
    figures/           pictures tensorboard/       the metrics again, for TensorBoard
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import filelock

from cnn_jax import tasks
from cnn_jax.configuration import documents
from cnn_jax.configuration.schema import Config
from cnn_jax.errors import InputError
from cnn_jax.records.checks import check_origin, check_summary

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
    "tensorflow-datasets",
    "array-record",
    "scikit-learn",
    "scikit-image",
    "joblib",
)
"""Of extras; those that are installed are recorded."""


class Record:
    """The folder of one run, held by one process.

    Use as a context manager: entering makes the folder, takes its lock and compares configurations.

    Args:
        workdir: the folder.
        config: the configuration to run.

    Raises:
        InputError: on entering, if another process holds the folder, it can't be written, or it
            holds a run of another configuration.
    """

    def __init__(self, workdir, config: Config):
        self.workdir, self.config = Path(workdir), config
        self._lock = filelock.FileLock(self.workdir / ".lock", timeout=0)
        self._tensorboard = None

    def __enter__(self):
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout as error:
            raise InputError(
                f"{self.workdir} is in use by another process; wait for it, or give another"
                " --workdir."
            ) from error
        except OSError as error:
            raise InputError(
                f"{self.workdir} can't be written ({error.strerror}); give another --workdir."
            ) from error
        try:
            self._check_configuration()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_):
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):  # of a full disk; `log` has told of it
                self._tensorboard.close()
        self._release()

    def _release(self):
        self._lock.release()
        with contextlib.suppress(
            OSError
        ):  # a command that failed before it wrote anything leaves no folder behind
            if {path.name for path in self.workdir.iterdir()} <= {".lock"}:
                (self.workdir / ".lock").unlink(missing_ok=True)
                self.workdir.rmdir()

    def _check_configuration(self):
        if not self.config_path.exists():
            others = [
                path.name
                for path in self.workdir.iterdir()
                if path.name not in (".lock", "config.json.partial")
            ]
            if others:
                raise InputError(
                    f"{self.workdir} holds other files ({', '.join(sorted(others)[:3])}) and no"
                    " run; give an empty or new --workdir."
                )
            return
        if (
            not self._begun
        ):  # by a command that was refused later, or interrupted before it had done anything
            self.config_path.unlink()
            (self.workdir / "environment.json").unlink(missing_ok=True)
            return
        different = documents.differences(tasks.read_config(self.config_path), self.config)
        if different:
            raise InputError(
                f"{self.workdir} holds a run of another configuration (there, here):"
                f" {'; '.join(different)}; give another --workdir, or the same values to resume."
            )

    @property
    def _begun(self) -> bool:
        """Whether the folder holds anything that a run computed."""
        metrics, checkpoints = self.workdir / "metrics.jsonl", self.workdir / "checkpoints"
        logged = metrics.exists() and metrics.stat().st_size > 0
        return (
            logged
            or (self.workdir / "summary.json").exists()
            or (checkpoints.is_dir() and any(checkpoints.iterdir()))
        )

    @property
    def config_path(self) -> Path:
        return self.workdir / "config.json"

    @property
    def figures(self) -> Path:
        """The folder for pictures, made if missing."""
        folder = self.workdir / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def summary(self) -> dict | None:
        """The final figures; None while the run isn't finished."""
        path = self.workdir / "summary.json"
        if not path.exists():
            return None
        summary = read_object(path)
        check_summary(path, summary)
        return summary

    def begin(self, environment: dict) -> None:
        """Writes configuration and environment before step 0; of a run that is resumed, notes where
        it goes on.

        Raises:
            InputError: the data are not those that the run was begun with.
        """
        path = self.workdir / "environment.json"
        if not path.exists() or not self.config_path.exists():
            # The configuration first: a folder with other files and without it isn't taken for a
            # run.
            _write(self.config_path, documents.to_json(self.config))
            source = Path(self.config.data.source)
            if (
                source.suffix == ".toml"
            ):  # the record must tell what the data are, wherever this file goes
                _write(self.workdir / "description.toml", source.read_text(encoding="utf-8"))
            _write_json(path, environment)
            return
        recorded = read_object(path)
        if recorded.get("data_fingerprint") != environment["data_fingerprint"]:
            raise InputError(
                f"the data differ from those that the run in {self.workdir} was begun with"
                f" (fingerprint {environment['data_fingerprint']}, recorded"
                f" {recorded.get('data_fingerprint')}); restore them, or give another --workdir."
            )
        differing = {
            k: v for k, v in environment.items() if k != "command" and recorded.get(k) != v
        }
        recorded.setdefault("resumed", []).append(differing)
        _write_json(path, recorded)

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl, as `metrics_lines` reads them."""
        return metrics_lines(self.workdir / "metrics.jsonl")

    def rewind(self, keep: Callable[[dict], bool]) -> list[dict]:
        """Drops the lines of metrics.jsonl that don't satisfy `keep`, because their steps will be
        taken again."""
        lines = [line for line in self.metrics() if keep(line)]
        _write(self.workdir / "metrics.jsonl", "".join(_line(line) for line in lines))
        return lines

    def log(self, values: dict) -> None:
        """Appends one line, which has a `step`, to metrics.jsonl and to TensorBoard."""
        try:
            with (self.workdir / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(_line(values))
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
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        step, now = values["step"], time.time()
        if self._tensorboard is None:
            folder = self.workdir / "tensorboard"
            folder.mkdir(exist_ok=True)
            self._tensorboard = EventsWriter(str(folder / "events"), f".{step}")
            # Of a run that is resumed, TensorBoard forgets what came from this step on.
            start = SessionLog(status=SessionLog.SessionStatus.Value("START"))
            self._tensorboard.write_event(Event(wall_time=now, step=step, session_log=start))
        scalars = {
            name: value
            for name, value in values.items()
            if name != "step" and isinstance(value, int | float)
        }
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._tensorboard.write_event(
            Event(wall_time=now, step=step, summary=Summary(value=scalars))
        )
        self._tensorboard.flush()

    def finish(self, summary: dict) -> None:
        """Writes summary.json, which says that the run is finished."""
        _write_json(self.workdir / "summary.json", summary)


class Onlooker:
    """What a process holds in place of the `Record` that another process of the same run writes: it
    writes nothing and knows nothing."""

    summary = None

    def __init__(self, workdir, config: Config):
        self.workdir, self.config = Path(workdir), config

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def begin(self, environment: dict) -> None:
        """Nothing."""

    def rewind(self, keep: Callable[[dict], bool]) -> list[dict]:
        """No lines."""
        return []

    def log(self, values: dict) -> None:
        """Nothing."""


def metrics_lines(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, none where there is no file; a last line cut short by a crash
    is left out.

    Raises:
        InputError: another line isn't one that a run wrote.
    """
    if not path.exists():
        return []
    try:
        *whole, _ = path.read_bytes().split(
            b"\n"
        )  # what follows the last line's end is nothing, or was cut short
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}); make it readable, or give another --workdir."
        ) from error
    lines = []
    for number, line in enumerate(whole, 1):
        try:
            values = documents.parse(line)
            known = type(values["step"]) is int and all(
                value is None or type(value) in (int, float) for value in values.values()
            )
            known = known and values["step"] >= 0 and values["elapsed_s"] >= 0
        except (ValueError, TypeError, KeyError, AttributeError):
            known = False
        if not known:
            raise InputError(
                f"{path} is damaged in line {number}; restore it, or give another --workdir."
            )
        lines.append(values)
    return lines


@contextlib.contextmanager
def pictures_can_be_written(folder):
    """Around drawing into a folder: a full or closed disk becomes an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the pictures can't be written to {folder} ({error.strerror}); free the disk or make"
            " it writable, and run the same command again."
        ) from error


def read_run(run) -> tuple[Config, dict, dict]:
    """(configuration, environment, summary) of a finished run.

    Raises:
        InputError: the folder holds no finished run, or a file there is not as a run writes it.
    """
    run = Path(run)
    for name in ("config.json", "environment.json", "summary.json"):
        if not (run / name).is_file():
            raise InputError(
                f"{run} holds no finished run: {name} is missing; give the --workdir of a run that"
                " has ended."
            )
    config, environment, summary = (
        read_object(run / name) for name in ("config.json", "environment.json", "summary.json")
    )
    check_origin(run, config, environment)
    check_summary(run / "summary.json", summary)
    return tasks.config_from_dict(config, str(run / "config.json")), environment, summary


def environment(config: Config, fingerprint: str, command: str) -> dict:
    """What besides the configuration a run depends on."""
    return {
        "digest": documents.digest(config),
        "data_fingerprint": fingerprint,
        "command": command,
        **surroundings(),
    }


def surroundings() -> dict:
    """Versions, devices and commit: what any figure depends on, whatever was run."""
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
        "machine": platform.machine(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        **commit_of(Path(__file__).resolve().parent),
    }


def commit_of(folder: Path) -> dict:
    """`commit` that a folder of code is at, and `dirty`, whether its tree differs from that,
    records apart; None outside a checkout."""

    def git(*words):
        answer = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        commit = git("rev-parse", "HEAD")
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results"
        )
    except (OSError, subprocess.TimeoutExpired):
        commit = changed = None
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _line(values):
    return json.dumps(values, ensure_ascii=False) + "\n"


def read_object(path: Path) -> dict:
    """The object in a JSON file of a record. Raises InputError, naming the file, where it can't be
    read or holds something else."""
    try:
        content = documents.parse(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is missing: finish the run, or remove its folder.") from None
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}): mend its permissions, or remove its folder."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): restore it, or run the experiment again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} must hold a JSON object: restore it, or run the experiment again."
        )
    return content


def _write_json(path: Path, values: dict) -> None:
    _write(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror}); free the disk or make it writable, and"
            " run the same command again."
        ) from error
