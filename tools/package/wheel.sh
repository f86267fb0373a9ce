#!/usr/bin/env bash
# wheel.sh ARCH BUILDER UV SOURCE INPUTS: our wheel in INPUTS/wheel, the same bytes wherever SOURCE lies.
set -euo pipefail
arch=$1 builder=$2 uv=$3 source=$4 inputs=$5
rm -rf "$inputs/wheel"
export CFLAGS="-g0 -ffile-prefix-map=$source=." PATH="$(dirname "$builder"):$PATH"
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    # Debian's own Python of that architecture says how its extensions are compiled (its headers and sysconfig data).
    cross=$inputs/cross
    rm -rf "$cross"
    mkdir -p "$cross/debs"
    for deb in "$inputs"/python/*.deb; do dpkg-deb -x "$deb" "$cross"; done
    tools/package/python_debs.sh headers "$arch" "$cross/debs"
    for deb in "$cross"/debs/*.deb; do dpkg-deb -x "$deb" "$cross"; done
    include=$cross/usr/include
    data=$(cd "$cross/usr/lib/python3.11" && ls _sysconfigdata__*linux-gnu.py | grep -v '__linux' | head -1)
    mkdir -p "$cross/sysconfig"
    cp "$cross/usr/lib/python3.11/$data" "$cross/sysconfig/"
    export _PYTHON_SYSCONFIGDATA_NAME=${data%.py} PYTHONPATH=$cross/sysconfig _PYTHON_HOST_PLATFORM=linux-aarch64
    export CC="aarch64-linux-gnu-gcc" LDSHARED="aarch64-linux-gnu-gcc -shared" 
    CFLAGS+=" -I$include/python3.11 -I$include"
fi
"$uv" build --quiet --wheel --no-build-isolation --python "$builder" --out-dir "$inputs/wheel" "$source"
rm -f "$inputs/wheel/.gitignore"
# setup.py lets a compiled twin fail, for machines without a compiler. Not here.
built=$("$builder" -m zipfile -l "$inputs"/wheel/*.whl)
for name in $(grep -o 'extension("_[a-z_]*"' "$source/setup.py" | cut -d'"' -f2); do
    if ! grep -q "agent/native/$name\.cpython-311-" <<<"$built"; then
        echo "wheel: agent.native.$name was not built" >&2
        exit 1
    fi
done
