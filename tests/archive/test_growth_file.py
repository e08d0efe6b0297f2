"""growth.h5: what is written comes back, one patient at a time."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.fakes import write_growth
from tumorcast.archive.growth_file import growth_writer, merge_growth, read_growth
from tumorcast.errors import InputError, StorageError
from tumorcast.records import (
    ChemotherapyCourse,
    ErrorModel,
    FitStatus,
    GrowthFit,
    LawName,
    RadiotherapyCourse,
    SizeSeries,
    Treatment,
)

TREATED = Treatment(
    radiotherapy=(RadiotherapyCourse(10.0, 52.0, 60.0, 30), RadiotherapyCourse(300.0, 320.0)),
    chemotherapy=(ChemotherapyCourse(60.0, 200.0), ChemotherapyCourse(210.0, np.inf)),
    resection_days=(5.0, 95.5),
)
UNTREATED = Treatment()


def growth_fit(patient_id: str, replicates: int = 5, treatment: Treatment = UNTREATED) -> GrowthFit:
    rng = np.random.default_rng(replicates)
    names = ("rate_per_day", "survival", "initial_size")
    return GrowthFit(
        series=SizeSeries(patient_id, "area_mm2", np.array([0.0, 50.0, 100.0]), np.array([9.0, 0, 12.5]), treatment),
        law=LawName.GOMPERTZ,
        parameter_names=names,
        parameters=rng.random(3),
        replicates=rng.random((replicates, 3)),
        replicate_status=rng.integers(0, len(FitStatus), replicates).astype(np.uint8),
        loss=0.1 + 0.2,
        loss_name="log_squares",
        status=FitStatus.AT_BOUND,
        origin_day=-7.5,
        deviations=rng.standard_normal(replicates),
    )


def full_fit() -> GrowthFit:
    notes = ("day 95: a drop taken for a resection", "zweite Notiz: ½")
    return dataclasses.replace(
        growth_fit("P2", treatment=TREATED),
        doses=False,
        errors=ErrorModel(measurement_sd=0.1, departure_sd=0.5, departure_days=np.inf),
        notes=notes,
        intervals={"survival": (0.1, np.nan), "rate_per_day": (-1, 1)},
        inferred_resections=(95.0,),
    )


def assert_same(found: GrowthFit, written: GrowthFit) -> None:
    for field in dataclasses.fields(GrowthFit):
        if field.name != "series":
            np.testing.assert_equal(getattr(found, field.name), getattr(written, field.name))
    for field in dataclasses.fields(SizeSeries):
        np.testing.assert_equal(getattr(found.series, field.name), getattr(written.series, field.name))
    assert found.series.treatment == written.series.treatment
    assert found.replicate_status.dtype == np.uint8
    assert isinstance(found.law, LawName)


@pytest.mark.parametrize("fit", [growth_fit("P1"), full_fit(), growth_fit("P3", 0), growth_fit("P4", 100_000)])
def test_what_is_written_comes_back(fit: GrowthFit, tmp_path: Path) -> None:
    write_growth(tmp_path / "growth.h5", [fit], {})
    assert_same(read_growth(tmp_path / "growth.h5")[fit.series.patient_id], fit)


def test_no_field_of_the_record_is_forgotten() -> None:
    """A field that was left at its default would come back right though it was never written."""
    for field in dataclasses.fields(GrowthFit):
        assert getattr(full_fit(), field.name) is not field.default
    assert full_fit().intervals


def test_the_file_is_a_mapping_in_the_order_of_the_cohort(tmp_path: Path) -> None:
    fits = [growth_fit("P2"), full_fit()]
    fits[1] = dataclasses.replace(fits[1], series=dataclasses.replace(fits[1].series, patient_id="P10"))
    write_growth(tmp_path / "growth.h5", fits, {"seed": 0}, forecaster="pooled", prior='{"a": 1}')
    file = read_growth(tmp_path / "growth.h5")
    assert (list(file), len(file), "P2" in file, "P3" in file, 3 in file) == (["P2", "P10"], 2, True, False, False)
    assert (file.provenance, file.forecaster, file.prior) == ({"seed": 0}, "pooled", '{"a": 1}')
    assert file.statuses() == {"P2": FitStatus.AT_BOUND, "P10": FitStatus.AT_BOUND}
    assert [fit.series.patient_id for fit in file.values()] == ["P2", "P10"]
    with pytest.raises(KeyError, match="P3"):
        file["P3"]


def test_a_prior_may_be_long_and_is_none_where_none_was_used(tmp_path: Path) -> None:
    write_growth(tmp_path / "with.h5", [], {}, prior="x" * 200_000)
    write_growth(tmp_path / "without.h5", [], {})
    assert read_growth(tmp_path / "with.h5").prior == "x" * 200_000
    assert read_growth(tmp_path / "without.h5").prior is None
    assert dict(read_growth(tmp_path / "without.h5")) == {}


def test_the_status_of_a_replicate_is_named_in_the_file(tmp_path: Path) -> None:
    write_growth(tmp_path / "growth.h5", [growth_fit("P1", 100_000)], {})
    with h5py.File(tmp_path / "growth.h5") as file:
        group = file["patients/P1"]
        assert h5py.check_enum_dtype(group["replicate_status"].dtype) == {
            "converged": 0,
            "at_bound": 1,
            "not_converged": 2,
            "too_few_points": 3,
        }
        assert group["replicates"].compression == "gzip"
        assert np.prod(group["replicates"].chunks) * 8 <= 2**20


def test_a_generator_is_written_one_patient_at_a_time(tmp_path: Path) -> None:
    alive: set[str] = set()

    class Watched(GrowthFit):
        def __del__(self) -> None:
            alive.discard(self.series.patient_id)

    def fits() -> Iterator[GrowthFit]:
        for k in range(3):
            assert not alive
            alive.add(f"P{k}")
            yield Watched(**vars(growth_fit(f"P{k}")))

    write_growth(tmp_path / "growth.h5", fits(), {})
    assert len(read_growth(tmp_path / "growth.h5")) == 3


def test_shards_are_merged_in_the_order_given(tmp_path: Path) -> None:
    one, other = growth_fit("P1", 100_000), full_fit()
    write_growth(tmp_path / "a.h5", [other], {})
    write_growth(tmp_path / "b.h5", [one], {})
    shards = [("P2", tmp_path / "a.h5"), ("P1", tmp_path / "b.h5")]
    merge_growth(tmp_path / "growth.h5", shards, {"seed": 1}, forecaster="persistence", prior="{}")
    file = read_growth(tmp_path / "growth.h5")
    assert (list(file), file.forecaster, file.prior) == (["P2", "P1"], "persistence", "{}")
    assert_same(file["P1"], one)
    assert_same(file["P2"], other)


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`tumorcast fit`"):
        read_growth(tmp_path / "none.h5")
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file.attrs.update({"format": "tumorcast-maps", "format_version": 2})
    with pytest.raises(InputError, match=r"tumorcast-maps, .*tumorcast-growth;"):
        read_growth(tmp_path / "maps.h5")


def test_an_older_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "growth.h5", "w") as file:
        file.attrs.update({"format": "tumorcast-growth", "format_version": 1})
    with pytest.raises(InputError, match=r"format_version 1,.* 2;"):
        read_growth(tmp_path / "growth.h5")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "growth.h5"
    write_growth(path, [growth_fit("P1", 200_000)], {})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"growth\.h5: .*no HDF5 file"):
        read_growth(path)["P1"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "growth.h5"
    write_growth(path, [growth_fit("P1")], {})
    with pytest.raises(ZeroDivisionError), growth_writer(path, {}) as add:
        add(growth_fit("P2"))
        raise ZeroDivisionError
    assert list(read_growth(path)) == ["P1"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["growth.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("room", [700, 5_000, 3_000_000])
def test_a_full_disk_is_a_storage_error_and_no_crash(room: int, tmp_path: Path) -> None:
    """In a process of its own: HDF5 ends its process when a write fails, if it is told of it."""
    script = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2]); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from test_growth_file import fill_the_disk; from pathlib import Path\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
        "fill_the_disk(Path(sys.argv[1]))"
    )
    result = subprocess.run(
        [sys.executable, "-B", "-c", script, str(tmp_path / "growth.h5"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "free some space\n")
    assert list(tmp_path.iterdir()) == []


def fill_the_disk(path: Path) -> None:
    try:
        write_growth(path, (growth_fit(f"P{k}", 100_000) for k in range(3)), {})
    except StorageError as fault:
        print("free some space" if "free some space" in str(fault) else fault)
