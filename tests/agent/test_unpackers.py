"""What GNU tar and bsdtar do not bring back is what docs/DBUS.md says, no more and no less; an import brings it all."""

import os
import subprocess

import extremes
import holdpoint
import pytest

NAMES = (b"user.plain", b"user.a b", b"user.a\nb", b"user.\xff", "user.\u00e9".encode(), b"user.a=b", b"user.a%b")
FLAGS = {"sync": extremes.SYNC, "nodump": extremes.NODUMP, "noatime": extremes.NOATIME, "incompressible": extremes.NOCOMP}
UNPACKERS = {"gnutar": ["tar", "--xattrs", "--xattrs-include=*", "--acls", "-xpf"], "bsdtar": ["bsdtar", "-xpf"]}


def make(top):
    extremes.write(os.path.join(top, "named"), b"x")
    for name in NAMES:
        os.setxattr(os.path.join(top, "named"), name, b"v")
    for name, flags in FLAGS.items():
        extremes.write(os.path.join(top, name))
        extremes.add_flags(os.path.join(top, name), flags)
    os.mkdir(os.path.join(top, "long"))
    extremes.make_chain(os.path.join(top, "long"), [b"d" * 250] * 20)


class Exported:
    """One tree with all of it, and its archive."""

    def __init__(self, machine, fs):
        self.machine, self.fs, self.top, self.archive = machine, fs, fs.subvolume("app"), os.path.join(fs.path, "a.tar")
        make(self.top)
        machine.write_service("app", self.top, Databases="none")
        machine.start()
        backup = machine.json("create", "app")["backup_id"]
        machine.cli("export", backup, "--format", "tar", "-o", self.archive)

    def unpack(self, name):
        """(where it is, what is said)"""
        out = self.fs.subvolume(name)
        done = subprocess.run(UNPACKERS[name] + [self.archive], cwd=out, capture_output=True, text=True, errors="replace")
        assert done.returncode != 0  # none can do all of it, and each says so
        return os.path.join(out, "app") + self.top, done.stderr

    def attributes(self, top):
        return {os.fsencode(n) for n in os.listxattr(os.path.join(top, "named"))}

    def flags(self, top):
        found = extremes.describe(top)
        return {name for name, flag in FLAGS.items() if found[os.fsencode(name)]["flags"] & flag}

    def missing(self, top):
        """How long the paths are, in the archive, of what is not there."""
        there = extremes.describe(top)
        return sorted((len("app" + self.top) + 1 + len(p), os.path.basename(p)) for p in extremes.describe(self.top)
                      if p not in there)


@pytest.fixture(scope="module")
def exported(install):
    with holdpoint.LoopFs("btrfs", 512) as fs, holdpoint.Machine(install) as machine:
        yield Exported(machine, fs)


def test_gnu_tar(exported):
    top, said = exported.unpack("gnutar")
    assert exported.attributes(top) == {b"user.plain", b"user.a%20b", b"user.a%0Ab", b"user.%FF", b"user.%C3%A9", b"user.a=b",
                                        b"user.a%b"}
    assert exported.flags(top) == set() and "SCHILY.fflags" in said
    missing = exported.missing(top)
    assert missing and missing[0][0] > 4096 - 250 and "File name too long" in said


def test_bsdtar(exported):
    top, said = exported.unpack("bsdtar")
    assert exported.attributes(top) == {b"user.plain", b"user.a%20b", b"user.a%0Ab", b"user.%FF", b"user.%C3%A9", b"user.a%3Db",
                                        b"user.a%25b"}
    assert exported.flags(top) == {"sync", "nodump", "noatime"}
    assert [name for _, name in exported.missing(top)] == [b"far"]  # a second name so far down
    assert "far" in said and "time" in said


def test_import(exported):
    backup = exported.machine.json("import", exported.archive)
    into = os.path.join(exported.fs.path, "imported")
    assert backup["result"] == "done"
    exported.machine.cli("restore", backup["backup_id"], "--into", into)
    top = os.path.join(into, "app") + exported.top
    assert exported.attributes(top) == set(NAMES)
    assert exported.missing(top) == []
