"""Every public function of the package says its types."""

import ast
from pathlib import Path

import pytest

import cnn_jax

PACKAGE = Path(cnn_jax.__file__).parent
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if not path.name.startswith("_") or path.name == "__init__.py"
)


def public_functions(body: list[ast.stmt], prefix: str = ""):
    """Yields (name, function) of the public functions and methods defined in a module's body."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith("_") or node.name in ("__init__", "__call__")
        ):
            yield prefix + node.name, node


def missing(name: str, function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    static = any(getattr(d, "id", "") == "staticmethod" for d in function.decorator_list)
    if "." in name and not static:
        named = named[1:]
    absent = [a.arg for a in [*named, *arguments.kwonlyargs] if a.annotation is None]
    return absent + ["return"] * (function.returns is None)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_are_annotated(path):
    functions = public_functions(ast.parse(path.read_text()).body)
    absent = {f"{name}:{f.lineno}": missing(name, f) for name, f in functions if missing(name, f)}
    assert not absent
