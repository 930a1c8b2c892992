"""Traced programs: read where nothing differs that could change them, traced anew where anything
does, and never half a file."""

import copy
import functools
import json
import os
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax import tracing_cache
from cnn_jax.configuration.schema import leaves
from cnn_jax.run import known_of, run
from cnn_jax.tasks import config_from_dict
from cnn_jax.tracing_cache import NOT_KEPT, Tracings
from cnn_jax.training import losses, step
from experiments.aerial_unet import CONFIGURATIONS
from tests import running as commands
from tests.running import SHORT, TINY


class Traced:
    """A function that counts how often it is traced."""

    def __init__(self):
        self.count = 0

    def __call__(self, numbers, more):
        self.count += 1
        return [jnp.sin(numbers) @ more["b"]], {"sum": numbers.sum()}


NUMBERS = np.arange(12, dtype=np.float32).reshape(3, 4)
MORE = {"b": np.ones((4, 2), np.float32)}


def lowered(folder, function, known="known", name="name", arguments=(NUMBERS, MORE), **options):
    def another(
        *arguments,
    ):  # JAX itself remembers what it has traced of a function in this process
        return function(*arguments)

    return Tracings(known, folder).lower(name, another, *arguments, **options)


def test_what_was_traced_once_is_read(tmp_path, old_source):
    first, second = Traced(), Traced()
    results = [lowered(tmp_path, function).compile()(NUMBERS, MORE) for function in (first, second)]
    assert (first.count, second.count) == (1, 0)
    for (product,), sums in results:
        np.testing.assert_allclose(product, np.sin(NUMBERS) @ MORE["b"], rtol=1e-6)
        assert sums["sum"] == NUMBERS.sum()
    assert results[0][0][0].tobytes() == results[1][0][0].tobytes()


def test_without_a_folder_nothing_is_kept(tmp_path, old_source):
    first, second = Traced(), Traced()
    for function in (first, second):
        NOT_KEPT.lower("name", function, NUMBERS, MORE)
    assert (first.count, second.count) == (1, 1)


OTHERS = {
    "known": {"known": "other"},
    "name": {"name": "other"},
    "shape": {"arguments": (NUMBERS[:2], MORE)},
    "type": {"arguments": (NUMBERS.astype(np.float16), MORE)},
    "weak type": {"arguments": (jnp.asarray(2.0), {"b": np.float32(1)})},
    "names of arguments": {"arguments": (NUMBERS, {**MORE, "c": 1})},
    "donation": {"donate_argnums": 0},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_traced_anew(other, tmp_path, old_source):
    def function(numbers, more):
        count.append(None)
        return [numbers + more["b"].sum()]

    count = []
    if other is OTHERS["weak type"]:
        lowered(tmp_path, function, arguments=(jnp.float32(2.0), {"b": np.float32(1)}))
    else:
        lowered(tmp_path, function)
    lowered(tmp_path, function, **other)
    assert len(count) == 2
    lowered(tmp_path, function, **other)
    assert len(count) == 2


@pytest.mark.parametrize(
    ("owner", "name", "other"),
    [
        pytest.param(
            tracing_cache.importlib.metadata,
            "version",
            lambda name: f"another {name}",
            id="versions",
        ),
        pytest.param(jax, "devices", lambda: 2 * jax.local_devices(), id="devices"),
        pytest.param(tracing_cache.sys, "version", "3.99", id="Python"),
    ],
)
def test_what_it_runs_on_is_known(owner, name, other, tmp_path, old_source, monkeypatch):
    function = Traced()
    lowered(tmp_path, function)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, other)
        tracings = Tracings("known", tmp_path)
        there = tracings._path("name", (NUMBERS, MORE), {})
    assert there.parent == tmp_path
    assert [there] != list(tmp_path.iterdir()) == [tracings._path("name", (NUMBERS, MORE), {})]


