"""The benchmarks run where there is no GPU, and what they compare computes what it says. No test looks at a time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ddfnet import cli
from ddfnet.ops import ddf

ROOT = Path(__file__).resolve().parent.parent
from measure import branches, models, ops_cpu, ops_gpu, record, table2, timing  # noqa: E402


def test_rivals_compute_the_operator():
    x, c = torch.randn(2, 6, 9, 8, dtype=torch.float64), torch.randn(2, 6, 3, 3, dtype=torch.float64)
    for stride in (1, 2):
        s = torch.randn(2, 9, (9 - 1) // stride + 1, (8 - 1) // stride + 1, dtype=torch.float64)
        want = ddf(x, c, s, stride=stride)
        assert torch.allclose(ops_gpu.formula(x, c, s, stride), want)
        assert torch.allclose(ops_gpu.unfolded(x, c, s, stride), want)


@pytest.mark.parametrize("stride", [1, 2])
def test_rivals_compute_both_branches(stride):
    x, weight, bias = torch.randn(2, 6, 9, 8), torch.randn(9, 6), torch.randn(9)
    results = {name: method() for name, method in branches.methods(x, weight, bias, stride).items()}
    spatial, pooled = results["ddf_branches"]
    for name, (other, mean) in results.items():
        assert other.shape[1] == (16 if "padded" in name else 9)
        torch.testing.assert_close(other[:, :9], spatial)
        torch.testing.assert_close(mean, pooled)


@pytest.mark.parametrize("stride", [1, 2])
def test_methods_on_a_cpu_compute_the_same(monkeypatch, stride):
    """But the convolutions, whose filters are weights; torch.compile itself is left to torch's tests."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    found = {}
    for method in ops_cpu.METHODS:
        torch.manual_seed(0)
        function, inputs = ops_cpu.build(method, (2, 6, 9, 8), stride, channels_last=True)
        y = function()
        gradients = torch.autograd.grad(y.square().sum(), inputs)
        assert y.shape == (2, 6, (9 - 1) // stride + 1, (8 - 1) // stride + 1)
        found[method] = [y, *gradients]
    for method in (ops_cpu.COMPILED, "unfold+einsum"):
        for a, b in zip(found[method], found["ddf"], strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4), method
    times = ops_cpu.time_shape((1, 4, 5, 6), stride, True, 1)
    assert list(times) == ops_cpu.METHODS and all(time > 0 for both in times.values() for time in both.values())


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
    assert any("RawKernel" in what for what in content["launch"]["figures"]["left_out"])  # the figure says what it is
    assert "scripts/benchmark.py launch" in content["launch"]["command"]


@pytest.mark.parametrize("name,content", [("old.json", "no JSON"), ("file/new.json", None), ("/proc/new.json", None)])
def test_a_file_that_figures_cannot_be_added_to_is_named_before_they_are_measured(tmp_path, monkeypatch, name, content):
    import benchmark

    (tmp_path / "file").touch()
    if content:
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(benchmark, "run", lambda *_: pytest.fail("measured for nothing"))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "launch", "--device", "cpu", "--output", str(tmp_path / name)])
    with pytest.raises(SystemExit) as end:
        cli.run(benchmark.main)
    assert str(end.value.code).startswith(f"error: {tmp_path / name}: figures cannot be added to it: ")
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence():
    command = [sys.executable, "scripts/benchmark.py", "ops", "--device", "cuda"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "sees no GPU" in result.stderr and "Traceback" not in result.stderr
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["scripts/gpu_check.sh", "tests"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 1 and "sees no GPU" in result.stderr and "Traceback" not in result.stderr


REPORT = """<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">
<testcase name="good"/><testcase name="bad"><failure/></testcase><testcase name="left"><skipped/></testcase>
</testsuite></testsuites>"""


def test_record_holds_what_failed_and_what_did_not_run(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    found = record.outcomes(tmp_path / "report.xml", ["pytest=failed", "memcheck=passed"])
    assert found["outcomes"] == {"pytest": "failed", "memcheck": "passed"} and found["tests"] == 3
    assert found["failed"] == ["bad"] and found["not_run"] == ["left"]
    (tmp_path / "report.xml").write_text("")  # pytest died
    assert record.outcomes(tmp_path / "report.xml", []) == {"outcomes": {}, "tests": None}


# Stands for Python on a machine with a GPU: all but pytest, which does what FAKE says, training, which leaves two
# log lines and does what RUN says, and compute-sanitizer's runs.
PYTHON = """#!/bin/bash
case "$*" in
-\\ *) echo $LACKS ;;
-c*) echo "NVIDIA Test/1" ;;
-m\\ pytest*) echo "data: $DDFNET_REFERENCE_DATA"; eval "$FAKE" ;;
train.py*)
    folder="${{*: -1}}" && folder=${{folder#run.dir=}} && mkdir -p "$folder"
    echo '{{"kind": "train", "step": 20, "epoch": 0.3, "images_per_second": 5.0, "data_wait": 0.25}}' \
        >"$folder/metrics.jsonl"
    echo '{{"kind": "eval", "step": 78, "epoch": 1.0, "top1": 12.5}}' >>"$folder/metrics.jsonl"
    eval "$RUN"
    ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def gpu_check(tmp_path, monkeypatch):
    """(part, environment) -> what gpu_check.sh says on a machine that pretends to have a GPU, and the file it keeps."""
    for name, text in (
        ("python", PYTHON.format(python=sys.executable)),
        ("compute-sanitizer", "#!/bin/bash\nexit 0\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    file = tmp_path / "results.json"
    monkeypatch.delenv("DDFNET_TINY_IMAGENET", raising=False)
    for name, value in (("PYTHON", tmp_path / "python"), ("OUTPUT", file)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def run(*part, **environment):
        environment = os.environ | environment
        result = subprocess.run(
            ["scripts/gpu_check.sh", *part], cwd=ROOT, capture_output=True, text=True, env=environment
        )
        assert "Traceback" not in result.stderr
        return result, json.loads(file.read_text()) if file.exists() else {}

    return run


@pytest.mark.parametrize(
    "fake,last,code,outcome",
    [
        pytest.param("kill -9 $$", "FAILED", 137, "failed", marks=pytest.mark.slow),
        ("exit 124", "INCOMPLETE", 124, "incomplete"),
    ],
)
def test_gpu_check_tells_failed_from_incomplete_and_keeps_it(gpu_check, fake, last, code, outcome):
    result, kept = gpu_check("tests", FAKE=fake)
    assert result.stdout.splitlines()[-1].startswith(last) and result.returncode == code, result
    kept = kept["tests"]
    assert kept["command"].split(" -m ")[1].startswith("pytest --noconftest")
    assert kept["figures"]["outcomes"] == {"pytest": outcome, "memcheck": "passed", "racecheck": "passed"}


@pytest.mark.parametrize("part", [[], ["trains"]])
def test_gpu_check_names_its_parts(gpu_check, part):
    result, kept = gpu_check(*part)
    assert result.returncode == 2 and not kept
    assert [line.split()[1] for line in result.stderr.splitlines() if line.startswith("  scripts/gpu_check.sh")] == [
        *("tests", "ops", "models", "train")
    ]
    assert result.stderr.splitlines()[-1] == "the commit where there is no git."


def test_gpu_check_names_what_is_missing(gpu_check):
    result, kept = gpu_check("train", LACKS="yaml rich")
    assert result.returncode == 1 and not kept and len(result.stderr.splitlines()) == 1
    assert "lacks yaml rich: install it there" in result.stderr


def test_gpu_check_without_pictures_trains_none(gpu_check):
    result, kept = gpu_check("train", FAKE="exit 0")
    assert result.returncode == 0 and "the run on real pictures is left out" in result.stdout
    assert kept["train"]["figures"]["outcomes"]["tiny-imagenet"].startswith("left out") and "tests" not in kept
    assert "tests/test_gpu_train.py" in kept["train"]["command"]


@pytest.mark.parametrize(
    "run,code,outcome",
    [("exit 0", 0, "passed"), pytest.param("exit 124", 124, "incomplete", marks=pytest.mark.slow)],
)
def test_gpu_check_keeps_how_the_run_on_pictures_went(gpu_check, run, code, outcome):
    result, kept = gpu_check("train", FAKE="exit 0", RUN=run, DDFNET_TINY_IMAGENET="/pictures of mine")
    assert result.returncode == code, result
    assert "train.py --config configs/ddf_r18.yaml data.root=/pictures of mine" in kept["train"]["command"]
    figures = kept["train"]["figures"]
    assert figures["outcomes"] == {"pytest": "passed", "tiny-imagenet": outcome}
    (line,) = figures["run"]["last_log_lines"]
    assert (line["images_per_second"], line["data_wait"]) == (5.0, 0.25) and figures["run"]["top1"] == {"1.0": 12.5}


def test_rotations_outgrow_the_cache():
    assert timing.copies_for([torch.empty(1 << 20)]) == 64
    assert timing.copies_for([torch.empty(1 << 26, dtype=torch.int8)]) == 4
    assert timing.copies_for([torch.empty(1 << 30, dtype=torch.int8, device="meta")]) == 2
