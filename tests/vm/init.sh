#!/bin/sh
# First process of a guest: lays the overlay (configuration over the installed tree over the host's root), then
# hands over to systemd. The host's root is never written to. Called with nothing; guest.py puts RUN in front.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
fail() {
        echo "guest: $*" >"$RUN/share/broken" 2>/dev/null
        echo "guest: $*"
        mount -t proc proc /proc
        echo o >/proc/sysrq-trigger
        sleep 5
}

modules=/usr/lib/uml/modules/$(uname -r)/kernel
insmod "$modules/fs/overlayfs/overlay.ko" || fail "cannot load overlay.ko from $modules"
mount -t tmpfs -o mode=755 tmpfs /mnt || fail "no tmpfs"
mkdir /mnt/config /mnt/tree /mnt/units /mnt/upper /mnt/guest
mount -t hostfs none /mnt/config -o "$RUN/config" || fail "no hostfs"
mount -t hostfs none /mnt/tree -o "$RUN/tree" || fail "no hostfs"
mount -t hostfs none /mnt/units -o "$RUN/units" || fail "no hostfs"
# What the guest writes goes to memory, or to a disk that outlives it.
if [ -b /dev/ubda ]; then
        mount -t ext4 /dev/ubda /mnt/upper || fail "no upper disk"
fi
mkdir -p /mnt/upper/root /mnt/upper/root.work /mnt/upper/units /mnt/upper/units.work /mnt/upper/state
mount -t overlay overlay /mnt/guest \
        -o lowerdir=/mnt/config:/mnt/tree:/,upperdir=/mnt/upper/root,workdir=/mnt/upper/root.work || fail "no overlay"
# Of the host's own choice of units nothing is left.
mount -t overlay units /mnt/guest/etc/systemd/system \
        -o lowerdir=/mnt/units,upperdir=/mnt/upper/units,workdir=/mnt/upper/units.work || fail "no overlay for units"
# An overlay lacks what a file system for state has (O_TMPFILE).
for directory in var/lib/holdpoint var/lib/holdpoint-worker var/backups; do
        mkdir -p "/mnt/upper/state/$directory"
        mount --bind "/mnt/upper/state/$directory" "/mnt/guest/$directory" || fail "no state"
done
mount -t hostfs none /mnt/guest/host -o "$RUN/share" || fail "no hostfs"
mount -t proc proc /mnt/guest/proc
mount -t sysfs sysfs /mnt/guest/sys
mount -t devtmpfs dev /mnt/guest/dev
# systemd would do this, but takes the guest for a container where the host is one: units follow the host's mounts.
mount --make-rshared /mnt/guest || fail "no shared root"
[ -x /mnt/guest/lib/systemd/systemd ] || fail "no systemd"
exec switch_root /mnt/guest /lib/systemd/systemd
