#!/usr/bin/env bash
# panoptica, asked for the distance of outlines with a spacing: the figure of each instance is in millimetres, the global
# one beside it, of the same outlines, in voxels.
#
# A block that is shifted by two voxels of 3 mm is 6 mm away by `sq_hd95` and 2 by `global_bin_hd95`, whatever the spacing.
# Ends with 0 if it is so, with 1 if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check panoptica==2.1.7 numpy==2.2.6 2>pip.log || {
    cat pip.log >&2
    exit 2
}
environment/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from panoptica import ConnectedComponentsInstanceApproximator, InputType, NaiveThresholdMatching, Panoptica_Evaluator
from panoptica.metrics import Metric

reference = np.zeros((3, 30, 30), np.uint8)
reference[:, 10:20, 10:20] = 1
forecast = np.roll(reference, 2, axis=2)


def distances(spacing):
    """(of the one instance, global)"""
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(),
        instance_metrics=[Metric.DSC, Metric.HD95],
        global_metrics=[Metric.DSC, Metric.HD95],
    )
    told = evaluator.evaluate(forecast, reference, voxelspacing=spacing)["ungrouped"].to_dict()
    return float(told["sq_hd95"]), float(told["global_bin_hd95"])


expected = {(5.0, 1.0, 3.0): (6.0, 2.0), (5.0, 1.0, 1.0): (2.0, 2.0)}
found = {spacing: distances(spacing) for spacing in expected}
print(f"panoptica {version('panoptica')}")
for spacing, (instance, whole) in found.items():
    print(f"spacing {spacing} mm, shift of 2 voxels along the last axis: sq_hd95 {instance:g}, global_bin_hd95 {whole:g}")
sys.exit(0 if found == expected else f"changed: expected {expected}")
PYTHON
