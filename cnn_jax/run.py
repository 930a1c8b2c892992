"""A run from configuration to record, to be read from top to bottom; and the command around it."""

import shlex
import signal
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from cnn_jax import configuration
from cnn_jax.configuration import Config
from cnn_jax.errors import InputError
from cnn_jax.runtime import backend, compilation_cache, memory, processes, streams

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
    if argv is None:
        memory.keep()
    argv = list(sys.argv if argv is None else argv)
    if any(argument in ("-h", "--help", "--helpfull") for argument in argv[1:]):
        print(configuration.help_text(module, configurations, FLAGS), end="")
        return 0

    return guarded(lambda: once(module, configurations, argv))


def once(
    module: str, configurations: Mapping[str, Callable[[], Config]], argv: Sequence[str]
) -> None:
    """The run that a command line asks for."""
    config, values = configuration.parse_command_line(argv, configurations, FLAGS)
    processes.join(values["distributed"])
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = processes.broadcast(
        values["workdir"] or f"results/runs/{config.experiment}-{config.configuration}-{now}"
    )
    arguments = configuration.without_flag(argv[1:], "workdir")
    typed = shlex.join(["python", "-m", module, *arguments, "--workdir", str(workdir)])
    run(config, workdir, command=typed)


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
        finally:
            compilation_cache.sign_programs()
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


