"""The benchmarks run where there is no GPU, and what they compare computes what it says. No test looks at a time."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddfnet.ops import ddf

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from measure import models, ops_gpu, table2, timing  # noqa: E402


def test_rivals_compute_the_operator():
    x, c = torch.randn(2, 6, 9, 8, dtype=torch.float64), torch.randn(2, 6, 3, 3, dtype=torch.float64)
    for stride in (1, 2):
        s = torch.randn(2, 9, (9 - 1) // stride + 1, (8 - 1) // stride + 1, dtype=torch.float64)
        want = ddf(x, c, s, stride=stride)
        assert torch.allclose(ops_gpu.formula(x, c, s, stride), want)
        assert torch.allclose(ops_gpu.unfolded(x, c, s, stride), want)


def test_pac_is_its_equation():
    """Against loops over pixels and neighbours, with zeros around the image and around the guide."""
    module = table2.PAC(3).double()
    torch.nn.init.normal_(module.bias)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    weight = module.weight.view(3, 3, 9)
    want = module.bias[None, :, None, None].expand(2, 3, 4, 5).clone()
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    for row in range(4):
        for column in range(5):
            for tap in range(9):
                neighbour = padded[:, :, row + tap // 3, column + tap % 3]
                kernel = torch.exp(-0.5 * (neighbour - x[:, :, row, column]).square().sum(1, keepdim=True))
                want[:, :, row, column] += kernel * (neighbour @ weight[:, :, tap].T)
    assert torch.allclose(module(x), want)


def test_table2_and_models_run_on_a_cpu(capsys):
    cpu = torch.device("cpu")
    found: dict = {}
    table2.measure(found, cpu, 1, shape=(1, 8, 12, 13))
    assert [row["filter"] for row in found["rows"]] == list(table2.PAPER)
    assert all(row["mean_ms"] > 0 and row["peak_bytes"] is None for row in found["rows"])
    models.measure(found, cpu, 1, 1, time.time() + 600, pairs=[("resnet18", "ddf_resnet18")])
    rows = found["runs"]
    assert [row["mode"] for row in rows] == ["train", "infer"] * 2 and all(row["images_per_second"] > 0 for row in rows)
    models.measure(late := {}, cpu, 1, 1, deadline=0)  # out of time before the first
    assert late == {"runs": []}
    assert "out of time" in capsys.readouterr().out


def test_figures_are_added_to_the_file_with_their_circumstances(tmp_path):
    file = tmp_path / "results" / "machine.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"ops": {"figures": "of another day"}}))
    command = [sys.executable, "scripts/benchmark.py", "launch", "--device", "cpu", "--output", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    content = json.loads(file.read_text())
    assert content["ops"] == {"figures": "of another day"}
    assert content["launch"].keys() == {"command", "date", "commit", "machine", "versions", "figures"}
    assert content["launch"]["figures"]["ddf_us"] > 0 and content["launch"]["figures"]["driver"].endswith("no driver")
    assert "scripts/benchmark.py launch" in content["launch"]["command"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence():
    command = [sys.executable, "scripts/benchmark.py", "ops", "--device", "cuda"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "sees no GPU" in result.stderr and "Traceback" not in result.stderr
    result = subprocess.run(["scripts/gpu_check.sh", "tests"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "sees no GPU" in result.stderr and "Traceback" not in result.stderr


def test_rotations_outgrow_the_cache():
    assert timing.copies_for([torch.empty(1 << 20)]) == 64
    assert timing.copies_for([torch.empty(1 << 26, dtype=torch.int8)]) == 4
    assert timing.copies_for([torch.empty(1 << 30, dtype=torch.int8, device="meta")]) == 2
