"""Networks of torchvision, timm and segmentation_models.pytorch beside ours, with PyTorch.

python -m tests.models.weights.networks [NAME ...]

prints the table of docs/weights.md.
"""

import functools
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from safetensors.numpy import save_file

from cnn_jax.models import weights
from cnn_jax.models.encoders import encoder
from cnn_jax.tasks.torch_segmentation import libraries
from tests.models.weights import drawn

_, smp = libraries()

import timm  # noqa: E402 (torchvision, which it imports, may need what `libraries` declares)
import torchvision  # noqa: E402

CLASSES = 7

VISION = {
    "alexnet": "alexnet",
    **{f"vgg{n}{bn}": f"vgg{n}" for n in (11, 13, 16, 19) for bn in ("", "_bn")},
    "googlenet": "googlenet",
    "inception_v3": "inception_v3",
    "mobilenet_v2": "mobilenet_v2",
    **{f"resnet{n}": f"resnet{n}" for n in (18, 34, 50, 101, 152)},
    **{f"densenet{n}": f"densenet{n}" for n in (121, 169, 201)},
    **{f"efficientnet_b{n}": f"efficientnet_b{n}" for n in range(8)},
    **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
}
SEGMENTERS = {
    "fcn_resnet50": ("dilated_fcn", "resnet50"),
    "fcn_resnet101": ("dilated_fcn", "resnet101"),
    "deeplabv3_resnet50": ("deeplabv3", "resnet50"),
    "deeplabv3_resnet101": ("deeplabv3", "resnet101"),
}
TIMM = {
    **{f"resnet{n}": f"resnet{n}" for n in (18, 34, 50, 101, 152)},
    "seresnet50": "se_resnet50",
    "legacy_seresnet50": "se_resnet50",
    **{f"vgg{n}{bn}": f"vgg{n}" for n in (11, 13, 16, 19) for bn in ("", "_bn")},
    "mobilenetv1_100": "mobilenet",
    "mobilenetv2_100": "mobilenet_v2",
    "inception_v3": "inception_v3",
    "legacy_xception": "xception",
    **{f"densenet{n}": f"densenet{n}" for n in (121, 169, 201)},
    **{f"{tf}efficientnet_b{n}": f"efficientnet_b{n}" for n in range(8) for tf in ("", "tf_")},
    **{f"convnext_{n}": f"convnext_{n}" for n in ("tiny", "small", "base", "large", "xlarge")},
}
ENCODERS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "se_resnet50": "se_resnet50",
    "vgg16_bn": "vgg16",
    "mobilenet_v2": "mobilenet_v2",
    "densenet121": "densenet121",
    "xception": "xception",
}


def sizes(source, name):
    """An even and an odd side of an image."""
    if "inception" in name:
        return 96, 107
    if source == "timm" and name.startswith("vgg"):
        return 224, 229  # smaller or larger ones it handles in a way of its own
    if "xception" in name:
        return 96, 101
    if source == "smp" and name.startswith(("densenet", "vgg")):
        return 64, 96  # of others our encoders round the maps' sides up, and smp refuses them
    return 64, 75


def networks():
    """(source, their name, our name, our encoder, constructor)."""
    for name, ours in VISION.items():
        options = {"transform_input": False, "init_weights": False}
        options = options if ours in ("googlenet", "inception_v3") else {}
        make = getattr(torchvision.models, name)
        yield "torchvision", name, ours, "", lambda m=make, o=options: m(num_classes=CLASSES, **o)
    for name, (ours, backbone) in SEGMENTERS.items():
        make = getattr(torchvision.models.segmentation, name)
        options = {"weights_backbone": None, "aux_loss": True, "num_classes": CLASSES}
        yield "torchvision", name, ours, backbone, lambda m=make, o=options: m(**o)
    for name, ours in TIMM.items():
        yield "timm", name, ours, "", lambda n=name: timm.create_model(n, num_classes=CLASSES)
    for name, ours in ENCODERS.items():
        yield "smp", name, "encoder_unet", ours, lambda n=name: smp.Unet(n, encoder_weights=None)


def filled(network, px=0):
    """Fills a network for evaluation, its weights and statistics drawn.

    Returns:
        the scales of the statistics, as `drawn.tensor` takes them, those that an image of `px` has;
        without one there are none.
    """
    state = network.state_dict()
    network.load_state_dict(
        {key: torch.from_numpy(drawn.tensor(key, tuple(v.shape))) for key, v in state.items()}
    )
    network.eval()
    scales = {}

    def scale(norm, inputs, name):
        scales[name] = float(f"{inputs[0].square().mean().item():.3g}")
        for kind in ("running_mean", "running_var"):
            held = getattr(norm, kind)
            made = drawn.tensor(f"{name}.{kind}", tuple(held.shape), scales)
            held.copy_(torch.from_numpy(made))

    if px:
        hooks = [
            module.register_forward_pre_hook(functools.partial(scale, name=name))
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.BatchNorm2d)
        ]
        with torch.no_grad():
            network(channels_first(drawn.images(px)))
        for hook in hooks:
            hook.remove()
    return scales


def channels_first(images):
    """`[batch, height, width, channels]` as PyTorch takes it."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
def computed(source, network, images):
    """Logits `[batch, classes]` or `[batch, classes, height, width]`, float32; of an encoder each
    channel's mean over the deepest map, rectified."""
    x = channels_first(images)
    if source == "smp":
        return torch.relu(network.encoder(x)[-1]).mean((2, 3)).numpy()
    found = network(x)
    return (found["out"] if isinstance(found, dict) else found).numpy()


def of_ours(published, source, images):
    """What our network computes with published weights, as `computed` has it."""
    if source == "smp":
        module = encoder(
            published.model,
            conventions=published.source,
            norm="batch",
            dtype="float32",
            axis_name=None,
        )

        def compute(variables, images):
            maps = module.apply(variables, images, train=False, feature_maps=True)
            return jax.nn.relu(maps[max(maps)]).mean((1, 2))
    else:

        def compute(variables, images):
            return published.module.apply(variables, images, train=False)

    found = np.asarray(jax.jit(compute)(published.variables, images))
    return found.transpose(0, 3, 1, 2) if found.ndim == 4 else found


def compared(source, name, ours, make):
    """Reads what PyTorch's network saves.

    Returns:
        side of an image -> (the largest difference of the logits, their standard deviation).
    """
    found = {}
    for px in sizes(source, name):
        # Statistics of another size let a deep network's values grow from block to block, until
        # float32 rounds away what logits depend on.
        network = make()
        filled(network, px)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.safetensors"
            state = network.state_dict()
            save_file({key: np.ascontiguousarray(v.numpy()) for key, v in state.items()}, path)
            published = weights.read(path, ours, head=source != "smp")
        images = drawn.images(px)
        theirs = computed(source, network, images)
        difference = np.abs(of_ours(published, source, images) - theirs).max()
        found[px] = (float(difference), float(theirs.std()))
    return found


def main(wanted):
    """Prints a row for each network."""
    print("| from | network | `--model` | sides, px | largest difference | spread |")
    print("|---|---|---|---|---:|---:|")
    for source, name, ours, backbone, make in networks():
        if wanted and not {source, name, f"{source}/{name}"} & {*wanted}:
            continue
        ours = backbone if source == "smp" else ours
        found = compared(source, name, ours, make)
        sides = ", ".join(map(str, found))
        largest = max(difference for difference, _ in found.values())
        spread = min(spread for _, spread in found.values())
        print(
            f"| {source} | {name} | `{ours}` | {sides} | {largest:.1e} | {spread:.2g} |", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
