# shellcheck shell=bash
# Process 1 under the kernel that is tested (test-kernels): /mnt is the checkout, the second serial line what the host reads.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for folder in /tmp /run; do mount -t tmpfs tmpfs "$folder"; done
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ip link set lo up
stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>&1

. /mnt/kernel-run
mkdir -p "$checkout"
mount --bind /mnt "$checkout"
cd "$checkout" || exit
# The interpreter of the host's .venv may be any 3.11: here it is Debian's.
ln -sfn /usr/bin/python3.11 .venv/bin/python3
sed -i 's|^home = .*|home = /usr/bin|' .venv/pyvenv.cfg
export PATH="$checkout/.venv/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
timeout=120
if grep -q sbc.accel=tcg /proc/cmdline; then
    export SBC_EDGE_PATIENCE=10
    timeout=1200
fi
echo "# the kernel is $(uname -r), $(nproc) processors, $(sed -n 's/.*sbc.accel=\([a-z]*\).*/\1/p' /proc/cmdline)"
# shellcheck disable=SC2086  # several words
python -m pytest -q --color=no -p no:cacheprovider -o timeout=$timeout --tb=short $tests
echo "exit $?"
busybox sync
busybox poweroff -f
