"""An option given twice is refused by every command; lists and flags may be repeated."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tumorcast.cli import main as cli
from tumorcast.cli.main import app
from tumorcast.errors import InputError, UsageError


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, *names, name)
        else:
            yield (*names, name), one


EVERY = dict(commands(typer.main.get_command(app)))
VALUED = [
    (words, option)
    for words, command in EVERY.items()
    for param in command.params
    if param.param_type_name == "option" and not param.is_flag and not param.multiple
    for option in param.opts
]


def refused(*arguments: str) -> str:
    fault = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(fault, UsageError), fault
    return str(fault)


def test_all_commands_are_looked_at() -> None:
    assert {("forecast",), ("export",), ("archive", "merge"), ("experiment", "ode"), ("prepare",)} < EVERY.keys()
    assert {words for words, _ in VALUED} > {("fit",), ("prepare",), ("experiment", "grid"), ("reader-study", "make")}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "option"), VALUED, ids=lambda part: " ".join(part) if type(part) is tuple else part)
def test_an_option_given_twice_is_refused_with_both_values(words: tuple[str, ...], option: str) -> None:
    error = refused(*words, option, "90", "--json", f"{option}=180")
    assert option in error and "'90'" in error and "'180'" in error


def test_the_same_value_twice_is_refused_too() -> None:
    assert "--seed is given twice, as '1' and as '1'" in refused("fit", "sizes.csv", "--seed", "1", "--seed", "1")


def test_the_exit_code_is_2_also_of_tumorcast_export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tumorcast-export", "runs", "--out", "a", "--out", "b"])
    with pytest.raises(SystemExit) as ended:
        cli.export_main()
    assert ended.value.code == 2
    assert "--out is given twice, as 'a' and as 'b'" in capsys.readouterr().err


def test_a_flag_may_be_repeated_but_not_beside_its_opposite() -> None:
    error = refused("forecast", "c.h5", "--merge", "--keep-members", "--merge", "--no-keep-members")
    assert "--keep-members and --no-keep-members" in error


@pytest.mark.parametrize(
    "arguments",
    [
        "fit-prior none.csv --out p.json --size-column a --size-column b",  # a list
        "fit none.csv --json --json --out g.h5 --chemotherapy --chemotherapy",
        "fit none.csv --out --seed --seed 1",  # a value that looks like an option
        "fit --out g.h5 -- --out",
    ],
)
def test_what_is_no_repetition_is_taken(arguments: str) -> None:
    fault = CliRunner().invoke(app, arguments.split()).exception
    assert isinstance(fault, InputError), fault  # it went on to the file that is not there
