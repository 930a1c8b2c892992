"""Runs of one process share their programs where nothing but the seed differs, and compute what
they would alone."""

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import tasks
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.models.unet import UNet
from cnn_jax.tasks import model_config, programs
from cnn_jax.tasks.network import abstract_variables, initial_state
from cnn_jax.tasks.segmentation_learner import SegmentationLearner
from cnn_jax.training.devices import Devices
from cnn_jax.training.optimizer import make_optimizer
from cnn_jax.training.state import create
from experiments import aerial_compare, aerial_unet, dense_vs_convolutional, overfitting, transfer
from tests.running import TINY

INFO = DatasetInfo(
    source="set",
    classes=("land", "water"),
    colors=((0, 0, 0), (0, 0, 255)),
    channels=3,
    dtype="uint8",
    greatest=255.0,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    class_counts=(3, 1),
    sizes={"train": 1, "validation": 0, "test": 0},
    image_px=None,
    fingerprint="0",
)


@pytest.fixture(autouse=True)
def none_kept(monkeypatch, quick_compilation):
    monkeypatch.setattr(programs, "kept", collections.OrderedDict())


def learner(info=INFO, **changes):
    config = aerial_unet.smoke()
    config.data.crop_px = (8, 8)
    config.model = model_config("unet", base_width=2, depth=1)
    return SegmentationLearner(dataclasses.replace(config, **changes), info)


def test_learners_share_whose_seed_and_names_alone_differ():
    made = []

    def shared(one, name="program", devices=None):
        return programs.shared(one, name, lambda: made.append(None) or len(made), devices)

    assert shared(learner()) == shared(learner(seed=1, variant="b", configuration="c")) == 1
    assert shared(learner(), "another") == 2
    assert shared(learner(), devices=Devices()) == shared(learner(), devices=Devices()) == 3
    assert shared(learner(), devices=Devices("pmap")) == 4
    wider = model_config("unet", base_width=4, depth=1)
    assert shared(learner(model=wider)) == 5
    assert shared(learner(dataclasses.replace(INFO, mean=(0.4, 0.5, 0.5)))) == 6
    assert shared(learner()) == 1


def test_a_network_that_is_defined_anew_under_its_name_has_programs_of_its_own(monkeypatch):
    class Anew(UNet):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Conv(self.num_classes, (1, 1))(images)

    def drawn(module):
        monkeypatch.setitem(tasks.of("segmentation").models, "mine", module)
        return abstract_variables(learner(model=model_config("mine", base_width=2, depth=1)))

    before, after = drawn(UNet), drawn(Anew)
    assert {*before["params"]} != {*after["params"]} == {"Conv_0"}


def test_the_programs_of_few_configurations_are_kept():
    first = learner()
    programs.shared(first, "program", object)
    for number in range(programs.MOST):
        info = dataclasses.replace(INFO, fingerprint=f"{number + 1}")
        programs.shared(learner(info), "program", object)
    assert len(programs.kept) == programs.MOST
    made = []
    programs.shared(first, "program", lambda: made.append(None))  # who has them keeps them
    assert not made
    programs.shared(learner(), "program", lambda: made.append(None))
    assert made


def test_weights_are_those_of_the_seed_whoever_made_the_program():
    drawn = [initial_state(learner(seed=seed)) for seed in (0, 1)]
    one = learner(seed=1)
    optimizer = make_optimizer(one.config.optimizer, one.config.training.steps)
    alone = create(one.module(), optimizer, 1, one.example_px, averaged=False)
    for ours, its in zip(jax.tree.leaves(drawn[1]), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(ours, its)
    kernels = [state.variables["params"]["head"]["kernel"] for state in drawn]
    assert np.abs(kernels[0] - kernels[1]).min() > 0
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract_variables(one))
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), drawn[0].variables)


@pytest.mark.parametrize(
    "study",
    [
        make
        for experiment in (aerial_compare, dense_vs_convolutional, overfitting, transfer)
        for make in experiment.STUDIES.values()
    ],
)
def test_a_study_finds_all_its_programs_at_the_next_seed(study):
    assert len(study().variants) <= programs.MOST


def test_a_run_with_anothers_programs_computes_what_it_would_alone(command, tmp_path):
    def lines(folder):
        timed = ("elapsed_s", "train/images_per_second", "train/data_wait_fraction")
        found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert all(line["elapsed_s"] > found[0]["elapsed_s"] / 2 > 0 for line in found)
        return [{k: v for k, v in line.items() if k not in timed} for line in found]

    for seed, name in ((0, "first"), (1, "shared")):
        assert command(*TINY, "--seed", seed, "--workdir", tmp_path / name).code == 0
    assert len(programs.kept) == 1
    programs.kept.clear()
    assert command(*TINY, "--seed", 1, "--workdir", tmp_path / "alone").code == 0
    assert lines(tmp_path / "shared") == lines(tmp_path / "alone") != lines(tmp_path / "first")
