#!/usr/bin/env bash
# From nothing to a trained network: installs into .venv, trains DDF-ResNet18 on real handwritten digits (90 s on
# two CPU cores, no download but the packages), evaluates the best checkpoint.
#   scripts/quickstart.sh [key.sub=value ...]     as for train.py, such as train.epochs=2 run.dir=runs/mine
#   --fresh                                       trains in a new folder beside the last one, and evaluates that
#   --dry-run, --print-config                     as for train.py; there is nothing to evaluate then
set -euo pipefail
cd "$(dirname "$0")/.."
run=runs/quickstart fresh='' trains=1 arguments=()
for argument in "$@"; do
  case $argument in
  -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit ;;
  --fresh) fresh=1 ;;
  --dry-run | --print-config) trains='' arguments+=("$argument") ;;
  --profile) arguments+=("$argument") ;;
  -*) echo "error: $argument: no such option, see scripts/quickstart.sh --help" >&2 && exit 2 ;;
  run.dir= | run.dir=null) run=runs/quickstart ;;
  run.dir=*) run=${argument#run.dir=} ;;
  *) arguments+=("$argument") ;;
  esac
done
case $run in "~" | "~/"*) run=$HOME${run#"~"} ;; esac
if [ -n "$fresh" ]; then
  beside=$run
  for ((number = 2; 1; number++)); do
    [ -e "$run" ] || break
    run=$beside-$number
  done
fi
scripts/setup_venv.sh
.venv/bin/python train.py --config configs/quickstart.yaml ${arguments[@]+"${arguments[@]}"} run.dir="$run"
[ -n "$trains" ] || exit 0
.venv/bin/python eval.py --ckpt "$run/checkpoints/best.pt"
cat <<TEXT

Where to look next:
  .venv/bin/tensorboard --logdir "$run"   curves, and the filters that the network generates for a picture
  $run/metrics.jsonl                      the same numbers as text
  configs/ddf_r50.yaml                    the paper's network on ImageNet
  README.md                               DDF in a network of your own
TEXT
