"""A run's network as one HTML file: it computes in the browser, and shows what every layer does.

Templates, style and scripts are the files beside this one; each script says what it is for.
"""

import base64
import contextlib
import copy
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from flax import traverse_util
from markupsafe import Markup
from PIL import Image

from cnn_jax.configuration import documents
from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.evaluation.windows import MULTIPLE_PX
from cnn_jax.inference import export
from cnn_jax.inference.predictor import Run
from cnn_jax.records import formats, run_directory, weights
from cnn_jax.records.metrics import OBJECT_TASKS, leading

_FOLDER = Path(__file__).parent

LONGEST_PX = 768
"""Pictures are made smaller than this on their longer side."""

VERSION = "1.30.0"
"""Of onnxruntime-web."""

ADDRESS = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
"""Where a page without the runtime inside loads it from."""

FILES = {
    "ort.wasm.bundle.min.mjs": (
        "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM"
    ),
}
"""What of onnxruntime-web a page needs, with the hash that what is loaded is held to."""


def html(run: Run, *, runtime: str | Path | None = None, teach: bool = False) -> str:
    """The page.

    Args:
        run: loaded; of images or scenes of one or three channels of 8 bits.
        runtime: the folder in which npm put onnxruntime-web, which then lies inside; None: the page
            loads it from `ADDRESS`.
        teach: whether classes of one's own can be taught.

    Raises:
        InputError: pictures of browsers are not what the run takes, the runtime isn't there, or the
            network can't be written as ONNX.
    """
    info, config = run.info, run.config
    if info.dtype != "uint8" or info.channels not in (1, 3):
        raise InputError(
            f"the run in {run.folder} takes {info.channels} channels of {info.dtype}, and pictures"
            " in browsers have 1 or 3 of uint8: use cnn-jax predict."
        )
    if info.bands not in ((), tuple(range(1, info.channels + 1))):
        raise InputError(
            f"the run in {run.folder} takes the bands {', '.join(map(str, info.bands))} of its"
            " files, which browsers don't tell apart: use cnn-jax predict."
        )
    if getattr(config.data, "permuted", False):
        raise InputError(
            f"the run in {run.folder} was trained on images whose pixels are scattered, which no"
            " picture is: take another run."
        )
    if teach and config.task != "classification":
        raise InputError(f"--teach is for classifiers, and {run.folder} is of {config.task}.")
    inside = _runtime(Path(runtime)) if runtime else {}
    finds = config.task in OBJECT_TASKS
    parts = ("normalization",) if finds else ("normalization", "softmax")
    model, size_px, stride = _exported(run, parts)
    figure = leading(config.task)
    worth = run.summary.get(f"test/{figure.name}") if figure else None
    about: dict[str, Any] = {
        **export.about(run, parts, stride),
        "channels": info.channels,
        "source": info.source,
        "image_px": list(info.image_px)
        if config.task == "classification" and info.image_px
        else None,
        "window_px": list(size_px),
        "crop_share": getattr(config.data, "seen_share", 1.0),
        "longest_px": LONGEST_PX,
        "figures": f"{figure.label} {worth:.4f}" if figure and worth is not None else "",
        "runtime": None if inside else {"url": ADDRESS, "files": FILES},
        "example": _example(run),
        "taught": _taught(run) if teach else None,
    }
    # Nothing but what is inside runs, and nothing is requested but the runtime, where that is
    # outside.
    policy = (
        "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; style-src"
        " 'unsafe-inline'; img-src data: blob:; media-src blob:; connect-src "
        + ("'none'" if inside else ADDRESS)
    )
    names = [
        "words.js",
        "network.js",
        "pixels.js",
        "objects.js",
        "page.js",
        *(["teach.js"] if teach else []),
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.jinja").render(
        title=f"{config.model.name}: {info.source}",
        policy=policy,
        css=Markup(_text("page.css")),
        script=Markup("\n".join(map(_text, names))),
        about=_json(about),
        network=_packed(model.SerializeToString()),
        runtime={name: _packed(content) for name, content in inside.items()},
        weights=_packed(_weights(run)) if teach else "",
        teach=teach,
        map="objects" if finds else "map",
    )


