"""The house: who may import whom, what stands where. Each rule is shown to find a planted fault."""

from pathlib import Path

import pytest
from import_law import (
    broken_imports,
    files_named_but_missing,
    imports,
    long_functions,
    many_parameters,
    mapped,
    private_names_taken,
    scripts_imported,
    sets_the_path,
)

ROOT = Path(__file__).resolve().parent.parent
CODE = [*ROOT.glob("*.py"), *(ROOT / "ddfnet").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
# Each of these may only shrink.
PRIVATE_IN_TESTS = {
    "test_data_links.py": ["ddfnet.data.sources.folder._identity"],
    "test_gpu_train.py": ["dist._join"],
    "test_optim.py": ["_sgd"],
    "test_report_page.py": ["_size", "plots._curve"],
    "test_sweep_values.py": ["_settle", "planning._build_models"],
}
# TorchScript compiles the one, which takes no tuple with a name; the other is called as nn.Conv2d is
MANY_PARAMETERS = ["ddf.py: __init__", "ddf.py: apply_filters"]
LONG_SCRIPTS = {
    "benchmark.py": 144,
    "complexity.py": 274,
    "draw_filters.py": 159,
    "kernel_table.py": 116,
    "plot.py": 170,
    "sweep.py": 177,
    "verify_data.py": 143,
}


def plant(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_import_law():
    assert len(list((ROOT / "ddfnet").rglob("*.py"))) > 90
    assert broken_imports(ROOT) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ddfnet/ops/reference.py", "from ..models import complexity"),
        ("ddfnet/ops/gpu/tiling.py", "from ... import nn"),
        ("ddfnet/nn/ddf.py", "def f():\n    import ddfnet.models.load"),
        ("ddfnet/models/build.py", "from ..tasks import open_task"),
        ("ddfnet/data/loader.py", "from ..tasks.classification.batch import ImageBatch"),
        ("ddfnet/data/loader.py", "import importlib\nimportlib.import_module('ddfnet.models')"),
        ("ddfnet/train/loop.py", "if TYPE_CHECKING:\n    from ..tasks import open_task"),
        ("ddfnet/errors.py", "from .ops import ddf"),
        ("ddfnet/config/load.py", "from ..train import World"),
        ("ddfnet/tasks/depth/task.py", "from ..classification.batch import ImageBatch"),
        ("ddfnet/tasks/depth/task.py", "import_module('..classification', __package__)"),
        ("ddfnet/tasks/result_files.py", "from .classification.batch import ImageBatch"),
        ("ddfnet/data/loader.py", "from ..config import Data"),
        ("ddfnet/ops/cpu.py", "from ..config import Config"),
        ("ddfnet/errors.py", "from .config import Config"),
        ("ddfnet/task.py", "from .train import World"),
        ("ddfnet/data/loader.py", "import ddfnet\nddfnet.models.build"),
        ("ddfnet/models/build.py", "from scripts.sweep import main"),
    ],
)
def test_the_import_law_sees_every_form_of_import(tmp_path, name, text):
    plant(tmp_path, "ddfnet/tasks/classification/batch.py", "")
    plant(tmp_path, "ddfnet/tasks/depth/metrics.py", "from .task import x\nfrom ...data import y")
    assert broken_imports(tmp_path) == []
    planted = plant(tmp_path, name, text)
    assert len(broken_imports(tmp_path)) == 1 and list(imports(planted, tmp_path))


def test_no_script_imports_a_script(tmp_path):
    assert scripts_imported(ROOT) == []
    plant(tmp_path, "scripts/a.py", "from b import main")
    plant(tmp_path, "scripts/b.py", "from parts.c import d")
    plant(tmp_path, "scripts/parts/c.py", "import a\nimport train\nfrom scripts.b import main")
    plant(tmp_path, "train.py", "")
    assert scripts_imported(tmp_path) == [
        "scripts/a.py: imports b.main, a script",
        "scripts/parts/c.py: imports a, a script",
        "scripts/parts/c.py: imports train, a script",
        "scripts/parts/c.py: imports scripts.b.main, a script",
    ]


