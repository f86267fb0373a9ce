#!/usr/bin/env bash
# Make .venv from the lock file. Installs the Debian packages that are missing when run as root, names them otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || missing+=(python3)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
python3 -c 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null \
    || missing+=(python3-dev)
if ((${#missing[@]})); then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: please install first: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

echo "setup: making .venv" >&2
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
# Built anew even where uv remembers a build of this folder: the contracts and the compiled twins are made in place.
.venv/bin/uv sync --frozen --quiet --all-extras --inexact --reinstall-package sbc-edge-agent
.venv/bin/python -c 'import sbcedge.policy.v1.policy_pb2'
.venv/bin/sbc-agent --version >&2
.venv/bin/python -c 'from agent import native; print("setup: compiled twins:",
    ", ".join(n for n in ("sip", "numbers", "rates", "answer", "udp", "hook", "gate", "identity", "packet",
    "crc32c") if getattr(native, n)) or "none, Python does the work")' >&2
touch .venv/.ready
