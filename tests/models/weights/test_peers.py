"""Every network of torchvision and timm whose architecture is here, and smp's encoders: the same
logits from what PyTorch saves."""

import pytest

from cnn_jax.errors import InputError
from cnn_jax.tasks.torch_segmentation import libraries

try:
    libraries()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

from tests.models.weights import networks

pytestmark = [pytest.mark.peers, pytest.mark.long]


@pytest.mark.parametrize(
    ("source", "name", "ours", "backbone", "make"),
    [pytest.param(*held, id=f"{held[0]}-{held[1]}") for held in networks.networks()],
)
@pytest.mark.usefixtures("quick_compilation")
def test_it_computes_what_the_other_library_does(source, name, ours, backbone, make):
    found = networks.compared(source, name, backbone if source == "smp" else ours, make)
    for px, (difference, spread) in found.items():
        assert difference < 1e-4 * max(spread, 1.0), px
