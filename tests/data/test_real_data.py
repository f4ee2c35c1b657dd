"""This machine's own /usr and /var, copied to btrfs and ext4, backed up, restored, and compared by other programs.

Large files are left out of the copies: they are many bytes and one kind; a part is exported. HOLDPOINT_REAL_DATA=all
takes and exports all, and one file over 4 GiB without holes; under sanitizers, or with HOLDPOINT_REAL_DATA=some, a part
of /usr is taken for the whole.
"""

import contextlib
import os
import subprocess
import time

import holdpoint
import memory
import pytest

SOME = ("/usr/share/doc", "/usr/share/zoneinfo", "/usr/bin", "/usr/lib/systemd", "/var/lib")
WHICH = os.environ.get("HOLDPOINT_REAL_DATA", "most" if memory.is_measurable() else "some")
SOURCES = SOME if WHICH == "some" else ("/usr", "/var")
EXPORTED = (None,) if WHICH == "all" else ("/usr/share/zoneinfo", "/usr/lib/systemd")
LARGEST = [] if WHICH == "all" else ["--max-size=1m"]
GIB = 60 if WHICH == "all" else 24


def copy(source, target):
    """As it is; what changed meanwhile is no matter, since the copy is what is backed up."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    done = subprocess.run(["rsync", "-aHAX", "--one-file-system", "--open-noatime", *LARGEST, source, os.path.dirname(target) + "/"],
                          capture_output=True, text=True)
    assert done.returncode in (0, 23, 24), done.stderr
    # A socket is in no backup, and its absence would be a difference.
    holdpoint.run("find", target, "-type", "s", "-delete")


def differences(before, after, by_content=True):
    """What rsync would still change; the times to the nanosecond."""
    out = holdpoint.run("rsync", "-aHAXn", *(["--checksum"] if by_content else []), "--modify-window=-1", "--delete",
                        "--itemize-changes", before + "/", after + "/")
    return out.splitlines()[:20]


LISTERS = (["getfattr", "-Rhd", "-m", "-", "-e", "hex", "."], ["getfacl", "-Rpns", "--physical", "."], ["lsattr", "-Ra", "."])

# How ext4 keeps blocks (e) and looks names up (I), and that btrfs gave up compressing (m), is theirs to decide.
OWN_FLAGS = str.maketrans("eIm", "---")


def listing(top):
    """What getfattr, getfacl and lsattr say of all of it. Each walks in an order of its own: what it says is sorted."""
    found = []
    with contextlib.ExitStack() as stack:
        tools = [stack.enter_context(subprocess.Popen(argv, cwd=top, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
                 for argv in LISTERS]
        for argv, tool in zip(LISTERS, tools):
            text = tool.stdout.read().decode(errors="surrogateescape")
            parts = text.split("\n" if argv[0] == "lsattr" else "\n\n")
            if argv[0] == "lsattr":
                parts = [flags.translate(OWN_FLAGS) + space + name for flags, space, name in (p.partition(" ") for p in parts)]
            found.append((argv[0], len(parts), set(map(hash, parts))))
    return found


def unlike(before, after):
    """Which of the tools tells two trees apart."""
    return [a[0] for a, b in zip(listing(before), listing(after)) if a != b]


class Copies:
    """The same trees on both file systems: one service each."""

    def __init__(self, machine, systems):
        self.machine, self.tops, self.kept, self.peaks, self.took = machine, {}, {}, {}, {}
        for kind, fs in systems.items():
            top = self.tops[kind] = fs.directory("srv", kind)
            for source in SOURCES:
                first = self.tops["btrfs"] + source
                copy(source if kind == "btrfs" else first, top + source)
            machine.write_service(kind, top, Snapshot="auto" if kind == "btrfs" else "none", Databases="none")
        machine.start()

    def measured(self, what, *arguments):
        began = time.monotonic()
        with memory.Peak(self.machine) as peak:
            done = self.machine.json(*arguments, timeout=1800)
        self.peaks[what], self.took[what] = round(peak.mib, 1), round(time.monotonic() - began, 1)
        return done

    def check(self, kind, at):
        assert differences(self.tops[kind], at) == []
        assert unlike(self.tops[kind], at) == []


@pytest.fixture(scope="module")
def copies(install):
    with contextlib.ExitStack() as stack:
        systems = {kind: stack.enter_context(holdpoint.LoopFs(kind, GIB << 10)) for kind in ("btrfs", "ext4")}
        yield Copies(stack.enter_context(holdpoint.Machine(install)), systems), systems


def test_usr_and_var(copies):
    """Aside from the repository on both, and swapped in: on btrfs from the image, on ext4 from the repository."""
    c, systems = copies
    backup = c.measured("full", "create", "full")
    assert backup["result"] == "done", backup
    again = c.measured("unchanged", "create", "full")
    assert (again["checksum"], again["new_bytes"] < 1 << 20) == (backup["checksum"], True)

    into = os.path.join(systems["btrfs"].path, "aside")
    c.measured("aside", "restore", backup["backup_id"], "--service", "btrfs", "--from", "local", "--into", into)
    c.check("btrfs", os.path.join(into, "btrfs") + c.tops["btrfs"])
    c.measured("swap of btrfs", "restore", backup["backup_id"], "--service", "btrfs", "--from", "hot", "--yes")
    assert differences(os.path.join(into, "btrfs") + c.tops["btrfs"], c.tops["btrfs"], by_content=False) == []

    c.measured("swap of ext4", "restore", backup["backup_id"], "--service", "ext4", "--from", "local", "--yes")
    old = os.path.join(systems["ext4"].path, ".holdpoint")
    name, = [n for n in os.listdir(old) if n.startswith("restore.")]
    print(WHICH, backup["files"], backup["bytes"], c.took, c.peaks)
    c.check("ext4", os.path.join(old, name))
    assert not memory.is_measurable() or max(c.peaks.values()) <= memory.LIMIT_MIB, c.peaks


UNPACKERS = {"gnutar": "tar --xattrs --xattrs-include='*' --acls -xpf -", "bsdtar": "bsdtar -xpf -"}


def piped(machine, export, unpack, into):
    """holdpoint export … | unpack, in the directory `into`."""
    environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=machine.bus.address, LC_ALL="C.UTF-8")
    done = subprocess.run(["bash", "-o", "pipefail", "-c", '"$0" export "$@" --format tar -o - | ' + unpack, machine.install.cli, *export],
                          cwd=into, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=environment, timeout=3600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(UNPACKERS))
def test_exported(copies, name):
    """What both unpackers make of the archive is what was backed up, but for flags (docs/DBUS.md)."""
    c, systems = copies
    backup = (c.machine.json("list")["backups"] or [c.machine.json("create", "btrfs")])[0]["backup_id"]
    for part in EXPORTED:
        into = os.path.join(systems["btrfs"].path, "unpacked-" + name)
        os.makedirs(into, exist_ok=True)
        path = c.tops["btrfs"] + (part or "")
        piped(c.machine, [backup, "--service", "btrfs"] + (["--path", path] if part else []), UNPACKERS[name], into)
        at = os.path.join(into, "btrfs") + path
        assert len(os.listdir(at)) > 1
        assert differences(path, at) == []
        assert [tool for tool in unlike(path, at) if tool != "lsattr"] == []
        holdpoint.run("rm", "-rf", into)


def test_file_over_4_gib(install):
    """Without holes, and no part like another."""
    with holdpoint.LoopFs("ext4", 16 << 10) as fs, holdpoint.Machine(install, os.path.join(fs.path, "repository")) as machine:
        top, size = fs.directory("srv"), (4 << 30) + 12345
        holdpoint.run("bash", "-c", "openssl enc -aes-128-ctr -K 0 -iv 0 -in /dev/zero 2>/dev/null | head -c %d >%s/dense" % (size, top))
        machine.write_service("app", top, Snapshot="none")
        machine.start()
        with memory.Peak(machine) as peak:
            backup = machine.json("create", "app", timeout=1800)
            assert backup["result"] == "done" and backup["bytes"] >= size <= backup["new_bytes"]
            machine.json("restore", backup["backup_id"], "--into", os.path.join(fs.path, "aside"), timeout=1800)
        copy = os.path.join(fs.path, "aside", "app") + top + "/dense"
        holdpoint.run("cmp", top + "/dense", copy)
        assert os.stat(copy).st_blocks * 512 >= size
        summed = piped(machine, [backup["backup_id"]], "tar -xOf - --wildcards '*/dense' | sha256sum", fs.path)
        assert summed.split()[0] == holdpoint.run("sha256sum", top + "/dense").split()[0]
        assert not memory.is_measurable() or peak.mib <= memory.LIMIT_MIB


test_file_over_4_gib.__test__ = WHICH == "all"  # ten minutes, and 20 GiB of disk
