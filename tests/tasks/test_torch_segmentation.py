"""Peers: that they see our crops, are optimised as ours are, are counted by our evaluation, and
leave records of the same form."""

import copy
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import study
from cnn_jax.configuration import documents
from cnn_jax.configuration.schema import OptimizerConfig
from cnn_jax.data.pipeline import training_batches
from cnn_jax.errors import InputError
from cnn_jax.tasks import model_config, torch_segmentation
from cnn_jax.tasks.segmentation import Segmentation
from cnn_jax.training import optimizer as ours
from cnn_jax.training.losses import cross_entropy
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import make_train_step
from experiments import aerial_compare, aerial_peers, aerial_unet
from tests.running import read


def tiny(**sections):
    """Synthetic scenes, two steps."""
    config = aerial_unet.smoke()
    config.data.scene_px, config.data.scene_counts, config.data.crop_px = (
        (80, 112),
        (3, 1, 2),
        (48, 72),
    )
    config.training.steps, config.training.batch_size, config.training.log_every_steps = 2, 4, 1
    config.training.validate_every_steps, config.optimizer.warmup_steps = 2, 1
    config.evaluation.window_px, config.evaluation.context_px = (72, 100), 8
    for path, value in sections.items():
        section, _, name = path.partition("__")
        setattr(getattr(config, section), name, value)
    return config


@pytest.fixture
def torch_and_smp():
    """The peers' libraries, where they are installed."""
    pytest.importorskip("torch")
    try:
        return torch_segmentation.libraries()
    except InputError:
        pytest.skip("segmentation_models_pytorch is not installed")


SMALL = ("--config", "smoke", "--variants", "smp_unet", "--seeds", "0")


class Seen:
    """In the place of a network in our training step: its variables after the step are the images
    that it was given."""

    auxiliary_weight = 0.0

    def apply(self, variables, images, **_):
        return images * variables["params"], {"seen": images}


@pytest.mark.usefixtures("quick_compilation")
def test_peer_sees_the_crops_of_our_step():
    config = tiny()
    config.seed = 7
    dataset = Segmentation().dataset(config)
    learner = Segmentation().learner(config, dataset.info)
    batches = training_batches(
        dataset.training_source(learner), seed=config.seed, batch_size=config.training.batch_size
    )
    labels_seen = []

    def loss(logits, labels):
        jax.debug.callback(lambda labels: labels_seen.append(np.asarray(labels)), labels)
        return {"loss": cross_entropy(logits, labels)}

    step = jax.jit(make_train_step(Seen(), loss, optax.sgd(0.0), learner.prepare))
    crops = torch_segmentation.crops_of(learner.prepare, config.seed)
    of_peers = []
    for number in (0, 5):  # the second is of a later epoch
        shape = (config.training.batch_size, *config.data.crop_px, 3)
        params = jnp.ones(())
        state = TrainState(
            jnp.asarray(number),
            {"params": params, "seen": jnp.zeros(shape)},
            optax.sgd(0.0).init(params),
            None,
        )
        state, _ = step(state, batches[number], config.seed)
        jax.effects_barrier()
        images, labels = crops(batches[number])
        assert images.shape == shape
        assert np.asarray(images).tobytes() == np.asarray(state.variables["seen"]).tobytes()
        assert np.asarray(labels).tobytes() == labels_seen[-1].tobytes()
        of_peers.append(np.asarray(images))
    assert not np.array_equal(*of_peers)


@pytest.mark.parametrize("name", aerial_peers.STUDIES)
def test_a_peer_shares_every_section_with_every_variant_of_the_study(name):
    theirs, ours = aerial_peers.STUDIES[name](), aerial_compare.STUDIES[name]()
    assert theirs.seeds == ours.seeds
    assert list(theirs.variants) == list(torch_segmentation.PEERS)
    for peer, config in theirs.variants.items():
        record = json.loads(documents.to_json(config))
        assert (record["model"]["name"], record["model"]["encoder"]) == (peer, "mobilenet_v2")
        for variant in ours.variants.values():
            differing = {line.partition(":")[0] for line in documents.differences(config, variant)}
            assert {path for path in differing if not path.startswith("model.")} <= {"variant"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss__label_smoothing", 0.1),
        ("optimizer__name", "sgd"),
        ("training__accumulate", 2),
        ("evaluation__weights", "best"),
    ],
)
def test_what_a_peer_does_not_do_is_refused(field, value, monkeypatch):
    monkeypatch.setattr(torch_segmentation, "libraries", lambda: None)
    config = tiny(**{field: value})
    config.model = model_config("smp_unet")
    info = Segmentation().dataset(config).info
    with pytest.raises(InputError, match=field.replace("__", r"\.")):
        Segmentation().learner(config, info)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants", "smp_unett"], "did you mean smp_unet"),
        (["--seeds", "one"], "seeds"),
        (["--model.base_width=8"], "--model.base"),
        (["--seed=1"], "--seed"),
    ],
)
def test_command_refuses(capsys, arguments, words):
    assert study.main("experiments.aerial_peers", aerial_peers.STUDIES, argv=arguments) == 2
    assert words in capsys.readouterr().err


def test_without_the_extra_one_sentence_says_how_to_install_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    torch_segmentation.libraries.cache_clear()
    try:
        arguments = ["--workdir", str(tmp_path / "study"), *SMALL]
        assert study.main("experiments.aerial_peers", aerial_peers.STUDIES, argv=arguments) == 2
    finally:
        torch_segmentation.libraries.cache_clear()
    error = capsys.readouterr().err
    assert "torch is missing" in error
    assert "pip install" in error
    assert "'.[peers]'" in error
    assert not (tmp_path / "study").exists()


