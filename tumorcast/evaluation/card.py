"""Old names, until no experiment uses them."""

from tumorcast.evaluation.tables import markdown_table

__all__ = ["markdown_table"]
