"""What is said of a setting that is not allowed: its name, its value, what it may be; never pydantic's own words."""

from pathlib import Path

import pytest

from tumorcast.errors import UsageError
from tumorcast.settings import Architecture, ForecastSettings, Settings, TrainSettings, read_toml


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (ForecastSettings, {"relative_change": 25.0}, "relative_change = 25.0: .* at most 20; 25 % more area is 0.25"),
        (ForecastSettings, {"relative_change": "lots"}, "relative_change = 'lots': give a number above -1 and at most"),
        (ForecastSettings, {"relative_change": float("nan")}, "relative_change = nan: give a number"),
        (ForecastSettings, {"members": 2.5}, "members = 2.5: give a whole number of 1 or more and at most 10000"),
        (ForecastSettings, {"keep_members": "maybe"}, "keep_members = 'maybe': give true or false"),
        (ForecastSettings, {"sampler": 3}, "sampler = 3: give a table of .*noise_level"),
        (
            ForecastSettings,
            {"sampler": {"order": 3}},
            "sampler.order = 3: give a whole number of 1 or more and at most 2",
        ),
        (
            ForecastSettings,
            {"sampler": {"guidance": "strong"}},
            "sampler.guidance = 'strong': give normalised or paper",
        ),
        (
            ForecastSettings,
            {"sampler": {"gains": 3}},
            "unknown key 'sampler.gains'; known keys: decoding, encodings, gain",
        ),
        (TrainSettings, {"leave_out": "A"}, "leave_out = 'A': give a list of texts"),
        (TrainSettings, {"ema_decay": 1}, "ema_decay = 1: give a number of 0 or more and below 1"),
        (TrainSettings, {"steps": None}, "steps = None: give a whole number of 1 or more"),
        (Architecture, {"channels": 33}, "channels = 33: give a whole number of 32 or more and divisible by 32"),
        (Architecture, {"channel_mult": [1, "x"]}, "channel_mult.1 = 'x': give a list of whole numbers"),
    ],
)
def test_a_setting_that_is_not_allowed(settings: type[Settings], values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=f"^my.toml: {message}") as told:
        settings.of({"relative_change": 0.2} | values if settings is ForecastSettings else values, "my.toml")
    assert "nput should" not in str(told.value)


def test_a_setting_that_is_missing_is_named() -> None:
    class Needed(Settings):
        days: float

    with pytest.raises(UsageError, match=r"^here: days "):
        Needed.of({}, "here")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"\xff", "UTF-8"), (b"a = .2", "not valid TOML")]
)
def test_what_is_no_toml_file(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"settings.toml: .*{message}"):
        read_toml(path)
