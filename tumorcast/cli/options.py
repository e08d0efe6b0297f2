"""What the commands share: common options, reading of choices, progress bars and printing of results."""

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tumorcast.errors import StoppedError, UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of stdout.")]
Out = Annotated[Path, typer.Option("--out", help="Where the result is written.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings; options given here win.")]
Choice = TypeVar("Choice", bound=StrEnum)
SOME_FAILED = 1


def only_given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {key: value for key, value in values.items() if value is not None}


def choice(enum: type[Choice], option: str, value: str) -> Choice:
    """The member of an enum that the user named."""
    try:
        return enum(value)
    except ValueError:
        raise UsageError(f"{option} {value}: allowed are {', '.join(enum)}") from None


def contrasts_of(text: str) -> tuple[Any, ...]:
    """The contrasts that `--contrasts t1n,t1c` names."""
    from tumorcast.records import Contrast

    return tuple(choice(Contrast, "--contrasts", name.strip()) for name in text.split(",") if name.strip())


def span(option: str, text: str) -> tuple[int, int]:
    """`3` or `3-5` as (fewest, most).

    >>> span("--sessions", "3-5"), span("--sessions", "4")
    ((3, 5), (4, 4))
    """
    first, _, last = text.partition("-")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise UsageError(f"{option} {text}: give a number (4) or the fewest and the most (3-5)") from None


def check_outputs(outputs: dict[str, Path | None], inputs: Sequence[Path]) -> None:
    """Raises UsageError where an option's output is a folder, an input, or another option's output."""
    taken = {path.resolve(): f"{path} is read" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{option} {path}: is a folder; give a file in it")
        if path.resolve() in taken:
            raise UsageError(f"{option} {path}: {taken[path.resolve()]}; give another file")
        taken[path.resolve()] = f"is written by {option}"


def bar_on_stderr(unit: str, *, silent: bool = False) -> Any:
    """A bar with what is done, the time it took and the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True, quiet=silent))


@contextmanager
def progress(
    unit: str, if_stopped: str | Callable[[], str], *, silent: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with the time left; the block gets a function (done, total)."""
    with stoppable(if_stopped), bar_on_stderr(unit, silent=silent) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stoppable(if_stopped: str | Callable[[], str]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block in order, with a word on what is left to do, or a function that looks."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        remains = if_stopped if isinstance(if_stopped, str) else if_stopped()
        raise StoppedError(f"stopped: {remains}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def tell_fate(patient_id: str, session_id: str | None, status: str, reason: str) -> None:
    """One line on stderr for whatever did not end well."""
    if reason:
        name = patient_id if session_id is None else f"{patient_id} {session_id}"
        typer.echo(f"{name}: {status}: {reason}", err=True)


def print_result(as_json: bool, result: dict[str, Any]) -> None:
    """The result on stdout: one JSON object, or a line a key."""
    typer.echo(json.dumps(result) if as_json else "\n".join(result_lines(result)))


def result_lines(result: Mapping[str, Any], indent: str = "") -> list[str]:
    """A result for people: a line a key, and below it, further in, those of a table of tables.

    >>> result_lines({"out": "m.h5", "patients": {"ok": 3, "failed": 0}, "dice": {"map": {"median": 0.754321987}}})
    ['out: m.h5', 'patients: ok 3, failed 0', 'dice:', '  map: median 0.754322']
    """
    lines = []
    for key, value in result.items():
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            lines += [f"{indent}{key}:", *result_lines(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{key}: {_in_words(value)}")
    return lines


def _in_words(value: object) -> str:
    match value:
        case None | []:
            return "none"
        case Mapping():
            return ", ".join(f"{key} {_in_words(part)}" for key, part in value.items()) or "none"
        case list() | tuple():
            return ", ".join(map(_in_words, value))
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def exit_if_failed(failed: int) -> None:
    """End with the exit code for patients that failed, if any did."""
    if failed:
        raise typer.Exit(SOME_FAILED)


def tell_outcomes(outcomes: Sequence[Any], out: Path, as_json: bool, lost: Sequence[str] = ()) -> None:
    """How each patient fared, the counts, and the exit code where some failed. lost: ranks that left, and why."""
    from tumorcast.records import count_by_status

    for outcome in outcomes:
        tell_fate(outcome.patient_id, None, outcome.status, outcome.reason)
    for rank in lost:
        typer.echo(f"{rank}: it left the run, and the others did its units", err=True)
    counts = count_by_status(outcomes)
    print_result(as_json, {"out": str(out), "patients": counts} | ({"lost_ranks": list(lost)} if lost else {}))
    exit_if_failed(counts["failed"])


def table_of(value: object, name: str, config: Path | None) -> dict[str, Any]:
    """A table of a configuration file. Raises UsageError if it is something else."""
    if not isinstance(value, dict):
        raise UsageError(f"{config}: {name} = {value!r} is not a table; write [{name}] and its keys below it")
    return value


def origin_of(config: Path | None, command: str) -> str:
    """Where a faulty setting can have come from."""
    return command if config is None else f"{command}, {config}"
