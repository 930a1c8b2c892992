"""A page about an exported network, as Markdown: what it is, what it was trained on, what it is
worth, how it was made and used."""

import json
import re
from pathlib import Path
from typing import Any

from cnn_jax.errors import InputError
from cnn_jax.inference.predictor import Run
from cnn_jax.models.weights import keras
from cnn_jax.records import run_record
from cnn_jax.records.files import write_text
from cnn_jax.records.run_record import RunRecord
from cnn_jax.reporting import table

NAME = "README.md"
"""Of the page, beside the exported file."""

_MARK = "<!-- model card of the run {digest}, written by cnn-jax export -->"


def use(run: Run, format: str) -> str:
    """How a file of a format, one that `cnn-jax export` knows, is used: a line of Markdown."""
    if format == "onnx":
        return "`onnxruntime.InferenceSession(FILE).run(None, {'images': images})`"
    if format == "stablehlo":
        return "`jax.export.deserialize(bytearray(open(FILE, 'rb').read())).call(images)`"
    if format == "safetensors":
        return "in the run's folder: `cnn_jax.load(FOLDER)`"
    assert run.info.image_px is not None  # Keras's: of every classifier's data
    name, width = keras.NAMES[run.config.model.name], getattr(run.model, "width", 1.0)
    height_px, width_px = run.info.image_px
    return (
        f"`keras.applications.{name}(weights=FILE, classes={len(run.info.classes)},"
        f" input_shape=({height_px}, {width_px}, {run.info.channels}),"
        f"{f' alpha={width},' if width != 1 else ''} classifier_activation=None)`"
    )


def check(folder: Path, digest: str) -> None:
    """Raises InputError where the folder has a page that isn't this run's card."""
    path = folder / NAME
    if not path.exists():
        return
    try:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        first = ""
    if first != _MARK.format(digest=digest):
        raise InputError(
            f"{path} is another page than this run's model card: give another folder with --output."
        )


def write(run: Run, file: Path, use: str, inputs: str) -> Path:
    """Writes the card beside an exported file, or adds the file to the card that is there.

    Args:
        run: that was exported.
        file: the exported one.
        use: how it is used, as Markdown.
        inputs: what it takes and gives, in a sentence.

    Returns:
        The path of the card.

    Raises:
        InputError: there is another page, or it can't be written.
    """
    check(file.parent, run.digest)
    path = file.parent / NAME
    line = f"- `{file.name}`: {inputs} {use}"
    files = {file.name: line}
    if path.exists():
        earlier = re.findall(r"^- `(.+?)`: .*$", path.read_text(encoding="utf-8"), re.MULTILINE)
        lines = re.findall(r"^- `.+?`: .*$", path.read_text(encoding="utf-8"), re.MULTILINE)
        files = dict(zip(earlier, lines, strict=True)) | files
    write_text(path, card(run, list(files.values())))
    return path


def card(run: Run, files: list[str]) -> str:
    """The page, as Markdown. `files`: a line about each exported file."""
    record = run_record.read(run.folder)
    seeds = of_same_variant(record)
    info, config = run.info, record.config
    name = " ".join(filter(None, [record.experiment, record.variant]))
    sizes = ", ".join(f"{info.sizes[split]:,} {split}" for split in info.sizes)
    parts = [
        _MARK.format(digest=run.digest),
        f"# {table.escaped(config['model']['name'])} on {table.escaped(info.source)}",
        f"A network for {config['task']}, of the run {table.escaped(name)}, seed {config['seed']},"
        f" step {run.summary['evaluated_step']:,}; {run.summary['parameters']:,} parameters.",
        "## Files",
        "\n".join(files),
        "## Data",
        f"{table.escaped(info.source)}: {sizes}. Images have {info.channels}"
        f" channel{'s' if info.channels > 1 else ''} of {info.dtype}, 1 being"
        f" {info.greatest:g}; normalised with the means {_numbers(info.mean)} and the deviations"
        f" {_numbers(info.std)}. Fingerprint `{info.fingerprint}`.",
        "## Classes",
        _classes(run),
        "## Figures",
        *_figures(record, seeds),
        "## How it was made",
        f"cnn_jax {record.environment.get('versions', {}).get('cnn_jax', '')}".strip()
        + f", commit `{record.environment.get('commit') or 'unknown'}`, on {record.device}; JAX"
        f" {record.environment['versions']['jax']}, Flax {record.environment['versions']['flax']}."
        f" {_made(record)}",
        f"```json\n{json.dumps(dict(config), indent=1, ensure_ascii=False)}\n```",
        "## Licence",
        _licence(info),
    ]
    return "\n\n".join(parts) + "\n"


def of_same_variant(record: RunRecord) -> list[RunRecord]:
    """The finished runs beside a run that differ from it in their seed alone, itself among them."""
    found = []
    for folder in sorted(record.folder.resolve().parent.iterdir()):
        if folder == record.folder.resolve():
            found.append(record)
        elif (folder / "summary.json").is_file():
            try:
                other = run_record.read(folder)
            except InputError:
                continue  # of a run that contradicts itself nothing is told here
            if other.identity == record.identity:
                found.append(other)
    seeds = {other.config.get("seed") for other in found}
    return found if len(seeds) == len(found) else [record]


def _figures(record, seeds):
    if not record.leading:
        yield "None: it was not tested."
        return
    yield "Of this run:"
    yield table.headline_table([record], link_base="")
    if len(seeds) > 1:
        yield f"Over the {len(seeds)} seeds of this variant that lie beside it:"
        yield table.headline_table(seeds, by_variant=True)
    classes = table.class_table([record])
    if classes:
        yield classes
    yield table.averaging_note(seeds)


def _made(record):
    # What was imported or averaged no configuration makes again: the command did it.
    if {"weights", "averaged"} & record.environment.keys():
        return f"It was made by `{record.environment.get('command')}`; the configuration is then:"
    return "The configuration, from which it can be made again with `--config config.json`:"


def _numbers(values):
    return ", ".join(f"{value:.4g}" for value in values)


def _classes(run):
    info = run.info
    if len(info.classes) > table.MOST_CLASSES:
        names = ", ".join(map(table.escaped, info.classes))
        return f"{len(info.classes)}, in this order: {names}."
    header, text = ["number", "class"], {1}
    rows = [[str(number), table.escaped(name)] for number, name in enumerate(info.classes)]
    if info.colors:
        header.append("colour")
        text.add(2)
        for row, (red, green, blue) in zip(rows, info.colors, strict=True):
            row.append(f"#{red:02X}{green:02X}{blue:02X}")
    if info.class_counts:
        header.append("in training")
        for row, count in zip(rows, info.class_counts, strict=True):
            row.append(f"{count:,}")
    return table.markdown(header, rows, text_columns=text)


LICENCES = {
    "synthetic": "The scenes were made by cnn_jax.",
    "dubai": "The photographs are by the MBRSC, published by Humans in the Loop (CC0).",
    "mnist": "MNIST is published by Y. LeCun, C. Cortes and C. Burges (CC BY-SA 3.0).",
    "fashion_mnist": "Fashion-MNIST is published by Zalando Research (MIT).",
}
"""What is known of the data of a source, by its name."""


def _licence(info: Any) -> str:
    known = LICENCES.get(info.source)
    return "cnn_jax is under Apache-2.0. " + (
        known
        or "The licence of the data isn't recorded: it is for their owner to say what may be"
        " done with a network trained on them."
    )
