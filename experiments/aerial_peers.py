"""The comparison's measure from outside: networks of segmentation_models_pytorch, trained and
counted as ours are.

python -m experiments.aerial_peers [--config NAME] [--models smp_unet] [--config.seeds=0,1,2]
    [--config.FIELD=VALUE ...] [--workdir DIR]

A peer sees the crops that our networks see: the same batches in the same order, augmented by the
same code with the same keys. The optimiser's settings, its schedule, the steps and the validations
are the configuration's, and so is the loop; the logits are counted by our evaluation. PyTorch is
what computes the network, its loss and its weights. Given the --workdir of
`experiments.aerial_compare`, the records lie beside the others, and are compared with them when
that command is run again.
"""

import copy
import dataclasses
import functools
import importlib.metadata
import re
import shlex
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from cnn_jax import configuration
from cnn_jax.configuration import SegmentationConfig, setting
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError
from cnn_jax.records import run_directory as records
from cnn_jax.reporting import table
from cnn_jax.run import guarded
from cnn_jax.study import folder_name
from cnn_jax.tasks.segmentation import Segmentation
from experiments.aerial_compare import STUDIES

MODULE = "experiments.aerial_peers"


@dataclass
class SmpUnet:
    """U-Net's decoder (Ronneberger, Fischer, Brox, 2015) on a classifier, as
    segmentation_models_pytorch builds it; no pretrained weights."""

    name: str = setting("smp_unet", "the peer")
    encoder: str = setting("mobilenet_v2", "the backbone")
    # A quarter of the library's widths at the deep end: 3.2 million parameters, about what the
    # comparison's networks have, where the library's own have 6.6 million.
    decoder_channels: tuple[int, ...] = setting(
        (64, 48, 32, 24, 16), "of the decoder's stages, the deepest first"
    )

    def build(self, smp, classes: int):
        """The network, with weights drawn from PyTorch's generator."""
        model = smp.Unet(
            encoder_name=self.encoder,
            encoder_weights=None,
            decoder_channels=self.decoder_channels,
            classes=classes,
        )
        # Each stage enlarges to its skip's size, so any size works; the library refuses all that 32
        # doesn't divide.
        model.requires_divisible_input_shape = False
        return model


@dataclass
class SmpDeepLabV3Plus:
    """DeepLabV3+ (Chen et al., 2018) as segmentation_models_pytorch builds it: separable
    convolutions in the ASPP, dropout 0.5 after it; no pretrained weights."""

    name: str = setting("smp_deeplabv3plus", "the peer")
    encoder: str = setting("mobilenet_v2", "the backbone")
    encoder_output_stride: int = setting(16, "of the backbone's deepest map")
    decoder_channels: int = setting(
        64,
        "of the ASPP and the decoder; the library's 256 would have 4.4 million parameters, not 2.7",
    )
    # The library's 12, 24 and 36 fall into the padding of the 9x16 map that a crop of 144x256
    # leaves.
    decoder_atrous_rates: tuple[int, int, int] = setting(
        (2, 4, 6), "of the ASPP's dilated convolutions"
    )

    def build(self, smp, classes: int):
        """The network, with weights drawn from PyTorch's generator."""
        return smp.DeepLabV3Plus(
            encoder_name=self.encoder,
            encoder_weights=None,
            encoder_output_stride=self.encoder_output_stride,
            decoder_channels=self.decoder_channels,
            decoder_atrous_rates=self.decoder_atrous_rates,
            classes=classes,
        )


PEERS = {"smp_unet": SmpUnet, "smp_deeplabv3plus": SmpDeepLabV3Plus}
"""`--models`: name -> the `model` section of its configuration, which builds it."""


def _taking(name: str) -> Callable[[], SegmentationConfig]:
    """The function that returns a study's U-Net, whose place a peer takes; all of its variants
    share the other sections."""

    def base():
        config = STUDIES[name]().variants["unet"]
        config.configuration = name
        return config

    base.__doc__ = f"Data, budget and seeds of experiments.aerial_compare's study {name!r}."
    return base


CONFIGURATIONS = {name: _taking(name) for name in ("default", "smoke", "dubai")}
"""`--config`: those studies whose networks are of the peers' size."""

ONLY = {
    "loss.name": "cross_entropy",
    "loss.further": (),
    "loss.weights": (),
    "loss.activation": "softmax",
    "loss.class_weights": "none",
    "loss.label_smoothing": 0.0,
    "optimizer.name": "adamw",
    "optimizer.ema_decay": 0.0,
    "training.accumulate": 1,
    "training.patience": 0,
    "evaluation.weights": "last",
}
"""Field -> the one value with which a peer can be trained."""

