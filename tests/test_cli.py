"""How commands end: ddfnet/cli.py, through which all of them do."""

import ast
import errno
from pathlib import Path

import pytest

from ddfnet import cli
from ddfnet.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


def raising(error):
    def main():
        raise error

    return main


def end_of(main, **options):
    with pytest.raises(SystemExit) as end:
        cli.run(main, **options)
    return end.value.code


@pytest.mark.parametrize("code", [None, 0, 1, 75])
def test_what_main_returns_is_the_exit_code(code):
    assert end_of(lambda: code) == code


def test_a_users_mistake_and_a_full_disk_end_in_one_sentence():
    assert end_of(raising(UserError("a.yaml: no such file"))) == "error: a.yaml: no such file"
    full = OSError(errno.ENOSPC, "No space left on device", "a.json")
    assert end_of(raising(full)) == "error: [Errno 28] No space left on device: 'a.json'"


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()))


def test_after_ctrl_c_a_command_says_what_it_has_to_say(capsys):
    assert end_of(raising(KeyboardInterrupt())) == 130 and capsys.readouterr().err == ""
    assert end_of(raising(KeyboardInterrupt()), interrupted="nothing is lost", code=1) == 1
    assert capsys.readouterr().err == "nothing is lost\n"


def ends_by_itself(text: str) -> bool:
    """Whether what a file does as a command is anything but one call of `cli.run`."""
    *above, last = ast.parse(text).body
    is_block = isinstance(last, ast.If) and "__name__" in ast.unparse(last.test) and not last.orelse
    if not is_block or [ast.unparse(line).split("(")[0] for line in last.body] != ["cli.run"]:
        return True
    said = [node.value for node in above if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)]
    return any(isinstance(node, ast.If) for node in above) or any(
        not ast.unparse(call).startswith("sys.path.insert(") for call in said
    )


def test_every_command_ends_by_it():
    commands = [ROOT / "train.py", ROOT / "eval.py", *(ROOT / "scripts").glob("*.py")]
    assert {path.name for path in commands if ends_by_itself(path.read_text())} == set()
    block = "if __name__ == '__main__':\n    "
    assert not ends_by_itself(f'"""What."""\nimport a\n{block}cli.run(main)')
    for text in (
        f"{block}main()",
        "main()",
        "cli.run(main)",
        f"main()\n{block}cli.run(main)",
        f"{block}main()\n{block}cli.run(main)",
        f"{block}try:\n        cli.run(main)\n    except OSError:\n        pass",
    ):
        assert ends_by_itself(text), text
