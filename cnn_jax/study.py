"""A study: runs that are compared, the same experiment in several variants, each with several
seeds; and the command around it.

Every run is a run like any other, with its own folder and record. A study that was interrupted goes
on where it stopped: finished runs are shown, the others begun or resumed.
"""

import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cnn_jax import configuration, run
from cnn_jax.configuration import Config
from cnn_jax.errors import InputError
from cnn_jax.runtime import memory, processes

FLAGS = {
    "workdir": (
        "",
        "folder of the study, with a folder a run; one that holds an unfinished study resumes it",
    ),
    "variants": ("", "run only these, such as mlp,cnn; --models says the same"),
    "seeds": (
        "",
        "run these seeds, such as 0,1,2, not the study's own; --config.seeds says the same",
    ),
    "distributed": processes.FLAG,
}


@dataclass(frozen=True)
class Study:
    """Configurations to compare, and the seeds to run each with.

    `variants` maps a name to a configuration; whatever differs between two of them is what the
    study is about.
    """

    variants: Mapping[str, Config]
    seeds: tuple[int, ...] = (0,)


def main(
    module: str,
    studies: Mapping[str, Callable[[], Study]],
    pictures: Callable[[Path, list], None] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """The command `python -m module`. Returns its exit code: 0, 2 for what the user can mend, 130
    and 143 after signals.

    Args:
        module: its name.
        studies: name -> function that returns a study; the first is the default.
        pictures: `(folder, records)`: draws what only the runs together show.
        argv: the command line.
    """
    if argv is None:
        memory.keep()
    argv = list(sys.argv if argv is None else argv)
    if any(argument in ("-h", "--help", "--helpfull") for argument in argv[1:]):
        print(_help(module, studies), end="")
        return 0

    def command():
        name, arguments = _study_name([_usual(argument) for argument in argv[1:]], studies)
        if name not in studies:  # a run's own config.json
            run.once(module, {}, [module, f"--config={name}", *arguments])
            return
        study = studies[name]()
        configs, values = _configured(module, study, name, arguments)
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        processes.join(values["distributed"])
        workdir = Path(
            processes.broadcast(
                values["workdir"] or f"results/runs/{configs[0].experiment}-{name}-{now}"
            )
        )
        rest = configuration.without_flag(arguments, "workdir")
        command = shlex.join(
            ["python", "-m", module, f"--config={name}", *rest, "--workdir", str(workdir)]
        )
        _run(configs, list(study.variants), workdir, command, pictures)

    return run.guarded(command)


def folder_name(config: Config) -> str:
    """What the folder of a run is called within its study's."""
    return f"{config.variant}-seed{config.seed}"


def finished(workdir: Path, variants: Sequence[str]) -> list:
    """The records of all finished runs of a study, whatever command made them, in the order of its
    variants and then of seeds."""
    from cnn_jax.reporting import table

    folders = sorted(path.parent for path in workdir.glob("*/summary.json"))
    records = [table.read_record(folder, workdir.parent) for folder in folders]
    known = [record for record in records if record.config.get("variant") in variants]
    return sorted(
        known, key=lambda record: (variants.index(record.config["variant"]), record.config["seed"])
    )


def _run(configs, variants, workdir, command, pictures):
    from cnn_jax.records import run_directory as records
    from cnn_jax.reporting import table

    try:
        for number, config in enumerate(configs, 1):
            print(
                f"\nrun {number} of {len(configs)}: {config.variant}, seed {config.seed}",
                flush=True,
            )
            run.run(config, workdir / folder_name(config), command)
    finally:
        with contextlib.suppress(
            OSError
        ):  # a study whose first run could not begin leaves no folder behind
            workdir.rmdir()
    if not processes.is_primary():
        return
    found = finished(workdir, variants)
    print(f"\n{table.variants_table(found)}")
    if pictures is not None:
        with records.pictures_can_be_written(workdir / "figures"):
            (workdir / "figures").mkdir(exist_ok=True)
            pictures(workdir / "figures", found)
    print(f"\nrecords and pictures: {workdir}")


def _configured(module, study, name, arguments):
    """The configurations of all runs, with what the command line changes; and the values of the
    flags."""
    chosen, seeds = _chosen(study, arguments)
    model = configuration.model_name(arguments)[1]
    every = {}
    for variant in chosen:
        config = study.variants[variant]
        config.configuration, config.variant = name, variant
        if model and model in configuration.constructors(config.task):
            config.model = configuration.model_config(model)
        every[variant] = {path: option.type for path, option, _ in configuration.leaves(config)}
    known = {path: kind for fields in every.values() for path, kind in fields.items()}
    parsed, values = [], None
    for variant in chosen:
        config, applicable = study.variants[variant], _applicable(arguments, every[variant], known)
        config, values = configuration.parse_command_line(
            [module, *applicable], {name: lambda config=config: config}, FLAGS
        )
        parsed.append(config)
    configs = []
    for seed in seeds:  # a study that is stopped early can still compare all variants
        for config in parsed:
            again = configuration.from_dict(configuration.to_dict(config))
            again.seed = seed
            configuration.check(again)
            configs.append(again)
    return configs, values


def _usual(argument):
    """`--models` is another word for `--variants`, and `--config.seeds` for `--seeds`."""
    argument = re.sub(r"^--?models(?==|$)", "--variants", argument)
    return re.sub(r"^--?config[.]seeds(?==|$)", "--seeds", argument)


def _chosen(study, arguments):
    """(names of the variants to run, seeds), each once: the study's own, or what the flags say."""
    given = dict.fromkeys(("variants", "seeds"), "")
    rest = iter(arguments)
    for argument in rest:
        match = re.fullmatch(r"--?(variants|seeds)(?:=(.*))?", argument, re.DOTALL)
        if match:
            given[match[1]] = next(rest, "") if match[2] is None else match[2]
    variants = [
        variant.strip() for variant in given["variants"].split(",") if variant.strip()
    ] or list(study.variants)
    for variant in variants:
        if variant not in study.variants:
            known = configuration.nearest(variant, study.variants)
            raise InputError(
                f"--variants (or --models) names {variant!r}, which is none of this study: {known}."
            )
    if re.fullmatch(r"\s*(\d+\s*(,\s*\d+\s*)*)?", given["seeds"]) is None:
        raise InputError(f"--seeds takes whole numbers such as 0,1,2, not {given['seeds']!r}.")
    seeds = [int(seed) for seed in given["seeds"].split(",") if seed.strip()] or study.seeds
    return list(dict.fromkeys(variants)), list(dict.fromkeys(seeds))


def _applicable(arguments, fields, known):
    """The arguments without those that set fields which other variants have and this one hasn't."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        match = re.fullmatch(r"--?(no)?config[.]([^=]+)(=.*)?", argument, re.DOTALL)
        if match and match[2] == "seed":
            raise InputError(
                "--config.seed is set by --seeds in a study of several runs: use --seeds."
            )
        if match and match[2] not in known:
            raise InputError(
                f"--config.{match[2]} is no field of any variant:"
                f" {configuration.nearest_field(match[2], known)}."
            )
        if match and match[2] not in fields:
            if match[3] is None and not match[1] and known[match[2]] is not bool:
                next(rest, None)
            continue
        kept.append(argument)
    return kept


def _study_name(arguments, studies):
    """The value of `--config` (the last, or the first study), and the other arguments."""
    name, kept, rest = next(iter(studies)), [], iter(arguments)
    for argument in rest:
        match = re.fullmatch(r"--?config(?:=(.*))?", argument, re.DOTALL)
        if match:
            name = next(rest, "") if match[1] is None else match[1]
        else:
            kept.append(argument)
    if name not in studies and not (name.endswith(".json") or "/" in name):
        known = configuration.nearest(name, studies)
        raise InputError(
            f"--config {name} is neither a configuration nor the path of a recorded config.json:"
            f" {known}."
        )
    return name, kept


def _help(module, studies):
    made = {name: make() for name, make in studies.items()}
    lines = [
        f"usage: python -m {module} [--config NAME|config.json] [--config.FIELD=VALUE ...]",
        "",
        "configurations:",
    ]
    for name, make in studies.items():
        study = made[name]
        lines.append(f"  {name:<14} {next(iter((make.__doc__ or '').strip().splitlines()), '')}")
        lines.append(
            f"  {'':<14} variants {', '.join(study.variants)}; seeds"
            f" {', '.join(map(str, study.seeds))}"
        )
    first = next(iter(made.values()))
    shown, text = set(), ""
    for (
        variant,
        config,
    ) in first.variants.items():  # of each variant the fields that no variant before it has
        whole = configuration.help_text(
            module, {next(iter(made)): lambda config=config: config}, FLAGS
        )
        flags, fields = whole[whole.index("flags:") :].split("\n\n")
        text = text or f"\n\n{flags}"
        entries = re.findall(r"^  (\S+) .*\n      .*\n", fields, re.MULTILINE)
        blocks = re.findall(r"^  \S+ .*\n      .*\n?", fields, re.MULTILINE)
        new = [
            block
            for entry, block in zip(entries, blocks, strict=True)
            if entry not in shown and entry != "seed"
        ]
        if new:
            text += (
                f"\n\nfields of {variant} (defaults of {next(iter(made))!r}; set as"
                " --config.FIELD=VALUE):\n" + "".join(new)
            )
        shown.update(entries)
    return "\n".join(lines) + text.rstrip("\n") + "\n"
