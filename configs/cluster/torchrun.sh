#!/bin/bash
# Without a scheduler, the same line on every machine, NODE_RANK counting from 0 and MASTER_ADDR naming the first:
#   NODE_RANK=0 MASTER_ADDR=host0 configs/cluster/torchrun.sh test -c configs/tour/06-diffpure.test.yaml
set -euo pipefail
: "${NODES:=2}" "${GPUS:=4}" "${NODE_RANK:=0}" "${MASTER_ADDR:=127.0.0.1}" "${MASTER_PORT:=29500}"
cli=$(cd "$(dirname "$0")/../.." && pwd)/cli.py
exec torchrun --nnodes "$NODES" --nproc_per_node "$GPUS" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" \
  --master_port "$MASTER_PORT" "$cli" "$@" --trainer.num_nodes "$NODES" --trainer.devices "$GPUS" --trainer.strategy ddp
