"""Evaluate a finished run again, and say whether its figures are those recorded.

python -m cnn_jax.commands.evaluate RUN [--split test] [--directory DATA] [--blend gaussian]
[--augment] [--output FILE.json]

Rebuilds the model from the run's own `config.json`, restores the checkpoint that its figures are
of, and counts every example of the split once more. With --blend or --augment it also says what
the predictions of `cnn-jax predict` are worth, and how far they are from the figures of the record.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.records.files import check_ours, make_place, read_object, write_object
from cnn_jax.run import guarded
from cnn_jax.runtime import memory

if TYPE_CHECKING:
    from cnn_jax.inference.predictor import Run

MODULE = "cnn_jax.commands.evaluate"

OF_HALF = "evaluation.json"
"""In a run's folder: what `--output` wrote of weights in 16 bits."""


@dataclass
class Options:
    """Which run is evaluated, and on what."""

    run: str = command_line.positional("", "RUN", "folder of a finished run")
    split: str = setting("test", "examples that count", choices=("train", "validation", "test"))
    directory: str = setting(
        "", "where the data lie, if no longer where the configuration says", path=True
    )
    blend: str = setting(
        "",
        "of a segmenter also with windows blended so",
        choices=("", "gaussian", "linear", "uniform", "none"),
    )
    augment: bool = setting(
        False, "of a segmenter also averaged over flips and quarter turns, windows blended"
    )
    output: str = setting("", "a JSON file for what came of it", path=True)


def _answers(options, run, scenes, cut, check) -> dict[str, dict[str, Any]]:
    """What a segmenter's answers are worth beside `cut`, the confusion matrices of its record's way
    to evaluate: "blended", and with --augment "augmented" beside that; see
    `inference.answers.compared`."""
    from cnn_jax.inference import answers

    blend = options.blend or "gaussian"
    blended = answers.confusions(run, scenes, blend=blend, check=check)
    found = {"blended": {"blend": blend, **answers.compared(blended, cut)}}
    if blend in ("gaussian", "linear"):
        found["blended"]["largest_step"] = answers.largest_steps(
            run, scenes, (blend, "none"), check
        )
    if options.augment:
        turned = answers.confusions(run, scenes, augment=True, blend=blend, check=check)
        found["augmented"] = {"blend": blend, **answers.compared(turned, blended)}
    return found


def _sentence(name: str, found: Mapping[str, Any]) -> str:
    """One of `_answers` for people."""
    what = {
        "blended": f"with windows blended ({found['blend']}) instead of cut",
        "augmented": "averaged over flips and quarter turns, beside blended alone",
    }[name]
    of = f"from {found['other_miou']:.4f}"
    if found["interval"]:
        low, high = found["interval"]
        of += f"; 95% over {found['scenes']} scenes: {low:+.4f} to {high:+.4f}"
    sentence = f"mIoU {found['miou']:.4f} {what}: {found['difference']:+.4f} ({of})."
    if "largest_step" in found:
        blended, cut = found["largest_step"].values()
        sentence += (
            f" Where windows change, neighbouring pixels' probabilities lie at most {blended:.3f}"
            f" apart for it; cut, {cut:.3f}."
        )
    return sentence


def _recorded(run: "Run", split: str) -> Mapping[str, Any]:
    """The figures that the weights of a run gave: its record's; or, of weights in 16 bits, those
    that this command wrote to `OF_HALF` beside them."""
    if not run.half:
        return run.summary
    path = run.folder / OF_HALF
    held = read_object(path) if path.is_file() else {}
    if (held.get("run"), held.get("split")) != (run.digest, split):
        print("note: the weights are of 16 bits, and the record's figures of 32.")
        return run.summary
    if not isinstance(figures := held.get("figures"), dict):
        raise InputError(
            f"{path} holds no figures that this command wrote: remove it, or write it again with"
            " --output."
        )
    print(f"note: the weights are of 16 bits, as the figures in {path} are.")
    return figures


def _compared(figures: Mapping[str, Any], recorded: Mapping[str, Any]) -> tuple[str, bool]:
    """(whether figures are those recorded, in one sentence, and as a bool)."""
    shared = [key for key in figures if key in recorded]
    if not shared:
        return "The run's record has no figures of this split.", True
    different = [key for key in shared if figures[key] != recorded[key]]
    if not different:
        return f"All {len(shared)} figures equal the record.", True
    gaps = {
        k: abs(figures[k] - recorded[k])
        for k in different
        if isinstance(figures[k], float) and isinstance(recorded[k], float)
    }
    worst = max(gaps, key=lambda key: gaps[key], default=different[0])
    return (
        f"{len(different)} of {len(shared)} figures differ from the record, most of all {worst}:"
        f" {figures[worst]}, {recorded[worst]}.",
        False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 1 where the figures differ from the record."""
    if argv is None:
        memory.keep()
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        from cnn_jax.inference.predictor import load
        from cnn_jax.reporting import table
        from cnn_jax.runtime.preemption import StopRequest

        if options.output:
            check_ours(Path(options.output), "run", "figures")
        run = load(options.run)
        asked = bool(options.blend or options.augment)
        if asked and run.config.task != "segmentation":
            raise InputError(
                f"{run.folder} is of {run.config.task}, and --blend and --augment are for"
                " segmenters: leave them out."
            )
        if options.output:
            make_place(Path(options.output))
        dataset: Any = run.open_data(options.directory, options.split)
        answered = {}
        with StopRequest() as stop:
            evaluator = dataset.evaluator(run.learner, options.split, run.devices)
            report = evaluator.report(run.variables, stop.raise_if_set)
            if asked:
                scenes, cut = dataset.scenes[options.split], report.evaluation[0].confusion
                answered = _answers(options, run, scenes, cut, stop.raise_if_set)
        figures = dict(report.figures)
        print(table.summary_table(figures))
        sentence, agrees = _compared(figures, _recorded(run, options.split))
        print(sentence)
        for name, found in answered.items():
            print(_sentence(name, found))
        if options.output:
            record = {"run": run.digest, "split": options.split, "figures": figures, **answered}
            write_object(Path(options.output), record)
        outcome.exit_code = int(not agrees)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
