"""The parts of the simulated cohort: fields, anatomy, tumour, rendering."""
