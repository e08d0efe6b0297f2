"""The mechanistic half: growth laws, their fit to one patient's sizes, and the forecast that follows from it."""
