"""Lessons, from their sources to notebooks.

A source, `lessons/NN.md`, begins with the names of its two notebooks, `en: NN_name` and `es:
NN_nombre`. Then follow texts in pairs, the English one after a line `<!-- en -->`, the Spanish one
after `<!-- es -->`, and cells of code between ```` ```python ```` and ```` ``` ````, which both
notebooks share. ```` ```python needs data ```` is a cell that wants more than the checkout: it is
not run here. Solutions are folded away in texts, their code in ```` ```py ````.
"""

import base64
import contextlib
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

from cnn_jax.errors import InputError
from experiments.course.showing import LANGUAGES

COURSE = Path(__file__).parent
ROOT = COURSE.parents[1]
COLAB = COURSE.parent / "colab.ipynb"
NEEDS = "needs-data"
"""The tag of cells that aren't run with the others."""

SETUP = """\
import os
import subprocess
import sys
from pathlib import Path

places = (Path.cwd(), *Path.cwd().parents, Path("cnn_jax_checkout").absolute())
checkout = next((place for place in places if (place / "experiments/course").is_dir()), None)
if checkout is None:
    if not REPOSITORY:
        raise ValueError("REPOSITORY is empty: fill in where `git clone` finds cnn_jax.")
    checkout = places[-1]
    subprocess.run(["git", "clone", "-q", REPOSITORY, str(checkout)], check=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "-e", f"{checkout}[classic]"]
    subprocess.run(pip, check=True)
os.chdir(checkout)
sys.path.insert(0, str(checkout))

from experiments.course.showing import grouped, matrices, panels, pictures, show, table, words

say = words(LANGUAGE)"""

WORDS = {
    "en": {
        "lesson": "Lesson {} of {}",
        "course": "all lessons",
        "other": "[en español]({})",
        "upload": "To run it in Colab: *File → Upload notebook* there, then fill in `REPOSITORY`.",
        "repository": "# what `git clone` takes; not needed in a checkout",
    },
    "es": {
        "lesson": "Lección {} de {}",
        "course": "todas las lecciones",
        "other": "[in English]({})",
        "upload": "Para ejecutarla en Colab: *Archivo → Subir cuaderno*, y rellene `REPOSITORY`.",
        "repository": "# lo que recibe `git clone`; no hace falta dentro de una copia del proyecto",
    },
}


@dataclass(frozen=True)
class Cell:
    """Texts by language, or code."""

    texts: dict[str, str]
    code: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Lesson:
    """A lesson as its source has it: its number, the names of its notebooks by language, its
    cells."""

    number: int
    names: dict[str, str]
    cells: tuple[Cell, ...]

    def title(self, language: str) -> str:
        """Its first heading, without the number."""
        heading = re.search(r"^# (?:\d+\. )?(.+)$", self.cells[0].texts[language], re.MULTILINE)
        return heading[1] if heading else self.names[language]

    def path(self, language: str) -> Path:
        """Of its notebook."""
        return COURSE / language / f"{self.names[language]}.ipynb"


def lessons() -> list[Lesson]:
    """All lessons, in order."""
    return [read(path) for path in sorted((COURSE / "lessons").glob("*.md"))]


def read(path: Path) -> Lesson:
    """A lesson's source. Raises InputError with the line where its form breaks."""
    lines = path.read_text("utf-8").splitlines()
    names = dict(line.split(": ", 1) for line in lines[:2] if ": " in line)
    if tuple(names) != LANGUAGES:
        raise InputError(f"{path} must begin with the lines `en: NN_name` and `es: NN_nombre`.")
    cells, english, at = [], None, 2
    while at < len(lines):
        place, (kind, needs) = f"{path}:{at + 1}", _kind(lines[at])
        end = at + 1
        ends = "```".__eq__ if kind == "code" else lambda line: bool(_kind(line)[0])
        while end < len(lines) and not ends(lines[end]):
            end += 1
        block = "\n".join(lines[at + 1 : end]).strip("\n")
        if (kind == "es") != (english is not None):
            raise InputError(f"{place}: each English text needs its Spanish one right after it.")
        if kind == "en":
            english = block
        elif kind == "es":
            cells.append(Cell({"en": str(english), "es": block}))
            english = None
        elif kind == "code":
            cells.append(Cell({}, block, needs))
            end += 1
        elif lines[at].strip() or block.strip():
            raise InputError(f"{place}: text must follow <!-- en --> or <!-- es -->.")
        at = end
    if english is not None:
        raise InputError(f"{path}: the last English text needs its Spanish one after it.")
    return Lesson(int(path.stem), names, tuple(cells))


def _kind(line):
    """Of the block that a line begins, "en", "es", "code" or none, and what its code needs."""
    if match := re.fullmatch(r"<!-- (en|es) -->", line):
        return match[1], ""
    if match := re.fullmatch(r"```python(?: needs (.+))?", line):
        return "code", match[1] or ""
    return "", ""


def repository() -> str:
    """Where `git clone` finds the project, as `experiments/colab.ipynb` says; "" if it doesn't."""
    cells = json.loads(COLAB.read_text("utf-8"))["cells"]
    code = "".join("".join(cell["source"]) for cell in cells if cell["id"] == "parameters")
    found = re.search(r'^REPOSITORY = "(.*?)"', code, re.MULTILINE)
    return found[1] if found else ""


