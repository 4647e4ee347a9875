#!/bin/bash
# Machine 0 of 2: 2 prefill and 2 decode workers, frontend.
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
POD_IP=$NODE_0_IP

# prefill-0
start env CUDA_VISIBLE_DEVICES=0,1 USER=tandem VLLM_NIXL_SIDE_CHANNEL_HOST="$POD_IP" VLLM_NIXL_SIDE_CHANNEL_PORT=20097 VLLM_NO_USAGE_STATS=1 vllm serve /models/qwen3-32b \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8001 \
    --shutdown-timeout 600 \
    --tensor-parallel-size 2 \
    --max-num-seqs 1 \
    --max-num-batched-tokens 5500 \
    --max-model-len 8192 \
    --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_load_failure_policy": "fail"}'

# prefill-1
start env CUDA_VISIBLE_DEVICES=2,3 USER=tandem VLLM_NIXL_SIDE_CHANNEL_HOST="$POD_IP" VLLM_NIXL_SIDE_CHANNEL_PORT=20098 VLLM_NO_USAGE_STATS=1 vllm serve /models/qwen3-32b \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8002 \
    --shutdown-timeout 600 \
    --tensor-parallel-size 2 \
    --max-num-seqs 1 \
    --max-num-batched-tokens 5500 \
    --max-model-len 8192 \
    --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_producer", "kv_load_failure_policy": "fail"}'

# decode-0
start env CUDA_VISIBLE_DEVICES=4,5 USER=tandem VLLM_NIXL_SIDE_CHANNEL_HOST="$POD_IP" VLLM_NIXL_SIDE_CHANNEL_PORT=20099 VLLM_NO_USAGE_STATS=1 vllm serve /models/qwen3-32b \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8003 \
    --shutdown-timeout 600 \
    --tensor-parallel-size 2 \
    --max-num-seqs 64 \
    --max-num-batched-tokens 64 \
    --max-model-len 8192 \
    --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_consumer", "kv_load_failure_policy": "fail"}'

# decode-1
start env CUDA_VISIBLE_DEVICES=6,7 USER=tandem VLLM_NIXL_SIDE_CHANNEL_HOST="$POD_IP" VLLM_NIXL_SIDE_CHANNEL_PORT=20100 VLLM_NO_USAGE_STATS=1 vllm serve /models/qwen3-32b \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8004 \
    --shutdown-timeout 600 \
    --tensor-parallel-size 2 \
    --max-num-seqs 64 \
    --max-num-batched-tokens 64 \
    --max-model-len 8192 \
    --kv-transfer-config '{"kv_connector": "NixlConnector", "kv_role": "kv_consumer", "kv_load_failure_policy": "fail"}'

# frontend
cat > "$scratch"/endpoints.json <<END
{"endpoints": [
  {"address": "$NODE_0_IP", "name": "prefill-0", "port": 8001, "role": "prefill", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "prefill-1", "port": 8002, "role": "prefill", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "decode-0", "port": 8003, "role": "decode", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "decode-1", "port": 8004, "role": "decode", "revision": "1", "ready": true},
  {"address": "$NODE_1_IP", "name": "decode-2", "port": 8001, "role": "decode", "revision": "1", "ready": true}
]}
END
start tandem router \
    --deployment team-disagg \
    --endpoints-file "$scratch"/endpoints.json \
    --backend vllm \
    --mode disagg \
    --policy leastLoaded \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8000

# The first process that ends, ends all.
wait -n
