#!/bin/bash
# Machine 0 of 5: 2 prefill workers, frontend.
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

: "${NODE_0_IP:?set it to the address of machine 0}"
: "${NODE_1_IP:?set it to the address of machine 1}"
: "${NODE_2_IP:?set it to the address of machine 2}"
: "${NODE_3_IP:?set it to the address of machine 3}"
: "${NODE_4_IP:?set it to the address of machine 4}"
POD_IP=$NODE_0_IP

# prefill-0
start env CUDA_VISIBLE_DEVICES=0,1,2,3 USER=tandem VLLM_NIXL_SIDE_CHANNEL_HOST="$POD_IP" VLLM_NIXL_SIDE_CHANNEL_PORT=20097 VLLM_NO_USAGE_STATS=1 vllm serve /models/deepseek-v3 \
    --served-model-name deepseek \
    --host 0.0.0.0 \
    --port 8001 \
    --shutdown-timeout 600 \
    --tensor-parallel-size 4 \
    --max-num-seqs 1 \
    --max-num-batched-tokens 5500 \
    --max-model-len 8192 \
    --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_load_failure_policy": "fail"}'

# prefill-1
start env CUDA_VISIBLE_DEVICES=4,5,6,7 USER=tandem VLLM_NIXL_SIDE_CHANNEL_HOST="$POD_IP" VLLM_NIXL_SIDE_CHANNEL_PORT=20098 VLLM_NO_USAGE_STATS=1 vllm serve /models/deepseek-v3 \
    --served-model-name deepseek \
    --host 0.0.0.0 \
    --port 8002 \
    --shutdown-timeout 600 \
    --tensor-parallel-size 4 \
    --max-num-seqs 1 \
    --max-num-batched-tokens 5500 \
    --max-model-len 8192 \
    --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_load_failure_policy": "fail"}'

# frontend
cat > "$scratch"/endpoints.json <<END
{"endpoints": [
  {"address": "$NODE_0_IP", "name": "prefill-0", "port": 8001, "role": "prefill", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "prefill-1", "port": 8002, "role": "prefill", "revision": "1", "ready": true},
  {"address": "$NODE_1_IP", "name": "decode-0", "port": 8001, "role": "decode", "revision": "1", "ready": true},
  {"address": "$NODE_3_IP", "name": "decode-1", "port": 8001, "role": "decode", "revision": "1", "ready": true}
]}
END
start tandem router \
    --deployment team-disagg \
    --endpoints-file "$scratch"/endpoints.json \
    --backend vllm \
    --mode disagg \
    --policy leastLoaded \
    --served-model-name deepseek \
    --host 0.0.0.0 \
    --port 8000

# The first process that ends, ends all.
wait -n
