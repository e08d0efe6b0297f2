"""The HTML report: a page a patient, and an index."""
