"""Sweeps of tiny networks on the digits, in process, and folders as their runs leave them."""

from pathlib import Path

import pytest
import sweep as command
from small_runs import ROOT, SMALL
from sweeping.plan import plan_sweep

WITHOUT_PAPER = """
seeds: [0, 1, 2]
runs:
  spatial_only: {config: small.yaml, overrides: [model.kwargs.block_args.ddf.channel=false]}
  ddf: small.yaml
"""
TWO_ROWS = """
seeds: [0, 1, 2]
runs:
  spatial_only:
    config: small.yaml
    paper: {table: table3a, spatial: true, channel: false}
    overrides: [model.kwargs.block_args.ddf.channel=false]
  ddf: {config: small.yaml, paper: {table: table3a, spatial: true, channel: true}}
"""


@pytest.fixture
def paper_file(reference_data):
    """The paper's tables as the project has them, or as the reference data have."""
    own = ROOT / "benchmarks" / "paper.yaml"
    return own if own.exists() else reference_data("reference/paper_tables.yaml")


def write_sweep(folder: Path, text: str = WITHOUT_PAPER) -> Path:
    (folder / "small.yaml").write_text(SMALL)
    (folder / "s.yaml").write_text(text)
    return folder / "s.yaml"


def plan(folder: Path, text: str = WITHOUT_PAPER, overrides=(), paper=Path("nowhere.yaml")):
    return plan_sweep(write_sweep(folder, text), folder / "runs", list(overrides), paper)


def sweep(folder: Path, *arguments: str) -> int:
    """scripts/sweep.py in this process."""
    return command.main([str(folder / "s.yaml"), "--dir", str(folder / "runs"), "--no-measure", *arguments])
