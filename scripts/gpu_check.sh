#!/usr/bin/env bash
# Checks and measures the CUDA operator on a GPU. Needs torch, timm, cupy and pytest; no network, no installation.
#   scripts/gpu_check.sh tests     every kernel against float64, streams, graphs, compilers; compute-sanitizer if there
#   scripts/gpu_check.sh ops       the operator's passes beside their floors and rivals; Table 2; the cost of a launch
#   scripts/gpu_check.sh models    images per second of the networks
# Each part takes less than nine minutes. Figures go to benchmarks/results/DEVICE.json (OUTPUT=FILE.json elsewhere).
# PYTHON chooses the interpreter (default: python3); DDFNET_REFERENCE_DATA the authors' outputs, where one has them.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  { echo "error: PyTorch of $python sees no GPU here: scripts/gpu_check.sh needs one" >&2; exit 1; }
name=$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-").replace("/", "-"))')
output=${OUTPUT:-benchmarks/results/$name.json}
pytest=("$python" -m pytest --noconftest -p no:cacheprovider tests/test_gpu.py)
case "${1:-}" in
tests)
  status=0
  timeout 300 "${pytest[@]}" --durations 5 || status=$?
  if sanitizer=$(command -v compute-sanitizer); then
    # one specialisation of each kernel and layout: these tools run a hundred times slower
    some='(every_specialisation and 3-1-mul and float16) or (the_rest and both and float32)'
    for tool in memcheck racecheck; do
      echo "== compute-sanitizer $tool"
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 110 "$sanitizer" --tool "$tool" --error-exitcode 1 "${pytest[@]}" -k "$some" || status=$?
    done
  else
    echo "compute-sanitizer is not on the PATH: memcheck and racecheck are left out"
  fi
  [ "$status" = 0 ] && echo "all green" || echo "FAILED"
  exit "$status"
  ;;
ops)
  "$python" scripts/benchmark.py launch --output "$output"
  timeout 100 "$python" scripts/benchmark.py table2 --repeats 300 --output "$output"
  timeout 380 "$python" scripts/benchmark.py ops --minutes 5 --output "$output"
  ;;
models)
  timeout 530 "$python" scripts/benchmark.py models --minutes 6 --output "$output"
  ;;
*)
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
