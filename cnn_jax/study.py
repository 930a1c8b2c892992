"""A study: runs that are compared, the same experiment in several variants, each with several
seeds; and the command around it.

Every run is a run like any other, with its own folder and record. A study that was interrupted goes
on where it stopped: finished runs are shown, the others begun or resumed.
"""

import contextlib
import copy
import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cnn_jax import run, tasks
from cnn_jax.configuration import command_line, documents, schema
from cnn_jax.configuration.schema import Config, nearest, setting
from cnn_jax.errors import InputError
from cnn_jax.runtime import memory, processes

FOLDS = "folds.md"
"""What holds from fold to fold, beside the folders of a study's folds."""

FIXED = (*schema.FIXED, "seed")
"""Fields that have no flag: a study's seeds are given by --seeds."""


@dataclass
class Flags:
    """What a study is told beside the fields of its variants."""

    config: str = setting(
        "", "a study's name, or the path of a run's own config.json; empty: the first", path=True
    )
    workdir: str = setting(
        "",
        "folder of the study, with a folder a run; one that holds an unfinished study resumes it",
        path=True,
    )
    variants: tuple[str, ...] = setting((), "run only these, such as mlp cnn; empty: all")
    seeds: tuple[int, ...] = setting(
        (), "run these seeds, such as 0 1 2; empty: the study's own", at_least=0
    )
    folds: int = setting(
        0,
        "deal all groups into so many parts, run the study with each as the test, in a folder of"
        " its own, and say what holds from one to the next; 0: the splits of the data",
        at_least=0,
    )
    plan: bool = setting(
        False,
        "run nothing: say how many seeds a difference takes, from the records in the workdir, or in"
        " the experiment's folder in results/ where none is given",
    )
    difference: float = setting(
        0.02, "that the plan is to tell, in the leading score", at_least=1e-4
    )
    distributed: str = setting(*processes.FLAG)
    model: run.ModelName = setting(run.ModelName, "an architecture and its options")


@dataclass(frozen=True)
class Study:
    """Configurations to compare, and the seeds to run each with.

    `variants` maps a name to a configuration; whatever differs between two of them is what the
    study is about. `groups` are titles of what is tested against what, each with names of variants;
    empty: all variants are one group. `begins` names, for a variant, the one whose run of the same
    seed its network goes on from; "" for one that draws its weights, whatever --initial says.
    """

    variants: Mapping[str, Config]
    seeds: tuple[int, ...] = (0,)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    begins: Mapping[str, str] = field(default_factory=dict)


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
    with run.guarded() as outcome:
        argv = sys.argv[1:] if argv is None else list(argv)
        (flags,), _ = command_line.parse(argv, Flags())
        seen = _records_so_far(studies, flags) if flags.plan else []
        name = flags.config or _study_of(studies, seen)
        if name not in studies and (name.endswith(".json") or "/" in name):
            run.train_and_evaluate(*run.from_command_line(module, {}, argv))
        else:
            study, configs = _configured(module, studies, name, argv, flags)
            if flags.plan:
                seen = [record for record in seen if _asked_for(record.config, flags)]
                print(_plan(study.groups, seen, configs[0], flags.difference))
            else:
                _run_study(module, study, configs, argv, flags, pictures)
    return outcome.exit_code


def _run_study(module, study, configs, argv, flags, pictures):
    """Runs the configurations, or with --folds their copies for each fold, a folder each."""
    from cnn_jax.records import files, run_record

    folds = [_of_fold(configs, flags.folds, fold) for fold in range(flags.folds)]
    processes.join(flags.distributed)
    workdir = flags.workdir or run.new_workdir(
        f"{configs[0].experiment}-{configs[0].configuration}"
    )
    folder = Path(processes.broadcast(workdir))
    command = run.resuming(module, argv, str(folder))
    places = [folder / f"fold{fold}" for fold in range(flags.folds)] or [folder]
    try:
        if folds:
            files.check_page(folder / FOLDS, r"# \d+ variants?, \d+ folds\n", "--workdir")
        for place in places if study.groups else ():
            files.check_ours(place / run_record.STUDY, "groups", flag="--workdir")
        parts = [
            (_with_initial(part, study.begins, place), place)
            for part, place in zip(folds or [configs], places, strict=True)
        ]
        _check_runs(parts, study)
        for part, place in parts:
            if folds:
                print(f"\n{place.name} of {len(folds)} folds", flush=True)
            _run_place(part, study, place, command, pictures)
    finally:  # a study whose first run could not begin leaves no folder behind
        for place in (*places, folder):
            with contextlib.suppress(OSError):
                place.rmdir()
    if folds and processes.is_primary():
        _write_folds(folder, places, list(study.variants))


