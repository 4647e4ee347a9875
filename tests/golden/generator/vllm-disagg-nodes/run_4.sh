#!/bin/bash
# Machine 4 of 5: a part of decode-1.
# Written by `tandem generator`; needs bash 4.3 or newer, and the programs that it starts.
set -euo pipefail
scratch=$(mktemp -d)
pids=()
finish() {
    trap - EXIT INT TERM
    [ "${#pids[@]}" -eq 0 ] || kill -- "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf -- "$scratch"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
start() {
    "$@" &
    pids+=("$!")
}

: "${NODE_3_IP:?set it to the address of machine 3}"
: "${NODE_4_IP:?set it to the address of machine 4}"
POD_IP=$NODE_4_IP

# decode-1, part 1 of 2
start env CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 USER=tandem VLLM_NIXL_SIDE_CHANNEL_HOST="$POD_IP" VLLM_NIXL_SIDE_CHANNEL_PORT=20097 VLLM_NO_USAGE_STATS=1 vllm serve /models/deepseek-v3 \
    --served-model-name deepseek \
    --host 0.0.0.0 \
    --port 8001 \
    --shutdown-timeout 600 \
    --tensor-parallel-size 16 \
    --max-num-seqs 64 \
    --max-num-batched-tokens 64 \
    --max-model-len 8192 \
    --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_consumer", "kv_load_failure_policy": "fail"}' \
    --nnodes 2 \
    --node-rank 1 \
    --master-addr "$NODE_3_IP" \
    --master-port 29501 \
    --headless

# The first process that ends, ends all.
wait -n
