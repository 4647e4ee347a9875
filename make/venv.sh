#!/bin/sh
# Makes .venv with everything the project needs, pinned by constraints.txt. Usage: make/venv.sh [EXTRA,EXTRA]
# Torch comes as its small CPU build where that build's index can be reached and the machine has no GPU,
# else as the registry's default build.
set -eu
cd "$(dirname "$0")/.."
extras=${1:-serve,dev}
if [ -L .venv ]; then
    echo "error: .venv is a link to $(readlink .venv): what is installed there would change for others, too. Remove the link." >&2
    exit 1
fi
uv_version=0.13.8

find_python() {
    for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$candidate"; return; }
    done
    echo "error: Python 3.11 or newer was not found. Install it (Debian: apt-get install python3 python3-venv) or set PYTHON=/path/to/python3." >&2
    exit 1
}

find_uv() {
    boot=build/uv-$uv_version
    if [ ! -x "$boot/bin/uv" ]; then
        rm -rf "$boot"
        "$python" -m venv "$boot" || {
            echo "error: '$python -m venv' failed. On Debian: apt-get install python3-venv" >&2
            exit 1
        }
        "$boot/bin/pip" --quiet --disable-pip-version-check install "uv==$uv_version"
    fi
    echo "$boot/bin/uv"
}

# Says now and then that it still works: uv itself is silent while it downloads and compiles.
show_progress() { while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do echo "setting up .venv: $(seconds) s" >&2; done; }
seconds() { echo $(($(date +%s) - began)); }

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; }

# Compiled once here: some machines forbid Python to keep what it compiles, and torch is large.
install() { "$uv" pip install --quiet --compile-bytecode --python .venv/bin/python -c constraints.txt -e ".[$extras]" "$@"; }

began=$(date +%s)
python=$(find_python)
uv=$(find_uv)
echo "setting up .venv ($($python --version), extras: $extras); torch makes the first time slow" >&2
show_progress &
progress=$!
trap 'kill "$progress" 2>/dev/null' EXIT
[ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv
if has_gpu || ! install --torch-backend cpu 2>build/venv-cpu.log; then
    install
fi
echo "$extras" > .venv/.extras
touch .venv/.ready
echo "set up .venv in $(seconds) s" >&2
