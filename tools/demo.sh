#!/usr/bin/env bash
# The main job on made-up traffic: generate it, build a do-not-originate list, screen it under two policies.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/demo
mkdir -p "$out"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1. Traffic: normal calls, a flood, spoofed numbers, 911 calls, retransmissions, TCP, fragments"
.venv/bin/python tools/demo_traffic.py "$out/traffic.pcap"
say "2. A do-not-originate list"
.venv/bin/sbc-agent dno build "$out/dno.list" --csv examples/dno.csv --generation 1
say "3. What the policy would have refused, and what a stricter one would change"
.venv/bin/sbc-agent replay "$out/traffic.pcap" --policy examples/demo-policy.toml --compare examples/demo-policy-strict.toml
say "Now change examples/demo-policy.toml and run: .venv/bin/sbc-agent replay $out/traffic.pcap --policy examples/demo-policy.toml"
