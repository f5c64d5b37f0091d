"""What `--set fast=` may say."""

import pytest

from anatobench.errors import UsageError
from anatobench.fast_forms import FAST_FORMS, fast_forms
from anatobench.recipes import Recipe, override


def test_names_everything_nothing_or_what_the_device_has() -> None:
    assert fast_forms("auto", ["depthwise"]) == {"depthwise"}
    assert fast_forms("true", []) == set(FAST_FORMS)
    assert fast_forms("false", FAST_FORMS) == set()
    assert fast_forms("attention,depthwise", FAST_FORMS) == {"attention", "depthwise"}


@pytest.mark.parametrize("asked", ["", "True ", "attention,", "flash", "auto,attention"])
def test_a_name_that_there_is_not_is_refused_with_those_that_there_are(asked: str) -> None:
    with pytest.raises(UsageError, match="window_attention"):
        override(Recipe(), [f"fast={asked}"])


def test_compilation_is_one_of_four() -> None:
    assert override(Recipe(), ["compile=graphs"]).compile == "graphs"
    assert override(Recipe(), ["compile=False", "fast=True"]) == Recipe(compile="false", fast="true")
    with pytest.raises(UsageError, match=r"compile=.yes.*graphs"):
        override(Recipe(), ["compile=yes"])
