#!/usr/bin/env bash
# Makes .venv in the repository and installs ddfnet in it, editable.
#   scripts/setup_venv.sh [EXTRA]     EXTRA: dev, cuda12 or cuda13 (setup.cfg)
# PYTHON chooses the interpreter (default: python3, 3.10 or newer). Does nothing where it is done already.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-}
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "error: no $python here: install Python 3.10 or newer, or set PYTHON" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  { echo "error: $("$python" --version) is too old, ddfnet needs 3.10 or newer: set PYTHON to one" >&2; exit 1; }
stamp=".venv/installed-${extra:-plain}"
if [ ! -e "$stamp" ] || [ setup.cfg -nt "$stamp" ]; then
  echo "installing into $PWD/.venv (torch alone is some gigabytes; a few minutes) ..."
  # asks for pip, not python: Debian without python3-venv leaves half a .venv behind
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv
  # torch, torchvision and the rest in one command, so that their versions match
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
  touch "$stamp"
fi
