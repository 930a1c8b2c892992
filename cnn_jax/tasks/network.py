"""How a network learns: from the initial state, or the last checkpoint, to the weights that are
evaluated."""

import functools
import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from cnn_jax.analysis import layer_table
from cnn_jax.data.pipeline import read_ahead, training_batches
from cnn_jax.data.resident import Numbers
from cnn_jax.errors import InputError
from cnn_jax.records.metrics import FIGURES
from cnn_jax.runtime import processes
from cnn_jax.tasks.programs import shared
from cnn_jax.tasks.task import Dataset, Evaluator, Fitted, Learner, Session
from cnn_jax.training import loop
from cnn_jax.training.checkpoints import Checkpoints, check_place
from cnn_jax.training.devices import Devices, arithmetic
from cnn_jax.training.groups import make_groups
from cnn_jax.training.initial import Initial
from cnn_jax.training.losses import tell_of_smoothing
from cnn_jax.training.optimizer import learning_rate, make_optimizer, tell_of_late, tell_of_warmup
from cnn_jax.training.state import TrainState, beginning, drawing, key_of, parameter_count
from cnn_jax.training.step import make_train_step


class Network(Learner, Protocol):
    """A learner that JAX trains, step by step: its `config` has the sections `training` and
    `optimizer`, `data.on_device`, `data.prefetch_batches` and `evaluation.weights`."""

    @property
    def example_px(self) -> tuple[int, int, int]:
        """Height, width and channels of a training example."""
        ...

    def module(self, axis_name: str | None = None) -> nn.Module:
        """The Flax module; `axis_name` is the `pmap` axis."""
        ...

    def prepare(self, keys: jax.Array, examples: dict[str, jax.Array], /) -> tuple[Any, Any]:
        """(inputs, labels) of a training batch: augmented and normalised, on the device."""
        ...

    def loss_and_metrics(self, outputs: Any, labels: Any, /) -> dict[str, tuple[Any, Any]]:
        """name -> (sum, count) over a batch; "loss" is minimised, the others are logged."""
        ...


