"""The comparison of segmentation architectures: equal budgets, matched parameters, and one command
from nothing to its pages."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import study, tasks
from cnn_jax.configuration import documents
from cnn_jax.tasks import model_config
from experiments import aerial_unet
from experiments.aerial_compare import GROUPS, STUDIES, conclude
from tests import running as commands
from tests.data import fake_sets
from tests.reporting.fake_records import write_run
from tests.running import Finished


def parameters(config, classes=5):
    model = tasks.build_model(
        config.model, num_classes=classes, axis_name=None, crop_px=config.data.crop_px
    )
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_is_valid_and_differs_in_its_model_alone(name):
    made = STUDIES[name]()
    first, *others = made.variants.values()
    tasks.check(first)
    for other in others:
        tasks.check(other)
        for section in ("data", "augmentation", "loss", "optimizer", "training", "evaluation"):
            assert getattr(other, section) == getattr(first, section)
            assert getattr(other, section) is not getattr(first, section)
    models = [
        (documents.to_dict(config)["model"], made.begins.get(name))
        for name, config in made.variants.items()
    ]
    assert all(models.count(model) == 1 for model in models)


@pytest.mark.long
def test_the_ablation_has_the_u_nets_parameters_as_near_as_whole_widths_get():
    variants = STUDIES["dubai"]().variants
    wanted = parameters(variants["unet"])
    for part in GROUPS["Ablation of the asymmetric U-Net"][1:]:
        config = variants[part]
        width = config.model.base_width
        off = {}
        for config.model.base_width in (width - 1, width, width + 1):
            off[config.model.base_width] = abs(parameters(config) / wanted - 1)
        assert off[width] == min(off.values()) < 0.1, part


def test_the_whole_ablation_has_the_u_nets_parameters():
    variants = STUDIES["dubai_whole"]().variants
    counts = [parameters(variants[part]) for part in GROUPS["Ablation of the asymmetric U-Net"]]
    assert max(abs(count / counts[0] - 1) for count in counts) < 0.01


def test_the_groups_name_variants_of_the_study_and_peers():
    studies = ("dubai", "heads", "pretrained", "pretrained_heads")
    known = {name for study in studies for name in STUDIES[study]().variants}
    known |= {"smp_unet", "smp_deeplabv3plus"}
    assert {name for names in GROUPS.values() for name in names} == known


def test_studies_of_pretrained_encoders_share_their_runs():
    """A run of one is a run of the other: same name, same configuration, same beginning."""
    one, other = STUDIES["pretrained_long"](), STUDIES["pretrained_heads"]()
    shared = set(one.variants) & set(other.variants)
    assert len(shared) == 3
    for name in shared:
        assert one.variants[name] == other.variants[name]
        assert one.begins.get(name) == other.begins.get(name)


def tiny() -> study.Study:
    """Two U-Nets, two seeds."""
    variants = {}
    for name, width in (("unet", 2), ("unet_se", 3)):
        variants[name] = aerial_unet.smoke()
        variants[name].experiment, variants[name].model = (
            "aerial_compare",
            model_config("unet", base_width=width, depth=1),
        )
        variants[name].data.source = "dubai"
        variants[name].data.crop_px, variants[name].evaluation.window_px = (8, 8), (16, 16)
        variants[name].evaluation.context_px = 2
        training = variants[name].training
        training.steps, training.validate_every_steps, training.log_every_steps = 2, 1, 1
        variants[name].optimizer.warmup_steps = 1
    return study.Study(variants, (0, 1))


@pytest.fixture
def command(tmp_path, capsys, quick_compilation, few_pictures):
    def run(*arguments):
        capsys.readouterr()
        data = f"--data.directory={tmp_path / 'dubai'}"
        code = study.main(
            "experiments.aerial_compare",
            {"tiny": tiny},
            conclude,
            [data, *map(str, arguments)],
        )
        return Finished(code, *capsys.readouterr())

    fake_sets.write_dubai(tmp_path / "dubai")
    return run


def test_one_command_ends_in_table_page_and_verdict_and_goes_on_where_it_stopped(command, tmp_path):
    folder = tmp_path / "comparación"
    assert command("--workdir", folder, "--variants", "unet", "--seeds=0").code == 0
    assert (folder / "comparison.md").exists()  # of what there is so far
    first = commands.read(folder / "unet-seed0" / "summary.json")
    finished = command("--workdir", folder)
    assert finished.code == 0, finished.err
    assert finished.out.count("holds this run, finished") == 1
    assert commands.read(folder / "unet-seed0" / "summary.json") == first
    table, page = (
        (folder / name).read_text(encoding="utf-8") for name in ("comparison.md", "index.html")
    )
    verdict = next(
        line
        for line in finished.out.splitlines()
        if line.startswith("Ablation of the asymmetric U-Net: ")
    )
    assert verdict.partition(": ")[2].split(".")[0] in table
    assert page.count("data:image/jpeg") >= 1
    rows = (folder / "comparison.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows[1:]] in (["unet", "unet_se"], ["unet_se", "unet"])
    for name in ("unet", "unet_se"):
        for seed in (0, 1):
            run = folder / f"{name}-seed{seed}"
            summary, scenes = (
                commands.read(run / "summary.json"),
                commands.read(run / "scenes.json"),
            )
            assert summary["multiply_adds"] > 0
            assert summary["step_memory_bytes"] > 0
            assert (
                0
                <= summary["test/miou_interval"][0]
                <= summary["test/miou"]
                <= summary["test/miou_interval"][1] + 1e-9
            )
            assert len(scenes["scenes"]) == summary["test/scenes"] == 2
            total = [
                [sum(cells) for cells in zip(*rows, strict=True)]
                for rows in zip(*(s["confusion"] for s in scenes["scenes"]), strict=True)
            ]
            assert total == summary["test/confusion"]
            assert sum(summary["test/calibration"]["count"]) == summary["test/pixels"]


def test_a_misspelt_model_and_seed_are_refused_before_anything_runs(command, tmp_path):
    for arguments, words in (
        (["--variants", "unet", "fcn9"], ["'fcn9'", "none of this study"]),
        (["--seeds=zero"], ["--seeds takes", "each a whole number"]),
        (["--loss.name=lovasz"], ["did you mean lovasz_softmax"]),
    ):
        finished = command("--workdir", tmp_path / "s", *arguments)
        assert finished.code == 2
        for word in words:
            assert word in finished.err
        assert not (tmp_path / "s").exists()


def test_help_says_what_the_studies_are(capsys):
    assert study.main("experiments.aerial_compare", STUDIES, conclude, ["--help"]) == 0
    text = capsys.readouterr().out
    for word in (
        "dubai_whole",
        "--variants",
        "--seeds",
        "asymmetric_unet",
        "encoder-width",
        "tversky-alpha",
    ):
        assert word in text


def test_a_plan_is_of_the_study_that_most_records_are_of(tmp_path, capsys):
    of = {"unet": "dubai_long", "fcn8s": "dubai_long", "deeplabv3plus": "pretrained_long"}
    for variant, configuration in of.items():
        for seed, score in enumerate((0.5, 0.53)):
            folder = tmp_path / f"{variant}-seed{seed}"
            config = {"configuration": configuration}
            write_run(folder, variant, seed, {"test/miou": score}, config=config)
    words = ["--plan", "--difference=0.1", "--workdir", str(tmp_path)]
    assert study.main("experiments.aerial_compare", STUDIES, conclude, words) == 0
    assert "The study is of" not in capsys.readouterr().out  # as of the default, of drawn scenes
