"""The tasks by name, and the configurations that are made for them.

Importing this imports no task, and so neither JAX nor Flax; asking for one does.
"""

import dataclasses
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_jax.configuration import documents, schema
from cnn_jax.configuration.schema import Config, nearest, setting
from cnn_jax.errors import InputError

if TYPE_CHECKING:
    from cnn_jax.tasks.task import Task


TASKS: dict[str, "str | Task"] = {
    "segmentation": "cnn_jax.tasks.segmentation:Segmentation",
    "classification": "cnn_jax.tasks.classification:Classification",
    "classic": "cnn_jax.tasks.classic:Classic",
    "detection": "cnn_jax.tasks.detection:Detection",
    "instances": "cnn_jax.tasks.instances:Instances",
}
"""`task` of a configuration -> the `Task`, or the module and class of one."""


def of(name: str) -> "Task":
    """The task of that name."""
    task = TASKS[name]
    if isinstance(task, str):
        module, _, member = task.partition(":")
        task = TASKS[name] = getattr(importlib.import_module(module), member)()
    return task


def constructors() -> Mapping[str, Any]:
    """What `model.name` may be over all tasks: name -> the module or method."""
    return {name: make for task in TASKS for name, make in of(task).models.items()}


class ModelConfig:
    """What `model_config` makes, a dataclass whose type no module has by name."""

    name: str

    def __reduce__(self) -> tuple:
        section: Any = self
        make = functools.partial(model_config, section.name, **dataclasses.asdict(section))
        return make, ()


def model_config(name: str, /, **options: Any) -> Any:
    """The options of an architecture as a dataclass: `name`, then the fields of its module,
    documented by the module's docstring.

    Raises:
        InputError: no architecture or option has that name.
    """
    known = constructors()
    if name not in known:
        raise InputError(
            f"model.name is {name!r}, which is no architecture: {nearest(name, known)}."
        )
    section = _model_section(name, known[name])
    fields = [option.name for option in dataclasses.fields(section)]
    unknown = set(options) - set(fields)
    if unknown:
        option = min(unknown)
        raise InputError(f"model.{option} is no option of {name}: {nearest(option, fields)}.")
    return section(**options)


@functools.cache  # sections of one architecture have one type, so that equal ones compare equal
def _model_section(name: str, module: Any) -> Any:
    bound = getattr(module, "keywords", {})  # of a partial
    module = getattr(module, "func", module)
    attributes = inspect.cleandoc(module.__doc__ or "").partition("\nAttributes:\n")[2]
    entry = r"^    (\w+): (.+(?:\n {5,}\S.*)*)"  # what follows is indented further
    meanings = dict(re.findall(entry, attributes, re.MULTILINE))
    fields: list[tuple[str, Any, Any]] = [
        (
            "name",
            str,
            setting(name, "the architecture or method, which brings its own options of model"),
        )
    ]
    kinds = typing.get_type_hints(module)  # also of a file that postpones its annotations
    for option in dataclasses.fields(module):
        if option.name not in ("parent", "name", "num_classes", "axis_name", "crop_px", *bound):
            help = " ".join(meanings.get(option.name, "").split()).rstrip(".")
            fields.append(
                (option.name, kinds[option.name], setting(option.default, help, **option.metadata))
            )
    meaning = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0]
    return dataclasses.make_dataclass(
        f"{module.__name__}Config", fields, bases=(ModelConfig,), namespace={"__doc__": meaning}
    )


def build_model(section: Any, **bound: Any) -> Any:
    """The Flax module, or classic method, that a `model` section describes; `bound` are further
    fields of it, such as `num_classes`. A `crop_px` is for those that have such a field."""
    options = {name: value for name, value in dataclasses.asdict(section).items() if name != "name"}
    make = constructors()[section.name]
    known = {option.name for option in dataclasses.fields(getattr(make, "func", make))}
    bound = {name: value for name, value in bound.items() if name != "crop_px" or name in known}
    return make(**options, **bound)


def check(config: Config) -> None:
    """Holds a configuration to what `schema.check` asks, and its model to its task.

    Raises:
        InputError: names the field and the mend.
    """
    if not isinstance(config.model, ModelConfig):
        raise InputError(
            f"model is a {type(config.model).__name__}; give what cnn_jax.model_config makes, such"
            ' as model_config("unet").'
        )
    schema.check(config)
    known = of(config.task).models
    if config.model.name not in known:
        raise InputError(
            f"model.name is {config.model.name!r}, which is not for {config.task}:"
            f" {nearest(config.model.name, known)}."
        )


def config_from_dict(record: Mapping[str, Any], where: str = "config.json") -> Config:
    """The checked configuration that a record holds. `where` names the file in errors.

    Raises:
        InputError: an unknown or missing field, or a value that `check` refuses.
    """
    types = {name: of(name).configuration for name in TASKS}
    config = documents.from_dict(record, where, task_types=types, model_section=model_config)
    check(config)
    return config


def read_config(path: str | Path) -> Config:
    """The checked configuration in a recorded `config.json`.

    Raises:
        InputError: the file can't be read, or doesn't hold a configuration.
    """
    try:
        record = documents.parse(Path(path).read_bytes())
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}); give the path of a recorded config.json."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); give the path of a recorded config.json."
        ) from error
    return config_from_dict(record, str(path))


def named_config(name: str, configurations: Mapping[str, Callable[[], Config]]) -> Config:
    """The configuration that `--config` asks for, not checked.

    Args:
        name: one of `configurations`, or the path of a recorded config.json; empty: the first.
        configurations: functions that make one.

    Raises:
        InputError: no configuration and no file has that name.
    """
    name = name or next(iter(configurations), "")
    if name in configurations:
        return configurations[name]()
    if name.endswith(".json") or "/" in name or Path(name).is_file():
        return read_config(name)
    if not configurations:
        raise InputError(f"--config must be the path of a recorded config.json, not {name!r}.")
    raise InputError(
        f"--config {name} is neither a configuration nor the path of a recorded config.json:"
        f" {nearest(name, configurations)}."
    )


def with_model(config: Config, name: str) -> Config:
    """A configuration with another architecture, which brings the defaults of its own options.

    Raises:
        InputError: the configuration's task has no architecture of that name.
    """
    if name in ("", config.model.name):
        return config
    known = of(config.task).models
    if name not in known:
        raise InputError(
            f"--model.name {name} is no architecture for {config.task}: {nearest(name, known)}."
        )
    return dataclasses.replace(config, model=model_config(name))
