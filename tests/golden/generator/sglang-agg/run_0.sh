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

# agg-0
start env CUDA_VISIBLE_DEVICES=0,1 SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=false USER=tandem python3 -m sglang.launch_server \
    --model-path /models/qwen3-32b \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8001 \
    --enable-metrics \
    --tp-size 2 \
    --cuda-graph-bs-decode 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127 128 \
    --max-running-requests 128 \
    --max-prefill-tokens 5500 \
    --context-length 8192

# agg-1
start env CUDA_VISIBLE_DEVICES=2,3 SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=false USER=tandem python3 -m sglang.launch_server \
    --model-path /models/qwen3-32b \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8002 \
    --enable-metrics \
    --tp-size 2 \
    --cuda-graph-bs-decode 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127 128 \
    --max-running-requests 128 \
    --max-prefill-tokens 5500 \
    --context-length 8192

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
    --backend sglang \
    --mode agg \
    --policy leastLoaded \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8000

# The first process that ends, ends all.
wait -n
