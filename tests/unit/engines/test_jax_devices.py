"""JAX told to use what is not there: one line, in the words of whoever set the variable."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax")

JOIN = """
from anatobench.errors import AnatoBenchError
from anatobench.system.processes import ALONE
from jax_impl.parallel import join
try:
    join(ALONE)
except AnatoBenchError as error:
    print(error)
"""


@pytest.mark.parametrize("stated", ["JAX_PLATFORMS=cuda", "JAX_PLATFORMS=rocket", "JAX_PLATFORM_NAME=gpu"])
def test_a_platform_that_is_not_there_is_one_line(stated: str) -> None:
    variable, _, value = stated.partition("=")
    kept = {name: text for name, text in os.environ.items() if name not in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")}
    environment = {**kept, variable: value, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", JOIN], env=environment, capture_output=True, text=True, check=False)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{stated}: JAX finds no such device here"), done.stderr
