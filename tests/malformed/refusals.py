"""What tests of malformed input share: how an example is run, what counts as refused, and how many
examples there are."""

import contextlib
import functools
import inspect
import io
import json
import signal
import time
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.running import Finished, assert_refused

LONGEST_S = 60
"""No refusal takes longer, however busy the machine; one that does hangs."""

SHARES = st.floats(0, 0.95).map(lambda share: round(share, 3))
"""How much is left of what is cut short."""


class Hangs(AssertionError):
    """An example was neither refused nor accepted in time."""


@contextlib.contextmanager
def in_time():
    """Around what may hang. The alarm is also pytest-timeout's, which gets it back with what is
    left of its time."""

    def stop(*_):
        raise Hangs(f"not refused within {LONGEST_S} s")

    before, started = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, _ = signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(
            signal.ITIMER_REAL, max(left - (time.monotonic() - started), 0.001) if left else 0
        )
        signal.signal(signal.SIGALRM, before)


def refused(main: Callable[[list[str]], int], *arguments) -> str:
    """Runs a command in this process, which must refuse its input in one sentence before it trains;
    returns that."""
    out, err = io.StringIO(), io.StringIO()
    trained = mock.patch(
        "cnn_jax.training.loop.train", side_effect=AssertionError("accepted: the run began")
    )
    with in_time(), trained, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    assert_refused(Finished(code, out.getvalue(), err.getvalue()))
    return err.getvalue()


def generated(quick: int, many: int, strategy: st.SearchStrategy):
    """Decorator of a property `case(example, **fixtures)`: a test of few examples, and with the
    marker `long` of many.

    Fixtures must not be of one test alone. The examples are the same every time: what fails here
    fails everywhere.
    """
    wanted = {
        "derandomize": True,
        "database": None,
        "deadline": None,
        "suppress_health_check": list(HealthCheck),
    }

    def decorate(case):
        @pytest.mark.parametrize("examples", [quick, pytest.param(many, marks=pytest.mark.long)])
        @functools.wraps(case)
        def test(examples, **fixtures):
            @settings(max_examples=examples, phases=(Phase.generate,), **wanted)
            @given(strategy)
            def every(example):
                case(example, **fixtures)

            every()

        _, *parameters = inspect.signature(case).parameters.values()
        examples = inspect.Parameter("examples", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        test.__signature__ = inspect.Signature([examples, *parameters])
        test.strategy, test.case = strategy, case
        return test

    return decorate


def paths(content, prefix=()) -> list[tuple]:
    """The keys that lead to everything in nested objects and arrays."""
    if not isinstance(content, dict | list):
        return []
    items = content.items() if isinstance(content, dict) else enumerate(content)
    return [
        found for key, value in items for found in ((*prefix, key), *paths(value, (*prefix, key)))
    ]


def changed(content, path: tuple, value):
    """A copy of nested objects and arrays with another value at a path; `...` leaves it out."""
    again = json.loads(json.dumps(content))
    holder = again
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return again


@st.composite
def broken_json(draw, text: str) -> bytes:
    """What is left of a JSON object in a file that something happened to: never an object that can
    be read."""
    whole = text.strip().encode()
    kind = draw(
        st.sampled_from(["cut", "bytes", "other", "twice", "deep", "number", "tail", "half"])
    )
    if kind == "cut":
        return whole[: int(draw(SHARES) * len(whole))]
    if kind == "bytes":
        at = draw(st.integers(0, len(whole)))
        return (
            whole[:at]
            + draw(st.sampled_from([b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\x00"]))
            + whole[at:]
        )
    if kind == "other":
        return draw(
            st.sampled_from(
                [
                    b"",
                    b"[]",
                    b"null",
                    b"3",
                    b'"{}"',
                    b"[{}]",
                    b"{]",
                    whole.decode().encode("utf-16"),
                ]
            )
        )
    name, value = draw(st.sampled_from(sorted(json.loads(whole).items(), key=str)))
    repeated = f"{json.dumps(name)}: {json.dumps(value)}"
    if kind == "twice":
        return f"{{{repeated}, {whole.decode()[1:]}".encode()
    if kind == "deep":
        depth = draw(st.sampled_from([1_000, 20_000]))
        return b'{"deep": ' + draw(st.sampled_from([b"[", b'{"a":'])) * depth
    if kind == "number":
        number = draw(
            st.sampled_from(
                [
                    b"NaN",
                    b"Infinity",
                    b"-Infinity",
                    b"1e999",
                    b"9" * 30,
                    b"9" * 5000,
                    b"-" + b"9" * 40,
                ]
            )
        )
        return b'{"step": ' + number + b", " + whole[1:]
    if kind == "half":
        return b'{"name": "\\ud800", ' + whole[1:]
    return whole + draw(st.sampled_from([b"}", b"{}", b" x", b",", b"]"]))
