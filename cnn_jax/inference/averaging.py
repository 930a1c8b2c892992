"""Networks averaged weight by weight: those of several runs (a soup), or of one run's checkpoints.

Wortsman et al. (2022) average runs that were fine-tuned from the same weights; Izmailov et al.
(2018) checkpoints of one run, and estimate BatchNorm's statistics anew. Networks trained from
different initial weights don't average to anything.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.configuration.documents import digest, identity
from cnn_jax.data.pipeline import training_batches
from cnn_jax.errors import InputError
from cnn_jax.inference.predictor import Run, of_checkpoint
from cnn_jax.layers.normalization import keeping_statistics
from cnn_jax.records import run_directory, weights
from cnn_jax.tasks.network import abstract_variables, head
from cnn_jax.tasks.task import Dataset
from cnn_jax.training.groups import make_groups
from cnn_jax.training.step import example_keys


def averaged(members: Sequence[Any], shares: Sequence[float] = ()) -> Any:
    """The weighted mean of variables of one structure, added up in float64.

    Args:
        members: trees of arrays.
        shares: what each weighs, divided by their sum; empty: all the same.
    """
    weighed = np.asarray(shares or [1.0] * len(members), np.float64)
    weighed /= weighed.sum()

    def mean(*leaves):
        total = sum(
            share * np.asarray(leaf, np.float64)
            for share, leaf in zip(weighed, leaves, strict=True)
        )
        return np.asarray(total).astype(np.asarray(leaves[0]).dtype)

    return jax.tree.map(mean, *map(jax.device_get, members))


def check_alike(runs: Sequence[Run]) -> None:
    """Raises InputError where runs have other networks, classes, images or data than the first."""
    first = runs[0]
    for other in runs[1:]:
        for name, ours, theirs in (
            ("model", first.config.model, other.config.model),
            ("classes", first.info.classes, other.info.classes),
            ("mean", first.info.mean, other.info.mean),
            ("std", first.info.std, other.info.std),
            ("data", first.info.fingerprint, other.info.fingerprint),
            ("image size", first.info.image_px, other.info.image_px),
        ):
            if ours != theirs:
                raise InputError(
                    f"{first.folder} and {other.folder} differ in {name}: average runs that differ"
                    " in their training alone."
                )


def of_checkpoints(run: Run, decay: float = 1.0) -> tuple[Any, list[int]]:
    """(the mean of a run's checkpoints, their steps), each weighing `decay` times what the next
    does.

    Raises:
        InputError: there is only one, or none.
    """
    folder = run.folder / "checkpoints"
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
    if len(steps) < 2:
        raise InputError(
            f"{run.folder} has {len(steps)} checkpoint{'' if len(steps) == 1 else 's'}: give"
            " several runs, or one that was trained with a greater training.keep_checkpoints."
        )
    like = abstract_variables(run.learner)
    members = [
        jax.device_get(
            of_checkpoint(
                folder / str(step),
                run.config,
                run.learner.monitor,
                run.digest,
                like,
                run.devices,
            )
        )
        for step in steps
    ]
    return averaged(members, [decay ** (len(steps) - 1 - k) for k in range(len(steps))]), steps


def frozen_norms(runs: Sequence[Run]) -> frozenset[tuple[str, ...]]:
    """The BatchNorms, by path, that all runs froze: the rest was trained around the statistics that
    they have."""
    return frozenset.intersection(
        *(
            make_groups(
                run.config.optimizer, abstract_variables(run.learner), head(run.learner)
            ).frozen_norms
            for run in runs
        )
    )


def with_new_statistics(
    run: Run,
    variables: Any,
    dataset: Dataset,
    batches: int,
    frozen: frozenset[tuple[str, ...]] = frozenset(),
) -> Any:
    """Variables whose BatchNorm statistics are the mean over so many training batches, seen by
    these weights; as they are where the network has no BatchNorm, and of `frozen_norms`."""
    if "batch_stats" not in variables or not batches:
        return variables
    learner, config = run.learner, run.config
    module = learner.module()
    read = training_batches(
        dataset.training_source(learner), seed=config.seed, batch_size=config.training.batch_size
    )

    def kept(path):
        return tuple(step.key for step in path[:-1]) in frozen

    @jax.jit
    def seen(variables, examples, key):
        keys = example_keys(config.seed, examples["position"])
        inputs, _ = learner.prepare(keys, examples)
        # From zero, one step of the moving average is a known share of the batch's own.
        empty = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if kept(path) else leaf * 0, variables["batch_stats"]
        )
        with keeping_statistics(frozen):
            _, new = module.apply(
                variables | {"batch_stats": empty},
                inputs,
                train=True,
                mutable=["batch_stats", "auxiliary"],
                rngs={"dropout": key},
            )
        return new["batch_stats"]

    total: Any = None
    for number in range(batches):
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        found = jax.device_get(seen(variables, read[number], key))
        total = found if total is None else jax.tree.map(np.add, total, found)
    share = 0.1  # 1 less the momentum of `layers.normalization`
    statistics = jax.tree_util.tree_map_with_path(
        lambda path, before, leaf: (
            before if kept(path) else (leaf / (batches * share)).astype(leaf.dtype)
        ),
        variables["batch_stats"],
        total,
    )
    return variables | {"batch_stats": statistics}


@contextlib.contextmanager
def directory(run: Run, folder: str | Path) -> Iterator[run_directory.RunDirectory]:
    """The folder of an averaged run, held.

    Args:
        run: the first of those averaged, whose configuration the record has.
        folder: new or empty.

    Raises:
        InputError: the folder can't be used.
    """
    config = copy.deepcopy(run.config)
    config.variant = f"{config.variant or config.configuration}-average"
    with run_directory.RunDirectory(folder, config, flag="--output") as record:
        if record.summary is not None:
            raise InputError(f"{folder} holds a finished run: give another --output.")
        yield record


def write_run(
    run: Run,
    variables: Any,
    dataset: Dataset,
    folder: str | Path,
    *,
    members: Sequence[dict[str, Any]],
    command: str = "",
) -> dict[str, Any]:
    """Evaluates averaged weights and writes them as a run: record, figures and
    `weights.safetensors`.

    Args:
        run: the first of those averaged, whose configuration the record has.
        variables: averaged.
        dataset: of the run.
        folder: new or empty.
        members: what was averaged, for the record.
        command: what was typed.

    Returns:
        The summary.

    Raises:
        InputError: the folder can't be used.
    """
    info = dataclasses.replace(run.info)
    with directory(run, folder) as record:
        config = record.config
        environment = run_directory.environment(config, info.fingerprint, command)
        record.begin(environment | {"averaged": list(members)}, info)
        kept = ("parameters", "steps", "evaluated_step", "multiply_adds")
        summary = {
            **identity(config),
            **{name: run.summary[name] for name in kept if name in run.summary},
        }
        placed, report = run.devices.copy(variables), None
        for split in run.learner.evaluated:
            if info.sizes[split]:
                report = dataset.evaluator(run.learner, split, run.devices).report(
                    placed, lambda: None
                )
                summary |= report.figures
        if report is not None and info.sizes["test"]:
            dataset.evaluator(run.learner, "test", run.devices).keep(record, report)
        weights.write(
            record.workdir / weights.NAME,
            variables,
            digest=digest(config),
            step=summary["evaluated_step"],
        )
        record.finish(summary)
    return summary
