"""Where the CUDA kernels' source is: `ddfnet/cuda` when installed, `cuda/` beside the package in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]


def kernel_sources() -> dict[str, Path]:
    """File name -> path of every *.cu and *.cuh file.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    for folder in (_PACKAGE / "cuda", _PACKAGE.parent / "cuda"):
        files = {path.name: path for path in sorted(folder.glob("*.cu*"))}
        if files:
            return files
    raise FileNotFoundError(
        f"no CUDA kernel sources in {_PACKAGE / 'cuda'} or {_PACKAGE.parent / 'cuda'}: reinstall ddfnet"
    )
