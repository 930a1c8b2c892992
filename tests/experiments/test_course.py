"""The lessons: both notebooks are what their source makes, every cell of them runs, and prints what
is committed; what doesn't fit a source is refused."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from cnn_jax.errors import InputError
from experiments.course import __main__ as command
from experiments.course import building, showing
from tests.running import ROOT

COURSE = building.lessons()
TEXTS = [(lesson, language) for lesson in COURSE for language in showing.LANGUAGES]
NUMBERS = [f"{lesson.number}" for lesson in COURSE]
BOTH = [f"{lesson.number}-{language}" for lesson, language in TEXTS]
MOST_BYTES = 400_000
LONG = (3, 6, 8, 10)
"""Lessons that take more than a few seconds."""
TRAINED = (3, 6, 8)
"""Lessons that train a network: the last digits of what they print depend on the machine."""


def committed(lesson, language):
    return json.loads(lesson.path(language).read_text("utf-8"))


def source(cell):
    return "".join(cell["source"])


def test_there_are_twelve_lessons_and_no_notebook_besides():
    assert [lesson.number for lesson in COURSE] == list(range(1, 13))
    for language in showing.LANGUAGES:
        held = {path.name for path in (building.COURSE / language).iterdir()}
        assert held == {lesson.path(language).name for lesson in COURSE}


@pytest.mark.parametrize(("lesson", "language"), TEXTS, ids=BOTH)
def test_a_notebook_is_what_its_source_makes(lesson, language):
    path = lesson.path(language)
    assert path.name.startswith(f"{lesson.number:02}_")
    made = building.notebook(lesson, language, COURSE, building.repository())
    held = committed(lesson, language)
    for cell in held["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    assert building.text(held) == building.text(made), (
        f"run python -m experiments.course --write {lesson.number}"
    )
    assert path.stat().st_size < MOST_BYTES
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(path.read_text("utf-8"), 4))


@pytest.mark.parametrize("lesson", COURSE, ids=NUMBERS)
def test_the_code_of_both_notebooks_is_the_same(lesson):
    """But for the one word that says which language it is, and the comment beside it."""

    def code(language):
        cells = committed(lesson, language)["cells"]
        return {
            cell["id"]: source(cell)
            for cell in cells
            if cell["cell_type"] == "code" and cell["id"] != "parameters"
        }

    assert code("en") == code("es")
    assert len(code("en")) > 5


@pytest.mark.parametrize(("lesson", "language"), TEXTS, ids=BOTH)
def test_a_lesson_has_its_parts(lesson, language):
    """What one can do afterwards, questions, exercises with solutions, sources; links lead
    somewhere."""
    cells = committed(lesson, language)["cells"]
    text = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    aims, question, exercises, solutions, sources = {
        "en": ("After this lesson you can", "Question", "Exercises", "Solutions", "Sources"),
        "es": ("Al terminar esta lección podrá", "Pregunta", "Ejercicios", "Soluciones", "Fuentes"),
    }[language]
    assert f"# {lesson.number}. {lesson.title(language)}" in text
    assert f"**{aims}**" in text
    assert text.count(f"**{question}.**") >= 4
    assert f"## {exercises}\n" in text
    assert f"<summary>{solutions}</summary>" in text
    assert f"## {sources}\n" in text
    assert text.count("<details>") == text.count("</details>")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https://)([^)\s]+)\)", prose):
        assert (lesson.path(language).parent / link.partition("#")[0]).resolve().exists(), link


@pytest.mark.parametrize("folder", ["a b/pages", "pages"])
def test_links_of_pages_lead_into_the_checkout(tmp_path, monkeypatch, folder):
    pytest.importorskip("nbconvert")
    monkeypatch.setattr(building, "lessons", lambda: [COURSE[11]])
    for page in building.pages(tmp_path / folder):
        links = re.findall(r'href="([^":#]+\.md)"', page.read_text("utf-8"))
        found = {(page.parent / unquote(link)).resolve() for link in links}
        assert found == {ROOT / "docs" / "course.md", ROOT / "docs" / "own_data.md"}


@pytest.mark.parametrize(
    "lesson",
    [
        pytest.param(lesson, marks=[pytest.mark.long] if lesson.number in LONG else [])
        for lesson in COURSE
    ],
    ids=NUMBERS,
)
def test_every_cell_runs_and_says_what_is_committed(lesson, monkeypatch, quick_compilation):
    """In English, without a kernel and without drawing; and the code of the solutions behind."""
    shown = []
    monkeypatch.setattr(showing, "show", lambda figure, alt: shown.append(alt))
    monkeypatch.chdir(ROOT)
    made = building.notebook(lesson, "en", COURSE, building.repository())
    solutions = [part for cell in lesson.cells if cell.texts for part in solved(cell.texts["en"])]
    made["cells"] += [building.code_cell(f"solution-{n}", part) for n, part in enumerate(solutions)]
    ran = building.execute(made)["cells"]
    held = committed(lesson, "en")["cells"]
    for cell, before in zip(ran, held, strict=False):
        assert said(cell, lesson) == said(before, lesson), (lesson.names["en"], cell["id"])
    pictured = [
        output["metadata"][kind]["alt"]
        for cell in held
        for output in cell.get("outputs", ())
        for kind in output.get("data", ())
        if kind.startswith("image/")
    ]
    assert shown == pictured
    assert all(len(alt) > 10 for alt in pictured)


def said(cell, lesson):
    """What a cell printed, and its tables; of lessons that train, without figures."""
    text = ""
    for output in cell.get("outputs", ()):
        text += "".join(output.get("text", ())) + "".join(
            output.get("data", {}).get("text/markdown", ())
        )
    return re.sub(r"\d+", "#", text) if lesson.number in TRAINED else text


def solved(text):
    """The code of solutions in a text, without its indentation."""
    for margin, code in re.findall(r"^( *)(?:\d+\. )?```py\n(.*?)^ *```", text, re.M | re.S):
        lines = code.splitlines()
        margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
        yield "\n".join(line[margin:] for line in lines)


@pytest.mark.parametrize("lesson", COURSE, ids=NUMBERS)
def test_solutions_have_the_same_code_in_both_languages(lesson):
    for cell in lesson.cells:
        if cell.texts:
            assert [*solved(cell.texts["en"])] == [*solved(cell.texts["es"])]


@pytest.mark.long
@pytest.mark.parametrize(("lesson", "language"), TEXTS, ids=BOTH)
def test_a_notebook_runs_in_a_kernel(lesson, language):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    ran = nbformat.reads(lesson.path(language).read_text("utf-8"), 4)
    ran.cells = [cell for cell in ran.cells if building.NEEDS not in cell.metadata.get("tags", ())]
    before = json.loads(json.dumps(ran.cells))
    folder = {"metadata": {"path": str(lesson.path(language).parent)}}
    nbclient.NotebookClient(ran, timeout=280, resources=folder).execute()
    for cell, held in zip(ran.cells, before, strict=True):
        assert said(cell, lesson) == said(held, lesson), cell.id


# ---- the source, the command, Colab


def write_source(folder, text):
    path = folder / "01.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# A lesson\n", "must begin with the lines"),
        ("en: 01_a\nes: 01_b\n\nloose\n", r"01\.md:3: text must follow"),
        ("en: 01_a\nes: 01_b\n<!-- en -->\n# 1. A\n```python\n1\n```\n", r"01\.md:5: each English"),
        ("en: 01_a\nes: 01_b\n<!-- es -->\n# 1. A\n", r"01\.md:3: each English"),
        ("en: 01_a\nes: 01_b\n<!-- en -->\n# 1. A\n", r"01\.md: the last English"),
    ],
)
def test_a_source_that_breaks_the_form_is_refused_by_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        building.read(write_source(tmp_path, text))


def test_cells_that_need_data_are_marked(tmp_path):
    text = "en: 01_a\nes: 01_b\n<!-- en -->\n# 1. A\n<!-- es -->\n# 1. B\n"
    lesson = building.read(
        write_source(tmp_path, f"{text}```python needs weights\nopen('x')\n```\n")
    )
    assert lesson.title("en") == "A"
    assert lesson.title("es") == "B"
    made = building.notebook(lesson, "en", [lesson], "")
    assert made["cells"][-1]["metadata"] == {"tags": [building.NEEDS]}


@pytest.mark.parametrize(
    "address", ["https://github.com/someone/cnn_jax", "git@github.com:someone/cnn_jax.git"]
)
def test_the_badge_opens_the_notebook_of_the_repository_that_the_colab_notebook_names(address):
    lesson = COURSE[0]
    assert 'REPOSITORY = "' in building.COLAB.read_text("utf-8").replace("\\", "")
    for language in showing.LANGUAGES:
        top = building.heading(lesson, language, COURSE, address)
        place = lesson.path(language).relative_to(ROOT).as_posix()
        link = f"https://colab.research.google.com/github/someone/cnn_jax/blob/main/{place}"
        assert f"({link})" in top
        made = building.notebook(lesson, language, COURSE, address)
        assert f'REPOSITORY = "{address}"' in made["cells"][2]["source"]
        assert "colab.research" not in building.heading(lesson, language, COURSE, "")


def test_the_command_lists_the_lessons(capsys):
    assert command.main(["--language", "es"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(COURSE)
    for line, lesson in zip(lines, COURSE, strict=True):
        assert lesson.title("es") in line
        assert (ROOT / line.split()[-1]).is_file()


def test_a_lesson_opens_in_jupyter_or_as_a_page(tmp_path, monkeypatch, capsys):
    ran, opened = [], []
    monkeypatch.setattr(command.subprocess, "run", lambda words, check: ran.append(words))
    monkeypatch.setattr(command.webbrowser, "open", opened.append)
    monkeypatch.setattr(command.shutil, "which", lambda name: f"/bin/{name}")
    assert command.main(["--open", "1", "--language", "es"]) == 0
    assert ran == [["/bin/jupyter-lab", str(COURSE[0].path("es"))]]

    pytest.importorskip("nbconvert")
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    monkeypatch.setattr(building, "lessons", lambda: COURSE[:1])
    assert command.main(["--open", "1", "--language", "es"]) == 0
    page = capsys.readouterr().out.strip()
    assert opened == [f"file://{page}"]
    assert COURSE[0].title("es") in Path(page).read_text("utf-8")


def test_a_lesson_that_there_is_not_is_refused(capsys):
    assert command.main(["--open", "40"]) == 2
    assert "There is no lesson 40" in capsys.readouterr().err


def test_the_page_of_the_course_links_every_notebook():
    text = (ROOT / "docs/course.md").read_text("utf-8")
    for lesson, language in TEXTS:
        place = lesson.path(language).relative_to(ROOT).as_posix()
        assert f"[{lesson.title(language)}](../{place})" in text


# ---- figures


def test_words_are_those_of_the_notebooks_language():
    assert showing.words("en")("edges", "bordes") == "edges"
    assert showing.words("es")("edges", "bordes") == "bordes"
