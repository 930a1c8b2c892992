"""The lessons of the course: lists them, opens one, makes pages or notebooks of them.

python -m experiments.course [--open 3] [--language es] [--pages FOLDER] [--write 3 4]
"""

import shutil
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.run import guarded
from experiments.course import building
from experiments.course.showing import LANGUAGES


@dataclass
class Options:
    """What is done with which lessons; without a flag they are listed."""

    open: int = setting(0, "number of a lesson to open", at_least=0)
    language: str = setting("en", "language of what is listed or opened", choices=LANGUAGES)
    pages: str = setting("", "folder into which every lesson is written as an HTML page", path=True)
    write: tuple[int, ...] = setting(
        (), "numbers of lessons whose notebooks are made from their sources, and run"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, "experiments.course", __doc__)
        course = building.lessons()
        for number in {options.open, *options.write} - {0}:
            if number not in {lesson.number for lesson in course}:
                raise InputError(f"There is no lesson {number}; they go from 1 to {len(course)}.")
        if options.write:
            write([lesson for lesson in course if lesson.number in options.write], course)
        elif options.pages:
            for page in building.pages(Path(options.pages)):
                print(page)
        elif options.open:
            show(next(one for one in course if one.number == options.open), options.language)
        else:
            for lesson in course:
                title, path = lesson.title(options.language), lesson.path(options.language)
                print(f"{lesson.number:>2}  {title:<50} {path.relative_to(building.ROOT)}")
    return outcome.exit_code


def write(chosen: Sequence[building.Lesson], course: list[building.Lesson]) -> None:
    """Make both notebooks of the lessons chosen, with outputs."""
    address = building.repository()
    for lesson in chosen:
        for language in LANGUAGES:
            path = lesson.path(language)
            made = building.notebook(lesson, language, course, address)
            path.write_text(building.text(building.execute(made)), encoding="utf-8")
            print(f"{path}: {path.stat().st_size // 1000} kB", flush=True)


def show(lesson: building.Lesson, language: str) -> None:
    """Open a lesson in Jupyter, or where that isn't installed as a page in the browser."""
    path = lesson.path(language)
    jupyter = shutil.which("jupyter-lab") or shutil.which("jupyter-notebook")
    if jupyter:
        subprocess.run([jupyter, str(path)], check=False)
        return
    folder = Path(tempfile.mkdtemp(prefix="cnn_jax-course-"))
    building.pages(folder)
    page = folder / language / f"{lesson.names[language]}.html"
    print(page)
    webbrowser.open(page.as_uri())


if __name__ == "__main__":
    sys.exit(main())