def _exported(run, parts):
    """(the network as ONNX, height and width of what it is made for, what these may be multiples of
    instead or None)."""
    size_px = export.image_px(run)
    if run.config.task in ("segmentation", "instances"):
        with contextlib.suppress(InputError):  # of one size, such as rates that follow the map
            return export.to_onnx(run, any_size=True, parts=parts), size_px, export.free_stride(run)
    elif run.config.task == "detection":  # photographs lie and stand
        size_px = (-(-max(size_px) // MULTIPLE_PX) * MULTIPLE_PX,) * 2
    return export.to_onnx(run, size_px=size_px, parts=parts), size_px, None


def _text(name):
    return (_FOLDER / name).read_text(encoding="utf-8")


def _json(value):
    """JSON that can stand in a script element, whatever is in it."""
    text = json.dumps(value, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _taught(run: Run) -> dict[str, Any]:
    """What a run that is taught in the page has in common with this one: its files, with `"@name"`
    where the page knows better."""
    config = copy.deepcopy(run.config)
    config.variant = "taught"
    content = run.info.to_dict() | {
        "classes": "@classes",
        "class_counts": "@counts",
        "colors": [],
        "fingerprint": "@fingerprint",
        "sizes": {split: f"@{split}" for split in SPLITS},
    }
    params: dict[str, Any] = traverse_util.flatten_dict(run.variables["params"], sep="/")
    heads = [
        path
        for path, leaf in params.items()
        if path.endswith("head/kernel") and leaf.shape[-1] == len(run.info.classes)
    ]
    if len(heads) != 1:
        raise InputError(
            f"{run.config.model.name} has no head that can be taught: leave out --teach."
        )
    kernel, bias = f"params/{heads[0]}", f"params/{heads[0].removesuffix('kernel')}bias"
    head = run.variables["params"]
    for part in heads[0].split("/")[:-1]:
        head = head[part]
    kept = ("parameters", "steps", "evaluated_step")
    return {
        "digest": documents.digest(config),
        "config": documents.to_json(config),
        "environment": run_directory.environment(config, "", ""),
        "data": json.dumps(content),
        "covered": json.dumps(dict(formats.fields(content)), sort_keys=True),
        "summary": documents.identity(config) | {name: run.summary[name] for name in kept},
        "head": {
            "kernel": kernel,
            "bias": bias,
            "values": int(head["kernel"].size + head["bias"].size),
        },
    }


def _weights(run: Run) -> bytes:
    """The run's weights.safetensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, weights.NAME)
        step = run.summary["evaluated_step"]
        weights.write(path, run.variables, digest=run.digest, step=step)
        return path.read_bytes()


def _runtime(folder: Path) -> dict[str, bytes]:
    """The files of onnxruntime-web in a folder where npm put it, or that `npm pack` unpacked."""
    within = (
        "",
        "dist",
        "package/dist",
        "onnxruntime-web/dist",
        "node_modules/onnxruntime-web/dist",
    )
    for place in (folder / part for part in within):
        if all((place / name).is_file() for name in FILES):
            return {name: (place / name).read_bytes() for name in FILES}
    raise InputError(
        f"{folder} holds no onnxruntime-web ({', '.join(FILES)}): run npm install"
        f" onnxruntime-web@{VERSION} there."
    )


def _example(run: Run) -> str | None:
    """A test picture as PNG in base64, where the run's data are at hand without being sought: the
    synthetic set; None elsewhere."""
    if run.info.source != "synthetic":
        return None
    image = np.asarray(run.open_data().scenes["test"][0][0])  # type: ignore[attr-defined]
    held = io.BytesIO()
    Image.fromarray(image[: LONGEST_PX // 2, : LONGEST_PX // 2]).save(held, "PNG", optimize=True)
    return base64.b64encode(held.getvalue()).decode()
