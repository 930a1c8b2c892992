"""Checkpoints by Orbax: saved in the background, the latest few and the best kept, damaged ones set
aside.

A checkpoint is a folder named after its step. It gets that name when all of it is written, so a
process that is killed while it saves leaves nothing that would be loaded. Beside the arrays lie the
metrics of that step, the digest of the run's configuration and a checksum over all of it: Orbax has
none, and would load a bit that flipped on the disk.

Each save leaves 256 bytes an array behind: Orbax asks TensorStore to describe where each is
written, and TensorStore never frees its answer.
"""

import contextlib
import errno
import fnmatch
import json
import logging
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.runtime import processes

_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax's suffix for folders that are not to be read
_orbax_log = logging.getLogger("absl")


def check_place(folder: Path) -> None:
    """Raises InputError for a run's folder in which Orbax wouldn't find what it has just written:
    it takes brackets, as of `[old] runs`, for a pattern, and the checkpoints would be empty."""
    path = str(folder.absolute())
    if not fnmatch.fnmatchcase(path, path):
        raise InputError(
            f"{path} has brackets in its path, where no checkpoint can be saved: give another"
            " --workdir, and move the run there once it is finished."
        )


class Checkpoints:
    """The checkpoints of one run. In several processes, all must call the same methods.

    Args:
        directory: made if missing.
        keep: how many of the latest stay, beside the best.
        best: name of the metric that decides which checkpoint is best.
        higher_is_better: whether the greatest value of that metric is best, or the least.
        digest: of the run's configuration; checkpoints with another one are refused. None: unknown.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        keep: int,
        best: str,
        higher_is_better: bool = True,
        digest: str | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()  # Orbax fails late on relative paths
        self._keep, self._best, self._sign = keep, best, 1 if higher_is_better else -1
        self._digest = digest
        import orbax.checkpoint as ocp  # here: weights alone are read without its second

        self._orbax = ocp.StandardCheckpointer()
        if processes.is_primary():
            self.directory.mkdir(parents=True, exist_ok=True)
        self._whole = self.steps  # those known to be finished, wherever the folder is now

    @property
    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        names = [path.name for path in self.directory.glob("*") if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    def save(self, step: int, state: Any, metrics: dict | None = None) -> None:
        """Starts saving; training may go on at once. A checkpoint of the same step is replaced.

        Raises:
            InputError: this save or the one before could not be written (a full or read-only disk).
                Finished checkpoints are untouched.
        """
        self.wait()
        about = {"metrics": metrics or {}, "digest": self._digest}
        state = jax.device_get(state)  # of JAX's own arrays each save leaves 40 kB in TensorStore
        about["checksum"] = _checksum(step, state, about)
        with self._told_as_input_error(f"checkpoint of step {step}"):
            if processes.is_primary():
                probe = self.directory / f"writable{_UNFINISHED}"
                probe.mkdir(exist_ok=True)  # where this fails, Orbax would wait minutes
                for path in self.directory.glob(f"*{_UNFINISHED}*"):
                    shutil.rmtree(path)
                if step in self.steps:
                    self._delete(step)
                # Where the disk fills up in the middle, Orbax leaves its other writes to fail, each
                # with a traceback. About an array it writes up to 0.7 KiB, and 60 KiB about all.
                leaves = jax.tree.leaves(state)
                size = 2**16 + sum(leaf.nbytes + 2**10 for leaf in leaves)
                if shutil.disk_usage(self.directory).free < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _orbax_log.addFilter(_is_of_others)  # it logs failures with tracebacks, and raises them
            self._orbax.save(self.directory / str(step), state, custom_metadata=about)

    def wait(self) -> None:
        """Waits until the checkpoint being saved is finished, then deletes those that need not be
        kept. Raises InputError as `save` does."""
        with self._told_as_input_error("checkpoint being saved"):
            try:
                self._orbax.wait_until_finished()
                self._orbax.check_for_errors()
            finally:
                _orbax_log.removeFilter(_is_of_others)
        if processes.is_primary():
            for step in set(self.steps[: -self._keep]) - {self.best_step()}:
                self._delete(step)
        self._whole = self.steps or self._whole

    def _delete(self, step):
        """Renamed first, so that what is half deleted is not read either."""
        folder = self.directory / str(step)
        shutil.rmtree(folder.rename(folder.with_name(f"{step}{_UNFINISHED}")), ignore_errors=True)

    @contextlib.contextmanager
    def _told_as_input_error(self, what):
        try:
            yield
        except (OSError, ValueError) as error:
            if processes.of_another(error):
                raise
            kept = "none was finished before"
            if self._whole:
                kept = f"the checkpoint of step {self._whole[-1]} is whole"
            raise InputError(
                f"the {what} could not be written to {self.directory} ({_first_line(error)}); free"
                f" the disk or make it writable and run the same command again: {kept}."
            ) from error

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict, int]:
        """The state and metrics saved at `step`, by default the latest that can be read.

        Checkpoints after that one are damaged: their folders are renamed to `damaged-STEP`, and one
        line is printed for each, as their steps will be taken again.

        Args:
            like: a state of the same structure on its devices, or what `jax.eval_shape` gives of it
                with shardings.
            step: which.

        Returns:
            (state, metrics, step).

        Raises:
            InputError: the checkpoint, or none of them, can be read, or it is of another run. All
                are left as they are.
        """
        import orbax.checkpoint as ocp

        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        damaged, reason = [], "there is none"
        for candidate in processes.broadcast(self.steps[::-1]) if step is None else [step]:
            folder = self.directory / str(candidate)
            try:
                about = self._about(candidate)
                digest = about.get("digest")
                if None not in (digest, self._digest) and digest != self._digest:
                    raise InputError(
                        f"{folder} is a checkpoint of another run (configuration {digest}, not"
                        f" {self._digest}): move it away, or give another --workdir."
                    )
                _check_readable(folder)
                restored = self._orbax.restore(folder, like)
                checksum = about.pop("checksum", None)
                if about and checksum != _checksum(candidate, restored, about):
                    raise ValueError("it is not what was saved")
            except InputError:
                raise
            except Exception as error:  # Orbax raises whatever its readers of files do
                if processes.of_another(error):
                    raise
                damaged.append(candidate)
                reason = _first_line(error)
                continue
            self._set_aside(damaged)
            return restored, about.get("metrics", {}), candidate
        raise InputError(
            f"no checkpoint in {self.directory} can be read (step {', '.join(map(str, damaged))}:"
            f" {reason}); restore the folder, or give another --workdir."
        )

    def _set_aside(self, steps):
        for step in steps:
            name, number = f"damaged-{step}", 1
            while (self.directory / name).exists():
                name, number = f"damaged-{step}-{number + 1}", number + 1
            print(
                f"the checkpoint of step {step} in {self.directory} can't be read and is set aside"
                f" as {name}"
            )
            if processes.is_primary():
                (self.directory / str(step)).rename(self.directory / name)
        processes.broadcast(None)  # the others go on when all are renamed

    def best_step(self) -> int | None:
        """The step with the best metric, the earliest of equals; None where none was measured."""
        scores = {}
        for step in self.steps:
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # damaged
                scores[step] = self._sign * self._about(step)["metrics"][self._best]
        return max(scores, key=lambda step: (scores[step], -step)) if scores else None

    def _about(self, step) -> dict:
        """What was saved beside the arrays; nothing if its file is missing, and the step is then
        validated again."""
        try:
            text = (self.directory / str(step) / "_CHECKPOINT_METADATA").read_text("utf-8")
        except FileNotFoundError:
            return {}
        about = json.loads(text)["custom_metadata"]
        return {name: about[name] for name in ("metrics", "digest", "checksum")}

    def close(self) -> None:
        """Finishes what is being saved, and lets go of the threads."""
        self._orbax.close()


def _is_of_others(record: logging.LogRecord) -> bool:
    """Whether a record is of other code than Orbax, which logs through absl."""
    return "orbax" not in Path(record.pathname).parts


def _check_readable(folder: Path) -> None:
    """Reads one array after another. Orbax reads them all at once, and where one can't be read each
    of the others ends in a traceback of its own."""
    import tensorstore

    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    names = tensorstore.KvStore.open(store).result().list().result()
    arrays = [name.removesuffix(b".zarray") for name in names if name.endswith(b".zarray")]
    if not arrays:
        raise ValueError("it holds no arrays")
    for name in arrays:
        array = {"driver": "zarr", "kvstore": {**store, "path": name.decode()}}
        tensorstore.open(array).result().read().result()


def _checksum(step, state, about) -> int:
    """CRC-32 of a step's number, what is said about it, and its arrays."""
    checksum = zlib.crc32(json.dumps([step, about], sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, checksum)
    return checksum


def _first_line(error) -> str:
    """What an exception says, cut to the length of a remark."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:400]
