"""What forecasts are worth: metrics, baselines without the method, and their comparison over patients."""
