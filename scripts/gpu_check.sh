#!/usr/bin/env bash
# Checks and measures the CUDA operator on a GPU. Needs torch, timm, cupy and pytest; no network, no installation.
#   scripts/gpu_check.sh tests     every kernel against float64, streams, graphs, compilers; compute-sanitizer if there
#   scripts/gpu_check.sh ops       the operator's passes beside their floors and rivals; Table 2; the cost of a launch
#   scripts/gpu_check.sh models    images per second of the networks
# Each part is stopped before nine minutes are over. Results go to benchmarks/results/DEVICE.json (OUTPUT: elsewhere).
# PYTHON: the interpreter (default: .venv/bin/python, else python3). DDFNET_REFERENCE_DATA: the folder with the authors'
# outputs, reference/official_logits.npz. DDFNET_COMMIT: what to call the commit where there is no git.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:-}
case "$part" in
tests | ops | models) ;;
*)
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python} || python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
missing=$("$python" - <<'EOF'
import importlib.util
print(*(name for name in ("torch", "timm", "cupy", "pytest") if importlib.util.find_spec(name) is None))
EOF
)
[ -z "$missing" ] || { echo "error: $python lacks $missing: install it there, or set PYTHON to one that has it" >&2; exit 1; }
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  { echo "error: PyTorch of $python sees no GPU here: scripts/gpu_check.sh needs one" >&2; exit 1; }
name=$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-").replace("/", "-"))')
output=${OUTPUT:-benchmarks/results/$name.json}
status=0
run() { # seconds, command: stopped by an interrupt, at which pytest and the benchmarks report what they have
  timeout -s INT -k 10 "$@" || { status=$?; echo "== exit $status: ${*:2}"; }
}

case "$part" in
tests)
  pytest=("$python" -m pytest --noconftest -p no:cacheprovider -rs tests/test_gpu.py)
  report=$(mktemp)
  run 350 "${pytest[@]}" --durations 5 --junitxml "$report"
  "$python" scripts/benchmark.py record --output "$output" --junit "$report"
  rm -f "$report"
  # memcheck and racecheck make a kernel a hundred times slower: one dtype, one size of each kernel and layout
  some='(every_specialisation and 3-1-mul and float16 and not bfloat16) or (the_rest and both and float32 and not 15)'
  if ! sanitizer=$(command -v compute-sanitizer); then
    echo "compute-sanitizer is not on the PATH: memcheck and racecheck are left out"
  elif ! "$sanitizer" "$python" -c 'import torch; torch.zeros(1, device="cuda")' >/dev/null 2>&1; then
    echo "compute-sanitizer does not run on this device: memcheck and racecheck are left out"
  else
    echo "== compute-sanitizer memcheck"
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1 # one allocation per tensor, so that its end is seen
    run 80 "$sanitizer" --tool memcheck --report-api-errors no --error-exitcode 1 "${pytest[@]}" -k "$some"
    echo "== compute-sanitizer racecheck"
    run 80 "$sanitizer" --tool racecheck --error-exitcode 1 "${pytest[@]}" -k "$some"
  fi
  ;;
ops)
  run 40 "$python" scripts/benchmark.py launch --output "$output"
  run 90 "$python" scripts/benchmark.py table2 --repeats 300 --output "$output"
  run 380 "$python" scripts/benchmark.py ops --minutes 4 --output "$output"
  ;;
models)
  run 520 "$python" scripts/benchmark.py models --minutes 6 --output "$output"
  ;;
esac
[ "$status" = 0 ] && echo "all green (what was skipped or left out is named above)" || echo "FAILED"
exit "$status"
