"""Where compiled programs are kept, that they are found again, and that nothing is forced on who
has settings of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax.runtime import compilation_cache
from tests.running import ROOT, environment

NAMES = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """A user's cache folder, and an environment without JAX's variables, in which JAX seems not to
    be imported."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "Zwischenspeicher für mich"))
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    return tmp_path / "Zwischenspeicher für mich"


def test_programs_are_kept_in_the_users_cache(caches):
    compilation_cache.keep_programs()
    kept = Path(os.environ[NAMES[0]])
    assert kept.is_dir()
    assert kept.parent == caches / "cnn_jax" / "programs"
    assert (
        0 < float(os.environ[NAMES[1]]) < 1
    )  # JAX's own second would leave out most of what is compiled


def test_settings_of_the_user_stay(caches, monkeypatch):
    monkeypatch.setenv(NAMES[0], "/elsewhere")
    compilation_cache.keep_programs()
    assert os.environ[NAMES[0]] == "/elsewhere"
    assert not caches.exists()
    monkeypatch.delenv(NAMES[0])
    monkeypatch.setenv(NAMES[1], "7")
    compilation_cache.keep_programs()
    assert os.environ[NAMES[1]] == "7"


def test_a_folder_that_can_not_be_made_is_done_without(caches):
    caches.write_text("a file stands in the way")
    compilation_cache.keep_programs()
    assert NAMES[0] not in os.environ


def test_without_xdg_the_home_is_used(caches, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/of/me"))
    for value in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        monkeypatch.setattr(sys, "platform", "linux")
        assert compilation_cache.folder().is_relative_to("/home/of/me/.cache/cnn_jax")
        monkeypatch.setattr(sys, "platform", "darwin")
        assert compilation_cache.folder().is_relative_to("/home/of/me/Library/Caches/cnn_jax")


def test_other_processors_have_another_folder(caches, monkeypatch):
    here = compilation_cache.folder()
    assert compilation_cache.folder() == here
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda *_, **__: "processor: 0\nflags: fpu sse\nprocessor: 1\nflags: fpu sse\n",
    )
    there = compilation_cache.folder()
    assert there.parent == here.parent
    assert there != here
    monkeypatch.setattr(
        Path, "read_text", lambda *_, **__: "processor: 0\nMHz: 7\nflags: fpu sse\n"
    )
    assert compilation_cache.folder() == there  # neither the number of cores nor their speed today


def test_what_was_used_longest_ago_goes_first(caches, monkeypatch):
    compilation_cache.keep_programs()
    kept = Path(os.environ[NAMES[0]])
    (kept / "of_xla").mkdir()
    files = [kept / "a", kept / "of_xla" / "b", kept / "c", kept / "d"]
    for day, file in enumerate(files):
        file.write_bytes(bytes(100))
        os.utime(file, (86_400 * day, 86_400 * day))
    os.utime(files[0], (86_400 * 9, 0))  # written first, but read last
    monkeypatch.setattr(compilation_cache, "MOST_BYTES", 200)
    monkeypatch.delenv(NAMES[0])
    compilation_cache.keep_programs()
    assert [file.exists() for file in files] == [True, False, False, True]


PROGRAM = """
import sys
if sys.argv[1] == "first":
    import jax
from cnn_jax.runtime.compilation_cache import keep_programs, sign_programs
keep_programs()
import jax, jax.numpy as jnp
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.jit(lambda x: jnp.sort(x * 2))(jnp.arange(1000.0)).block_until_ready()
sign_programs()
print(sum("cache_hits" in event for event in events), jax.config.jax_compilation_cache_dir)
"""


def cut_off(program):
    program.write_bytes(program.read_bytes()[:50])


def one_bit_changed(program):
    content = bytearray(program.read_bytes())
    content[-9] ^= 4
    program.write_bytes(content)


def unsigned(program):
    """As a process leaves it that was killed while it wrote it."""
    program.with_name(f"{program.name}.crc32").unlink()


def test_what_one_process_compiled_another_reads(tmp_path):
    """Whether JAX was imported before or after; a damaged file costs a compilation, not the run."""
    own = environment(XDG_CACHE_HOME=str(tmp_path), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    own = {name: value for name, value in own.items() if name != NAMES[0]}

    def run(order):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, order],
            cwd=ROOT,
            env=own,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert not ended.stderr
        return int(ended.stdout.split()[0])

    assert run("first") == 0
    assert run("later") >= 1
    for damage in (cut_off, one_bit_changed, unsigned):
        programs = list(tmp_path.rglob("*-cache"))
        assert programs
        for program in programs:
            damage(program)
        assert run("later") == 0, damage


def test_checking_a_program_is_no_use_of_it(caches):
    compilation_cache.keep_programs()
    program = Path(os.environ[NAMES[0]]) / "jit_f.g-0123-cache"
    program.write_bytes(b"a program")
    os.utime(program, (86_400, 86_400))
    compilation_cache.sign_programs()
    compilation_cache.keep_programs()
    assert program.stat().st_atime == 86_400
    program.write_bytes(b"b program")
    compilation_cache.keep_programs()
    assert not list(program.parent.iterdir())