# ---- with PyTorch


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_adamw_steps_as_optax_does(torch_and_smp, clip_norm):
    torch, _ = torch_and_smp
    config = OptimizerConfig(
        learning_rate=0.1, warmup_steps=2, weight_decay=0.5, clip_norm=clip_norm
    )
    steps, rng = 6, np.random.default_rng(0)
    params = {
        "kernel": rng.normal(size=(3, 3, 2, 4)),
        "scale": rng.normal(size=4),
        "bias": rng.normal(size=4),
    }
    params = {name: value.astype(np.float32) for name, value in params.items()}
    module = torch.nn.ParameterDict(
        {name: torch.nn.Parameter(torch.from_numpy(p.copy())) for name, p in params.items()}
    )
    transformation, schedule = ours.make_optimizer(config, steps), ours.learning_rate(config, steps)
    state, peer = transformation.init(params), torch_segmentation.make_optimizer(module, config)
    for number in range(steps):
        gradient = {
            name: (rng.normal(size=p.shape) * 10 ** (number - 3)).astype(np.float32)
            for name, p in params.items()
        }
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for name, parameter in module.items():
            parameter.grad = torch.from_numpy(gradient[name].copy())
        norm = torch_segmentation.take_step(peer, float(schedule(number)), clip_norm)
        assert norm == pytest.approx(
            np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values())), rel=1e-5
        )
        for name, parameter in module.items():
            np.testing.assert_allclose(
                parameter.detach().numpy(), params[name], rtol=1e-5, atol=1e-5
            )


def test_decay_is_of_kernels_alone(torch_and_smp):
    torch, _ = torch_and_smp
    model = torch_segmentation.SmpUnet(num_classes=3).network()
    decayed, others = torch_segmentation.make_optimizer(
        model, OptimizerConfig(weight_decay=0.3)
    ).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    kernels = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {id(p) for p in decayed["params"]} == {id(p) for p in kernels}
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_work_of_a_known_network(torch_and_smp):
    torch, _ = torch_and_smp
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
        torch.nn.Conv2d(8, 5, 1),
    )
    model.requires_divisible_input_shape = False
    assert torch_segmentation.multiply_adds(model, (10, 12, 3)) == 10 * 12 * (
        3 * 8 * 9 + 8 * 9 + 8 * 5
    )


@pytest.mark.parametrize(
    ("peer", "parameters"), [("smp_unet", 3_168_245), ("smp_deeplabv3plus", 2_703_957)]
)
def test_peers_take_windows_of_any_size(torch_and_smp, peer, parameters):
    torch, _ = torch_and_smp
    torch.manual_seed(0)
    model = torch_segmentation.PEERS[peer](num_classes=5).network()
    assert sum(p.numel() for p in model.parameters()) == parameters
    images = np.random.default_rng(0).normal(size=(2, 50, 71, 3)).astype(np.float32)
    logits = torch_segmentation.predict(model, images)
    assert logits.shape == (2, 50, 71, 5)
    assert logits.dtype == np.float32
    assert not model.training
    whole = torch_segmentation.predict(
        model, images[:, :48, :64]
    )  # needs no padding: the library's own output
    with torch.inference_mode():
        theirs = model(
            torch.from_numpy(images[:, :48, :64].copy()).permute(0, 3, 1, 2).contiguous()
        )
    np.testing.assert_allclose(whole, theirs.permute(0, 2, 3, 1).numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("quick_compilation")
def test_runs_and_is_found_finished(torch_and_smp, tmp_path, capsys, monkeypatch):
    config = tiny()
    config.model = model_config("smp_deeplabv3plus")
    studies = {"tiny": lambda: study.Study({"smp_deeplabv3plus": copy.deepcopy(config)}, (1,))}
    arguments = ["--workdir", str(tmp_path / "compared" / "study")]
    assert study.main("experiments.aerial_peers", studies, argv=arguments) == 0
    folder = tmp_path / "compared" / "study" / "smp_deeplabv3plus-seed1"
    summary, environment = read(folder / "summary.json"), read(folder / "environment.json")
    recorded = read(folder / "config.json")
    assert (recorded["variant"], recorded["seed"], recorded["model"]["name"]) == (
        "smp_deeplabv3plus",
        1,
        "smp_deeplabv3plus",
    )
    assert summary["digest"] == environment["digest"]
    packages = {"torch", "timm", "segmentation-models-pytorch"}
    assert packages <= summary["made_by"]["versions"].keys()
    assert (summary["variant"], summary["steps"], summary["parameters"]) == (
        "smp_deeplabv3plus",
        2,
        2_703_957 + 65,
    )
    assert summary["multiply_adds"] > 1e7
    assert summary["step_memory_bytes"] is None
    # Every pixel of both test scenes, once.
    assert summary["test/pixels"] == np.sum(summary["test/confusion"]) == 2 * 80 * 112
    assert len(read(folder / "scenes.json")["scenes"]) == 2
    lines = [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 2]
    assert np.isfinite(lines[0]["train/loss"])
    assert lines[0]["train/learning_rate"] == 0
    assert lines[1]["train/learning_rate"] == pytest.approx(3e-3)
    assert lines[2]["validation/miou"] == summary["validation/miou"]
    assert (folder / "figures" / "learning_curves.png").is_file()
    before = (folder / "summary.json").stat().st_mtime_ns
    capsys.readouterr()
    assert study.main("experiments.aerial_peers", studies, argv=arguments) == 0
    assert "finished" in capsys.readouterr().out
    assert (folder / "summary.json").stat().st_mtime_ns == before