def train_network(learner: Network, dataset: Dataset, session: Session) -> Fitted:
    """Trains, or goes on where an earlier run stopped; validates and saves on the way.

    Raises:
        InputError: what the user can mend.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    config, training, devices = learner.config, learner.config.training, session.devices
    record, stop = session.record, session.stop
    figure, monitor = FIGURES[learner.monitor], f"validation/{learner.monitor}"
    devices.check_batch(
        "training.batch_size / training.accumulate", training.batch_size // training.accumulate
    )
    if training.patience and not learner.info.sizes["validation"]:
        raise InputError(
            "training.patience is not 0, but there is no validation split to choose by: set it to"
            " 0, or hold some out."
        )
    check_place(record.workdir)
    state = initial_state(learner, session.initial)
    parameters = parameter_count(state.variables)
    print(
        f"{config.model.name}: {parameters:,} parameters; {training.steps} steps of"
        f" {training.batch_size} {learner.example}",
        flush=True,
    )
    tell_of_warmup(config.optimizer, training.steps)
    tell_of_late(config.optimizer, training.steps)
    tell_of_smoothing(getattr(config, "loss", None))
    on_device = config.data.on_device
    source = dataset.training_source(learner)
    batches = training_batches(
        Numbers(len(source)) if on_device else source,
        seed=config.seed,
        batch_size=training.batch_size,
        share=devices.share(training.batch_size),
    )

    # Where an earlier run stopped: its lines of metrics beyond the checkpoint are dropped, for
    # those steps are taken again.
    checkpoints = Checkpoints(
        record.workdir / "checkpoints",
        keep=training.keep_checkpoints,
        best=monitor,
        higher_is_better=bool(figure.higher_is_better),
        digest=session.digest,
    )
    evaluator = None
    if learner.info.sizes["validation"]:
        evaluator = dataset.evaluator(learner, "validation", devices)
    start, validated = 0, False
    if checkpoints.steps:
        state, metrics, start = checkpoints.restore(devices.copy(state))
        validated = bool(metrics) or evaluator is None
        print(f"resuming after step {start}", flush=True)
    elif record.metrics():
        print("resuming at the beginning: no checkpoint of the earlier steps is there", flush=True)
    lines = processes.broadcast(
        record.rewind(
            lambda line: (
                line["step"] < start
                or (line["step"] == start and (validated or monitor not in line))
            )
        )
    )
    if (lines[-1]["step"] if lines else 0) < start - start % training.log_every_steps:
        raise InputError(
            f"{record.workdir / 'metrics.jsonl'} ends before step {start}, of which there is a"
            " checkpoint; restore it, or give another --workdir."
        )
    history = _History(
        figure.higher_is_better, [line[monitor] for line in lines if monitor in line]
    )

    def validate(evaluator: Evaluator, state: Any, check: Callable[[], None]) -> dict[str, Any]:
        single = devices.single(state)
        last = int(single.step) == training.steps
        scores = evaluator.scores(single.evaluated, check, last)
        history.values.append(scores[monitor])
        return scores

    stop.raise_if_set()
    begun = time.perf_counter()
    resident = dataset.resident(learner) if on_device else {}
    constant = jax.device_put((np.uint32(config.seed), resident), devices.replicated)
    state = devices.replicate(state)
    batch = devices.place_for_training(batches[start])
    placed_s = time.perf_counter() - begun

    def step() -> tuple[Any, float]:
        begun = time.perf_counter()
        train_step = devices.jit_step(training_step(learner, devices.axis_name))
        with arithmetic():
            compiled = train_step.lower(state, batch, *constant).compile()
        return compiled, time.perf_counter() - begun

    # Who finds the step compiled counts its compilation too: the time is that of a run alone.
    compiled, compilation_s = shared(learner, "train", step, devices)
    elapsed_s = (lines[-1]["elapsed_s"] if lines else 0.0) + placed_s + compilation_s

    state = loop.train(
        state,
        lambda state, batch: compiled(state, batch, *constant),
        lambda start: placed(batches, start, devices, config.data),
        functools.partial(validate, evaluator) if evaluator is not None else None,
        checkpoints,
        record.log,
        stop,
        training,
        start=start,
        validated=validated,
        elapsed_s=elapsed_s,
        learning_rate=shared(
            learner,
            "learning rate",
            lambda: jax.jit(learning_rate(config.optimizer, training.steps)),
        ),
        monitor=monitor,
        enough=lambda: history.is_over(training.patience),
        single=devices.single,
    )
    state = devices.single(state)
    steps = evaluated_step = int(state.step)
    if steps < training.steps:
        print(
            f"stopped early at step {steps}: no better validation in the last {training.patience}"
        )
    best_step = checkpoints.best_step()
    if config.evaluation.weights == "best":
        evaluated_step = best_step or evaluated_step
        state, _, _ = checkpoints.restore(devices.copy(state), evaluated_step)
    checkpoints.close()
    lines = record.metrics()  # none where another process writes them
    figures = {
        "parameters": parameters,
        "steps": steps,
        "evaluated_step": evaluated_step,
        "wall_time_s": lines[-1]["elapsed_s"] if lines else None,
        "multiply_adds": shared(learner, "multiply-adds", lambda: multiply_adds(learner)),
        "step_memory_bytes": _memory_bytes(compiled),
        **speed(lines),
    }
    return Fitted(state.evaluated, figures, best_step if training.patience else None)


def placed(batches: Any, start: int, devices: Devices, data: Any) -> Iterator:
    """The batches of `training_batches` from number `start` on, as a compiled step takes them, by
    the `data` section: read ahead, or the mere numbers of examples that lie on the device."""
    if data.on_device:
        return read_ahead(batches, start, devices.place_at_use, 0)
    return read_ahead(batches, start, devices.place_for_training, data.prefetch_batches)


def initial_state(learner: Network, initial: Initial | None = None) -> TrainState:
    """The state before step 0 that a learner's configuration asks for; with weights to begin with,
    these laid over those that the seed draws."""
    config = learner.config
    drawn = _beginning(learner)(key_of(config.seed))
    if initial is None:
        return drawn
    variables, what = initial.laid_over(
        drawn.variables, head(learner), config.initial_part, learner.info.classes
    )
    print(f"begins with {what} of {initial.name}", flush=True)
    average = jax.tree.map(jnp.copy, variables) if config.optimizer.ema_decay > 0 else None
    return TrainState(drawn.step, variables, drawn.optimizer_state, average)


def check_initial(learner: Network, initial: Initial) -> None:
    """Refuses weights to begin with that don't fit a learner's network, which is not computed.

    Raises:
        InputError: they don't; the sentence says where.
    """
    config = learner.config
    drawn = jax.eval_shape(drawing(learner.module(), learner.example_px), key_of(config.seed))
    initial.check(drawn, head(learner), config.initial_part, learner.info.classes)


def _drawing(learner: Any) -> Callable[[jax.Array], dict[str, Any]]:
    """The program that draws a network's variables from a key."""
    return shared(learner, "variables", lambda: drawing(learner.module(), learner.example_px))


