"""What is said where an archive is wanted and only the shards of a run stand."""

from pathlib import Path

import pytest

from tumorcast.archive.maps import MapArchive
from tumorcast.archive.unmerged import how_to_get_archive
from tumorcast.archive.verify import refuse_broken
from tumorcast.errors import InputError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The archive that is to be, of a run that has written its plan."""
    (tmp_path / "maps.h5.parts").mkdir()
    (tmp_path / "maps.h5.parts" / "run.json").write_text("{}", encoding="utf-8")
    return tmp_path / "maps.h5"


def test_a_run_that_was_not_merged_is_told_with_the_command(run: Path) -> None:
    told = rf"its run was not merged: `tumorcast archive merge {run}` writes it"
    for path in (run, run.with_name("maps.h5.parts")):
        with pytest.raises(InputError, match=told), MapArchive.open(path):
            pass
        with pytest.raises(InputError, match=told):
            refuse_broken(path)


def test_shards_beside_their_archive_lead_to_it(run: Path) -> None:
    run.write_bytes(b"")
    assert how_to_get_archive(run.with_name("maps.h5.parts")) == f"these are shards of {run}: give that"
    for other in (run.with_name("other.h5"), Path(), Path("/")):
        assert how_to_get_archive(other) == "give a maps.h5 of `tumorcast forecast`"
