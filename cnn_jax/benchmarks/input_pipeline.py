"""Training crops a second that the host delivers, beside PyTorch's DataLoader with albumentations.

Both sides work on two cores and deliver batches of 144x256 crops of the same scenes, each cell of
each scene once an epoch.

Ours draws where a crop will lie, cuts what it will see out of decoded scenes, batches that by
Grain, reads ahead by threads and places it on the device; zoom, turns and colours are the device's
work. "host" leaves that work out: it is what an accelerator waits for. "whole chain" does it on the
same two cores, where there is no accelerator.

Theirs crops a window of random zoom (0.6 to 1.65), turns it by right angles and gives it to
albumentations: resize, flips, brightness and contrast, hue and saturation, normalise; in the
DataLoader's batches, with 0, 1 or 2 workers, whichever was fastest. That is the whole chain in
every row, since it has no other place for it.

"decoded" keeps all scenes in memory, decoded before the clock starts; "from disk" decodes a scene
for every crop, by the same function on both sides.
"""

import itertools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.benchmarks import measuring
from cnn_jax.configuration.schema import setting
from cnn_jax.runtime import processor

NEEDS = ("torch", "albumentations")
SIDES = ("cnn_jax", "pytorch")

SEED = 0
CORES = 2
BATCH = 8
CROP_PX = (144, 256)
SCALES = (0.6, 1.65)
WORKERS = (0, 1, 2)


@dataclass
class Options(measuring.Options):
    """Where the scenes are."""

    data: str = setting("", "folder of the Dubai photographs; empty: synthetic scenes", path=True)


def measure(options: Options) -> Iterator[dict]:
    """A row each: the host's work and the whole chain on decoded scenes, the host's work from
    disk."""
    for (
        name,
        decoded,
        chain,
        batches,
    ) in (  # many times as many as are read ahead: what lay ready before the clock must not count
        ("decoded, host", True, False, 100),
        ("decoded, whole chain", True, True, 50),
        ("from disk, host", False, False, 24),
    ):
        settings = {"data": options.data, "decoded": decoded, "chain": chain, "batches": batches}
        case = measuring.Case(name, settings, work=batches * BATCH, unit="crops")
        row = measuring.compare(__name__, case, SIDES, options, note=_note)
        row["settings"].pop("data")
        yield row


def _note(facts):
    return (
        "" if "pytorch" not in facts else f"DataLoader with {facts['pytorch']['workers']} workers"
    )


