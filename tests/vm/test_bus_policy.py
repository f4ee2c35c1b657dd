"""The bus's own policy: methods are open, since each asks who calls; the rest is for root and the group."""


def test_who_may_what(guest):
    guest("""
        useradd --system watcher; usermod -aG holdpoint watcher
        systemctl start holdpointd
        as() { local user=$1; shift; setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"; }
        name=org.holdpoint.Backup1 root=/org/holdpoint/Backup1
        property=(busctl --timeout=20 get-property $name $root $name.Manager BackupCount)
        objects=(busctl --timeout=20 call $name $root org.freedesktop.DBus.ObjectManager GetManagedObjects)
        all=(busctl --timeout=20 call $name $root org.freedesktop.DBus.Properties GetAll s $name.Manager)

        for who in root watcher; do
                as $who "${property[@]}"
                as $who "${objects[@]}" >/dev/null
                as $who "${all[@]}" >/dev/null
        done
        for call in property objects all; do
                declare -n words=$call
                status 1 as games "${words[@]}" 2>&1 | tee /tmp/answer
                grep -qi 'denied' /tmp/answer
        done
        # A method comes to the agent, which decides; nobody else can take the name.
        status 1 as games busctl --timeout=20 call $name $root $name.Manager ListBackups 'a{sv}' 0 2>&1 | tee /tmp/answer
        grep -q 'org.holdpoint.backup1.list' /tmp/answer
        as games busctl --timeout=20 call $name $root org.freedesktop.DBus.Introspectable Introspect >/dev/null
        systemctl stop holdpointd
        status 1 as games busctl --timeout=20 call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus \\
                RequestName su $name 0
        """)


def test_signals(guest):
    """A job's signals reach root and the group, and nobody else."""
    guest("""
        useradd --system watcher; usermod -aG holdpoint watcher
        data ext4
        application /srv/app
        service app /srv/app Snapshot=none
        systemctl start holdpointd
        for who in watcher games; do
                setpriv --reuid $who --regid $who --init-groups \\
                        dbus-monitor --system "type='signal',sender='org.holdpoint.Backup1'" >/tmp/heard.$who 2>&1 &
        done
        sleep 3
        holdpoint create app
        soon 10 grep -q JobRemoved /tmp/heard.watcher
        grep -q 'path=/org/holdpoint.*PropertiesChanged' /tmp/heard.watcher
        grep -q 'InterfacesAdded' /tmp/heard.watcher
        ! grep -qE 'interface=org.holdpoint|path=/org/holdpoint' /tmp/heard.games || fail "an ordinary user hears of jobs"
        """)
