"""Options that several commands share, declared once: a dataclass of options stands as one parameter of a command."""

import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import Parameter, signature
from typing import Any, get_type_hints

Command = Callable[..., None]


def grouped_options(command: Command) -> Command:
    """The command with every parameter that is a dataclass spread out: each field of it an option, in its place.

    Typer sees the options one by one, the command gets an instance a group.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    spread: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        if parameter.name in groups:
            spread += _options_of(groups[parameter.name])
        else:
            spread.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))

    @functools.wraps(command)
    def spread_command(**options: Any) -> None:
        given = {
            name: group(**{field.name: options.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**options, **given)

    spread_command.__signature__ = signature(command).replace(parameters=spread)  # type: ignore[attr-defined]
    spread_command.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return spread_command


def _options_of(group: type[Any]) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(group)
    ]
