"""Keys of random numbers: everything random belongs to a patient, whatever else is in the cohort."""

import hashlib


def patient_key(patient_id: str) -> int:
    """A 64-bit number that stands for the patient, the same in every process and on every machine.

    >>> patient_key("PID1")
    18239118225740739617
    """
    return int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:8], "big")
