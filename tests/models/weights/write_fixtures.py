"""What networks of torchvision, timm and segmentation_models.pytorch compute with weights that
`drawn` draws: the names and shapes of their tensors, and their logits, for tests without PyTorch.

python tests/models/weights/write_fixtures.py [NAME ...]

It needs the extra peers. It was run with torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and
segmentation_models_pytorch 0.6.0.
"""

import gzip
import json
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from drawn import images, tensor  # noqa: E402 (beside this file)

LIBRARY = torch.library.Library("torchvision", "DEF")  # as long as it lives
for operator in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
):
    try:
        LIBRARY.define(operator)
    except RuntimeError:  # a torchvision that has its own
        break

import segmentation_models_pytorch as smp  # noqa: E402
import timm  # noqa: E402
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
    return 64, 75


def networks():
    """(source, their name, our name, our encoder, constructor)."""
    for name, ours in VISION.items():
        options = {"transform_input": False, "init_weights": False}
        options = options if ours in ("googlenet", "inception_v3") else {}
        make = getattr(torchvision.models, name)
        yield "torchvision", name, ours, "", lambda m=make, o=options: m(num_classes=CLASSES, **o)
    for name, (ours, encoder) in SEGMENTERS.items():
        make = getattr(torchvision.models.segmentation, name)
        options = {"weights_backbone": None, "aux_loss": True, "num_classes": CLASSES}
        yield "torchvision", name, ours, encoder, lambda m=make, o=options: m(**o)
    for name, ours in TIMM.items():
        yield "timm", name, ours, "", lambda n=name: timm.create_model(n, num_classes=CLASSES)
    for name, ours in ENCODERS.items():
        yield "smp", name, "encoder_unet", ours, lambda n=name: smp.Unet(n, encoder_weights=None)


def write_small_files():
    """Files of every kind of tensor that `torch.save` knows, in both of its formats."""
    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    kept = {
        "epoch": 3,
        "best": 0.5,
        "state_dict": {
            "module.plain.weight": matrix,
            "module.turned.weight": matrix.T,
            "module.cut.weight": matrix[1:, ::2],
            "module.half.weight": matrix.half(),
            "module.brain.weight": matrix.bfloat16(),
            "module.parameter.weight": torch.nn.Parameter(matrix[0]),
            "module.count.num_batches_tracked": torch.tensor(7),
        },
    }
    for name, new in (("small.pth", True), ("small_older.pth", False)):
        path = FOLDER / "fixtures" / name
        torch.save(kept, path, _use_new_zipfile_serialization=new)


def main(wanted):
    write_small_files()
    for source, name, ours, encoder, make in networks():
        if wanted and name not in wanted and source not in wanted:
            continue
        network = make().eval()
        state = network.state_dict()
        drawn = {key: torch.from_numpy(tensor(key, tuple(v.shape))) for key, v in state.items()}
        network.load_state_dict(drawn)
        results = {}
        for px in sizes(source, name):
            x = torch.from_numpy(images(px)).permute(0, 3, 1, 2)
            with torch.no_grad():
                if source == "smp":  # the deepest map, each channel's mean
                    found = torch.relu(network.encoder(x)[-1]).mean((2, 3))
                else:
                    found = network(x)
                    found = found["out"][:, :, ::5, ::5] if isinstance(found, dict) else found
            results[px] = found.double().flatten().tolist()[:2000]
        held = {
            "source": source,
            "name": name,
            "model": ours,
            "encoder": encoder,
            "shapes": {key: list(value.shape) for key, value in state.items()},
            "results": {px: [float(f"{v:.8g}") for v in vs] for px, vs in results.items()},
        }
        path = FOLDER / "fixtures" / f"{source}-{name}.json.gz"
        path.parent.mkdir(exist_ok=True)
        text = json.dumps(held, separators=(",", ":"))
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        spread = torch.tensor(results[px]).std()
        print(path.name, path.stat().st_size, f"spread {spread:.3g}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
