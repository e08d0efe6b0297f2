"""Questions asked of a whole cohort: a module a question."""
