#!/usr/bin/env bash
# One NIfTI file, two affines: nibabel and ITK place it differently, and which one ITK takes depends on a tenth of a
# millimetre in a metre.
#
# nibabel takes the sform wherever its code is set. ITK takes it only if sform_code is 1 (scanner) or qform_code is 0: an
# image whose sform leads to an atlas (code 2 to 4) and whose qform still says where the scanner had it (code 1) lies in
# two places. And of a sform with code 1 it wants axes at right angles to about 1e-4; one that is off by 2e-4, as a
# rigid registration in single precision leaves it, is replaced by the qform, and nothing is said.
# Ends with 0 if it is so, with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.2.6 2>pip.log || {
    cat pip.log >&2
    exit 2
}
environment/bin/python - <<'PYTHON'
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk

SHIFT_MM = 5.0  # between the two affines, along x


def places(shear, qform_code, sform_code):
    """Where nibabel and ITK put the first voxel, RAS x in mm."""
    sform = np.array([[1, shear, 0, -10], [0, 1, 0, -20], [0, 0, 2, -30], [0, 0, 0, 1]], float)
    qform = np.array([[1, 0, 0, -10 + SHIFT_MM], [0, 1, 0, -20], [0, 0, 2, -30], [0, 0, 0, 1]], float)
    image = nib.Nifti1Image(np.zeros((8, 9, 10), np.int16), sform)
    image.set_sform(sform, sform_code)
    image.set_qform(qform, qform_code)
    nib.save(image, "image.nii.gz")
    return float(nib.load("image.nii.gz").affine[0, 3]), -sitk.ReadImage("image.nii.gz").GetOrigin()[0]


expected = {(0, 1, 1): 0, (0, 1, 2): SHIFT_MM, (0, 1, 4): SHIFT_MM, (0, 0, 2): 0, (1e-4, 1, 1): 0, (2e-4, 1, 1): SHIFT_MM}
print(f"nibabel {nib.__version__}, SimpleITK {sitk.Version.VersionString()}")
print("shear   qform_code sform_code   x of the first voxel, mm: nibabel, ITK")
same = True
for (shear, q, s), apart in expected.items():
    nibabel_x, itk_x = places(shear, q, s)
    print(f"{shear:6g}  {q:10} {s:10}   {nibabel_x:g}, {itk_x:g}")
    same &= abs(itk_x - nibabel_x - apart) < 1e-3
sys.exit(0 if same else "changed: expected apart by " + ", ".join(f"{mm:g}" for mm in expected.values()))
PYTHON
