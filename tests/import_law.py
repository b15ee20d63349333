"""Reads a tree of Python files and tells which rules of the house it breaks, a sentence each."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

# What each part of the package may import beside itself and the files at the top that are not named here, which all may
# import and which import only one another.
LAW = {
    "ops": set(),
    "nn": {"ops"},
    "config": set(),
    "models": {"ops", "nn", "config"},
    "task": {"config"},
    "data": {"task"},  # the protocol of a batch; of the config it is handed what it needs
    "train": {"config", "task"},
    "tasks": {"ops", "nn", "config", "models", "task", "data", "train"},
    "__init__": {"ops", "nn", "models"},
}
MOVES = ("replace", "rename", "renames", "move")
EXAMPLES = {"test_x.py"}  # named to show what a name looks like


def imports(path: Path, root: Path) -> Iterator[str]:
    """Every name that a file imports, dotted and whole, at any depth of its code: "ddfnet.nn.DDF"."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    name = str(argument.value)
                    up = len(name) - len(name.lstrip("."))
                    yield ".".join((*package[: len(package) - up + 1], name[up:])) if up else name


def broken_imports(root: Path) -> list[str]:
    """Imports that go upward in the package `ddfnet` under `root`, and those between tasks."""
    found = []
    for path in sorted((root / "ddfnet").rglob("*.py")):
        parts = path.relative_to(root / "ddfnet").with_suffix("").parts
        part = parts[0] if len(parts) > 1 or parts[0] in LAW else "neutral"
        own = LAW.get(part, set()) | {part}
        for name in imports(path, root):
            first, *inner = name.split(".")
            if first in ("scripts", "tests", "train", "eval") or (root / "scripts" / f"{first}.py").exists():
                found.append(f"{path.relative_to(root)}: imports {name}: the package stands without its scripts")
            if first != "ddfnet":
                continue
            if not inner:
                found.append(f"{path.relative_to(root)}: imports {name} whole: say which part")
                continue
            target = inner[0] if inner[0] in LAW else "neutral"
            if target != "neutral" and target not in own:
                found.append(f"{path.relative_to(root)}: imports {name}: {part} may not import {target}")
            if part == target == "tasks" and len(inner) > 1:
                is_task = (root / "ddfnet" / "tasks" / inner[1]).is_dir()
                if is_task and inner[1] != parts[1]:
                    found.append(f"{path.relative_to(root)}: imports {name}: a task imports no other, they share none")
    return found


def scripts_imported(root: Path) -> list[str]:
    """Scripts that import another script; their folders (scripts/measure and the like) are libraries."""
    scripts = {path.stem for path in (*root.glob("*.py"), *(root / "scripts").glob("*.py"))}
    return [
        f"{path.relative_to(root)}: imports {name}, a script"
        for path in sorted((root / "scripts").rglob("*.py"))
        for name in imports(path, root / "scripts")
        if name.removeprefix("scripts.").split(".")[0] in scripts - {path.stem}
    ]


def private_names_taken(path: Path, root: Path) -> list[str]:
    """Names with an underscore that a file takes from another of our modules: `from x import _y`, `x._y`, `x.y._z`,
    `setattr(x, "_y", ...)` of anything's."""
    tree, found, modules = ast.parse(path.read_text()), [], set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = "." * getattr(node, "level", 0) + (getattr(node, "module", None) or "")
            for alias in node.names:
                own = module.startswith(".") or _is_ours(module or alias.name, root)
                if not own:
                    continue
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    found.append(alias.name)
                modules.add(alias.asname or alias.name)
    roots = {module.split(".")[0] for module in modules}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            whole, _, name = ast.unparse(node).rpartition(".")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "setattr" and len(node.args) > 1:
            said = [str(one.value) if isinstance(one, ast.Constant) else "" for one in node.args[:2]]
            whole, _, name = (f"{ast.unparse(node.args[0])}.{said[1]}" if not said[0] else said[0]).rpartition(".")
            if _is_ours(whole, root):
                roots.add(whole.split(".")[0])
        else:
            continue
        first = whole.split(".")[0]
        if name.startswith("_") and not name.startswith("__") and first in roots and first.islower():
            found.append(f"{whole}.{name}")
    return found


