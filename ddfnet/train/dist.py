"""The processes of a run: one, or as many as torchrun started."""

import os
import warnings
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ..counted import counted
from ..errors import UserError, first_line


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(device: str) -> World:
    """Join the others by torchrun's environment variables; without them, be alone.

    Args:
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "run.device = 'cuda', but torch finds no CUDA device here: use run.device=cpu or install a driver"
        )
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", 0))
        if local >= torch.cuda.device_count():
            gpus = counted(torch.cuda.device_count(), "GPU")
            raise UserError(f"process {local} of this node finds {gpus}: start one process a GPU")
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    world = World(rank, size, torch.device(device))
    if size > 1:
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        _join(backend, rank, size)
    return world


def _join(backend: str, rank: int, size: int) -> None:
    """As torch.distributed does by itself, but that a restart by torchrun, which may keep its store, finds it empty.

    Else the processes would look for those of the last time. Raises UserError where the others do not come.
    """
    timeout = timedelta(minutes=30)
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timeout))
        fresh = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, timeout=timeout, store=fresh, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"process {rank} of {size} cannot reach the others: {reason}") from None


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(value: float, device: torch.device) -> float:
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.item()


def same_on_all_ranks(value: Any) -> bool:
    if not dist.is_initialized():
        return True
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return all(other == value for other in values)


def counts_of_all_ranks(*counts: dict[str, int]) -> dict[str, int]:
    """The counts of all ranks, added up by name."""
    own = sum(map(Counter, counts), Counter())
    every: list[Any] = [own]
    if dist.is_initialized():
        every = [None] * dist.get_world_size()
        dist.all_gather_object(every, own)
    return dict(sum(every, Counter()))


def from_main(value: Any) -> Any:
    """The first process's value, on all."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def parallel(model: nn.Module, world: World) -> nn.Module:
    """The model with its gradients averaged over the ranks; buffers stay each rank's own, see average_batch_norm."""
    if world.size == 1:
        return model
    with warnings.catch_warnings():
        # since 2.13 torch prefers an argument that older ones do not know
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False)


def synchronised_batch_norm(model: nn.Module, world: World) -> nn.Module:
    """Batch norm over the batch of all ranks, for when each has few pictures. Needs GPUs: PyTorch has it there only."""
    if world.size == 1:
        return model
    if world.device.type == "cpu":
        raise UserError("train.sync_bn = True needs GPUs, these processes train on CPUs: leave it out")
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def average_batch_norm(*models: nn.Module) -> None:
    """The running statistics of all ranks become their mean, in one message."""
    buffers = _batch_norm(models)
    if not dist.is_initialized() or not buffers:
        return
    flat = torch.cat([b.flatten() for b in buffers])
    dist.all_reduce(flat)
    _put(buffers, flat / dist.get_world_size())


def batch_norm_of_ranks(*models: nn.Module) -> Tensor | None:
    """The running statistics of all ranks, a row each; None for a single process, whose models have them."""
    buffers = _batch_norm(models)
    if not dist.is_initialized() or not buffers:
        return None
    flat = torch.cat([b.flatten() for b in buffers])
    rows = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, flat)
    return torch.stack(rows).cpu()


def restore_batch_norm(world: World, rows: Tensor | None, *models: nn.Module) -> None:
    """Each rank's own again; their mean where there were other ranks than now."""
    if rows is None:
        return
    values = rows[world.rank] if len(rows) == world.size else rows.mean(0)
    for model in models:  # an average of the weights comes last: in the rows or not, wanted now or not
        buffers = _batch_norm((model,))
        size = sum(b.numel() for b in buffers)
        if size <= len(values):
            _put(buffers, values[:size])
        values = values[size:]


def _batch_norm(models: tuple[nn.Module, ...]) -> list[Any]:
    modules = (module for model in models for module in model.modules())
    norms = [m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None]
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]


def _put(buffers: list[Any], flat: Tensor) -> None:
    for buffer, values in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(values.view_as(buffer))
