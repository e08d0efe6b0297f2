"""Forecasts of brain-tumour growth on MRI. For research, not a medical device."""
