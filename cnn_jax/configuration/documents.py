"""Configurations as JSON: written, read strictly, identified by a digest, and compared."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from cnn_jax.configuration.schema import Config, leaves, nearest, typed
from cnn_jax.errors import InputError

LARGEST = 2**63
"""Whole numbers at or beyond it, on either side of zero, fit no array and are refused."""


def parse(text: str | bytes) -> Any:
    """What a JSON text stands for.

    Raises:
        ValueError: it is no JSON or no UTF-8; a number is NaN, infinite or too large; an object has
            a name twice, of which one would be lost; text holds half a character (a surrogate),
            which can't be written again; or it is nested too deeply.
    """
    try:
        text = text if isinstance(text, str) else text.decode("utf-8-sig")  # editors write BOMs
        content = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_float,
            parse_int=_int,
        )
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}") from error
    except UnicodeEncodeError:
        raise ValueError("it holds half a character") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    return content


def is_utf8(text: str) -> bool:
    """Whether a path or a word of a command line, as Python has it, is made of UTF-8 bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"{next(name for name in names if names.count(name) > 1)!r} stands there twice"
        )
    return content


def _no_number(text):
    raise ValueError(f"{text} is no number")


def _float(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _int(text):
    if len(text) > 20 or not -LARGEST < int(text) < LARGEST:
        raise ValueError(f"{text[:20]} is too large a number")
    return int(text)


def to_dict(config: Config) -> dict:
    """The configuration as nested dictionaries, in field order."""
    return dataclasses.asdict(config)


def to_json(config: Config) -> str:
    """The configuration as indented JSON, in field order."""
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"


def from_dict(
    record: Mapping[str, Any],
    where: str = "config.json",
    *,
    task_types: Mapping[str, type[Config]],
    model_section: Callable[[str], Any],
) -> Config:
    """The configuration that a record holds; not checked beyond the types of its fields.

    Args:
        record: the content of a `config.json`.
        where: names the file in errors.
        task_types: the type of a configuration by its task.
        model_section: gives the options of an architecture by its name.

    Raises:
        InputError: an unknown or missing field, or a value of the wrong type.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"{where} must hold an object with the fields of a configuration.")
    task = record.get("task", "segmentation")
    if not isinstance(task, str) or task not in task_types:
        raise InputError(f"{where}: task is {task!r}: {nearest(str(task), task_types)}.")
    config = task_types[task]()
    model = record.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("name"), str):
        raise InputError(f"{where}: model must be an object with the architecture's name.")
    config.model = model_section(model["name"])
    _fill(config, record, where, "")
    return config


def _fill(section, record, where, prefix):
    names = [option.name for option in dataclasses.fields(section)]
    for name in record:
        if name not in names:
            raise InputError(f"{where}: {prefix}{name} is no field: {nearest(name, names)}.")
    for option in dataclasses.fields(section):
        if option.name not in record:
            if option.metadata["absent"] is not dataclasses.MISSING:
                setattr(section, option.name, option.metadata["absent"])
                continue
            raise InputError(f"{where}: {prefix}{option.name} is missing; add it.")
        value, held = record[option.name], getattr(section, option.name)
        if dataclasses.is_dataclass(held):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: {prefix}{option.name} must be an object.")
            _fill(held, value, where, f"{prefix}{option.name}.")
        else:
            setattr(
                section, option.name, typed(f"{where}: {prefix}{option.name}", option.type, value)
            )


def _results(config: Config) -> dict:
    return {path: value for path, option, value in leaves(config) if option.metadata["result"]}


def digest(config: Config) -> str:
    """16 hexadecimal digits of everything in the configuration that can change a result."""
    absent = {path: option.metadata["absent"] for path, option, _ in leaves(config)}
    return hashed({p: value for p, value in _results(config).items() if value != absent[p]})


def hashed(fields: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of fields by their dotted paths, in whatever order they are."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def identity(config: Config) -> dict:
    """What a summary says of where it came from: experiment, configuration, variant (of runs that
    are compared), digest, seed."""
    variant = {"variant": config.variant} if config.variant else {}
    names = {"experiment": config.experiment, "configuration": config.configuration}
    return {**names, **variant, "digest": digest(config), "seed": config.seed}


def differences(one: Config, other: Config) -> list[str]:
    """`field: value here, value there` for each field that can change a result and differs."""
    a, b = _results(one), _results(other)
    return [
        f"{path}: {a.get(path)!r}, {b.get(path)!r}"
        for path in sorted(a.keys() | b.keys())
        if a.get(path) != b.get(path)
    ]
