"""How long from the command to the first training step, with an empty cache of programs and with
one that another seed filled.

The real command is started in a fresh process each time, for one step alone, and watched from
outside: the clock stops when metrics.jsonl has its line of that step, and the process is ended.
Interpreter, imports, data, tracing, compilation (or reading what was compiled) and the step itself
all count. Cold and warm runs take turns; before the warm ones a run with another
seed has filled their cache. The last row is `import cnn_jax` by itself. There is no peer.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.benchmarks import measuring
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError

NEEDS = ()

COMMANDS = {
    "U-Net": ("--config=smoke",),
    "DeepLabV3+": ("--config", "smoke", "--model.name", "deeplabv3plus"),
}
"""Case -> what follows `python -m experiments.aerial_unet`."""

_POLL_S = 0.005


@dataclass
class Options(measuring.Options):
    """Which commands are measured."""

    cases: tuple[str, ...] = setting(tuple(COMMANDS), "commands", choices=COMMANDS)


def measure(options: Options) -> Iterator[dict]:
    """A row a command, and one for the import."""
    for name in options.cases:
        case = measuring.Case(
            name, {"command": ["experiments.aerial_unet", *COMMANDS[name]]}, unit="starts"
        )
        seconds = {"warm": [], "cold": []}
        with tempfile.TemporaryDirectory() as filled:
            first_step(COMMANDS[name], filled, seed=options.repeats)
            for number, side in enumerate(measuring.order(tuple(seconds), options.repeats)):
                with tempfile.TemporaryDirectory() as empty:
                    caches = filled if side == "warm" else empty
                    seconds[side].append(first_step(COMMANDS[name], caches, seed=number // 2))
        yield measuring.row(case, seconds)
    timed = (
        "import time; start = time.perf_counter(); import cnn_jax; print(time.perf_counter() -"
        " start)"
    )
    imported = [float(_output(timed)) for _ in range(options.repeats)]
    yield measuring.row(measuring.Case("import cnn_jax", unit="imports"), {"cnn_jax": imported})


def first_step(arguments: Sequence[str], caches: str, seed: int) -> float:
    """Seconds from starting the command to its first line of metrics; `caches` is the user's cache
    folder.

    Raises:
        InputError: the command ended before.
    """
    with tempfile.TemporaryDirectory() as folder, measuring.as_it_comes():
        environment = {
            name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"
        }
        metrics, log = Path(folder) / "run" / "metrics.jsonl", Path(folder) / "log"
        command = [
            sys.executable,
            "-m",
            "experiments.aerial_unet",
            *arguments,
            f"--seed={seed}",
        ]
        command += [
            "--training.steps=1",
            "--optimizer.warmup_steps=0",
            "--workdir",
            str(metrics.parent),
        ]
        with log.open("w", encoding="utf-8") as output:
            start = time.perf_counter()
            process = subprocess.Popen(
                command,
                env=environment | {"XDG_CACHE_HOME": caches},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                while not (metrics.exists() and metrics.stat().st_size):
                    if process.poll() is not None:
                        raise InputError(
                            "the command ended before its first step:"
                            f" {log.read_text(encoding='utf-8')[-300:]}"
                        )
                    time.sleep(_POLL_S)
                return time.perf_counter() - start
            finally:
                process.kill()
                process.wait()


def _output(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
