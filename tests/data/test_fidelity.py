"""What Linux keeps about a file comes back: from the image and from the repository, aside and by swap.

The trees are made of the far ends (tests/lib/extremes.py). They are compared by descriptor, and by the
tools that people use, where those reach.
"""

import json
import os
import struct
import subprocess
import urllib.parse

import extremes
import holdpoint
import memory
import pytest
import read_repo
import sites
import trees


class Zoo:
    """One service with one of everything, on a file system of its own, and its backup."""

    def __init__(self, site, kind):
        self.site, self.kind = site, kind
        self.sources = ("hot", "local") if kind == "btrfs" else ("local",)  # an image is a hot copy
        self.top = site.fs.directory("srv", "zoo")
        extremes.make(self.top, kind)
        site.service("zoo", self.top, Snapshot="auto" if kind == "btrfs" else "none")
        self.before = extremes.describe(self.top)
        self.listings = self.list(self.top)
        self.backup = site.create("zoo")

    def restore(self, *arguments):
        return self.site.machine.json("restore", self.backup["backup_id"], *arguments)

    def list(self, top):
        """What acl, attr and e2fsprogs say of the parts that they can reach."""
        found = []
        for part in ("attributes", "modes", "links", "flags", "times"):
            for argv in (["getfattr", "-Rhd", "-m", "-", "-e", "hex"], ["getfacl", "-Rpn", "--physical"], ["lsattr", "-Ra"]):
                done = subprocess.run(argv + [part], cwd=top, capture_output=True, check=argv[0] != "lsattr")
                found.append((argv[0], part, sorted(done.stdout.splitlines())))
        return found

    def check(self, top):
        assert trees.differences(self.before, extremes.describe(top)) == []
        assert self.list(top) == self.listings


@pytest.fixture(scope="module", params=["btrfs", "ext4", "xfs"])
def zoo(request, install):
    extremes.raise_limits()
    with sites.open_site(install, request.param, 3072) as site:
        yield Zoo(site, request.param)


def test_completed(zoo):
    assert zoo.backup["result"] == "done"
    metadata = json.loads(zoo.backup["metadata"])
    assert (metadata["problems"], metadata["sockets"]) == ([], 1)
    assert metadata["left_out"] == [{"service": "zoo", "path": os.path.join(zoo.top, "socket")}]
    assert zoo.backup["files"] == len(zoo.before)


def test_aside(zoo):
    for source in zoo.sources:
        into = os.path.join(zoo.site.fs.path, "aside-" + source)
        assert zoo.restore("--into", into, "--from", source)["result"] == "done"
        zoo.check(os.path.join(into, "zoo") + zoo.top)


def test_swap(zoo):
    for source in zoo.sources:
        zoo.restore("--from", source, "--yes")
        zoo.check(zoo.top)
        zoo.site.machine.cli("rollback", "latest", "--yes")
        zoo.check(zoo.top)
        zoo.site.machine.cli("rollback", "latest", "--yes")
        zoo.check(zoo.top)
        # Immutable, append-only, deep and unreadable: what was replaced goes all the same.
        zoo.site.machine.cli("confirm", "latest", "--yes")
        assert [n for n in os.listdir(zoo.site.area) if n.startswith("restore.")] == []
        zoo.check(zoo.top)


def entries(zoo, backup_id):
    """What the repository itself says, read without our code."""
    key = read_repo.load_private_key(os.path.join(zoo.site.machine.etc, "keys", "private.pem"))
    repository = read_repo.Repository(zoo.site.machine.repository, key)
    found = {os.path.join(folder, e["name"]): e for _, folder, e in repository.entries(repository.record(backup_id))}
    for name in ("zeros", "reserved"):  # blocks that hold nothing but zeros come back as holes
        for key in ("chunks", "sparse"):
            found.get(os.fsencode(os.path.join(zoo.top, "sparse", name)), {}).pop(key, None)
    return found


def test_a_backup_of_what_was_restored(zoo):
    """It holds what the backup holds from which that was restored."""
    again = zoo.site.create("zoo")
    assert trees.differences(entries(zoo, zoo.backup["backup_id"]), entries(zoo, again["backup_id"])) == []


@pytest.mark.parametrize("part", [b"links", b"links/c"])
def test_exported(zoo, part, tmp_path):
    """With their first names and without: in an archive, too, further names are what they are."""
    archive, out = str(tmp_path / "a.tar"), str(tmp_path)
    path = os.path.join(zoo.top, os.fsdecode(part))
    zoo.site.machine.cli("export", zoo.backup["backup_id"], "--service", "zoo", "--path", path, "--format", "tar", "-o", archive)
    holdpoint.run("tar", "-C", out, "-xpf", archive, "--xattrs", "--xattrs-include=*")
    got = extremes.describe(os.path.join(out, "zoo") + path)
    for name in (b"file", b"symlink", b"fifo", b"device", b"capable"):
        wanted, names = zoo.before[part + b"/" + name], (b"a/deep/", b"a/", b"b/", b"c/", b"")
        assert {k: v for k, v in got[name].items() if k not in ("links", "xattrs")} == {
            k: v for k, v in wanted.items() if k not in ("links", "xattrs")}
        assert sorted(got[name].get("links", [])) == (sorted(n + name for n in names) if part == b"links" else [])


