"""Several processes as one run, real ones on this machine: the curve of one, one record, and an end
together."""

import signal
import socket
import subprocess
import sys

import pytest

from tests import running as commands
from tests.running import TINY, finish, logged, saved_steps, start, wait_for

# Plain gradient descent in small steps: what differs by rounding, and by a ReLU that rounding opens
# or shuts, stays small. A hundred steps leave time to interrupt them.
RUN = (
    *TINY,
    "--training.steps=100",
    "--training.batch_size=4",
    "--training.log_every_steps=5",
    "--training.validate_every_steps=25",
    "--optimizer.name=sgd",
    "--optimizer.learning_rate=0.003",
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run by one process on one device: its workdir."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finished = finish(start(*RUN, "--workdir", workdir))
    assert finished.code == 0, finished.err
    return workdir


def begin(workdir, count, *arguments):
    """The command, in so many processes that are one run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start(*RUN, *arguments, "--workdir", workdir, f"--distributed={address},{count},{i}")
        for i in range(count)
    ]


def assert_same_curves(workdir, reference):
    """The figures of two runs are the same to rounding."""
    ours, theirs = commands.metrics(workdir), commands.metrics(reference)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        # Counts of pixels jump where two classes are as likely; a few pixels are a hundredth of a
        # rare class.
        counted = {
            name for name in line if name.startswith("validation/") and name != "validation/loss"
        } | {"train/pixel_accuracy"}
        for name, value in line.items():
            if name.endswith("/loss"):
                assert value == pytest.approx(expected[name], rel=1e-3), (line["step"], name)
            assert value == pytest.approx(
                expected[name], rel=5e-3, abs=3e-2 if name in counted else 5e-3
            ), (line["step"], name)
    assert ours[-2]["train/loss"] < 0.97 * ours[0]["train/loss"]
    ours, theirs = (
        commands.read(workdir / "summary.json"),
        commands.read(reference / "summary.json"),
    )
    assert ours["test/loss"] == pytest.approx(theirs["test/loss"], rel=1e-3)
    assert ours["test/pixels"] == theirs["test/pixels"]


def lost(workdir, victim, lines):
    """Two processes, one of which is killed: what became of the other."""
    processes = begin(workdir, 2)
    assert wait_for(logged(workdir, lines), processes[0])
    processes[victim].kill()
    survivor = finish(processes[1 - victim], timeout_s=60)
    processes[victim].communicate()
    return survivor


def stopped(workdir, count):
    """So many processes, the last of which is told to stop while it trains: what became of each."""
    processes = begin(workdir, count)
    assert wait_for(logged(workdir, 3), processes[0])
    processes[-1].send_signal(signal.SIGTERM)
    ended = [finish(process) for process in processes]
    assert [process.code for process in ended] == [143] * count, ended
    assert f"{count} x cpu in {count} processes" in ended[0].out
    assert "to resume:" in ended[0].out
    assert not any("step" in process.out for process in ended[1:])
    assert len(saved_steps(workdir)) == 1
    assert commands.read(workdir / "environment.json")["processes"] == count


def finished_by_one(workdir, command, alone):
    (step, *_) = saved_steps(workdir)
    resumed = command(*RUN, "--workdir", workdir)
    assert resumed.code == 0, resumed.err
    assert int(resumed.out.partition("resuming after step ")[2].split()[0]) >= step
    assert_same_curves(workdir, alone)


def test_two_processes_stopped_and_finished_by_one(tmp_path, command):
    assert command(*RUN, "--workdir", tmp_path / "alone").code == 0
    stopped(tmp_path / "run", 2)
    finished_by_one(tmp_path / "run", command, tmp_path / "alone")


@pytest.mark.long
def test_the_first_of_two_processes_lost_and_finished_by_one(alone, tmp_path, command):
    survivor = lost(tmp_path / "run", victim=0, lines=9)
    assert (survivor.code, "Traceback" in survivor.err) == (2, False), survivor.err
    assert survivor.err.splitlines()[-1].startswith("error: process 0 is lost; ")
    finished_by_one(tmp_path / "run", command, alone)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_four_processes_stopped_then_one_of_two_lost_and_finished_by_four(alone, tmp_path):
    stopped(tmp_path, 4)
    survivor = lost(tmp_path, victim=1, lines=len(commands.metrics(tmp_path)) + 3)
    assert survivor.code == 2
    assert survivor.err.splitlines()[-1].startswith("error: process 1 is lost; ")
    four = [finish(process) for process in begin(tmp_path, 4)]
    assert [process.code for process in four] == [0] * 4, four
    assert_same_curves(tmp_path, alone)


@pytest.mark.long
def test_a_process_that_is_refused_ends_the_others(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    other = ("--seed=1",)
    processes = [
        start(*RUN, *arguments, "--workdir", tmp_path / "run", f"--distributed={address},2,{i}")
        for i, arguments in enumerate([(), other])
    ]
    first, second = (finish(process, timeout_s=90) for process in processes)
    assert (first.code, second.code) == (2, 2)
    assert second.err.startswith("error: --distributed: this process")
    assert "process 1 has ended: --distributed: this process" in first.err


@pytest.mark.parametrize(
    "value", ["here", "localhost,2,0", "localhost:1,2,2", "localhost:1,two,0", "localhost:1,2,-1"]
)
def test_a_flag_that_names_no_processes_is_refused(value, tmp_path, command):
    commands.assert_refused(
        command(*RUN, f"--distributed={value}", "--workdir", tmp_path / "run"),
        "--distributed",
        value,
    )
    assert not (tmp_path / "run").exists()


# Waits for a line once it is ready to join, so that a busy machine makes none of several late.
JOIN = """
import sys
from cnn_jax.errors import InputError
from cnn_jax.runtime import processes
processes.JOIN_S = 5
print("ready", flush=True)
sys.stdin.readline()
try:
    processes.join(sys.argv[1])
except InputError as error:
    print(error, "jax" in sys.modules)
"""


def test_a_process_that_is_missing_is_named():
    """Before JAX, which would abort, is asked; and so is a number that two processes have."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, f"{address},4,{number}"],
            cwd=commands.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (0, 2, 2)
    ]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 3
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [finish(process).out for process in started]
    assert all(line.endswith("False\n") for line in said), said
    assert sum("missing after 5 s: process 1, 3" in line for line in said) == 2, said
    assert sum("another process has this number" in line for line in said) == 1, said


def test_without_the_first_process_it_is_named():
    done = subprocess.run(
        [sys.executable, "-c", JOIN, "localhost:9,2,1"],
        cwd=commands.ROOT,
        input="\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "missing after 5 s: process 0" in done.stdout


@pytest.mark.long
def test_smoke_on_eight_devices(tmp_path):
    """The whole command, a batch of eight crops divided among eight devices of one process."""
    arguments = (
        *RUN,
        "--training.steps=4",
        "--training.batch_size=8",
        "--workdir",
        tmp_path / "run",
    )
    finished = finish(start(*arguments, env=commands.environment(**commands.devices(8))))
    assert finished.code == 0, finished.err
    assert "8 x cpu" in finished.out
    assert commands.read(tmp_path / "run" / "environment.json")["device_count"] == 8
    assert commands.read(tmp_path / "run" / "summary.json")["test/pixels"] == 64 * 96
