"""The weights that a configuration asks to begin with: of a finished run, or a published file; and
what the configuration takes over with them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from cnn_jax.errors import InputError
from cnn_jax.models import conventions
from cnn_jax.models.classifiers import CLASSIFIERS
from cnn_jax.models.weights import published, pytorch
from cnn_jax.records import formats, weights
from cnn_jax.training.initial import Initial


def opened(config: Any) -> tuple[Any, Initial | None]:
    """The configuration with all that weights bring along, and the weights.

    Weights bring their digest, which the record keeps; how images are normalised, unless the
    configuration takes the data's own ("auto"); and how their network pads and normalises, where
    libraries differ in that.

    Args:
        config: checked.

    Raises:
        InputError: the weights can't be read or are of another architecture, or they are others
            than those in a recorded configuration.
    """
    if not getattr(config, "initial", ""):
        return config, None
    path = Path(config.initial)
    found = _of_run(path, config) if path.is_dir() else _of_file(path, config)
    digest, initial, values, options = found
    if config.initial_digest not in ("", digest):
        raise InputError(
            f"{path} holds other weights (digest {digest}) than the configuration was recorded with"
            f" ({config.initial_digest}): restore them."
        )
    known = {field.name for field in dataclasses.fields(config.model)}
    options = {key: value for key, value in options.items() if key in known}
    data = {key: value for key, value in values.items() if getattr(config.data, key) != "auto"}
    for section, changes in (("model", options), ("data", data)):
        held = getattr(config, section)
        changes = {k: v for k, v in changes.items() if getattr(held, k) != v}
        if changes:
            said = ", ".join(f"{section}.{key}={value}" for key, value in changes.items())
            print(f"note: {said}, as the weights in {path} were trained.", flush=True)
            config = dataclasses.replace(config, **{section: dataclasses.replace(held, **changes)})
    return dataclasses.replace(config, initial_digest=digest), initial


def _of_run(path, config):
    from cnn_jax.inference.predictor import load

    run = load(path)
    variables = jax.device_get(run.variables)
    flat: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    digest = weights.checksum(flat)
    options = _options(run.config.model, config.model)
    source = formats.source_name(config.data.source)
    if run.info.source == source and _tested(run.config.data) != _tested(config.data):
        print(
            f"note: {path} was trained on {source} with other splits: of the same data, what is"
            " tested here may have been among its training data, and the test flatters then.",
            flush=True,
        )
    initial = Initial(str(path), variables, tuple(run.info.classes))
    return digest, initial, {"mean": run.info.mean, "std": run.info.std}, options


def _of_file(path, config):
    model, encoder = config.model.name, getattr(config.model, "encoder", "")
    read = None
    if not encoder or (config.initial_part != "encoder" and pytorch.namings(model)):
        try:
            read = published.read(path, model, head=False)
        except InputError:
            if not encoder:
                raise
    if read is None:
        read = published.read(path, encoder, head=False)
        options = {"conventions": read.source}
    else:
        options = dict(read.options)
    values = {"mean": read.preprocessing.mean, "std": read.preprocessing.std}
    if read.source == "ours":  # a file alone, which doesn't say what its network saw
        values = {}
    return read.digest, Initial(str(path), read.variables), values, options


def _tested(data: Any) -> tuple:
    """What a configuration says of which examples are the test."""
    fields = ("folds", "fold", "split_seed", "test_groups", "test_share", "held_out")
    return tuple(getattr(data, name, None) for name in fields)


_CONVENTIONAL = (
    *("padding", "epsilon", "rounding", "pooled_px", "pool_padding", "norm_scale"),
    *("count_padding", "origin", "shortcut", "downsample_in", "pooled_norm"),
)


def _options(source: Any, target: Any) -> dict[str, Any]:
    """The options of a recorded model that weights of its shapes are wrong without."""
    of_source, of_target = vars(source), vars(target)
    has, have = "encoder" in of_source, "encoder" in of_target
    if has and have:
        kept = ("conventions", "pooled_norm")
        return {key: of_source[key] for key in kept if key in of_source}
    if has:
        return conventions.encoder_options(of_source["encoder"], of_source["conventions"])
    held = {key: value for key, value in of_source.items() if key in _CONVENTIONAL}
    if not have:
        return held
    if source.name not in CLASSIFIERS:
        return {}
    defaults = {field.name: field.default for field in dataclasses.fields(source)}
    kept = {key: value for key, value in held.items() if key not in ("rounding", "pooled_px")}
    for name in conventions.CONVENTIONS:
        found = conventions.encoder_options(source.name, name)
        if all(value == found.get(key, defaults[key]) for key, value in kept.items()):
            return {"conventions": name}
    return {}
