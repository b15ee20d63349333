"""The memory of the operator, by the system's own count."""

import os
import subprocess
import sys

import pytest

MEMORY = """
import sys, torch, torch.nn.functional as F
sys.path.insert(0, {root!r})
from ddfnet.ops import ddf
torch.set_num_threads(1)
def run(kind, shape):
    n, c, h, w = shape
    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
    f, s = torch.randn(n, c, 3, 3, requires_grad=True), torch.randn(n, 9, h, w, requires_grad=True)
    weight = torch.randn(c, 1, 3, 3, requires_grad=True)
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew from here
    read = lambda key: next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key))
    before = read("VmRSS")
    if kind == "ddf":
        ddf(x, f, s).backward(g)
    else:
        F.conv2d(x, weight, padding=1, groups=c).backward(g)
    return read("VmHWM") - before
run({kind!r}, (1, 8, 8, 8))
print(run({kind!r}, (2, 256, 100, 150)))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak memory counter")
def test_memory_is_that_of_a_depthwise_convolution():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    peaks = {}
    for kind in ("ddf", "depthwise"):
        script = MEMORY.format(root=root, kind=kind)
        peaks[kind] = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert 30_000 < peaks["ddf"] <= 1.2 * peaks["depthwise"], peaks
