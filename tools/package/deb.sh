#!/usr/bin/env bash
# deb.sh [--out FOLDER] [--work FOLDER]: build the Debian packages of this tree for ARCH (default: this machine's).
#
# Everything that needs a network happens first (Debian's interpreter, the locked wheels); the package itself is then
# built by dpkg-buildpackage from a copy of what git knows, offline and reproducibly: the same inputs give the same bytes.
# PYTHON_NEWEST=if-gone takes the interpreter that Debian has today where the archive has dropped the locked one: for
# tests, which must not fail because Debian has mended something; not for releases. DEB_BUILD_PROFILES=nocontroller leaves
# the controller out, which takes most of the time and the disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
out=$root/dist work=$root/build/deb
while (($#)); do
    case "$1" in
    --out) out=$(realpath -m "$2"); shift 2 ;;
    --work) work=$(realpath -m "$2"); shift 2 ;;
    *) sed -n 2p "$0" >&2; exit 2 ;;
    esac
done
host=$(dpkg --print-architecture)
arch=${ARCH:-$host}
say() { echo "deb: $*" >&2; }

tools/package/needs.sh "$arch"
[ -d /usr/lib/python3.11 ] || { say "needs Debian 12's python3.11 for its compiled parts"; exit 1; }
uv=$root/.venv/bin/uv
[ -x "$uv" ] || { say "run \`make setup\` first"; exit 1; }

inputs=$work/inputs-$arch source=$work/source-$arch
packages=(sbc-edge-agent sbc-edge-controller)
case " ${DEB_BUILD_PROFILES:-} " in *" nocontroller "*) packages=(sbc-edge-agent) ;; esac
rm -rf "$inputs"/{sbc-edge-agent,sbc-edge-controller,man,wheel} "$source"
mkdir -p "$inputs" "$out"
rm -f "$out"/*_"$arch".deb "$out"/*_all.deb "$out"/*_"$arch".cdx.json # a build that fails leaves none of an earlier one

say "Debian's Python"
tools/package/python_debs.sh get "$arch" "$inputs/python" || {
    [ "${PYTHON_NEWEST:-}" = if-gone ] || exit 1
    say "NOT FOR RELEASE: another Python than the locked one"
    tools/package/python_debs.sh get-newest "$arch" "$inputs/python"
}

say "the tools of the build, from the lock file"
export UV_PROJECT_ENVIRONMENT=$work/venv UV_PYTHON_PREFERENCE=only-system
"$uv" sync --quiet --frozen --no-install-project --python /usr/bin/python3.11
builder=$work/venv/bin/python

# A copy of what git knows, so that nothing else that lies about can get into the package.
mkdir -p "$source"
git ls-files -z | xargs -0 sh -c 'for f; do [ -e "$f" ] && printf "%s\0" "$f"; done' _ | tar --null -T - -c | tar -x -C "$source"
cp -r "$source/packaging/debian" "$source/debian"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml | head -1)
changelog=$(dpkg-parsechangelog -l "$source/debian/changelog" -S Version)
if [ "$version" != "$changelog" ]; then
    say "pyproject.toml says version $version, packaging/debian/changelog $changelog"
    exit 1
fi
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$source/debian/changelog" -S Timestamp)
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C.UTF-8 PYTHONHASHSEED=0

say "our own wheel"
# The address of this folder in no file: sources are compiled under one name, wherever they lie.
tools/package/wheel.sh "$arch" "$builder" "$uv" "$source" "$inputs"

say "the locked wheels"
case "$arch" in
amd64) platform=x86_64-manylinux_2_34 ;;
arm64) platform=aarch64-manylinux_2_34 ;;
*) say "no wheels for $arch"; exit 1 ;;
esac
install() { # PACKAGE ARGUMENT...
    local site=$inputs/$1/site
    shift
    "$uv" pip install --quiet --python "$builder" --target "$site" --link-mode copy --no-deps --no-config \
        --python-platform "$platform" --python-version 3.11 --only-binary :all: "$@"
}
for package in "${packages[@]}"; do
    extra=()
    [ "$package" = sbc-edge-agent ] || extra=(--extra controller)
    mkdir -p "$inputs/$package"
    "$uv" export --quiet --frozen --no-dev --no-emit-project "${extra[@]}" >"$inputs/$package/requirements.txt"
    install "$package" --require-hashes -r "$inputs/$package/requirements.txt"
    install "$package" "$inputs"/wheel/*.whl
done
rm -rf "$inputs/sbc-edge-agent/site/controller" # in the same wheel, and for the other package

say "what is inside: licences, bill of materials, manual, completion"
PYTHONPATH=$source "$builder" -m tools.package.manual --version "$version" --out "$inputs/man"
for package in "${packages[@]}"; do
    made=$inputs/$package/made
    "$builder" -m tools.package.inventory --package "$package" --arch "$arch" --version "$version" --lock uv.lock \
        --site "$inputs/$package/site" --python "$inputs/python" --copyright "$source/debian/copyright" --out "$made"
    cp -r "$inputs/man/$package" "$made/man"
    cp "$made/sbom.cdx.json" "$out/${package}_${version}_$arch.cdx.json"
done
PYTHONPATH=$source "$builder" -m tools.package.completion >"$inputs/sbc-edge-agent/made/sbc-agent.bash"
[ ! -d "$inputs/sbc-edge-controller" ] ||
    PYTHONPATH=$source "$builder" -m controller.ctl.main completion bash >"$inputs/sbc-edge-controller/made/sbcctl.bash"

say "the packages"
strip=strip
if [ "$arch" != "$host" ]; then
    strip=aarch64-linux-gnu-strip
    depends=$(for deb in "$inputs"/python/*.deb; do dpkg-deb -f "$deb" Depends Pre-Depends; done | sed 's/^[A-Za-z-]*: //' \
        | tr ',' '\n' | sed 's/^ *//' | grep -E '^(lib(bz2|c6|expat|ffi|lzma|ssl|uuid)|zlib1g)' | sort -u | paste -sd,)
    export CROSS_DEPENDS="$depends,libgcc-s1,libstdc++6"
fi
(cd "$source" && PYTHON_DEBS=$inputs/python INPUTS=$inputs STRIP=$strip COMPILE=/usr/bin/python3.11 \
    DPKG_DEB_THREADS_MAX=2 XZ_LEVEL=${XZ_LEVEL:--z6} dpkg-buildpackage -b -us -uc -d -a"$arch" >"$work/build-$arch.log" 2>&1) || {
    tail -40 "$work/build-$arch.log" >&2
    exit 1
}
sed -n 's/^newest symbol.*/deb: &/p' "$work/build-$arch.log" >&2
for deb in $(awk '{ print $1 }' "$source/debian/files" | grep '\.deb$'); do cp "$work/$deb" "$out/"; done
(cd "$out" && ls -l -- *_"$version"_"$arch".deb *_"$version"_all.deb >&2)
