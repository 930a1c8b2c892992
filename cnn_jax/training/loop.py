"""How many steps are taken, and what happens between them: evaluate, save, next batch, step, in
this order.

The order never changes: a checkpoint is of a state that was evaluated, and a run that goes on from
it takes the batch that the interrupted one would have taken.
"""

import collections
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import tqdm

from cnn_jax.configuration.schema import TrainingConfig
from cnn_jax.data.pipeline import Timed
from cnn_jax.errors import InputError
from cnn_jax.runtime import compilation_cache, memory
from cnn_jax.runtime.preemption import Stopped, StopRequest

LATE = 2
"""Metrics are read this many steps after theirs was started, so that looking at them never holds
the devices up."""


class NotFinite(InputError):
    """A metric became NaN or infinite: the run can't go on. The message names the step and the
    metric."""


class States(Protocol):
    """Where states are kept: `Checkpoints`, or what keeps none."""

    @property
    def steps(self) -> Sequence[int]:
        """Those of which a state is kept."""
        ...

    def save(self, step: int, state: Any, metrics: dict | None = None, /) -> None:
        """Keeps a state, with the figures of its validation."""
        ...

    def wait(self) -> None:
        """Until what is being saved is kept."""
        ...


def train(
    state: Any,
    train_step: Callable,
    batches_from: Callable,
    validate: Callable | None,
    checkpoints: States,
    log: Callable,
    stop: StopRequest,
    config: TrainingConfig,
    *,
    start: int,
    validated: bool,
    elapsed_s: float,
    learning_rate: Callable,
    monitor: str,
    enough: Callable = lambda: False,
    single: Callable = lambda state: state,
) -> Any:
    """Takes the steps from `start` to `config.steps`, or until it is enough.

    Args:
        state: at step `start`; it is used up.
        train_step: `(state, batch) -> (state, metrics)`, compiled.
        batches_from: `step -> iterator of batches`, from that step's on.
        validate: `(state, check) -> metrics`; calls `check()` between its batches, which may raise
            Stopped. None: no validation.
        checkpoints: where states are kept.
        log: takes a dict of metrics with its step.
        stop: looked at after each step.
        config: the `training` section.
        start: steps already taken.
        validated: whether the checkpoint at `start` already holds its validation.
        elapsed_s: seconds that the run has taken before.
        learning_rate: `step -> learning rate`, for the log.
        monitor: the validation metric shown beside the loss.
        enough: asked after each validation whether to stop early.
        single: what of the state is saved.

    Returns:
        The state after the last step, saved and evaluated.

    Raises:
        NotFinite: loss or gradient is NaN or infinite.
        Stopped: a signal came; the state is saved.
        InputError: a checkpoint could not be written.
    """
    batches = Timed(batches_from(start))
    begun = time.perf_counter() - elapsed_s
    pending = collections.deque()
    interval = {"time": time.perf_counter(), "waited": 0.0, "step": start}
    shown = _Progress(config.steps)

    def settle(keep: int):
        """Reads the metrics of all steps but the last `keep`."""
        newest = pending[-1][0] if pending else start
        while len(pending) > keep:
            step, metrics = pending.popleft()
            metrics = jax.device_get(single(metrics))
            metrics = {name: float(value) for name, value in metrics.items()}
            _check_finite({f"train/{name}": value for name, value in metrics.items()}, step)
            if step % config.log_every_steps == 0 or step == config.steps:
                line = {"step": step} | {f"train/{name}": value for name, value in metrics.items()}
                line["train/learning_rate"] = float(learning_rate(step - 1))
                seconds, taken = time.perf_counter() - interval["time"], newest - interval["step"]
                if taken:  # else the line before was read together with this one
                    line["train/images_per_second"] = taken * config.batch_size / seconds
                    line["train/data_wait_fraction"] = (
                        batches.waited_s - interval["waited"]
                    ) / seconds
                line["elapsed_s"] = time.perf_counter() - begun
                log(line)
                shown.trained(line)
                interval.update(time=time.perf_counter(), waited=batches.waited_s, step=newest)

    step = start
    try:
        while True:
            if (
                step
                and not (step == start and validated)
                and (step % config.validate_every_steps == 0 or step == config.steps)
            ):
                settle(0)
                before, metrics = time.perf_counter(), None
                if validate is not None:
                    try:
                        metrics = validate(state, stop.raise_if_set)
                    except Stopped:
                        checkpoints.save(step, single(state))
                        checkpoints.wait()
                        raise
                    _check_finite(metrics, step)
                    log({"step": step, **metrics, "elapsed_s": time.perf_counter() - begun})
                    shown.validated(step, metrics, monitor)
                checkpoints.save(step, single(state), metrics)
                memory.give_back()
                interval["time"] += time.perf_counter() - before  # validation is no training time
            if step == config.steps or enough():
                break
            if stop.signal_number is not None:
                settle(0)
                if step and step not in checkpoints.steps:
                    checkpoints.save(step, single(state))
                checkpoints.wait()
                stop.raise_if_set()
            batch = next(batches)
            state, metrics = train_step(state, batch)
            batches.computing = metrics
            step += 1
            if step == start + 1:  # the first step warms up, and is left out of the speed
                jax.block_until_ready(metrics)
                memory.give_back()
                compilation_cache.sign_programs()
                shown.begin(step)
                interval.update(time=time.perf_counter(), waited=batches.waited_s, step=step)
            pending.append((step, metrics))
            settle(LATE)
            shown.step(step)
        checkpoints.wait()
    finally:
        shown.close()
    return state


def _check_finite(metrics, step):
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise NotFinite(
                f"{name} is {value} at step {step}: lower optimizer.learning_rate or raise"
                " optimizer.warmup_steps, and look at the data; earlier checkpoints are kept."
            )


class _Progress:
    """A bar on a terminal; elsewhere a line of text at each log and validation."""

    def __init__(self, steps):
        self.steps, self.loss, self.speed, self.score = steps, "", "", ""
        self.bar, self.began, self.start, self.said = None, time.perf_counter(), 0, -math.inf

    def begin(self, step):
        """The first step is taken: from now on the time left can be told."""
        self.began, self.start = time.perf_counter(), step
        if sys.stderr.isatty():
            self.bar = tqdm.tqdm(total=self.steps, initial=step, unit="step", dynamic_ncols=True)

    def step(self, step):
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def trained(self, line):
        self.loss = f"loss {line['train/loss']:.4f}"
        if "train/images_per_second" in line:
            self.speed = f", {line['train/images_per_second']:.1f} images/s"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.loss}{self.speed}{self.score}")
        elif (
            time.perf_counter() - self.said >= 10 or line["step"] == self.steps
        ):  # a log file needs no line a second
            self.said = time.perf_counter()
            done = max(line["step"] - self.start, 1)
            left = (self.said - self.began) / done * (self.steps - line["step"])
            print(
                f"step {line['step']}/{self.steps}: {self.loss}{self.speed}{self.score}, {left:.0f}"
                " s left",
                flush=True,
            )

    def validated(self, step, metrics, monitor):
        value = metrics.get(monitor)
        self.score = "" if value is None else f", {monitor} {value:.4f}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.loss}{self.speed}{self.score}")
        else:
            print(
                f"step {step}/{self.steps}: {monitor}"
                f" {'undefined' if value is None else f'{value:.4f}'}",
                flush=True,
            )

    def close(self):
        if self.bar is not None:
            self.bar.close()
