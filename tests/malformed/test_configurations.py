"""Command lines and config.json that no run can be made of."""

import json
import re
from typing import get_args, get_origin

import pytest
from hypothesis import strategies as st

from cnn_jax import run
from cnn_jax.configuration import documents, schema
from experiments import aerial_unet, classify
from tests.malformed.refusals import broken_json, changed, generated, paths, refused

CONFIGURATIONS = {"aerial_unet": aerial_unet.CONFIGURATIONS, "classify": classify.CONFIGURATIONS}
CONFIGS = {name: configurations["smoke"]() for name, configurations in CONFIGURATIONS.items()}
FIELDS = [
    (name, path, option)
    for name, config in CONFIGS.items()
    for path, option, _ in schema.leaves(config)
    if path not in schema.FIXED
]

NO_NUMBER = [
    "many",
    "",
    " ",
    "nan",
    "1e999",
    "0x",
    "1_",
    "--",
    "None",
    "[]",
    "1 2",
    "½",
    "३x",
    "'3'",
    "9" * 400,
]


def wrong_texts(option):
    """Values on the command line that are not of a field's kind, or out of its range."""
    kind, least = option.type, option.metadata["at_least"]
    if kind is bool:
        return ["maybe", "2", "None", "ja", "[]"]
    if kind is int:
        below = [] if least is None else [str(least - 1), "-99999999999"]
        return [*NO_NUMBER, "1.5", "inf", "1e3", "99999999999", *below]
    if kind is float:
        below = [] if least is None else [str(least - 0.001), "-1e300"]
        beyond = ["1.001", "-0.1", "7e7"] if option.metadata["unit"] == "0 to 1" else []
        return [
            *(text for text in NO_NUMBER if text not in ("1_",)),
            "inf",
            "-inf",
            "1,5",
            "True x",
            *below,
            *beyond,
        ]
    if get_origin(kind) is tuple:
        of, *more = get_args(kind)
        if of is str:
            return ["dise"] if option.metadata["choices"] else []
        length = None if more[-1:] == [Ellipsis] else len(more) + 1
        wrong = [
            "(1,",
            "('a','b')",
            "(None,)",
            "{1: 2}",
            "((1,2),(3,4))",
            "(nan,nan)",
            "many",
            "(1e999,2)",
        ]
        if length:
            wrong += [["1"] * n for n in (0, 1, 2, 3, 4, 7) if n != length]
            wrong += [["1"] * (length - 1) + [text] for text in ("nan", "1e999", "a", "")]
        return wrong
    return ["nonesuch", "\N{SNOWMAN}"] if option.metadata["choices"] else []


@st.composite
def command_lines(draw):
    """(experiment, arguments): one thing is wrong with each."""
    kind = draw(
        st.sampled_from(["value", "value", "value", "value", "field", "flag", "name", "word"])
    )
    name, path, option = draw(st.sampled_from([field for field in FIELDS if wrong_texts(field[2])]))
    if kind == "value":
        wrong = draw(st.sampled_from(wrong_texts(option)))
        return name, [f"--{path}={wrong}"] if isinstance(wrong, str) else [f"--{path}", *wrong]
    text = draw(
        st.text(
            st.characters(min_codepoint=33, exclude_categories=["Cs", "Zs", "Cc"]),
            min_size=1,
            max_size=9,
        )
    )
    if kind == "field":
        return name, [f"--{path}{re.sub('[=.]', '', text) or 'x'}x=1"]
    if kind == "flag":
        return name, [f"--{re.sub('=', '', text)}zz"]
    if kind == "name":
        return name, [
            draw(
                st.sampled_from(
                    [f"--config={text}zz", f"--model.name={text}zz", f"--config={text}.json"]
                )
            )
        ]
    return name, [f"{text.lstrip('-')}zz"]


def command(name):
    return lambda argv: run.main(f"experiments.{name}", CONFIGURATIONS[name], argv)


@generated(60, 2000, command_lines())
def test_command_lines(line, tmp_path_factory):
    name, arguments = line
    workdir = tmp_path_factory.getbasetemp() / "never"
    refused(command(name), "--config=smoke", *arguments, "--workdir", workdir)
    assert not workdir.exists()


def wrong_values(option):
    """Values in JSON that are not of a field's kind, or out of its range."""
    kind, least, unit = option.type, option.metadata["at_least"], option.metadata["unit"]
    never = [None, {}, {"a": 1}, [None], [[1]], True]
    if kind is bool:
        return [None, {}, [], "true", 0, 1, 1.0]
    if kind is str:
        return [*never, [], 3, 0.5, *(["nonesuch"] if option.metadata["choices"] else [])]
    if kind in (int, float):
        wrong = [*never, [], "3", "", *([0.5, 10**11, -(10**11)] if kind is int else [])]
        return (
            wrong
            + ([] if least is None else [least - 1])
            + ([1.5, -0.5] if unit == "0 to 1" else [])
        )
    of, *more = get_args(kind)
    wrong = [None, {}, True, 3, "text", [None], [{}], [[]]]
    return (
        wrong
        + ([] if more[-1:] == [Ellipsis] else [[], [1] * (len(more) + 2), [1] * len(more)])
        + ([] if of is str else [["a"]])
    )


def held(record, path):
    for key in path:
        record = record[key]
    return record


@st.composite
def recorded_configurations(draw):
    """(experiment, content of config.json) that is no configuration."""
    name = draw(st.sampled_from(sorted(CONFIGS)))
    config = CONFIGS[name]
    text = documents.to_json(config)
    record = json.loads(text)
    kind = draw(
        st.sampled_from(["value", "value", "value", "missing", "unknown", "broken", "broken"])
    )
    if kind == "broken":
        return name, draw(broken_json(text))
    options = {tuple(path.split(".")): option for path, option, _ in schema.leaves(config)}
    if kind == "value":
        path = draw(st.sampled_from(sorted(options)))
        return (
            name,
            json.dumps(
                changed(record, path, draw(st.sampled_from(wrong_values(options[path]))))
            ).encode(),
        )
    every = [path for path in paths(record) if isinstance(path[-1], str)]
    if kind == "missing":
        needed = [
            p
            for p in every
            if p not in options or options[p].metadata["absent"] is schema.dataclasses.MISSING
        ]
        return name, json.dumps(changed(record, draw(st.sampled_from(needed)), ...)).encode()
    section = draw(
        st.sampled_from([(), *(path for path in every if isinstance(held(record, path), dict))])
    )
    future = draw(st.text(max_size=8)) + "9"
    return (
        name,
        json.dumps(
            changed(record, (*section, future), draw(st.sampled_from([1, None, {}, "x"])))
        ).encode(),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("configurations")


@generated(60, 2000, recorded_configurations())
def test_recorded_configurations(recorded, folder):
    name, content = recorded
    path = folder / "config.json"
    path.write_bytes(content)
    said = refused(command(name), "--config", path, "--workdir", folder / "never")
    assert "config.json" in said or re.search(r"\w+\.\w+ |seed|task|experiment", said), said
    assert not (folder / "never").exists()
