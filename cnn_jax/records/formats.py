"""The formats of records: how each names its fields, and which of them its digest covers.

`environment.json` says which format a record has; records without one have format 1. A digest is
always computed from the fields as they were written, so a record that was changed is found out
whatever its age. Only then is its configuration read by today's names, in one place, `migrated`.
"""

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cnn_jax.configuration import documents

FORMAT = 2
"""The format that is written. Since 2, `environment.json` says what lies outside the digest:
`outside_digest` names fields that can't change a result, `absent_values` gives fields that are
younger than some records, each with the value that means what runs did before."""

_OUTSIDE_DIGEST_1 = (
    "data.directory",
    "data.memory_budget_gib",
    "data.on_device",
    "data.prefetch_batches",
    "training.keep_checkpoints",
)
"""Format 1: fields that can't change a result."""

_ABSENT_1 = {
    "task": "segmentation",
    "variant": "",
    "data.on_device": False,
    "loss.further": [],
    "loss.weights": [],
    "loss.activation": "softmax",
    "loss.focal_gamma": 2.0,
    "loss.tversky_alpha": 0.3,
    "loss.tversky_beta": 0.7,
    "loss.boundary_px": 3,
    "loss.boundary_weight": 5.0,
    "training.remat": False,
    "training.patience": 0,
    "evaluation.train": False,
}
"""Format 1: fields younger than the first records. A record without one means this value, and the
value stays outside the digest."""

_ABSENT_OPTION_1 = {
    **{f"vgg{depth}": {"width": 1.0} for depth in (11, 13, 16, 19)},
    **{f"resnet{depth}": {"width": 1.0} for depth in (18, 34, 50, 101, 152)},
    "se_resnet50": {"width": 1.0},
    "mobilenet": {"output_stride": 32},
    "mobilenet_v2": {"output_stride": 32},
    "xception": {"width": 1.0, "padding": "VALID", "output_stride": 32},
}
"""Format 1: the same of a model's options, by its name."""

RENAMED: dict[str, str] = {}
"""Field of an older format -> what it is called today, each a dotted path."""


Origin = tuple[Mapping[str, Any], Mapping[str, Any]]
"""What a run is: its configuration as JSON holds it, and its environment."""


def fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every field of a configuration as JSON holds it."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def source_name(source: str) -> str:
    """The name of data: of a description given as a file, the file's name. Where somebody keeps it
    says nothing about the data."""
    return re.split(r"[/\\]", source)[-1].removesuffix(".toml")


def format_of(environment: Mapping[str, Any]) -> Any:
    """The format that an `environment.json` names; 1 where it names none."""
    return environment.get("format", 1)


def outside_digest(config: Mapping[str, Any], environment: Mapping[str, Any]) -> Collection[str]:
    """The fields of a record, as dotted paths, that its digest doesn't cover."""
    never, absent = _OUTSIDE_DIGEST_1, _absent_1(config)
    if format_of(environment) > 1:
        never, absent = environment["outside_digest"], environment["absent_values"]
    return {
        *never,
        *(path for path, value in fields(config) if path in absent and value == absent[path]),
    }


def digest(config: Mapping[str, Any], outside: Collection[str]) -> str:
    """16 hexadecimal digits of all fields of a configuration but those outside."""
    return documents.hashed({p: value for p, value in fields(config) if p not in outside})


def digest_as_written(config: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The digest of a record's own fields, by the rules of its format."""
    return digest(config, outside_digest(config, environment))


def differences(there: Origin, here: Origin) -> list[str]:
    """`field: value there, value here` for each field that can change a result and differs. Of
    `data.source` the name counts, not where a description lies: what is in it is in the data's
    fingerprint."""
    of_a, of_b = (dict(fields(config)) for config, _ in (there, here))
    a, b = (
        {path: value for path, value in of.items() if path not in outside}
        for of, outside in ((of_a, outside_digest(*there)), (of_b, outside_digest(*here)))
    )
    return [
        f"{path}: {of_a.get(path)!r}, {of_b.get(path)!r}"
        for path in sorted(a.keys() | b.keys())
        if a.get(path, ...) != b.get(path, ...)
        and not (
            path == "data.source" and len({source_name(str(c.get(path))) for c in (a, b)}) == 1
        )
    ]


def migrated(config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """A record's configuration by today's names: renamed fields carry their new names, and fields
    younger than the record have the value that means what runs did then."""
    config = copy.deepcopy(dict(config))
    if format_of(environment) >= FORMAT:
        return config
    for old, new in RENAMED.items():
        holder, name = _section(config, old)
        if holder is not None and name in holder:
            value = holder.pop(name)
            section, name = _section(config, new)
            (config if section is None else section)[name] = value
    task = config.get("task", "segmentation")
    for path, value in _absent_1(config).items():
        holder, name = _section(config, path)
        if holder is not None and (path != "evaluation.train" or task == "classification"):
            holder.setdefault(name, copy.copy(value))
    return config


def _absent_1(config):
    model = config.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    options = _ABSENT_OPTION_1.get(name, {}) if isinstance(name, str) else {}
    return _ABSENT_1 | {f"model.{option}": value for option, value in options.items()}


def _section(config, path):
    """(the section that holds a field, None where the configuration lacks it; the field's name)."""
    *sections, name = path.split(".")
    for section in sections:
        config = config.get(section)
        if not isinstance(config, dict):
            return None, name
    return config, name
