"""A run that is killed or told to stop, at whatever moment, goes on where it was and ends with the
bits of one that wasn't."""

import os
import pty
import random
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnn_jax.evaluation.evaluate import SceneEvaluator
from cnn_jax.runtime.preemption import StopRequest
from tests.faults.moments import Moment, drawn, interrupted
from tests.running import (
    MODULE,
    ROOT,
    TINY,
    assert_refused,
    assert_same_run,
    environment,
    finish,
    logged,
    saved_steps,
    start,
    wait_for,
    when,
)


def read_ahead(chance):
    """Another number of batches read ahead, which is no part of what a run is."""
    return [f"--data.prefetch_batches={chance.randint(1, 4)}"]


def assert_stopped(finished, workdir, code):
    """In order, with the command that resumes; or, if it was still importing, by the signal itself;
    or finished."""
    assert "Traceback" not in finished.err + finished.out, finished
    if not (workdir / "summary.json").exists():
        told = (finished.code, "to resume:" in finished.out)
        assert told == (code, True) or (finished.code, finished.out) == (128 - code, ""), finished


def test_killed_and_told_to_stop(reference, tmp_path, command):
    """SIGKILL while a checkpoint is written, then SIGTERM; what is printed resumes."""
    workdir, chance = tmp_path / "a run", random.Random(5)  # whose name needs quotes
    workdir.mkdir()
    (workdir / "config.json.partial").write_text(
        '{"experiment": "aeri'
    )  # killed while it was begun
    came, _ = interrupted(workdir, Moment("saving", 0), signal.SIGKILL, chance, read_ahead(chance))
    assert came
    came, stopped = interrupted(
        workdir, Moment("further training", 0.02), signal.SIGTERM, chance, read_ahead(chance)
    )
    if came:  # else the last steps were over before the signal
        assert_stopped(stopped, workdir, 143)
        step, *_ = reversed(saved_steps(workdir))
        *_, asked, printed = stopped.out.strip().splitlines()
        assert asked == "stopped; to resume:"
        program, *arguments = shlex.split(printed)
        assert (program, arguments[:2]) == ("python", ["-m", MODULE])
        resumed = command(*arguments[2:])
        assert resumed.code == 0, resumed.err
        assert f"resuming after step {step}\n" in resumed.out
    else:
        assert command(*TINY, "--workdir", workdir).code == 0
    assert_same_run(workdir, reference[0])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_five_moments(seed, reference, tmp_path, record_property):
    workdir, chance = tmp_path / "run", random.Random(seed)
    moments = drawn(5, chance)
    for moment in moments:
        came, ended = interrupted(workdir, moment, signal.SIGKILL, chance, read_ahead(chance))
        record_property(f"{moment}", (came, ended.code))
        assert ended.code in (0, -signal.SIGKILL), (moment, ended)
    finished = finish(start(*TINY, "--workdir", workdir), 600)
    assert finished.code == 0, (moments, finished.err)
    assert_same_run(workdir, reference[0])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_with_programs_compiled_as_a_users_are(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    undisturbed = finish(start(*TINY, "--workdir", tmp_path / "reference"))
    assert undisturbed.code == 0, undisturbed.err
    chance = random.Random(0)
    for stage in ("training", "saving", "further training", "scenes"):
        came, ended = interrupted(
            tmp_path / "run", Moment(stage, 0), signal.SIGKILL, chance, read_ahead(chance)
        )
        assert ended.code in (0, -signal.SIGKILL), (came, ended)
    finished = finish(start(*TINY, "--workdir", tmp_path / "run"))
    assert finished.code == 0, finished.err
    assert_same_run(tmp_path / "run", tmp_path / "reference")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_told_to_stop_at_five_moments(seed, reference, tmp_path, record_property):
    workdir, chance = tmp_path / "run", random.Random(100 + seed)
    moments = drawn(5, chance)
    for moment in moments:
        came, ended = interrupted(workdir, moment, signal.SIGTERM, chance, read_ahead(chance))
        record_property(f"{moment}", (came, ended.code))
        if came:
            assert_stopped(ended, workdir, 143)
        else:
            assert ended.code == 0, (moment, ended)
    finished = finish(start(*TINY, "--workdir", workdir), 600)
    assert finished.code == 0, (moments, finished.err)
    assert_same_run(workdir, reference[0])


@pytest.fixture
def own_handlers():
    """Signals are handled after the test as before it."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_handlers")
def test_stopped_in_validation_and_in_the_final_evaluation(
    reference, tmp_path, command, monkeypatch
):
    workdir = tmp_path / "run"
    for call, number, saved in ((1, signal.SIGHUP, [4]), (4, signal.SIGINT, [4, 8, 12])):
        with monkeypatch.context() as patch:
            when(patch, SceneEvaluator, "evaluate", call, number)
            stopped = command(*TINY, "--workdir", workdir)
        assert (stopped.code, "to resume:" in stopped.out) == (128 + number, True), stopped
        assert saved_steps(workdir) == saved
    assert command(*TINY, "--workdir", workdir).code == 0
    assert_same_run(workdir, reference[0])


@pytest.mark.long
def test_interrupted_again_and_again(reference, tmp_path, command):
    """Ctrl-C stops in order, a second one at once, both without a word about our insides. Meanwhile
    the folder is taken."""
    workdir = tmp_path / "run"
    process = start(*TINY, "--workdir", workdir)
    assert wait_for(logged(workdir, 2), process)
    assert_refused(command(*TINY, "--workdir", workdir), workdir, "in use")
    process.send_signal(signal.SIGINT)
    stopped = finish(process)
    assert (stopped.code, "Traceback" in stopped.err) == (130, False), stopped
    assert "to resume:" in stopped.out

    process = start(*TINY, "--workdir", workdir, bufsize=1)
    for line in process.stdout:
        if line.startswith("resuming"):
            break
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "Ctrl-C again" in line:
            break
    process.send_signal(signal.SIGINT)
    stopped = finish(process, timeout_s=30)
    assert stopped.code in (
        130,
        -signal.SIGINT,
    )  # the latter if Python had almost ended; to a shell they are the same
    assert "Traceback" not in stopped.err


def program(text, **options):
    """A small program that uses our parts, run to its end."""
    options = {
        "capture_output": True,
        "text": True,
        "timeout": 60,
        "check": False,
        "env": environment(),
        "cwd": ROOT,
        **options,
    }
    return subprocess.run([sys.executable, "-c", textwrap.dedent(text)], **options)


def test_second_sigint_waits_for_nothing():
    ended = program("""
        import os, signal, time
        from cnn_jax.runtime.preemption import StopRequest
        with StopRequest(ends_process=True):
            print("printed before")
            os.kill(os.getpid(), signal.SIGINT)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:
                pass
            time.sleep(60)
        """)
    assert (ended.returncode, ended.stdout) == (130, "printed before\n"), ended
    assert "Traceback" not in ended.stderr


def test_sigint_while_python_ends():
    """Libraries take seconds then; a Ctrl-C of an impatient user is no traceback of theirs."""
    ended = program("""
        import atexit, os, signal
        from cnn_jax.runtime.preemption import StopRequest
        atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
        with StopRequest(ends_process=True):
            os.kill(os.getpid(), signal.SIGINT)
        """)
    assert ended.returncode == -signal.SIGINT, ended
    assert "Traceback" not in ended.stderr


def test_hanging_up_may_be_ignored():
    """Under nohup, which leaves the run to go on when its terminal closes."""
    ended = program("""
        import os, signal
        from cnn_jax.runtime.preemption import StopRequest
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            print(stop.signal_number)
            os.kill(os.getpid(), signal.SIGTERM)
            print(stop.signal_number)
        """)
    assert ended.stdout == f"None\n{signal.SIGTERM:d}\n", ended


def test_in_a_thread_nothing_is_caught():
    """As in a notebook's or a server's, where Python refuses to catch signals."""
    with ThreadPoolExecutor(1) as pool, StopRequest():
        caught = signal.getsignal(signal.SIGINT)

        def entered():
            with StopRequest() as stop:
                return stop.signal_number, signal.getsignal(signal.SIGINT)

        assert pool.submit(entered).result() == (None, caught)
        assert signal.getsignal(signal.SIGINT) == caught


def test_terminal_that_hangs_up(tmp_path):
    """The signal asks the run to stop; every word that it prints to the terminal afterwards would
    be an error."""
    text = """
        import os, pathlib, signal, sys, time
        from cnn_jax.runtime.preemption import StopRequest
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        # A session's leader hears of the first terminal that it opens.
        os.close(os.open(os.ttyname(0), os.O_RDWR))
        with StopRequest() as stop:
            print("begun", flush=True)
            while stop.signal_number is None:
                time.sleep(0.01)
            print("stopped; to resume:", flush=True)
            print("warning", file=sys.stderr, flush=True)
            pathlib.Path("stopped").write_text(str(stop.signal_number))
        """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    os.close(slave)
    shown = b""
    while b"begun" not in shown:
        shown += os.read(master, 1000)
    os.close(master)
    assert process.wait(60) == 0
    assert (tmp_path / "stopped").read_text() == f"{signal.SIGHUP:d}"


GUARDED = """
    import sys
    from cnn_jax.run import guarded
    with guarded() as outcome:
        for number in range(100_000):
            print(number)
    sys.exit(outcome.exit_code)
    """


@pytest.mark.parametrize("buffered", [True, False])
def test_nobody_reads_what_is_printed(buffered):
    """As in `| head`: no traceback, and the exit code that other commands have then."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = program(
        GUARDED,
        capture_output=False,
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED="" if buffered else "1"),
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_what_is_printed_fills_a_disk():
    with Path("/dev/full").open("w") as full:
        ended = program(GUARDED, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 2
    assert re.fullmatch(r"error: standard output.*\(No space left on device\).*\.\n", ended.stderr)


def test_closed_streams_are_not_mistaken_for_files(tmp_path):
    """With its standard streams closed a process gives their numbers to the files that it opens,
    and C++ writes messages there."""
    text = """
        import os, pathlib, sys
        from cnn_jax.run import guarded
        with guarded() as outcome:
            print("to nobody")
            print("to nobody", file=sys.stderr)
            with open("file", "w") as file:
                os.write(1, b"to nobody")
                os.write(2, b"to nobody")
                sys.stderr.isatty()
                file.write(str(file.fileno() > 2))
        sys.exit(outcome.exit_code)
        """
    (tmp_path / "program.py").write_text(textwrap.dedent(text))
    ended = subprocess.run(
        f"exec '{sys.executable}' program.py <&- >&- 2>&-",
        shell=True,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        check=False,
    )
    assert ended.returncode == 0
    assert (tmp_path / "file").read_text() == "True"
