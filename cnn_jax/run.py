"""A run from configuration to record, to be read from top to bottom; and the command around it."""

import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import Config
from cnn_jax.errors import InputError
from cnn_jax.runtime import compilation_cache, processes, streams

FLAGS = {
    "workdir": (
        "",
        (
            "folder of the run; one that holds an unfinished run resumes it (default: a new one in"
            " results/runs)"
        ),
    ),
    "distributed": processes.FLAG,
}


def main(
    module: str,
    configurations: Mapping[str, Callable[[], Config]],
    argv: Sequence[str] | None = None,
) -> int:
    """The command `python -m module`. Returns its exit code: 0, 2 for what the user can mend, 130
    and 143 after signals."""
    argv = list(sys.argv if argv is None else argv)
    if any(argument in ("-h", "--help", "--helpfull") for argument in argv[1:]):
        print(command_line.help_text(module, configurations, FLAGS), end="")
        return 0

    return guarded(lambda: once(module, configurations, argv))


def once(
    module: str, configurations: Mapping[str, Callable[[], Config]], argv: Sequence[str]
) -> None:
    """The run that a command line asks for."""
    config, values = command_line.parse_command_line(argv, configurations, FLAGS)
    processes.join(values["distributed"])
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = processes.broadcast(
        values["workdir"] or f"results/runs/{config.experiment}-{config.configuration}-{now}"
    )
    arguments = command_line.without_flag(argv[1:], "workdir")
    typed = shlex.join(["python", "-m", module, *arguments, "--workdir", str(workdir)])
    run(config, workdir, command=typed, keep_traced=True)


def guarded(command: Callable) -> int:
    """Runs a command; what the user can mend becomes one sentence and exit code 2, a signal its
    exit code."""
    from cnn_jax.runtime.preemption import Stopped

    compilation_cache.keep_programs()
    streams.replace_closed()
    try:
        try:
            command()
        except Stopped as stopped:
            processes.leave()
            return stopped.exit_code
        processes.leave()
        sys.stdout.flush()
    except InputError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        processes.fail("it was interrupted.")
        return 130
    except BrokenPipeError:
        streams.end_output()
        processes.fail("nobody reads what it prints any more.")
        return 128 + signal.SIGPIPE  # as other commands end then
    except OSError as error:
        streams.end_output()
        if error.filename is None and error.errno not in streams.LOST:
            processes.end_with(error)
            raise
        name = error.filename or "standard output, or a file,"
        return _refused(
            f"{name} can't be used ({error.strerror}): check the path, its permissions and the"
            " disk."
        )
    except Exception as error:
        processes.end_with(error)
        raise
    return 0


def _refused(sentence):
    processes.fail(sentence)
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def train_and_evaluate(config: Config, workdir: str | Path, command: str = "") -> dict[str, Any]:
    """Trains, evaluates and records; goes on where an earlier run in `workdir` stopped.

    Args:
        config: checked.
        workdir: the folder of the record.
        command: what to type to run or resume this, for the record; empty if this is called from
            other code, whose process a second Ctrl-C then leaves alive.

    Returns:
        The summary, as in summary.json.

    Raises:
        InputError: what the user can mend.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    import jax

    from cnn_jax import tasks
    from cnn_jax.configuration.documents import digest, identity
    from cnn_jax.configuration.schema import TrainingConfig
    from cnn_jax.data.scenes import SPLITS
    from cnn_jax.records import run_directory
    from cnn_jax.reporting import figures, table
    from cnn_jax.runtime.preemption import Stopped, StopRequest
    from cnn_jax.tasks.task import Session
    from cnn_jax.training.devices import Devices, accelerator_notice

    with (
        StopRequest(ends_process=bool(command)) as stop,
        run_directory.opened(workdir, config) as record,
    ):
        finished = processes.broadcast(record.summary)
        if finished is not None:
            print(f"{workdir} holds this run, finished:\n{table.summary_table(finished)}")
            return finished
        try:
            print(accelerator_notice())
            names = config.experiment, config.configuration, config.variant
            name, its_digest = " ".join(filter(None, names)), digest(config)
            print(f"{name}, seed {config.seed}, digest {its_digest}, in {record.workdir}")
            task = tasks.of(config.task)
            devices = Devices(getattr(config, "training", TrainingConfig).parallelism)
            if processes.several():
                stop = processes.AgreedStop(stop, devices)

            dataset = task.dataset(config)
            info = dataset.info
            learner = task.learner(config, info)
            ours = [its_digest, info.fingerprint]
            if ours != processes.broadcast(ours):
                raise InputError(
                    f"--distributed: this process (configuration, data: {ours}) has others than the"
                    " first; start all with the same."
                )
            record.begin(run_directory.environment(config, info.fingerprint, command), info)
            counts = ", ".join(f"{info.sizes[split]:,} {split}" for split in SPLITS)
            print(f"{info.source}: {counts}; classes: {_few(info.classes)}", flush=True)

            fitted = learner.fit(dataset, Session(record, stop, devices, its_digest))

            summary = {**identity(config), **fitted.figures}
            report = None
            for split in learner.evaluated:
                if info.sizes[split]:
                    print(f"evaluating {info.sizes[split]:,} of {split}", flush=True)
                    evaluator = dataset.evaluator(learner, split, devices)
                    report = evaluator.report(fitted.variables, stop.raise_if_set)
                    summary |= report.figures
            if processes.is_primary():
                lines, variables = record.metrics(), fitted.variables
                with run_directory.pictures_can_be_written(record.workdir / "figures"):
                    if lines:
                        figures.learning_curves(lines, record.figures / "learning_curves.png")
                    if info.sizes["test"]:
                        if processes.several():  # the others have no part in drawing
                            devices = Devices(alone=True)
                            variables = devices.copy(jax.device_get(variables))
                        evaluator = dataset.evaluator(learner, "test", devices)
                        evaluator.keep(record.workdir, report)
                        evaluator.draw(record.figures, lines, report, variables)
                record.finish(summary)
        except Stopped:
            print(f"\nstopped; to resume:\n  {command}", flush=True)
            raise
        summary = processes.broadcast(summary)
        print(
            f"\n{table.summary_table(summary)}\n\n{_cost(summary)}\nrecord and pictures: {workdir}"
        )
        return summary


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{len(names)}, {names[0]} to {names[-1]}"


def _cost(summary: Mapping[str, Any]) -> str:
    parts = [f"{summary['wall_time_s']:.0f} s"]
    if "parameters" in summary:
        parts.insert(0, f"{summary['parameters']:,} parameters")
    speed, waiting = (
        summary.get(f"train/{name}") for name in ("images_per_second", "data_wait_fraction")
    )
    if speed is not None:
        parts.append(f"{speed:.1f} training images/s")
        parts.append(f"{waiting:.2%} of the time waiting for data")
    return ", ".join(parts)
