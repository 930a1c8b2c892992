"""What a command finds in each picture, kept as it goes: from there `--resume` goes on."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_jax.configuration import documents
from cnn_jax.errors import InputError
from cnn_jax.inference.outputs import writing

NAME = ".answers.jsonl"
"""Of the file, in the folder of the predictions."""


def refuse_existing(path: Path, resume: bool = False) -> None:
    """Raises InputError for an output that nobody said may be replaced."""
    go_on = "" if resume else " --resume to go on,"
    raise InputError(f"{path} exists: give --overwrite to replace it,{go_on} or another --output.")


def check_same(folder: Path, earlier: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Raises InputError where the earlier predictions in a folder were made by other runs or
    settings than those that are to go on."""
    different = sorted(
        key for key in earlier.keys() | about.keys() if earlier.get(key) != about.get(key)
    )
    if different:
        raise InputError(
            f"{folder} holds predictions with another {different[0]}: give the same command as"
            " before, or --overwrite instead of --resume."
        )


class KeptAnswers:
    """A line a picture, after one about runs and settings. The file is made with the first answer.

    Args:
        folder: of the predictions.
        about: runs and settings, as JSON has them.
        outputs: files that the answers become, which mustn't exist unless said otherwise.
        resume: whether answers that an earlier command kept are taken.
        overwrite: whether what exists is replaced.

    Raises:
        InputError: an output exists, or the answers are of other runs or settings.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        outputs: Sequence[Path],
        resume: bool,
        overwrite: bool,
    ) -> None:
        self._path, self._lines = folder / NAME, {}
        self._whole, self._begin = 0, _bytes(about)
        if resume and self._path.is_file():
            self._read(folder, about)
        elif not overwrite:
            for path in (*outputs, self._path):
                if path.exists():
                    refuse_existing(path, resume)

    def _read(self, folder, about):
        try:
            content = self._path.read_bytes()
            self._whole, self._begin = content.rfind(b"\n") + 1, b""  # the last may be cut short
            first, *lines = map(documents.parse, content[: self._whole].splitlines())
            check_same(folder, first, about)
            self._lines = {line["picture"]: line for line in lines}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or "it isn't what a command kept"
            raise InputError(
                f"{self._path} can't be read ({reason}): give --overwrite instead of --resume, or"
                " another --output."
            ) from error

    def get(self, name: str, path: Path) -> Any:
        """The answer to a picture; None where it isn't known, or the file has changed since."""
        line = self._lines.get(name, {})
        return line["answer"] if line.get("file") == _state(path) else None

    def put(self, name: str, path: Path, answer: Any) -> None:
        """Keeps the answer to a picture, as JSON has it.

        Raises:
            InputError: the disk is full.
        """
        line = {"picture": name, "file": _state(path), "answer": answer}
        with writing(self._path), self._path.open("r+b" if self._whole else "wb") as file:
            file.seek(self._whole)
            file.truncate()
            file.write(self._begin + _bytes(line))
            self._whole, self._begin = file.tell(), b""


def _bytes(line) -> bytes:
    return f"{json.dumps(line, ensure_ascii=False)}\n".encode()


def _state(path):
    """What tells a file from a changed one without reading it; [] where it is gone."""
    with contextlib.suppress(OSError):
        status = path.stat()
        return [status.st_size, status.st_mtime_ns]
    return []
