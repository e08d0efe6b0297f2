#!/usr/bin/env bash
# SSIM of the same two images with the same window: torchmetrics is higher than scikit-image and MONAI.
#
# scikit-image and MONAI average only places whose whole window lies in the image. torchmetrics pads the images by
# reflection and averages every place, windows of mirrored pixels too: of images that agree near their rim, as registered
# heads do, the score rises, the more the smaller the image is.
# Ends with 0 if it is so, with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 monai==1.6.1 scikit-image==0.26.0 numpy==2.2.6 2>pip.log || {
    cat pip.log >&2
    exit 2
}
environment/bin/python - <<'PYTHON'
import sys
import warnings

warnings.simplefilter("ignore")
import monai  # noqa: E402
import numpy as np  # noqa: E402
import skimage  # noqa: E402
import torch  # noqa: E402
import torchmetrics  # noqa: E402
from monai.metrics import SSIMMetric  # noqa: E402
from skimage.metrics import structural_similarity  # noqa: E402
from torchmetrics.functional.image import structural_similarity_index_measure  # noqa: E402

SIGMA, WINDOW, RANGE = 1.5, 11, 2.0
rows, columns = np.mgrid[:64, :64]
reference = (np.sin(rows / 6) + np.cos(columns / 5)) / 2
image = reference.copy()
image[16:48, 16:48] += np.random.default_rng(0).normal(0, 0.15, (32, 32))
one, other = (torch.tensor(values)[None, None] for values in (image, reference))

found = {
    f"scikit-image {skimage.__version__}": structural_similarity(
        image, reference, data_range=RANGE, gaussian_weights=True, sigma=SIGMA, use_sample_covariance=False
    ),
    f"MONAI {monai.__version__}": SSIMMetric(2, RANGE, "gaussian", WINDOW, SIGMA)(one.float(), other.float()).item(),
    f"torchmetrics {torchmetrics.__version__}": structural_similarity_index_measure(
        one, other, data_range=RANGE, gaussian_kernel=True, sigma=SIGMA, kernel_size=WINDOW
    ).item(),
}
for name, value in found.items():
    print(f"{name}: {value:.4f}")
expected = (0.8524, 0.8524, 0.8949)
same = np.allclose(list(found.values()), expected, atol=2e-4)
sys.exit(0 if same else f"changed: expected {expected}")
PYTHON
