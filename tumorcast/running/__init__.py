"""Runs over a cohort: MPI ranks, work queue, resume, merging."""
