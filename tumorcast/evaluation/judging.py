"""Old names, until no experiment uses them."""

from typing import Any

from tumorcast.evaluation.baselines import Method, MethodMap
from tumorcast.evaluation.followup import FollowUp
from tumorcast.evaluation.score import by_metric, members_of, outside_tumour, reconstruction, score_maps

Figures = dict[str, Any]


def map_figures(pair: FollowUp, answer: MethodMap, away_mm: Any) -> Figures:
    """Of a map at the true area."""
    return by_metric(score_maps(pair, {Method.PRODUCT: answer}, int((pair.later.labels > 0).sum())), "product")


def unguided_image_figures(pair: FollowUp, members: Any) -> Figures:
    """See score.reconstruction."""
    return dict(zip(("ssim_unguided", "psnr_unguided_db"), reconstruction(pair, members), strict=True))


__all__ = ["Figures", "map_figures", "members_of", "outside_tumour", "unguided_image_figures"]
