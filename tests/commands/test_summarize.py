"""The command that prints the layers of an architecture."""

import re

import jax
import numpy as np
import pytest

from cnn_jax import tasks
from cnn_jax.analysis import layer_table
from cnn_jax.commands.summarize import main
from cnn_jax.models import SEGMENTERS
from cnn_jax.models.detectors import DETECTORS
from tests.models.shapes import count, shallow, shapes
from tests.models.test_all import SMALL, has, small
from tests.running import given


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("course_cnn", "640 + 432,650 = 433,290"),
        ("course_cnn_dense", "640 + 648,975 + 160 = 649,775"),
        ("course_cnn_pool", "640 + 162,255 + 160 = 163,055"),
    ],
)
def test_the_courses_models_add_up_on_paper(name, total, capsys):
    assert main(["--model.name", name, "--input", "28x28x1", "--classes", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{name}, 10 classes, input 28x28x1"
    assert f"parameters: {total}" in lines


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_add_up_to_their_parameters(name, capsys):
    options = ["--model.name", name, "--model.encoder", "resnet18", "--model.encoder_width", "0.5"]
    assert main([*options, "--input", "64x96x3", "--classes", "3"]) == 0
    model = tasks.model_config(name, encoder="resnet18", encoder_width=0.5)
    module = tasks.build_model(model, num_classes=3)
    image = np.zeros((1, 64, 96, 3), np.float32)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))
    wanted = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert f"parameters: {wanted:,}" in capsys.readouterr().out.splitlines()