def run(config: Config, workdir, command: str = "") -> dict:
    """Trains, evaluates and records; goes on where an earlier run in `workdir` stopped.

    Args:
        config: checked.
        workdir: the folder of the record.
        command: what to type to run or resume this, for the record; empty if `run` is called from
            other code, whose process a second Ctrl-C then leaves alive.

    Returns:
        The summary that is written to summary.json.

    Raises:
        InputError: what the user can mend.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    from cnn_jax.records import run_directory as records
    from cnn_jax.reporting import table
    from cnn_jax.runtime.preemption import Stopped, StopRequest

    record = (
        records.Record(workdir, config)
        if processes.is_primary()
        else records.Onlooker(workdir, config)
    )
    with StopRequest(ends_process=bool(command)) as stop, record:
        finished = processes.broadcast(record.summary)
        if finished is not None:
            print(f"{workdir} holds this run, finished:\n{table.summary_table(finished)}")
            return finished
        try:
            if config.task == "classic":
                if processes.several():
                    raise InputError(
                        f"{config.model.name} is fitted by one process: leave out --distributed."
                    )
                from cnn_jax.tasks.classic import fit_and_evaluate

                summary = fit_and_evaluate(config, record, command, stop.raise_if_set)
            else:
                summary = processes.broadcast(_run(config, record, stop, command))
        except Stopped:
            print(f"\nstopped; to resume:\n  {command}", flush=True)
            raise
        print(
            f"\n{table.summary_table(summary)}\n\n{_cost(summary)}\nrecord and pictures: {workdir}"
        )
        return summary


def _run(config: Config, record, stop, command: str) -> dict | None:
    """The summary; None in processes that don't write it."""
    import jax

    from cnn_jax import tasks
    from cnn_jax.analysis import layer_table as layers
    from cnn_jax.data.pipeline import read_ahead, training_batches
    from cnn_jax.data.resident import Numbers
    from cnn_jax.data.scenes import SPLITS
    from cnn_jax.records import run_directory as records
    from cnn_jax.training import loop, optimizer
    from cnn_jax.training.checkpoints import Checkpoints
    from cnn_jax.training.devices import Devices, accelerator_notice
    from cnn_jax.training.state import parameter_count
    from cnn_jax.training.step import make_train_step

    training = config.training
    backend.check()
    print(accelerator_notice())
    name = " ".join(filter(None, (config.experiment, config.configuration, config.variant)))
    print(f"{name}, seed {config.seed}, digest {configuration.digest(config)}, in {record.workdir}")
    devices = Devices(training.parallelism)
    if processes.several():
        stop = processes.AgreedStop(stop, devices)
    devices.check_batch(
        "training.batch_size / training.accumulate", training.batch_size // training.accumulate
    )

    task_class = tasks.of(config)
    data = task_class.open(config)
    task = task_class(config, data, trains=True)
    ours = [configuration.digest(config), task.fingerprint]
    if ours != processes.broadcast(ours):
        raise InputError(
            f"--distributed: this process (configuration, data: {ours}) has others than the first;"
            " start all with the same."
        )
    record.begin(records.environment(config, task.fingerprint, command))
    counts = ", ".join(f"{task.sizes[split]:,} {split}" for split in SPLITS)
    print(f"{config.data.source}: {counts}; classes: {_few(task.names)}")

    state = task.initial_state()
    parameters = parameter_count(state.variables)
    print(
        f"{config.model.name}: {parameters:,} parameters; {training.steps} steps of"
        f" {training.batch_size} {task.example}",
        flush=True,
    )
    train_step = make_train_step(
        task.model(devices.axis_name),
        task.loss,
        task.optimizer,
        task.augment,
        accuracy=task.accuracy,
        accumulate=training.accumulate,
        remat=training.remat,
        ema_decay=config.optimizer.ema_decay,
        axis_name=devices.axis_name,
    )
    on_device = config.data.on_device
    resident = task.resident() if on_device else {}
    batches = training_batches(
        Numbers(len(task.training_source)) if on_device else task.training_source,
        seed=config.seed,
        batch_size=training.batch_size,
        share=devices.share(training.batch_size),
    )
    evaluators = {
        split: task.evaluator(split, devices)
        for split in ("validation", "test")
        if task.sizes[split]
    }

    # Where an earlier run stopped: its lines of metrics beyond the checkpoint are dropped, for
    # those steps are taken again.
    headline = task.headline
    checkpoints = Checkpoints(
        record.workdir / "checkpoints",
        keep=training.keep_checkpoints,
        best=headline,
        digest=configuration.digest(config),
    )
    start, validated = 0, False
    if checkpoints.steps:
        state, metrics, start = checkpoints.restore(devices.copy(state))
        validated = bool(metrics) or "validation" not in evaluators
        print(f"resuming after step {start}", flush=True)
    kept = processes.broadcast(
        record.rewind(
            lambda line: (
                line["step"] < start
                or (line["step"] == start and (validated or headline not in line))
            )
        )
    )
    if (kept[-1]["step"] if kept else 0) < start - start % training.log_every_steps:
        raise InputError(
            f"{record.workdir / 'metrics.jsonl'} ends before step {start}, of which there is a"
            " checkpoint; restore it, or give another --workdir."
        )
    history = [line[headline] for line in kept if headline in line]

    def validate(state, check):
        evaluation = evaluators["validation"].evaluate(devices.single(state).evaluated, check)
        scores = task.scores(evaluation, "validation")
        history.append(scores[headline])
        return scores

    def enough():
        """Whether the best validation, the earliest of equals, is too long ago."""
        values = [float("-inf") if value is None else value for value in history]
        return (
            bool(training.patience and values)
            and len(values) - 1 - values.index(max(values)) >= training.patience
        )

    stop.raise_if_set()
    compiled_step = devices.train_step(train_step, config.seed, resident)
    state = loop.train(
        devices.replicate(state),
        compiled_step,
        lambda start: read_ahead(batches, start, devices.place, config.data.prefetch_batches),
        validate if "validation" in evaluators else None,
        checkpoints,
        record.log,
        stop,
        training,
        start=start,
        validated=validated,
        elapsed_s=kept[-1]["elapsed_s"] if kept else 0.0,
        learning_rate=jax.jit(optimizer.learning_rate(config.optimizer, training.steps)),
        headline=headline,
        enough=enough,
        save_form=devices.single,
    )
    memory_bytes = compiled_step.memory_bytes(state, devices.place(batches[0]))
    state = devices.single(state)
    steps = evaluated_step = int(state.step)
    if steps < training.steps:
        print(
            f"stopped early at step {steps}: no better validation in the last {training.patience}",
            flush=True,
        )
    if config.evaluation.weights == "best":
        evaluated_step = checkpoints.best_step() or evaluated_step
        state, _, _ = checkpoints.restore(devices.copy(state), evaluated_step)
    checkpoints.close()

    figures_of, evaluation = {}, None
    for split in task.evaluated:
        if not task.sizes[split]:
            continue
        evaluator = evaluators.get(split) or task.evaluator(split, devices)
        print(
            f"evaluating {task.sizes[split]:,} of {split} with the weights of step"
            f" {evaluated_step}",
            flush=True,
        )
        figures, evaluation = task.summary(evaluator, state.evaluated, split, stop.raise_if_set)
        figures_of |= figures
    if not processes.is_primary():  # what is left is to be written
        return None
    lines = record.metrics()
    summary = {
        **configuration.identity(config),
        "parameters": parameters,
        "steps": steps,
        "evaluated_step": evaluated_step,
        "wall_time_s": lines[-1]["elapsed_s"],
        "multiply_adds": layers.summarize(task.model(), task.example_px).multiply_adds,
        "step_memory_bytes": memory_bytes,
        "train/images_per_second": _median(lines, "train/images_per_second"),
        "train/data_wait_fraction": _median(lines, "train/data_wait_fraction"),
        **figures_of,
    }
    variables, evaluator = state.evaluated, evaluators.get("test")
    if processes.several() and evaluator is not None:
        alone = Devices(alone=True)
        variables, evaluator = alone.copy(jax.device_get(variables)), task.evaluator("test", alone)
    with records.pictures_can_be_written(record.workdir / "figures"):
        if "test" in evaluators:
            task.record(record.workdir, evaluator, evaluation)
        task.pictures(
            record.figures,
            lines,
            evaluator,
            evaluation if "test" in evaluators else None,
            variables,
        )
    record.finish(summary)
    return summary


def _few(names):
    return (
        ", ".join(names)
        if len(names) <= 20
        else f"{len(names)}, {', '.join(names[:3])} to {names[-1]}"
    )


def _cost(summary) -> str:
    speed, waiting = summary.get("train/images_per_second"), summary.get("train/data_wait_fraction")
    parameters = f"{summary['parameters']:,} parameters, " if "parameters" in summary else ""
    known = (
        ""
        if speed is None
        else f", {speed:.1f} training images/s, {waiting:.2%} of the time waiting for data"
    )
    return f"{parameters}{summary['wall_time_s']:.0f} s{known}"


def _median(lines, key):
    """Over the intervals of the log; the mean would count every hiccup of the machine."""
    values = [line[key] for line in lines if key in line]
    return statistics.median(values) if values else None
