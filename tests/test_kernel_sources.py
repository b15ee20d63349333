"""The CUDA sources without a GPU: NVRTC compiles them for every architecture, a host compiler executes them."""

import ctypes
import shutil
import subprocess

import pytest
import torch

from ddfnet.ops import ddf, kernel_sources

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]  # the order of -DDTYPE
TOLERANCES = dict(zip(DTYPES, (1e-5, 2e-3, 1.6e-2, 1e-12), strict=True))
HOST = """
struct dim3_ { long long x; };
static thread_local dim3_ blockIdx, blockDim, threadIdx, gridDim;
#define __global__
"""
RUN = """
#define RUN(kernel)                                                                                              \\
  extern "C" void run_##kernel(                                                                                  \\
      const Problem* p, const Element* a, const Element* b, const Element* c, Element* d) {                      \\
    for (gridDim.x = 3, blockDim.x = 4, blockIdx.x = 0; blockIdx.x < 3; ++blockIdx.x)                            \\
      for (threadIdx.x = 0; threadIdx.x < 4; ++threadIdx.x) kernel(*p, a, b, c, d);                              \\
  }
RUN(ddf_forward) RUN(ddf_grad_x) RUN(ddf_grad_spatial) RUN(ddf_grad_channel)
"""


def source() -> str:
    files = kernel_sources()
    return files["ddf_types.cuh"].read_text() + files["ddf_generic.cu"].read_text()


@pytest.mark.parametrize("arch", [75, 80, 90, 100, 120])
@pytest.mark.parametrize("dtype", range(4))
def test_nvrtc_compiles_every_kernel(arch, dtype):
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    text = source().encode()
    _, program = nvrtc.nvrtcCreateProgram(text, b"ddf.cu", 0, [], [])
    options = [f"-arch=sm_{arch}".encode(), b"-std=c++17", f"-DDTYPE={dtype}".encode(), b"-ftz=true"]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytes(size + 1)  # written to in place: never of length 1, which Python shares with every other b"\\0"
    nvrtc.nvrtcGetProgramLog(program, log)
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()


@pytest.fixture(scope="module")
def host_kernels(tmp_path_factory):
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("kernels")

    def build(dtype: int) -> ctypes.CDLL:
        library = folder / f"ddf_{dtype}.so"
        if not library.exists():
            text = folder / "ddf.cpp"
            text.write_text(HOST + source() + RUN)
            command = ["g++", "-O1", "-fsanitize=undefined", "-shared", "-fPIC", f"-DDTYPE={dtype}"]
            subprocess.run([*command, str(text), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))

    return build


@pytest.mark.parametrize("dtype", range(4), ids=[str(d).removeprefix("torch.") for d in DTYPES])
@pytest.mark.parametrize("filters", ["both", "channel", "spatial"])
@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("kernel_size,stride,dilation,heads", [(3, 1, 1, 1), (3, 2, 1, 2), (5, 1, 3, 1), (1, 3, 1, 2)])
def test_kernel_source_computes_the_operator_and_its_gradients(
    host_kernels, dtype, filters, combine, layout, kernel_size, stride, dilation, heads
):
    kernels, torch_dtype = host_kernels(dtype), DTYPES[dtype]
    torch.manual_seed(0)
    n, channels, height, width = 2, 6, 7, 5
    out = ((height - 1) // stride + 1, (width - 1) // stride + 1)

    def draw(*shape, layout=torch.contiguous_format):
        return torch.randn(shape).to(torch_dtype).contiguous(memory_format=layout)

    x, grad = draw(n, channels, height, width, layout=layout), draw(n, channels, *out, layout=layout)
    c = draw(n, channels, kernel_size, kernel_size) if filters != "spatial" else None
    s = draw(n, heads * kernel_size**2, *out, layout=layout) if filters != "channel" else None
    inputs = [None if t is None else t.double().requires_grad_() for t in (x, c, s)]
    options = dict(kernel_size=kernel_size, stride=stride, dilation=dilation, heads=heads, combine=combine)
    expected = ddf(*inputs, **options, backend="reference")
    expected.backward(grad.double())

    def check(kernel, a, b, c, like, wanted, add=combine == "add"):
        result = torch.full_like(like, float("nan"))
        numbers = [n, channels, heads, height, width, *out, kernel_size, stride, dilation, int(add)]
        for tensor in (x, grad, s):
            numbers += [0] * 4 if tensor is None else tensor.stride()
        problem = (ctypes.c_longlong * len(numbers))(*numbers)
        pointers = [ctypes.c_void_p(0 if t is None else t.data_ptr()) for t in (a, b, c, result)]
        getattr(kernels, f"run_{kernel}")(problem, *pointers)
        assert (result.double() - wanted).abs().max() <= TOLERANCES[torch_dtype] * wanted.abs().max()

    check("ddf_forward", x, c, s, grad, expected.detach())
    check("ddf_grad_x", grad, c, s, x, inputs[0].grad)
    other_c, other_s = (None, None) if combine == "add" else (c, s)  # as the launcher must
    if s is not None:
        check("ddf_grad_spatial", grad, x, other_c, s, inputs[2].grad, add=False)
    if c is not None:
        check("ddf_grad_channel", grad, x, other_s, c, inputs[1].grad, add=False)
