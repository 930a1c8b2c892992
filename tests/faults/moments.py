"""Moments in the life of a run, seen from outside, and processes that are sent a signal then."""

import json
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.running import TINY, Finished, finish, logged, start, wait_for


def _validating(workdir):
    """A condition: the newest line of metrics is of a step that is validated, which the next line
    will tell of."""

    def condition():
        *whole, _ = (
            (workdir / "metrics.jsonl").read_bytes().split(b"\n")
            if (workdir / "metrics.jsonl").exists()
            else [b""]
        )
        if not whole:
            return False
        line = json.loads(whole[-1])
        return line["step"] % 4 == 0 and "train/loss" in line

    return condition


def _any(workdir, pattern):
    return lambda: any(workdir.glob(pattern))


STAGES: dict[str, Callable[[Path, random.Random], Callable[[], bool]]] = {
    "record begun": lambda workdir, _: _any(workdir, "config.json*"),
    "training": lambda workdir, chance: logged(workdir, chance.randint(1, 2)),
    "saving": lambda workdir, _: _any(workdir, "checkpoints/*orbax-checkpoint-tmp*"),
    "validation": lambda workdir, _: _validating(workdir),
    "further training": lambda workdir, chance: logged(workdir, chance.randint(4, 8)),
    "final evaluation": lambda workdir, _: logged(workdir, 9),
    "last save": lambda workdir, _: _any(workdir, "checkpoints/12*"),
    "scenes": lambda workdir, _: _any(workdir, "scenes/*"),
    "pictures": lambda workdir, chance: _any(
        workdir, chance.choice(("figures/learning*", "figures/confusion*", "figures/gallery*"))
    ),
    "summary": lambda workdir, _: _any(workdir, "summary.json*"),
}
"""Name -> function that returns a condition on the run's folder, in the order in which a run comes
to them."""


@dataclass(frozen=True)
class Moment:
    """`delay_s` after a run comes to a stage of `STAGES`, or, where that is "time", after its
    process was started."""

    stage: str
    delay_s: float


def drawn(count: int, chance: random.Random) -> list[Moment]:
    """Moments in the order in which one run comes to them; one of five by the clock alone."""
    moments = []
    for stage in sorted(chance.sample(list(STAGES), count), key=list(STAGES).index):
        if chance.random() < 0.2:
            moments.append(Moment("time", chance.uniform(0, 10)))
        else:
            moments.append(
                Moment(stage, chance.choice((0, chance.uniform(0, 0.1), chance.uniform(0, 0.5))))
            )
    return moments


def interrupted(
    workdir: Path, moment: Moment, number: int, chance: random.Random, more: Sequence[str] = ()
) -> tuple[bool, Finished]:
    """Begins or resumes the tiny run and sends it a signal at a moment. Returns whether it came to
    that, and how the process ended."""
    said = workdir.with_name("said.txt")
    with said.open("w", encoding="utf-8") as out:
        process = start(*TINY, *more, "--workdir", workdir, stdout=out, stderr=subprocess.PIPE)
        if moment.stage == "time":
            try:
                process.wait(moment.delay_s)
                came = False
            except subprocess.TimeoutExpired:
                came = True
        else:
            # What earlier attempts left must not count: this one has come as far as to train.
            reached = STAGES[moment.stage](workdir, chance)
            early = moment.stage == "record begun"
            came = wait_for(
                lambda: (early or "steps of" in said.read_text(encoding="utf-8")) and reached(),
                process,
                600,
            )
            time.sleep(moment.delay_s)
        process.send_signal(number)
        ended = finish(process, 600)
    return came and process.returncode != 0, Finished(
        ended.code, said.read_text(encoding="utf-8"), ended.err
    )
