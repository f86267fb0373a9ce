#!/usr/bin/env bash
# python_debs.sh get ARCH FOLDER     the locked packages of Debian's interpreter, checked, into FOLDER
# python_debs.sh lock ARCH...        write packaging/tree/python.lock anew from what the archive has today
# python_debs.sh get-newest ARCH FOLDER   as `get`, but with what the archive has today: for a build that is not released
set -euo pipefail
cd "$(dirname "$0")/../.."
lock=packaging/tree/python.lock
packages=(libpython3.11-minimal libpython3.11-stdlib python3.11-minimal)
apt=() work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

# apt as on a machine of that architecture: its own lists, and nothing of this machine's state is changed.
foreign() {
    local arch=$1
    apt=()
    if [ "$arch" != "$(dpkg --print-architecture)" ]; then
        work=${work:-$(mktemp -d)}
        local root=$work/$arch
        mkdir -p "$root/lists/partial" "$root/cache/archives/partial"
        : >"$root/status"
        apt=(-o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State::Lists="$root/lists"
             -o Dir::State::status="$root/status" -o Dir::Cache="$root/cache")
        apt-get "${apt[@]}" -qq -o APT::Sandbox::User=root update
    fi
}

download() { # ARCH FOLDER PACKAGE[=VERSION]...
    local arch=$1 folder=$2
    shift 2
    foreign "$arch"
    (cd "$folder" && apt-get "${apt[@]}" -qq -o APT::Sandbox::User=root download "$@" >/dev/null)
}

names() { # ARCH: package=version of the lock
    awk -v arch="$1" '!/^#/ && $4 == arch { print $2 "=" $3 }' "$lock"
}

check() { # ARCH FOLDER: whether FOLDER holds what is locked, and nothing else
    local sum package version
    [ -n "$(names "$1")" ] || return 1
    while read -r sum package version _; do
        echo "$sum  $2/${package}_${version}_$1.deb"
    done < <(awk -v arch="$1" '!/^#/ && $4 == arch' "$lock") | sha256sum --quiet --strict -c - >/dev/null 2>&1
}

case "$1" in
get)
    mkdir -p "$3"
    check "$2" "$3" && exit 0
    rm -f "$3"/*.deb
    mapfile -t wanted < <(names "$2")
    if ! download "$2" "$3" "${wanted[@]}" || ! check "$2" "$3"; then
        echo "python_debs: the archive no longer has what $lock names for $2: run \`make deb-python\`, and look at the change" >&2
        exit 1
    fi
    ;;
get-newest)
    rm -rf "$3" && mkdir -p "$3"
    download "$2" "$3" "${packages[@]}"
    ;;
headers) # ARCH FOLDER: what compiling for another architecture takes; only headers, nothing of it is shipped
    download "$2" "$3" libpython3.11-dev
    ;;
lock)
    shift
    work=$(mktemp -d)
    sed -n '/^#/p' "$lock" >"$work/lock"
    for arch in "$@"; do
        mkdir "$work/debs-$arch"
        download "$arch" "$work/debs-$arch" "${packages[@]}"
        for deb in "$work/debs-$arch"/*.deb; do
            echo "$(sha256sum <"$deb" | cut -d' ' -f1) $(dpkg-deb -f "$deb" Package) $(dpkg-deb -f "$deb" Version) $arch"
        done
    done >>"$work/lock"
    cat "$work/lock" >"$lock"
    ;;
*)
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
    ;;
esac
