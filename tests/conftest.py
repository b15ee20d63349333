"""One thread per process, and where the reference data lie that are not part of the project."""

import os
import sys
from pathlib import Path

import fake_cupy
import pytest
import torch
from eval_runs import train_small
from helpers.nvrtc import need_nvrtc
from helpers.ptx_machine import PtxMachine
from simulator import Simulator, need_compiler
from small_runs import NO_BATCH_NORM, SMALL

from ddfnet.config import load_config

ROOT = Path(__file__).resolve().parent.parent
# Golden outputs, state-dict lists and real pictures; tests that need them skip without them.
REFERENCE_DATA = Path(os.environ.get("DDFNET_REFERENCE_DATA", ROOT.parent / "shared"))

torch.set_num_threads(1)
sys.path.insert(0, str(ROOT / "scripts"))  # the commands and their parts, as modules


def pytest_collection_modifyitems(items):
    """What trains in forked processes first: after a compiled backward pass torch refuses others in forks."""
    items.sort(key=lambda item: item.get_closest_marker("forks") is None)


@pytest.fixture
def reference_data():
    def find(name: str) -> Path:
        path = REFERENCE_DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} (DDFNET_REFERENCE_DATA)")
        return path

    return find


@pytest.fixture(scope="session")
def kernels_folder(tmp_path_factory):
    """Where simulated kernels lie, compiled once for all workers of pytest: when one of them first launches them."""
    need_compiler()
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # of all workers, or of this process
    (folder / "kernels").mkdir(exist_ok=True)
    return folder / "kernels"


@pytest.fixture
def simulator(request, kernels_folder, monkeypatch):
    """The CUDA backend on the CPU: the kernels' source or, where a test asks for a GPU (90: sm_90), its PTX."""
    arch = getattr(request, "param", None)
    if arch is None:
        machine = Simulator(kernels_folder)
    else:
        need_nvrtc()
        machine = PtxMachine(kernels_folder, arch)
    machine.install(monkeypatch)
    with machine.watching():
        yield machine


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy and a CUDA that answer, as far as the launcher asks."""
    return fake_cupy.install(monkeypatch)


@pytest.fixture
def small(tmp_path):
    """(name of the run's folder, overrides) -> the config of a small run."""
    return configs_of(tmp_path / "small.yaml", SMALL)


@pytest.fixture
def no_batch_norm(tmp_path):
    """As `small`, for a network whose pictures do not see each other."""
    return configs_of(tmp_path / "no_batch_norm.yaml", NO_BATCH_NORM)


def configs_of(file, text):
    file.write_text(text)
    return lambda name, *overrides: load_config(file, [f"run.dir={file.parent / name}", *overrides])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """last.pt of a small run: the digits, right at times."""
    return train_small(tmp_path_factory.mktemp("trained"))
