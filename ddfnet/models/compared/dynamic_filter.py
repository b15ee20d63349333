"""The full dynamic filter of the DDF paper's Table 1: a 1x1 convolution predicts a complete filter at every pixel.

(Jia et al., NeurIPS 2016, arXiv 1605.09673, and what followed.) Specified in Sec. 3 and 4.1: a filter of c x c x k x k
at each pixel, from a single 1x1 convolution of c^3 k^2 parameters; the paper counts no bias and there is none here.
Meant for counting and for small widths: on one map of 56x56 pixels, with k = 3, the filters are 7 M values for 16
channels and 116 M for 64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DyFilter(nn.Module):
    """(N, C, H, W) -> (N, C, H, W), zero padding.

    Args:
        channels: C.
        kernel_size: k, odd.
    """

    def __init__(self, channels: int, kernel_size: int = 3, device=None, dtype=None):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"DyFilter: kernel_size is {kernel_size}, expected an odd number")
        self.channels, self.kernel_size = channels, kernel_size
        self.predict = nn.Conv2d(channels, channels**2 * kernel_size**2, 1, bias=False, device=device, dtype=dtype)

    def filters(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H*W, C, C*k*k): per pixel, output channels by taps of all input channels."""
        return self.predict(x).flatten(2).unflatten(1, (self.channels, -1)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        windows = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2)  # N, C*k*k, H*W
        y = torch.matmul(self.filters(x), windows.transpose(1, 2).unsqueeze(-1))  # N, H*W, C, 1
        return y.squeeze(-1).transpose(1, 2).unflatten(2, x.shape[2:])