def prepare(side: str, settings: dict) -> tuple[Callable, dict]:
    """The work of one side, as measuring.py has it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, processor.cores()[:CORES])
    config = _config(settings["data"])
    return _ours(config, settings) if side == "cnn_jax" else _theirs(config, settings)


def _config(directory):
    from cnn_jax.configuration.schema import (
        AugmentationConfig,
        DataConfig,
        SegmentationConfig,
        TrainingConfig,
    )
    from cnn_jax.tasks import model_config

    data = DataConfig(source="dubai", directory=directory) if directory else DataConfig()
    data.crop_px = CROP_PX
    return SegmentationConfig(
        model=model_config("unet"),
        data=data,
        augmentation=AugmentationConfig(scale_range=SCALES),
        training=TrainingConfig(batch_size=BATCH),
        seed=SEED,
    )


def _source(config, decoded):
    """The regions of the training scenes, as a run has them; scenes that are kept are decoded at
    their first use."""
    from cnn_jax.data import augmentation
    from cnn_jax.data import scene_folders as aerial
    from cnn_jax.data.pipeline import DecodedScenes

    scenes = DecodedScenes(aerial.open_scenes(config.data).splits["train"], 1e12 if decoded else 0)
    return augmentation.training_regions(scenes, config)


def _ours(config, settings):
    import jax

    from cnn_jax.data import augmentation
    from cnn_jax.data.pipeline import read_ahead, training_batches
    from cnn_jax.training.devices import Devices

    devices = Devices()
    source = _source(config, settings["decoded"])
    if settings["decoded"]:
        for index in range(len(source.scenes)):
            source.scenes[index]
    batches = training_batches(source, seed=SEED, batch_size=BATCH)
    ahead = read_ahead(batches, 0, devices.place, config.data.prefetch_batches)

    @jax.jit
    def augment(batch):
        keys = augmentation.example_keys(SEED, batch["position"])
        images, labels = augmentation.augment_examples(keys, batch, config.augmentation, CROP_PX)
        return augmentation.normalize(images, config.data.mean, config.data.std), labels

    def run(times):
        for batch in itertools.islice(ahead, times * settings["batches"]):
            jax.block_until_ready(augment(batch) if settings["chain"] else batch)

    return run, {"prefetch_batches": config.data.prefetch_batches}


def _theirs(config, settings):
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import torch

    # JAX is imported, since our scenes are decoded by our code, but computes nothing here.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
    crops = Crops(_source(config, decoded=False), settings["decoded"])

    def loader(workers):
        return torch.utils.data.DataLoader(
            crops,
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=_quiet_worker,
        )

    def endless(loader):
        while True:
            yield from loader

    def seconds(batches, count):
        start = time.perf_counter()
        for _ in itertools.islice(batches, count):
            pass
        return time.perf_counter() - start

    tried: dict[int, float] = {}
    for workers in WORKERS:
        batches = endless(loader(workers))
        seconds(batches, 4)
        tried[workers] = seconds(batches, settings["batches"] // 4)
        del batches
    fastest = min(tried, key=tried.__getitem__)
    batches = endless(loader(fastest))
    return lambda times: seconds(batches, times * settings["batches"]), {"workers": fastest}


def _quiet_worker(_):
    """A core for each worker, not all cores for each."""
    import cv2
    import torch

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class Crops:
    """PyTorch's kind of data set: a random crop about each cell, by albumentations.

    Args:
        source: our regions, for their scenes and cells.
        decoded: whether scenes are decoded now.
    """

    def __init__(self, source: Any, decoded: bool) -> None:
        import albumentations as A
        from albumentations.pytorch import ToTensorV2

        self.scenes, self.scene = source.scenes.scenes, source.scene
        self.decoded = [scene.read() for scene in self.scenes] if decoded else None
        self.cells = source.cell_px + np.tile(source.corner_px, 2)
        self.transform = A.Compose(
            [
                A.Resize(*CROP_PX),
                A.HorizontalFlip(p=0.5),
                A.VerticalFlip(p=0.5),
                A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.25, p=0.5),
                A.HueSaturationValue(
                    hue_shift_limit=5, sat_shift_limit=38, val_shift_limit=0, p=0.5
                ),
                A.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
                ToTensorV2(),
            ]
        )

    def __len__(self):
        return len(self.scene)

    def __getitem__(self, index):
        scene = self.scene[index]
        image, mask = self.decoded[scene] if self.decoded else self.scenes[scene].read()
        top, left, bottom, right = self.cells[index]
        scale = math.exp(np.random.uniform(*np.log(SCALES)))  # noqa: NPY002 (the generator that the DataLoader seeds in each worker)
        turns = np.random.randint(1, 4) if np.random.rand() < 0.5 else 0  # noqa: NPY002
        size = np.round(np.array(CROP_PX[::-1] if turns % 2 else CROP_PX) / scale).astype(int)
        size = np.minimum(size, mask.shape)
        centre = np.random.uniform((top, left), (bottom, right))  # noqa: NPY002
        y, x = np.clip(centre - size / 2, 0, np.array(mask.shape) - size).astype(int)
        window = np.s_[y : y + size[0], x : x + size[1]]
        image, mask = (
            np.ascontiguousarray(np.rot90(array[window], turns)) for array in (image, mask)
        )
        changed = self.transform(image=image, mask=mask)
        return changed["image"], changed["mask"]
