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

say "4. The daemon: an SBC asks it about each call, by SIP (redirect) and over gRPC (hook)"
# The trunks of the policy, and on loopback: over the redirect, a trunk is the address that asks.
sed -e 's/sources = \["198\.51\.100\.\([0-9]*\)"/&, "127.0.0.\1"/' -e 's#\.\./build/demo/dno.list#dno.list#' \
    examples/demo-policy.toml >"$out/live-policy.toml"
port=$(.venv/bin/python -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$out/agent.toml" <<TOML
policy.file = "$out/live-policy.toml"
hook.socket = "$out/hook.sock"
redirect.udp = ["127.0.0.1:$port"]
records.directory = "$out/spool"
admin.socket = "$out/admin.sock"
metrics.listen = ""
log.level = "warning"
TOML
rm -rf "$out/spool"
mkdir "$out/spool"
.venv/bin/sbc-agent run --config "$out/agent.toml" >"$out/agent.log" 2>&1 &
agent=$!
trap 'kill "$agent" 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    [ -S "$out/admin.sock" ] && .venv/bin/sbc-agent status --socket "$out/admin.sock" >/dev/null 2>&1 && break
    kill -0 "$agent" 2>/dev/null || { cat "$out/agent.log"; exit 1; }
    sleep 0.1
done
.venv/bin/python tools/demo_live.py --redirect "127.0.0.1:$port" --hook "$out/hook.sock" --seconds 7 >"$out/live.txt" &
live=$!
for _ in 1 2 3; do
    sleep 0.5
    .venv/bin/sbc-agent top --once --interval 1 --socket "$out/admin.sock"
done
wait "$live" || { cat "$out/live.txt" "$out/agent.log"; exit 1; }
say "5. What was answered, what the agent counted, and why it refused the last calls"
cat "$out/live.txt"
.venv/bin/sbc-agent status --socket "$out/admin.sock"
.venv/bin/sbc-agent records tail --dir "$out/spool" --refused -n 8
kill "$agent"
wait "$agent"
trap - EXIT

say "Now change examples/demo-policy.toml and run: .venv/bin/sbc-agent replay $out/traffic.pcap --policy examples/demo-policy.toml"