def heading(lesson: Lesson, language: str, course: list[Lesson], address: str) -> str:
    """The line above a lesson: where it stands in the course, its twin, and how to run it in
    Colab."""
    said = WORDS[language]
    other = next(one for one in LANGUAGES if one != language)
    parts = [said["lesson"].format(lesson.number, len(course))]
    for neighbour, mark in ((lesson.number - 1, "← {}"), (lesson.number + 1, "{} →")):
        parts += [
            f"[{mark.format(one.title(language))}]({one.names[language]}.ipynb)"
            for one in course
            if one.number == neighbour
        ]
    parts.append(said["other"].format(f"../{other}/{lesson.names[other]}.ipynb"))
    parts.append(f"[{said['course']}](../../../docs/course.md)")
    github = re.match(r"(?:https://|git@)github\.com[/:]([^/]+/[^/]+?)(?:\.git)?/?$", address)
    badge = said["upload"]
    if github:
        file = f"experiments/course/{language}/{lesson.names[language]}.ipynb"
        picture = "https://colab.research.google.com/assets/colab-badge.svg"
        badge = f"[![Colab]({picture})](https://colab.research.google.com/github/{github[1]}/blob/main/{file})"
    return f"{' · '.join(parts)}\n\n{badge}"


def notebook(lesson: Lesson, language: str, course: list[Lesson], address: str) -> dict[str, Any]:
    """A lesson's notebook in a language, without outputs."""
    parameters = (
        f'LANGUAGE = "{language}"\nREPOSITORY = "{address}"  {WORDS[language]["repository"]}'
    )
    top, *rest = lesson.cells
    cells = [
        _markdown("heading", heading(lesson, language, course, address)),
        _markdown("title", top.texts[language]),
        code_cell("parameters", parameters, tags=["parameters"]),
        code_cell("setup", SETUP, cellView="form", jupyter={"source_hidden": True}),
    ]
    for number, cell in enumerate(rest, 1):
        if cell.texts:
            cells.append(_markdown(f"text-{number}", cell.texts[language]))
        else:
            tags = {"tags": [NEEDS]} if cell.needs else {}
            cells.append(code_cell(f"code-{number}", cell.code, **tags))
    return {
        "cells": cells,
        "metadata": {
            "colab": {"provenance": []},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def execute(made: dict[str, Any]) -> dict[str, Any]:
    """A notebook with the outputs of its cells: what they print, and the pictures and tables of
    `showing`. They run in this process; cells that need data are left out."""
    from IPython import display

    variables: dict[str, Any] = {"__name__": "__main__"}
    for cell in made["cells"]:
        if cell["cell_type"] != "code" or NEEDS in cell["metadata"].get("tags", ()):
            continue
        printed = io.StringIO()

        def note(shown, cell=cell, printed=printed):
            _keep_printed(cell, printed)
            data, about = _data(shown)
            output = {"output_type": "display_data", "data": data, "metadata": about}
            cell["outputs"].append(output)

        with mock.patch.object(display, "display", note), contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), cell["id"], "exec"), variables)
        _keep_printed(cell, printed)
    return made


def _keep_printed(cell, printed):
    if held := printed.getvalue():
        cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": held})
    printed.seek(0)
    printed.truncate()


def _data(shown):
    """Of a picture or a table: its data by type, and its metadata, as Jupyter keeps them."""
    if hasattr(shown, "_repr_markdown_"):
        return {"text/markdown": shown.data}, {}
    kind = f"image/{shown.format}"
    return {kind: base64.b64encode(shown.data).decode(), "text/plain": shown.alt}, {
        kind: {"alt": shown.alt}
    }


def text(made: dict[str, Any]) -> str:
    """A notebook as its file holds it: as `nbformat.write` does."""
    for cell in made["cells"]:
        cell["source"] = _lines(cell["source"])
        for output in cell.get("outputs", []):
            for held in (output, output.get("data", {})):
                for name in ("text", "text/plain", "text/markdown", "text/html"):
                    if name in held:
                        held[name] = _lines(held[name])
    return json.dumps(made, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def pages(folder: Path) -> list[Path]:
    """All notebooks as HTML pages, in `folder`/LANGUAGE."""
    import nbformat
    from nbconvert import HTMLExporter

    made = []
    for lesson in lessons():
        for language in LANGUAGES:
            exporter = HTMLExporter(template_name="lab", language_code=language)
            ran = nbformat.reads(lesson.path(language).read_text("utf-8"), 4)
            body, _ = exporter.from_notebook_node(
                ran, {"metadata": {"name": lesson.title(language)}}
            )
            page = folder / language / f"{lesson.names[language]}.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            body = re.sub(r'(href="[^":]*?)\.ipynb"', r'\1.html"', body)
            # What lies in the checkout is seen from the page, wherever that is.
            checkout = os.path.relpath(ROOT.resolve(), page.parent.resolve())
            body = body.replace('href="../../../', f'href="{quote(Path(checkout).as_posix())}/')
            page.write_text(body, encoding="utf-8")
            made.append(page)
    return made


def _markdown(name, source):
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def code_cell(name: str, source: str, **metadata: Any) -> dict[str, Any]:
    """A cell of code, not run."""
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": name,
        "metadata": metadata,
        "outputs": [],
        "source": source,
    }


def _lines(source):
    return source if isinstance(source, list) else source.splitlines(keepends=True)
