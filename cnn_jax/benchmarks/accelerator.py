"""Everything that is to be measured on an accelerator, in one command for a machine that is there
for a quarter of an hour.

python -m cnn_jax.commands.benchmark --accelerator [--limit-s 540] [--data FOLDER]
    [--output FOLDER]

FOLDER of --data is one that `python -m experiments.accelerator` filled: photographs and the
configurations of a study. The most valuable comes first, each part in a process of its own:

1. training steps in bfloat16 at 512x512, batch 8, beside PyTorch's (torch.compile, channels_last,
   autocast), then at 144x256, batch 32, until half the limit is over
2. the study: 50 timed steps of each network, from which follows how many steps all can train for
   within 200 s together; then each with seed 0. So few steps say nothing of converged networks
3. whole scenes evaluated, beside PyTorch, and predicted; the training set on the device against the
   host's pipeline
4. eight seeds in one program against one after another; jit against pmap; whether two runs have the
   same bits, with and without XLA's deterministic operations
5. the study's further seeds, and what had to wait

Each part is written as it ends: NAME.json in --output, what it printed in logs/NAME.log. A part
that fails is recorded with its last line, and the next begins. The same command again goes on where
the first was stopped, and tries once more what failed. At the end, a table says which training
steps are 1.2 times as fast as PyTorch's and reach 40% of the chip's peak.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnn_jax.benchmarks import measuring
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.records.files import read_object, write_object, write_text
from cnn_jax.runtime import processor

WANTED_RATIO, WANTED_SHARE = 1.2, 0.4
"""Of PyTorch's speed, and of the chip's peak."""

MOST_S = 300
"""A part that takes longer has failed."""

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@dataclass
class Options:
    """The time there is, and where everything lies."""

    limit_s: float = setting(540.0, "ends within this time", unit="s", at_least=1)
    data: str = setting(
        "",
        "folder that experiments.accelerator filled; empty: synthetic scenes, and no study",
        path=True,
    )
    output: str = setting(
        "results/benchmarks/accelerator",
        "folder of the records; those of a rehearsal lie in a folder of their own there",
        path=True,
    )
    rehearsal: bool = setting(
        False, "tiny networks and sizes on any device: whether all runs, not how fast"
    )


@dataclass(frozen=True)
class Scale:
    """How large everything is: that of an accelerator, or of a rehearsal.

    Attributes:
        networks: of the training steps, by `networks.NETWORKS`.
        steps: (size, batch) of the training steps.
        repeats, seconds: of `measuring.Options`.
        words: what is changed in the study's configurations, as words of a command line.
        variants: how many of the study's.
        seeds: of the study.
        timed_steps: of each network of the study.
        study_s: seconds for one seed of all.
        workers: runs of the study at once: while one is compiled or drawn, another one trains.
        scenes: (options of `evaluate`, the network) for whole scenes.
        together: options of `seeds`.
        bits: (network, size, batch, steps) for the comparison of bits.
    """

    networks: tuple[str, ...] = (
        "unet64",
        "asymmetric_unet64",
        "deeplabv3plus_resnet50",
        "resnet50",
    )
    steps: tuple[tuple[str, int], ...] = (("512x512", 8), ("144x256", 32))
    repeats: int = 3
    seconds: float = 1.0
    words: tuple[str, ...] = ()
    variants: int | None = None
    seeds: int = 5
    timed_steps: int = 50
    study_s: float = 200
    workers: int = 4
    scenes: Mapping = field(
        default_factory=lambda: {
            "models": ("unet64", "deeplabv3plus_resnet50"),
            "window": "512x512",
            "context": 64,
        }
    )
    together: Mapping = field(
        default_factory=lambda: {"model": "unet16", "size": "144x256", "batch": 4, "seeds": (8,)}
    )
    bits: tuple = ("unet16", (144, 256), 8, 50)


REHEARSAL = Scale(
    networks=("tiny",),
    steps=(("16x32", 2), ("32x32", 1)),
    repeats=1,
    seconds=0,
    words=(
        *("--model.name", "unet", "--model.base-width", "2", "--model.depth", "1"),
        *("--data.crop-px", "16", "32", "--training.batch-size", "2"),
        *("--data.scene-px", "48", "64", "--data.scene-counts", "2", "1", "1"),
        *("--evaluation.window-px", "64", "64", "--evaluation.context-px", "8"),
    ),
    variants=2,
    seeds=1,
    timed_steps=2,
    study_s=1,
    workers=2,
    scenes={"models": ("tiny",), "window": "32x32", "context": 4, "scene": "32x48", "scenes": 1},
    together={"model": "tiny", "size": "16x32", "batch": 1, "seeds": (2,)},
    bits=("tiny", (16, 32), 1, 2),
)


@dataclass(frozen=True)
class Part:
    """What is measured, recorded and, if need be, tried again by itself.

    Attributes:
        name: of its record.
        function: of this module, called in a process of its own;
        settings: its arguments, plain JSON.
        environment: variables of that process.
        until: the share of the limit after which it waits for all others.
    """

    name: str
    function: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    until: float = 1.0


class Parts:
    """The parts, their records and the time that is left for them.

    Args:
        options: of the command.
    """

    def __init__(self, options: Options) -> None:
        begun = time.monotonic()
        self.options, self.scale = options, REHEARSAL if options.rehearsal else Scale()
        self.folder, self.begun = Path(options.output), begun
        if options.rehearsal:  # never taken for what was measured
            self.folder /= "rehearsal"
        grace = min(5.0, options.limit_s / 10)  # for whoever saves its state when it must end
        self.grace_s, self.end = grace, begun + options.limit_s - grace
        self.machine: Mapping[str, Any] = {}
        self.tried: set[str] = set()
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)

    # ---- which parts there are

    def stages(self) -> Iterator[tuple[int, list[Part]]]:
        """(how many at once, parts), the most valuable first. Those that follow from others'
        results are left out until there are such."""
        scale, platform = self.scale, self.machine["platform"]
        data = str(Path(self.options.data) / "photographs") if self.options.data else ""
        dtype = "bfloat16"
        for (size, batch), until in zip(scale.steps, (1.0, 0.5), strict=True):
            chosen = {"sizes": (size,), "batches": (batch,), "dtype": dtype, "platform": platform}
            for name in scale.networks:
                settings = {"benchmark": "train_step", "models": (name,), **chosen}
                # Kept programs would hide how long the compilation takes.
                cold = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
                yield 1, [self._measured(f"step_{size}_{name}", settings, cold, until)]

        configs = self._configs()
        if configs:
            settings = {
                "configs": {name: str(path) for name, path in configs.items()},
                "words": [*scale.words, *_directory(data)],
                "timed_steps": scale.timed_steps,
                "seconds": scale.study_s,
                "workers": scale.workers,
            }
            yield 1, [Part("study_steps", "study_steps", settings)]
            yield scale.workers, self._runs(configs, data, [0])

        scenes = {"benchmark": "evaluate", "dtype": dtype, "platform": platform, "data": data}
        yield 1, [self._measured("evaluate", {**scenes, **scale.scenes})]
        for name in configs:
            if self.result(f"run_{name}_seed0"):
                folder = str(self.folder / "runs" / f"{name}-seed0")
                yield 1, [Part("predict", "predict", {"run": folder})]
                break
        config = next(iter(configs.values()), None)
        timed = {
            "config": str(config) if config else "",
            "steps": scale.timed_steps,
        }
        for name, flags in {
            "jit_set_on_host": ["--data.no-on-device"],
            "jit_set_on_device": ["--data.on-device"],
            "pmap_set_on_host": ["--training.parallelism", "pmap"],
        }.items():
            words = [*scale.words, *_directory(data), *flags]
            yield 1, [Part(name, "timed", {**timed, "words": words})]

        together = {"benchmark": "seeds", "dtype": dtype, "platform": platform, **scale.together}
        yield 1, [self._measured("seeds", together)]
        model, size_px, batch, steps = scale.bits
        settings = {"model": model, "size_px": size_px, "batch": batch, "steps": steps}
        for name, flags in {"same_bits": "", "same_bits_deterministic": DETERMINISTIC}.items():
            environment = {
                "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
                "JAX_ENABLE_COMPILATION_CACHE": "false",  # a kept program is one, not two
            }
            yield 1, [Part(name, "same_bits", {**settings, "dtype": dtype}, environment)]
        yield scale.workers, self._runs(configs, data, range(1, scale.seeds))

    def _measured(self, name, settings, environment=None, until=1.0):
        common = {"repeats": self.scale.repeats, "seconds": self.scale.seconds}
        common["without_peers"] = self.options.rehearsal
        return Part(name, "measured", {**common, **settings}, environment or {}, until)

    def _configs(self) -> dict[str, Path]:
        """Variant -> its recorded configuration."""
        if not self.options.data:
            return {}
        found = sorted((Path(self.options.data) / "configurations").glob("*.json"))
        return {path.stem: path for path in found[: self.scale.variants]}

    def _runs(self, configs, data, seeds):
        """A run for each seed and configuration, once it is known how many steps they can have."""
        chosen = self.result("study_steps")
        if not chosen:
            return []
        steps = chosen["steps"]
        parts = []
        for seed, (name, path) in itertools.product(seeds, configs.items()):
            folder = self.folder / "runs" / f"{name}-seed{seed}"
            words = ["--config", str(path), *self.scale.words, *_directory(data)]
            words += [*_length(steps), "--seed", str(seed), "--workdir", str(folder)]
            parts.append(Part(f"run_{name}_seed{seed}", "train", {"words": words}))
        return parts

    # ---- their records

    def record(self, name: str) -> dict[str, Any]:
        """What is recorded of a part; nothing of one that has not ended."""
        path = self.folder / f"{name}.json"
        return read_object(path) if path.exists() else {}

    def result(self, name: str) -> Any:
        """What a part came to; None if it failed or has not ended."""
        return self.record(name).get("result")

    def records(self) -> list[dict[str, Any]]:
        """Of all parts that ended, in the order in which they did."""
        return [
            read_object(path)
            for path in sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        ]

    # ---- their work

    def all(self) -> None:
        """Begins with what was never tried in its time; then come what had to wait, and what
        failed before this call."""
        for again in (False, True):
            for workers, parts in self.stages():
                self.work([part for part in parts if self._is_due(part, again)], workers)
                if self.left_s <= 0:
                    return

    def _is_due(self, part, again):
        if part.name in self.tried or "result" in (recorded := self.record(part.name)):
            return False
        over = (time.monotonic() - self.begun) / self.options.limit_s > part.until
        return again or not (over or recorded)

    @property
    def left_s(self) -> float:
        """Seconds until the last part must end."""
        return self.end - time.monotonic()

    def work(self, parts: Sequence[Part], workers: int = 1) -> None:
        """Does parts, so many at once; those that the limit cuts short leave no record."""
        waiting, running = list(parts), {}
        try:
            while (waiting or running) and self.left_s > 0:
                while waiting and len(running) < workers:
                    part = waiting.pop(0)
                    self.tried.add(part.name)
                    running[part.name] = part, self._start(part), time.monotonic()
                for part, process, begun in list(running.values()):
                    seconds = time.monotonic() - begun
                    late = seconds > MOST_S
                    if late:
                        _end([process], self.grace_s)
                    if process.poll() is not None:
                        process.stdin.close()
                        del running[part.name]
                        self._ended(part, seconds, late)
                time.sleep(0.05)
        finally:
            _end([process for _, process, _ in running.values()], self.grace_s)

    def _start(self, part):
        log, answer = self._log(part), self._answer(part)
        answer.unlink(missing_ok=True)
        words = [part.function, json.dumps(dict(part.settings)), str(answer)]
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", __name__, *words],
                stdin=subprocess.PIPE,  # by whose end it learns that this process has gone
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **part.environment},
                process_group=0,
            )

    def _ended(self, part, seconds, late):
        """Records a part: what it answered, or why it did not."""
        answer = self._answer(part)
        record = {"part": part.name, "seconds": round(seconds, 2)}
        if answer.exists():
            record["result"] = read_object(answer)["result"]
            answer.unlink()
        else:
            lines = self._log(part).read_text(encoding="utf-8", errors="replace").splitlines()
            last = next(
                (line.strip() for line in reversed(lines) if line.strip()), "it said nothing"
            )
            record["failed"] = f"it took longer than {MOST_S} s" if late else last[:300]
        if part.function == "machine":
            self.machine = record.get("result") or {}
        record["machine"] = dict(self.machine)
        write_object(self.folder / f"{part.name}.json", record)
        print(f"{part.name}: {record.get('failed') or 'done'}, {seconds:.0f} s", flush=True)

    def _log(self, part):
        return self.folder / "logs" / f"{part.name}.log"

    def _answer(self, part):
        return self.folder / "logs" / f"{part.name}.json"


def _end(processes, grace_s):
    """Ends processes and all that they started: by asking first, so that a run saves its state."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    end = time.monotonic() + grace_s
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(end - time.monotonic(), 0))
        _signal(process, signal.SIGKILL)
        process.wait()
        process.stdin.close()


