"""Checkpoints by Orbax: saved in the background, the latest few and the best kept, a half-written
one never loaded."""

import functools
import json
import logging
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint import checkpoint_managers

from cnn_jax.errors import InputError
from cnn_jax.runtime import processes

# Orbax tells about every save, and prints the traceback of each of its threads that fails beside
# the exception that it raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

# For its log Orbax asks at each save what TensorStore has counted, and TensorStore never frees what
# it answers: 40 kB a checkpoint.
tensorstore.experimental_collect_matching_metrics = lambda *_, **__: []


def _description(spec, of_any, *args, **options):
    """A key-value store's specification as JSON, which TensorStore never frees either, 256 bytes an
    array. A mere folder's is known."""
    folder = {"driver": "file", "path": spec.path}
    if args or options or spec != tensorstore.KvStore.Spec(folder):
        return of_any(spec, *args, **options)
    return folder


tensorstore.KvStore.Spec.to_json = functools.partialmethod(
    _description, tensorstore.KvStore.Spec.to_json
)


def _overlook_abandoned(report, unraisable):
    """Where one read or write fails, Orbax leaves its others alone, each of which would end in a
    traceback of its own."""
    code = getattr(unraisable.object, "cr_code", None)
    abandoned = (
        isinstance(unraisable.exc_value, RuntimeError)
        and str(unraisable.exc_value) == "Event loop is closed"
    )
    if not (abandoned or (code is not None and "orbax" in Path(code.co_filename).parts)):
        report(unraisable)


sys.unraisablehook = functools.partial(_overlook_abandoned, sys.unraisablehook)


CHECKSUM = "checksum"
"""Key, beside the metrics of a checkpoint, of a checksum. Orbax has none, and would load a bit that
has turned on the disk."""


