"""Command lines, read by tyro: each field of a tree of settings is a flag, `--section.field VALUE`.

What the user can mend is an `InputError` of one sentence. `--help` and `--tyro-print-completion`
print and raise `SystemExit`.
"""

import copy
import dataclasses
import difflib
import functools
import inspect
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from cnn_jax.configuration.documents import is_utf8
from cnn_jax.configuration.schema import FIXED, check_fields, describe, leaves, setting
from cnn_jax.errors import InputError

T = TypeVar("T")


def positional(default: Any, name: str, help: str) -> Any:
    """A path that a command takes without a flag, such as RUN; several if `default` is a tuple."""
    held = setting(default, help, path=True)
    return dataclasses.field(default=default, metadata={**held.metadata, "positional": name})


def options(
    defaults: type[T] | T, argv: Sequence[str] | None, module: str, description: str | None = ""
) -> T:
    """The options of a command, checked.

    Args:
        defaults: a dataclass of settings, or an instance of one.
        argv: the arguments; None: those of this process.
        module: the command, as `python -m` knows it.
        description: for `--help`, in which paragraphs that show a command are left out.

    Raises:
        InputError: an unknown flag, or a value that can't be used.
    """
    paragraphs = (description or "").split("\n\n")
    about = "\n\n".join(part for part in paragraphs if not part.startswith("python -m"))
    held = defaults() if isinstance(defaults, type) else defaults
    (held,), unknown = parse(argv, held, prog=program(module), description=about)
    refuse_unknown(unknown, held)
    for _, option, value in leaves(held):
        if option.metadata.get("positional") and not value:
            help = option.metadata["help"]
            raise InputError(f"{option.metadata['positional']} is missing: give the {help}.")
    check_fields(held, "--")
    return held


def program(module: str) -> str:
    """What a user types to run a module."""
    return f"python -m {module}"


def typed(module: str, words: Iterable[str]) -> str:
    """The command line that a user types to run a module with these words."""
    return shlex.join([*program(module).split(), *words])


def completes(argv: Sequence[str]) -> bool:
    """Whether the arguments ask for a script that completes command lines in a shell."""
    return bool(argv) and argv[0].startswith("--tyro-")


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether the arguments ask for `--help` or completion, which `parse` then prints."""
    return completes(argv) or "--help" in argv or "-h" in argv


def listed(functions: Mapping[str, Any]) -> str:
    """Names with what their docstrings begin with, for a description."""
    width = max(map(len, functions), default=0) + 2
    lines = [f"  {name:<{width}}{summary(make)}" for name, make in functions.items()]
    return "\n".join(lines)


def summary(documented: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def parse(
    argv: Sequence[str] | None,
    *trees: Any,
    prog: str = "",
    description: str = "",
    fixed: Iterable[str] = (),
) -> tuple[list[Any], list[str]]:
    """Copies of trees of settings with what a command line sets in them, not checked.

    Args:
        argv: the arguments; None: those of this process.
        trees: dataclass instances. Of a field that several have, the last one's help is shown.
        prog: what the user types; empty: `--help` and completion are left to a later call.
        description: for `--help`.
        fixed: dotted paths of fields that have no flag.

    Returns:
        The copies, and the words of the command line that mean nothing to them.

    Raises:
        InputError: a value is of the wrong type, or a word is no UTF-8 and no record could hold it.
        SystemExit: help or completion was asked for, and is printed.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    for word in argv:
        if not is_utf8(word):
            raise InputError(f"{word!a} has bytes that are no UTF-8: rename the file or folder.")
    completing = completes(argv)
    if completing and not prog:
        return list(trees), argv
    kind = _arguments(trees, fixed, completing)
    values, unknown = tyro.cli(
        kind,
        args=argv,
        prog=prog or None,
        description=description,
        return_unknown_args=True,
        add_help=bool(prog),
    )
    copies = [copy.deepcopy(tree) for tree in trees]
    for tree in copies:
        for path, _, _ in list(leaves(tree)):
            if path not in fixed:
                *sections, name = path.split(".")
                setattr(_walk(tree, sections), name, getattr(_walk(values, sections), name))
    return copies, unknown


def _walk(tree, sections):
    return functools.reduce(getattr, sections, tree)


def _arguments(trees, fixed, completing, prefix=""):
    """The dataclass that tyro reads: the fields of all trees, those that share a name as one."""
    held: dict[str, tuple[dataclasses.Field, list]] = {}
    for tree in trees:
        for option in dataclasses.fields(tree):
            values = held[option.name][1] if option.name in held else []
            held[option.name] = option, [*values, getattr(tree, option.name)]
    single = any(option.metadata.get("positional") for option, _ in held.values())
    made = []
    for name, (option, values) in held.items():
        path = prefix + name
        if path in fixed:
            continue
        if dataclasses.is_dataclass(values[-1]):
            kind = _arguments(values, fixed, completing, f"{path}.")
            # Without help of its own, tyro searches the source for some, which takes long.
            section = Annotated[kind, tyro.conf.arg(help=kind.__doc__)]
            made.append((name, section, dataclasses.field(default_factory=kind)))
        else:
            argument = _argument(path, option, single, completing)
            made.append((name, argument, dataclasses.field(default=values[-1])))
    doc = " ".join((inspect.getdoc(trees[-1]) or "").partition("\n\n")[0].split())
    return dataclasses.make_dataclass(type(trees[-1]).__name__, made, namespace={"__doc__": doc})


