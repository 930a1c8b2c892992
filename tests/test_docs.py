"""What README and docs say: links lead somewhere, command lines parse, examples run."""

import ast
import contextlib
import importlib
import io
import json
import re
import shlex
import textwrap
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import pytest
from PIL import Image

from cnn_jax import run, study, tasks
from cnn_jax.commands.__main__ import main as cnn_jax_main
from cnn_jax.configuration import command_line
from cnn_jax.data.descriptions import load_description
from tests.running import ROOT

PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "README.es.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "results/README.md",
        "results/benchmarks/README.md",
        *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
    )
]
WRITTEN = [page for page in PAGES if "results" not in page.parts]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language; "": in none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for name, text in found if name == language]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    given: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = given[name] = given.get(name, -1) + 1
        names.add(f"{name}-{number}" if number else name)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_readme_is_short_and_every_page_is_linked_from_it():
    text = PAGES[0].read_text("utf-8")
    assert len(text.splitlines()) <= 130
    assert all(f"(docs/{page.name})" in text for page in PAGES if page.parent.name == "docs")


# ---- command lines


def command_lines() -> list[str]:
    """Every line of a page's blocks that begins or ends with a command of ours, once."""
    start = re.compile(r"(?:^|^srun |^.*&& )(?:\.venv/bin/)?((?:python -m|cnn-jax) .*)")
    found = [
        shlex.join(shlex.split(match[1], comments=True))
        for page in WRITTEN
        for block in blocks(page, "")
        for line in block.splitlines()
        if (match := start.match(line))
    ]
    assert len(set(found)) > 50
    return list(dict.fromkeys(found))


class ParsedError(Exception):
    """Raised in place of a command's work, once its command line is understood."""


def stops(*_, **__):
    raise ParsedError


@pytest.fixture
def described(tmp_path, monkeypatch):
    """Function that makes what the pages' placeholders stand for: RUN, and its config.json."""
    record = ROOT / "results/aerial_unet/synthetic_unet16/config.json"

    def fill(word: str) -> str:
        return str(record) if re.fullmatch(r"(RUN|results/runs/\w+)/config\.json", word) else word

    return fill


def parse(words: list[str]) -> None:
    """Has a command read its command line as ever, and stops it before it does anything."""
    module = words[2] if words[:2] == ["python", "-m"] else ""
    read_options = command_line.options

    def options(*arguments, **keywords):
        read_options(*arguments, **keywords)
        raise ParsedError

    with (
        mock.patch.object(run, "train_and_evaluate", stops),
        mock.patch.object(study, "_check_runs", stops),
        mock.patch.object(study, "_plan", stops),
        mock.patch.object(run, "new_workdir", str),  # makes no folder
        mock.patch.object(run.processes, "join"),
        mock.patch.object(command_line, "options", options),
        contextlib.suppress(ParsedError),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        if words[0] == "cnn-jax":
            assert cnn_jax_main(words[1:]) == 0, words
            return  # benchmark without a name lists them
        rest = words[3:]
        if module == "cnn_jax.run":
            run.main(module, {}, rest)
        loaded = importlib.import_module(module)
        if hasattr(loaded, "__path__"):  # a package is run by its __main__
            loaded = importlib.import_module(f"{module}.__main__")
        if hasattr(loaded, "STUDIES"):
            study.main(module, loaded.STUDIES, argv=rest)
        elif hasattr(loaded, "CONFIGURATIONS"):
            run.main(module, loaded.CONFIGURATIONS, rest)
        else:
            loaded.main(rest)
        raise AssertionError(f"{shlex.join(words)} was not understood")


def test_every_command_line_shown_is_understood(described, capsys):
    for line in command_lines():
        words = [described(word) for word in shlex.split(line)]
        if words[:3] == ["python", "-m", "pytest"]:
            continue
        try:
            parse(words)
        except AssertionError:
            raise AssertionError(f"{line}: {capsys.readouterr().err}") from None


def test_switches_named_in_the_text_are_real():
    """`--section.field` in running text, of any task."""
    from cnn_jax import tasks
    from cnn_jax.configuration.schema import leaves

    known = {
        path
        for task in tasks.TASKS
        for path, _, _ in leaves(tasks.of(task).configuration(model=None))
    }
    for page in WRITTEN:
        if page.name == "CHANGELOG.md":
            continue
        for flag in re.findall(r"`--([a-z]+\.[a-z_-]+)", page.read_text("utf-8")):
            section, _, field = flag.partition(".")
            path = f"{section}.{field.replace('-', '_').removeprefix('no_')}"
            assert section in ("model", "section") or path in known, (page.name, flag)


# ---- examples


def test_every_description_shown_is_one(tmp_path):
    shown = [block for page in WRITTEN for block in blocks(page, "toml")]
    assert len(shown) >= 5
    for number, block in enumerate(shown):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, encoding="utf-8")
        assert len(load_description(str(path)).classes) >= 2


@pytest.mark.parametrize("page", ["README.md", "docs/library.md", "docs/records.md"])
def test_every_python_example_runs(reference, monkeypatch, capsys, page):
    folder, _ = reference
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Image.Image, "show", lambda image: None)
    segmentation = type(tasks.of("segmentation"))  # a page adds a network
    monkeypatch.setattr(segmentation, "models", {**segmentation.models})
    shown = blocks(ROOT / page, "python")
    assert shown
    for block in shown:
        exec(compile(block.replace("results/runs/first", str(folder)), page, "exec"), {})
    assert capsys.readouterr().out


def test_the_spanish_readme_has_the_code_and_the_figures_of_the_english_one():
    """Its words may differ; its table's figures are those of the records that it links."""
    english, spanish = (ROOT / name for name in ("README.md", "README.es.md"))

    def wordless(page):
        trees = [ast.parse(block) for block in blocks(page, "python")]
        for node in (node for tree in trees for node in ast.walk(tree)):
            if isinstance(node, ast.JoinedStr):
                node.values = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        return [ast.dump(tree) for tree in trees]

    def commands(page):
        lines = "".join(blocks(page, "")).splitlines()
        return [re.sub(r" +#.*", "", line) for line in lines]

    assert wordless(spanish) == wordless(english)
    assert commands(spanish) == commands(english)
    text = spanish.read_text("utf-8")
    assert len(text.splitlines()) <= 130
    rows = re.findall(r"^\| \[.*?\]\((\S+)\) \|.*\| (mIoU|exactitud) \| ([\d.]+) \|$", text, re.M)
    assert len(rows) == 3
    for folder, figure, value in rows:
        summary = json.loads((ROOT / folder / "summary.json").read_text("utf-8"))
        key = {"mIoU": "test/miou", "exactitud": "test/accuracy"}[figure]
        assert f"{summary[key]:.4f}" == value, folder


def test_nothing_committed_names_a_place_of_this_machine():
    """Absolute paths and addresses of package indexes."""
    suspicious = re.compile(r"/home/\w+/|/root/|--index-url|simple/")
    for page in [*WRITTEN, *(ROOT / name for name in ("pyproject.toml", "constraints.txt"))]:
        assert not suspicious.search(page.read_text("utf-8")), page
