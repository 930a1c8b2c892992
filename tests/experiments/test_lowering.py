"""The training step of every shipped configuration becomes a program for GPUs and TPUs, as far as
that is known without one: traced and lowered, not compiled. No data are needed."""

import jax
import numpy as np
import pytest
from jax import export

from cnn_jax import tasks
from cnn_jax.data.augmentation import Windows, region_px
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.descriptions import BUILT_IN
from cnn_jax.data.pipeline import training_batches
from cnn_jax.tasks.network import initial_state, training_step
from cnn_jax.tasks.torch_segmentation import PEERS
from experiments import (
    aerial_compare,
    aerial_unet,
    classify,
    dense_vs_convolutional,
    mnist,
    overfitting,
)

IMAGES = {  # (height, width, channels), classes
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "imagenet2012": ((224, 224, 3), 1000),
    "folders": ((64, 64, 3), 6),
}
SCENE_PX = (1080, 1920)


def shipped():
    """Experiment, configuration and variant -> configuration."""
    found = {}
    for module in (aerial_unet, classify):
        for name, make in module.CONFIGURATIONS.items():
            found[f"{module.__name__.partition('.')[2]} {name}"] = make()
    for module in (aerial_compare, dense_vs_convolutional, mnist, overfitting):
        for name, make in module.STUDIES.items():
            for variant, config in make().variants.items():
                found[f"{module.__name__.partition('.')[2]} {name} {variant}"] = config
    return found


SHIPPED = shipped()

QUICK = (
    "aerial_compare default asymmetric_unet",
    "aerial_compare dubai_whole unet",
    "mnist default cnn",
)
"""The proposal, one in bfloat16, one of a classifier; the others are long."""

assert set(QUICK) <= set(SHIPPED)


def info(config) -> DatasetInfo:
    """What is known of the data, as far as a program depends on it."""
    source = config.data.source
    if config.task == "segmentation":
        known = BUILT_IN.get(source)
        (height, width), channels = SCENE_PX, 3
        classes = len(known.classes) if known else 5
    else:
        (height, width, channels), classes = IMAGES[source]
    names = tuple(map(str, range(classes)))
    return DatasetInfo(
        source=source,
        classes=names,
        colors=((0, 0, 0),) * classes,
        channels=channels,
        dtype="uint8",
        greatest=255.0,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        class_counts=(1,) * classes,
        sizes={"train": 1, "validation": 1, "test": 1},
        image_px=None if config.task == "segmentation" else (height, width),
        fingerprint="",
    )


def batch(config, known: DatasetInfo) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch."""
    size = config.training.batch_size
    if config.task == "segmentation":
        crop_px = config.data.crop_px
        windows = Windows(0, crop_px, config.augmentation).size_px
        region = map(min, region_px(crop_px, config.augmentation), SCENE_PX)
        px = tuple(map(min, region, windows))
        shapes = {
            "image": ((size, *px, known.channels), np.uint8),
            "mask": ((size, *px), np.uint8),
            "cell_px": ((size, 4), np.int32),
            "extent_px": ((size, 2), np.int32),
            "start": ((size,), np.int32),
        }
    else:
        shapes = {
            "image": ((size, *known.image_px, known.channels), np.uint8),
            "label": ((size,), np.int32),
        }
    if config.data.on_device:
        shapes = {"number": ((size,), np.int32)}
    shapes["position"] = ((size,), np.uint32)
    return {name: jax.ShapeDtypeStruct(*described) for name, described in shapes.items()}


def resident(config, known):
    """The shapes and types of the images that lie on the devices, where a run keeps them there."""
    if not config.data.on_device:
        return {}
    count = known.sizes["train"]
    return {
        "images": jax.ShapeDtypeStruct((count, *known.image_px, known.channels), np.uint8),
        "labels": jax.ShapeDtypeStruct((count,), np.int32),
    }


def test_a_batch_is_that_of_a_run():
    config = aerial_unet.smoke()
    task = tasks.of(config.task)
    dataset = task.dataset(config)
    learner = task.learner(config, dataset.info)
    source = dataset.training_source(learner)
    real = training_batches(source, seed=0, batch_size=config.training.batch_size)[0]
    described = batch(config, dataset.info)
    assert {k: (v.shape, v.dtype) for k, v in described.items()} == {
        k: (v.shape, v.dtype) for k, v in real.items()
    }


def test_every_experiment_is_here():
    assert {config.experiment for config in SHIPPED.values()} == {
        *("aerial_unet", "aerial_compare", "classify"),
        *("dense_vs_convolutional", "mnist", "overfitting"),
    }
    assert not any(config.model.name in PEERS for config in SHIPPED.values())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in SHIPPED],
)
def test_the_training_step_is_lowered_for_gpus_and_tpus(name):
    config = SHIPPED[name]
    known = info(config)
    learner = tasks.of(config.task).learner(config, known)
    state = jax.eval_shape(lambda: initial_state(learner))
    seed = jax.ShapeDtypeStruct((), np.uint32)
    step = jax.jit(training_step(learner), donate_argnums=0)
    constant = seed, resident(config, known)
    lowered = export.export(step, platforms=["cuda", "tpu"])(state, batch(config, known), *constant)
    assert lowered.platforms == ("cuda", "tpu")
    after, metrics = lowered.out_tree.unflatten(lowered.out_avals)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after)
    assert all(jax.tree.leaves(same))
    assert {"loss", "gradient_norm"} <= metrics.keys()
    assert {value.dtype for value in metrics.values()} == {np.dtype(np.float32)}
    half = getattr(config.model, "dtype", "float32") == "bfloat16"
    assert ("bf16" in lowered.mlir_module()) == half
