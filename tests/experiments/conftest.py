"""The studies start a command for every run and evaluation: each begins at once, and trains a shallow model."""

from collections.abc import Iterator

import pytest
from forked_python import SHALLOW


@pytest.fixture(scope="module", autouse=True)
def _begins_at_once(begins_at_once: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SHALLOW.items():
            patch.setenv(name, value)
        yield
