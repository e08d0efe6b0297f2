"""From scans on disk to a cohort file: layouts find the files, volumes read them, prepare makes slices, cohort stores them."""
