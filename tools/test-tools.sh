#!/usr/bin/env bash
# The real peers that the integration tests run against. Installed when run as root; otherwise named, and their tests skip.
set -euo pipefail

missing=()
for package in faketime kamailio kamailio-python3-modules kamailio-secsipid-modules nftables nghttp2-client postgresql \
    secsipidx sip-tester tcpdump tshark; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
done
((${#missing[@]})) || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "test: tests with real peers are skipped; to run them: sudo apt-get install ${missing[*]}" >&2
    exit 0
fi
echo "test: installing ${missing[*]}" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null </dev/null
