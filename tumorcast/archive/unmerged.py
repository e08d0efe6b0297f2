"""Where the shards of a run stand whose archive is not written yet, and what to do where an archive is wanted."""

from pathlib import Path

RUN_FILE = "run.json"  # in the folder of shards: what the run is made of


def parts_of(archive: Path) -> Path:
    """The folder where the shards of an unfinished run stand.

    >>> parts_of(Path("run/maps.h5")).as_posix()
    'run/maps.h5.parts'
    """
    return archive.with_name(archive.name + ".parts")


def archive_of(run: Path) -> Path:
    """The archive of a run that is named by it, or by the folder of its shards.

    >>> archive_of(Path("run/maps.h5.parts")).as_posix(), archive_of(Path("maps.h5")).as_posix()
    ('run/maps.h5', 'maps.h5')
    """
    return run.with_name(run.name.removesuffix(".parts"))


def how_to_get_archive(path: Path) -> str:
    """What to do where there is no archive at `path`: merge the run that stands there, or name another file."""
    archive = archive_of(path) if path.name else path  # a dot has no name
    if not path.name or not (parts_of(archive) / RUN_FILE).is_file():
        return "give a maps.h5 of `tumorcast forecast`"
    if archive != path and archive.is_file():
        return f"these are shards of {archive}: give that"
    return f"its run was not merged: `tumorcast archive merge {archive}` writes it"
