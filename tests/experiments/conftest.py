"""The studies start a command for every run and evaluation: each begins at once."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _begins_at_once(begins_at_once: None) -> None:
    pass
