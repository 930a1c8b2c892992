"""One device against eight: a mesh under `jit` and replicas under `pmap` give one device's numbers.

The eight devices are pieces of the CPU, which have to be asked for before JAX starts: so they live
in a process of their own.
"""

import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.layers.pooling import max_pool
from cnn_jax.models import MODELS
from cnn_jax.training.devices import Devices, accelerator_notice, arithmetic
from tests import running as commands

SCRIPT = textwrap.dedent("""
    import functools, json, sys
    import jax, jax.numpy as jnp, numpy as np, optax
    from flax import linen as nn
    from cnn_jax.configuration.schema import EvaluationConfig
    from cnn_jax.data.pipeline import DecodedScenes
    from cnn_jax.data.scenes import IGNORED, Scene
    from cnn_jax.errors import InputError
    from cnn_jax.evaluation.evaluate import SceneEvaluator, make_window_step
    from cnn_jax.models.unet import UNet
    from cnn_jax.training.devices import Devices, accelerator_notice
    from cnn_jax.training.losses import cross_entropy, hits
    from cnn_jax.training.state import TrainState
    from cnn_jax.training.step import make_train_step

    SIZE, BATCH, STEPS = 32, 16, 3
    report = {"devices": jax.device_count(), "notice": accelerator_notice()}
    optimizer = optax.sgd(0.05, momentum=0.9)

    def unet(axis_name=None):
        return UNet(3, base_width=4, depth=1, axis_name=axis_name)

    def start():
        rng = np.random.default_rng(0)
        image = jnp.zeros((1, SIZE, SIZE, 3))
        shapes = jax.eval_shape(lambda: unet().init(jax.random.key(0), image, train=False))

        def fill(p):
            deviation = (2 / (p.size // p.shape[-1])) ** 0.5
            return rng.normal(0, deviation, p.shape) if p.ndim > 1 else np.full(p.shape, 0.5)

        variables = jax.tree.map(lambda p: np.asarray(fill(p), np.float32), shapes)
        optimizer_state = jax.device_get(optimizer.init(variables["params"]))
        return TrainState(np.int32(0), variables, optimizer_state, variables)

    # The examples differ in brightness and in how many pixels count, so that means of means would
    # show.
    def batch(number):
        rng = np.random.default_rng(number)
        brightness = np.linspace(0.2, 3, BATCH)[:, None, None, None]
        image = rng.normal(size=(BATCH, SIZE, SIZE, 3)) * brightness
        mask = (image.sum(-1) > 0) + (image[..., 0] > 1).astype(np.uint8)
        for i in range(BATCH):
            mask[i, : 2 * i] = IGNORED
        position = np.arange(number * BATCH, (number + 1) * BATCH, dtype=np.uint32)
        image, mask = image.astype(np.float32), mask.astype(np.uint8)
        return {"image": image, "mask": mask, "position": position}

    def augment(keys, examples):
        factors = jax.vmap(lambda key: jax.random.uniform(key, (), minval=0.5, maxval=2))(keys)
        return examples["image"] * factors[:, None, None, None], examples["mask"].astype(jnp.int32)

    def step_function(axis_name=None):
        return make_train_step(
            unet(axis_name), objective, optimizer, augment, accumulate=2, ema_decay=0.5,
            axis_name=axis_name,
        )

    def objective(outputs, labels):
        return {"loss": cross_entropy(outputs, labels), "accuracy": hits(outputs, labels)}

    def train(step, state, place):
        losses = []
        for number in range(STEPS):
            state, metrics = step(state, place(batch(number)))
            losses.append({name: float(value) for name, value in metrics.items()})
        return state, losses

    def distance(one, other):
        return max(
            float(np.abs(np.asarray(a) - np.asarray(b)).max())
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        )

    compiled = jax.jit(step_function())
    one, losses = train(lambda state, batch: compiled(state, batch, 1), start(), lambda b: b)
    one = jax.device_get(one)
    report["moved"] = distance(one.variables, start().variables)
    report["one"] = losses

    rng = np.random.default_rng(9)
    pictures = [
        (rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 3, size).astype(np.uint8))
        for size in ((32, 32), (45, 61), (9, 70))
    ]
    scenes = DecodedScenes(
        [
            Scene(str(i), *m.shape, functools.partial(lambda p: p, (x, m)))
            for i, (x, m) in enumerate(pictures)
        ],
        1e9,
    )
    config = EvaluationConfig(window_px=(32, 32), context_px=4, batch_size=8)
    window_step = make_window_step(unet(), cross_entropy, lambda x: (x - 0.5) / 0.25, 3)

    class OneDevice:
        count = 1
        place = staticmethod(lambda batch: batch)
        share = staticmethod(lambda size: slice(0, size))

    alone = SceneEvaluator(scenes, jax.jit(window_step), OneDevice, config, 3)
    expected = alone.evaluate(one.evaluated)
    report["windows"], report["pixels"] = len(alone.source), int(expected.total.sum())
    report["predicted"] = (expected.total.sum(0) > 0).tolist()

    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            scale = self.param("scale", nn.initializers.ones, (64,))
            return nn.Dropout(0.5, deterministic=not train)(x * scale)

    def masks(devices):
        '''Which of 64 ones dropout leaves of the one example that each device has.'''

        def kept(outputs, labels):
            kept = jnp.einsum("bd,bf->df", labels, (outputs > 0).astype(jnp.float32))
            return {"loss": (outputs.sum(), 1.0), "kept": (kept, 1.0)}

        step = make_train_step(
            Dropped(), kept, optimizer, lambda keys, batch: (batch["image"], batch["label"]),
            axis_name=devices.axis_name,
        )
        variables = {"params": {"scale": np.ones(64, np.float32)}}
        held = optimizer.init(variables["params"])
        state = devices.replicate(TrainState(np.int32(0), variables, held, None))
        batch = {
            "image": np.ones((8, 64), np.float32), "label": np.eye(8, dtype=np.float32),
            "position": np.arange(8, dtype=np.uint32),
        }
        seed = jax.device_put((np.uint32(1), {}), devices.replicated)
        made = devices.jit_step(step)(state, devices.place_for_training(batch), *seed)[1]
        return (np.asarray(devices.single(made)["kept"]) > 0).astype(int).tolist()

    for parallelism in ("jit", "pmap"):
        devices = Devices(parallelism)
        placed = devices.place(batch(0))["image"]
        jitted = devices.jit_step(step_function(devices.axis_name))
        seed = jax.device_put((np.uint32(1), {}), devices.replicated)

        def step(state, batch):
            state, metrics = jitted(state, batch, *seed)
            return state, devices.single(metrics)

        state, losses = train(step, devices.replicate(start()), devices.place_for_training)
        single = devices.single(state)
        evaluator = SceneEvaluator(scenes, devices.predict(window_step), devices, config, 3)
        evaluated = evaluator.evaluate(single.evaluated)
        again = evaluator.evaluate(devices.single(devices.replicate(one)).evaluated)
        report[parallelism] = {
            "metrics": losses,
            "distance": distance(one, single),
            "replicas": max(
                distance(shard.data, leaf.addressable_shards[0].data)
                for leaf in jax.tree.leaves(state)
                for shard in leaf.addressable_shards
            ),
            "shards": [shard.data.shape[0] for shard in placed.addressable_shards],
            "same_confusion": np.array_equal(again.confusion, expected.confusion),
            "loss_difference": abs(again.loss - expected.loss),
            "counted": int(evaluated.total.sum()),
            "masks": masks(devices),
        }
        try:
            devices.check_batch("training.batch_size", 12)
        except InputError as error:
            report[parallelism]["refused"] = str(error)
        devices.check_batch("training.batch_size", 24)
    print(json.dumps(report))
    """)


