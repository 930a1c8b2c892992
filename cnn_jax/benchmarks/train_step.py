"""One training step beside PyTorch's: forward, cross-entropy, backward, AdamW.

Ours is `cnn_jax.training.step`'s, which also counts right predictions and takes the gradient's
norm, with an augmentation that only normalises. Theirs is the same network, with as many
parameters, as one writes it in PyTorch: the U-Nets in twins.py, ResNet-50 of torchvision,
DeepLabV3+ of segmentation_models_pytorch. On a CPU it runs eagerly, as it comes, with as many
threads as there are cores; on a GPU with channels_last, autocast to bfloat16 (ours computes in
bfloat16 there too), torch.compile and the fused AdamW.

Both get the same batches, uint8 images that lie on the device already, and take the steps of one
repetition one after another without waiting for the host. On Linux our process keeps its memory in
huge pages, as our commands do (`cnn_jax.runtime.memory`), and PyTorch as it comes; whoever sets
GLIBC_TUNABLES to something else sets it for both. Reading data is left out, and so is compilation:
every step's program is compiled and run before the clock starts; the record has the seconds that
took, on PyTorch's side those of the first step. On an accelerator that the table
in this file knows, the share of its peak is given: 6 operations for each multiply-add of the
forward pass (forward and both gradients), whatever the compiler makes of them.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnn_jax.benchmarks import measuring, networks
from cnn_jax.configuration.schema import nearest, setting
from cnn_jax.errors import InputError
from cnn_jax.runtime import processor

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("torch", "torchvision", "timm", "segmentation_models_pytorch")
SIDES = ("cnn_jax", "pytorch")

PEAK_FLOPS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v6 lite": 918e12,
}
"""JAX's `device_kind` -> dense bfloat16 operations a second, by the makers' data sheets."""


@dataclass
class Options(measuring.Options):
    """Which cases are measured: all combinations."""

    models: tuple[str, ...] = setting(networks.MEASURED, "networks")
    sizes: tuple[str, ...] = setting(("144x256", "512x512"), "heights and widths", unit="px")
    batches: tuple[int, ...] = setting(
        (), "images a step; empty: 1 4 on a CPU, 1 8 32 elsewhere", at_least=1
    )
    dtype: str = setting(
        "",
        "of the computation; empty: float32 on a CPU, else bfloat16",
        choices=("", "float32", "bfloat16"),
    )


def measure(options: Options) -> Iterator[dict]:
    """A row a network, size and batch."""
    for case in cases(options):
        row = measuring.compare(__name__, case, SIDES, options, note=note)
        yield row | share_of_peak(row)


def share_of_peak(row: dict) -> dict:
    """{"share_of_peak": {side: 0 to 1}} of a row whose accelerator is known, else nothing."""
    known = row["facts"].get("cnn_jax", {})
    if not known.get("peak_flops"):
        return {}
    each = {
        side: 6 * known["multiply_adds"] * rate / known["peak_flops"]
        for side, rate in row["rates"].items()
    }
    return {"share_of_peak": each}


def cases(options: Options) -> list[measuring.Case]:
    """What the flags ask for.

    Raises:
        InputError: one of them is no network, size or number.
    """
    on_cpu = options.platform == "cpu"
    for name in options.models:
        if name not in networks.NETWORKS:
            raise InputError(f"--models names {name!r}: {nearest(name, networks.NETWORKS)}.")
    sizes = [size_px("--sizes", size) for size in options.sizes]
    batches = options.batches or ((1, 4) if on_cpu else (1, 8, 32))
    settings = {
        "dtype": options.dtype or ("float32" if on_cpu else "bfloat16"),
        "platform": options.platform,
    }
    return [
        measuring.Case(
            f"{name} {size[0]}x{size[1]} batch {batch}",
            {"model": name, "size_px": size, "batch": batch, **settings},
            work=batch,
            unit="images",
        )
        for name, size, batch in itertools.product(options.models, sizes, batches)
    ]


def note(facts: dict) -> str:
    """How many parameters the network has; it must be as many on all sides."""
    counts = [known["parameters"] for known in facts.values()]
    if len(set(counts)) > 1:
        raise AssertionError(f"the sides differ in their parameters: {counts}")
    return f"{counts[0]:,} parameters" if counts else ""


def size_px(flag: str, text: str) -> tuple[int, int]:
    """Height and width from text such as 144x256.

    Raises:
        InputError: it is none, naming the flag.
    """
    words = text.split("x")
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"{flag} has {text!r}; write height and width in px, such as 144x256.")
    return int(words[0]), int(words[1])


def prepare(side: str, settings: dict) -> tuple[Callable, dict]:
    """(run, facts) of a side, as the package asks for."""
    return {"cnn_jax": _ours, "pytorch": _theirs}[side](**settings)


def example(
    model: str, size_px: Sequence[int], batch: int, seed: int = 0
) -> "tuple[np.ndarray, np.ndarray]":
    """Random uint8 images `[batch, height, width, 3]`, and labels: uint8 `[batch, height, width]`,
    or int32 `[batch]` of images."""
    import numpy as np

    network, random = networks.NETWORKS[model], np.random.default_rng(seed)
    images = random.integers(0, 256, (batch, *size_px, 3), np.uint8)
    if network.dense:
        return images, random.integers(0, network.classes, (batch, *size_px), np.uint8)
    return images, random.integers(0, network.classes, batch, np.int32)


def our_step(model: str, size_px: Sequence[int], dtype: str) -> tuple[Any, Callable, Callable]:
    """(the Flax module, the step of `make_train_step`, a function that makes its state from a
    seed)."""
    import jax
    import jax.numpy as jnp
    import optax

    from cnn_jax.data.augmentation import normalize
    from cnn_jax.training.devices import arithmetic
    from cnn_jax.training.losses import cross_entropy, hits
    from cnn_jax.training.state import create
    from cnn_jax.training.step import make_train_step

    network = networks.ours(model, size_px, dtype)
    measured = networks.NETWORKS[model]
    optimizer = optax.adamw(1e-3, weight_decay=1e-4)

    def augment(keys, batch):
        images = normalize(batch["image"].astype(jnp.float32) / 255, (0.5,) * 3, (0.25,) * 3)
        labels = batch["label"].astype(jnp.int32)
        return images, labels if measured.dense else jax.nn.one_hot(labels, measured.classes)

    def loss_and_metrics(logits, labels):
        return {"loss": cross_entropy(logits, labels), "accuracy": hits(logits, labels)}

    step = make_train_step(network, loss_and_metrics, optimizer, augment)

    def traced(*arguments):
        with arithmetic():
            return step(*arguments)

    height, width = size_px
    return (
        network,
        traced,
        lambda seed: create(network, optimizer, seed, (height, width, 3), averaged=False),
    )


def _ours(model, size_px, batch, dtype, platform):
    import jax
    import numpy as np

    from cnn_jax.analysis.layer_table import summarize
    from cnn_jax.training.state import parameter_count

    network, step, initial_state = our_step(model, size_px, dtype)
    images, labels = example(model, size_px, batch)
    examples = jax.device_put(
        {"image": images, "label": labels, "position": np.arange(batch, dtype=np.uint32)}
    )
    state, seed = initial_state(0), jax.device_put(np.uint32(0))
    begun = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, examples, seed).compile()
    facts = {
        "parameters": parameter_count(state.variables),
        "dtype": dtype,
        "compile_s": time.perf_counter() - begun,
        "multiply_adds": summarize(network, (*size_px, 3)).multiply_adds,
        "peak_flops": PEAK_FLOPS.get(jax.devices()[0].device_kind) if dtype == "bfloat16" else None,
    }

    def run(times):
        nonlocal state
        for _ in range(times):
            state, metrics = compiled(state, examples, seed)
        jax.block_until_ready((state, metrics))

    return run, facts


def _theirs(model, size_px, batch, dtype, platform):
    import torch

    device = torch_device(platform)
    network = networks.theirs(model, size_px).to(device).train()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    images, labels = example(model, size_px, batch)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.from_numpy(labels).long().to(device)
    if device.type == "cuda":
        images = images.contiguous(memory_format=torch.channels_last)
        network = torch.compile(network.to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-3, weight_decay=1e-4, fused=device.type == "cuda" or None
    )

    def run(times):
        for _ in range(times):
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
                logits = network((images.float() / 255 - 0.5) / 0.25)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    begun = time.perf_counter()
    run(1)  # torch.compile's part is done in the first step
    return run, {
        "parameters": parameters,
        "dtype": dtype,
        "compile_s": time.perf_counter() - begun,
        "threads": torch.get_num_threads(),
        "device": device.type,
    }


def torch_device(platform: str) -> Any:
    """Where PyTorch works: where JAX does. On a CPU it gets as many threads as there are cores.

    Raises:
        SideFailed: it can't.
    """
    import torch

    torch.set_num_threads(len(processor.cores()))
    if platform == "gpu" and not torch.cuda.is_available():
        raise measuring.SideFailed("this build of PyTorch sees no GPU, and JAX does")
    if platform not in ("cpu", "gpu"):
        raise measuring.SideFailed(
            f"PyTorch does not work on a {platform.upper()}; measure with --without-peers"
        )
    return torch.device("cuda" if platform == "gpu" else "cpu")
