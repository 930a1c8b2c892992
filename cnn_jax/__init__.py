"""Convolutional networks compared in JAX: one configuration, one record, one table.

    run = cnn_jax.load("results/runs/my_run")
    prediction = run.predict(image)

What is named here is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnn_jax.errors import InputError
    from cnn_jax.inference.predictor import ensemble, load
    from cnn_jax.models import MODELS
    from cnn_jax.run import train_and_evaluate
    from cnn_jax.tasks import model_config, read_config

__all__ = [
    "MODELS",
    "InputError",
    "ensemble",
    "load",
    "model_config",
    "read_config",
    "train_and_evaluate",
]

_HOMES = {
    "MODELS": "cnn_jax.models",
    "InputError": "cnn_jax.errors",
    "ensemble": "cnn_jax.inference.predictor",
    "load": "cnn_jax.inference.predictor",
    "model_config": "cnn_jax.tasks",
    "read_config": "cnn_jax.tasks",
    "train_and_evaluate": "cnn_jax.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
