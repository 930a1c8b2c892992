"""A finished run, evaluated again.

    python -m experiments.evaluate --run DIR [--split test] [--directory DATA]

Rebuilds the model from the run's own `config.json`, restores the checkpoint that its figures are of, and counts every example of
the split once more. Says whether the figures are those recorded.
"""

import argparse
import sys
from pathlib import Path

from cnn_jax import configuration, run
from cnn_jax.errors import InputError


def evaluate(folder, split: str, directory: str | None = None) -> dict:
    """The figures of a split, keyed as in `summary.json`.

    Args:
        folder: the `--workdir` of a finished run.
        split: "train", "validation" or "test".
        directory: where the data lie, if no longer where the configuration says.

    Raises:
        InputError: no finished run, no checkpoint, an empty split, or data other than the run's.
    """
    import jax

    from cnn_jax import tasks
    from cnn_jax.reporting import records
    from cnn_jax.training.checkpoints import Checkpoints
    from cnn_jax.training.devices import Devices, accelerator_notice
    from cnn_jax.training.preemption import StopRequest

    config, environment, summary = records.read_run(folder)
    if config.task == "classic":
        raise InputError(f"{folder} is of a classic method, which keeps no weights; run its config.json again.")
    if directory:
        config.data.directory = directory
    if configuration.digest(config) != environment.get("digest"):
        raise InputError(
            f"{folder}/config.json is not what the run was made with: its digest differs from environment.json; restore it."
        )
    print(accelerator_notice())
    task_class = tasks.of(config)
    data = task_class.open(config)
    if data.fingerprint != environment.get("data_fingerprint"):
        raise InputError(
            f"the data in {config.data.directory or config.data.source} are not those of the run in {folder} (fingerprint "
            f"{data.fingerprint}, recorded {environment.get('data_fingerprint')}); give the right folder with --directory."
        )
    if not len(data.splits[split]):
        raise InputError(f"--split {split} is empty in this data set; choose another.")
    devices = Devices()
    task = task_class(config, data)
    folder_of_checkpoints = Path(folder) / "checkpoints"
    if not folder_of_checkpoints.is_dir():
        raise InputError(f"{folder_of_checkpoints} is missing: only the record of this run is here; run its config.json again.")
    checkpoints = Checkpoints(folder_of_checkpoints, keep=config.training.keep_checkpoints, best=task.headline)
    step = summary.get("evaluated_step")
    if step not in checkpoints.steps:
        raise InputError(
            f"{folder_of_checkpoints} has no checkpoint of step {step}, which the figures are of; run config.json again."
        )
    state, _, _ = checkpoints.restore(jax.device_put(task.initial_state(), devices.whole), step)
    checkpoints.close()
    with StopRequest() as stop:
        return task.summary(task.evaluator(split, devices), state.evaluated, split, stop.raise_if_set)[0]


def compared(figures: dict, recorded: dict) -> str:
    """Whether figures are those recorded, in one sentence."""
    shared = [key for key in figures if key in recorded]
    if not shared:
        return "The run's record has no figures of this split."
    different = [key for key in shared if figures[key] != recorded[key]]
    if not different:
        return f"All {len(shared)} figures equal the record."
    gaps = {
        k: abs(figures[k] - recorded[k]) for k in different if isinstance(figures[k], float) and isinstance(recorded[k], float)
    }
    worst = max(gaps, key=gaps.get, default=different[0])
    return f"{len(different)} of {len(shared)} figures differ from the record, most of all {worst}: {figures[worst]}, {recorded[worst]}."


def main(argv=None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="the --workdir of a finished run")
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"), help="default: test")
    parser.add_argument("--directory", help="where the data lie, if no longer where the configuration says")
    arguments = parser.parse_args(argv)

    def command():
        from cnn_jax.reporting import records, table

        figures = evaluate(arguments.run, arguments.split, arguments.directory)
        print(table.summary_table(figures))
        print(compared(figures, records.read_run(arguments.run)[2]))

    return run.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
