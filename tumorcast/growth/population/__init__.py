"""Forecasts of size learned from other patients, and their pool."""
