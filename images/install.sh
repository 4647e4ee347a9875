#!/bin/sh
# Installs Python packages into /opt/tandem inside an image, and leaves no installer there. Usage: install.sh ARGUMENT… of
# `uv pip install`.
set -eu
uv_version=0.13.8
python3 -m venv /tmp/uv
/tmp/uv/bin/pip install --no-cache-dir --quiet "uv==$uv_version"
[ -x /opt/tandem/bin/python ] || /tmp/uv/bin/uv venv --quiet --python python3 /opt/tandem
/tmp/uv/bin/uv pip install --quiet --no-cache --system-certs --compile-bytecode --python /opt/tandem/bin/python "$@"
rm -rf /tmp/uv
