"""Everything tumorcast raises on purpose, and the exit code each one ends a command with.

TumorcastError
├── UsageError          2   wrong usage or configuration
├── InputError          3   a file or a value that cannot be used
│   └── StorageError    3   a place that cannot be written to, or is full
├── EngineError         4   an engine, a device or a package that is not available
└── StoppedError       75   stopped before the end; starting again resumes

Exit code 1 is not an error: it says that some patients of a cohort failed and the others are done. Exit code 70 is a
fault of tumorcast itself.
A message names the file, the value, the limit and the remedy.
"""


class TumorcastError(Exception):
    """The root of the tree; never raised itself."""

    exit_code = 2


class UsageError(TumorcastError):
    """The command or its configuration is wrong."""

    exit_code = 2


class InputError(TumorcastError):
    """A file or a value cannot be used."""

    exit_code = 3


class StorageError(InputError):
    """A place cannot be written to, or is full. A run over a cohort ends with it: the next patient would fail alike."""


class EngineError(TumorcastError):
    """An engine, a device or an optional package is not available."""

    exit_code = 4


class StoppedError(TumorcastError):
    """The work was stopped before its end and can be resumed."""

    exit_code = 75
