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

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -- "$scratch"/prefill
cp -- "$here"/prefill_config.yaml "$scratch"/prefill/extra_engine_args.yaml
mkdir -- "$scratch"/decode
cp -- "$here"/decode_config.yaml "$scratch"/decode/extra_engine_args.yaml

# prefill-0
start env CUDA_VISIBLE_DEVICES=0,1 DO_NOT_TRACK=1 USER=tandem trtllm-serve serve /models/qwen3-32b \
    --host 0.0.0.0 \
    --port 8001 \
    --extra_llm_api_options "$scratch"/prefill/extra_engine_args.yaml

# prefill-1
start env CUDA_VISIBLE_DEVICES=2,3 DO_NOT_TRACK=1 USER=tandem trtllm-serve serve /models/qwen3-32b \
    --host 0.0.0.0 \
    --port 8002 \
    --extra_llm_api_options "$scratch"/prefill/extra_engine_args.yaml

# decode-0
start env CUDA_VISIBLE_DEVICES=4,5 DO_NOT_TRACK=1 USER=tandem trtllm-serve serve /models/qwen3-32b \
    --host 0.0.0.0 \
    --port 8003 \
    --extra_llm_api_options "$scratch"/decode/extra_engine_args.yaml

# decode-1
start env CUDA_VISIBLE_DEVICES=6,7 DO_NOT_TRACK=1 USER=tandem trtllm-serve serve /models/qwen3-32b \
    --host 0.0.0.0 \
    --port 8004 \
    --extra_llm_api_options "$scratch"/decode/extra_engine_args.yaml

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
    --backend trtllm \
    --mode disagg \
    --policy leastLoaded \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8000

# The first process that ends, ends all.
wait -n
