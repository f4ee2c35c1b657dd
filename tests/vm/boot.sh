#!/bin/bash
# The one service of a guest's own: finishes the install as "meson install" does on a real system, then runs the
# script and leaves its status, its output and the journal on the host.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=${TERM:-linux}
cd /root || exit
if [ ! -e /etc/guest-installed ]; then
        rm -rf /etc/holdpoint # the host's, if it has one
        /guest/finish share/doc/holdpoint/examples >/host/install 2>&1 || {
                echo "guest: the install was not finished:"
                cat /host/install
                echo 125 >/host/status
                exit
        } >>/host/out
        touch /etc/guest-installed
fi
if [ -e /guest/script ]; then
        touch /host/started
        /guest/script >>/host/out 2>&1 </dev/null
else
        touch /host/started
        # shellcheck disable=SC2046 # two words each
        [ ! -e /guest/size ] || stty $(cat /guest/size)
        setsid --ctty --wait bash --login
fi
status=$?
journalctl --boot --no-pager --output=short-precise >/host/journal 2>&1
echo "$status" >/host/status.new
mv /host/status.new /host/status
