#!/usr/bin/env bash
# Checks and measures the CUDA operator, and training, on a GPU. Needs torch, timm, cupy and pytest; `train` also what
# train.py needs. No network, no installation.
#   scripts/gpu_check.sh tests     every kernel against float64, streams, graphs, compilers; compute-sanitizer if there
#   scripts/gpu_check.sh ops       the operator's passes beside their floors and rivals; a profile of each, where ncu is;
#                                  the cost of a launch; Table 2
#   scripts/gpu_check.sh models    images per second of the networks
#   scripts/gpu_check.sh train     the training engine: no waits, resume, compilers, the feeder, NCCL; a run if there is
#                                  data: DDFNET_TINY_IMAGENET, a folder of train/CLASS/*.JPEG and val/CLASS/*.JPEG
# Each part is stopped before nine minutes are over, and says so. Results: benchmarks/results/DEVICE.json (or OUTPUT;
# the profile in DEVICE-ncu.csv).
# PYTHON: the interpreter (default: .venv/bin/python, else python3). DDFNET_REFERENCE_DATA: the folder with the authors'
# outputs, reference/official_logits.npz (default: shared, beside this checkout or in it). DDFNET_COMMIT: what to call
# the commit where there is no git.
set -euo pipefail
cd "$(dirname "$0")/.."
part=${1:-}
case "$part" in
tests | ops | models) needed="torch timm cupy pytest" ;;
train) needed="torch torchvision timm cupy pydantic yaml rich tensorboard pytest" ;;
*)
  sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python} || python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# shellcheck disable=SC2086 # words
missing=$("$python" - $needed <<'EOF'
import importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
EOF
)
[ -z "$missing" ] || { echo "error: $python lacks $missing: install it there, or set PYTHON to one that has it" >&2; exit 1; }
name=$("$python" -c 'import torch; print(torch.cuda.is_available() and torch.cuda.get_device_name())')
[ "$name" != False ] || { echo "error: PyTorch of $python sees no GPU here: scripts/gpu_check.sh needs one" >&2; exit 1; }
output=${OUTPUT:-benchmarks/results/$(tr 'A-Z /' 'a-z--' <<<"$name").json}
for folder in "$PWD/../shared" "$PWD/shared"; do
  [ -e "$folder/reference/official_logits.npz" ] && export DDFNET_REFERENCE_DATA=${DDFNET_REFERENCE_DATA:-$folder}
done
status=0 incomplete=0
run() { # seconds, command: stopped by an interrupt, at which pytest and the benchmarks report what they have
  code=0
  timeout -s INT -k 10 "$@" || code=$?
  case $code in
  0) outcome=passed ;;
  124) outcome=incomplete incomplete=1 && echo "== stopped after $1 s: ${*:2}" ;;
  *) outcome=failed status=$code && echo "== exit $code: ${*:2}" ;;
  esac
}
begin_tests() { # files
  pytest=("$python" -m pytest --noconftest -p no:cacheprovider -rs "$@")
  report=$(mktemp) tools=()
}
record() { # to the file what there is: pytest's report and the outcomes of the tools so far; options for more
  "$python" scripts/benchmark.py record --output "$output" --part "$part" --junit "$report" --ran "${pytest[*]}" \
    --outcome "$tests" "${tools[@]}" "$@" || status=1
}

