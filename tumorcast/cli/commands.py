"""Commands that refuse an option given twice where one is meant: else the last value would win without a word."""

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from tumorcast.errors import UsageError


class OnceCommand(TyperCommand):
    """A command that takes every option once, but for those that are lists."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after a look at what is given twice."""
        if not ctx.resilient_parsing:
            check_once(self.params, args)
        return super().parse_args(ctx, args)


class Commands(typer.Typer):
    """A group of such commands."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register one, as typer does."""
        return super().command(name, cls=OnceCommand, **options)


def check_once(params: Sequence[Any], args: Sequence[str]) -> None:
    """Raises UsageError for an option with two values, and for a flag beside its opposite.

    A flag given twice is no harm. params: of a command, as click has them; args: its words.
    """
    options = [param for param in params if param.param_type_name == "option"]
    named = {name: param for param in options for name in (*param.opts, *param.secondary_opts)}
    before: dict[str, tuple[str, str]] = {}
    words = iter(args)
    for word in words:
        if word == "--":
            return
        name, equals, value = word.partition("=")
        param = named.get(name)
        if param is None:
            continue
        if not (param.is_flag or equals):
            value = next(words, "")
        if param.name in before and not param.multiple:
            _refuse_second(before[param.name], (name, value), is_flag=param.is_flag)
        before[param.name] = name, value


def _refuse_second(before: tuple[str, str], now: tuple[str, str], *, is_flag: bool) -> None:
    if not is_flag:
        raise UsageError(f"{now[0]} is given twice, as {before[1]!r} and as {now[1]!r}; give it once")
    if before[0] != now[0]:
        raise UsageError(f"{before[0]} and {now[0]} are both given; leave one of them out")
