"""Options that are declared as a group."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from tumorcast.cli.option_groups import grouped_options


@dataclass(frozen=True)
class Colours:
    paper: Annotated[str, typer.Option(help="Of the paper.")] = "white"
    ink: Annotated[str | None, typer.Option("--pen", help="Of the ink.")] = None


def app_of(command: object) -> typer.Typer:
    app = typer.Typer()
    app.command()(command)  # type: ignore[type-var]
    return app


@grouped_options
def draw(*, name: Annotated[str, typer.Argument()], colours: Colours, size: int = 1) -> None:
    """Draw it."""
    typer.echo(f"{name} {colours} {size}")


def test_each_field_is_an_option_and_the_command_gets_the_group() -> None:
    result = CliRunner().invoke(app_of(draw), ["cat", "--pen", "red", "--size", "3"])
    assert result.stdout == "cat Colours(paper='white', ink='red') 3\n", result.output


def test_the_options_stand_in_the_place_of_the_group() -> None:
    shown = CliRunner().invoke(app_of(draw), ["--help"]).stdout
    assert "Draw it." in shown
    assert shown.index("--paper") < shown.index("--pen") < shown.index("--size")