@pytest.fixture(scope="session")
def eight(made_once):
    """What a process with eight devices reports."""

    def make(folder):
        environment = commands.environment(
            **commands.devices(8), PYTHONPATH=str(commands.ROOT), JAX_DISABLE_MOST_OPTIMIZATIONS="1"
        )
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / "report.json").write_text(done.stdout.splitlines()[-1], encoding="utf-8")

    return commands.read(made_once("eight", make) / "report.json")


each_way = pytest.mark.parametrize("parallelism", ["jit", "pmap"])


def test_there_are_eight_devices_and_training_moved(eight):
    assert eight["devices"] == 8
    assert "8 x" in eight["notice"]
    assert eight["moved"] > 0.01


@each_way
def test_metrics_of_each_step_are_those_of_one_device(eight, parallelism):
    for one, many in zip(eight["one"], eight[parallelism]["metrics"], strict=True):
        assert one["accuracy"] > 0.1
        for name, value in one.items():
            assert many[name] == pytest.approx(
                value, rel=1e-4 if name == "gradient_norm" else 1e-5
            ), name


@each_way
def test_the_state_is_that_of_one_device(eight, parallelism):
    """Weights, momentum, running statistics and moving averages; some hundred times closer than one
    step moves them."""
    assert eight[parallelism]["distance"] < 2e-4
    assert eight[parallelism]["distance"] < eight["moved"] / 100


