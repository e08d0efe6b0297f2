"""From scans on disk to a cohort file: layouts find, volumes read, session slices, prepare runs, cohort stores."""
