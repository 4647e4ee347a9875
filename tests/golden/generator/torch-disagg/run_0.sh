#!/bin/bash
# Machine 0 of 1: 2 prefill and 3 decode workers, frontend.
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
POD_IP=$NODE_0_IP

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -- "$scratch"/prefill
cp -- "$here"/prefill_config.yml "$scratch"/prefill/config.yml
mkdir -- "$scratch"/decode
cp -- "$here"/decode_config.yml "$scratch"/decode/config.yml

# prefill-0
start tandem-serve \
    --model /models/qwen3-32b \
    --served-model-name qwen \
    --role prefill \
    --host 0.0.0.0 \
    --port 8001 \
    --config "$scratch"/prefill/config.yml \
    --advertise-host "$POD_IP" \
    --max-num-seqs 16 \
    --max-model-len 8192

# prefill-1
start tandem-serve \
    --model /models/qwen3-32b \
    --served-model-name qwen \
    --role prefill \
    --host 0.0.0.0 \
    --port 8002 \
    --config "$scratch"/prefill/config.yml \
    --advertise-host "$POD_IP" \
    --max-num-seqs 16 \
    --max-model-len 8192

# decode-0
start tandem-serve \
    --model /models/qwen3-32b \
    --served-model-name qwen \
    --role decode \
    --host 0.0.0.0 \
    --port 8003 \
    --config "$scratch"/decode/config.yml \
    --advertise-host "$POD_IP" \
    --max-num-seqs 64 \
    --max-model-len 8192

# decode-1
start tandem-serve \
    --model /models/qwen3-32b \
    --served-model-name qwen \
    --role decode \
    --host 0.0.0.0 \
    --port 8004 \
    --config "$scratch"/decode/config.yml \
    --advertise-host "$POD_IP" \
    --max-num-seqs 64 \
    --max-model-len 8192

# decode-2
start tandem-serve \
    --model /models/qwen3-32b \
    --served-model-name qwen \
    --role decode \
    --host 0.0.0.0 \
    --port 8005 \
    --config "$scratch"/decode/config.yml \
    --advertise-host "$POD_IP" \
    --max-num-seqs 64 \
    --max-model-len 8192

# frontend
cat > "$scratch"/endpoints.json <<END
{"endpoints": [
  {"address": "$NODE_0_IP", "name": "prefill-0", "port": 8001, "role": "prefill", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "prefill-1", "port": 8002, "role": "prefill", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "decode-0", "port": 8003, "role": "decode", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "decode-1", "port": 8004, "role": "decode", "revision": "1", "ready": true},
  {"address": "$NODE_0_IP", "name": "decode-2", "port": 8005, "role": "decode", "revision": "1", "ready": true}
]}
END
start tandem router \
    --deployment team-disagg \
    --endpoints-file "$scratch"/endpoints.json \
    --backend torch \
    --mode disagg \
    --policy leastLoaded \
    --served-model-name qwen \
    --host 0.0.0.0 \
    --port 8000

# The first process that ends, ends all.
wait -n
