"""What the rest of the machine does to an agent on a bad day: it goes on by itself, and says what was lost."""

# The states of agent and workers on small disks of their own.
STATES = """
own_disks() {
        site
        systemctl stop holdpointd
        soon 30 gone
        move holdpoint /dev/ubdc
        move holdpoint-worker /dev/ubdd
        systemctl start holdpointd
}
move() {
        mkfs.ext4 -q -F "$2" 16M
        mount "$2" /mnt
        cp -a "/var/lib/$1/." /mnt
        umount /mnt
        mount "$2" "/var/lib/$1"
        rmdir "/var/lib/$1/lost+found"
}
fill() {
        dd if=/dev/zero of="/var/lib/$1/fill" bs=4k 2>/dev/null || true
}
"""


def test_bus_restarted(guest):
    """The agent follows the bus, however long that is away, and a job that ran is told as interrupted."""
    guest("""
        site
        # replaced OLD: another agent owns the name.
        replaced() {
                (($(systemctl show -P MainPID holdpointd) != $1)) && busctl status org.holdpoint.Backup1
        }
        agent=$(systemctl show -P MainPID holdpointd)
        systemctl restart dbus
        soon 20 replaced "$agent"
        same "$(holdpoint list --json | jq .total)" 1 "backups, after a restart of the bus"

        agent=$(systemctl show -P MainPID holdpointd)
        systemctl kill -s KILL dbus
        soon 20 replaced "$agent"
        holdpoint verify latest

        pause backup sealed
        got=0
        holdpoint create app 2>/tmp/said & caller=$!
        soon 30 stopped
        worker=$(stopped) agent=$(systemctl show -P MainPID holdpointd)
        systemctl restart dbus
        wait "$caller" || got=$?
        same "$got" 9 "status of who waited"
        grep -q "went away while job" /tmp/said
        soon 20 replaced "$agent"
        kill -0 "$worker" || fail "the worker died with the bus"
        kill -CONT "$worker"
        soon 30 gone
        unpause
        job_is backup interrupted
        holdpoint jobs | grep -q 'lost the system bus'
        same "$(holdpoint list --json | jq -r '[.backups[].status] | join(" ")')" 'failed completed' "backups"
        journalctl -u holdpointd | grep -q 'interrupted: the agent lost the system bus'
        holdpoint create app

        # Longer than systemd would go on to start an agent that fails at once.
        systemctl stop dbus.socket dbus.service
        soon 20 sh -c 'journalctl -u holdpointd | grep "system bus is not there"'
        sleep 7
        agent=$(systemctl show -P MainPID holdpointd)
        systemctl start dbus.socket
        soon 20 busctl status org.holdpoint.Backup1
        same "$(systemctl show -P MainPID holdpointd)" "$agent" "who waited and who came back"
        holdpoint create app
        ! journalctl -u holdpointd | grep -E 'repeated too quickly|dumped' || fail "it gave up"
        """, seconds=240)


def test_state_full_or_read_only(guest):
    """What needs the disk is refused by name, the rest goes on; nothing is lost, and it works again by itself."""
    guest.denials_expected = "Read-only file system"  # is what this is about
    guest.disks += [guest.disk("agent", 64), guest.disk("worker", 64)]
    guest(STATES + """
        # reads: whatever needs no disk of the states, in all their ways.
        reads() {
                holdpoint list >/dev/null
                holdpoint files latest | grep app.db >/dev/null
                holdpoint diff latest latest
                holdpoint verify latest --depth data >/dev/null
                holdpoint restore latest --dry-run --from local --yes >/dev/null
                rm -rf /srv/out
                mkdir /srv/out
                holdpoint restore latest --from local --into /srv/out >/dev/null
                same "$(rows /srv/out/app/srv/app)" 100 "rows, $1"
        }
        # refused NAME TEXT COMMAND…
        refused() {
                status 1 "${@:3}" --json >/tmp/refused
                same "$(jq -r .error.name /tmp/refused)" "$1" "error of ${*:3}"
                jq -r .error.message /tmp/refused | grep -q "$2" || fail "$(cat /tmp/refused)"
        }
        found() {
                holdpoint doctor --json >/tmp/report || true
                jq -e --arg check "$1" '.findings[] | select(.check == $check and .severity != "ok")' /tmp/report >/dev/null ||
                        fail "the doctor does not see it: $1"
        }
        completed() {
                same "$(holdpoint list --status completed --json | jq .total)" "$1" "backups $2"
        }
        own_disks

        # The agent's disk is full: all goes on, also in an agent that starts like that, and history comes back to disk.
        fill holdpoint
        holdpoint create app
        reads "with a full disk of the agent"
        found agent.catalogue
        systemctl restart holdpointd
        completed 2 "known to an agent that starts with a full disk"
        holdpoint create app
        rm /var/lib/holdpoint/fill
        systemctl reload holdpointd
        journalctl -u holdpointd | grep -q 'written to /var/lib/holdpoint again'
        systemctl kill -s KILL holdpointd
        soon 20 manager GetStatus 'a{sv}' 0
        completed 3 "after there was room again"
        same "$(holdpoint jobs --json | jq '[.jobs[] | select(.type == "backup" and .result == "done")] | length')" 3 "jobs"

        # It becomes read-only under an agent that runs, as after an error of the disk.
        systemctl reset-failed holdpointd # so many starts in a few seconds are the test's, not the agent's
        mount -o remount,abort /var/lib/holdpoint
        holdpoint create app
        systemctl kill -s KILL holdpointd
        soon 20 manager GetStatus 'a{sv}' 0
        reads "with a read-only disk of the agent"
        systemctl stop holdpointd
        umount /var/lib/holdpoint
        mount /dev/ubdc /var/lib/holdpoint
        systemctl reset-failed holdpointd
        systemctl start holdpointd
        soon 20 sh -c 'test $(holdpoint list --status completed --json | jq .total) = 4'

        # The workers' disk.
        sqlite3 /srv/app/app.db 'delete from t where id > 10'
        fill holdpoint-worker
        refused NoSpace /var/lib/holdpoint-worker/index.db holdpoint create app
        refused NoSpace "state file" holdpoint restore latest --yes
        same "$(rows /srv/app)" 10 "rows, left alone"
        reads "with a full disk of the workers"
        found state
        completed 4 "beside those that failed"
        rm /var/lib/holdpoint-worker/fill
        holdpoint restore latest --yes

        mount -o remount,ro /var/lib/holdpoint-worker
        refused Internal 'index.*Read-only file system' holdpoint create app
        refused Internal 'Read-only file system' holdpoint rollback latest --yes
        reads "with a read-only disk of the workers"
        found state
        mount -o remount,rw /var/lib/holdpoint-worker
        holdpoint rollback latest --yes
        same "$(rows /srv/app)" 10 "rows after the rollback"
        holdpoint create app
        holdpoint verify latest --depth restore
        completed 5 "at the end"
        same "$(systemctl show -P NRestarts holdpointd)" 0 "restarts since it was started last"
        """, seconds=300)
