"""Restores where there is no room for what they stage."""

import os

import pytest

import holdpoint
import workerclient


def fill(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(os.urandom(20 << 20))


@pytest.mark.parametrize("how", ["disk", "quota"])
def test_no_room_for_parts(install, how):
    """Staged beside the live tree, where there is no room: named, and nothing is left."""
    with holdpoint.LoopFs("btrfs" if how == "quota" else "ext4", 256 if how == "quota" else 64) as fs, \
            holdpoint.Machine(install) as machine:
        data = fs.directory("data")
        fill(os.path.join(data, "big", "x"))
        machine.write_service("site", data, Snapshot="none")
        machine.start()
        backup = machine.json("create", "site")["backup_id"]
        if how == "quota":
            holdpoint.run("btrfs", "quota", "enable", fs.path)
            holdpoint.run("btrfs", "quota", "rescan", "-w", fs.path)
            holdpoint.run("btrfs", "qgroup", "limit", "30M", data)
        else:
            fill(os.path.join(data, "more"))
        for answer in (workerclient.restore(machine, backup, paths=["big"]),
                       workerclient.restore(machine, backup, paths=["big/x"])):
            assert (answer.result, answer.name) == ("failed", "NoSpace"), answer
        assert os.path.getsize(os.path.join(data, "big", "x")) == 20 << 20
        assert os.listdir(os.path.join(data if how == "quota" else fs.path, ".holdpoint")) == []
        if how == "disk":
            answer = workerclient.ask(machine, "verify", backup_id=backup, depth="restore")
            assert answer.result == "done", answer  # in the worker's state, which has the room
            assert os.listdir(os.path.join(machine.worker_state, "verify")) == []
