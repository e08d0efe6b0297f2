"""Where training runs: the CPU, or a CUDA device."""

from enum import StrEnum

import torch

from tumorcast.errors import EngineError


class Device(StrEnum):
    """What the user asks for; auto is cuda where torch sees one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def open_device(wanted: Device, index: int = 0) -> torch.device:
    """The device, made ready; `index` counts a node's CUDA devices. Raises EngineError if it is not there."""
    if wanted is Device.CPU or (wanted is Device.AUTO and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if index >= found:
        raise EngineError(
            f"--device {wanted}: torch {torch.__version__} sees {found} CUDA devices, and process {index} of this node "
            "needs one of its own; use --device cpu, start fewer processes, or install a torch with CUDA"
        )
    torch.cuda.set_device(index)
    torch.set_float32_matmul_precision("high")  # TF32: training is no place where float32's last bits count
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    return torch.device("cuda", index)


def device_name(device: torch.device, processes: int = 1) -> str:
    """What trains, for the record: `cpu`, `cuda (NVIDIA H100)`, or `2 x cpu` for two processes."""
    name = device.type if device.type == "cpu" else f"{device.type} ({torch.cuda.get_device_name(device)})"
    return name if processes == 1 else f"{processes} x {name}"
