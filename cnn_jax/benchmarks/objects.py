"""Detectors beside torchvision's FCOS: a training step, and evaluation down to the last boxes.

FCOS on both sides has ResNet-50, a pyramid of five levels and 256 channels, heads of four
convolutions and as many parameters; torchvision's BatchNorm is trained like ours. CenterNet, on the
same backbone, has no twin and stands alone.

A step is forward pass, targets, loss, backward pass and SGD with momentum, on random images with
ten boxes each; evaluation goes from bytes to boxes and scores on the host. There both hold 1,000
candidates against each other, whatever their score (random weights have no high ones; torchvision
takes 200 from each level, ours the best of all), and keep up to 200. Images have the network's
size, and neither side resizes them. Compilation is left out. Memory is the greatest resident set of
a process that did the work once, imports and network included.

Torchvision runs eagerly, as it comes, with as many threads as there are cores. Built for GPUs
beside a PyTorch for CPUs it lacks its suppression of boxes; it then gets one, in PyTorch and
NumPy, and the note says so.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cnn_jax.benchmarks import measuring, networks, train_step
from cnn_jax.configuration.schema import nearest, setting
from cnn_jax.errors import InputError

NEEDS = ("torch", "torchvision", "segmentation_models_pytorch")
SIDES = ("cnn_jax", "torchvision")
BOXES, CLASSES, LEVELS, KEPT = 10, 91, 5, 200
WORK = ("training", "evaluation")

MODELS: dict[str, dict[str, Any]] = {
    "fcos": {"encoder": "resnet50"},
    "centernet": {"encoder": "resnet50"},
    "tiny_fcos": {
        "encoder": "resnet20",
        "fpn_width": 32,
        "head_depth": 1,
        "strides": (2, 4),
        "further": 1,
    },
    "tiny_centernet": {"encoder": "resnet20", "neck_width": 8, "head_width": 8},
}
"""Options of what is measured, by name; the tiny ones are for rehearsals."""


@dataclass
class Options(measuring.Options):
    """Which detectors, and images of which size."""

    models: tuple[str, ...] = setting(("fcos", "centernet"), "detectors")
    work: tuple[str, ...] = setting(WORK, "what is measured of them", choices=WORK)
    size: str = setting("256x256", "height and width of an image", unit="px")
    batch: int = setting(2, "images at once", at_least=1)


def measure(options: Options) -> Iterator[dict]:
    """A row a detector and kind of work."""
    size_px = train_step.size_px("--size", options.size)
    for name in options.models:
        if name not in MODELS:
            raise InputError(f"--models names {name!r}: {nearest(name, MODELS)}.")
    for name, work in itertools.product(options.models, options.work):
        case = measuring.Case(
            f"{name} {options.size} batch {options.batch}, {work}",
            {
                "model": name,
                "work": work,
                "size_px": size_px,
                "batch": options.batch,
                "platform": options.platform,
            },
            work=options.batch,
            unit="images",
        )
        sides = SIDES if name == "fcos" else SIDES[:1]
        row = measuring.compare(__name__, case, sides, options, note=note)
        yield measuring.with_peaks(__name__, row)


def note(facts: dict) -> str:
    """How many parameters each side has, equal to 1%; and whose suppression of boxes."""
    counts = {side: known["parameters"] for side, known in facts.items()}
    if counts and max(counts.values()) > 1.01 * min(counts.values()):
        raise AssertionError(f"the sides differ in their parameters: {counts}")
    told = ", ".join(f"{side} {count:,}" for side, count in counts.items())
    lacks = any(known.get("given_nms") for known in facts.values())
    return f"parameters: {told}" + ("; torchvision was given a suppression" if lacks else "")


def prepare(side: str, settings: dict) -> tuple[Callable, dict]:
    """(run, facts) of a side, as the package asks for."""
    return {"cnn_jax": _ours, "torchvision": _theirs}[side](**settings)


def example(size_px: tuple[int, int], batch: int) -> tuple[Any, Any, Any]:
    """Random uint8 images `[batch, height, width, 3]`; boxes float32 `[batch, BOXES, 4]` (left,
    top, right, bottom in px) within them; labels int32 `[batch, BOXES]`."""
    import numpy as np

    random, (height, width) = np.random.default_rng(0), size_px
    images = random.integers(0, 256, (batch, *size_px, 3), np.uint8)
    sides = random.uniform(0.08, 0.6, (batch, BOXES, 2))
    first = random.uniform(0, 1, (batch, BOXES, 2)) * (1 - sides)
    boxes = np.concatenate([first, first + sides], -1) * [width, height, width, height]
    labels = random.integers(1, CLASSES, (batch, BOXES), np.int32)
    return images, boxes.astype(np.float32), labels


def _ours(model, work, size_px, batch, platform):
    import jax
    import numpy as np
    import optax

    from cnn_jax import tasks
    from cnn_jax.configuration.schema import (
        DetectionConfig,
        ObjectDataConfig,
        ObjectEvaluationConfig,
    )
    from cnn_jax.training.devices import Devices, arithmetic
    from cnn_jax.training.state import create, parameter_count
    from cnn_jax.training.step import make_train_step

    size_px = tuple(size_px)
    dtype = "float32" if platform == "cpu" else "bfloat16"
    config = DetectionConfig(
        model=tasks.model_config(model.removeprefix("tiny_"), **MODELS[model], dtype=dtype),
        data=ObjectDataConfig(crop_px=size_px),
        evaluation=ObjectEvaluationConfig(most_objects=KEPT // 2),
    )
    info = networks.data_info(CLASSES)
    learner: Any = tasks.of("detection").learner(config, info)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(1e-3, momentum=0.9))
    state = create(learner.module(), optimizer, 0, (*size_px, 3), averaged=False)
    facts = {"parameters": parameter_count(state.variables), "dtype": dtype}
    images, boxes, labels = example(size_px, batch)
    if work == "evaluation":
        devices = Devices(alone=True)
        detect, variables = jax.jit(learner.detect), state.variables
        placed = devices.place(images) if devices.count == 1 else images

        def evaluate(times):
            for _ in range(times):
                jax.device_get(detect(variables, placed))

        return evaluate, facts

    examples = {
        "image": images,
        "boxes": boxes,
        "labels": labels,
        "counted": np.ones(labels.shape, bool),
        "ignored": np.zeros(labels.shape, bool),
        "numbers": np.zeros((batch, *size_px), np.int32),
        "position": np.arange(batch, dtype=np.uint32),
    }

    def normalized(keys, held):
        return learner.normalize(held["image"]), held

    step = make_train_step(learner.module(), learner.loss_and_metrics, optimizer, normalized)
    examples, seed = jax.device_put((examples, np.uint32(0)))
    with arithmetic():
        compiled = jax.jit(step, donate_argnums=0).lower(state, examples, seed).compile()

    def train(times):
        nonlocal state
        for _ in range(times):
            state, metrics = compiled(state, examples, seed)
        jax.block_until_ready((state, metrics))

    return train, facts


def their_network(size_px: tuple[int, int]) -> tuple[Any, bool]:
    """(torchvision's FCOS, its weights random, whether it had to be given a suppression of
    boxes)."""
    from cnn_jax.tasks.torch_segmentation import libraries

    libraries()
    from torchvision.extension import _has_ops
    from torchvision.models.detection import fcos_resnet50_fpn
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.ops import boxes

    from cnn_jax.training.detection import CANDIDATES, NMS_IOU

    network = fcos_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        score_thresh=-1.0,
        topk_candidates=CANDIDATES // LEVELS,
        detections_per_img=KEPT,
        nms_thresh=NMS_IOU,
    )
    network.transform = GeneralizedRCNNTransform(
        min(size_px), max(size_px), [0.5] * 3, [0.25] * 3, _skip_resize=True
    )
    lacks = not _has_ops()
    if lacks:
        boxes.nms = suppressed
    return network, lacks


def suppressed(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """What `torchvision.ops.nms` gives: places of the boxes `[n, 4]` that overlap no better one by
    more than `iou_threshold`, best first, int64."""
    import numpy as np
    import torch
    from torchvision.ops import box_iou

    order = scores.argsort(descending=True)
    sorted_boxes = boxes[order]
    worse = (box_iou(sorted_boxes, sorted_boxes) > iou_threshold).cpu().numpy()
    kept, gone = [], np.zeros(len(worse), bool)
    for place in range(len(worse)):
        if not gone[place]:
            kept.append(place)
            gone |= worse[place]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def _theirs(model, work, size_px, batch, platform):
    import torch

    device = train_step.torch_device(platform)
    network, lacks = their_network(tuple(size_px))
    network = network.to(device).train(work == "training")
    facts = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "threads": torch.get_num_threads(),
        "given_nms": lacks,
    }
    images, boxes, labels = example(tuple(size_px), batch)
    held = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    targets = [
        {
            "boxes": torch.from_numpy(box).to(device),
            "labels": torch.from_numpy(label).long().to(device),
        }
        for box, label in zip(boxes, labels, strict=True)
    ]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def autocast():
        return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def train(times):
        for _ in range(times):
            optimizer.zero_grad()
            with autocast():
                losses = network(list(held.float() / 255), targets)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def evaluate(times):
        for _ in range(times):
            with torch.inference_mode(), autocast():
                found = network(list(held.float() / 255))
            [{name: value.cpu().numpy() for name, value in one.items()} for one in found]

    return (train if work == "training" else evaluate), facts
