"""Variables of JAX that ask for what can't be had: a sentence, before a run has a folder of its
own."""

import pytest

from tests.running import TINY, assert_refused, environment, finish, start


@pytest.mark.parametrize("variable", ["JAX_PLATFORMS=cuda", "JAX_ENABLE_X64=1"])
def test_it_is_refused(variable, tmp_path):
    name, value = variable.split("=")
    process = start(*TINY, "--workdir", tmp_path / "run", env=environment(**{name: value}))
    assert_refused(finish(process), name)
    assert not (tmp_path / "run" / "config.json").exists()
