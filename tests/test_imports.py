"""Imports run one way: docs/design.md lists the rooms, and each imports what stands above it."""

import ast
import graphlib
import re
import subprocess
import sys

import pytest

from tests.running import ROOT, environment

PACKAGE = ROOT / "cnn_jax"


def named(path) -> str:
    """The dotted name of a module's file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {named(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(source: str) -> set[str]:
    """The modules that a file imports, at its top or within functions; what only a type checker
    imports is left out."""
    found, waiting = set(), [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            whole = (f"{node.module}.{name.name}" for name in node.names)
            found |= {name if name in MODULES else str(node.module) for name in whole}
        waiting += ast.iter_child_nodes(node)
    return found


IMPORTS = {name: imported(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def rooms() -> list[str]:
    """Folders and loose files of the package, in the order of docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    listed = re.search(r"^cnn_jax/\n((?:  .*\n)+)", text, re.MULTILINE)[1]
    names = []
    for line in listed.splitlines():
        names += re.findall(r"\S+", re.match(r"  (\S+( \S+)*)", line)[1])
    return [name.removesuffix("/").removesuffix(".py") for name in names]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_what_a_file_imports_is_found():
    source = """
import jax
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from cnn_jax.study import Study
def late():
    from cnn_jax import run
    from cnn_jax.errors import InputError
"""
    assert imported(source) == {"jax", "typing", "cnn_jax.run", "cnn_jax.errors"}


def test_the_list_has_every_room():
    held = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(rooms()) == sorted(held)


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_what_stands_above_it(name):
    order = rooms()
    for other in IMPORTS[name]:
        assert other.partition(".")[0] not in ("experiments", "tests"), other
        if other.partition(".")[0] == "cnn_jax":
            assert order.index(room(other)) <= order.index(room(name)), f"{name} imports {other}"


def test_no_circle_among_files():
    graphlib.TopologicalSorter(IMPORTS).prepare()  # raises CycleError


def imported_by(code: str, names: set[str]) -> set[str]:
    """Which of these packages a program imports."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*{names} & {{*sys.modules}})"],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_the_package_is_imported_without_jax_or_numpy():
    assert not imported_by("import cnn_jax", {"jax", "flax", "numpy", "tyro"})


def test_predicting_imports_nothing_that_training_alone_needs():
    """Each of these takes half a second to two."""
    code = """
import cnn_jax, numpy
run = cnn_jax.load("results/aerial_unet/dubai_unet16")
run.predict(numpy.zeros((32, 32, 3), numpy.uint8))"""
    training = {"grain", "orbax", "tensorstore", "dm_pix", "matplotlib", "tensorboardX", "tyro"}
    assert imported_by(code, {*training, "jax"}) == {"jax"}
