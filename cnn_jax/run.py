"""A run from configuration to record, to be read from top to bottom; and the command around it."""

import contextlib
import io
import itertools
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cnn_jax import tasks
from cnn_jax.configuration import command_line, schema
from cnn_jax.configuration.schema import Config, setting
from cnn_jax.errors import InputError
from cnn_jax.runtime import backend, compilation_cache, memory, processes, streams


@dataclass
class ModelName:
    """Another architecture, which brings its own options."""

    name: str = setting("", "the architecture or method")


@dataclass
class Flags:
    """What a run is told beside the fields of its configuration."""

    config: str = setting(
        "",
        "a configuration's name, or the path of a recorded config.json; empty: the first",
        path=True,
    )
    workdir: str = setting(
        "",
        "folder of the run; one that holds an unfinished run resumes it; empty: a new one in"
        " results/runs",
        path=True,
    )
    distributed: str = setting(*processes.FLAG)
    model: ModelName = setting(ModelName, "an architecture and its options")


@dataclass
class Outcome:
    """How a command ended: 0, 2 for what the user can mend, 130 and 143 after signals."""

    exit_code: int = 0


def main(
    module: str,
    configurations: Mapping[str, Callable[[], Config]],
    argv: Sequence[str] | None = None,
) -> int:
    """The command `python -m module`. Returns its exit code: 0, 2 for what the user can mend, 130
    and 143 after signals."""
    if argv is None:
        memory.keep()
    with guarded() as outcome:
        train_and_evaluate(*from_command_line(module, configurations, argv))
    return outcome.exit_code


def from_command_line(
    module: str,
    configurations: Mapping[str, Callable[[], Config]],
    argv: Sequence[str] | None = None,
) -> tuple[Config, str, str]:
    """What a command line asks for: the checked configuration, the folder of the run, and what to
    type to resume it. Joins the other processes of the run."""
    argv = sys.argv[1:] if argv is None else list(argv)
    config, flags = configured(module, configurations, argv)
    processes.join(flags.distributed)
    workdir = flags.workdir or new_workdir(f"{config.experiment}-{config.configuration}")
    workdir = processes.broadcast(workdir)
    return config, workdir, resuming(module, argv, workdir)


def new_workdir(name: str) -> str:
    """Makes results/runs/NAME-TIMESTAMP and returns its path. Whoever makes a folder has it alone:
    commands that are started in the same second get folders with a number behind.

    Raises:
        InputError: it can't be made.
    """
    stem = f"results/runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if not processes.is_primary():
        return stem  # the first process says which
    for number in itertools.count(1):
        path = Path(stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(
                f"{path} can't be made ({error.strerror}); give another folder with --workdir."
            ) from error
    return str(path)


def configured(
    module: str, configurations: Mapping[str, Callable[[], Config]], argv: Sequence[str]
) -> tuple[Config, Flags]:
    """The checked configuration that a command line asks for, and its other flags.

    Raises:
        InputError: an unknown flag, field or configuration, or a value that can't be used.
        SystemExit: help or completion was asked for, and is printed.
    """
    (flags,), _ = command_line.parse(argv, Flags())
    if not configurations and not flags.config and command_line.asks_for_help(argv):
        about = "Run a recorded config.json again. With --config, --help lists its fields too."
        command_line.parse(argv, flags, prog=command_line.program(module), description=about)
    config = tasks.named_config(flags.config, configurations)
    config = tasks.with_model(config, flags.model.name)
    known = command_line.listed(configurations)
    (flags, config), unknown = command_line.parse(
        argv,
        flags,
        config,
        prog=command_line.program(module),
        description=f"Train, evaluate and record.\n\nconfigurations:\n{known}",
        fixed=schema.FIXED,
    )
    command_line.refuse_unknown(unknown, flags, config)
    tasks.check(config)
    return config, flags


def resuming(module: str, argv: Sequence[str], workdir: str) -> str:
    """What to type for the same command in the same folder."""
    rest = command_line.without_flag(argv, "workdir")
    return command_line.typed(module, [*rest, "--workdir", workdir])


@contextlib.contextmanager
def guarded() -> Iterator[Outcome]:
    """Around a command: what the user can mend becomes one sentence and exit code 2, and a signal
    its exit code."""
    from cnn_jax.runtime.preemption import Stopped

    compilation_cache.keep_programs()
    streams.replace_closed()
    outcome = Outcome()
    try:
        try:
            yield outcome
        except Stopped as stopped:
            outcome.exit_code = stopped.exit_code
        finally:
            compilation_cache.sign_programs()
        processes.leave()
        sys.stdout.flush()
    except SystemExit as ended:  # help and completion are printed
        outcome.exit_code = int(ended.code or 0)
    except InputError as error:
        outcome.exit_code = _refused(str(error))
    except KeyboardInterrupt:
        processes.fail("it was interrupted.")
        outcome.exit_code = 130
    except BrokenPipeError:
        streams.end_output()
        processes.fail("nobody reads what it prints any more.")
        outcome.exit_code = 128 + signal.SIGPIPE  # as other commands end then
    except OSError as error:
        streams.end_output()
        if error.filename is None and error.errno not in streams.LOST:
            processes.end_with(error)
            raise
        name = error.filename or "standard output, or a file,"
        outcome.exit_code = _refused(
            f"{name} can't be used ({error.strerror}): check the path, its permissions and the"
            " disk."
        )
    except Exception as error:
        if _out_of_memory(error):
            first = (str(error).splitlines() or [""])[0][:200]
            outcome.exit_code = _refused(
                f"there is no memory left ({first or type(error).__name__}): make batches, crops"
                " or the network smaller, or raise the limit (ulimit -v)."
            )
            return
        processes.end_with(error)
        raise


def _out_of_memory(error):
    """Whether Python, the system's threads or XLA were refused memory."""
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't start new thread" in said or "RESOURCE_EXHAUSTED" in said)
    )


