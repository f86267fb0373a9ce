#!/usr/bin/env bash
# repo.sh --key ID | --test-key [--out FOLDER] [--state FOLDER] [DEB...]: a signed apt repository of our packages.
#
# Adds the packages (default: all of dist/) to those of earlier runs, makes a snapshot of all, and puts FOLDER (default
# dist/repo) to it in one go: it can be served by any web server, or copied to a USB stick. Versions are kept, so hosts can
# go back. --state (default build/aptly) is aptly's database: keep it, and with it what `aptly snapshot` can show and take
# back. ID is a key of your own gpg (ed25519 serves every apt we support); --test-key makes one that is thrown away.
set -euo pipefail
cd "$(dirname "$0")/../.."
SUITE=stable COMPONENT=main REPO=sbc-edge
out=$PWD/dist/repo state=$PWD/build/aptly key='' test_key=
debs=()
while (($#)); do
    case "$1" in
    --out) out=$(realpath -m "$2"); shift 2 ;;
    --state) state=$(realpath -m "$2"); shift 2 ;;
    --key) key=$2; shift 2 ;;
    --test-key) test_key=yes; shift ;;
    -*) sed -n 2p "$0" >&2; exit 2 ;;
    *) debs+=("$(realpath "$1")"); shift ;;
    esac
done
say() { echo "repo: $*" >&2; }
[ -n "$key$test_key" ] || { say "which key signs it? --key ID (make repo KEY=ID), or --test-key (KEY=test)"; exit 2; }
((${#debs[@]})) || mapfile -t debs < <(find "$PWD/dist" -maxdepth 1 -name '*.deb' | sort)
((${#debs[@]})) || { say "there are no packages in dist/: make deb"; exit 1; }
missing=()
for tool in aptly gpg; do command -v "$tool" >/dev/null || missing+=("$tool"); done
if ((${#missing[@]})); then
    [ "$(id -u)" = 0 ] || { say "please install first: sudo apt-get install ${missing[*]}"; exit 1; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null </dev/null
fi

mkdir -p "$state" "$out"
batch=()
if [ -n "$test_key" ]; then
    # Kept in its folder, so that a second run signs with the same key; short, for gpg's sockets.
    [ -s "$state/test-key" ] || mktemp -d /tmp/sbc-edge-key.XXXX >"$state/test-key"
    GNUPGHOME=$(cat "$state/test-key")
    export GNUPGHOME
    mkdir -p -m 0700 "$GNUPGHOME"
    trap 'gpgconf --kill all' EXIT
    gpg --batch --quiet --list-secret-keys 2>/dev/null | grep -q . ||
        gpg --batch --quiet --passphrase '' --quick-generate-key "NOT FOR RELEASE <test@example.net>" ed25519 sign 30d 2>/dev/null
    key=$(gpg --batch --list-secret-keys --with-colons | awk -F: '$1 == "fpr" { print $10; exit }')
    batch=(-batch)
fi
cat >"$state/aptly.conf" <<JSON
{"rootDir": "$state", "gpgProvider": "gpg", "architectures": ["amd64", "arm64"],
 "FileSystemPublishEndpoints": {"out": {"rootDir": "$out", "linkMethod": "copy", "verifyMethod": "md5"}}}
JSON
aptly() { command aptly -config="$state/aptly.conf" "$@" >"$state/said" 2>&1 || { cat "$state/said" >&2; return 1; }; }

aptly repo show $REPO 2>/dev/null || aptly repo create -distribution=$SUITE -component=$COMPONENT $REPO
# A version means the same bytes for ever: aptly refuses another package of the same name.
aptly repo add $REPO "${debs[@]}" || { say "a version that was published is never changed: raise it"; exit 1; }
snapshot=$REPO-$(date -u +%Y%m%dT%H%M%SZ)-$$
aptly snapshot create "$snapshot" from repo $REPO
signing=("${batch[@]}" -gpg-key="$key") content=(-skip-contents -skip-bz2)
if [ -e "$out/dists" ] && command aptly -config="$state/aptly.conf" publish list -raw | grep -qx "filesystem:out:. $SUITE"; then
    aptly publish switch "${signing[@]}" "${content[@]}" $SUITE filesystem:out:. "$snapshot"
else
    aptly publish drop -force-drop $SUITE filesystem:out:. 2>/dev/null || true
    aptly publish snapshot "${signing[@]}" "${content[@]}" -acquire-by-hash -distribution=$SUITE -origin=sbc-edge \
        -label=sbc-edge "$snapshot" filesystem:out:.
fi
gpg --batch --quiet --armor --export "$key" >"$out/sbc-edge.asc"
say "$out, signed by $key, snapshot $snapshot:"
command aptly -config="$state/aptly.conf" snapshot show -with-packages "$snapshot" | sed -n 's/^  \(sbc-edge.*\)/repo:   \1/p' >&2
