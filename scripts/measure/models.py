"""Images per second of the networks beside the ResNets they replace, on synthetic batches that lie on the device.

On a GPU channels_last and bf16 (autocast), eager and compiled; on a CPU float32, eager.
"""

import statistics
import time

import timm
import torch
from torch import nn

import ddfnet

from .timing import print_table, synchronize

PAIRS = [("resnet50", "ddf_resnet50"), ("resnet18", "ddf_resnet18"), ("resnet101", "ddf_resnet101")]


def images_per_second(name: str, device: torch.device, batch: int, train: bool, compiled: bool, steps: int) -> dict:
    """{"images_per_second", "peak_bytes"}: the median over single steps, the memory of all of it."""
    torch.manual_seed(0)
    on_gpu = device.type == "cuda"
    model = timm.create_model(name).to(device, memory_format=torch.channels_last).train(train)
    if not train:
        ddfnet.fuse_for_inference(model)  # of a ResNet: nothing
    if compiled:
        model.compile()
    x = torch.randn(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.randint(1000, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loss_of = nn.CrossEntropyLoss()

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu), torch.set_grad_enabled(train):
            y = model(x)
            loss = loss_of(y, target) if train else None
        if train:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    for _ in range(3 if on_gpu else 1):
        step()
    synchronize(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        synchronize(device)
        taken.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    return {"images_per_second": batch / statistics.median(taken), "peak_bytes": peak}


def measure(figures: dict, device: torch.device, batch: int, steps: int, deadline: float, pairs=PAIRS) -> None:
    """Fills figures["runs"]. Ends early, and says so, at the deadline (time.time())."""
    torch.backends.cudnn.benchmark = True
    results: list[dict] = figures.setdefault("runs", [])
    for compiled in (False, True) if device.type == "cuda" else (False,):
        for pair in pairs:
            rows = []
            for name in pair:
                for train in (True, False):
                    if time.time() > deadline:
                        print("out of time: the rest is left out")
                        return
                    mode = "train" if train else "infer"
                    entry: dict = {"model": name, "batch": batch, "mode": mode, "compiled": compiled}
                    try:
                        entry |= images_per_second(name, device, batch, train, compiled, steps)
                    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
                        entry["error"] = str(error).strip().split("\n")[0][:300]
                    torch._dynamo.reset()
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
                    results.append(entry)
                    speed, peak = entry.get("images_per_second"), entry.get("peak_bytes")
                    shown = (f"{speed:.0f}" if speed else "failed", f"{peak / 2**30:.2f}" if peak else "")
                    rows.append((name, mode, *shown))
            how = "compiled" if compiled else "eager"
            precision = "bf16" if device.type == "cuda" else "float32"
            print_table(f"{how}, channels_last, {precision}, batch {batch}", ("", "", "images/s", "peak GiB"), rows)
