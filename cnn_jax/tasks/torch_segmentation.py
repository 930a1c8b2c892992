"""The comparison's measure from outside: networks of segmentation_models_pytorch, trained and
counted as ours are.

A peer sees the crops that our networks see: the same batches in the same order, augmented by the
same code with the same keys. The optimiser's settings, its schedule, the steps, the validations and
the loop are those of every run, and the evaluation counts its logits. PyTorch computes the network,
its loss and its weights. A peer keeps no checkpoints: an interrupted run begins again.
"""

import functools
import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import numpy as np

from cnn_jax.configuration.schema import OptimizerConfig, SegmentationConfig, leaves
from cnn_jax.data.augmentation import example_keys
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.pipeline import read_ahead, training_batches
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError
from cnn_jax.evaluation.evaluate import window_results
from cnn_jax.tasks.network import speed
from cnn_jax.tasks.programs import shared
from cnn_jax.tasks.segmentation_learner import SegmentationLearner
from cnn_jax.tasks.task import Dataset, Fitted, Session
from cnn_jax.training import loop
from cnn_jax.training.devices import Devices
from cnn_jax.training.optimizer import learning_rate, tell_of_late, tell_of_warmup


@dataclass
class SmpUnet:
    """U-Net's decoder (Ronneberger, Fischer, Brox, 2015) on a classifier, as
    segmentation_models_pytorch builds it; no pretrained weights.

    Attributes:
        encoder: the backbone.
        decoder_channels: of the decoder's stages, the deepest first. These are a quarter of the
            library's at the deep end: 3.2 million parameters, about what the comparison's networks
            have, where the library's own have 6.6 million.
        num_classes: classes to tell apart.
        axis_name: of `pmap`, which a peer is not trained with.
    """

    encoder: str = "mobilenet_v2"
    decoder_channels: tuple[int, ...] = (64, 48, 32, 24, 16)
    num_classes: int = 2
    axis_name: str | None = None

    def network(self) -> Any:
        """The PyTorch module, with weights drawn from PyTorch's generator."""
        _, smp = libraries()
        model = smp.Unet(
            encoder_name=self.encoder,
            encoder_weights=None,
            decoder_channels=self.decoder_channels,
            classes=self.num_classes,
        )
        # Each stage enlarges to its skip's size, so any size works; the library refuses all that 32
        # doesn't divide.
        model.requires_divisible_input_shape = False
        return model


@dataclass
class SmpDeepLabV3Plus:
    """DeepLabV3+ (Chen et al., 2018) as segmentation_models_pytorch builds it: separable
    convolutions in the ASPP, dropout 0.5 after it; no pretrained weights.

    Attributes:
        encoder: the backbone.
        encoder_output_stride: of the backbone's deepest map.
        decoder_channels: of the ASPP and the decoder; the library's 256 would have 4.4 million
            parameters, not 2.7.
        decoder_atrous_rates: of the ASPP's dilated convolutions; the library's 12, 24 and 36 fall
            into the padding of the 9x16 map that a crop of 144x256 leaves.
        num_classes: classes to tell apart.
        axis_name: of `pmap`, which a peer is not trained with.
    """

    encoder: str = "mobilenet_v2"
    encoder_output_stride: int = 16
    decoder_channels: int = 64
    decoder_atrous_rates: tuple[int, int, int] = (2, 4, 6)
    num_classes: int = 2
    axis_name: str | None = None

    def network(self) -> Any:
        """The PyTorch module, with weights drawn from PyTorch's generator."""
        _, smp = libraries()
        return smp.DeepLabV3Plus(
            encoder_name=self.encoder,
            encoder_weights=None,
            encoder_output_stride=self.encoder_output_stride,
            decoder_channels=self.decoder_channels,
            decoder_atrous_rates=self.decoder_atrous_rates,
            classes=self.num_classes,
        )


PEERS: dict[str, Callable] = {"smp_unet": SmpUnet, "smp_deeplabv3plus": SmpDeepLabV3Plus}
"""What `model.name` may be besides our own."""