@each_way
def test_devices_hold_equal_parts_of_the_batch_and_equal_states(eight, parallelism):
    assert eight[parallelism]["shards"] == [2] * 8
    assert eight[parallelism]["replicas"] == 0


@each_way
def test_dropout_is_another_on_each_device(eight, parallelism):
    masks = eight[parallelism]["masks"]
    assert len({tuple(mask) for mask in masks}) == 8
    assert all(16 <= sum(mask) <= 48 and {*mask} == {0, 1} for mask in masks)


@each_way
def test_evaluation_counts_what_one_device_counts(eight, parallelism):
    assert eight["windows"] % 8, "the last batch must need padding"
    assert eight["pixels"] == 32 * 32 + 45 * 61 + 9 * 70
    assert sum(eight["predicted"]) > 1
    assert eight[parallelism]["same_confusion"]
    assert eight[parallelism]["loss_difference"] < 1e-5
    assert eight[parallelism]["counted"] == eight["pixels"]


@each_way
def test_a_batch_that_devices_do_not_divide_is_refused_with_the_fields_name(eight, parallelism):
    message = eight[parallelism]["refused"]
    assert message.startswith("training.batch_size is 12, which 8 devices do not divide")
    assert "multiple of 8" in message


@pytest.fixture(scope="module")
def here():
    """The devices of this process."""
    return Devices("jit")


def test_any_multiple_of_the_devices_is_accepted(here):
    here.check_batch("evaluation.batch_size", 3 * here.count)


def test_the_error_names_whichever_field_is_asked_for(here, monkeypatch):
    monkeypatch.setattr(here, "count", 5)
    with pytest.raises(
        InputError,
        match=(
            r"^evaluation.batch_size is 7, which 5 devices do not divide; make it a multiple of"
            r" 5\.$"
        ),
    ):
        here.check_batch("evaluation.batch_size", 7)


def test_in_bfloat16_a_cpu_predicts_what_the_operations_one_by_one_give():
    model = MODELS["unet"](num_classes=2, base_width=8, depth=2, dtype="bfloat16")
    images = np.random.default_rng(0).normal(size=(8, 96, 96, 3)).astype(np.float32)
    variables = model.init(jax.random.key(0), images, train=False)

    def logits(variables, images):
        return model.apply(variables, images, train=False)

    found = Devices().predict(logits, model)(variables, images)
    np.testing.assert_allclose(found, logits(variables, images), atol=0.1)


def test_the_notice_says_so_where_there_is_no_accelerator():
    if jax.devices()[0].platform != "cpu":
        assert jax.devices()[0].device_kind in accelerator_notice()
    else:
        assert accelerator_notice().startswith("No accelerator found: running on the CPU")


def test_pmap_replicas_are_copies_and_single_takes_one():
    devices = Devices("pmap")
    state = {"a": np.arange(3.0, dtype=np.float32), "b": np.int32(4)}
    replicas = devices.replicate(state)
    assert replicas["a"].shape == (devices.count, 3)
    jax.tree.map(np.testing.assert_array_equal, devices.single(replicas), state)


@pytest.mark.parametrize("parallelism", ["jit", "pmap"])
def test_a_step_is_traced_with_the_arithmetic_of_its_devices(parallelism):
    """That of a CPU here, and no other program is."""
    devices, used = Devices(parallelism), []

    def pooled():
        program = jax.make_jaxpr(lambda x: max_pool(x, 3, 2))(np.zeros((1, 8, 8, 1), np.float32))
        used.append("xla" if "reduce_window" in str(program) else "cpu")

    def step(state, batch, seed, resident=()):
        pooled()
        return state, {"loss": batch["image"].sum()}

    def predict(variables, batch):
        pooled()
        return batch["image"]

    host = {"image": np.zeros((devices.count, 2), np.float32)}
    batch = devices.place(host)
    state = devices.replicate({"parameter": np.zeros(3, np.float32)})
    with arithmetic():
        given = state, devices.place_for_training(host), np.uint32(0), {}
        devices.jit_step(step).lower(*given)
    devices.predict(predict)(devices.copy({}), batch)
    assert used == ["cpu" if jax.default_backend() == "cpu" else "xla", "xla"]
