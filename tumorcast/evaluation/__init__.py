"""Metrics, baselines, scores and statistics of forecasts against the later scans."""
