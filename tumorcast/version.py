"""The version of tumorcast: the one place that states it."""

VERSION = "0.1.0"
