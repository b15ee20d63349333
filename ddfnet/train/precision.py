"""Mixed precision by name: "none", "bf16" or "fp16"."""

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> torch.autocast:
    return torch.autocast(device.type, DTYPES.get(amp, torch.bfloat16), enabled=amp != "none")


def grad_scaler(device: torch.device, amp: str) -> torch.amp.GradScaler:
    """Scales the loss where gradients could underflow, in fp16; else it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=amp == "fp16")
