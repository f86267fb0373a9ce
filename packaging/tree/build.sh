#!/usr/bin/env bash
# build.sh STAGE FINAL: a private Python with everything that the agent needs, under STAGE, to be run from FINAL. No network.
#
# PYTHON_DEBS   folder of Debian's python3.11-minimal, libpython3.11-minimal, libpython3.11-stdlib
# SITE          folder of the locked wheels and of our own, installed
# STRIP         strip for the architecture
# KEEP_SQLITE   not empty: with SQLite, whose library small systems lack
# COMPILE       a Python 3.11 of this machine, which makes the bytecode: it is the same on every architecture
#
# The same inputs give the same bytes, wherever this is run: no time, path or order of a folder gets into the tree.
set -euo pipefail
stage=$1 final=$2
: "${PYTHON_DEBS:?}" "${SITE:?}" "${STRIP:=strip}" "${COMPILE:=/usr/bin/python3.11}"
python=3.11
GLIBC_MAX=2.35 # Ubuntu 22.04, the oldest that we install on
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for deb in "$PYTHON_DEBS"/*.deb; do dpkg-deb -x "$deb" "$work"; done
install -D -m 0755 "$work/usr/bin/python$python" "$stage/python/bin/python$python"
mkdir -p "$stage/python/lib"
cp -rL "$work/usr/lib/python$python" "$stage/python/lib/python$python" 2>/dev/null || true
library=$stage/python/lib/python$python
test -e "$library/os.py"
# What a daemon does not need: tests, graphics, installers, and modules whose libraries a small system lacks (SQLite).
(cd "$library" && rm -rf test idlelib tkinter turtledemo turtle.py ensurepip lib2to3 pydoc_data distutils unittest/test \
    sitecustomize.py EXTERNALLY-MANAGED LICENSE.txt config-3.11-*
 cd lib-dynload && rm -f {_dbm,nis,_curses,_curses_panel,readline,_crypt,ossaudiodev,_tkinter,_gdbm,_test*,_xxtestfuzz,_ctypes_test,_xxsubinterpreters,xxlimited*}.*.so)
[ "${KEEP_SQLITE:-}" ] || rm -rf "$library"/sqlite3 "$library"/lib-dynload/_sqlite3.*.so

cp -rL "$SITE" "$stage/site-packages"
# What an installer would need, and programs: nothing here is a program but the interpreter.
rm -rf "$stage"/site-packages/bin "$stage"/site-packages/*.dist-info/{RECORD,direct_url.json,REQUESTED,INSTALLER,uv_cache.json}
rm -rf "$stage"/site-packages/.lock "$stage"/site-packages/pyarrow/{tests,include,src} "$stage"/site-packages/*-stubs
# Licences lie where Debian has them (usr/share/doc).
rm -rf "$stage"/site-packages/*.dist-info/{licenses,LICENSE*,NOTICE*,AUTHORS*,COPYING*}
find "$stage" \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name 'py.typed' \) -delete
find "$stage" -type d -name __pycache__ -prune -exec rm -rf {} +
find "$stage" -type f -name '*.py' -exec sed -i '1{/^#!/s/^#!/# was: /}' {} +
find "$stage" -type f ! -path '*/bin/python3*' -exec chmod 0644 {} +
find "$stage" -type d -empty -delete
find "$stage" -type d -exec chmod 0755 {} +
find "$stage/site-packages" -type f -name '*.so*' -exec "$STRIP" --strip-unneeded --remove-section=.comment {} +
# Shipped, never compared with the source's time, never written on the appliance. -f with -j 1 is as quick as 2 here.
"$COMPILE" -IBS -m compileall -q -f -j 2 --invalidation-mode unchecked-hash -s "$stage" -p "$final" "$stage" >/dev/null

worst=$(find "$stage" -type f \( -name '*.so*' -o -name 'python3*' \) -exec readelf -V {} + 2>/dev/null \
    | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
echo "newest symbol of the C library that is needed: $worst"
if [ "$(printf '%s\nGLIBC_%s\n' "$worst" "$GLIBC_MAX" | sort -V | tail -1)" != "GLIBC_$GLIBC_MAX" ]; then
    echo "build.sh: that is more than Ubuntu 22.04 has ($GLIBC_MAX)" >&2
    exit 1
fi
