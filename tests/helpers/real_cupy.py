"""What the real CuPy hands to the driver for each kernel, on a machine without a GPU; for test_ptx.py.

    python tests/helpers/real_cupy.py FOLDER        where helpers/ptx_machine.py keeps what it made

CuPy's modules take each other's C functions from tables when they are imported; before that, those that lead to CUDA
are replaced here. All else is CuPy's: it compiles by NVRTC, packs the arguments and launches. Prints JSON: "launched",
kernels, and "differ", launches that are not what was asked, their parameters taken byte for byte as their PTX declares
them; or "lacks", a name that this CuPy does not have: they are private.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent), str(HERE.parent.parent / "scripts")]

import cupy_backends.cuda.api.driver as driver  # noqa: E402
import cupy_backends.cuda.api.runtime as runtime  # noqa: E402

INT, UINT, POINTER, OBJECT = ctypes.c_int, ctypes.c_uint, ctypes.c_ssize_t, ctypes.py_object
capsules = ctypes.pythonapi
capsules.PyCapsule_GetName.restype, capsules.PyCapsule_GetName.argtypes = ctypes.c_char_p, [OBJECT]
capsules.PyCapsule_New.restype = OBJECT
capsules.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
kept: list = []  # C has their addresses
functions: list[str] = []  # names, by CuPy's handle of the function - 1
attributes: dict[tuple[int, int], int] = {}
sizes: list[int] = []  # of the parameters of the kernel that is launched next, in bytes
handed: list[dict] = []


def replace(module, name: str, result, arguments: list, function) -> None:
    signature = ctypes.create_string_buffer(capsules.PyCapsule_GetName(module.__pyx_capi__[name]))
    pointer = ctypes.PYFUNCTYPE(result, *arguments)(function)
    kept.extend((signature, pointer))
    address = ctypes.cast(pointer, ctypes.c_void_p).value
    module.__pyx_capi__[name] = capsules.PyCapsule_New(address, ctypes.cast(signature, ctypes.c_char_p), None)
    setattr(module, name, lambda *given: function(*given, 0))


def get_function(module: int, name: str, skipped: int) -> int:
    functions.append(name)
    return len(functions)


def get_attribute(attribute: int, function: int, skipped: int) -> int:
    return attributes.get((function, attribute), {4: 128, 8: 48 * 1024}.get(attribute, 0))  # registers; shared memory


def set_attribute(function: int, attribute: int, value: int, skipped: int) -> None:
    attributes[function, attribute] = value


def launch_kernel(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra, skipped) -> None:
    pointers = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))
    parts = [ctypes.string_at(pointers[number], size).hex() for number, size in enumerate(sizes)]
    most = attributes.get((function, 8), 48 * 1024)  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    found = dict(kernel=functions[function - 1], grid=[gx, gy, gz], block=[bx, by, bz], shared=shared, stream=stream)
    carveout = attributes.get((function, 9))  # CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
    handed.append({**found, "fits": shared <= most, "carveout": carveout, "parts": parts})


def replace_all() -> None:
    """Raises KeyError for a name that this CuPy does not have."""
    replace(driver, "launchKernel", OBJECT, [POINTER, *[UINT] * 7, POINTER, POINTER, POINTER, INT], launch_kernel)
    replace(driver, "moduleLoadData", POINTER, [OBJECT, INT], lambda image, skipped: 1)
    replace(driver, "moduleUnload", OBJECT, [POINTER, INT], lambda module, skipped: None)
    replace(driver, "moduleGetFunction", POINTER, [POINTER, OBJECT, INT], get_function)
    replace(driver, "funcSetAttribute", OBJECT, [POINTER, INT, INT, INT], set_attribute)
    replace(driver, "funcGetAttribute", INT, [INT, POINTER, INT], get_attribute)
    replace(runtime, "_ensure_context", OBJECT, [], lambda *skipped: None)
    replace(runtime, "getDevice", INT, [INT], lambda skipped: 0)
    replace(runtime, "getDeviceCount", INT, [INT], lambda skipped: 1)
    replace(runtime, "setDevice", OBJECT, [INT, INT], lambda device, skipped: None)
    replace(runtime, "driverGetVersion", INT, [INT], lambda skipped: 13000)
    replace(runtime, "deviceSynchronize", OBJECT, [INT], lambda skipped: None)
    compute_capability = {75: 9, 76: 0}  # cudaDevAttrComputeCapabilityMajor and Minor
    replace(
        runtime, "deviceGetAttribute", INT, [INT, INT, INT], lambda what, device, *s: compute_capability.get(what, 0)
    )


def main() -> None:
    try:
        replace_all()
    except KeyError as name:
        print(json.dumps({"lacks": str(name)}))
        return
    import pytest
    import torch
    from branches_case import BranchesCase
    from fake_cupy import answer_for_cuda
    from helpers.ptx_machine import PtxMachine
    from operator_case import Case

    from ddfnet.ops.gpu import ddf as gpu
    from ddfnet.ops.gpu import launch
    from ddfnet.ops.gpu.specialisations import TILED
    from ddfnet.ops.options import Epilogue

    machine = PtxMachine(Path(sys.argv[1]), 90)
    differ: list[tuple] = []

    class Recorder(launch.Launcher):
        def run(self, ready, device, pointers):
            what, kernel = ready.launch, machine.kernel(ready.launch.specialisation)
            arguments = [*what.parameters, *pointers]
            packed = kernel.pack(arguments)
            sizes[:] = [size for _, size in kernel.parameters]
            parts = [packed[begin : begin + size].hex() for begin, size in kernel.parameters]
            asked = dict(kernel=kernel.name, grid=[what.grid, 1, 1], block=[what.block, 1, 1], shared=what.shared)
            carveout = 100 if what.specialisation.file in TILED else None
            asked |= dict(fits=True, stream=0xABC, carveout=carveout, parts=parts)
            super().run(ready, device, pointers)
            if handed[-1] != asked:
                differ.append((handed[-1], asked))

    patch = pytest.MonkeyPatch()
    answer_for_cuda(patch)
    patch.setattr(torch.cuda, "current_device", lambda: None)
    patch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0xABC, raising=False)
    patch.setattr(launch, "launcher", Recorder())
    case = Case((2, 64, 30, 60), heads=2, spatial_norm=True, dtype=torch.float16)
    case.run(gpu)
    scale = torch.ones(64)
    gpu.forward(case.x, case.channel, case.spatial, case.options, Epilogue(scale, scale, relu=True))
    Case((2, 6, 7, 10), 5, 2, 3, 2, dtype=torch.float16).run(gpu)
    BranchesCase((2, 64, 30, 40), dtype=torch.float16).run()
    print(json.dumps({"launched": [one["kernel"] for one in handed], "differ": differ}))


if __name__ == "__main__":
    main()
