"""Files of records: read strictly, written whole or not at all."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnn_jax.configuration import documents
from cnn_jax.errors import InputError


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a record.

    Raises:
        InputError: it can't be read, or isn't the JSON of an object.
    """
    try:
        content = documents.parse(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing: restore it, or remove the folder that it belongs in."
        ) from error
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


def metrics_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no file. A last line that a crash cut short
    is left out.

    Raises:
        InputError: another line isn't one that a run wrote.
    """
    if not path.exists():
        return []
    try:
        # What follows the end of the last line is nothing, or was cut short.
        *whole, _ = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}); make it readable, or begin anew in another"
            " folder."
        ) from error
    lines = []
    for number, line in enumerate(whole, 1):
        values = _values(line)
        if values is None:
            raise InputError(
                f"{path} is damaged in line {number}; restore it, or begin anew in another folder."
            )
        lines.append(values)
    return lines


def _values(line: bytes) -> dict[str, Any] | None:
    """What a line of metrics holds; None if a run writes no such line."""
    try:
        values = documents.parse(line)
        known = type(values["step"]) is int and all(
            value is None or type(value) in (int, float) for value in values.values()
        )
        return values if known and values["step"] >= 0 and values["elapsed_s"] >= 0 else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def line_of(values: Mapping[str, Any]) -> str:
    """An object as one line of a metrics.jsonl."""
    return json.dumps(values, ensure_ascii=False) + "\n"


def check_ours(path: Path, *names: str, flag: str = "--output") -> None:
    """Raises InputError where the file exists and isn't a JSON object with these names: it is
    somebody's, and would be replaced. `flag` is the one that says where to write."""
    if not path.exists():
        return
    try:
        held = read_object(path)
    except InputError:
        held = {}
    if not held.keys() >= set(names):
        raise InputError(f"{path} wasn't written by this command: give another {flag}.")


def check_page(path: Path, beginning: str, flag: str) -> None:
    """As `check_ours`, of a page, which begins with what the regular expression matches."""
    ours = path.is_file() and re.match(beginning.encode(), path.read_bytes())
    if path.exists() and not ours:
        raise InputError(f"{path} wasn't written by this command: give another {flag}.")


def make_place(path: Path, flag: str = "--output") -> None:
    """Makes the folder of a file, before the work that the file is to tell of.

    Raises:
        InputError: it can't be made, or nothing can be written there; `flag` says where it lies.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror}): make its folder writable, or give another"
            f" {flag}."
        ) from error


SOFTWARE = "cnn_jax"
"""What every PNG that is drawn here bears as its `Software`."""


def check_picture(path: Path, new: Path | None = None) -> None:
    """Raises InputError where the file exists and wasn't drawn here. What replaces it is `new`: of
    a PNG its metadata tell, of a table the first line, which must be that of the new one."""
    if not path.exists():
        return
    try:
        with path.open("rb") as held:
            if new is None or new.suffix == ".png":  # text comes before pixels
                ours = f"Software\0{SOFTWARE}".encode() in held.read(1000)
            else:
                with new.open("rb") as stream:
                    ours = held.readline(1000) == stream.readline(1000)
    except OSError:
        ours = False
    if not ours:
        raise InputError(
            f"{path} isn't known to be of this software: give another --output, or move the file."
        )


def write_object(path: Path, values: Mapping[str, Any]) -> None:
    """Writes an object as indented JSON. Raises InputError as `write_text` does."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8. Raises InputError as `write_whole` does."""
    write_whole(path, text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, into a folder that is there: a run's may have been moved
    away, and isn't made again.

    Raises:
        InputError: the disk is full, or the folder can't be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror}); free the disk or make it writable, and"
            " run the same command again."
        ) from error


@contextlib.contextmanager
def pictures_can_be_written(folder: str | Path) -> Iterator[None]:
    """Around drawing into a folder: a full or closed disk becomes an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the pictures can't be written to {folder} ({error.strerror}); free the disk or make"
            " it writable, and run the same command again."
        ) from error


@contextlib.contextmanager
def pictures_beside_others(folder: Path) -> Iterator[Path]:
    """A folder to draw in, whose pictures go into `folder` once all are drawn.

    Raises:
        InputError: one would replace a picture that wasn't drawn here, or can't be written.
    """
    with pictures_can_be_written(folder), tempfile.TemporaryDirectory() as drawn:
        yield Path(drawn)
        pictures = sorted(Path(drawn).iterdir())
        for picture in pictures:
            check_picture(folder / picture.name, picture)
        folder.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            partial = folder / f"{picture.name}.partial"
            shutil.copyfile(picture, partial)
            partial.replace(folder / picture.name)
