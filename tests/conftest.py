"""What tests share: a cache of compiled programs, an environment of its own, the command in this
process, a reference run."""

import atexit
import collections
import dataclasses
import gc
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from importlib import metadata

import filelock
import pytest

# Before JAX is imported, and inherited by child processes: each program is compiled once a session,
# not once a process.
# A program cut into parts, for more cores than two workers leave each other, takes a tenth longer.
os.environ["XLA_FLAGS"] = "--xla_cpu_parallel_codegen_split_count=1"
if metadata.version("jaxlib").startswith("0.10."):
    # XLA's older way to make code for CPUs takes a third of the time. Later versions have one way
    # only, and refuse the flag.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cnn_jax-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# XLA leaves most of its optimisations out: programs compile in a third of the time, and compute the
# same to rounding.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_configure(config):
    # Tracing leaves a lot to look through: at Python's own pace that takes a twentieth of the time.
    gc.set_threshold(50_000, 20, 20)
    # Another process may be writing the entry, or have been killed while it did; JAX then compiles.
    config.addinivalue_line(
        "filterwarnings", "ignore:Error reading persistent compilation cache entry"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What asks for PyTorch's packages is chosen by `-m peers`."""
    for item in items:
        if {"torch", "torch_and_smp"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("peers")


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """What earlier modules left, above all what JAX remembers, is no longer searched for garbage:
    that took a tenth of the time."""
    gc.collect()
    gc.freeze()


KEPT: dict[bool, collections.OrderedDict] = {
    quick: collections.OrderedDict() for quick in (False, True)
}
"""What `cnn_jax.tasks.programs` keeps of runs that were compiled quickly, and of others."""


@contextmanager
def _compilation(*, quick):
    """XLA without most of its optimisations, or with them."""
    import jax

    from cnn_jax.tasks import programs

    before = jax.config.read("jax_disable_most_optimizations"), programs.kept
    jax.config.update("jax_disable_most_optimizations", quick)
    programs.kept = KEPT[quick]
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before[0])
        programs.kept = before[1]


@pytest.fixture
def quick_compilation():
    """XLA without most of its optimisations, whatever the environment says, for tests that compile
    programs of their own."""
    with _compilation(quick=True):
        yield


@pytest.fixture
def users_compilation():
    """XLA with all of its optimisations, as users have it."""
    with _compilation(quick=False):
        yield


@pytest.fixture
def command(few_pictures, drawing_command):
    """`drawing_command` without pictures."""
    return drawing_command


@pytest.fixture
def drawing_command(quick_compilation, main_job):
    """Function that runs the main job in this process with the arguments given, and returns what a
    child would."""
    return main_job


@pytest.fixture
def optimized_command(users_compilation, main_job):
    """`drawing_command` with programs compiled as a user's are."""
    return main_job


@pytest.fixture
def main_job(capsys):
    """`drawing_command`, with programs compiled as the test says."""
    from cnn_jax.run import main
    from experiments.aerial_unet import CONFIGURATIONS
    from tests.running import MODULE, Finished

    def run(*arguments):
        capsys.readouterr()
        code = main(MODULE, CONFIGURATIONS, list(map(str, arguments)))
        return Finished(code, *capsys.readouterr())

    return run


@pytest.fixture
def few_pictures(monkeypatch):
    """Runs draw no pictures of their own, which take a third of so small a run's time: they are
    left to the tests without this."""
    from cnn_jax.reporting import classifier_pictures, figures
    from cnn_jax.tasks.segmentation import SegmentationEvaluator

    monkeypatch.setattr(figures, "learning_curves", lambda *arguments, **options: None)
    monkeypatch.setattr(SegmentationEvaluator, "draw", lambda *arguments: None)
    for name in ("draw", "prediction_pictures"):
        monkeypatch.setattr(classifier_pictures, name, lambda *arguments: None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Function `(name, make) -> folder` for what takes long: `make(folder)` is called until it
    succeeds once, and every worker gets a copy."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def copy(name, make):
        original, whole = shared / f"{name}-made-once", shared / f"{name}-whole"
        with filelock.FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(original, ignore_errors=True)
                original.mkdir()
                make(original)
                whole.touch()
        return shutil.copytree(original, tmp_path_factory.mktemp(name) / name)

    return copy


@pytest.fixture(scope="session")
def reference(made_once):
    """A run that nothing interrupted, made by the real command: (its workdir, its exit code and
    output)."""
    from tests.running import TINY, Finished, finish, start

    def make(folder):
        finished = finish(start(*TINY, "--workdir", folder / "run"))
        assert finished.code == 0, finished.err
        (folder / "finished.json").write_text(
            json.dumps(dataclasses.asdict(finished)), encoding="utf-8"
        )

    folder = made_once("reference", make)
    return folder / "run", Finished(
        **json.loads((folder / "finished.json").read_text(encoding="utf-8"))
    )