ONLY = {
    "loss.name": "cross_entropy",
    "loss.further": (),
    "loss.weights": (),
    "loss.activation": "softmax",
    "loss.class_weights": "none",
    "loss.label_smoothing": 0.0,
    "optimizer.name": "adamw",
    "optimizer.ema_decay": 0.0,
    "optimizer.frozen": (),
    "optimizer.groups": (),
    "initial": "",
    "training.accumulate": 1,
    "training.patience": 0,
    "training.parallelism": "jit",
    "data.on_device": False,
    "evaluation.weights": "last",
}
"""Field -> the one value with which a peer can be trained."""

_DECLARED = []
"""Libraries of operators: what they declare lasts as long as they do."""


@functools.cache
def libraries() -> tuple[ModuleType, ModuleType]:
    """(torch, segmentation_models_pytorch), imported at the first call.

    Beside a build of torch for CPUs a torchvision for GPUs can't be imported: the operators that it
    describes are missing. Two are declared here, never to be called, and then it can.

    Raises:
        InputError: one of them isn't installed.
    """
    try:
        import torch

        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            declared = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                declared.define(
                    f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
            _DECLARED.append(declared)
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise InputError(
            f"{error.name or 'a library of the peers'} is missing; install the extra 'peers', as"
            " pyproject.toml says for a CPU or a GPU: pip install -c constraints.txt -e '.[peers]'."
        ) from error
    return torch, smp


class TorchLearner(SegmentationLearner):
    """A segmentation learner with a network of PyTorch: crops, counting, scores and pictures are
    the task's own. Its variables are the PyTorch network."""

    def __init__(self, config: SegmentationConfig, info: DatasetInfo) -> None:
        super().__init__(config, info)
        for path, _, value in leaves(config):
            if path in ONLY and value != ONLY[path]:
                raise InputError(
                    f"{path} is {value!r}, but the peers are trained with {ONLY[path]!r} alone: set"
                    " it to that."
                )
        libraries()

    def window_step(self, devices: Devices) -> Callable:
        """`(network, batch) -> results` of `make_window_step`."""

        def make() -> Callable:
            classes, normalize = len(self.names), jax.jit(self.normalize)
            count = jax.jit(lambda logits, mask: window_results(logits, mask, self.loss, classes))
            return lambda network, batch: count(
                predict(network, normalize(batch["image"])), batch["mask"]
            )

        return shared(self, "windows", make, devices)

    def fit(self, dataset: Dataset, session: Session) -> Fitted:
        """Trains the network from its first step on; nothing is saved on the way."""
        torch, _ = libraries()
        config, training, devices = self.config, self.config.training, session.devices
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        devices.check_batch("training.batch_size", training.batch_size)
        session.record.rewind(lambda line: False)
        torch.manual_seed(config.seed)
        # NHWC in memory, by which a training step takes a quarter less time on CPUs.
        network = self.module().network().to(device, memory_format=torch.channels_last)
        parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
        print(
            f"{config.model.name}: {parameters:,} parameters on {device}; {training.steps} steps of"
            f" {training.batch_size} crops",
            flush=True,
        )
        tell_of_warmup(config.optimizer, training.steps)
        tell_of_late(config.optimizer, training.steps)
        schedule = jax.jit(learning_rate(config.optimizer, training.steps))
        batches = training_batches(
            dataset.training_source(self), seed=config.seed, batch_size=training.batch_size
        )
        evaluator = None
        if self.info.sizes["validation"]:
            evaluator = dataset.evaluator(self, "validation", devices)
        monitor = f"validation/{self.monitor}"
        begun = time.perf_counter()
        loop.train(
            0,
            make_train_step(network, self, schedule),
            lambda start: read_ahead(batches, start, devices.place, config.data.prefetch_batches),
            (lambda _, check: evaluator.scores(network, check)) if evaluator else None,
            _Unsaved(),
            session.record.log,
            session.stop,
            training,
            start=0,
            validated=False,
            elapsed_s=0.0,
            learning_rate=schedule,
            monitor=monitor,
        )
        figures = {
            "parameters": parameters,
            "steps": training.steps,
            "evaluated_step": training.steps,
            "wall_time_s": time.perf_counter() - begun,
            "multiply_adds": multiply_adds(network, self.example_px),
            "step_memory_bytes": None,  # PyTorch plans none
            **speed(session.record.metrics()),
            "made_by": _made_by(device),
        }
        return Fitted(network, figures)


class _Unsaved:
    """In the place of `cnn_jax.training.checkpoints.Checkpoints`, keeps nothing."""

    steps: Sequence[int] = ()

    def save(self, *_: Any) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""


def _made_by(device) -> dict[str, Any]:
    """What computed it: versions, threads and device of PyTorch."""
    torch, _ = libraries()
    packages = ("torch", "torchvision", "timm", "segmentation-models-pytorch")
    on = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"versions": versions, "torch_threads": torch.get_num_threads(), "device_kind": on}


