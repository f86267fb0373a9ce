# shellcheck shell=bash
# A booted Debian or Ubuntu in a container of systemd-nspawn, and checks in the words of TAP. Sourced by the tests of the
# packages.
#
#   image NAME PACKAGE...   a minimal root with systemd and these packages, made once and kept in $IMAGES; NAME is
#                           bookworm, jammy or noble, with anything after a dash
#   boot ROOT FILE...       boots an overlay of it, with FILEs in its /root; again after `halt`: a reboot
#   x COMMAND...            in the container; n COMMAND...: a program of this machine in the container's network
#   ok, no, is, wait_for    checks; `finish` says how many failed
#
# Needs root. On a host without systemd the container gets a cgroup of its own, or it would take over ours.

IMAGES=${SBC_EDGE_IMAGES:-/var/cache/sbc-edge-test-images}
fails=0 count=0 leader='' npid='' cg=''
unit=sbc-edge-agent.service pkg=sbc-edge-agent

need() { # COMMAND PACKAGE: installs what is missing
    command -v "$1" >/dev/null && return
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null </dev/null
}

# Ubuntu's archive key of 2018, by the whole of its fingerprint: Debian has no package of it that could be asked.
UBUNTU=${SBC_EDGE_UBUNTU:-http://archive.ubuntu.com/ubuntu}
UBUNTU_KEY=F6ECB3762474EDA9D21B7022871920D1991BC93C

ubuntu_keyring() { # prints a file that holds this key and no other one
    local file=$IMAGES/ubuntu-$UBUNTU_KEY.gpg t
    if [ ! -s "$file" ]; then
        need gpg gpg || return 1
        t=$(mktemp -d)
        mkdir -p "$IMAGES" "$t"/{lists,cache/archives}/partial "$t/gnupg"
        chmod 700 "$t/gnupg"
        # What comes is believed for nothing but this one key.
        echo "deb [trusted=yes] $UBUNTU noble main" >"$t/list"
        local apt=(apt-get -qq -o "Dir::Etc::SourceList=$t/list" -o Dir::Etc::SourceParts=/dev/null
            -o "Dir::State::Lists=$t/lists" -o "Dir::Cache=$t/cache" -o APT::Sandbox::User=root)
        "${apt[@]}" update >&2 2>/dev/null
        (cd "$t" && "${apt[@]}" download ubuntu-keyring >&2 && dpkg-deb -x ubuntu-keyring_*.deb .) &&
            GNUPGHOME=$t/gnupg gpg --batch --quiet --no-default-keyring \
                --keyring "$t/usr/share/keyrings/ubuntu-archive-keyring.gpg" --export "$UBUNTU_KEY" >"$t/key" 2>/dev/null
        [ -s "$t/key" ] && mv "$t/key" "$file"
        rm -rf "$t"
    fi
    [ -s "$file" ] && echo "$file"
}

archive() { # SUITE: sets `from`, what mmdebstrap is to be told of where that suite is
    from=()
    case "$1" in jammy | noble)
        from=("--keyring=$(ubuntu_keyring)" "$UBUNTU")
        [ "${from[0]}" != --keyring= ] || { echo "Bail out! no key of Ubuntu's archive at $UBUNTU" >&2; return 1; } ;;
    esac
}

image() { # NAME PACKAGE...: prints the folder
    local folder=$IMAGES/$1 suite=${1%%-*} wanted from
    shift
    # What every installed Ubuntu has (by apt and python3), and a minimal one has not.
    case "$suite" in jammy | noble) set -- libstdc++6 libffi8 "$@" ;; esac
    wanted=$(IFS=,; echo "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates${*:+,$*}")
    if [ ! -e "$folder/etc/os-release" ] || [ "$(cat "$folder.packages" 2>/dev/null)" != "$wanted" ]; then
        echo "# making the image $folder" >&2
        rm -rf --one-file-system "$folder" "$folder.packages"
        mkdir -p "$IMAGES"
        archive "$suite" || return 1
        mmdebstrap --quiet --variant=minbase --include="$wanted" "${from[@]:0:1}" "$suite" "$folder" "${from[@]:1}" >&2 ||
            { echo "Bail out! no image of $suite" >&2; return 1; }
        echo "$wanted" >"$folder.packages"
    fi
    echo "$folder"
}

version_of() { # NEW VERSION OUT: the same package under another version number
    local tree was
    tree=$(mktemp -d)
    dpkg-deb -R "$1" "$tree"
    was=$(sed -n 's/^Version: //p' "$tree/DEBIAN/control")
    sed -i "s/^Version: .*/Version: $2/" "$tree/DEBIAN/control"
    local site=$tree/usr/lib/$pkg/site-packages
    sed -i "s/^Version: .*/Version: $2/" "$site/sbc_edge_agent-$was.dist-info/METADATA"
    mv "$site/sbc_edge_agent-$was.dist-info" "$site/sbc_edge_agent-$2.dist-info"
    rm -f "$tree/DEBIAN/md5sums"
    dpkg-deb -Znone -b "$tree" "$3" >/dev/null
    rm -rf "$tree"
}

