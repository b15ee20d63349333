"""A problem for ddf_branches with its answer in float64, as operator_case.py has it for the operator."""

from dataclasses import dataclass, field

import torch
from operator_case import TOLERANCES

from ddfnet.ops.gpu.branches import branches
from ddfnet.ops.reference import branches_reference
from ddfnet.ops.tensors import memory_format_of


@dataclass
class BranchesCase:
    """Random inputs. `outputs` are heads*k*k."""

    shape: tuple[int, int, int, int]
    outputs: int = 9
    stride: int = 1
    bias: bool = True
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.channels_last
    device: str = "cpu"
    want: dict = field(default_factory=dict, repr=False)

    def __post_init__(self):
        generator = torch.Generator().manual_seed(hash((self.shape, self.outputs, self.stride)) % 2**31)

        def draw(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, self.dtype)

        self.x = (draw(*self.shape) + 0.5).contiguous(memory_format=self.layout)  # a mean that is not all cancellation
        self.weight = draw(self.outputs, self.shape[1])
        bias = draw(self.outputs) if self.bias else None
        self.arguments = (self.x, self.weight, bias, self.stride)
        wide = (None if tensor is None else tensor.double() for tensor in self.arguments[:3])
        self.want = dict(zip(("spatial", "pooled"), branches_reference(*wide, self.stride), strict=True))

    def run(self, backend=None) -> dict[str, torch.Tensor]:
        """By the CUDA backend's function, which a simulator may have got hold of."""
        return dict(zip(("spatial", "pooled"), branches(*self.arguments), strict=True))

    def check(self, results: dict[str, torch.Tensor]) -> None:
        for name, result in results.items():
            want = self.want[name]
            assert result.shape == want.shape and result.dtype == self.dtype, (name, result.shape, result.dtype)
            error = ((result.double() - want).abs().max() / want.abs().max()).item()
            assert error <= TOLERANCES[self.dtype], f"{name}: error {error:.1e} in {self}"  # NaN fails too
        assert results["spatial"].is_contiguous(memory_format=memory_format_of(self.x)), self


def branches_cases(dtype, layout, stride, outputs, device="cpu") -> list[BranchesCase]:
    """Shapes that end inside, at and beyond the edges of tiles, chunks and copies."""
    common = dict(stride=stride, outputs=outputs, dtype=dtype, layout=layout, device=device)
    return [
        BranchesCase((2, 24, 9, 17), **common),  # few channels, tiles that split rows
        BranchesCase((1, 21, 11, 7), bias=False, **common),  # channels and maps that only element-wise copies reach
        BranchesCase((3, 200, 7, 7), **common),  # many chunks, the last one short; a map in one tile
        BranchesCase((2, 8, 16, 20), **common),  # whole copies
        BranchesCase((2, 5, 1, 1), **common),
    ]