FLAGS = {
    "workdir": (
        "",
        (
            "folder of the study, with a folder a run; runs that are finished there are left as"
            " they are"
        ),
    ),
    "models": (",".join(PEERS), "train only these"),
    "seeds": (
        "",
        (
            "train each with these seeds, such as 0,1,2, not the study's own; --config.seeds says"
            " the same"
        ),
    ),
}


_DECLARED = []
"""Libraries of operators: what they declare lasts as long as they do."""


@functools.cache
def libraries():
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
            " pyproject.toml says for a CPU or a GPU: pip install -c constraints.txt -e"
            " '.[peers]'."
        ) from error
    return torch, smp


# ---- one run


class PeerRecord(records.Record):
    """The record of a peer's run. It is finished or begun anew: a peer keeps no checkpoints."""

    def _check_configuration(self):
        if self.summary is None:
            if (self.workdir / "environment.json").exists():
                self._check_digest()
                (self.workdir / "metrics.jsonl").unlink(missing_ok=True)
                shutil.rmtree(self.workdir / "tensorboard", ignore_errors=True)
                shutil.rmtree(self.workdir / "figures", ignore_errors=True)
            super()._check_configuration()
        else:
            self._check_digest()

    def _check_digest(self):
        recorded = records.read_object(self.workdir / "environment.json").get("digest")
        if recorded != configuration.digest(self.config):
            raise InputError(
                f"{self.workdir} holds a run of another configuration (digest {recorded}, here "
                f"{configuration.digest(self.config)}); give another --workdir."
            )


class Checkpointless:
    """In the place of `cnn_jax.training.checkpoints.Checkpoints`, keeps nothing."""

    steps = ()

    def save(self, *_):
        """Does nothing."""

    def wait(self):
        """Does nothing."""


class Peer(Segmentation):
    """The segmentation task with a network of PyTorch: data, crops, counting, scores and pictures
    are the task's own."""

    def evaluator(self, split: str, devices):
        """Evaluates a split; its variables are the PyTorch network."""
        import jax

        from cnn_jax.data.augmentation import scaled
        from cnn_jax.evaluation import evaluate

        if devices not in self._window_steps:
            normalize = jax.jit(lambda image: self.normalize(scaled(image, self.greatest)))
            results = jax.jit(
                lambda logits, mask: evaluate.window_results(
                    logits, mask, self.loss, len(self.names)
                )
            )
            self._window_steps[devices] = lambda model, batch: results(
                predict(model, normalize(batch["image"])), batch["mask"]
            )
        return evaluate.SceneEvaluator(
            self.scenes[split],
            self._window_steps[devices],
            devices,
            self.config.evaluation,
            len(self.names),
        )


def crops_of(augment: Callable, seed: int) -> Callable:
    """`batch -> (images, labels)`, compiled: the crops that `cnn_jax.training.step` makes of a
    batch, for the same keys."""
    import jax

    from cnn_jax.data.augmentation import example_keys

    def crops(batch):
        return augment(example_keys(seed, batch["position"]), batch)

    return jax.jit(crops)


def to_torch(array, device):
    """An array as a tensor on `device`; images `[batch, height, width, channels]` still have to be
    permuted."""
    torch, _ = libraries()
    return torch.from_numpy(np.array(array)).to(device)


def logits_of(model, images):
    """Logits `[batch, classes, height, width]` of images `[batch, height, width, channels]`,
    whatever their size: zeros are added below and on the right, and cut off again, where the
    network wants whole multiples of its output stride.
    """
    torch, _ = libraries()
    weights = next(model.parameters())
    images = to_torch(images, weights.device).permute(0, 3, 1, 2)  # NCHW to PyTorch, NHWC in memory
    height, width = images.shape[2:]
    multiple = model.encoder.output_stride if model.requires_divisible_input_shape else 1
    images = torch.nn.functional.pad(images, (0, -width % multiple, 0, -height % multiple))
    return model(images)[:, :, :height, :width]


def predict(model, images):
    """Logits as NumPy float32 `[batch, height, width, classes]`, in evaluation mode."""
    torch, _ = libraries()
    model.eval()
    with torch.inference_mode():
        return logits_of(model, images).permute(0, 2, 3, 1).float().cpu().numpy()


def make_optimizer(model, config):
    """PyTorch's AdamW as `cnn_jax.training.optimizer` sets optax's up: decay of kernels alone (two
    axes or more). The learning rate is set at each step."""
    torch, _ = libraries()
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)


def take_step(optimizer, learning_rate: float, clip_norm: float) -> float:
    """Clips the gradients by their global norm (0: never), takes one step; returns the norm before
    the clipping."""
    torch, _ = libraries()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm or float("inf"))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    return float(norm)


