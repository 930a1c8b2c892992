"""Given weights, laid over those that a network drew."""

import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.training.initial import Initial

HEAD = {("params", "head", "kernel")}


def classifier(value, classes=3, width=4):
    return {
        "params": {
            "stem": {"kernel": np.full((3, 3, 3, width), value, np.float32)},
            "head": {"kernel": np.full((width, classes), value, np.float32)},
        },
        "batch_stats": {"stem": {"mean": np.full(width, value, np.float32)}},
    }


def segmenter(value, classes=3, width=4, decoder=2):
    held = classifier(value, classes, width)
    return {
        "params": {
            "encoder": {"stem": held["params"]["stem"]},
            "decoder": {"kernel": np.full((1, 1, width, decoder), value, np.float32)},
            "head": {"kernel": np.full((decoder, classes), value, np.float32)},
        },
        "batch_stats": {"encoder": held["batch_stats"]},
    }


def laid(given, drawn, part="auto"):
    """(what was taken in words, names of the top modules that were taken)."""
    laid, what = Initial("RUN", given).laid_over(drawn, HEAD, part)
    taken = {
        "/".join(path) for path, leaf in _flat(laid).items() if float(np.asarray(leaf).flat[0]) == 1
    }
    assert all(leaf.shape == _flat(drawn)[path].shape for path, leaf in _flat(laid).items())
    return what, taken


def _flat(tree):
    from flax import traverse_util

    return traverse_util.flatten_dict(tree)


STEM = {"params/stem/kernel", "batch_stats/stem/mean"}
ENCODER = {"params/encoder/stem/kernel", "batch_stats/encoder/stem/mean"}


def test_as_much_as_fits_is_taken():
    assert laid(classifier(1), classifier(0)) == (
        "the whole network",
        STEM | {"params/head/kernel"},
    )
    assert laid(classifier(1, 1000), classifier(0)) == ("all but the head", STEM)
    assert laid(classifier(1), segmenter(0)) == ("the encoder", ENCODER)
    assert laid(segmenter(1), classifier(0)) == ("the encoder", STEM)
    assert laid(segmenter(1, decoder=5), segmenter(0)) == ("the encoder", ENCODER)
    everything = ENCODER | {"params/decoder/kernel", "params/head/kernel"}
    assert laid(segmenter(1), segmenter(0)) == ("the whole network", everything)
    assert laid(segmenter(1, classes=9), segmenter(0))[0] == "all but the head"


def instances(value, **options):
    """A segmenter within a network of instances, whose heads are its own."""
    held = segmenter(value, **options)
    held = {name: {"segmenter": tree} for name, tree in held.items()}
    held["params"]["centre_head"] = {"kernel": np.full((3, 1), value, np.float32)}
    return held


def test_an_encoder_is_found_within_a_network_of_instances():
    moved = {path.replace("encoder", "segmenter/encoder") for path in ENCODER}
    for given in (classifier(1), segmenter(1), instances(1, decoder=5)):
        assert laid(given, instances(0)) == ("the encoder", moved)
    assert laid(instances(1), segmenter(0)) == ("the encoder", ENCODER)
    assert laid(instances(1), classifier(0)) == ("the encoder", STEM)
    assert laid(instances(1), instances(0))[0] == "all but the head"


def test_a_part_that_is_asked_for_is_taken_alone():
    assert laid(classifier(1), classifier(0), "all_but_head") == ("all but the head", STEM)
    assert laid(segmenter(1), segmenter(0), "encoder") == ("the encoder", ENCODER)


@pytest.mark.parametrize(
    ("given", "drawn", "part", "words"),
    [
        (classifier(1, 5), classifier(0), "whole", r"head/kernel is \[4, 5\] there and \[4, 3\]"),
        (classifier(1, width=8), classifier(0), "auto", "doesn't fit the network: batch_stats"),
        (classifier(1), segmenter(0), "whole", "has no encoder, and the network its encoder in"),
        (segmenter(1), classifier(0), "all_but_head", "leave initial_part auto"),
        (classifier(1), classifier(0), "encoder", "neither the network nor the weights"),
        (classifier(1, width=8), segmenter(0), "auto", "doesn't fit"),
    ],
)
def test_what_does_not_fit_is_refused(given, drawn, part, words):
    with pytest.raises(InputError, match=words):
        laid(given, drawn, part)


def test_grey_images_are_told_of_channels():
    grey = classifier(0)
    grey["params"]["stem"]["kernel"] = np.zeros((3, 3, 1, 4), np.float32)
    with pytest.raises(InputError, match=r"give --data.channels 3"):
        laid(classifier(1), grey)


@pytest.mark.parametrize(
    ("part", "classes", "what"),
    [
        ("auto", ("a", "b", "c"), "the whole network"),
        ("auto", (), "the whole network"),  # nobody knows what it tells apart
        ("auto", ("a", "b", "d"), "all but the head"),
        ("auto", ("b", "a", "c"), "all but the head"),
        ("whole", ("a", "b", "d"), "the whole network"),
        ("all_but_head", ("a", "b", "c"), "all but the head"),
    ],
)
def test_a_head_of_as_many_other_classes_is_left_out(part, classes, what):
    given = Initial("RUN", classifier(1), ("a", "b", "c"))
    laid, said = given.laid_over(classifier(0), HEAD, part, classes)
    assert said == what
    assert (laid["params"]["head"]["kernel"] == (what == "the whole network")).all()
