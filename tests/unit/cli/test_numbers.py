"""Every option that takes a number refuses one that cannot be meant, before any work, with what it takes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from anatobench.cli.main import COMMANDS, build_parser


def options_of(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is typed before an option, and the option, of all that take a number."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from options_of(below, (*words, name))
        elif action.option_strings and (action.type in (int, float) or isinstance(action.default, int | float)):
            if action.nargs != 0:
                yield words, action.option_strings[0]
        elif getattr(action.type, "__module__", "") == "anatobench.cli.arguments" and action.dest != "shard":
            yield words, action.option_strings[0]


def parser_of(command: str) -> argparse.ArgumentParser:
    commands = build_parser([command])._actions[-1]
    assert isinstance(commands, argparse._SubParsersAction)
    found: argparse.ArgumentParser = commands.choices[command]
    return found


NUMBERS = [pair for command in COMMANDS for pair in options_of(parser_of(command), (command,))]


def test_there_are_many() -> None:
    found = {(words[0], option) for words, option in NUMBERS}
    assert found >= {("train", "--workers"), ("prepare", "--validation-fraction"), ("bench", "--network-bandwidth")}
    assert len(NUMBERS) > 60


@pytest.mark.parametrize("wrong", ["-3", "nan", "some", ""])
@pytest.mark.parametrize(("words", "option"), NUMBERS, ids=lambda value: "-".join(value).strip("-"))
def test_what_cannot_be_meant_exits_with_2(
    words: tuple[str, ...], option: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        build_parser(words[:1]).parse_args([*words, f"{option}={wrong}"])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"anatobench {words[0]}")
    assert f": argument {option}: {wrong!r}: give a " in line