case "$part" in
tests)
  begin_tests tests/test_gpu.py tests/test_gpu_places.py tests/test_gpu_branches.py tests/test_gpu_networks.py tests/test_in_place.py
  run 270 "${pytest[@]}" --durations 5 --junitxml "$report"
  tests=pytest=$outcome
  record
  # memcheck and racecheck make a kernel a hundred times slower: one dtype, three kernels of each layout, the generic ones
  fast='every_specialisation and (3-1-mul or 3-2-mul or 5-1-mul) and float16 and not bfloat16'
  some="($fast) or (spatial_norm and 3-1 and float16 and not bfloat16) or (the_rest and both and float32 and not 15)"
  if ! sanitizer=$(command -v compute-sanitizer); then
    why="it is not on the PATH"
  elif ! timeout 20 "$sanitizer" "$python" -c 'import torch; torch.zeros(1, device="cuda")' >/dev/null 2>&1; then
    why="it does not run on this device"
  else
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1 # one allocation per tensor, so that its end is seen
    for tool in "memcheck --report-api-errors no" racecheck; do
      echo "== compute-sanitizer $tool"
      # shellcheck disable=SC2086 # the tool's own option is a word of its own
      before=$status
      run 60 "$sanitizer" --tool $tool --error-exitcode 1 "${pytest[@]}" -k "$some"
      tools+=("${tool%% *}=$outcome")
      if [ "$tool" = racecheck ] && [ "$outcome" = failed ]; then # it may not see that a barrier follows a wait of cp.async
        status=$before # unless it fails again
        run 60 "$sanitizer" --tool racecheck --racecheck-memcpy-async no --error-exitcode 1 "${pytest[@]}" -k "$some"
        tools+=("racecheck without cp.async=$outcome")
      fi
    done
    why=
  fi
  if [ -n "$why" ]; then
    echo "compute-sanitizer: $why: memcheck and racecheck are left out"
    tools=("compute-sanitizer=left out: $why")
  fi
  record
  rm -f "$report"
  ;;
ops)
  run 270 "$python" scripts/benchmark.py ops --minutes 4 --output "$output"
  if ! profiler=$(command -v ncu); then
    echo "ncu: it is not on the PATH: the profile is left out"
  elif ! said=$(timeout 30 "$profiler" --metrics smsp__inst_executed.sum "$python" -c \
    'import torch; torch.zeros(1, device="cuda")' 2>&1) || grep -q '==ERROR==' <<<"$said"; then
    echo "ncu: it may not count here: the profile is left out: $(grep -m 1 '==ERROR==' <<<"$said" || true)"
  else # what was counted without a GPU (scripts/kernel_table.py), measured
    metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,smsp__inst_executed.sum
    metrics+=,sm__warps_active.avg.pct_of_peak_sustained_active,l1tex__data_pipe_lsu_wavefronts_mem_shared.sum
    run 70 "$profiler" --csv --log-file "${output%.json}-ncu.csv" --kernel-name regex:^ddf_ --metrics "$metrics" \
      "$python" scripts/benchmark.py once
  fi
  run 40 "$python" scripts/benchmark.py launch --output "$output"
  run 90 "$python" scripts/benchmark.py table2 --repeats 300 --output "$output"
  ;;
models)
  run 520 "$python" scripts/benchmark.py models --minutes 6 --output "$output"
  ;;
train)
  begin_tests tests/test_gpu_train.py
  run 290 "${pytest[@]}" --durations 5 --junitxml "$report"
  tests=pytest=$outcome
  record
  if [ -z "${DDFNET_TINY_IMAGENET:-}" ]; then
    why="DDFNET_TINY_IMAGENET names no folder"
    echo "tiny-imagenet: $why: the run on real pictures is left out"
    tools=("tiny-imagenet=left out: $why")
    record
  else
    folder=$(mktemp -d)
    train=("$python" train.py --config configs/ddf_r18.yaml "data.root=$DDFNET_TINY_IMAGENET" data.image_size=64
      "data.workers=$(nproc)" train.amp=bf16 train.channels_last=true train.compile=true train.epochs=3
      train.warmup_epochs=1 run.log_every=20 "run.dir=$folder/run")
    echo "== ${train[*]}"
    run 200 "${train[@]}"
    tools=("tiny-imagenet=$outcome")
    pytest+=("; ${train[*]}")
    record --run "$folder/run"
    rm -rf "$folder"
  fi
  rm -f "$report"
  ;;
esac
if [ "$status" != 0 ]; then
  echo "FAILED"
elif [ "$incomplete" = 1 ]; then
  echo "INCOMPLETE: out of time (what failed before that is named above)"
  status=124
else
  echo "all green (what was skipped or left out is named above)"
fi
exit "$status"
