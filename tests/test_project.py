"""The house: who may import whom, how long a file may be, what the wheel holds, what an import costs."""

import ast
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
# What each part may import beside itself. errors, config, checkpoint_file and version are nobody's and everybody's.
NEUTRAL = {"errors", "config", "checkpoint_file", "version"}
LAW = {
    "ops": set(),
    "nn": {"ops"},
    "models": {"ops", "nn"},
    "data": set(),
    "train": set(),
    "tasks": {"ops", "nn", "models", "data", "train"},
}


def imported_parts(path: Path) -> set[str]:
    """The parts of ddfnet that a file imports, at any depth of its code."""
    package = ("ddfnet", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {parts[1] for name in names if (parts := name.split("."))[0] == "ddfnet" and len(parts) > 1}
    return found


def test_import_law():
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]
    assert {path.relative_to(PACKAGE).parts[0] for path in files} == set(LAW)
    for path in files:
        part = path.relative_to(PACKAGE).parts[0]
        assert imported_parts(path) <= LAW[part] | {part} | NEUTRAL, path
    for name in NEUTRAL:
        assert imported_parts(PACKAGE / f"{name}.py") <= NEUTRAL, name


def test_the_import_law_sees_every_form_of_import():
    path = PACKAGE / "ops" / "example.py"
    forms = [
        "import ddfnet.nn",
        "from ddfnet import nn",
        "from ..nn import DDF",
        "from .. import nn",
        "from ddfnet.nn.ddf import DDF",
    ]
    for form in forms:
        fake = type(
            "Fake", (), {"read_text": lambda self, f=form: f"def g():\n    {f}", "relative_to": path.relative_to}
        )()
        assert imported_parts(fake) == {"nn"}, form


def test_files_are_short_or_say_why():
    for path in [
        *ROOT.glob("*.py"),
        *PACKAGE.rglob("*.py"),
        *(ROOT / "scripts").glob("*.py"),
        *(ROOT / "cuda").glob("*.cu*"),
    ]:
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
        "import sys, ddfnet, torch\n"
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
