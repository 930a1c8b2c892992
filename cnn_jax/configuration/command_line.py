"""Command lines."""

import copy
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_origin

from cnn_jax.configuration.schema import FIXED, Config, describe, leaves, nearest
from cnn_jax.errors import InputError


def parse_command_line(
    argv: Sequence[str],
    configurations: Mapping[str, Callable[[], Config]],
    flags_: Mapping[str, tuple[str, str]],
) -> tuple[Config, dict[str, str]]:
    """Reads `--config NAME|config.json`, `--config.section.field=value` and plain text flags.

    Args:
        argv: the program's name, then its arguments.
        configurations: name -> function that returns a configuration; the first is the default.
        flags_: further flags, name -> (default, help).

    Returns:
        The checked configuration and the values of `flags_`.

    Raises:
        InputError: an unknown field, flag or configuration (with the nearest names), or a value of
            the wrong type.
    """
    from absl import flags
    from ml_collections import config_flags

    from cnn_jax.tasks import check, constructors, model_config, read_config

    argv = list(argv)
    given = [i for i, argument in enumerate(argv) if re.fullmatch(r"--?config(=.*)?", argument)]
    name = next(iter(configurations), "")
    if given:
        last = argv[given[-1]]
        if "=" not in last and given[-1] + 1 == len(argv):
            raise InputError(
                f"--config needs a value: {nearest('', configurations)}, or the path of a recorded"
                " config.json."
            )
        name = last.split("=", 1)[1] if "=" in last else argv[given[-1] + 1]
        for i in reversed(given):  # one --config, first, as ml_collections wants it
            del argv[i : i + (1 if "=" in argv[i] else 2)]
    argv.insert(1, f"--config={name}")

    argv, model = model_name(argv)

    def load(text):
        if text in configurations:
            config = configurations[text]()
        elif text.endswith(".json") or "/" in text or Path(text).is_file():
            config = read_config(text)
        else:
            known = nearest(text, configurations)
            raise InputError(
                f"--config {text} is neither a configuration nor the path of a recorded"
                f" config.json: {known}."
            )
        if model and model != config.model.name:
            if model not in constructors(config.task):
                known = nearest(model, constructors(config.task))
                raise InputError(
                    f"--config.model.name={model} is no architecture for {config.task}: {known}."
                )
            config.model = model_config(model)
        return config

    config = load(name)
    fields = {path: option for path, option, _ in leaves(config) if path not in FIXED}
    argv = _names_in_tuples(
        argv, [path for path, option in fields.items() if option.type == tuple[str, ...]]
    )
    for argument in argv[2:]:
        if re.match(
            r"--?(flagfile|undefok)\b", argument
        ):  # absl's own, which read files and let misspellings pass
            raise InputError(f"{argument} is no flag of this command; --help lists them all.")
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match and match[1] not in fields:
            if match[1] in FIXED:
                raise InputError(
                    f"--config.{match[1]} can't be changed; choose another --config instead."
                )
            raise InputError(
                f"--config.{match[1]} is no field of this configuration:"
                f" {nearest_field(match[1], fields)}."
            )

    argv = _last_values(argv, fields)

    values = flags.FlagValues()
    config_flags.DEFINE_config_dataclass(
        "config", copy.deepcopy(config), flag_values=values, sys_argv=argv, parse_fn=load
    )
    for flag, (default, help) in flags_.items():
        flags.DEFINE_string(flag, default, help, flag_values=values)
    try:
        rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        if any(path.split(".")[-1] == error.flagname for path in fields):
            raise InputError(
                f"--{error.flagname} is no flag: {nearest_field(error.flagname, fields)}."
            ) from error
        known = [f"--{flag}" for flag in ("config", "help", *flags_)]
        raise InputError(
            f"--{error.flagname} is no flag: {nearest('--' + error.flagname, known)}."
        ) from error
    except flags.IllegalFlagValueError as error:
        match = re.search(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if not match:
            raise InputError(f"{error}.") from error
        raise InputError(
            f"--config.{match[1]} takes {describe(fields[match[1]].type)}, not {match[2]!r}."
        ) from error
    except flags.Error as error:
        raise InputError(f"{str(error).splitlines()[0].rstrip('.')}.") from error
    if len(rest) > 1:
        raise InputError(
            f"{rest[1]!r} is not understood; write values as --config.section.field=value."
        )
    config = values.config
    check(config)
    return config, {flag: values[flag].value for flag in flags_}


def model_name(argv):
    """(`argv` without `--config.model.name`, the last value given for it, or ""): it decides which
    fields there are.

    Raises:
        InputError: it is given without a value.
    """
    kept, model, arguments = [], "", iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?config[.]model[.]name(?:=(.*))?", argument)
        if match:
            model = next(arguments, "") if match[1] is None else match[1]
            if not model:
                raise InputError(
                    "--config.model.name needs a value, such as --config.model.name=resnet18."
                )
        else:
            kept.append(argument)
    return kept, model


def without_flag(arguments: Sequence[str], flag: str) -> list[str]:
    """The arguments without `--flag VALUE` and `--flag=VALUE`."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument in (f"--{flag}", f"-{flag}"):
            next(rest, None)
        elif not re.match(rf"--?{flag}=", argument):
            kept.append(argument)
    return kept


def _last_values(argv, fields):
    """The arguments with only the last value of each field: absl would join tuples that are given
    twice."""
    last, rest = {}, list(argv)
    for number, argument in enumerate(argv):
        match = re.fullmatch(r"--?config\.([^=]+)(=.*)?", argument, re.DOTALL)
        if not match or match[1] not in fields:
            continue
        apart = (
            match[2] is None and fields[match[1]].type is not bool
        )  # the value is the next argument
        for earlier in last.get(match[1], ()):
            rest[earlier] = None
        last[match[1]] = (number, number + 1) if apart else (number,)
    return [argument for argument in rest if argument is not None]


def _names_in_tuples(argv, paths):
    """`argv` with each of these fields given once, as a tuple literal: `8,2_13` and `('8', '2_13')`
    come to the same.

    ml_collections would read names as Python literals, in which 2_13 is 213 and a space is an
    error.
    """
    kept, names = [], {}
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, text = argument.partition("=")
        path = re.sub("^--?config[.]", "", flag)
        if path == flag or path not in paths:
            kept.append(argument)
            continue
        text = text if equals else next(arguments, "")
        parts = [part.strip().strip("'\"") for part in text.strip().strip("()[]").split(",")]
        names[path] = [part for part in parts if part]  # as everywhere, the last one counts
    return kept + [f"--config.{path}={tuple(parts)!r}" for path, parts in names.items()]


def nearest_field(path: str, fields) -> str:
    """As `nearest`, for the dotted path of a field; one of the same name in another section comes
    first."""
    last = path.split(".")[-1]
    same_name = [f for f in fields if f.split(".")[-1] == last]
    close = same_name or difflib.get_close_matches(path, fields, n=3, cutoff=0.5)
    if not close:
        names = {f.split(".")[-1]: f for f in fields}
        close = [names[n] for n in difflib.get_close_matches(last, names, n=3, cutoff=0.5)]
    return (
        f"did you mean {' or '.join('--config.' + f for f in close)}"
        if close
        else "--help lists them all"
    )


def help_text(
    module: str,
    configurations: Mapping[str, Callable[[], Config]],
    flags_: Mapping[str, tuple[str, str]],
) -> str:
    """What `--help` prints: the configurations, the flags, and every field with its type, default
    and unit."""
    lines = [
        f"usage: python -m {module} [--config NAME|config.json] [--config.FIELD=VALUE ...]",
        "",
        "configurations:",
    ]
    for name, make in configurations.items():
        lines.append(f"  {name:<14} {next(iter((make.__doc__ or '').strip().splitlines()), '')}")
    lines += [
        "",
        "flags:",
        f"  {'--config':<14} a configuration's name, or the path of a recorded config.json",
    ]
    lines += [f"  {'--' + flag:<14} {help}" for flag, (_, help) in flags_.items()]
    first = next(iter(configurations))
    lines += ["", f"fields (defaults of {first!r}; set as --config.FIELD=VALUE):"]
    for path, option, value in leaves(configurations[first]()):
        if path in FIXED and path != "model.name":
            continue
        kind = getattr(option.type, "__name__", "")
        if get_origin(option.type) is tuple:
            kind = str(option.type).replace("tuple", "")
        unit = f" [{option.metadata['unit']}]" if option.metadata["unit"] else ""
        choices = (
            f" ({', '.join(map(str, option.metadata['choices']))})"
            if option.metadata["choices"]
            else ""
        )
        lines.append(f"  {path} ({kind}) = {value!r}{unit}")
        lines.append(f"      {option.metadata['help']}{choices}")
    return "\n".join(lines) + "\n"
