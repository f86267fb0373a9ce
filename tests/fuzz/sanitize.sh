#!/usr/bin/env bash
# Runs the tests of the compiled twins, built under the address and undefined-behaviour sanitizers of gcc.
# Builds in a folder of its own and leaves the working copy alone. Takes some minutes. Needs gcc.
# Further arguments go to pytest: tests/fuzz/sanitize.sh -k scan
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -a agent controller proto sbcedge tests pyproject.toml setup.py "$work"
rm -f "$work"/agent/native/*.so
cd "$work"

CC=gcc CFLAGS="-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
    "$python" setup.py -q build_ext --inplace >build.log 2>&1 || { cat build.log; exit 1; }

# malloc instead of Python's own allocator: every bytes object gets its own red zones.
export PYTHONMALLOC=malloc LD_PRELOAD PYTHONPATH=$work PYTHONDONTWRITEBYTECODE=1
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
# Python keeps memory until it ends, by design: leaks are for the tests that count blocks.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export SBC_EDGE_SHARED_DATA=${SBC_EDGE_SHARED_DATA:-$root/../shared/data}

for name in sip numbers rates answer udp hook gate identity packet columns; do
    built=(agent/native/_"$name".*.so)
    nm -D "${built[0]}" | grep __asan_report >/dev/null || { echo "_$name was not built with the sanitizers"; exit 1; }
done
"$python" -c 'from agent import native; assert native.sip and native.__file__.startswith("'"$work"'")'
# --capture=sys: what the sanitizers write to file descriptor 2 is shown.
"$python" -m pytest -q -x -p no:cacheprovider --capture=sys tests/native tests/policy/test_counters.py tests/ingress/test_datagrams.py \
    tests/ingress/hook/test_wire.py tests/calls/test_attempts.py tests/kernel/test_packet_ring.py "$@"
