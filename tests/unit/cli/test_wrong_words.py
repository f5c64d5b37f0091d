"""What a word that no command knows is answered: one line, of the command that was meant."""

import pytest
from exit_status import exit_status


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["train", "--out", "run", "--processes", "0"], "train"),
        (["bench", "step", "--model", "r3d_18", "--geometry", "chest", "--processes", "0"], "bench step"),
        (["experiments", "grid", "list", "--processes", "0"], "experiments grid list"),
    ],
)
def test_an_unknown_option_names_the_command_whose_help_explains(
    words: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(words) == 2
    assert capsys.readouterr().err == (
        f"anatobench {command}: unrecognized arguments: --processes 0 (`anatobench {command} --help` explains)\n"
    )
