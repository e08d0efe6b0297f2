"""How many files and names one meets on the way of a command: what it runs of tumorcast, counted while it runs.

    benchmarks/journeys.py prepare scans --image-size 64 --out cohort.h5        any command of tumorcast

Prints a line of JSON: source files entered, functions called, names bound in them, and lines of these functions.
Module bodies, comprehensions and lambdas do not count, and what runs in other threads and processes is not seen.
"""

import json
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import tumorcast

ROOTS = tuple(str(Path(root).resolve()) for root in tumorcast.__path__)
SPECIAL = frozenset({"<module>", "<lambda>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>"})


def walk(arguments: list[str]) -> set[CodeType]:
    """The functions of tumorcast that a command enters."""
    from tumorcast.cli.main import main  # noqa: PLC0415 - imports are not part of the way

    entered: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name not in SPECIAL and _is_ours(code.co_filename):
            entered.add(code)

    sys.argv[1:] = arguments
    sys.setprofile(note)
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    return entered


def _is_ours(filename: str) -> bool:
    path = str(Path(filename).resolve()) if filename.endswith(".py") else ""
    return "/kernels/" in path or path.startswith(ROOTS)


def counts(entered: set[CodeType]) -> dict[str, int]:
    """Figures of the way."""
    lines = sum(len({line for _, _, line in code.co_lines() if line}) for code in entered)
    return {
        "files": len({code.co_filename for code in entered}),
        "functions": len(entered),
        "names": len({name for code in entered for name in code.co_varnames}),
        "lines": lines,
    }


if __name__ == "__main__":
    print(json.dumps(counts(walk(sys.argv[1:]))))
