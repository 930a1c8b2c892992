"""What devices say to each other in a training step, counted from the compiled program.

For 1, 2, 4 and 8 devices of one process, and for 2 and 4 processes: the bytes that enter the step's
collective operations, as XLA compiled it, against the bytes of the parameters. The devices are CPUs
made of one, so no time is measured; the program's structure is that of any devices under `jit` with
a batch divided among them. A ring passes 2 (n - 1) / n bytes a device for each byte that is summed
over n devices. The global batch grows with the devices, as many examples each.
"""

import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnn_jax.benchmarks import measuring, networks, train_step
from cnn_jax.configuration.schema import nearest, setting
from cnn_jax.errors import InputError

NEEDS = ()
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BYTES = {
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "pred": 1,
}


@dataclass
class Options(measuring.Options):
    """Which networks, how many devices and processes."""

    models: tuple[str, ...] = setting(("unet16", "asymmetric_unet64"), "networks")
    size: str = setting("144x256", "height and width of an image", unit="px")
    batch: int = setting(1, "images a device", at_least=1)
    devices: tuple[int, ...] = setting((1, 2, 4, 8), "devices of one process", at_least=1)
    processes: tuple[int, ...] = setting((2, 4), "processes of one device", at_least=1)


def measure(options: Options) -> Iterator[dict]:
    """A row a network and a number of devices or processes."""
    size = train_step.size_px("--size", options.size)
    layouts = [(1, count) for count in options.devices]
    layouts += [(count, 1) for count in options.processes]
    for model in options.models:
        if model not in networks.NETWORKS:
            raise InputError(f"--models names {model!r}: {nearest(model, networks.NETWORKS)}.")
    for model in options.models:
        for processes, devices in layouts:
            layout = (
                f"{processes} processes"
                if processes > 1
                else f"{devices} device{'s' * (devices > 1)}"
            )
            settings = {
                "model": model,
                "size_px": size,
                "batch": options.batch,
                "processes": processes,
                "devices": devices,
            }
            case = measuring.Case(f"{model} {options.size}, {layout}", settings)
            try:
                facts = _in_processes(settings)
            except measuring.SideFailed as error:
                yield measuring.row(case, {}, {}, failed={"cnn_jax": str(error)})
                continue
            yield measuring.row(case, {}, {"cnn_jax": facts}, note=_note(facts))


def _note(facts):
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["operations"].items()) or "nothing"
    return (
        f"{kinds}: {facts['collective_bytes']:,} bytes a step,"
        f" {facts['collective_bytes'] / facts['parameter_bytes']:.4f} of the parameters'"
        f" {facts['parameter_bytes']:,}; a ring sends {facts['sent_bytes_per_device']:,} a device"
    )


def _in_processes(settings):
    """`count` of the program, computed by as many processes and devices as it is for."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')}"
        f" --xla_force_host_platform_device_count={settings['devices']}"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    program = (
        "import json, sys; from cnn_jax.runtime import processes;"
        " from cnn_jax.benchmarks import scaling;"
        " processes.join(sys.argv[1]); print(json.dumps(scaling.count(**json.loads(sys.argv[2]))));"
        " processes.leave()"
    )
    running = []
    for number in range(settings["processes"]):
        cluster = f"{address},{settings['processes']},{number}" if settings["processes"] > 1 else ""
        given = {name: settings[name] for name in ("model", "size_px", "batch")}
        arguments = [sys.executable, "-c", program, cluster, json.dumps(given)]
        running.append(
            subprocess.Popen(
                arguments,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ended = [process.communicate() for process in running]
    if any(process.returncode for process in running):
        lines = [
            line
            for _, err in ended
            for line in err.splitlines()
            if re.match(r"[\w.]*(Error|error)\b", line)
        ]
        raise measuring.SideFailed(
            lines[0] if lines else f"exit codes {[process.returncode for process in running]}"
        )
    return json.loads(ended[0][0].strip().splitlines()[-1])


def count(model: str, size_px: Sequence[int], batch: int) -> dict:
    """What the step's collective operations carry, in the program for all devices there are.

    Args:
        model: of `networks.NETWORKS`.
        size_px: height and width of an image.
        batch: images a device.

    Returns:
        `devices`, `processes`, `parameter_bytes`, `collective_bytes` (of results, each operation
        once), `sent_bytes_per_device` (by a ring), `operations` ({kind: how many}), `largest_bytes`
        (of one operation).
    """
    import jax

    from cnn_jax.training.devices import Devices

    devices = Devices()
    _, step, initial_state = train_step.our_step(model, tuple(size_px), "float32")
    images, labels = train_step.example(model, size_px, batch * devices.count)
    examples = {
        "image": images,
        "label": labels,
        "position": labels.reshape(len(labels), -1)[:, 0].astype("uint32"),
    }
    state, examples = jax.eval_shape(lambda: initial_state(0)), jax.eval_shape(lambda: examples)
    inputs = devices.replicated, devices.sharded, devices.replicated
    compiled = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=inputs,
        out_shardings=(devices.replicated, devices.replicated),
    )
    found = collectives(
        compiled.lower(state, examples, jax.ShapeDtypeStruct((), "uint32")).compile().as_text()
        or ""
    )
    parameters = sum(
        math.prod(p.shape) * p.dtype.itemsize for p in jax.tree.leaves(state.variables["params"])
    )
    total = sum(size for _, size in found)
    kinds = [kind for kind, _ in found]
    return {
        "devices": devices.count,
        "processes": jax.process_count(),
        "parameter_bytes": parameters,
        "collective_bytes": total,
        "sent_bytes_per_device": round(2 * (devices.count - 1) / devices.count * total),
        "operations": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "largest_bytes": max((size for _, size in found), default=0),
    }


def collectives(program: str) -> list[tuple[str, int]]:
    """(kind, bytes of the result) of every collective operation in the text of a compiled
    program."""
    found = []
    kinds = "|".join(COLLECTIVES)
    for shapes, kind in re.findall(
        rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({kinds})(?:-start)?\(", program, re.MULTILINE
    ):
        sizes = [
            _BYTES.get(dtype, 1) * math.prod(int(n) for n in dimensions.split(",") if n)
            for dtype, dimensions in re.findall(r"\b([a-z]+[0-9]*)\[([\d,]*)\]", shapes)
        ]
        found.append((kind, sum(sizes)))
    return found
