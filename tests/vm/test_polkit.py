"""polkit as it is installed: the agent has no privileges, and may ask about others only where the actions name it."""


def test_roles(guest):
    guest("""
        useradd --system yeepay-admin
        cp /usr/share/doc/holdpoint/examples/polkit/50-holdpoint.rules /etc/polkit-1/rules.d/
        data btrfs
        application /srv/app 10
        service app /srv/app
        as() { local user=$1; shift; setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"; }

        as yeepay-admin holdpoint create app
        same "$(as yeepay-admin holdpoint list --json | jq .total)" 1 "backups that the backend sees"
        as yeepay-admin holdpoint verify latest
        for denied in 'restore latest --service app --yes' 'delete latest --yes' 'prune --yes' 'files latest' \
                      'export latest -o /tmp/x.tar' 'key export-recovery' 'schedule set nightly'; do
                # shellcheck disable=SC2086
                status 4 as yeepay-admin holdpoint $denied
        done
        status 4 as games holdpoint list
        holdpoint files latest >/dev/null

        # Without polkit, root alone; and nobody waits for it.
        systemctl mask --runtime polkit
        systemctl stop polkit
        status 4 as yeepay-admin holdpoint list
        holdpoint list >/dev/null
        systemctl unmask --runtime polkit

        # Without the annotation polkit does not answer the agent.
        sed -i /policykit.owner/d /usr/share/polkit-1/actions/org.holdpoint.backup1.policy
        systemctl restart polkit
        status 4 as yeepay-admin holdpoint list
        """, seconds=240)
