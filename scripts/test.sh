#!/usr/bin/env bash
# All checks: lint, types, tests, in .venv (made by this if need be).
#   scripts/test.sh [--slow] [pytest arguments]     --slow adds the tests that take minutes
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup_venv.sh dev
select="not slow"
[ "${1:-}" = --slow ] && { select=""; shift; }
export OMP_NUM_THREADS=1 # small tests on few cores: more threads only wait for each other
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# as many at once as there are cores, at most four
.venv/bin/pytest -m "$select" --numprocesses auto --maxprocesses 4 --dist worksteal "$@"
