"""Files in a folder and below, however people keep them: links are followed, hidden files and
folders are passed over."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cnn_jax.data.file_names import can_be_shown, check, composed
from cnn_jax.errors import InputError

_HIDDEN = (".", "__MACOSX")


def visible(folder: str | Path) -> list[os.DirEntry]:
    """What lies in a folder and isn't hidden, sorted by name.

    Raises:
        InputError: the folder can't be listed, or a name can't be shown.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry for entry in entries if not entry.name.startswith(_HIDDEN)),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise InputError(
            f"{folder} can't be listed ({error.strerror}): check its permissions."
        ) from error
    for entry in found:
        check(folder, entry.name)
    return found


def below(folder: Path, suffixes: Collection[str], above: tuple = ()) -> Iterator[Path]:
    """The files in a folder and its subfolders that end so, in any case.

    Args:
        folder: to search.
        suffixes: such as ".png".
        above: the folders that it lies in, by device and number.

    Raises:
        InputError: as `visible`; a link leads to a folder that it lies in, or to nothing.
    """
    status = folder.stat()
    here = status.st_dev, status.st_ino
    if here in above:
        raise InputError(f"{folder} is a link to a folder that it lies in: remove it.")
    for entry in visible(folder):
        path = folder / entry.name
        # A link that leads to itself is an error for an entry, and no folder for a path.
        if path.is_dir() if entry.is_symlink() else entry.is_dir():
            yield from below(path, suffixes, (*above, here))
        elif path.suffix.lower() in suffixes:
            if not path.is_file():
                raise InputError(f"{path} is no file, or a link to none: remove it.")
            yield path


def passed_over(folder: Path, suffixes: Collection[str], taken: Collection[Path]) -> list[str]:
    """The files below a folder that end so and aren't among those that were taken, be it through
    links: their paths within it, `/` between folders. Links to folders aren't followed, hidden
    folders not searched."""
    found, known, ends = [], set(map(str, taken)), tuple(suffixes)
    for directory, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        found += [
            path
            for name in files
            if name.lower().endswith(ends)
            and not name.startswith(_HIDDEN)
            and (path := f"{directory}/{name}") not in known
        ]
    if found:
        real = {os.path.realpath(path) for path in known}
        found = [path for path in found if os.path.realpath(path) not in real]
    return [Path(path).relative_to(folder).as_posix() for path in found]


def places(files: Sequence[str]) -> str:
    """Where files lie, in words, of their paths within a folder."""
    where = Counter(path.rpartition("/")[0] for path in files)
    shown = []
    for place, count in where.most_common(3):
        name = composed(place) if can_be_shown(place) else ascii(place)
        shown.append(f"{count} in {name or 'the folder itself'}")
    more = f" and {len(where) - 3} more folders" if len(where) > 3 else ""
    return ", ".join(shown) + more


def unread(left: Sequence[str], suffixes: Collection[str]) -> list[str]:
    """A sentence on those of the files that were `passed_over` whose format isn't read, such as
    telephones', where files that end so are."""
    files = [file for file in left if not file.lower().endswith(tuple(suffixes))]
    kinds = ", ".join(sorted({Path(file).suffix.lower() for file in files}))
    said = f"images of formats that aren't read ({kinds}) are left out: {places(files)}."
    return [said] if files else []


def file_named(folder: Path, name: str) -> Path:
    """The file of that name in a folder, whichever way either composes its letters."""
    if name.isascii() or (folder / name).exists():
        return folder / name
    for part in Path(name).parts:
        entries = folder.iterdir() if folder.is_dir() else ()
        same = (entry for entry in entries if composed(entry.name) == composed(part))
        folder = next(same, folder / part)
    return folder
