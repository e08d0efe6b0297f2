"""How growth is fitted: what a user can set."""

from enum import StrEnum
from typing import Self

from pydantic import Field

from tumorcast.errors import UsageError
from tumorcast.growth.bootstrap import Bootstrap, Noise, Resampling
from tumorcast.growth.laws import BoundsPreset
from tumorcast.growth.problem import Search
from tumorcast.records import LawName
from tumorcast.settings import Preset, Settings

PILOT_FINALISTS, PILOT_STEPS = 12, 100
PROMISE = 4.0  # of a replicate's scout: the loss over the best one, above which it is not followed


class FitMethod(StrEnum):
    """What fits: tumorcast's own kernels, or lmfit as the reference that users know."""

    NATIVE = "native"
    LMFIT = "lmfit"


class SearchEffort(StrEnum):
    """How thoroughly replicates are searched: as the settings have it, or as for a million of them."""

    THOROUGH = "thorough"
    QUICK = "quick"


class FitSettings(Settings):
    """How growth is fitted.

    noise, spread: how measured sizes err (bootstrap.Noise). replicates: of the bootstrap.
    pilots: replicates searched thoroughly, whose fits the others start from; starts: of such a search.
    scouting_replicates: fitted in advance as all others are, which then start from their fits too.
    scouts: those of a replicate's starts that a few steps are taken from; finalists: of these followed to the end;
    max_steps: of one descent. See `quick` and `eased`.
    drop_ratio: a fall to less than this share of the last size is taken for a resection; None never.
    chemotherapy: fit a rate that chemotherapy takes off growth on its days.
    """

    law: LawName = LawName.EXPONENTIAL
    method: FitMethod = FitMethod.NATIVE
    bounds: BoundsPreset = BoundsPreset.DEFAULT
    noise: Noise = Noise.LOGNORMAL
    spread: float = Field(0.1, ge=0, le=1)
    bootstrap: Bootstrap = Bootstrap.MEASUREMENT
    replicates: int = Field(100, ge=1)
    starts: int = Field(64, ge=1)
    scouts: int = Field(24, ge=1)
    finalists: int = Field(6, ge=1)
    max_steps: int = Field(60, ge=1)
    pilots: int = Field(128, ge=1)
    scouting_replicates: int = Field(0, ge=0)
    drop_ratio: float | None = Field(0.2, gt=0, lt=1)
    chemotherapy: bool = False
    seed: int = Field(0, ge=0)

    @classmethod
    def paper(cls) -> Self:
        """The fit of arXiv 2509.09610: one start, its bounds, fourth powers, and noise that only shrinks."""
        return cls(method=FitMethod.LMFIT, bounds=BoundsPreset.PAPER, noise=Noise.PAPER, starts=1, drop_ratio=None)

    @classmethod
    def of_preset(cls, preset: Preset, values: dict[str, object], origin: str) -> Self:
        """The preset's settings, overruled by `values`, of which a drop_ratio of 0 stands for never.

        Raises UsageError, naming `origin`, for values that are not allowed.
        """
        base = cls.paper().model_dump() if preset is Preset.PAPER else {}
        never = {"drop_ratio": None} if values.get("drop_ratio") == 0 else {}
        return cls.of(base | values | never, origin)

    def searched(self, effort: SearchEffort) -> Self:
        """The same with that effort. Raises UsageError for lmfit, which has one start."""
        if self.method is FitMethod.LMFIT:
            raise UsageError("--search is of --method native: lmfit has one start; leave one of them out")
        return self.quick if effort is SearchEffort.QUICK else self

    @property
    def takes_prior(self) -> bool:
        """Whether the fit can be hierarchical: a prior tells of log sizes within the default bounds."""
        native = self.method is FitMethod.NATIVE and self.bootstrap is Bootstrap.MEASUREMENT
        return native and self.noise is Noise.LOGNORMAL and self.bounds is BoundsPreset.DEFAULT

    @property
    def resampling(self) -> Resampling:
        """How replicates are drawn."""
        return Resampling(self.bootstrap, self.noise, self.spread)

    @property
    def eased(self) -> Self:
        """The same with less of a search, where a prior leaves few local minima."""
        least = {"pilots": 16, "scouting_replicates": 0, "starts": 16, "scouts": 6, "finalists": 2}
        return self.model_copy(update={name: min(getattr(self, name), value) for name, value in least.items()})

    @property
    def quick(self) -> Self:
        """The same with the least search for many replicates: some six times the fits of the thorough one."""
        least = {"pilots": 64, "scouting_replicates": 512, "scouts": 2, "finalists": 1, "max_steps": 30}
        return self.model_copy(update=least)

    @property
    def replicate_search(self) -> Search:
        """How a replicate is searched from the catalogue."""
        return Search(0, self.scouts, self.finalists, self.max_steps, PROMISE)

    def pilot_search(self, effort: int = 1) -> Search:
        """How a pilot replicate is searched."""
        return Search(self.starts * effort, self.starts * effort, PILOT_FINALISTS * effort, PILOT_STEPS)
