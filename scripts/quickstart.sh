#!/usr/bin/env bash
# From nothing to a trained network: installs into .venv, trains DDF-ResNet18 on real handwritten digits (90 s on
# two CPU cores, no download but the packages), evaluates the best checkpoint.
#   scripts/quickstart.sh [key.sub=value ...]     as for train.py, such as train.epochs=2
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup_venv.sh
run=runs/quickstart
for override in "$@"; do case $override in run.dir=*) run=${override#run.dir=};; esac; done
.venv/bin/python train.py --config configs/quickstart.yaml run.dir="$run" "$@"
.venv/bin/python eval.py --ckpt "$run/checkpoints/best.pt"
cat <<TEXT

Where to look next:
  .venv/bin/tensorboard --logdir $run     curves, and the filters that the network generates for a picture
  $run/metrics.jsonl                      the same numbers as text
  configs/ddf_r50.yaml                    the paper's network on ImageNet
  README.md                               DDF in a network of your own
TEXT
