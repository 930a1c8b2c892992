"""What networks of torchvision, timm and segmentation_models.pytorch compute with weights that
`drawn` draws: the names and shapes of their tensors, and their logits, for tests without PyTorch.

python -m tests.models.weights.write_fixtures [NAME ...]

It needs the extra peers. It was run with torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and
segmentation_models_pytorch 0.6.0.
"""

import gzip
import json
import sys
from pathlib import Path

import torch

from tests.models.weights.drawn import images
from tests.models.weights.networks import computed, filled, networks, sizes

FOLDER = Path(__file__).parent


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
        network = make()
        scales = filled(network, sizes(source, name)[0])
        results = {}
        for px in sizes(source, name):
            found = computed(source, network, images(px))
            found = found[:, :, ::5, ::5] if found.ndim == 4 else found
            results[px] = found.flatten().tolist()[:2000]
        held = {
            "source": source,
            "name": name,
            "model": ours,
            "encoder": encoder,
            "shapes": {key: list(value.shape) for key, value in network.state_dict().items()},
            "scales": scales,
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
