"""Checks of the job scripts before they submit or do anything: whether model, cohort and options of prepare agree.

    python -m tumorcast.running.job_check COHORT MODEL … -- [OPTIONS of prepare …]

Ends with 0, or with a message and the exit code of tumorcast. Nothing is opened but the cohort, if it is there yet.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tumorcast.engines.locating import images_of, locate_all
from tumorcast.engines.protocol import ModelImages, check_same_images
from tumorcast.errors import TumorcastError, UsageError


def check(cohort: Path, models: Sequence[Path], prepare_options: Sequence[str]) -> None:
    """Raises InputError for no model or a cohort that is not for it, UsageError for options that would make such a one.

    prepare_options: the words that prepare gets beside the model.
    """
    wanted = images_of(*locate_all(models))
    _check_options(wanted, models[0], prepare_options)
    if cohort.exists():
        from tumorcast.data.cohort import Cohort  # noqa: PLC0415 - h5py is slow, and seldom needed here

        with Cohort.open(cohort) as opened:
            check_same_images(opened, wanted)


def _check_options(wanted: ModelImages, model: Path, words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--image-size")
    parser.add_argument("--contrasts")
    given, _ = parser.parse_known_args(words)
    contrasts = None if given.contrasts is None else {name.strip() for name in given.contrasts.split(",")}
    for option, value, fits in (
        ("--image-size", given.image_size, given.image_size == str(wanted.image_size)),
        ("--contrasts", given.contrasts, contrasts == set(wanted.contrasts)),
    ):
        if value is not None and not fits:
            raise UsageError(
                f"--prepare-options: {option} {value}, but the model {model} takes {wanted}; leave {option} out: "
                "prepare takes it from the model"
            )


def main(words: Sequence[str]) -> int:
    """The exit code; a message goes to stderr."""
    end = words.index("--")
    try:
        check(Path(words[0]), [Path(word) for word in words[1:end]], words[end + 1 :])
    except TumorcastError as fault:
        print(f"tumorcast: {fault}", file=sys.stderr)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
