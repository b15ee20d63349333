"""The house: how long a file may be, what the wheel holds, what an import costs; see test_import_law.py."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm
import torch

from ddfnet.models import complexity
from ddfnet.ops import kernel_sources

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ddfnet"


def test_files_are_short_or_say_why():
    patterns = (
        "*.py",
        "ddfnet/**/*.py",
        "scripts/**/*.py",
        "scripts/*.sh",
        "tests/**/*.py",
        "tests/cudasim/*",
        "tests/helpers/ptx/*",
        "cuda/*.cu*",
    )
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert len(files) > 50
    for path in files:
        lines = path.read_text().splitlines()
        assert len(lines) <= 300 or "lines because" in "\n".join(lines[:5]), path
    for script in ("train.py", "eval.py"):
        assert len((ROOT / script).read_text().splitlines()) <= 80
    assert not list(PACKAGE.rglob("utils.py"))


def test_setup_cfg_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    assert listed == {
        ".".join(("ddfnet", *path.parent.relative_to(PACKAGE).parts)) for path in PACKAGE.rglob("__init__.py")
    } | {"ddfnet.cuda"}


def test_import_touches_neither_cupy_nor_cuda_nor_the_training_libraries():
    script = (
        "import sys; sys.modules['wandb'] = None  # timm imports it where it is installed, and that pydantic\n"
        "import ddfnet, torch\n"
        "heavy = {'cupy', 'pydantic', 'rich', 'tensorboard', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert not torch.cuda.is_initialized()\n"
        "import timm; assert timm.is_model('ddf_resnet50')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_kernel_sources_include_nothing():
    sources = kernel_sources()
    assert "ddf_generic.cu" in sources
    assert not any(
        "#include" in line.split("//")[0] for path in sources.values() for line in path.read_text().splitlines()
    )


def test_wheel_creates_every_model_and_finds_its_kernels_in_a_clean_venv(tmp_path):
    source = tmp_path / "source"  # setuptools builds in place, and takes along what an older build left there
    for name in ("ddfnet", "cuda"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"ddfnet/cuda/{path.name}" for path in (ROOT / "cuda").glob("*.cu*")} <= set(names)
    assert not any(name.startswith(("tests/", "configs/", "cuda/")) for name in names)

    # a venv of its own for ddfnet; what it needs comes from this one, by a path file, which hides this one's ddfnet
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "needs.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = (
        "import ddfnet, timm, torch\n"
        "names = timm.list_models('ddf_*')\n"
        "assert len(names) == 8, names\n"
        "for name in names:\n"
        "    with torch.device('meta'): timm.create_model(name)\n"
        "sources = ddfnet.ops.kernel_sources()\n"
        "print(ddfnet.__file__, *sources.values(), sep='\\n')\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [tmp_path / "venv/bin/python", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert all(line.startswith(str(site)) for line in result.stdout.split()), result.stdout


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse_and_say_how_they_are_used(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert f"scripts/{script.name}" in text and "set -euo pipefail" in text and os.access(script, os.X_OK)


def test_readme_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["layer"](names["torch"].randn(1, 64, 9, 9)).shape == (1, 64, 5, 5)


def test_readme_figures_are_the_models():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(ddf_resnet\d+)` \| ([\d,]+) \| ([\d.]+) G \| ([\d.]+) G", text, re.MULTILINE)
    assert len(rows) == 3
    for name, params, macs, paper in rows:
        with torch.device("meta"):
            counted = complexity(timm.create_model(name))
        assert counted["params"] == int(params.replace(",", ""))
        assert f"{counted['macs'] / 1e9:.3f} {counted['paper'] / 1e9:.3f}" == f"{macs} {paper}"