def crops_of(prepare: Callable, seed: int) -> Callable:
    """`batch -> (images, labels)`, compiled: the crops that `cnn_jax.training.step` makes of a
    batch, for the same keys."""
    return jax.jit(lambda batch: prepare(example_keys(seed, batch["position"]), batch))


def to_torch(array: Any, device: Any) -> Any:
    """An array as a tensor on `device`; images `[batch, height, width, channels]` still have to be
    permuted."""
    torch, _ = libraries()
    return torch.from_numpy(np.array(array)).to(device)


def logits_of(network: Any, images: Any) -> Any:
    """Logits `[batch, classes, height, width]` of images `[batch, height, width, channels]`,
    whatever their size: zeros are added below and on the right, and cut off again, where the
    network wants whole multiples of its output stride."""
    torch, _ = libraries()
    weights = next(network.parameters())
    # NCHW to PyTorch, NHWC in memory.
    images = to_torch(images, weights.device).permute(0, 3, 1, 2)
    height, width = images.shape[2:]
    multiple = network.encoder.output_stride if network.requires_divisible_input_shape else 1
    images = torch.nn.functional.pad(images, (0, -width % multiple, 0, -height % multiple))
    return network(images)[:, :, :height, :width]


def predict(network: Any, images: Any) -> np.ndarray:
    """Logits float32 `[batch, height, width, classes]`, in evaluation mode."""
    torch, _ = libraries()
    network.eval()
    with torch.inference_mode():
        return logits_of(network, images).permute(0, 2, 3, 1).float().cpu().numpy()


def make_optimizer(network: Any, config: OptimizerConfig) -> Any:
    """PyTorch's AdamW as `cnn_jax.training.optimizer` sets optax's up: decay of kernels alone (two
    axes or more). The learning rate is set at each step."""
    torch, _ = libraries()
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)


def take_step(optimizer: Any, rate: float, clip_norm: float) -> float:
    """Clips the gradients by their global norm (0: never), takes one step; returns the norm before
    the clipping."""
    torch, _ = libraries()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm or float("inf"))
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(norm)


def make_train_step(network: Any, learner: TorchLearner, schedule: Callable) -> Callable:
    """`(step, batch) -> (step + 1, metrics)`, as the loop takes it; the weights change in
    `network`.

    Loss and gradient are those of the mean over the pixels of the batch that aren't ignored.
    """
    torch, _ = libraries()
    config, classes = learner.config, len(learner.names)
    crops = crops_of(learner.prepare, config.seed)
    optimizer = make_optimizer(network, config.optimizer)

    def step(number, batch):
        images, labels = crops(batch)
        labels = to_torch(labels, next(network.parameters()).device).long()
        network.train()
        optimizer.zero_grad()
        logits = logits_of(network, images)
        # A batch may hold ignored pixels alone.
        count = max(int((labels != IGNORED).sum()), 1)
        loss = (
            torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
            / count
        )
        loss.backward()
        norm = take_step(optimizer, float(schedule(number)), config.optimizer.clip_norm)
        right = (logits.detach().argmax(1) == labels).sum() / (labels < classes).sum().clamp(min=1)
        return number + 1, {
            "loss": float(loss.detach()),
            "pixel_accuracy": float(right),
            "gradient_norm": norm,
        }

    return step


def multiply_adds(network: Any, example_px: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and matrix products in one crop's way forward, as PyTorch
    counts them."""
    libraries()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        predict(network, np.zeros((1, *example_px), np.float32))
    return counter.get_total_flops() // 2