def files_moved(path: Path) -> list[str]:
    """What in a file gives another file its name: os.replace(a, b), path.replace(b), shutil.move ..., as it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            found += [ast.unparse(node) for alias in node.names if alias.name in MOVES]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MOVES:
            by_module = ast.unparse(node.func.value) in ("os", "shutil")
            if by_module or (len(node.args) == 1 and not node.keywords):  # text.replace takes two
                found.append(ast.unparse(node))
    return found


def files_opened_to_write(path: Path) -> list[str]:
    """What in a file writes to another by itself: open(a, "wb"), path.write_text(b), numpy.save("a", b) ..."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called, last = ast.unparse(node.func), ast.unparse(node.func).split(".")[-1]
        # path.open("w"); open(path, "w"), gzip.open(path, "w")
        place = 0 if "." in called and len(node.args) == 1 else 1
        given = [*node.args[place : place + 1], *(k.value for k in node.keywords if k.arg == "mode")]
        modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        writes = any(re.fullmatch(r"(?=.*[wax+])[rwax+bt]{1,3}", mode) for mode in modes)
        if last in ("write_text", "write_bytes") or (last in ("open", "fdopen") and writes):
            found.append(ast.unparse(node))
    return found


def many_parameters(path: Path) -> list[str]:
    """Functions of a file with more than 7 parameters that may be given by their place; torch's schemas are flat."""
    found = []
    for function in _functions(path):
        arguments = function.args
        names = {one.arg for one in (*arguments.posonlyargs, *arguments.args)} - {"self", "cls"}
        schema = any("custom_op" in ast.unparse(d) or ".register_" in ast.unparse(d) for d in function.decorator_list)
        if len(names) > 7 and not schema:
            found.append(f"{path.name}: {function.name}")
    return found


def long_functions(path: Path) -> list[str]:
    """Functions of a file with more than 60 lines, their docstrings left out."""
    found = []
    for function in _functions(path):
        documented = ast.get_docstring(function) is not None
        first = function.body[0].end_lineno + 1 if documented else function.lineno
        if function.end_lineno - first >= 60:
            found.append(f"{path.name}: {function.name}")
    return found


def sets_the_path(path: Path) -> bool:
    """Whether a file calls a method of sys.path or assigns to it or to a part of it."""
    changed = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            changed.append(ast.unparse(node.func.value))
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            changed += [ast.unparse(target).split("[")[0] for target in targets]
    return "sys.path" in changed


def _functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def _is_ours(module: str, root: Path) -> bool:
    first = module.split(".")[0]
    homes = (root, root / "scripts", root / "tests")
    return any((home / first).is_dir() or (home / f"{first}.py").exists() for home in homes)


def files_named_but_missing(root: Path, paths: list[Path]) -> list[str]:
    """File names in comments and docstrings of `paths` that no file of the repository has."""
    every = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    known = [path.as_posix() for path in every if not any(part.startswith(".") for part in path.parts)]  # as .venv
    found = []
    for path in paths:
        for text in _words(path):
            for name in re.findall(r"(?<![\w/*.{}<>$-])[\w/-]+\.(?:py|cu|cuh|cpp|sh|sbatch)\b(?!\.\w)", text):
                if name not in EXAMPLES and not any(f"/{one}".endswith(f"/{name}") for one in known):
                    found.append(f"{path.relative_to(root)}: names {name}, which is not there")
    return found


def _words(path: Path) -> Iterator[str]:
    """The comments and docstrings of a file."""
    text = path.read_text()
    if path.suffix.startswith(".cu"):
        yield from re.findall(r"//(.*)", text)
        return
    yield from re.findall(r"#(.*)", text)
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


def mapped(contributing: str) -> set[str]:
    """The files of the package that the map in CONTRIBUTING.md names, relative to ddfnet/."""
    block = contributing.split("```")[1]
    lines = block[block.index("\nddfnet/\n") + len("\nddfnet/\n") : block.index("\ntests/")].splitlines()
    found, folder = set(), ""
    for line in lines:
        words = line.split()
        if words and words[0].endswith("/") and line.startswith("  ") and not line.startswith("   "):
            folder = words.pop(0)
        elif line.startswith("  ") and not line.startswith("   "):
            folder = ""
        found |= {folder + word.strip(".,;:()") for word in words if word.strip(".,;:()").endswith(".py")}
    return found
