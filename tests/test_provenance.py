"""What a result was made of: the same is known again, another one is never overwritten."""

import json
from pathlib import Path
from typing import Any

import pytest

from tumorcast.errors import InputError, UsageError
from tumorcast.provenance import is_made_already

MADE_OF = {"settings": {"seed": 1}, "source_sha256": "f00"}


def record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except ValueError:
        raise InputError(f"{path}: no record") from None


def test_a_result_is_new_the_same_or_refused_by_name(tmp_path: Path) -> None:
    place = tmp_path / "growth.h5"
    assert not is_made_already(place, record, MADE_OF)
    place.write_text(json.dumps(MADE_OF | {"commit": "abc"}))
    assert is_made_already(place, record, MADE_OF)
    with pytest.raises(UsageError, match=r"growth.h5: settings.seed = 1 .*2.*--out"):
        is_made_already(place, record, MADE_OF | {"settings": {"seed": 2}})


def test_a_file_of_another_kind_is_not_overwritten(tmp_path: Path) -> None:
    place = tmp_path / "thesis.txt"
    place.write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis.txt: no record; "):
        is_made_already(place, record, MADE_OF)
