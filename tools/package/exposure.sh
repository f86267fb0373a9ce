#!/usr/bin/env bash
# exposure.sh: what `systemd-analyze security` makes of every service of ours, alone and with every privilege that
# `sbc-agent setup --service` may add. Fails above MOST (of 10; an ordinary daemon has 9.2), and for units with mistakes.
set -euo pipefail
cd "$(dirname "$0")/../.."
MOST=20 MOST_ROOT=40 # tenths: 2.0, 4.0
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
units=$root/etc/systemd/system
mkdir -p "$units" "$root/usr/bin" "$root/bin"
cp systemd/*.service systemd/*.slice "$units"
for program in usr/bin/sbc-agent usr/bin/sbc-controller bin/kill; do install -m 0755 /dev/null "$root/$program"; done

judge() { # UNIT WHAT
    local said
    said=$(systemd-analyze --root="$root" security --offline=true --threshold=$MOST --no-pager "$1" 2>&1) || {
        echo "$said" | grep -E '✗|Overall' >&2
        echo "exposure: $1 ($2) is above $MOST tenths" >&2
        return 1
    }
    echo "exposure: $1 ($2): $(sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\).*/\1/p' <<<"$said")" >&2
}

for service in systemd/*.service; do
    case "$service" in
    # It replaces packages as root, when an administrator has allowed that, and runs at no other time.
    *-upgrade.service) MOST=$MOST_ROOT judge "$(basename "$service")" "which runs dpkg" ;;
    *) judge "$(basename "$service")" "as shipped" ;;
    esac
done
# Drop-ins are not read offline: what this one says is put into the unit, after the rest of its section.
cat >"$root/agent.toml" <<'TOML'
[capture]
interfaces = ["eth0"]
[queue]
[kernel]
[signing]
certificate = "/etc/sbc-edge-agent/sti/signing.pem"
x5u = "https://certs.example.net/sti.pem"
credential = "signing.key"
TOML
.venv/bin/sbc-agent setup --service --dry-run --config "$root/agent.toml" | sed '1,/^\[Service\]$/d' >"$root/drop-in"
grep -q CAP_NET_ADMIN "$root/drop-in"
sed -i "/^SyslogIdentifier=/r $root/drop-in" "$units/sbc-edge-agent.service"
judge sbc-edge-agent.service "with every privilege that agent.toml can ask for"
mistakes=$(systemd-analyze --root="$root" verify --man=no sbc-edge-agent.service 2>&1 | grep -F "$units" || true)
[ -z "$mistakes" ] || { echo "$mistakes" >&2; exit 1; }