def _signal(process, number):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _directory(data):
    return ["--data.directory", data] if data else []


def _length(steps):
    """Words for a run of so many steps, validated at its end alone."""
    return [
        *("--training.steps", str(steps), "--optimizer.warmup-steps", str(steps // 20)),
        *("--training.validate-every-steps", str(steps)),
        *("--training.log-every-steps", str(max(steps // 20, 1))),
    ]


def run(argv: Sequence[str], module: str) -> bool:
    """The command. Returns whether a part failed.

    Raises:
        InputError: there is no accelerator, or --data is no folder that was filled.
    """
    from cnn_jax.configuration import command_line

    options = command_line.options(Options, argv, f"{module} --accelerator", __doc__)
    if options.data and not (Path(options.data) / "configurations").is_dir():
        raise InputError(
            f"--data {options.data} holds no configurations: fill it with python -m"
            " experiments.accelerator."
        )
    parts = Parts(options)
    parts.work([Part("machine", "machine")])
    if not parts.machine:
        failed = parts.record("machine").get("failed", "the limit was over before JAX had begun")
        raise InputError(f"JAX doesn't start here ({failed.rstrip('.')}): mend that first.")
    if parts.machine["platform"] == "cpu" and not options.rehearsal:
        raise InputError(
            "JAX finds no accelerator here: install its build for this one, or give --rehearsal to"
            " see on the CPU that all runs."
        )
    print(f"{parts.machine['device_kind']}: at most {options.limit_s:.0f} s", flush=True)
    parts.all()
    records = parts.records()
    text = report(records)
    write_text(parts.folder / "README.md", text)
    print(f"\n{text}\nrecords: {parts.folder}")
    if parts.left_s <= 0:
        print("the time is over; the same command again goes on")
    return any("failed" in record for record in records)


# ---- what is done in a part's own process; each returns plain JSON


def machine() -> dict[str, Any]:
    """Devices and versions."""
    return measuring.environment()


def measured(benchmark: str, platform: str, **settings: Any) -> dict[str, Any]:
    """The rows of another benchmark.

    Raises:
        measuring.SideFailed: ours failed in one of them.
    """
    import importlib

    module = importlib.import_module(f"cnn_jax.benchmarks.{benchmark}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    options = module.Options(**settings)
    options.platform = platform
    rows = list(module.measure(options))
    for row in rows:
        print(measuring.line(row), flush=True)
        if not row["rates"] or module.SIDES[0] in row["failed"]:
            raise measuring.SideFailed("; ".join(f"{k}: {v}" for k, v in row["failed"].items()))
    return {"rows": rows}


def configured(config: str, words: Sequence[str]) -> Any:
    """A recorded configuration with changes, checked; a small U-Net on synthetic scenes if there
    is none."""
    from cnn_jax import run, tasks
    from cnn_jax.configuration.schema import SegmentationConfig

    def default() -> SegmentationConfig:
        """A U-Net."""
        return SegmentationConfig(model=tasks.model_config("unet"))

    named = ["--config", config] if config else []
    return run.configured("cnn_jax.run", {"default": default}, [*named, *words])[0]


class Trained:
    """The training step of a configuration, as a run takes it.

    Args:
        config: checked.
        dataset: that of the configuration.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        import jax
        import numpy as np

        from cnn_jax import tasks
        from cnn_jax.data.pipeline import training_batches
        from cnn_jax.data.resident import Numbers
        from cnn_jax.tasks.network import initial_state, training_step
        from cnn_jax.training.devices import Devices, arithmetic

        self.config, training = config, config.training
        self.learner: Any = tasks.of(config.task).learner(config, dataset.info)
        self.devices = Devices(training.parallelism)
        source = dataset.training_source(self.learner)
        on_device = config.data.on_device
        self.batches = training_batches(
            Numbers(len(source)) if on_device else source,
            seed=config.seed,
            batch_size=training.batch_size,
        )
        resident = dataset.resident(self.learner) if on_device else {}
        constant = np.uint32(config.seed), resident
        self.constant = jax.device_put(constant, self.devices.replicated)
        self.state = lambda: self.devices.replicate(initial_state(self.learner))
        step = self.devices.jit_step(training_step(self.learner, self.devices.axis_name))
        batch = self.devices.place_for_training(self.batches[0])
        state = jax.eval_shape(lambda: initial_state(self.learner))
        if training.parallelism == "pmap":
            replicas = (self.devices.count,)
            state = jax.tree.map(lambda x: x.update(shape=(*replicas, *x.shape)), state)
        begun = time.perf_counter()
        with arithmetic():
            self.lowered = step.lower(state, batch, *self.constant)
        self.lower_s = time.perf_counter() - begun

    def compile(self) -> tuple[Any, float]:
        """(the program, seconds that took)."""
        begun = time.perf_counter()
        return self.lowered.compile(), time.perf_counter() - begun

    def time(self, compiled: Any, steps: int) -> dict[str, Any]:
        """Seconds of so many steps after the first, the waiting for data among them; and of what
        steps."""
        import jax

        from cnn_jax.data.pipeline import Timed
        from cnn_jax.tasks.network import placed

        ahead = Timed(placed(self.batches, 0, self.devices, self.config.data))
        state, _ = compiled(self.state(), next(ahead), *self.constant)
        jax.block_until_ready(state)
        ahead.waited_s, begun = 0.0, time.perf_counter()
        for _ in range(steps):
            state, ahead.computing = compiled(state, next(ahead), *self.constant)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - begun
        return {
            "model": self.config.model.name,
            "crop_px": list(self.config.data.crop_px),
            "batch_size": self.config.training.batch_size,
            "parallelism": self.devices.parallelism,
            "on_device": self.config.data.on_device,
            "steps": steps,
            "step_s": seconds / steps,
            "images_per_second": steps * self.config.training.batch_size / seconds,
            "data_wait_fraction": ahead.waited_s / seconds,
        }


def timed(config: str, words: Sequence[str], steps: int) -> dict[str, Any]:
    """A training step's seconds, and what share of them the device waits for data."""
    from cnn_jax import tasks

    chosen = configured(config, words)
    trained = Trained(chosen, tasks.of(chosen.task).dataset(chosen))
    compiled, compile_s = trained.compile()
    return {"compile_s": compile_s, **trained.time(compiled, steps)}


def study_steps(
    configs: Mapping[str, str], words: Sequence[str], timed_steps: int, seconds: float, workers: int
) -> dict[str, Any]:
    """How many steps every network of the study can train for, so that one seed of all ends within
    `seconds`: what compilation, evaluation and pictures leave, divided by a step of each."""
    from cnn_jax import tasks

    chosen = {name: configured(path, words) for name, path in configs.items()}
    first = next(iter(chosen.values()))
    begun = time.perf_counter()
    dataset = tasks.of(first.task).dataset(first)
    opening_s = time.perf_counter() - begun
    found = {}
    trained, programs = {}, {}
    with ThreadPoolExecutor(len(processor.cores())) as pool:  # compiled while others are traced
        for name, config in chosen.items():
            trained[name] = Trained(config, dataset)
            programs[name] = pool.submit(trained[name].compile)
    for name, each in trained.items():
        program, compile_s = programs.pop(name).result()
        preparing = {"lower_s": each.lower_s, "compile_s": compile_s}
        found[name] = {**preparing, **each.time(program, timed_steps)}
        print(f"{name}: {found[name]}", flush=True)
    # A run begins, opens the data, traces and compiles its step and, in about the time of that,
    # what evaluates; the runs at once share that, but not the device.
    preparing_s = [each["lower_s"] + each["compile_s"] for each in found.values()]
    beside = sum(2 * each + opening_s + STARTING_S for each in preparing_s) / workers
    step_s = sum(each["step_s"] for each in found.values())
    steps = max(int((seconds - beside) / step_s), timed_steps)
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_beside_steps": beside,
        "seconds_of_a_step_of_each": step_s,
        "networks": found,
    }


STARTING_S = 20
"""Of a run, about: imports, the device's start, pictures."""


def train(words: Sequence[str]) -> dict[str, Any]:
    """A run of the study, begun or resumed: its figures."""
    from cnn_jax import run

    code = run.main("cnn_jax.run", {}, words)
    if code:
        sys.exit(code)
    workdir = Path(words[words.index("--workdir") + 1])
    return read_object(workdir / "summary.json")


def predict(run: str) -> dict[str, Any]:
    """Pixels a second that a finished run predicts, of the test scenes in its data, after the
    first."""
    import numpy as np

    from cnn_jax.inference.predictor import load

    loaded = load(run)
    dataset: Any = loaded.open_data()
    scenes = dataset.scenes["test"]
    images = [scenes[index][0] for index in range(min(len(scenes), 4))]
    loaded.predict(images[0])
    begun = time.perf_counter()
    for image in images:
        loaded.predict(image)
    seconds = time.perf_counter() - begun
    pixels = int(sum(np.prod(image.shape[:2]) for image in images))
    return {"scenes": len(images), "pixels": pixels, "pixels_per_second": pixels / seconds}


def same_bits(
    model: str, size_px: Sequence[int], batch: int, steps: int, dtype: str
) -> dict[str, Any]:
    """How far two processes lie apart that train the same from the same seed."""
    import numpy as np

    one, other = (
        measuring.apart(weights_after, model, tuple(size_px), batch, steps, dtype) for _ in "ab"
    )
    apart = [float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)]
    return {
        "model": model,
        "size_px": list(size_px),
        "batch": batch,
        "dtype": dtype,
        "same": all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True)),
        "arrays": len(apart),
        "differing_arrays": sum(map(bool, apart)),
        "largest_difference": max(apart),
        "largest_weight": max(float(np.abs(a).max()) for a in one),
        "steps": steps,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def weights_after(
    model: str, size_px: Sequence[int], batch: int, steps: int, dtype: str
) -> list[Any]:
    """A network's parameters after so many steps on one batch, in this process."""
    import jax
    import numpy as np

    from cnn_jax.benchmarks import train_step

    _, step, initial_state = train_step.our_step(model, size_px, dtype)
    images, labels = train_step.example(model, size_px, batch)
    examples = {"image": images, "label": labels, "position": np.arange(batch, dtype=np.uint32)}
    step, state = jax.jit(step, donate_argnums=0), initial_state(0)
    for _ in range(steps):
        state, _ = step(state, jax.device_put(examples), np.uint32(0))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.variables["params"])]


# ---- the report


def report(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: the training steps and what they reached, the study, the rest, what failed."""
    from cnn_jax.reporting.table import escaped, markdown

    results = {record["part"]: record["result"] for record in records if "result" in record}
    devices = {str(r["machine"].get("device_kind")) for r in records if r.get("machine")}
    texts = [f"# {', '.join(sorted(devices))}"]

    steps, others = [], []
    for name, result in results.items():
        for row in result.get("rows", ()):
            if name.startswith("step_"):
                steps.append([escaped(row["case"]), *_reached(row)])
            if not name.startswith("step_") or row["failed"]:
                others.append(measuring.line(row))
    if steps:
        header = [
            "training step",
            "images/s",
            "PyTorch's",
            "ratio",
            f"{WANTED_RATIO} times",
            "share of peak",
            f"{WANTED_SHARE:.0%}",
            "compilation",
        ]
        texts.append(markdown(header, steps, text_columns={0}))
    runs = [
        [
            escaped(name.removeprefix("run_")),
            f"{result['steps']:,}",
            _shown(result.get("test/miou"), "{:.4f}"),
            _shown(result.get("train/images_per_second"), "{:,.0f}"),
            _shown(result.get("wall_time_s"), "{:.0f} s"),
        ]
        for name, result in results.items()
        if name.startswith("run_")
    ]
    if runs:
        texts.append(
            "Too few steps to say which network is better once it has converged; several of them"
            " shared the device, so the speeds are no measurements."
        )
        header = ["run", "steps", "test mIoU", "training images/s", "training"]
        texts.append(markdown(header, runs, text_columns={0}))
    for name, result in results.items():
        if "data_wait_fraction" in result:
            others.append(
                f"{name}: {result['images_per_second']:,.0f} images/s,"
                f" {result['data_wait_fraction']:.1%} of the time waiting for data"
            )
        elif "pixels_per_second" in result:
            others.append(f"{name}: {result['pixels_per_second'] / 1e6:.2f} megapixels/s")
        elif "same" in result:
            apart = f"apart by at most {result['largest_difference']:.2g}"
            verdict = "the same bits" if result["same"] else apart
            others.append(
                f"{name}: two runs of {result['steps']} steps are {verdict}"
                f" (XLA_FLAGS {result['xla_flags'] or 'empty'})"
            )
    others += [f"{r['part']} failed: {r['failed']}" for r in records if "failed" in r]
    texts.append("\n".join(f"- {escaped(line)}" for line in others))
    return "\n\n".join(filter(None, texts)) + "\n"


def _reached(row):
    """The cells of a training step: speeds, ratio and share, and whether they are what is
    wanted."""
    ratio = row["ratios"].get("pytorch", {}).get("median")
    share = row.get("share_of_peak", {}).get("cnn_jax")
    compiled = [_shown(known.get("compile_s"), "{:.0f} s") for known in row["facts"].values()]
    return [
        *(_shown(row["rates"].get(side), "{:,.0f}") for side in ("cnn_jax", "pytorch")),
        _shown(ratio, "{:.2f}"),
        _yes(ratio, WANTED_RATIO),
        _shown(share, "{:.1%}"),
        _yes(share, WANTED_SHARE),
        ", ".join(compiled),
    ]


def _shown(value, form):
    return "" if value is None else form.format(value)


def _yes(value, wanted):
    return "" if value is None else "yes" if value >= wanted else "no"


# ---- a part's process


def serve(function: str, settings: str, answer: str) -> None:
    """Does a part's work, and writes what it comes to, once it has ended."""
    from cnn_jax.runtime import compilation_cache

    def watch():
        os.read(0, 1)  # nothing is ever written: it returns when the command has gone
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    # Several runs share the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    compilation_cache.keep_programs()
    result = globals()[function](**json.loads(settings))
    compilation_cache.sign_programs()
    write_object(Path(answer), {"result": result})


if __name__ == "__main__":
    serve(*sys.argv[1:])