UNPACKERS = {"tar": ["tar", "--xattrs", "--xattrs-include=*", "--acls", "-xpf"], "bsdtar": ["bsdtar", "-xpf"]}
LARGE_ID, BSDTAR_ID = (struct.pack("<I", n) for n in (4000000000, 2**31 - 1))


def unpacked(before, program):
    """What docs/DBUS.md says of each program: the rest comes back. Paths beyond PATH_MAX are left to the restores."""
    wanted = {path: dict(d) for path, d in before.items() if not path.startswith(b"long")}
    for d in wanted.values():
        d["xattrs"] = {urllib.parse.quote(os.fsencode(n), safe="/:"): v for n, v in d["xattrs"].items()}
        if -10**9 < d["mtime"] < 0:
            d["mtime"] = -10**9
        flags = d.get("flags", 0)
        if program == "tar" or flags & extremes.NOCOMP or (flags & extremes.NOCOW and d.get("size")):
            d["flags"] = None
        if program == "bsdtar":
            d["mtime"] = d["mtime"] if d["mtime"] % 10**9 == 0 or d["mtime"] > 0 else None
            d["xattrs"] = {n: v.replace(LARGE_ID, BSDTAR_ID) if "acl" in n else v for n, v in d["xattrs"].items()}
    return wanted


@pytest.fixture(scope="module")
def archive(zoo):
    path = os.path.join(zoo.site.fs.path, "a.tar")
    summary = zoo.site.machine.json("export", zoo.backup["backup_id"], "--format", "tar", "-o", path)
    assert (summary["files"], summary["large_acls"]) == (len(zoo.before), 1)
    return path


@pytest.mark.parametrize("zoo", ["btrfs"], indirect=True)
@pytest.mark.parametrize("program", UNPACKERS)
def test_all_of_it_exported(zoo, archive, program):
    """An archive does not know from what file system it comes: one is enough."""
    out = os.path.join(zoo.site.fs.path, "out-" + program)
    os.mkdir(out)
    done = subprocess.run(UNPACKERS[program] + [archive, "-C", out], capture_output=True)
    assert done.returncode == {"tar": 2, "bsdtar": 1}[program], done.stderr  # the paths that they cannot make
    wanted = unpacked(zoo.before, program)
    found = {path: d for path, d in extremes.describe(os.path.join(out, "zoo") + zoo.top).items() if path in wanted}
    for path, d in found.items():
        d.update({key: None for key in ("flags", "mtime") if key in wanted[path] and wanted[path][key] is None})
    assert trees.differences(wanted, found) == []


@pytest.mark.parametrize("zoo", ["btrfs"], indirect=True)
def test_acls_imported(zoo, tmp_path):
    """What an export has written beside an ACL for other programs is exact."""
    archive, part = str(tmp_path / "a.tar"), os.path.join(zoo.top, "attributes")
    zoo.site.machine.cli("export", zoo.backup["backup_id"], "--service", "zoo", "--path", part, "--format", "tar", "-o", archive)
    assert zoo.site.machine.json("import", archive)["result"] == "done"
    imported = zoo.site.machine.json("list", "--limit", "1")["backups"][0]["backup_id"]
    before, after = ({path: {"acl": [x for x in e["xattrs"] if b"acl" in x[0]], "mode": e.get("mode")} for path, e in entries(zoo, i).items()
                      if path.startswith(os.fsencode(part + "/")) and os.path.basename(path) not in (b"b", b"c")}
                     for i in (zoo.backup["backup_id"], imported))
    assert sum(LARGE_ID in value for e in before.values() for _, value in e["acl"]) == 1
    assert trees.differences(before, after) == []


# --- many of them ---------------------------------------------------------------------------------------

MANY = 300000


def fill(top, names):
    """Files with nothing in them but a name; every hundredth has some content."""
    fd = os.open(top, os.O_RDONLY)
    for i, name in enumerate(names):
        file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o640, dir_fd=fd)
        if i % 100 == 0:
            os.write(file, b"%d" % i)
        os.close(file)
    os.close(fd)


@pytest.fixture(scope="module")
def many(install):
    with sites.open_site(install, "btrfs", 4096) as site:
        top = site.fs.subvolume("many")
        os.mkdir(os.path.join(top, "flat"))
        fill(os.path.join(top, "flat"), ["%06d of a name that is not the shortest" % i for i in range(MANY)])
        site.service("many", top)
        yield site, top


def test_a_directory_of_300000(many):
    """In memory that does not know how many there are."""
    site, top = many
    peaks = {}
    with memory.Peak(site.machine) as peak:
        backup = site.create("many")
    peaks["first"] = peak.mib
    assert (backup["result"], backup["files"]) == ("done", MANY + 2)
    with memory.Peak(site.machine) as peak:
        again = site.create("many")
    peaks["unchanged"] = peak.mib
    assert (again["checksum"], again["read_bytes"]) == (backup["checksum"], 0)
    into = os.path.join(site.fs.path, "many-aside")
    with memory.Peak(site.machine) as peak:
        site.machine.json("restore", backup["backup_id"], "--into", into, "--from", "local")
    peaks["aside"] = peak.mib
    rest = holdpoint.run("rsync", "-aHAXn", "--modify-window=-1", "--delete", "--itemize-changes", top + "/",
                         os.path.join(into, "many") + top + "/")
    assert rest == ""
    assert not memory.is_measurable() or max(peaks.values()) <= memory.LIMIT_MIB, peaks
    print(peaks)
