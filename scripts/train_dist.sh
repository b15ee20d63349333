#!/usr/bin/env bash
# Trains on several GPUs of this machine, one process each.
#   scripts/train_dist.sh GPUS CONFIG [key.sub=value ...]
# Several nodes: set NNODES, NODE_RANK and MASTER_ADDR (and MASTER_PORT) on each. train.batch_size is of all together.
# MAX_RESTARTS=3 starts all processes again, up to three times, when one of them dies; they go on from the last checkpoint.
# Ctrl-C or SIGTERM finishes the step, saves and ends with code 75 ("try again"): the same command continues. The launcher
# gives the processes TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds for that (600; older torch does not ask and gives 30).
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# //p' "$0"; exit 2; }
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}
gpus=$1 config=$2
shift 2
fail() { echo "error: $1" >&2 && exit 2; }
number() { [[ $2 =~ ^[0-9]+$ ]] || fail "$1 = '$2', expected $3"; }
positive() { [[ $2 =~ ^0*[1-9][0-9]*$ ]] || fail "$1 = '$2', expected $3"; }
[[ $gpus =~ ^(gpu|cpu|auto)$ ]] || positive GPUS "$gpus" "the number of this machine's GPUs, before the config file"
number MAX_RESTARTS "${MAX_RESTARTS:-0}" "how often to start again"
if [ -n "${NNODES:-}" ]; then
  ranks="0 on the first node, 1 on the next, and so on"
  [[ $NNODES =~ ^0*[1-9][0-9]*:[0-9]+$ ]] || positive NNODES "$NNODES" "the number of nodes"
  [ -n "${NODE_RANK:-}" ] || fail "NNODES = $NNODES needs NODE_RANK: $ranks"
  [ -n "${MASTER_ADDR:-}" ] || fail "NNODES = $NNODES needs MASTER_ADDR: the first node's name or address, on all nodes"
  number NODE_RANK "$NODE_RANK" "$ranks"
  ((10#$NODE_RANK < 10#${NNODES#*:})) || fail "NODE_RANK = '$NODE_RANK' of NNODES = $NNODES, expected $ranks"
  number MASTER_PORT "${MASTER_PORT:-29500}" "a number"
  rendezvous=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
else
  # not MASTER_ADDR, which some clusters set for every job
  [ -z "${NODE_RANK:-}" ] || fail "NODE_RANK = '$NODE_RANK' needs NNODES, the number of nodes"
  rendezvous=(--standalone)
fi
python=$(dirname "$0")/../.venv/bin/python
[ -x "$python" ] || python=python
"$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$gpus" --max-restarts "${MAX_RESTARTS:-0}" \
  "$(dirname "$0")/../train.py" --config "$config" "$@" &
launcher=$! asked=
trap 'asked=1; kill -TERM "$launcher" 2>/dev/null || true' TERM INT
status=0
wait "$launcher" || status=$?
while kill -0 "$launcher" 2>/dev/null; do # a signal ends the wait: go on until the launcher has ended
  status=0
  wait "$launcher" || status=$?
done
[ "$status" = 0 ] || [ -z "$asked" ] || status=75 # torchrun has its own code for processes that were asked to stop
exit "$status"
