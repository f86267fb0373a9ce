#!/usr/bin/env bash
# needs.sh [ARCH]: the Debian packages that building ours takes. Installed when run as root; otherwise named.
set -euo pipefail
wanted=(binutils debhelper dpkg-dev gcc libc6-dev lintian python3.11-dev systemd xz-utils)
[ "${1:-$(dpkg --print-architecture)}" = "$(dpkg --print-architecture)" ] || wanted+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
done
# What the interpreter's packages come from must be known, too.
[ -n "$(apt-cache policy python3.11-minimal 2>/dev/null | sed -n '/http/p')" ] || missing+=(ca-certificates)
((${#missing[@]})) || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "deb: please install first: sudo apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "deb: installing ${missing[*]}" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null </dev/null
