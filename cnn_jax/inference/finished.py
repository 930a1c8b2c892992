"""A finished run, opened again: its configuration, its data, and the network that its figures are
of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cnn_jax import configuration
from cnn_jax.configuration import Config
from cnn_jax.errors import InputError


@dataclass(frozen=True)
class FinishedRun:
    """What `open_run` restores.

    Attributes:
        folder: the `--workdir`.
        config: as recorded, but for where the data lie.
        task: made from it and the data.
        devices: that batches are placed on.
        variables: of the checkpoint that the figures are of, with averaged weights if it evaluated
            these.
        summary: the recorded figures.
    """

    folder: Path
    config: Config
    task: object
    devices: object
    variables: Mapping
    summary: Mapping


def open_run(folder, split: str, directory: str | None = None) -> FinishedRun:
    """Rebuilds a run's model from its own `config.json`, and restores the checkpoint that its
    figures are of.

    Args:
        folder: the `--workdir` of a finished run.
        split: "train", "validation" or "test": which the run is opened for.
        directory: where the data lie, if no longer where the configuration says.

    Raises:
        InputError: no finished run, no checkpoint, an empty split, or data other than the run's.
    """
    import jax

    from cnn_jax import tasks
    from cnn_jax.records import run_directory as records
    from cnn_jax.training.checkpoints import Checkpoints
    from cnn_jax.training.devices import Devices, accelerator_notice
    from cnn_jax.training.state import create

    config, environment, summary = records.read_run(folder)
    if config.task == "classic":
        raise InputError(
            f"{folder} is of a classic method, which keeps no weights; run its config.json again."
        )
    if directory:
        config.data.directory = directory
    if configuration.digest(config) != environment.get("digest"):
        raise InputError(
            f"{folder}/config.json is not what the run was made with: its digest differs from"
            " environment.json; restore it."
        )
    folder_of_checkpoints = Path(folder) / "checkpoints"
    if not folder_of_checkpoints.is_dir():  # told before the data are looked for
        raise InputError(
            f"{folder_of_checkpoints} is missing: only the record of this run is here; run its"
            " config.json again."
        )
    print(accelerator_notice())
    task_class = tasks.of(config)
    data = task_class.open(config)
    if data.fingerprint != environment.get("data_fingerprint"):
        raise InputError(
            f"the data in {config.data.directory or config.data.source} are not those of the run in"
            f" {folder} (fingerprint {data.fingerprint}, recorded"
            f" {environment.get('data_fingerprint')}); give the right folder with --directory."
        )
    if not len(data.splits[split]):
        raise InputError(f"--split {split} is empty in this data set; choose another.")
    devices = Devices()
    task = task_class(config, data)
    checkpoints = Checkpoints(
        folder_of_checkpoints,
        keep=config.training.keep_checkpoints,
        best=task.headline,
        digest=configuration.digest(config),
    )
    step = summary.get("evaluated_step")
    if step not in checkpoints.steps:
        raise InputError(
            f"{folder_of_checkpoints} has no checkpoint of step {step}, which the figures are of;"
            " run config.json again."
        )
    averaged = config.optimizer.ema_decay > 0
    like = jax.eval_shape(
        lambda: create(
            task.model(), task.optimizer, config.seed, task.example_px, averaged=averaged
        )
    )
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.replicated), like
    )
    state, _, _ = checkpoints.restore(like, step)
    checkpoints.close()
    return FinishedRun(Path(folder), config, task, devices, state.evaluated, summary)
