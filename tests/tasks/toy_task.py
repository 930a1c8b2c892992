"""A task of a kind that nothing else knows, counting, trains, is evaluated, recorded, tabled and
compared through the protocol alone."""

from dataclasses import dataclass
from typing import ClassVar

import grain
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax.configuration.schema import Config, OptimizerConfig, TrainingConfig, setting
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.tasks.network import train_network
from cnn_jax.tasks.task import Report

SIZES = {"train": 64, "validation": 16, "test": 16}


@dataclass
class CountingData:
    source: str = setting("spots", "the images")
    on_device: bool = setting(False, "keep the images on the device", result=False)
    prefetch_batches: int = setting(2, "batches read ahead", result=False)


@dataclass
class CountingEvaluation:
    weights: str = setting("last", "which checkpoint", choices=("last", "best"))


@dataclass
class CountingConfig(Config):
    task: str = setting("counting", "what is predicted", choices=("counting",))
    data: CountingData = setting(CountingData, "data")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "optimiser")
    training: TrainingConfig = setting(TrainingConfig, "training")
    evaluation: CountingEvaluation = setting(CountingEvaluation, "evaluation")


class Counter(nn.Module):
    """How many spots there are.

    Attributes:
        features: of its convolution.
    """

    features: int = 4

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(1)(nn.Conv(self.features, (3, 3))(images).mean((1, 2)))[:, 0]


class Spots(grain.sources.RandomAccessDataSource):
    """Images [8, 8, 1] with a number of white pixels, which is the label."""

    def __init__(self, seed, length):
        self.seed, self.length = seed, length

    def __len__(self):
        return self.length

    def __getitem__(self, record_key):
        rng = np.random.default_rng([self.seed, record_key])
        count = rng.integers(0, 20)
        image = np.zeros(64, np.uint8)
        image[rng.permutation(64)[:count]] = 255
        return {"image": image.reshape(8, 8, 1), "count": np.float32(count)}


class CountingLearner:
    example, monitor, evaluated = "images", "count_error", ("validation", "test")
    example_px = (8, 8, 1)
    fit = train_network

    def __init__(self, config, info):
        self.config, self.info = config, info

    def module(self, axis_name=None):
        return Counter(self.config.model.features)

    def normalize(self, images):
        return images.astype(jnp.float32) / 255

    def prepare(self, keys, examples):
        return self.normalize(examples["image"]), examples["count"]

    def loss_and_metrics(self, counts, labels):
        errors = jnp.abs(counts - labels)
        number = jnp.float32(errors.size)
        return {"loss": (jnp.sum(errors**2), number), "count_error": (jnp.sum(errors), number)}


class CountingDataset:
    def __init__(self, config):
        self.splits = {split: Spots(i, SIZES[split]) for i, split in enumerate(SIZES)}
        self.info = DatasetInfo(
            "spots", (), (), 1, "uint8", 255, (0.0,), (1.0,), (), SIZES, (8, 8), fingerprint="f1"
        )

    def training_source(self, learner):
        return self.splits["train"]

    def evaluator(self, learner, split, devices):
        return CountingEvaluator(learner, self.splits[split], split)


@dataclass
class CountingEvaluator:
    learner: CountingLearner
    source: Spots
    split: str

    def scores(self, variables, check, last=False):
        images, labels = zip(
            *(self.source[i].values() for i in range(len(self.source))), strict=True
        )
        inputs = self.learner.normalize(jnp.stack(images))
        counts = self.learner.module().apply(variables, inputs, train=False)
        return {f"{self.split}/count_error": float(np.abs(counts - np.array(labels)).mean())}

    def report(self, variables, check):
        return Report(self.scores(variables, check))

    def keep(self, record, report):
        pass

    def draw(self, folder, lines, report, variables):
        (folder / "drawn.txt").write_text("pictures")


class Counting:
    configuration = CountingConfig
    models: ClassVar = {"counter": Counter}

    def learner(self, config, info):
        return CountingLearner(config, info)

    def dataset(self, config, description=None):
        return CountingDataset(config)
