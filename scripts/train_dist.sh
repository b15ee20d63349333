#!/usr/bin/env bash
# Trains on several GPUs of this machine, one process each.
#   scripts/train_dist.sh GPUS CONFIG [key.sub=value ...]
# Several nodes: set NNODES, NODE_RANK and MASTER_ADDR (and MASTER_PORT) on each. train.batch_size is of all together.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }
gpus=$1 config=$2
shift 2
if [ -n "${NNODES:-}" ]; then
  rendezvous=(--nnodes "$NNODES" --node-rank "${NODE_RANK:?}" --master-addr "${MASTER_ADDR:?}" --master-port "${MASTER_PORT:-29500}")
else
  rendezvous=(--standalone)
fi
python=$(dirname "$0")/../.venv/bin/python
[ -x "$python" ] || python=python
exec "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$gpus" \
  "$(dirname "$0")/../train.py" --config "$config" "$@"
