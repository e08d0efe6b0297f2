#!/usr/bin/env bash
# A DICOM series whose slices have a RescaleSlope each (as PET and some MR scanners write): read as a series by SimpleITK
# it has the number type that its first slice asks for, and the others are squeezed into that.
#
# A first slope of 1 makes whole numbers: a stored 101 with slopes 1, .25, .5, 2.5 is read as 101, 25, 50, 252; with
# slopes 1, 1000 as 35464 (101000 modulo 65536), with 1, .001 as 0. The same slices with a fraction first are right.
# Ends with 0 if it is so, with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.2.6 2>pip.log || {
    cat pip.log >&2
    exit 2
}
environment/bin/python - <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

STORED = 101


def write_series(folder, slopes):
    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number, slope in enumerate(slopes):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.PatientName, image.PatientID, image.Modality = "Phantom", "phantom", "MR"
        image.SeriesNumber, image.InstanceNumber = 1, number + 1
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 3.0 * number], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [1, 1], 3
        image.Rows = image.Columns = 4
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = str(slope), "0", "US"
        image.PixelData = np.full((4, 4), STORED, np.uint16).tobytes()
        image.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def read_series(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())[:, 0, 0].tolist()


def read_slices(folder):
    slices = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda one: one.InstanceNumber)
    return [float(apply_rescale(one.pixel_array, one)[0, 0]) for one in slices]


expected = {
    (1, 0.25, 0.5, 2.5): [101, 25, 50, 252],
    (1, 1000): [101, 35464],
    (1, 0.001): [101, 0],
    (0.25, 1, 2.5): [25.25, 101, 252.5],
}
print(f"SimpleITK {sitk.Version.VersionString()}, pydicom {pydicom.__version__}; stored {STORED} in every slice")
same = True
for number, (slopes, told) in enumerate(expected.items()):
    folder = Path(f"series{number}")
    write_series(folder, slopes)
    found = read_series(folder)
    print(f"slopes {slopes}: SimpleITK {found}, slice by slice {read_slices(folder)}")
    same &= found == told
sys.exit(0 if same else f"changed: expected {list(expected.values())}")
PYTHON