begin() { # ROOT FILE...
    local root=$1
    shift
    name=sbcedge-$$
    w=$(mktemp -d "/tmp/$name.XXXX")
    trap end EXIT
    mkdir -p "$w"/{tmp,m,cg}
    mount -t tmpfs -o size=3g t "$w/tmp"
    mkdir "$w"/tmp/{u,wk}
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$w/tmp/u,workdir=$w/tmp/wk" "$w/m"
    cp "$@" "$w/m/root/"
    if [ ! -d /run/systemd/system ]; then
        if [ -f /sys/fs/cgroup/cgroup.procs ]; then cgm=/sys/fs/cgroup
        elif [ -f /sys/fs/cgroup/unified/cgroup.procs ]; then cgm=/sys/fs/cgroup/unified
        else mount -t cgroup2 cgroup2 "$w/cg"; cgm=$w/cg; fi
        cg=$cgm/$name
        mkdir "$cg"
    fi
    boot
}

boot() {
    (
        [ -z "$cg" ] || echo "$BASHPID" >"$cg/cgroup.procs"
        SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn -q -D "$w/m" -M "$name" --register=no --keep-unit \
            --private-network --capability=CAP_BPF --system-call-filter="bpf @memlock" --console=pipe -b </dev/null >"$w/console" 2>&1
    ) &
    npid=$! leader=
    local state
    for _ in $(seq 300); do
        leader=$(pgrep -P "$npid" | head -1)
        if [ -n "$leader" ]; then
            state=$(x systemctl is-system-running 2>/dev/null)
            case "$state" in running | degraded) return 0 ;; esac
        fi
        sleep 0.1
    done
    echo "Bail out! the container does not boot: $state"
    tail -20 "$w/console"
    exit 1
}

halt() {
    end_callers
    [ -z "$leader" ] || x systemctl poweroff --no-block >/dev/null 2>&1
    for _ in $(seq 200); do kill -0 "$npid" 2>/dev/null || break; sleep 0.1; done
    leader=
}

# Programs of ours in its network (a sipp in the background) are not its own, and would stay.
end_callers() {
    local child network
    [ -n "$leader" ] || return 0
    network=$(readlink "/proc/$leader/ns/net")
    for child in $(pgrep -x sipp); do
        [ "$(readlink "/proc/$child/ns/net")" != "$network" ] || kill "$child"
    done
}

end() {
    local child
    for child in $(jobs -p); do [ "$child" = "$npid" ] || kill "$child" 2>/dev/null; done
    end_callers
    [ -z "$leader" ] || kill -s RTMIN+4 "$leader" 2>/dev/null
    for _ in $(seq 100); do kill -0 "${npid:-0}" 2>/dev/null || break; sleep 0.1; done
    [ -z "$npid" ] || kill -9 "$npid" 2>/dev/null
    [ -z "$leader" ] || kill -9 "$leader" 2>/dev/null
    sleep 0.3
    umount "$w/m" 2>/dev/null
    umount "$w/tmp" 2>/dev/null
    [ -z "$cg" ] || find "$cg" -depth -type d -exec rmdir {} \; 2>/dev/null
    mountpoint -q "$w/cg" && umount "$w/cg"
    rm -rf --one-file-system "$w" # never into a mount that would not go away
}

x() {
    nsenter -t "$leader" -m -u -i -n -p -C env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive "$@" </dev/null
}
sh_x() { x sh -c "$1"; }
n() { nsenter -t "$leader" -n "$@" </dev/null; }

# Background programs of this script get no terminal and no input.
ok() { # WHAT COMMAND...
    count=$((count + 1))
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then echo "ok $count - $what"; else
        echo "not ok $count - $what"
        tail -n 15 <<<"$said" | sed 's/^/#   /'
        fails=$((fails + 1))
    fi
}
no() { # WHAT COMMAND...: it must fail
    count=$((count + 1))
    local what=$1
    shift
    if "$@" >"$w/said" 2>&1; then
        echo "not ok $count - $what"
        tail -n 15 "$w/said" | sed 's/^/#   /'
        fails=$((fails + 1))
    else echo "ok $count - $what"; fi
}
is() { # WHAT GOT WANTED
    count=$((count + 1))
    if [ "$2" = "$3" ]; then echo "ok $count - $1"; else
        printf "not ok %s - %s\n#   got '%s', wanted '%s'\n" "$count" "$1" "$2" "$3"
        fails=$((fails + 1))
    fi
}
p() { x systemctl show -P "$1" "${2:-$unit}"; }
wait_for() { # PROPERTY VALUE: within 20 s
    for _ in $(seq 200); do [ "$(p "$1")" = "$2" ] && return 0; sleep 0.1; done
    echo "$1 is $(p "$1")"
    return 1
}
until_true() { # SECONDS COMMAND...
    local tries=$(($1 * 5))
    shift
    for _ in $(seq "$tries"); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
    "$@"
}
finish() {
    echo "1..$count"
    echo "$((count - fails)) passed, $fails failed"
    [ "$fails" = 0 ]
}
