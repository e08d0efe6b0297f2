"""DICOM series written by pydicom, which is not what reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid

UPRIGHT = np.eye(3)


def dicom_file(plane: np.ndarray[Any, Any], **tags: Any) -> Dataset:
    """An MR image of 16 bits with the tags that every series has."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MRImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.Modality, image.FrameOfReferenceUID, image.SeriesNumber = "MR", "1.2.3", 1
    image.Rows, image.Columns = plane.shape
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = plane.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(image, name, value)
    return image


def write_series(
    folder: Path, voxels: np.ndarray[Any, Any], description: str = "T1 post", *, thickness: float = 1.0, **tags: Any
) -> Path:
    """A series of `voxels` (Z, Y, X) in LPS, files named against the order of slices; `tags` win.

    skip: indices of slices that are not written; direction: (3, 3) columns of x, y and z; syntax: the transfer syntax.
    """
    skip, direction = tags.pop("skip", ()), tags.pop("direction", UPRIGHT)
    syntax = tags.pop("syntax", ExplicitVRLittleEndian)
    folder.mkdir(parents=True, exist_ok=True)
    common = {
        "SeriesInstanceUID": generate_uid(),
        "StudyInstanceUID": "1.2.4",
        "SeriesDescription": description,
        "StudyDate": "20200131",
        "PixelSpacing": [1, 1],
        "SliceThickness": thickness,
        "ImageOrientationPatient": [*direction[:, 0], *direction[:, 1]],
    } | tags
    for number, plane in enumerate(voxels):
        place = {"ImagePositionPatient": list(number * thickness * direction[:, 2]), "InstanceNumber": number + 1}
        if number not in skip:
            image = dicom_file(plane, **common | place)
            if syntax == RLELossless:
                image.compress(RLELossless)
            image.file_meta.TransferSyntaxUID = syntax
            image.save_as(folder / f"{tags.get('SeriesNumber', 1)}-{999 - number}", enforce_file_format=True)
    return folder


@pytest.fixture(scope="session")
def dicom_series() -> Callable[..., Path]:
    return write_series
