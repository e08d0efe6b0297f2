"""What others write: layouts of data sets, BIDS, DICOM, NIfTI, clinical tables; nothing is assumed in silence."""