def _with_initial(configs, begins, workdir):
    """The configurations, each with the weights that its variant begins with."""
    begun = []
    for config in configs:
        if config.variant in begins:
            before = begins[config.variant]
            folder = workdir / folder_name(dataclasses.replace(config, variant=before))
            planned = any((c.variant, c.seed) == (before, config.seed) for c in begun)
            if before and not planned and not (folder / "summary.json").is_file():
                raise InputError(
                    f"{config.variant} goes on from {before}, of which {folder} holds no finished"
                    " run: name it in --variants too, before the other."
                )
            config = dataclasses.replace(config, initial=str(folder) if before else "")
            if not before:
                config = dataclasses.replace(config, initial_part="auto")
        elif begins and not config.initial:
            raise InputError(
                f"--initial is missing: give the run or file whose weights {config.variant} begins"
                " with."
            )
        begun.append(config)
    return begun


def _check_runs(parts, study):
    """Refuses, before the first run, what would come to light hours later: runs in the folder that
    those to come don't go with, and given weights that don't fit a later variant."""
    first, *others = study.variants.values()
    own = {each.split(":")[0] for one in others for each in documents.differences(first, one)}
    to_do = [c for configs, place in parts for c in _check_place(configs, place, study, own)]
    for variant, config in {config.variant: config for config in to_do}.items():
        if variant != to_do[0].variant and not study.begins.get(variant):
            run.check_initial(config)


def _check_place(configs, place, study, own):
    """Refuses a run, or another seed of a variant, that was begun otherwise, and finished runs that
    have a seed twice, or that those to come can't be compared with: `own` are the fields in which
    variants may differ. Returns the configurations that aren't finished."""
    from cnn_jax.records import run_directory, run_record

    planned = {place / folder_name(config): config for config in configs}
    finished = {path.parent for path in place.glob("*/summary.json")}
    to_do = {folder: config for folder, config in planned.items() if folder not in finished}
    variants = {config.variant: config for config in to_do.values()}
    seeds = {(config.variant, config.seed): folder for folder, config in to_do.items()}
    for folder in sorted({*finished, *filter(run_directory.begun, planned)}):
        held = run_record.read_origin(folder)
        variant, seed = held[0].get("variant"), held[0].get("seed")
        if config := planned.get(folder, variants.get(variant)):
            _check_alike(folder, held, config)
        if folder not in finished or (not study.groups and variant not in study.variants):
            continue
        if (other := seeds.setdefault((variant, seed), folder)) != folder:
            raise InputError(
                f"{other} and {folder} would both be {variant} with seed {seed}: move one of them"
                f" out of {place}."
            )
        if to_do:  # the first stands for all, which differ in their own fields alone
            _check_comparable(folder, held, next(iter(to_do.values())), own)
    return list(to_do.values())


def _check_alike(folder, held, config):
    """Refuses a run of the same variant that differs in more than its seed; given weights bring
    options and normalisation along, and a finished run may be of another study by its name."""
    free = ("seed", "initial", *(("model.", "data.") if getattr(config, "initial", "") else ()))
    free += ("configuration:",) if (folder / "summary.json").is_file() else ()
    found = [each for each in _differences(held, config) if not each.startswith(free)]
    _refuse(f"{folder} is {config.variant} of another configuration", found)


def _check_comparable(folder, held, config, own):
    """Refuses a finished run that another can't be compared with, but for the fields in which the
    study's own variants differ."""
    from cnn_jax.reporting.comparison import is_shared

    by_field = {each.split(":")[0]: each for each in _differences(held, config)}
    found = [each for field, each in by_field.items() if is_shared(field) and field not in own]
    _refuse(f"{folder} can't be compared with {config.variant}", found)


def _differences(held, config):
    from cnn_jax.records import formats, run_directory

    return formats.differences(held, run_directory.origin(config))


def _refuse(said, differences):
    if differences:
        raise InputError(
            f"{said} (there, here): {'; '.join(differences)}; give another --workdir, or the same"
            " values."
        )


def folder_name(config: Config) -> str:
    """What the folder of a run is called within its study's."""
    return f"{config.variant}-seed{config.seed}"


def finished(workdir: Path, variants: Sequence[str]) -> list:
    """The records of all finished runs of a study, whatever command made them, in the order of its
    variants and then of seeds."""
    from cnn_jax.records.run_record import read

    folders = sorted(path.parent for path in workdir.glob("*/summary.json"))
    records = [read(folder) for folder in folders]
    known = [record for record in records if record.config.get("variant") in variants]
    return sorted(
        known, key=lambda record: (variants.index(record.config["variant"]), record.config["seed"])
    )


def _run_place(configs, study, workdir, command, pictures):
    from cnn_jax.records import run_record
    from cnn_jax.records.files import pictures_can_be_written, write_object
    from cnn_jax.reporting import table

    for number, config in enumerate(configs, 1):
        print(f"\nrun {number} of {len(configs)}: {config.variant}, seed {config.seed}", flush=True)
        run.train_and_evaluate(config, workdir / folder_name(config), command, study=workdir)
        if study.groups and processes.is_primary():  # comparisons know them from here
            write_object(workdir / run_record.STUDY, {"groups": study.groups})
    if not processes.is_primary():
        return
    found = finished(workdir, list(study.variants))
    print(f"\n{table.variants_table(found)}")
    if pictures is not None:
        with pictures_can_be_written(workdir / "figures"):
            (workdir / "figures").mkdir(exist_ok=True)
            pictures(workdir / "figures", found)
    print(f"\nrecords and pictures: {workdir}")


