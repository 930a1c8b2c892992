"""FCN: the paper's and torchvision's parameter counts, and the scores that each variant adds."""

import jax
import pytest

from cnn_jax.models import SEGMENTERS
from cnn_jax.models.fcn import DilatedFCN
from tests.models.shapes import count, shapes


@pytest.mark.parametrize(
    ("name", "scores", "kernels"),
    [
        ("fcn32s", {32}, {"upsampling": 64}),
        ("fcn16s", {32, 16}, {"upsampling_32": 4, "upsampling": 32}),
        ("fcn8s", {32, 16, 8}, {"upsampling_32": 4, "upsampling_16": 4, "upsampling": 16}),
    ],
)
def test_each_variant_scores_its_maps_and_enlarges_by_twos_and_then_by_its_stride(
    name, scores, kernels
):
    """A transposed convolution that enlarges by a factor has a kernel of twice that. Channels are
    those of pool3, pool4 and fc7."""
    params = shapes(SEGMENTERS[name](num_classes=21), 64, 64, 3)[1]["params"]
    channels = {8: 256, 16: 512, 32: 4096}
    assert {key: params[key]["kernel"].shape for key in params if "score" in key} == {
        f"score_{stride}": (1, 1, channels[stride], 21) for stride in scores
    }
    assert {
        key: params[key]["convolution"]["kernel"].shape for key in params if "upsampling" in key
    } == {key: (size, size, 21, 21) for key, size in kernels.items()}


def test_parameters_of_fcn8s():
    """VGG-16's but for its head, 138,357,544 - 4,097,000; scores; two 4x4 enlargements and one of
    16x16, without biases."""
    scores = 21 * (4096 + 512 + 256 + 3)
    enlargements = 21 * 21 * (2 * 4 * 4 + 16 * 16)
    assert 138_357_544 - 4_097_000 + scores + enlargements == 134_489_759
    assert count(shapes(SEGMENTERS["fcn8s"](num_classes=21), 64, 64, 3)[1]) == 134_489_759


def test_trainable_parameters_of_the_dilated_fcn_are_torchvisions():
    """Of them 2,360,853 are the auxiliary head's, by hand: 3x3 from 1024 to 256 channels,
    BatchNorm, and scores."""
    params = shapes(DilatedFCN(21), 33, 33, 3)[1]["params"]
    assert count(params) == 35_322_218
    assert count(params["auxiliary"]) == 9 * 1024 * 256 + 2 * 256 + 21 * 256 + 21
    assert "auxiliary" not in shapes(DilatedFCN(21, auxiliary_weight=0.0), 33, 33, 3)[1]["params"]


def test_auxiliary_logits_have_the_images_size_and_are_made_in_training_alone():
    model = DilatedFCN(5, encoder="resnet18")
    x = jax.ShapeDtypeStruct((2, 37, 53, 3), "float32")
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)

    def sown(train, *collections):
        def apply(variables, x):
            return model.apply(
                variables, x, train=train, mutable=collections, rngs={"dropout": jax.random.key(1)}
            )[1]

        return jax.eval_shape(apply, variables, x)

    (logits,) = sown(True, "auxiliary", "batch_stats")["auxiliary"]["logits"]
    assert (logits.shape, logits.dtype) == ((2, 37, 53, 5), "float32")
    assert set(sown(True, "batch_stats")) == {"batch_stats"}
    assert not sown(False, "auxiliary")