def test_the_input_is_the_papers_unless_given_and_options_are_the_architectures(capsys):
    assert main(["--model.name", "alexnet"]) == 0
    papers = capsys.readouterr().out
    assert papers.startswith("alexnet, 1000 classes, input 224x224x3\n")
    assert "\nparameters: 61,100,840\n" in papers
    assert (
        main(
            [
                "--model.name=alexnet",
                "--model.stem=small",
                "--model.dense_width=8",
                "--classes=10",
                "--input=32x32x3",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-4].split()[:4] == ["head", "dense", "10", "90"]


@pytest.mark.parametrize(
    ("names", "classes", "input_px"),
    [
        (("softmax_regression", "mlp", "cnn", "course_cnn", "course_cnn_pool"), 10, "28x28x1"),
        (("lenet5",), 10, "32x32x1"),
        (("resnet20", "resnet110"), 10, "32x32x3"),
        (("alexnet", "vgg11", "googlenet", "mobilenet_v2", "resnet18"), 1000, "224x224x3"),
        (("inception_v3", "xception"), 1000, "299x299x3"),
    ],
)
def test_classes_and_input_are_the_papers(names, classes, input_px, monkeypatch, capsys):
    monkeypatch.setattr(layer_table, "summarize", lambda model, px: (model, px))
    monkeypatch.setattr(layer_table, "layer_table", lambda found: found[0].num_classes)
    for name in names:
        assert main(["--model.name", name]) == 0
        printed = capsys.readouterr().out
        assert printed == f"{name}, {classes} classes, input {input_px}\n\n{classes}\n"


@pytest.mark.parametrize(("name", "classes"), [("unet", 2), ("fcn8s", 21), ("deeplabv3plus", 21)])
def test_segmenters_have_their_papers_classes(name, classes, monkeypatch, capsys):
    monkeypatch.setattr(layer_table, "summarize", lambda model, px: (model, px))
    monkeypatch.setattr(layer_table, "layer_table", lambda found: found[0].num_classes)
    assert main(["--model.name", name, "--input", "64x64x3"]) == 0
    assert capsys.readouterr().out.startswith(f"{name}, {classes} classes, input 64x64x3\n")


def test_a_segmenter_has_a_table_too(capsys):
    assert (
        main(["--model.name", "unet", "--input", "64x64x3", "--classes", "2", "--model.norm=none"])
        == 0
    )
    assert "\nparameters: 31,031,810\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", SEGMENTERS)
def test_every_segmenter_has_a_table_of_all_it_has(name, capsys):
    """Parameters add up to those that the model has; every row that predicts has a receptive
    field."""
    with shallow():
        options = given(*(f"model.{option}={value}" for option, value in SMALL[name].items()))
        assert main(["--model.name", name, "--input", "37x29x3", "--classes", "3", *options]) == 0
        expected = count(shapes(small(name), 37, 29, 3)[1]["params"])
    _, _, head, rule, *rows = capsys.readouterr().out.splitlines()
    rows, totals = (
        rows[: rows.index("")],
        dict(line.split(": ") for line in rows[rows.index("") + 1 :]),
    )
    starts = [match.start() for match in re.finditer("-+", rule)]
    assert head.endswith("field, px")
    cells = [
        [row[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        for row in rows
    ]
    parameters = [int(row[6].replace(",", "")) for row in cells if row[6]]
    assert sum(parameters) == int(totals["parameters"].replace(",", "")) == expected
    work = [int(row[7].replace(",", "")) for row in cells if row[7]]
    assert sum(work) == int(totals["multiply-adds for one image"].replace(",", "")) > 37 * 29
    predicting = [row for row in cells if row[1] != "in training alone"]
    assert {row[0] for row in cells if row not in predicting} == (
        {"auxiliary/convolution/convolution", "auxiliary/convolution/norm", "auxiliary/head"}
        if has(name, "auxiliary_weight")
        else set()
    )
    assert all(row[8] for row in predicting), "a layer of which nobody knows what it sees"
    assert predicting[0][8] != "all"
    assert "head" in [row[0] for row in predicting] or predicting[-1][0] == "upsampling"


def test_the_work_of_an_asymmetric_u_net_by_hand(capsys):
    """One level of 4 channels on 8x8; below, ASPP of 2 channels on 4x4; a decoder of 2 channels."""
    options = ["--model.base_width=4", "--model.depth=1", "--model.reduction=1"]
    assert (
        main(["--model.name", "asymmetric_unet", "--input", "8x8x3", "--classes", "2", *options])
        == 0
    )
    encoder = 64 * (9 * 3 * 4 + 9 * 4 * 4) + 2 * 4 * 4
    bridge = 16 * (4 * 2 + 3 * 9 * 4 * 2) + 4 * 2 + 16 * 5 * 2 * 2
    decoder = 16 * 4 * 2 * 2 + 64 * 9 * (4 + 2) * 2 + 64 * 2 * 2
    assert encoder + bridge + decoder == 27_496
    assert "\nmultiply-adds for one image: 27,496\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--model.name", "vgg61"],
            "--model.name vgg61 is no architecture: did you mean vgg19 or vgg16 or vgg13.",
        ),
        (
            ["--model.name", "unet"],
            "unet has no size of image of its own; give one, such as --input 256x256x3.",
        ),
        (
            ["--model.name", "encoder_unet", "--input", "64x64x3"],
            "encoder_unet has no number of classes of its own; give one, such as --classes 5.",
        ),
        (
            ["--model.name", "vgg16", "--input", "224"],
            "--input is '224'; write height, width and channels, such as 224x224x3.",
        ),
        (
            ["--model.name", "vgg16", "--input", "0x9x3"],
            "--input is '0x9x3'; write height, width and channels, such as 224x224x3.",
        ),
        (
            ["--model.name", "alexnet", "--input", "80x32x3"],
            "--input 80x32x3 is too small for alexnet, which takes images of at least 63x63 px.",
        ),
        (["--model.name", "vgg16", "--classes", "0"], "--classes is 0; it must be at least 1."),
        (
            ["--model.name", "vgg16", "--model.nrom=batch"],
            "--model.nrom is no flag: did you mean --model.norm",
        ),
        (
            ["--model.name", "vgg16", "--model.depth=11"],
            "--model.depth is no flag: did you mean",
        ),
        (
            ["--model.name", "vgg16", "--model.norm=bach"],
            "--model.norm is 'bach': did you mean batch.",
        ),
        (
            ["--model.name", "vgg16", "--model.dense_width=ñ"],
            "--model.dense_width takes a whole number, not 'ñ'.",
        ),
        (
            ["--model.name", "vgg16", "--modle.norm=none"],
            "--modle.norm is no flag: did you mean --model.norm",
        ),
        (["--model.name", "cnn", "--model.pool_after=9"], "pool_after is (9,), but widths"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {sentence}")
    assert len(printed.err.splitlines()) == 1
