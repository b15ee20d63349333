"""What NVRTC makes of a kernel, with the options that CuPy gives it."""

import pytest

from ddfnet.ops.gpu.specialisations import Specialisation, compile_options, source_of

try:
    from cuda.bindings import nvrtc
except ImportError:
    nvrtc = None


def need_nvrtc() -> None:
    if nvrtc is None:
        pytest.skip("needs NVRTC (cuda-bindings)")


def ptx_of(wanted: Specialisation, arch: int) -> str:
    """Return the PTX of the module that the kernel is in."""
    _, program = nvrtc.nvrtcCreateProgram(source_of(wanted).encode(), b"ddf.cu", 0, [], [])
    added = ("-ftz=true", f"-arch=compute_{arch}", "--device-as-default-execution-space")
    options = [option.encode() for option in (*compile_options(wanted), *added)]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, (wanted, result)
    _, size = nvrtc.nvrtcGetPTXSize(program)
    buffer = bytes(size + 1)  # written to in place: never of length 1, which Python shares with every other b"\0"
    nvrtc.nvrtcGetPTX(program, buffer)
    nvrtc.nvrtcDestroyProgram(program)
    return buffer.split(b"\0")[0].decode()