def test_a_folder_that_can_only_be_read_is_read(tmp_path, old_source, monkeypatch):
    lowered(tmp_path, Traced())
    monkeypatch.setattr(tracing_cache, "_can_be_written", lambda folder: False)
    found, other = Traced(), Traced()
    lowered(tmp_path, found)
    lowered(tmp_path, other, known="other")
    assert (found.count, other.count) == (0, 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_used_longest_ago_makes_room(tmp_path, old_source, monkeypatch):
    for number in range(3):
        lowered(tmp_path, Traced(), known=number)
        (newest,) = set(tmp_path.iterdir()) - {tmp_path / "first", tmp_path / "second"}
        newest.rename(tmp_path / ("first", "second", "third")[number])
        os.utime(tmp_path / ("first", "second", "third")[number], (1000 * number, 1000 * number))
    monkeypatch.setattr(tracing_cache, "MOST_BYTES", 2 * (tmp_path / "third").stat().st_size)
    lowered(tmp_path, Traced(), known=3)
    assert {"second", "third"} < {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "first").exists()


def test_a_setting_of_jax_is_another_program(tmp_path, old_source):
    function = Traced()
    lowered(tmp_path, function)
    before = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        assert "HIGHEST" in lowered(tmp_path, function).as_text()
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    assert function.count == 2


def test_other_code_is_another_program(tmp_path, old_source, monkeypatch):
    source = tmp_path / "paquete/módulo.py"
    source.parent.mkdir()
    monkeypatch.setattr(tracing_cache, "_PACKAGE", source.parent)
    function, seen = Traced(), []
    for text in ("a = 1", "a = 2", "a = 1"):
        source.write_text(text)
        tracing_cache._code.cache_clear()
        lowered(tmp_path, function)
        seen.append(function.count)
    assert seen == [1, 2, 2]
    source.rename(source.with_name("other.py"))
    tracing_cache._code.cache_clear()
    lowered(tmp_path, function)
    assert function.count == 3


def test_code_that_changed_since_it_was_imported_is_not_known(tmp_path, monkeypatch):
    """What runs is then not what lies on the disk: nothing is read, and nothing kept for the
    next."""
    source = tmp_path / "package/module.py"
    source.parent.mkdir()
    source.write_text("a = 1")
    monkeypatch.setattr(tracing_cache, "_PACKAGE", source.parent)
    imported = time.time() - 3600
    monkeypatch.setattr(cnn_jax, "IMPORTED_S", imported)
    os.utime(
        source, (imported - 10, imported - 10)
    )  # by its mtime old: tools restore that; its ctime is now
    tracing_cache._code.cache_clear()
    function = Traced()
    for count in (1, 2):
        lowered(tmp_path / "kept", function)
        assert function.count == count
    assert not (tmp_path / "kept").exists()
    tracing_cache._code.cache_clear()


@pytest.mark.parametrize("damage", ["halved", "emptied", "one bit", "garbage"])
def test_a_damaged_file_costs_a_tracing(damage, tmp_path, old_source):
    lowered(tmp_path, Traced())
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {
        "halved": content[: len(content) // 2],
        "emptied": b"",
        "one bit": content,
        "garbage": bytes(len(content)),
    }[damage]
    path.write_bytes(damaged)
    function = Traced()
    (product,), _ = lowered(tmp_path, function).compile()(NUMBERS, MORE)
    assert function.count == 1
    np.testing.assert_allclose(product, np.sin(NUMBERS) @ MORE["b"], rtol=1e-6)
    again = Traced()
    lowered(tmp_path, again)  # it was written anew
    assert again.count == 0


def test_settings_of_flax_make_another_program(tmp_path, old_source, monkeypatch):
    function = Traced()
    lowered(tmp_path, function)
    monkeypatch.setenv("FLAX_FIX_RNG_SEPARATOR", "1")
    lowered(tmp_path, function)
    assert function.count == 2


def test_what_lies_beside_the_source_does_no_harm(tmp_path, old_source, monkeypatch):
    """An editor's lock, a link to nowhere, and a folder with the name of a module; a file that
    can't be read is not known."""
    package = tmp_path / "package"
    (package / "folder.py").mkdir(parents=True)
    (package / "module.py").write_text("a = 1")
    (package / ".#module.py").symlink_to("someone@somewhere.1234")
    monkeypatch.setattr(tracing_cache, "_PACKAGE", package)
    kept, functions = tmp_path / "kept", [Traced(), Traced()]
    for function in functions:
        lowered(kept, function)
    assert [function.count for function in functions] == [1, 0]

    def unreadable(path):
        raise PermissionError(path)

    tracing_cache._code.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(type(package), "read_bytes", unreadable)
        lowered(kept, functions[1])
    assert functions[1].count == 1


def test_without_flatbuffers_it_is_done_without(tmp_path, old_source, monkeypatch):
    def missing(exported):
        raise ImportError("Please install 'flatbuffers'")

    monkeypatch.setattr(jax.export.Exported, "serialize", missing)
    (product,), _ = lowered(tmp_path, Traced()).compile()(NUMBERS, MORE)
    np.testing.assert_allclose(product, np.sin(NUMBERS) @ MORE["b"], rtol=1e-6)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_not_be_written_is_done_without(tmp_path, old_source):
    (tmp_path / "file").write_text("stands in the way")
    function = Traced()
    lowered(tmp_path / "file" / "folder", function)
    assert function.count == 1
    assert (tmp_path / "file").read_text() == "stands in the way"


def test_what_can_not_be_kept_is_lowered(tmp_path, old_source):
    def asks_python(numbers, more):
        return jax.pure_callback(
            lambda x: np.asarray(x) + 1, jax.ShapeDtypeStruct(numbers.shape, numbers.dtype), numbers
        )

    np.testing.assert_array_equal(
        lowered(tmp_path, asks_python).compile()(NUMBERS, MORE), NUMBERS + 1
    )
    assert not list(tmp_path.iterdir())


def test_programs_lie_beside_the_compiled_ones(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = [getattr(jax.config, name) for name in names]
    try:
        for kept, enabled, expected in (
            (str(tmp_path), True, tmp_path / "traced"),
            (str(tmp_path), False, None),
            ("gs://bucket/programs", True, None),
            (None, True, None),
        ):
            for name, value in zip(names, (kept, enabled), strict=True):
                jax.config.update(name, value)
            assert tracing_cache.beside_compiled() == expected
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)


def instructions(compiled):
    """The operations of a program with their shapes, and what memory it needs; names, operands and
    places in the source left out."""
    text = re.sub(
        r", metadata=\{[^}]*\}|, sharding=\{(?:[^{}]|\{[^{}]*\})*\}", "", compiled.as_text()
    )
    operations = sorted(
        line
        for line in re.sub(r"%?\b[\w.-]+\.\d+|jit_\w+|%[\w.-]+", "", text).splitlines()
        if " = " in line
    )
    memory = compiled.memory_analysis()
    return operations, memory.alias_size_in_bytes, memory.temp_size_in_bytes


def test_runs_of_a_command_trace_once_for_all_seeds_and_what_decides_is_traced_anew(
    tmp_path, old_source, optimized_command, few_pictures, monkeypatch
):
    counted, compiled = [], []
    hits, original = step.hits, tracing_cache.Tracings.lower

    def counting(*arguments):
        counted.append(None)
        return hits(*arguments)

    def lower(self, name, *arguments, **options):
        result = original(self, name, *arguments, **options)
        if name == "training step":
            compiled.append(instructions(result.compile()))
        return result

    monkeypatch.setattr(step, "hits", counting)  # what a step calls while it is traced
    monkeypatch.setattr(tracing_cache, "beside_compiled", lambda: tmp_path / "traced")
    monkeypatch.setattr(tracing_cache.Tracings, "lower", lower)

    def traced(name, *arguments):
        counted.clear()
        finished = optimized_command(*TINY, *arguments, "--workdir", tmp_path / name)
        assert finished.code == 0, finished.err
        return len(counted) > 0

    assert [traced(f"seed {seed}", f"--seed={seed}") for seed in (0, 1)] == [True, False]
    assert not traced("again", "--seed=0")
    assert (
        commands.metrics(tmp_path / "seed 0")
        == commands.metrics(tmp_path / "again")
        != commands.metrics(tmp_path / "seed 1")
    )

    config = config_from_dict(
        json.loads((tmp_path / "seed 0/config.json").read_text(encoding="utf-8"))
    )
    counted.clear()
    run(config, tmp_path / "by other code")  # which may have changed what is traced
    assert counted
    assert commands.metrics(tmp_path / "by other code") == commands.metrics(tmp_path / "seed 0")
    assert compiled[0] == compiled[1] == compiled[3]


def test_every_field_but_the_seed_is_known():
    config = CONFIGURATIONS["default"]()
    known = known_of(config, "fingerprint")
    assert known_of(config, "another") != known
    for path, _, value in leaves(config):
        changed = copy.deepcopy(config)
        *sections, field = path.split(".")
        setattr(
            functools.reduce(getattr, sections, changed),
            field,
            not value if isinstance(value, bool) else f"{value} changed",
        )
        assert (known_of(changed, "fingerprint") == known) == (path == "seed"), path


def test_class_weights_are_known(tmp_path, old_source, command, few_pictures, monkeypatch):
    monkeypatch.setattr(tracing_cache, "beside_compiled", lambda: tmp_path / "traced")
    weighted = "--loss.class_weights=inverse"
    assert command(*TINY, *SHORT, weighted, "--workdir", tmp_path / "one").code == 0
    before = sorted((tmp_path / "traced").iterdir())
    assert len(before) == 2
    monkeypatch.setattr(
        losses, "class_weights", lambda counts, kind: np.ones(len(counts), np.float32)
    )
    assert command(*TINY, *SHORT, weighted, "--workdir", tmp_path / "other").code == 0
    assert len(list((tmp_path / "traced").iterdir())) == 3
    assert commands.metrics(tmp_path / "one") != commands.metrics(tmp_path / "other")


def test_another_process_knows_them(tmp_path):
    """Real commands: the second, of another seed, finds both programs of the first."""
    environment = commands.environment(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "kept"))
    found = []
    for seed in (0, 1):
        arguments = (*TINY, *SHORT, f"--seed={seed}", "--workdir", tmp_path / str(seed))
        finished = commands.finish(commands.start(*arguments, env=environment))
        assert finished.code == 0, finished.err
        found.append(
            {path: path.stat().st_mtime_ns for path in (tmp_path / "kept/traced").iterdir()}
        )
    assert len(found[0]) == 2
    assert found[0] == found[1]