def test_no_private_name_crosses_a_module(tmp_path):
    assert [name for path in CODE for name in private_names_taken(path, ROOT)] == []
    tests = {path.name: private_names_taken(path, ROOT) for path in (ROOT / "tests").rglob("*.py")}
    assert {name: sorted(set(names)) for name, names in tests.items() if names} == PRIVATE_IN_TESTS
    plant(tmp_path, "ddfnet/a.py", "_x = 1")
    for text in (
        "from .a import _x",
        "from . import a\na._x",
        "import ddfnet.a as b\nb._x",
        "import ddfnet.a\nddfnet.a._x",
        "from . import a\na.B._x",
        "from . import a\nmonkeypatch.setattr(a, '_x', 1)",
        "monkeypatch.setattr('ddfnet.a._x', 1)",
    ):
        assert len(private_names_taken(plant(tmp_path, "ddfnet/b.py", text), tmp_path)) == 1
    assert private_names_taken(plant(tmp_path, "ddfnet/b.py", "import torch\ntorch._C\nself._x"), tmp_path) == []


def test_every_file_that_is_named_is_there(tmp_path):
    kinds = ("ddfnet/**/*.py", "scripts/**/*.py", "tests/**/*.py", "*.py", "cuda/*.cu*", "scripts/*.s*")
    kinds += ("tests/cudasim/*",)
    assert files_named_but_missing(ROOT, [path for kind in kinds for path in ROOT.glob(kind)]) == []
    text = '"""See there.py and a/there.py, not {0}.py."""  # nor cuda/{0}.cu'.format("gone")
    there = plant(tmp_path, "a/there.py", text)
    plant(tmp_path, ".venv/gone.py", "")
    assert len(files_named_but_missing(tmp_path, [there])) == 2
    assert len(files_named_but_missing(tmp_path, [plant(tmp_path, "b.cu", "// see {}.cuh".format("c"))])) == 1


def test_the_map_names_every_file_of_the_package_and_no_other():
    files = {path.relative_to(ROOT / "ddfnet").as_posix() for path in (ROOT / "ddfnet").rglob("*.py")}
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert mapped(text) == {f for f in files if not f.endswith("__init__.py")}
    assert "task.py" in mapped(text) and mapped(text.replace(" errors.py ", " gone.py ")) ^ mapped(text) == {
        "errors.py",
        "gone.py",
    }


def test_functions_have_few_parameters_and_fit_a_page(tmp_path):
    assert sorted(name for path in CODE for name in many_parameters(path)) == MANY_PARAMETERS
    tests = (ROOT / "tests").rglob("*.py")
    assert [name for path in (*CODE, *tests) for name in long_functions(path)] == []
    eight, body = "a, b, c, d, e, f, g, h", "    pass\n"
    for text in (f"def f({eight}): pass", f"class A:\n  def f(self, {eight}): pass", f"def f({eight[:-1]}i=1): pass"):
        assert len(many_parameters(plant(tmp_path, "a.py", text))) == 1
    for text in (f"class A:\n  def f(self, {eight[3:]}): pass", f"def f(a, *, {eight[3:]}, i): pass"):
        assert many_parameters(plant(tmp_path, "a.py", text)) == []
    assert long_functions(plant(tmp_path, "a.py", "def f():\n" + 60 * body)) == ["a.py: f"]
    documented = "def f():\n" + '    """' + 30 * "\n" + '"""\n'
    assert long_functions(plant(tmp_path, "a.py", documented + 60 * body)) == []
    assert long_functions(plant(tmp_path, "a.py", documented + 61 * body)) == ["a.py: f"]


def test_scripts_are_thin_or_known_not_to_be():
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "scripts").glob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > 80} == LONG_SCRIPTS


def test_the_path_of_imports_is_set_where_the_tests_begin_and_in_none_of_the_package(tmp_path):
    tests = [path for path in (ROOT / "tests").glob("*.py") if sets_the_path(path)]
    assert sorted(path.name for path in tests) == ["commands.py", "conftest.py"]  # the one as Python does for a script
    assert [path for path in (ROOT / "ddfnet").rglob("*.py") if sets_the_path(path)] == []
    for text in ("sys.path.insert(0, a)", "sys.path[:0] = [a]", "sys.path = [a]", "sys.path += [a]"):
        assert sets_the_path(plant(tmp_path, "a.py", text))
    assert not sets_the_path(plant(tmp_path, "a.py", "for a in sys.path:\n    os.path.join(a, sys.path[0])"))
