"""What growth model is made of what was asked for."""

import json
from pathlib import Path

import pytest

from tumorcast.errors import InputError, UsageError
from tumorcast.growth.model import GrowthModelSpec
from tumorcast.growth.prior import shipped_prior
from tumorcast.growth.settings import FitMethod, FitSettings, SearchEffort
from tumorcast.records import Forecaster, LawName
from tumorcast.settings import Preset

ENHANCING = "enhancing_mm3"


@pytest.mark.parametrize(
    ("settings", "options", "forecaster", "has_prior"),
    [
        (FitSettings(), {}, Forecaster.COMBINED, True),
        (FitSettings(), {"prior": "none"}, Forecaster.MECHANISTIC, False),
        (FitSettings(), {"forecaster": Forecaster.PERSISTENCE}, Forecaster.PERSISTENCE, True),
        (FitSettings.paper(), {}, Forecaster.MECHANISTIC, False),  # a fit that takes no prior forecasts by itself
        (FitSettings.paper(), {"forecaster": Forecaster.POOLED}, Forecaster.POOLED, True),
        (FitSettings(), {"prior": "leave-one-out"}, Forecaster.COMBINED, False),
    ],
)
def test_what_is_usual(
    settings: FitSettings, options: dict[str, object], forecaster: Forecaster, has_prior: bool
) -> None:
    spec = GrowthModelSpec.of(settings, ENHANCING, **options)  # type: ignore[arg-type]
    assert (spec.forecaster, spec.prior is not None) == (forecaster, has_prior)
    assert spec.leave_one_out == (options.get("prior") == "leave-one-out")


def test_the_companion_is_the_priors_unless_named() -> None:
    usual = shipped_prior().companion_of(ENHANCING)
    assert usual and GrowthModelSpec.of(FitSettings(), ENHANCING).companion == usual
    assert GrowthModelSpec.of(FitSettings(), ENHANCING, prior="leave-one-out").companion == usual
    assert GrowthModelSpec.of(FitSettings(), ENHANCING, prior="none").companion == ""
    assert GrowthModelSpec.of(FitSettings(), ENHANCING, companion="none").companion == ""
    assert GrowthModelSpec.of(FitSettings(), ENHANCING, companion="other_mm3").companion == "other_mm3"


def test_a_prior_of_a_file_must_know_the_law(tmp_path: Path) -> None:
    size = shipped_prior().for_size(ENHANCING)
    only = size.model_copy(
        update={
            "laws": {LawName.EXPONENTIAL: size.laws[LawName.EXPONENTIAL]},
            "mechanistic_weights": {LawName.EXPONENTIAL: 0.2},
        }
    )
    path = tmp_path / "prior.json"
    shipped_prior().model_copy(update={"sizes": {ENHANCING: only}, "default_size": ENHANCING}).write(path)
    spec = GrowthModelSpec.of(FitSettings(), ENHANCING, prior=str(path))
    assert spec.prior is not None and list(spec.prior.sizes) == [ENHANCING]
    with pytest.raises(InputError, match="gompertz"):
        GrowthModelSpec.of(FitSettings(law=LawName.GOMPERTZ), ENHANCING, prior=str(path))


def test_a_forecaster_without_its_prior_is_refused() -> None:
    with pytest.raises(UsageError, match="--forecaster persistence"):
        GrowthModelSpec.of(FitSettings(), ENHANCING, prior="none", forecaster=Forecaster.PERSISTENCE)


def test_options_overrule_a_preset() -> None:
    paper = FitSettings.of_preset(Preset.PAPER, {"replicates": 7}, "fit")
    assert paper == FitSettings.paper().model_copy(update={"replicates": 7})
    assert FitSettings.of_preset(Preset.DEFAULT, {"drop_ratio": 0}, "fit") == FitSettings(drop_ratio=None)
    assert FitSettings().searched(SearchEffort.THOROUGH) == FitSettings()
    assert FitSettings().searched(SearchEffort.QUICK) == FitSettings().quick
    with pytest.raises(UsageError, match="lmfit"):
        FitSettings(method=FitMethod.LMFIT).searched(SearchEffort.THOROUGH)


def test_a_prior_of_an_older_tumorcast_is_read_and_forecasts_as_it_did(tmp_path: Path) -> None:
    """Format 1 had no mixture."""
    record = json.loads(shipped_prior().to_json()) | {"format_version": 1}
    for size in record["sizes"].values():
        del size["state_space"]
    path = tmp_path / "prior.json"
    path.write_text(json.dumps(record))
    spec = GrowthModelSpec.of(FitSettings(), ENHANCING, prior=str(path))
    assert spec.forecaster is Forecaster.POOLED
    for forecaster in (Forecaster.COMBINED, Forecaster.STATE_SPACE):
        with pytest.raises(UsageError, match=r"older tumorcast .*make it again with `tumorcast fit-prior`"):
            GrowthModelSpec.of(FitSettings(), ENHANCING, prior=str(path), forecaster=forecaster)
