"""The command that prints the layers of an architecture."""

import pytest

from experiments.summarize import main


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("course_cnn", "640 + 432,650 = 433,290"),
        ("course_cnn_dense", "640 + 648,975 + 160 = 649,775"),
        ("course_cnn_pool", "640 + 162,255 + 160 = 163,055"),
    ],
)
def test_the_courses_models_add_up_on_paper(name, total, capsys):
    assert main(["--model", name, "--input", "28x28x1", "--classes", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{name}, 10 classes, input 28x28x1"
    assert f"parameters: {total}" in lines


def test_the_input_is_the_papers_unless_given_and_options_are_the_architectures(capsys):
    assert main(["--model", "alexnet"]) == 0
    papers = capsys.readouterr().out
    assert papers.startswith("alexnet, 1000 classes, input 224x224x3\n")
    assert "\nparameters: 61,100,840\n" in papers
    assert main(["--model=alexnet", "--model.stem=small", "--model.dense_width=8", "--classes=10", "--input=32x32x3"]) == 0
    assert capsys.readouterr().out.splitlines()[-4].split()[:4] == ["head", "dense", "10", "90"]


def test_a_segmenter_has_a_table_too(capsys):
    assert main(["--model", "unet", "--input", "64x64x3", "--classes", "2", "--model.norm=none"]) == 0
    assert "\nparameters: 31,031,810\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "vgg61"], "--model vgg61 is no architecture: did you mean vgg19 or vgg16 or vgg13."),
        (["--model", "unet"], "unet has no size of image of its own; give one, such as --input 256x256x3."),
        (["--model", "vgg16", "--input", "224"], "--input is '224'; write height, width and channels, such as 224x224x3."),
        (["--model", "vgg16", "--input", "0x9x3"], "--input is '0x9x3'; write height, width and channels, such as 224x224x3."),
        (
            ["--model", "alexnet", "--input", "80x32x3"],
            "--input 80x32x3 is too small for alexnet, which takes images of at least 63x63 px.",
        ),
        (["--model", "vgg16", "--classes", "0"], "--classes is 0; it must be at least 1."),
        (["--model", "vgg16", "--model.nrom=batch"], "--model.nrom is no option of vgg16: did you mean norm."),
        (["--model", "vgg16", "--model.depth=11"], "--model.depth is no option of vgg16: did you mean"),
        (["--model", "vgg16", "--model.norm=bach"], "model.norm is 'bach': did you mean batch."),
        (["--model", "vgg16", "--model.dense_width=ñ"], "--model.dense_width takes a whole number, not 'ñ'."),
        (["--model", "vgg16", "--modle.norm=none"], "'--modle.norm=none' is not understood"),
        (["--model", "cnn", "--model.pool_after=9"], "pool_after is (9,), but widths"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {sentence}")
    assert len(printed.err.splitlines()) == 1
