"""What a run directory is begun with, where no data were opened."""

from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.records.run_directory import environment


def info(fingerprint: str = "0ne", **changes) -> DatasetInfo:
    """Of two classes of scenes."""
    values = {
        "source": "synthetic",
        "classes": ("road", "niño"),
        "colors": ((10, 200, 30), (250, 20, 40)),
        "channels": 3,
        "dtype": "uint8",
        "greatest": 255.0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "class_counts": (7, 9),
        "sizes": {"train": 2, "validation": 1, "test": 2},
        "image_px": None,
        "fingerprint": fingerprint,
    }
    return DatasetInfo(**values | changes)


def beginning(config, fingerprint: str = "0ne", **changes):
    """The arguments of `RunDirectory.begin`."""
    return environment(config, fingerprint, "command"), info(fingerprint, **changes)
