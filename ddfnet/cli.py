"""How a command ends: well, by a sentence to its user, or because it was stopped."""

import sys
from collections.abc import Callable
from typing import NoReturn

from .errors import UserError


def run(main: Callable[[], int | None], *, interrupted: str | None = None, code: int = 130) -> NoReturn:
    """Run a command and end the process; what `main` returns is its exit code.

    A mistake of the user's, a full disk or a folder that vanished ends it by one sentence and exit code 1. Any other
    exception is a fault of ours and keeps its traceback.

    Args:
        interrupted: what to say after Ctrl-C.
        code: the exit code after Ctrl-C; 130 is what shells give it.
    """
    try:
        sys.exit(main())
    except (UserError, OSError) as error:  # an OSError names its file by itself
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        if interrupted:
            print(interrupted, file=sys.stderr)
        sys.exit(code)
