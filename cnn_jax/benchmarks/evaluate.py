"""Whole scenes evaluated at original resolution, beside a sliding window in PyTorch over the same
windows.

The same network with as many parameters, its weights random; the same overlapping windows, each
pixel counted once; on both sides normalisation, logits, the most likely class and a confusion
matrix for each scene. Ours is `SceneEvaluator`, which also adds up the loss and the bins of
calibration; theirs does neither. Megapixels are those of the scenes, not of the windows.

Scenes are decoded before the clock starts, and compilation is left out. PyTorch's settings are
those of train_step; a DataLoader cuts its windows, with two workers on a GPU and in the process
itself on a CPU, where workers would take the cores it computes on.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cnn_jax.benchmarks import measuring, networks, train_step
from cnn_jax.configuration.schema import nearest, setting
from cnn_jax.errors import InputError

NEEDS = ("torch", "torchvision", "timm", "segmentation_models_pytorch")
SIDES = ("cnn_jax", "pytorch")


@dataclass
class Options(measuring.Options):
    """Which networks and which scenes."""

    models: tuple[str, ...] = setting(("unet16",), "networks that segment")
    data: str = setting("", "folder of the Dubai photographs; empty: synthetic scenes", path=True)
    scenes: int = setting(4, "scenes, the first of the test split", at_least=1)
    scene: str = setting("720x1280", "height and width of a synthetic scene", unit="px")
    window: str = setting("288x512", "height and width of a window", unit="px")
    context: int = setting(32, "rim that is seen and not counted", unit="px", at_least=0)
    batch: int = setting(0, "windows at once; 0: 2 on a CPU, else 16", at_least=0)
    dtype: str = setting(
        "",
        "of the computation; empty: float32 on a CPU, else bfloat16",
        choices=("", "float32", "bfloat16"),
    )


def measure(options: Options) -> Iterator[dict]:
    """A row a network."""
    on_cpu = options.platform == "cpu"
    settings = {
        "data": options.data,
        "scenes": options.scenes,
        "scene_px": train_step.size_px("--scene", options.scene),
        "window_px": train_step.size_px("--window", options.window),
        "context_px": options.context,
        "batch": options.batch or (2 if on_cpu else 16),
        "dtype": options.dtype or ("float32" if on_cpu else "bfloat16"),
        "platform": options.platform,
    }
    if 2 * options.context >= min(settings["window_px"]):
        raise InputError("--context must be less than half the --window.")
    known = open_scenes(**settings)[0]
    megapixels = sum(scene.height_px * scene.width_px for scene in known.scenes) / 1e6
    for name in options.models:
        if name not in networks.NETWORKS or not networks.NETWORKS[name].dense:
            dense = [name for name, network in networks.NETWORKS.items() if network.dense]
            raise InputError(
                f"--models names {name!r}, which segments nothing: {nearest(name, dense)}."
            )
        source = "Dubai" if options.data else "synthetic"
        case = measuring.Case(
            f"{name}, {len(known)} {source} scenes, {megapixels:.1f} megapixels",
            {"model": name, **settings, "data": source},
            work=megapixels,
            unit="megapixels",
        )
        hidden = {"data": options.data}  # the record doesn't name a folder of this machine
        yield measuring.compare(__name__, case, SIDES, options, note=train_step.note, hidden=hidden)


def open_scenes(data: str, scenes: int, scene_px: tuple[int, int], **_) -> tuple[Any, int]:
    """(the first `scenes` of the test split, decoded when first used; the number of classes)."""
    from cnn_jax.configuration.schema import DataConfig
    from cnn_jax.data.pipeline import DecodedScenes
    from cnn_jax.data.scene_folders import open_scenes

    if data:
        config = DataConfig(source="dubai", directory=data)
    else:
        config = DataConfig(scene_px=(scene_px[0], scene_px[1]), scene_counts=(1, 1, scenes))
    opened = open_scenes(config)
    return DecodedScenes(opened.splits["test"][:scenes], 8 * 2**30), len(opened.classes)


def prepare(side: str, settings: dict) -> tuple[Callable, dict]:
    """(run, facts) of a side, as the package asks for."""
    evaluate, facts = {"cnn_jax": _ours, "pytorch": _theirs}[side](**settings)

    def run(times):
        for _ in range(times):
            evaluate()

    return run, facts


def _ours(model, window_px, context_px, batch, dtype, **settings):
    import jax
    import jax.numpy as jnp

    from cnn_jax.configuration.schema import EvaluationConfig
    from cnn_jax.data.augmentation import normalize, scaled
    from cnn_jax.evaluation.evaluate import SceneEvaluator, make_window_step
    from cnn_jax.training.devices import Devices
    from cnn_jax.training.losses import cross_entropy
    from cnn_jax.training.state import parameter_count

    scenes, classes = open_scenes(**settings)
    network, devices = networks.ours(model, window_px, dtype, classes), Devices()
    variables = network.init(jax.random.key(0), jnp.zeros((1, *window_px, 3)), train=False)
    step = make_window_step(
        network,
        cross_entropy,
        lambda images: normalize(scaled(images), mean=(0.5,), std=(0.25,)),
        classes,
    )
    config = EvaluationConfig(window_px=tuple(window_px), context_px=context_px, batch_size=batch)
    evaluator = SceneEvaluator(scenes, devices.predict(step), devices, config, classes)
    variables = jax.device_put(variables, devices.replicated)
    facts = {
        "parameters": parameter_count(variables),
        "dtype": dtype,
        "windows": len(evaluator.source),
    }
    return lambda: evaluator.evaluate(variables), facts


def _theirs(model, window_px, context_px, batch, dtype, platform, **settings):
    import torch

    from cnn_jax.evaluation.windows import WindowSource

    device = train_step.torch_device(platform)
    scenes, classes = open_scenes(**settings)
    source = WindowSource(scenes, tuple(window_px), context_px)
    network = networks.theirs(model, window_px, classes).to(device).eval()
    facts = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "dtype": dtype,
        "windows": len(source),
        "threads": torch.get_num_threads(),
    }
    on_gpu = {"num_workers": 2, "persistent_workers": True, "pin_memory": True}
    windows = torch.utils.data.DataLoader(source, batch, **on_gpu if device.type == "cuda" else {})
    if device.type == "cuda":
        network = torch.compile(network.to(memory_format=torch.channels_last))
    return lambda: sliding_window(network, windows, len(scenes), classes, dtype), facts


def sliding_window(
    network: Any, windows: Iterable, scenes: int, classes: int, dtype: str = "float32"
) -> Any:
    """What a PyTorch network's predictions come to: a confusion matrix a scene, a tensor of int64
    `[scenes, classes, classes]` on the host.

    Args:
        network: in evaluation mode, on its device.
        windows: batches of `WindowSource`'s elements.
        scenes: their number.
        classes: their number.
        dtype: bfloat16 for autocast.
    """
    import torch

    device = next(network.parameters()).device
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    confusion = torch.zeros(scenes * classes * classes, dtype=torch.int64, device=device)
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"),
    ):
        for batch in windows:
            images = (
                batch["image"]
                .to(device, non_blocking=True)
                .permute(0, 3, 1, 2)
                .contiguous(memory_format=layout)
            )
            labels = batch["mask"].to(device, non_blocking=True).long()
            places = batch["scene"].to(device, non_blocking=True).long()[:, None, None]
            predictions = network((images.float() / 255 - 0.5) / 0.25).argmax(1)
            counted = labels < classes
            entries = ((places * classes + labels) * classes + predictions)[counted]
            confusion += torch.bincount(entries, minlength=len(confusion))
    return confusion.reshape(scenes, classes, classes).cpu()