def _refused(sentence):
    processes.fail(sentence)
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def check_initial(config: Config) -> None:
    """Refuses what `train_and_evaluate` would of the weights that a run begins with, and trains
    nothing.

    Args:
        config: checked.

    Raises:
        InputError: they can't be read, or don't fit the network.
    """
    from cnn_jax.inference import initial
    from cnn_jax.tasks import network

    with contextlib.redirect_stdout(io.StringIO()):  # the run itself tells what it takes over
        config, given = initial.opened(config)
        if given is not None:
            task = tasks.of(config.task)
            learner: Any = task.learner(config, task.dataset(config).info)
            network.check_initial(learner, given)


def train_and_evaluate(
    config: Config, workdir: str | Path, command: str = "", study: Path | None = None
) -> dict[str, Any]:
    """Trains, evaluates and records; goes on where an earlier run in `workdir` stopped.

    Args:
        config: of any task.
        workdir: the folder of the record.
        command: what to type to run or resume this, for the record; empty if this is called from
            other code, whose process a second Ctrl-C then leaves alive.
        study: the folder of the study that the run belongs to, if any.

    Returns:
        The summary, as in summary.json.

    Raises:
        InputError: what the user can mend.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    import jax

    from cnn_jax.configuration.documents import digest, identity
    from cnn_jax.configuration.schema import TrainingConfig
    from cnn_jax.data.scenes import SPLITS
    from cnn_jax.records import run_directory
    from cnn_jax.records.files import pictures_can_be_written
    from cnn_jax.reporting import figures, table
    from cnn_jax.runtime.preemption import Stopped, StopRequest
    from cnn_jax.tasks.task import Session
    from cnn_jax.training.devices import Devices, accelerator_notice

    tasks.check(config)  # callers may have changed it since they read it
    given = None
    if getattr(config, "initial", ""):
        from cnn_jax.inference import initial

        config, given = initial.opened(config)
    record = (
        run_directory.RunDirectory(workdir, config, study)
        if processes.is_primary()
        else run_directory.Onlooker(workdir, config)
    )
    with StopRequest(ends_process=bool(command)) as stop, record:
        finished = processes.broadcast(record.summary)
        if finished is not None:
            print(f"{workdir} holds this run, finished:\n{table.summary_table(finished)}")
            return finished
        try:
            backend.check()
            print(accelerator_notice())
            its_digest = digest(config)
            name = " ".join(filter(None, (config.experiment, config.configuration, config.variant)))
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

            fitted = learner.fit(dataset, Session(record, stop, devices, its_digest, given))

            summary = {**identity(config), **fitted.figures}
            report = None
            for split in learner.evaluated:
                if info.sizes[split]:
                    print(f"evaluating {info.sizes[split]:,} of {split}", flush=True)
                    evaluator = dataset.evaluator(learner, split, devices)
                    report = evaluator.report(fitted.variables, stop.raise_if_set)
                    summary |= report.figures
            if isinstance(record, run_directory.RunDirectory):
                lines, variables = record.metrics(), fitted.variables
                with pictures_can_be_written(record.workdir / "figures"):
                    if lines:
                        path = record.figures / "learning_curves.png"
                        figures.learning_curves(lines, path, best_step=fitted.best_step)
                    if report is not None and info.sizes["test"]:
                        if processes.several():  # the others have no part in drawing
                            devices = Devices(alone=True)
                            variables = devices.copy(jax.device_get(variables))
                        evaluator = dataset.evaluator(learner, "test", devices)
                        evaluator.keep(record, report)
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


if __name__ == "__main__":  # a recorded config.json, where no experiment is installed
    sys.exit(main("cnn_jax.run", {}))
