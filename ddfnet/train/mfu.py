"""Model FLOP utilisation: the part of what the device could compute at most that the network itself needs.

PaLM (arXiv 2204.02311, appendix B): floating-point operations of the network's formula per second over the device's
peak; what is computed anew for activation checkpointing does not count. Convolutional networks wait for memory, not for
arithmetic: a few tens of per cent are good.
"""

import re

import torch

from ..task import Task
from .dist import World

# Dense figures of the makers' data sheets and white papers in TFLOP/s, 16 bit with sums in float32 and TF32. Half of
# what they print in large, which is "with sparsity". Only devices whose figures were looked up.
# The words of a key are words of the device's name; the key with the most words counts.
AMPERE_AND_LATER = {
    "A10G": (70, 35),
    "A100": (312, 156),
    "L4": (121, 60.5),
    "L40": (181, 90.5),
    "L40S": (362, 183),
    "H100": (989.4, 494.7),  # SXM
    "H100 PCIE": (756, 378),
    "H100 NVL": (835.5, 417.5),
    "H200": (989.4, 494.7),
    "B200": (2250, 1125),
}
BEFORE = {  # float16 and float32: no tensor cores for bfloat16 and TF32
    "V100 SXM2": (125, 15.7),
    "V100 SXM3": (125, 15.7),
    "V100 PCIE": (112, 14),
    "T4": (65, 8.1),
}
# Of a name, beside a key, they tell of a part or a relative of that device, with other figures.
OTHERS = {"MIG", "GRID", "NVL", "Z"}


def peak_flops(device: torch.device, amp: str) -> float | None:
    """FLOP/s of the device at most; None where it is not known.

    Args:
        amp: "none", "bf16" or "fp16". "none" means TF32 where there is any: torch lets convolutions use it.
    """
    return peak_flops_by_name(torch.cuda.get_device_name(device), amp) if device.type == "cuda" else None


def peak_flops_by_name(name: str, amp: str) -> float | None:
    """As `peak_flops`, by the name that the driver gives the device, such as "NVIDIA A100-SXM4-80GB"."""
    words = set(re.split(r"[\s\-/]+", name.upper()))
    fits = [key for key in AMPERE_AND_LATER | BEFORE if words >= set(key.split())]
    key = max(fits, key=lambda key: len(key.split()), default="")
    if not key or words & OTHERS - set(key.split()) or (key in BEFORE and amp == "bf16"):
        return None
    half, single = (AMPERE_AND_LATER | BEFORE)[key]
    return (single if amp == "none" else half) * 1e12


def mfu(images_per_second: float, macs_per_image: float, peak: float) -> float:
    """Share of `peak` FLOP/s, 0..1, in training.

    Args:
        images_per_second: of all devices together where `peak` is theirs.
        macs_per_image: multiply-accumulates of the forward pass, two operations each; the backward pass, towards the
            inputs and towards the weights, has twice as many.
    """
    return 3 * 2 * macs_per_image * images_per_second / peak


class DeviceUse:
    """What a GPU was used for since the last `values`, for the log; nothing on a CPU.

    Args:
        amp: the precision, see `peak_flops`.
        task: whose `macs_per_image` are those of the forward pass; None where they are not known.
    """

    def __init__(self, world: World, amp: str, task: Task):
        peak = peak_flops(world.device, amp)
        self.device = world.device
        self.peak = None if peak is None else peak * world.size
        self.macs_per_image = None if peak is None else task.macs_per_image  # seconds to count

    def values(self, images_per_second: float) -> dict[str, float]:
        """memory, the peak of what was allocated on this device, in bytes, and mfu (0..1) of all devices."""
        values: dict[str, float] = {}
        if self.device.type == "cuda":
            values["memory"] = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        if self.peak is not None and self.macs_per_image is not None:
            values["mfu"] = mfu(images_per_second, self.macs_per_image, self.peak)
        return values