def _of_fold(configs, folds, fold):
    """The configurations, with one of so many parts of the data as their test."""
    dealt = []
    for config in configs:
        if not hasattr(config.data, "folds"):
            raise InputError(
                f"--folds is of data whose groups are dealt, and {config.task} has none."
            )
        if config.data.folds or config.data.fold:
            raise InputError("--folds sets data.folds and data.fold: leave these out.")
        data = dataclasses.replace(config.data, folds=folds, fold=fold)
        dealt.append(dataclasses.replace(config, data=data))
        tasks.check(dealt[-1])
    return dealt


def _write_folds(workdir, places, variants):
    """The page on the studies of all folds together."""
    from cnn_jax.records.files import write_text
    from cnn_jax.reporting import folds

    text = folds.report({f"fold {n}": finished(p, variants) for n, p in enumerate(places)})
    write_text(workdir / FOLDS, text)
    print(f"\n{text}\n{workdir / FOLDS}")


def _records_so_far(studies, flags):
    """The records that a plan is made from."""
    from cnn_jax.records.run_record import records_in

    study = next(iter(studies.values()))()
    folder = Path(flags.workdir or Path("results", next(iter(study.variants.values())).experiment))
    if not folder.is_dir():
        raise InputError(
            f"{folder} has no records to plan from: give the folder of some with --workdir."
        )
    return records_in([folder], unfinished=True)


def _asked_for(config, flags):
    """Whether --variants and --seeds, where they are given, name a recorded run."""
    return (not flags.variants or config.get("variant") in flags.variants) and (
        not flags.seeds or config.get("seed") in flags.seeds
    )


def _study_of(studies, records):
    """The name of the study that most of the records are of; the first where they don't say."""
    names = Counter(record.config.get("configuration") for record in records)
    return max(studies, key=lambda name: names[name])


def _plan(groups, records, config, difference):
    """What the records so far say of how many seeds and steps it takes."""
    from cnn_jax.reporting import comparison, plan

    compared = comparison.compare(records, groups=groups or None, force=True)
    if compared.differences:
        raise InputError(
            f"these records can't be compared: {'; '.join(compared.differences)}; choose those that"
            " can with --variants and --seeds, or give another --workdir."
        )
    steps = config.training.steps if hasattr(config, "training") else 0
    said = plan.text(compared, difference, steps)
    sources = {record.source for record in records} - {config.data.source}
    if sources:
        said += (
            f"\n\nThe study is of {config.data.source}, and these records are of"
            f" {', '.join(sorted(sources))}: what is said holds for those."
        )
    return said


def _configured(module, studies, name, argv, flags):
    """The study, and the configurations of all runs asked for, with what the command line
    changes."""
    if name not in studies:
        raise InputError(
            f"--config {name} is neither a study nor the path of a recorded config.json:"
            f" {nearest(name, studies)}."
        )
    study = studies[name]()
    for variant in flags.variants:
        if variant not in study.variants:
            raise InputError(
                f"--variants names {variant!r}, which is none of this study:"
                f" {nearest(variant, study.variants)}."
            )
    schema.check_fields(flags, "--")
    if flags.difference != Flags.difference and not flags.plan:
        raise InputError("--difference is of --plan: give that too.")
    chosen = list(dict.fromkeys(flags.variants or study.variants))
    bases = []
    for variant in chosen:
        config = tasks.with_model(study.variants[variant], flags.model.name)
        bases.append(dataclasses.replace(config, configuration=name, variant=variant))
    if command_line.asks_for_help(argv):  # of all variants' fields, with the first's defaults
        prog, trees = command_line.program(module), (Flags(), *reversed(bases))
        command_line.parse(argv, *trees, prog=prog, description=_about(studies), fixed=FIXED)
    if flags.model.name and len({study.variants[name].model.name for name in chosen}) > 1:
        raise InputError(
            f"--model.name {flags.model.name} would be the network of {', '.join(chosen)} alike, of"
            " which each stands for its own: name one of them with --variants."
        )
    configs, unknown = [], argv
    for base in bases:
        (_, config), words = command_line.parse(argv, Flags(), base, fixed=FIXED)
        unknown = [word for word in unknown if word in words]
        configs.append(config)
    command_line.refuse_unknown(unknown, Flags(), *bases, fixed=FIXED)
    # Seeds come first: a study that is stopped early can still compare all variants.
    seeds = dict.fromkeys(flags.seeds or study.seeds)
    runs = [
        dataclasses.replace(copy.deepcopy(config), seed=seed)
        for seed in seeds
        for config in configs
    ]
    if not flags.folds:  # else they are whole once the folds are dealt
        for config in runs:
            tasks.check(config)
    return study, runs


def _about(studies):
    """What `--help` says of a study."""
    lines = ["Train, evaluate and compare variants, each with several seeds.", "", "studies:"]
    for name, make in studies.items():
        study = make()
        seeds = ", ".join(map(str, study.seeds))
        lines.append(f"  {name}: {command_line.summary(make)}")
        lines.append(f"    variants {', '.join(study.variants)}; seeds {seeds}")
    return "\n".join(lines)
