"""Old names, until no experiment uses them."""

from typing import Any

from tumorcast.evaluation.score import by_metric, score_images, score_maps


def method_figures(pair: Any, maps: Any, pixels: int) -> dict[str, Any]:
    """See score.score_maps."""
    return {str(method): by_metric(score_maps(pair, maps.maps, pixels), method) for method in maps.maps}


def image_figures(pair: Any, forecast: Any, maps: Any) -> dict[str, Any]:
    """See score.score_images."""
    return {"forecast": by_metric(score_images(pair, {"forecast": forecast.mean}), "forecast")}