def _beginning(learner: Network) -> Callable[[jax.Array], TrainState]:
    """The program that makes the initial state from a key."""
    config = learner.config

    def make() -> Callable[[jax.Array], TrainState]:
        optimizer = make_optimizer(config.optimizer, config.training.steps)
        return beginning(_drawing(learner), optimizer, averaged=config.optimizer.ema_decay > 0)

    return shared(learner, "initial state", make)


def training_step(learner: Network, axis_name: str | None = None) -> Callable:
    """The step of `make_train_step` that a learner's configuration asks for; `axis_name` is the
    `pmap` axis."""
    config, training = learner.config, learner.config.training
    return make_train_step(
        learner.module(axis_name),
        learner.loss_and_metrics,
        make_optimizer(config.optimizer, training.steps),
        learner.prepare,
        accumulate=training.accumulate,
        remat=training.remat,
        ema_decay=config.optimizer.ema_decay,
        groups=make_groups(config.optimizer, abstract_variables(learner), head(learner))
        if config.optimizer.frozen or config.optimizer.groups
        else None,
        axis_name=axis_name,
    )


def head(learner: Any) -> frozenset[tuple[str, ...]]:
    """The variables that belong to the classes: those whose shape depends on how many there are."""
    module = learner.module()
    if not hasattr(module, "num_classes"):  # of a task without classes
        return frozenset()
    image = jax.ShapeDtypeStruct((1, *learner.example_px), np.float32)
    other = module.clone(num_classes=module.num_classes + 1)
    shapes = jax.eval_shape(lambda x: other.init(jax.random.key(0), x, train=False), image)
    changed: dict[Any, Any] = traverse_util.flatten_dict(shapes)
    ours: dict[Any, Any] = traverse_util.flatten_dict(abstract_variables(learner))
    return frozenset(path for path, leaf in ours.items() if leaf.shape != changed[path].shape)


def check_module(learner: Network) -> None:
    """Raises InputError for what the module itself refuses, before a run has a folder. Nothing is
    computed."""
    abstract_variables(learner)


def abstract_variables(learner: Any) -> Any:
    """Shapes and types of a network's variables. Nothing is computed, and the module is traced
    once, for the program that draws them too: that takes a good part of a second."""
    return shared(
        learner, "shapes", lambda: jax.eval_shape(_drawing(learner), jax.eval_shape(key_of, 0))
    )


def multiply_adds(learner: Any) -> int:
    """Those of a network's prediction for one example."""
    return layer_table.summarize(learner.module(), learner.example_px).multiply_adds


class LastEvaluation:
    """What an evaluator counted last, and with which weights: those that were validated after the
    last step need not be evaluated again at the end of the run."""

    def __init__(self) -> None:
        self._weights, self._evaluation = [], None

    def keep(self, variables: Any, evaluation: Any) -> None:
        """Remembers an evaluation. Weights that may change in place, as PyTorch's, are not
        known again."""
        leaves = jax.tree.leaves(variables)
        fixed = all(isinstance(leaf, jax.Array) for leaf in leaves)
        self._weights = [weakref.ref(leaf) for leaf in leaves] if fixed else []
        self._evaluation = evaluation

    def of(self, variables: Any) -> Any:
        """The evaluation of these very arrays; None if there is none."""
        leaves = jax.tree.leaves(variables)
        same = len(leaves) == len(self._weights) and all(
            kept() is leaf for kept, leaf in zip(self._weights, leaves, strict=True)
        )
        return self._evaluation if leaves and same else None


class _History:
    """The monitored figure of all validations so far."""

    def __init__(self, higher_is_better: bool | None, values: list[float | None]):
        self.values, self._sign = values, 1 if higher_is_better else -1

    def is_over(self, patience: int) -> bool:
        """Whether the best validation, the earliest of equals, is `patience` validations ago."""
        signed = [float("-inf") if v is None else self._sign * v for v in self.values]
        return bool(patience and signed) and len(signed) - 1 - signed.index(max(signed)) >= patience


def speed(lines: list[dict]) -> dict[str, float | None]:
    """Medians over the intervals of the log; a mean would count every hiccup of the machine."""
    figures = {}
    for key in ("train/images_per_second", "train/data_wait_fraction"):
        values = [line[key] for line in lines if key in line]
        figures[key] = statistics.median(values) if values else None
    return figures


def _memory_bytes(compiled) -> int | None:
    """Bytes on each device of a step's arguments, results and what lies between, as the compiler
    plans them; None if it doesn't say."""
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return int(kept + plan.temp_size_in_bytes)
