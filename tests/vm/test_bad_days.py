"""What the rest of the machine does to an agent on a bad day: it goes on by itself, and says what was lost."""


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