class _Best:
    """Preserves the best checkpoint, the earliest of equals. (Orbax's own policy takes the latest,
    so that a long plateau would change what "best" is; and it keeps one where none was
    measured.)"""

    def __init__(self, value):
        self._value = value

    def should_preserve(self, checkpoints, *, context):
        values = [self._value(checkpoint.metrics) for checkpoint in checkpoints]
        best = max(values, default=float("-inf"))
        chosen = values.index(best) if best > float("-inf") else None
        return [i == chosen for i in range(len(values))]


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint becomes visible by the renaming of its finished folder, so one that was being
    written when the process died is not seen again.

    Args:
        directory: made if missing.
        keep: how many of the latest stay, beside the best.
        best: name of the metric whose greatest value is best.
    """

    def __init__(self, directory, *, keep: int, best: str):
        policies = checkpoint_managers.preservation_policy
        self._best = best
        self.directory = Path(directory).absolute()  # Orbax fails late on relative paths
        self._without_metrics = set(
            processes.broadcast(_set_aside(self.directory) if processes.is_primary() else None)
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(keep), _Best(self._value)]
                ),
                best_fn=self._value,  # without it Orbax writes no metrics
                cleanup_tmp_directories=True,
            ),
        )

    def _value(self, metrics):
        value = (metrics or {}).get(self._best)
        return float("-inf") if value is None else value

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state, metrics: dict | None = None) -> None:
        """Starts saving; training may go on at once. A checkpoint of the same step is replaced.

        Raises:
            InputError: this save or the one before could not be written (a full or read-only disk).
                Finished ones are untouched.
        """
        try:
            self.wait()
            probe = (
                self.directory / ".writable"
            )  # where Orbax can't make a folder, its threads wait minutes for it
            if processes.is_primary():
                probe.mkdir(exist_ok=True)
                probe.rmdir()
            if step in self._manager.all_steps():
                self._manager.delete(step)
            metrics = metrics or {}
            metrics = {**metrics, CHECKSUM: _checksum(step, state, metrics)}
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)
            self._without_metrics.discard(step)
        except (OSError, ValueError) as error:
            if processes.of_another(error):
                raise
            raise self._unwritable(f"checkpoint of step {step}", error) from error

    def wait(self) -> None:
        """Returns when nothing is being saved any more. Raises InputError as `save` does."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except (OSError, ValueError) as error:
            if processes.of_another(error):
                raise
            raise self._unwritable("checkpoint being saved", error) from error

    def _unwritable(self, what, error):
        kept = (
            f"the checkpoint of step {self.steps[-1]} is whole"
            if self.steps
            else "none was finished before"
        )
        return InputError(
            f"the {what} could not be written to {self.directory} ({_first_line(error)}); free the"
            f" disk or make it writable and run the same command again: {kept}."
        )

    def restore(self, like, step: int | None = None):
        """The state and metrics saved at `step`, by default the latest that can be read.

        Checkpoints after that one are damaged: they are told of and deleted, as their steps will be
        taken again.

        Args:
            like: a state of the same structure on its devices, or what `jax.eval_shape` gives of it
                with shardings.
            step: which.

        Returns:
            (state, metrics as a dict, step).

        Raises:
            InputError: the checkpoint, or none of them, can be read. All are left as they are.
        """
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        damaged, reason = [], "there is none"
        for candidate in reversed(self.steps) if step is None else [step]:
            folder = (
                self.directory / str(candidate) / "default"
            )  # Orbax's name for what is saved alone
            try:
                if candidate in self._without_metrics:
                    raise ValueError("its metrics are no JSON")
                _check_readable(folder)
                with (
                    ocp.StandardCheckpointer() as reader
                ):  # the manager would remember how it failed
                    restored = reader.restore(folder, like)
                metrics = dict(self._manager.metrics(candidate) or {})
                if metrics.pop(CHECKSUM, None) not in (
                    None,
                    _checksum(candidate, restored, metrics),
                ):
                    raise ValueError("it is not what was saved")
            except Exception as error:  # Orbax raises whatever its readers of files do
                if processes.of_another(error):
                    raise
                damaged.append(candidate)
                reason = _first_line(error)
                continue
            for number in damaged:
                print(
                    f"the checkpoint of step {number} in {self.directory} can't be read and is"
                    " deleted"
                )
                self._manager.delete(number)
            return restored, metrics, candidate
        raise InputError(
            f"no checkpoint in {self.directory} can be read (step {', '.join(map(str, damaged))}:"
            f" {reason}); restore the folder, or give another --workdir."
        )

    def best_step(self) -> int | None:
        """The step with the best metric, the earliest of equals; None where none was measured."""
        measured = {step: self._value(self._manager.metrics(step)) for step in self.steps}
        measured = {step: value for step, value in measured.items() if value > float("-inf")}
        return max(measured, key=lambda step: (measured[step], -step)) if measured else None

    def close(self) -> None:
        """Finishes what is being saved, and lets go of the threads."""
        self._manager.close()


def _check_readable(folder: Path) -> None:
    """Reads every byte of the arrays. On a damaged file Orbax would leave its other reads to fail
    one by one, each with a traceback."""
    arrays = tensorstore.KvStore.open(
        {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    ).result()
    for key in arrays.list().result():
        arrays.read(key).result()


def _checksum(step, state, metrics) -> int:
    """CRC-32 of a step's number, metrics and arrays."""
    checksum = zlib.crc32(json.dumps([step, metrics], sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8), checksum)
    return checksum


def _set_aside(directory) -> list[int]:
    """Steps whose metrics are damaged: their files are renamed, for Orbax would fail on them when
    it opens the folder."""
    steps = []
    for path in directory.glob("*/metrics/metrics"):
        try:
            dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            path.rename(path.with_name("damaged"))
            steps.append(int(path.parts[-3]) if path.parts[-3].isdecimal() else -1)
    return steps


def _first_line(error) -> str:
    """What an exception says, cut to the length of a remark."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:400]
