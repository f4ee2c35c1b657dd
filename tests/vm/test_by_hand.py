"""Holdpoint without its units: the example that starts all of it in the foreground."""

from test_lvm import LVM


def test_start(guest):
    """On LVM, where a restore from a hot copy needs a worker of the class image beside its own."""
    guest(LVM + """
        group
        pool 600M
        thin data 400M
        data ext4 /dev/vg-a/data /srv
        application /srv/app 100
        service app /srv/app
        systemctl stop 'holdpoint*.socket' holdpointd
        systemctl mask --runtime --quiet holdpointd holdpoint-{backup,restore,image,maintain,configure}.socket

        /usr/share/doc/holdpoint/examples/by-hand/start & all=$!
        soon 20 busctl status org.holdpoint.Backup1
        for class in backup restore maintain configure; do
                same "$(stat -c '%a %U' "/run/holdpoint-workers/$class.socket")" '600 holdpoint' "socket of $class"
        done
        same "$(stat -c '%a %U' /run/holdpoint-workers/image.socket)" '600 root' "socket of image"
        pid=$(pgrep -x holdpointd)
        same "$(ps -o user= -p "$pid")" holdpoint "user of the agent"
        grep -q '^CapBnd:.0*$' "/proc/$pid/status"
        holdpoint create app
        sqlite3 /srv/app/app.db 'delete from t where id > 10'
        holdpoint restore latest --from hot --yes
        same "$(rows /srv/app)" 100 "rows"
        holdpoint verify latest --depth restore
        clean
        kill "$all"
        wait "$all" || true
        soon 10 sh -c '! pgrep -x "holdpointd|systemd-socket-"'
        """, seconds=300)