def make_train_step(model, task: Peer, learning_rate: Callable) -> Callable:
    """`(step, batch) -> (step + 1, metrics)`, as the loop takes it; the weights change in `model`.

    Loss and gradient are those of the mean over the pixels of the batch that aren't ignored.
    """
    torch, _ = libraries()
    config, classes = task.config, len(task.names)
    crops, optimizer = crops_of(task.augment, config.seed), make_optimizer(model, config.optimizer)

    def step(number, batch):
        images, labels = crops(batch)
        labels = to_torch(labels, next(model.parameters()).device).long()
        model.train()
        optimizer.zero_grad()
        logits = logits_of(model, images)
        count = max(int((labels != IGNORED).sum()), 1)  # a batch may hold ignored pixels alone
        loss = (
            torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
            / count
        )
        loss.backward()
        norm = take_step(optimizer, float(learning_rate(number)), config.optimizer.clip_norm)
        right = (logits.detach().argmax(1) == labels).sum() / (labels < classes).sum().clamp(min=1)
        return number + 1, {
            "loss": float(loss.detach()),
            task.accuracy: float(right),
            "gradient_norm": norm,
        }

    return step


def multiply_adds(model, crop_px: tuple[int, int]) -> int:
    """Multiply-adds of convolutions and matrix products in one crop's way forward, as PyTorch
    counts them."""
    libraries()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        predict(model, np.zeros((1, *crop_px, 3), np.float32))
    return counter.get_total_flops() // 2


def run_peer(config: SegmentationConfig, workdir: Path, command: str = "") -> dict:
    """Trains, evaluates and records one peer; a run that is finished is left as it is, one that was
    interrupted begins again.

    Args:
        config: a checked configuration, its `model` one of `PEERS`.
        workdir: the folder of the record.
        command: what to type to run this, for the record.

    Returns:
        The summary that is written to summary.json.

    Raises:
        InputError: what the user can mend.
        Stopped: SIGTERM or Ctrl-C came; nothing is saved.
    """
    from cnn_jax.runtime.preemption import Stopped, StopRequest

    with StopRequest(ends_process=bool(command)) as stop, PeerRecord(workdir, config) as record:
        if record.summary is not None:
            print(f"{workdir} holds this run, finished:\n{table.summary_table(record.summary)}")
            return record.summary
        try:
            summary = _run(config, record, stop, command)
        except Stopped:
            print(
                f"\nstopped; a peer keeps no checkpoint, this begins its run again:\n  {command}",
                flush=True,
            )
            raise
        print(f"\n{table.summary_table(summary)}\n\nrecord and pictures: {workdir}")
        return summary


def _run(config, record, stop, command):
    import jax

    from cnn_jax.data.pipeline import read_ahead, training_batches
    from cnn_jax.training import loop, optimizer
    from cnn_jax.training.devices import Devices

    torch, smp = libraries()
    training = config.training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"{config.variant}, seed {config.seed}, digest {configuration.digest(config)}, on {device},"
        f" in {record.workdir}"
    )
    devices = Devices()
    devices.check_batch("training.batch_size", training.batch_size)
    task = Peer(config, Segmentation.open(config))
    record.begin(_environment(config, task.fingerprint, command, device))

    torch.manual_seed(config.seed)
    # NHWC in memory, by which a training step takes a quarter less time on CPUs.
    model = config.model.build(smp, len(task.names)).to(device, memory_format=torch.channels_last)
    parameters = sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    work = multiply_adds(model, config.data.crop_px)
    print(
        f"{config.variant}: {parameters:,} parameters; {training.steps} steps of"
        f" {training.batch_size} crops",
        flush=True,
    )

    learning_rate = jax.jit(optimizer.learning_rate(config.optimizer, training.steps))
    batches = training_batches(
        task.training_source, seed=config.seed, batch_size=training.batch_size
    )
    evaluators = {
        split: task.evaluator(split, devices) for split in task.evaluated if task.sizes[split]
    }

    def validate(_, check):
        return task.scores(evaluators["validation"].evaluate(model, check), "validation")

    loop.train(
        0,
        make_train_step(model, task, learning_rate),
        lambda start: read_ahead(batches, start, devices.place, config.data.prefetch_batches),
        validate if "validation" in evaluators else None,
        Checkpointless(),
        record.log,
        stop,
        training,
        start=0,
        validated=False,
        elapsed_s=0.0,
        learning_rate=learning_rate,
        headline=task.headline,
    )
    lines = record.metrics()
    summary = {
        **configuration.identity(config),
        "parameters": parameters,
        "multiply_adds": work,
        "step_memory_bytes": None,  # PyTorch plans none
        "steps": training.steps,
        "evaluated_step": training.steps,
        "wall_time_s": lines[-1]["elapsed_s"],
        "train/images_per_second": _median(lines, "train/images_per_second"),
        "train/data_wait_fraction": _median(lines, "train/data_wait_fraction"),
    }
    evaluation = None
    for split, evaluator in evaluators.items():
        print(f"evaluating {task.sizes[split]:,} of {split}", flush=True)
        figures, evaluation = task.summary(evaluator, model, split, stop.raise_if_set)
        summary |= figures
    with records.pictures_can_be_written(record.workdir / "figures"):
        if "test" in evaluators:
            task.record(record.workdir, evaluators["test"], evaluation)
        task.pictures(
            record.figures,
            lines,
            evaluators.get("test"),
            evaluation if "test" in evaluators else None,
            model,
        )
    record.finish(summary)
    return summary


