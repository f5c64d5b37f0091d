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


@pytest.mark.parametrize("platforms", ["cuda", "rocket"])
def test_a_platform_that_is_not_there_is_one_line(platforms: str) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": platforms, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", JOIN], env=environment, capture_output=True, text=True, check=False)
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"JAX_PLATFORMS={platforms}: JAX finds no such device here"), done.stderr
