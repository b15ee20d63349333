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
  --fresh) fresh=1 arguments+=("$argument") ;;
  --dry-run | --print-config) trains='' arguments+=("$argument") ;;
  --profile) arguments+=("$argument") ;;
  -*) echo "error: $argument: no such option, see scripts/quickstart.sh --help" >&2 && exit 2 ;;
  run.dir= | run.dir=null) run=runs/quickstart ;;
  run.dir=*) run=${argument#run.dir=} ;;
  *) arguments+=("$argument") ;;
  esac
done
if [[ $run =~ ^(~([A-Za-z_][A-Za-z0-9._-]*)?)(/.*)?$ ]]; then # a home directory: mine or that of the user named
  eval "home=${BASH_REMATCH[1]}" && run=$home${BASH_REMATCH[3]}
fi
while :; do
  case $run in ?*/) run=${run%/} ;; ?*/.) run=${run%/.} ;; -*) run=./$run ;; *) break ;; esac
done
beside=$run
if [ -n "$fresh" ]; then # the folder that train.py will choose
  for ((number = 2; 1; number++)); do
    [ -e "$run" ] || break
    run=$beside-$number
  done
fi
scripts/setup_venv.sh
.venv/bin/python train.py --config configs/quickstart.yaml ${arguments[@]+"${arguments[@]}"} run.dir="$beside"
[ -n "$trains" ] || exit 0
.venv/bin/python eval.py --ckpt "$run/checkpoints/best.pt"
cat <<TEXT

Where to look next:
  .venv/bin/tensorboard --logdir "$run"   curves, and the filters that the network generates for a picture
  $run/metrics.jsonl                      the same numbers as text
  configs/ddf_r50.yaml                    the paper's network on ImageNet
  README.md                               DDF in a network of your own
TEXT