def _argument(path, option, single, completing):
    """The type of a field, annotated with what tyro needs to read it and to explain it."""
    unit, choices = option.metadata["unit"], option.metadata["choices"]
    name = option.name.removesuffix("_")  # of a field whose name without it is a Python keyword
    about = tyro.conf.arg(
        name=None if name == option.name else name,
        help=option.metadata["help"] + (f" [{unit}]" if unit else ""),
        help_behavior_hint=lambda default: f"(default: {default})" if default.strip("'") else "",
    )
    if option.type is bool:
        return Annotated[bool, about]
    many = get_origin(option.type) is not None or option.metadata.get("positional")
    spec = PrimitiveConstructorSpec(
        # A single value takes any number of words too, so that our own sentence says what is wrong,
        # unless the command takes further words without a flag.
        nargs=1 if single and not many else "*",
        metavar=option.metadata.get("positional") or _metavar(option.type, choices),
        instance_from_str=functools.partial(_value, path, option),
        is_instance=lambda _: True,
        str_from_instance=_words,
        # With choices tyro completes, but would refuse others in words of its own.
        choices=tuple(map(str, choices)) or None if completing else None,
    )
    kind = Annotated[option.type, spec, about]
    return tyro.conf.Positional[kind] if option.metadata.get("positional") else kind


def _metavar(kind: Any, choices: Sequence[Any]) -> str:
    if choices:
        one = f"{{{','.join(map(str, choices))}}}"
        return f"[{one} ...]" if get_origin(kind) is tuple else one
    if get_origin(kind) in (Union, UnionType):
        return "|".join(_metavar(member, ()) for member in get_args(kind))
    if get_origin(kind) is Literal:
        return _metavar(None, get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        names: list[str] = [_metavar(member, ()) for member in kinds if member is not Ellipsis]
        return f"[{names[0]} ...]" if kinds[-1] is Ellipsis else " ".join(names)
    return {int: "INT", float: "FLOAT", str: "TEXT"}[kind]


def _words(value):
    return list(map(str, value)) if isinstance(value, tuple) else [str(value)]


def _value(path, option, words):
    """What the words after a flag stand for."""
    path = path.removesuffix("_")
    if option.metadata["path"]:
        words = [expanded(word) for word in words]
    kinds = get_args(option.type) if get_origin(option.type) in (Union, UnionType) else ()
    for kind in kinds or (option.type,):
        try:
            return _converted(kind, words)
        except ValueError:
            continue
    if len(words) > 1 and get_origin(option.type) is None:
        raise InputError(f"{words[1]!r} is not understood: --{path} takes one value.")
    if not words:
        raise InputError(f"--{path} needs a value: {describe(option.type)}.")
    raise InputError(f"--{path} takes {describe(option.type)}, not {' '.join(words)!r}.")


def _converted(kind, words):
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        words = [word for word in words if word]
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(words)
        return tuple(member(word) for member, word in zip(kinds, words, strict=True))
    (word,) = words
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            raise ValueError(word)
        return word
    return kind(word)


def expanded(path: str) -> str:
    """A path with ~ replaced by the home folder."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:  # no user of that name
        return path


def refuse_unknown(words: Sequence[str], *trees: Any, fixed: Iterable[str] = FIXED) -> None:
    """Refuses the first of the words that mean nothing to any of the trees.

    Raises:
        InputError: there is one; the sentence has the nearest names.
    """
    if not words:
        return
    flag = words[0].partition("=")[0]
    name = flag.lstrip("-").replace("-", "_")
    if flag == name:
        raise InputError(
            f"{words[0]!r} is not understood: write values as --section.field VALUE, and what is on"
            " or off as --section.field or --section.no-field."
        )
    if name in FIXED:
        raise InputError(f"{flag} can't be changed: choose another --config instead.")
    known = [p.removesuffix("_") for tree in trees for p, _, _ in leaves(tree) if p not in fixed]
    raise InputError(f"{flag} is no flag: {nearest_field(name, [*known, 'help'])}.")


def nearest_field(path: str, fields: Iterable[str]) -> str:
    """As `nearest`, for the dotted path of a field; one of the same name in another section comes
    first."""
    names: dict[str, list[str]] = {}
    for field in dict.fromkeys(fields):
        names.setdefault(field.rpartition(".")[2], []).append(field)
    last = path.rpartition(".")[2]
    close = names.get(last.removeprefix("no_")) or difflib.get_close_matches(
        path, [field for same in names.values() for field in same], n=3, cutoff=0.5
    )
    if not close:
        close = [f for n in difflib.get_close_matches(last, names, cutoff=0.5) for f in names[n]]
    if not close:
        return "--help lists them all"
    return f"did you mean {' or '.join('--' + field for field in close[:3])}"


def without_flag(argv: Sequence[str], flag: str) -> list[str]:
    """The arguments without `--flag VALUE` and `--flag=VALUE`."""
    kept, rest = [], iter(argv)
    for argument in rest:
        if argument == f"--{flag}":
            next(rest, None)
        elif not argument.startswith(f"--{flag}="):
            kept.append(argument)
    return kept
