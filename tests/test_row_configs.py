"""configs/: every file loads and builds; a row's file says what it reproduces, and differs in the model alone."""

import functools
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from ddfnet import DDF
from ddfnet.config import load_config
from ddfnet.models import complexity
from ddfnet.models.build import build_model

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "sweeps")
ROWS = [path for path in CONFIGS if path.parent.name in ("ablations", "compare")]
SWEEPS = [ROOT / "configs/sweeps" / f"{name}.yaml" for name in ("table3", "table4", "table5", "beyond")]
PAPER = yaml.safe_load((ROOT / "benchmarks/paper.yaml").read_text())
ABLATIONS = "spatial_only channel_only full norm_batch norm_sigmoid sigma_02 sigma_03 sigma_04 add k5 heads"
# of the base lines that the paper has no row for, and of what it prints wrongly
BESIDE_THE_PAPER = {"r18_dw", "r18_se", "r18_cbam", "r18_condconv", "r50_res2net_14w8s"}
AN_APPROXIMATION = {"r18_adaptive_dw"}
NOT_IN_A_SWEEP = {"sigma_02": "79.1", "r50_res2net_14w8s": "78.1"}  # the paper's `full`; by its authors 78.14


def name(path):
    return str(path.relative_to(ROOT / "configs"))


@functools.cache
def built(path):
    with torch.device("meta"):
        return build_model(load_config(path), 1000, pretrained=False)


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_loads_and_builds(path):
    assert all(parameter.is_meta for parameter in built(path).parameters())


@pytest.mark.parametrize("path", ROWS, ids=name)
def test_row_follows_the_one_protocol(path):
    config, protocol = load_config(path), load_config(ROOT / "configs/ddf_r50.yaml")
    assert config.data == protocol.data and config.train == protocol.train
    assert not {"pretrained", "checkpoint_path", "pretrained_cfg"} & config.model.kwargs.keys()
    assert yaml.safe_load(path.read_text())["base"] == "../ddf_r50.yaml"


@pytest.mark.parametrize("path", ROWS, ids=name)
def test_row_says_what_it_reproduces(path):
    """Its parameters, its multiply-accumulates and its command; the accuracy is the paper's."""
    header = " ".join(line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    has_ddf = any(isinstance(module, DDF) for module in built(path).modules())
    counted = complexity(built(path), ("macs", "paper") if has_ddf else ("macs",))
    said = re.search(r"([\d.]+) M parameters, ([\d.]+) G multiply-accumulates( \(([\d.]+) G in the paper's)?", header)
    assert said is not None
    assert said[1] == f"{counted['params'] / 1e6:.1f}" and said[2] == f"{counted['macs'] / 1e9:.3f}"
    assert said[4] == (f"{counted['paper'] / 1e9:.3f}" if has_ddf else None)
    assert f"--config configs/{name(path)} " in header or f" 8 configs/{name(path)} " in header
    top1 = {str(row.get("retrained", row["top1"])) for row in rows_of(path)}
    expected = re.search(r"Expected: ([\d.]+) % top-1", header)
    if path.stem in NOT_IN_A_SWEEP:
        assert expected[1] == NOT_IN_A_SWEEP[path.stem]
    elif not top1 or path.stem in AN_APPROXIMATION:
        assert expected is None
    else:
        assert {expected[1]} == top1


def runs():
    for sweep in SWEEPS:
        for run, entry in yaml.safe_load(sweep.read_text())["runs"].items():
            entry = {"config": entry} if isinstance(entry, str) else entry
            paper = entry.get("paper", [])
            yield run, (sweep.parent / entry["config"]).resolve(), paper if isinstance(paper, list) else [paper]


def table(dotted):
    rows = PAPER
    for key in dotted.split("."):
        rows = rows[key]
    return rows


def rows_of(path):
    """The paper's rows that the sweeps say a config reproduces."""
    for _, config, wanted in runs():
        for row in wanted if config == path else []:
            yield row_of(row)


def row_of(wanted):
    fields = {key: value for key, value in wanted.items() if key != "table"}
    (row,) = [row for row in table(wanted["table"]) if all(row.get(key) == value for key, value in fields.items())]
    return row


def test_sweeps_name_every_row_of_tables_3_4_and_5_once():
    tables = ("table3a", "table3b", "table3c", "table4.r18", "table4.r50", "table5.r50", "table5.r101")
    mentioned = [(row["table"], json.dumps(row_of(row))) for _, _, rows in runs() for row in rows]
    assert sorted(mentioned) == sorted((name, json.dumps(row)) for name in tables for row in table(name))


def test_every_row_config_is_named_by_a_sweep_or_stands_beside_the_paper():
    named = {config for _, config, _ in runs()}
    assert named <= set(ROWS)
    left = {path.stem for path in set(ROWS) - named}
    assert left == BESIDE_THE_PAPER | {"sigma_02"}  # `full` by another name
    assert set(ABLATIONS.split()) == {path.stem for path in ROWS if path.parent.name == "ablations"}


def test_sigma_02_is_the_default():
    ours, default = (built(ROOT / f"configs/{file}.yaml") for file in ("ablations/sigma_02", "ddf_r50"))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in default.state_dict().items()}


@pytest.mark.parametrize("sweep", SWEEPS, ids=name)
def test_sweep_says_how_it_is_run(sweep):
    content = yaml.safe_load(sweep.read_text())
    assert f"python scripts/sweep.py configs/{name(sweep)} " in sweep.read_text()
    assert content["seeds"] == [0, 1, 2] and set(content) <= {"table", "seeds", "runs"}
    number = {5: "Five", 8: "Eight", 10: "Ten", 16: "Sixteen"}[len(content["runs"])]
    assert f"{number} runs of 120 epochs on ImageNet, three seeds each" in sweep.read_text()


@pytest.mark.parametrize("path", [path for path in ROWS if path.parent.name == "compare"], ids=name)
def test_row_has_the_depth_of_its_name(path):
    network = re.search(r"(?:resnet|resnext|res2net)(\d+)", load_config(path).model.name)
    assert path.stem.startswith(f"r{network[1]}_")
