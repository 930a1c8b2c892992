"""Commands, a file each: `cnn-jax NAME` and `python -m cnn_jax.commands.NAME` are the same."""

import ast
from pathlib import Path
from types import ModuleType


def first_line(package: ModuleType, name: str) -> str:
    """Of the docstring of a package's module, without importing it."""
    source = Path(str(package.__file__)).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