def _median(lines, key):
    values = [line[key] for line in lines if key in line]
    return statistics.median(values) if values else None


def _environment(config, fingerprint, command, device):
    torch, _ = libraries()
    environment = records.environment(config, fingerprint, command)
    for package in ("torch", "torchvision", "timm", "segmentation-models-pytorch"):
        environment["versions"][package] = importlib.metadata.version(package)
    environment["torch_threads"] = torch.get_num_threads()
    if device.type == "cuda":
        environment |= {
            "platform": "gpu",
            "device_kind": torch.cuda.get_device_name(),
            "device_count": 1,
        }
    return environment


# ---- the command


def peer_configs(
    base: SegmentationConfig, models: Sequence[str], seeds: Sequence[int]
) -> list[SegmentationConfig]:
    """The configurations of all runs: the base's, with each peer in the place of its model, and
    each seed.

    Raises:
        InputError: no peer has that name, or a field of the base asks for what a peer can't do.
    """
    for path, _, value in configuration.leaves(base):
        if path in ONLY and value != ONLY[path]:
            raise InputError(
                f"{path} is {value!r}, but the peers are trained with {ONLY[path]!r} alone: set it"
                " to that."
            )
    configs = []
    for name in models:
        if name not in PEERS:
            raise InputError(
                f"--models names {name!r}, which is no peer: {configuration.nearest(name, PEERS)}."
            )
    for seed in seeds:  # as the studies: stopped early, it leaves every peer with the same seeds
        for name in models:
            config = dataclasses.replace(copy.deepcopy(base), variant=name, seed=seed)
            configuration.check(config)  # before the model is one that our own commands don't know
            config.model = PEERS[name]()
            configs.append(config)
    return configs


def _listed(text):
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def main(argv=None) -> int:
    """The command. Returns its exit code: 0, 2 for what the user can mend, 130 and 143 after
    signals."""
    argv = list(sys.argv if argv is None else argv)
    if any(argument in ("-h", "--help", "--helpfull") for argument in argv[1:]):
        text = configuration.help_text(MODULE, CONFIGURATIONS, FLAGS)
        print(re.sub(r"^  (seed|model[.]\w+) .*\n.*\n", "", text, flags=re.MULTILINE), end="")
        return 0
    return guarded(lambda: _main(argv))


def _main(argv):
    argv = [re.sub(r"^--?config[.]seeds(?==|$)", "--seeds", argument) for argument in argv]
    for argument in argv[1:]:
        if re.match(r"--?(no)?config[.](model[.]|seed\b)", argument):
            raise InputError(
                f"{argument.partition('=')[0]} is no field of a peer: its model is set by --models,"
                " its seed by --seeds."
            )
    base, values = configuration.parse_command_line(argv, CONFIGURATIONS, FLAGS)
    if re.fullmatch(r"\s*(\d+\s*(,\s*\d+\s*)*)?", values["seeds"]) is None:
        raise InputError(f"--seeds takes whole numbers such as 0,1,2, not {values['seeds']!r}.")
    own = STUDIES[base.configuration]().seeds if base.configuration in STUDIES else (base.seed,)
    seeds = [int(seed) for seed in _listed(values["seeds"])] or own
    configs = peer_configs(base, _listed(values["models"]), seeds)
    libraries()
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    workdir = Path(values["workdir"] or f"results/runs/{base.experiment}-peers-{now}")
    rest = configuration.without_flag(argv[1:], "workdir")
    command = shlex.join(["python", "-m", MODULE, *rest, "--workdir", str(workdir)])
    for number, config in enumerate(configs, 1):
        print(f"\nrun {number} of {len(configs)}: {config.variant}, seed {config.seed}", flush=True)
        run_peer(config, workdir / folder_name(config), command)


if __name__ == "__main__":
    sys.exit(main())
