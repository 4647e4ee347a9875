#!/bin/bash
# Machine 0 of 1: 2 agg workers, frontend.
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

NODE_0_IP=${NODE_0_IP:-127.0.0.1}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -- "$scratch"/agg
cp -- "$here"/agg_config.yaml "$scratch"/agg/extra_engine_args.yaml

# agg-0
start env CUDA_VISIBLE_DEVICES=0,1 DO_NOT_TRACK=1 USER=tandem trtllm-serve serve /models/qwen3-32b \
    --host 0.0.0.0 \
    --port 8001 \
    --extra_llm_api_options "$scratch"/agg/extra_engine_args.yaml

# agg-1
start env CUDA_VISIBLE_DEVICES=2,3 DO_NOT_TRACK=1 USER=tandem trtllm-serve serve /models/qwen3-32b \
    --host 0.0.0.0 \
    --port 8002 \
    --extra_llm_api_options "$scratch"/agg/extra_engine_args.yaml

# frontend
cat > "$scratch"/endpoints.json <<END
{"endpoints": [
  {"address": "$NODE_0_IP", "name": "agg-0", "port": 8001, "role": "agg", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "agg-1", "port": 8002, "role": "agg", "revision": "1", "ready": true}
]}
END
start tandem router \
    --deployment team-agg \
    --endpoints-file "$scratch"/endpoints.json \
    --backend trtllm \
    --mode agg \
    --policy leastLoaded \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8000

# The first process that ends, ends all.
wait -n
