#!/bin/bash
# Machine 1 of 2: 1 decode workers.
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

: "${NODE_1_IP:?set it to the address of machine 1}"

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -- "$scratch"/decode
cp -- "$here"/decode_config.yaml "$scratch"/decode/extra_engine_args.yaml

# decode-2
start env CUDA_VISIBLE_DEVICES=0,1 DO_NOT_TRACK=1 USER=tandem trtllm-serve serve /models/qwen3-32b \
    --host 0.0.0.0 \
    --port 8001 \
    --extra_llm_api_options "$scratch"/decode/extra_engine_args.yaml

# The first process that ends, ends all.
wait -n
