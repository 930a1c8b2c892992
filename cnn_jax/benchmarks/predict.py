"""A scene predicted in overlapping windows and blended, beside MONAI's sliding window in PyTorch.

The same network with as many parameters, its weights random; windows of the same size that overlap
by a quarter, weighted by a Gaussian; from a scene of bytes in memory to its class map, uint8
`[height, width]`. Ours is `Run.predict_rows`, which holds one row of windows at a time and finishes
rows as it goes; theirs is `monai.inferers.sliding_window_inference`, which holds the whole scene's
logits. Compilation is left out. Memory is the greatest resident set of a process that predicts the
scene once, imports and network included.

PyTorch's settings are those of train_step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax.benchmarks import measuring, networks, train_step
from cnn_jax.configuration.schema import nearest, setting
from cnn_jax.errors import InputError

NEEDS = ("torch", "monai")
SIDES = ("cnn_jax", "monai")
OVERLAP = 0.25
CLASSES = 5


@dataclass
class Options(measuring.Options):
    """Which networks, and a scene of which size."""

    models: tuple[str, ...] = setting(("unet16",), "networks that segment")
    scene: str = setting("4000x4000", "height and width of the scene", unit="px")
    window: str = setting("512x512", "height and width of a window", unit="px")
    batch: int = setting(0, "windows at once; 0: 2 on a CPU, else 16", at_least=0)


def measure(options: Options) -> Iterator[dict]:
    """A row a network."""
    settings = {
        "scene_px": train_step.size_px("--scene", options.scene),
        "window_px": train_step.size_px("--window", options.window),
        "batch": options.batch or (2 if options.platform == "cpu" else 16),
        "platform": options.platform,
    }
    height, width = settings["scene_px"]
    for name in options.models:
        if name not in networks.NETWORKS or not networks.NETWORKS[name].dense:
            dense = [name for name, network in networks.NETWORKS.items() if network.dense]
            raise InputError(
                f"--models names {name!r}, which segments nothing: {nearest(name, dense)}."
            )
        case = measuring.Case(
            f"{name}, {options.scene}, windows of {options.window}",
            {"model": name, **settings},
            work=height * width / 1e6,
            unit="megapixels",
        )
        row = measuring.compare(__name__, case, SIDES, options, note=train_step.note)
        yield measuring.with_peaks(__name__, row)


def prepare(side: str, settings: dict) -> tuple[Callable, dict]:
    """(run, facts) of a side, as the package asks for."""
    predict, facts = {"cnn_jax": _ours, "monai": _theirs}[side](**settings)

    def run(times):
        for _ in range(times):
            predict()

    return run, facts


def scene(size_px: tuple[int, int]) -> Any:
    """Bytes `[height, width, 3]`, the same for all sides."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (*size_px, 3), np.uint8)


def _ours(model, scene_px, window_px, batch, platform):
    import jax
    import numpy as np

    from cnn_jax import tasks
    from cnn_jax.configuration.schema import DataConfig, EvaluationConfig, SegmentationConfig
    from cnn_jax.inference.predictor import Run
    from cnn_jax.tasks.network import abstract_variables
    from cnn_jax.training.devices import Devices
    from cnn_jax.training.state import parameter_count

    network = networks.NETWORKS[model]
    overlap = int(OVERLAP * min(window_px))
    config = SegmentationConfig(
        model=tasks.model_config(network.model, **network.options),
        data=DataConfig(crop_px=tuple(window_px)),
        evaluation=EvaluationConfig(
            window_px=tuple(window_px), context_px=overlap // 2, batch_size=batch
        ),
    )
    info = networks.data_info(CLASSES)
    learner: Any = tasks.of("segmentation").learner(config, info)
    devices = Devices()
    draw = np.random.default_rng(0).random  # as `load` does, this compiles nothing
    variables = jax.tree.map(
        lambda leaf: draw(leaf.shape, np.float32) / leaf.size**0.5, abstract_variables(learner)
    )
    variables = devices.copy(variables)
    run = Run(Path(), config, info, {}, learner, variables, devices)
    pixels = scene(scene_px)
    classes = np.empty(tuple(scene_px), np.uint8)

    def predict():
        for first, rows in run.predict_rows(lambda a, b: pixels[a:b], *scene_px):
            classes[first : first + len(rows)] = rows.argmax(-1)

    return predict, {"parameters": parameter_count(variables)}


def _theirs(model, scene_px, window_px, batch, platform):
    import torch
    from monai.inferers import sliding_window_inference

    device = train_step.torch_device(platform)
    network = networks.theirs(model, window_px, CLASSES).to(device).eval()
    pixels = scene(scene_px)

    def logits(windows):
        return network((windows.float() / 255 - 0.5) / 0.25)

    def predict():
        with torch.inference_mode():
            images = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device)
            found = sliding_window_inference(
                images.float(),
                tuple(window_px),
                batch,
                logits,
                overlap=OVERLAP,
                mode="gaussian",
            )
            return found.argmax(1).to(torch.uint8).cpu().numpy()[0]  # type: ignore[union-attr]

    facts = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "threads": torch.get_num_threads(),
    }
    return predict, facts
