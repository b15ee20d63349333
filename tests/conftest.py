"""One thread per process, and where the reference data lie that are not part of the project."""

import os
from pathlib import Path

import pytest
import torch
from small_runs import SMALL

from ddfnet.config import load_config

ROOT = Path(__file__).resolve().parent.parent
# Golden outputs, state-dict lists and real pictures; tests that need them skip without them.
REFERENCE_DATA = Path(os.environ.get("DDFNET_REFERENCE_DATA", ROOT.parent / "shared"))

torch.set_num_threads(1)


@pytest.fixture
def reference_data():
    def find(name: str) -> Path:
        path = REFERENCE_DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} (DDFNET_REFERENCE_DATA)")
        return path

    return find


@pytest.fixture
def small(tmp_path):
    """(name of the run's folder, overrides) -> the config of a small run."""
    (tmp_path / "small.yaml").write_text(SMALL)

    def config(name, *overrides):
        return load_config(tmp_path / "small.yaml", [f"run.dir={tmp_path / name}", *overrides])

    return config
