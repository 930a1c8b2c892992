"""Commands, a file each: `cnn-jax NAME` and `python -m cnn_jax.commands.NAME` are the same."""

import ast
from pathlib import Path
from types import ModuleType


def summary(package: ModuleType, name: str) -> str:
    """The first paragraph of the docstring of a package's module, without importing it."""
    source = Path(str(package.__file__)).with_name(f"{name}.py").read_text(encoding="utf-8")
    paragraph = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())
