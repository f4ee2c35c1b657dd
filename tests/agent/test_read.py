"""What a backup holds, as its readers get it: listings, comparisons, and tars that GNU tar and bsdtar unpack."""

import contextlib
import json
import os
import shutil
import subprocess
import tarfile

import holdpoint
import memory
import pytest
import trees
from busclient import BusError, Client, variant

MIB = 1 << 20
RSS_MAX = 64 * MIB
UNPACKERS = {"gnutar": ["tar", "--xattrs", "--xattrs-include=*", "--acls", "-xpf", "-"], "bsdtar": ["bsdtar", "-xpf", "-"]}


class Reader:
    """A machine with its bus: streams are read to their end, and the worker's memory is watched meanwhile."""

    def __init__(self, machine):
        self.machine, self.peak, self.bus = machine, 0, None

    def backup(self, what="full"):
        """The services are there by now: the first backup starts the machine."""
        if not self.bus:
            self.machine.start()
            self.bus = Client(self.machine.bus.address)
        return self.machine.json("create", what)["backup_id"]

    def watch(self):
        for pid in self.machine.workers.pids():
            with contextlib.suppress(OSError):
                with open("/proc/%d/status" % pid) as f:
                    text = f.read()
                if "\nVmHWM:" in text and "holdpoint-worke" in text:
                    self.peak = max(self.peak, int(text.split("VmHWM:")[1].split()[0]) * 1024)

    def open(self, member, signature, arguments, fds=()):
        fd, (job,) = self.bus.stream(member, signature, arguments, fds=fds)
        return fd, job

    def read(self, fd, job, sink):
        with os.fdopen(fd, "rb") as f:
            for n, block in enumerate(iter(lambda: f.read(1 << 16), b"")):
                sink(block)
                if n % 16 == 0:
                    self.watch()
        return self.bus.wait_job(job, 60)

    def lines(self, member, signature, arguments):
        """(the objects before the end mark, the job's result)"""
        blocks = []
        result = self.read(*self.open(member, signature, arguments), blocks.append)
        found = [json.loads(line) for line in b"".join(blocks).decode().splitlines()]
        if result[0] == "done":
            assert found.pop() == {"end": True, "entries": len(found)}
        else:
            assert not found or "end" not in found[-1]
        return found, result

    def files(self, backup, service="", path=""):
        return self.lines("ListFiles", "sssa{sv}", [backup, service, path, {}])

    def diff(self, a, b, **options):
        return self.lines("DiffBackups", "ssa{sv}", [a, b, {k: variant("s", v) for k, v in options.items()}])

    def export(self, backup, sink, key=None, **options):
        options = {k: variant("s", v) for k, v in options.items()}
        if key is not None:
            options["key"] = variant("h", 0)
        fds = [] if key is None else [key]
        return self.read(*self.open("OpenBackup", "sa{sv}", [backup, options], fds), sink)

    def export_to(self, archive, backup, **options):
        with open(archive, "wb") as f:
            return self.export(backup, f.write, **options)

    def error(self, job):
        return self.bus.get("ErrorName", job, "org.holdpoint.Backup1.Job").rpartition(".")[2]


@pytest.fixture
def reader(machine):
    r = Reader(machine)
    yield r
    if r.bus:
        r.bus.close()


def write(path, data=b"", mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    trees.write(path, data, mode)


def unpack(name, archive, directory, zstd=False):
    """Unpacks with one of the two programs; what it says is returned."""
    command = "zstd -dc" if zstd else "cat"
    environment = dict(os.environ, LC_ALL="C.UTF-8")
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command + ' "$0" | "$@"', archive, *UNPACKERS[name]],
                          cwd=directory, capture_output=True, text=True, errors="replace", env=environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def rsync(a, b):
    """What rsync would change to make b like a."""
    return holdpoint.run("rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes", a + "/", b + "/")


# --- export: everything that tar can keep ------------------------------------------------------------------------

def make_special(top):
    """What the zoo lacks: names longer than any path, holes in great number, strange attributes."""
    surrogates = b"surrogates \xed\xa0\x80\xed\xb0\x80"  # two halves that no decoder may join
    write(os.path.join(top, surrogates), b"x")
    os.symlink(surrogates, os.path.join(top, b"link to " + surrogates))
    write(os.path.join(top, b"equals"), b"x")
    os.setxattr(os.path.join(top, b"equals"), "user.ac", b"value")
    os.utime(os.path.join(top, b"equals"), ns=(0, -700000000 * 10**9 - 123456789))
    with open(os.path.join(top, b"one hole"), "wb") as f:
        f.truncate(40 << 20)
    with open(os.path.join(top, b"comb"), "wb") as f:
        for n in range(20):
            os.pwrite(f.fileno(), b"tooth", n << 22)
    write(os.path.join(top, b"clock"), b"x")
    os.utime(os.path.join(top, b"clock"), ns=(0, (1 << 33) * 10**9 + 1))
    write(os.path.join(top, b"nobody"), b"x")
    os.chown(os.path.join(top, b"nobody"), 4294967294, 4000000000)


def ignored(before, name):
    """What no unpacker of this name can bring back."""
    for d in before.values():
        if "flags" in d and (name == "gnutar" or d.get("flags", 0) & trees.FS_NOCOW_FL):
            d["flags"] = 0  # GNU tar knows no flags; nocow must come before the content
        if name == "bsdtar" and d["mtime"] < 0:
            d.pop("mtime")  # bsdtar reads the fraction of a negative time with the wrong sign
    return before


@pytest.mark.parametrize("name, form", [("gnutar", "tar.zst"), ("bsdtar", "tar")])
def test_export(reader, btrfs, name, form):
    top, out, archive = btrfs.subvolume("app"), btrfs.subvolume("out"), os.path.join(btrfs.base, "archive")
    trees.make_zoo(top)
    trees.make_nocow(os.fsencode(top))
    for name_of_side in ("wal.db-wal", "wal.db-shm", "sparse"):  # the zoo's databases are nobody's; a GiB takes time
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(top, "content", name_of_side))
    make_special(os.fsencode(top))
    reader.machine.write_service("app", top, Databases="none")
    backup = reader.backup("app")
    result, summary = reader.export_to(archive, backup, format=form)
    assert result == "done" and summary["files"] > 100 and summary["bytes"] > 120 * MIB
    assert os.path.getsize(archive) < 60 * MIB  # the holes of sparse files are not in it
    assert reader.peak < RSS_MAX
    unpack(name, archive, out, form == "tar.zst")
    after = trees.describe(out + "/app" + top)
    differences = trees.differences(ignored(trees.describe(top), name), ignored(after, name), 100)
    assert not differences
    if name == "gnutar":
        assert rsync(top, out + "/app" + top) == ""


def test_tebibyte(reader, btrfs):
    """What is never read costs nothing: holes are counted, on both sides."""
    top, out, archive = btrfs.subvolume("app"), btrfs.subvolume("out"), os.path.join(btrfs.base, "archive")
    size, places = (1 << 40) + 7, (0, 3 << 20, 1 << 39, (1 << 40) + 3)
    with open(top + "/tebibyte", "wb") as f:
        f.truncate(size)
        for offset in places:
            os.pwrite(f.fileno(), b"here", offset)
    with open(top + "/hole", "wb") as f:
        f.truncate(1 << 43)
    reader.machine.write_service("app", top)
    assert reader.export_to(archive, reader.backup("app"))[0] == "done"
    assert os.path.getsize(archive) < 8 * MIB
    unpack("gnutar", archive, out)
    with open(out + "/app" + top + "/tebibyte", "rb") as f:
        assert os.fstat(f.fileno()).st_size == size and os.fstat(f.fileno()).st_blocks < 20000
        assert [os.pread(f.fileno(), 4, offset) for offset in places] == [b"here"] * 4
    hole = os.stat(out + "/app" + top + "/hole")
    assert (hole.st_size, hole.st_blocks) == (1 << 43, 0)


def headers(archive):
    """Every member with its path as bytes, by Python's own reader."""
    with tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as t:
        return [(os.fsencode(m.name), m) for m in t]


def test_long_names_and_order(reader, btrfs):
    """Longer than PATH_MAX, which nobody can unpack by one path; a directory right before its own content."""
    top, archive = btrfs.subvolume("app"), os.path.join(btrfs.base, "archive")
    old = os.open(".", os.O_RDONLY)
    os.chdir(top)
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    trees.write(b"bottom", b"found")
    os.fchdir(old)
    for i in range(3):
        for k in range(3):
            write("%s/%d/%d/file" % (top, i, k), b"x")
    for i in range(12000):  # more than may wait for their turn
        os.mkdir("%s/1/%s-%05d" % (top, "w" * 80, i))
    write(top + "/1/%s-%05d/file" % ("w" * 80, 11000), b"x")
    reader.machine.write_service("app", top)
    backup = reader.backup("app")
    assert reader.export_to(archive, backup)[0] == "done"
    found = headers(archive)
    names = [n for n, _ in found]
    assert len(names) == len(set(names)) == 1 + 20 + 1 + 3 + 9 + 9 + 12000 + 1
    assert max(map(len, names)) > 5000
    opened = {}
    for at, (path, member) in enumerate(found):
        opened[path] = (at, member.isdir())
        parent = os.path.dirname(path)
        if parent in opened:
            assert opened[parent][1]
    # All below a directory is one run behind it: who unpacks may close it for good when it is left.
    stack = []
    for path in names:
        while stack and not path.startswith(stack[-1] + b"/"):
            stack.pop()
        parent = os.path.dirname(path)
        assert not stack or parent == stack[-1] or parent not in opened
        stack.append(path)
    shutil.rmtree(top + "/" + "d" * 250, ignore_errors=True)


def test_export_parts(reader, btrfs):
    a, b = btrfs.subvolume("srv", "a"), btrfs.subvolume("srv", "b")
    write(a + "/up/one", b"1")
    os.setxattr(a + "/up/one", "user.x=%3D%c", b"y")
    write(a + "/up/sub/two", b"2" * 3 * MIB)
    write(a + "/first", b"linked")
    os.link(a + "/first", a + "/up/second")
    os.link(a + "/first", a + "/up/third")
    os.mkfifo(a + "/pipe")
    os.link(a + "/pipe", a + "/up/fourth")
    write(b + "/up/other", b"3")
    trees.write(os.fsencode(b) + b"/bad\xff")
    reader.machine.write_service("aa", a)
    reader.machine.write_service("bb", b)
    backup, archive = reader.backup(), os.path.join(btrfs.base, "archive")

    def names(**options):
        assert reader.export_to(archive, backup, **options)[0] == "done"
        return {n.decode("latin-1"): m for n, m in headers(archive)}

    whole = names()
    assert len(whole) == 14 and {n.split("/")[0] for n in whole} == {"aa", "bb"}
    assert whole["aa" + a + "/up/second"].islnk() and whole["aa" + a + "/up/second"].linkname == "aa" + a + "/first"
    assert {n.split("/")[0] for n in names(service="bb")} == {"bb"}
    part = names(path="up/one")
    assert list(part) == ["aa" + a + "/up/one"]
    # GNU tar takes the marks off again.
    assert part["aa" + a + "/up/one"].pax_headers["SCHILY.xattr.user.x%3D%253D%25c"] == "y"
    # The first name of the file is not in this archive: each further one is the file itself.
    part = names(path=a + "/up")
    assert sorted(part) == ["aa" + a + "/up" + x for x in ("", "/fourth", "/one", "/second", "/sub", "/sub/two", "/third")]
    assert part["aa" + a + "/up/fourth"].isfifo()
    assert part["aa" + a + "/up/second"].isreg() and part["aa" + a + "/up/third"].size == 6
    assert sorted(names(path="/" + a.split("/")[1])) == sorted(whole)

    for options, error in (({"path": "up"}, "InvalidArgument"), ({"path": "up/nothing"}, "SourceMissing"),
                           ({"path": "/nothing"}, "SourceMissing"), ({"path": "up/../up"}, "InvalidArgument"),
                           ({"path": "up", "service": "bb"}, None), ({"path": "first", "service": "bb"}, "SourceMissing")):
        fd, job = reader.open("OpenBackup", "sa{sv}", [backup, {k: variant("s", v) for k, v in options.items()}])
        blocks = []
        result = reader.read(fd, job, blocks.append)
        assert result[0] == ("failed" if error else "done"), options
        if error:
            assert reader.error(job) == error and not ends(b"".join(blocks))


def ends(data):
    """True if a tar has its end: two blocks of zeros."""
    return len(data) >= 1024 and data[-1024:] == bytes(1024)


def test_key(reader, btrfs):
    top = btrfs.subvolume("app")
    write(top + "/file", b"secret" * 1000)
    reader.machine.write_service("app", top)
    backup, private = reader.backup("app"), os.path.join(reader.machine.etc, "keys", "private.pem")
    with open(private, "rb") as f:
        pem = f.read()
    os.unlink(private)
    assert [x["path"] for x in reader.files(backup)[0]] == [top, top + "/file"]
    assert reader.diff(backup, backup) == ([], ("done", {"added": 0, "removed": 0, "changed": 0, "backup_id": backup}))

    def attempt(content):
        key = None
        if content is not None:
            key = os.memfd_create("key")
            os.pwrite(key, content, 0)
        blocks = []
        options = {} if key is None else {"key": variant("h", 0)}
        fd, job = reader.open("OpenBackup", "sa{sv}", [backup, options], [] if key is None else [key])
        result = reader.read(fd, job, blocks.append)[0]
        if key is not None:
            os.close(key)
        return result, reader.error(job), ends(b"".join(blocks))

    assert attempt(None) == ("failed", "KeyMissing", False)
    assert attempt(b"nonsense") == ("failed", "KeyMissing", False)
    assert attempt(pem) == ("done", "", True)
    assert not os.path.exists(private)


def test_damage_has_no_end(reader, btrfs):
    """What cannot be read in the middle ends the stream where it is."""
    top = btrfs.subvolume("app")
    for n in range(40):
        write(top + "/file-%02d" % n, os.urandom(MIB))
    reader.machine.write_config("PackSizeMiB=4\n")
    reader.machine.write_service("app", top)
    backup = reader.backup("app")
    packs = [os.path.join(d, f) for d, _, files in os.walk(reader.machine.repository + "/packs") for f in files]
    victim = sorted((p for p in packs if os.path.getsize(p) > MIB), key=os.path.getmtime)[-2]
    with open(victim, "r+b") as f:
        f.seek(MIB)
        f.write(b"\0damage\0")
    for form in ("tar", "tar.zst"):
        blocks = []
        fd, job = reader.open("OpenBackup", "sa{sv}", [backup, {"format": variant("s", form)}])
        assert reader.read(fd, job, blocks.append)[0] == "failed"
        data = b"".join(blocks)
        assert reader.error(job) == "IntegrityFailure" and len(data) > MIB
        if form == "tar":
            assert not ends(data)
        else:
            assert subprocess.run(["zstd", "-dcq"], input=data, capture_output=True).returncode != 0


def test_reader_leaves_and_cancel(reader, btrfs):
    top = btrfs.subvolume("app")
    write(top + "/large", os.urandom(8 * MIB))
    for n in range(3000):
        write(top + "/many/%0200d" % n)
    reader.machine.write_service("app", top)
    backup = reader.backup("app")
    calls = (("OpenBackup", "sa{sv}", [backup, {}]), ("OpenBackup", "sa{sv}", [backup, {"format": variant("s", "tar.zst")}]),
             ("ListFiles", "sssa{sv}", [backup, "", "", {}]))
    for call in calls:
        fd, job = reader.open(*call)
        os.read(fd, 100)
        os.close(fd)
        assert reader.bus.wait_job(job, 30)[0] == "canceled"
        # A reader that takes nothing holds up nobody who cancels.
        fd, job = reader.open(*call)
        os.read(fd, 100)
        reader.bus.call("Cancel", "a{sv}", [{}], path=job, interface="org.holdpoint.Backup1.Job")
        assert reader.bus.wait_job(job, 30)[0] == "canceled"
        with os.fdopen(fd, "rb") as f:
            rest = f.read()
        assert not ends(rest) and b'"end"' not in rest


# --- listings ----------------------------------------------------------------------------------------------------

def test_list(reader, btrfs):
    top = btrfs.subvolume("app")
    write(top + "/file", b"12345", 0o4750)
    os.chown(top + "/file", 33, 34)
    os.chmod(top + "/file", 0o4750)
    os.setxattr(top + "/file", "user.b", b"1")
    os.setxattr(top + "/file", "user.a", b"1")
    os.link(top + "/file", top + "/hard")
    os.symlink("to\\\udcff", os.fsencode(top) + b"/soft\xff")
    os.mkfifo(top + "/pipe")
    os.mknod(top + "/char", 0o020600, os.makedev(1, 300))
    os.mknod(top + "/block", 0o060600, os.makedev(7, 1))
    os.mkdir(top + "/dir")
    for name in os.listdir(top):
        os.utime(os.path.join(top, name), ns=(0, -1), follow_symlinks=False)
    os.utime(top, ns=(0, 1700000000000000001))
    reader.machine.write_service("app", top)
    backup = reader.backup("app")
    found, (result, summary) = reader.files(backup)
    assert (result, summary) == ("done", {"entries": 8, "backup_id": backup})
    common = {"service": "app", "uid": 0, "gid": 0, "mtime": "1969-12-31T23:59:59.999999999Z"}
    assert {x["path"]: x for x in found} == {
        top: dict(common, path=top, type="directory", mode="0755", mtime="2023-11-14T22:13:20.000000001Z"),
        top + "/file": dict(common, path=top + "/file", type="file", mode="4750", uid=33, gid=34, size=5,
                            xattrs=["user.a", "user.b"]),
        top + "/hard": {"service": "app", "path": top + "/hard", "type": "hardlink", "target": top + "/file"},
        top + "/soft\\xff": dict(common, path=top + "/soft\\xff", type="symlink", mode="0777", target="to\\x5c\\xff"),
        top + "/pipe": dict(common, path=top + "/pipe", type="fifo", mode="0644"),
        top + "/char": dict(common, path=top + "/char", type="char", mode="0600", major=1, minor=300),
        top + "/block": dict(common, path=top + "/block", type="block", mode="0600", major=7, minor=1),
        top + "/dir": dict(common, path=top + "/dir", type="directory", mode="0755"),
    }


def test_list_paths(reader, btrfs):
    a, b = btrfs.subvolume("srv", "a"), btrfs.subvolume("srv", "b")
    for path in (a + "/up/x", a + "/up/sub/y", a + "/up-x/z", a + "/same", b + "/same", b + "/only"):
        write(path)
    os.mkdir(os.fsencode(b) + b"/\xff\\")
    single = os.path.join(btrfs.path, "srv", "single.ini")
    write(single)
    reader.machine.write_service("aa", a)
    reader.machine.write_service("bb", [b, single])
    backup, common = reader.backup(), os.path.dirname(a)

    def paths(path, service=""):
        found, (result, _) = reader.files(backup, service, path)
        assert result == "done"
        return [x["path"][len(common) + 1:] for x in found]

    up = ["a/up", "a/up/sub", "a/up/x", "a/up/sub/y"]
    assert paths(a + "/up") == paths("up") == paths("up/") == paths("up", "aa") == up
    assert paths("up/x") == ["a/up/x"] and paths("only") == ["b/only"] and paths(single) == ["single.ini"]
    assert paths("same", "bb") == ["b/same"] and paths(b + "/same") == ["b/same"]
    assert paths("\\xff\\x5c") == ["b/\\xff\\x5c"]
    assert len(paths(common)) == len(paths("/")) == len(paths("")) == 13
    assert len(paths("", "aa")) == 8

    for path, service, error in (("same", "", "InvalidArgument"), ("none", "", "SourceMissing"), ("single.ini", "", "SourceMissing"),
                                 ("/none", "", "SourceMissing"), (a + "/up", "bb", "SourceMissing"),
                                 ("up//x", "", "InvalidArgument"), ("./up", "", "InvalidArgument")):
        fd, job = reader.open("ListFiles", "sssa{sv}", [backup, service, path, {}])
        blocks = []
        assert reader.read(fd, job, blocks.append)[0] == "failed", path
        assert (reader.error(job), blocks) == (error, []), path
    with pytest.raises(BusError):
        reader.files(backup, "cc")


# --- comparisons -------------------------------------------------------------------------------------------------

def test_diff(reader, btrfs):
    a, b = btrfs.subvolume("a"), btrfs.subvolume("b")
    for name in ("same", "grown", "chmod", "gone", "kind", "touched", "attribute"):
        write(a + "/" + name, b"1234")
    write(b + "/other", b"x")
    reader.machine.write_service("aa", a)
    reader.machine.write_service("bb", b)
    first = reader.backup()
    assert reader.diff(first, first)[0] == []
    times = os.stat(a + "/grown")
    write(a + "/grown", b"123456")
    os.utime(a + "/grown", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.chmod(a + "/chmod", 0o600)
    os.unlink(a + "/gone")
    os.unlink(a + "/kind")
    os.symlink("same", a + "/kind")
    os.utime(a + "/touched", ns=(5, 5))
    os.setxattr(a + "/attribute", "user.x", b"y")
    write(a + "/new/file", b"12")
    second = reader.backup()
    found, (result, summary) = reader.diff(first, second)
    assert summary == {"added": 2, "removed": 1, "changed": 6, "backup_id": first} and result == "done"
    here = {"service": "aa", "type": "file"}
    assert found == [
        dict(here, change="modified", path=a, type="directory", what=["metadata"]),
        dict(here, change="modified", path=a + "/attribute", size=4, what=["metadata"]),
        dict(here, change="modified", path=a + "/chmod", size=4, what=["metadata"]),
        dict(here, change="removed", path=a + "/gone", size=4),
        dict(here, change="modified", path=a + "/grown", size=6, size_before=4, what=["content"]),
        dict(here, change="modified", path=a + "/kind", type="symlink", type_before="file", size_before=4,
             what=["content", "metadata"]),
        dict(here, change="added", path=a + "/new", type="directory"),
        dict(here, change="modified", path=a + "/touched", size=4, what=["metadata"]),
        dict(here, change="added", path=a + "/new/file", size=2),
    ]
    back, _ = reader.diff(second, first)
    assert sorted(x["change"] for x in back) == ["added"] + 6 * ["modified"] + 2 * ["removed"]
    assert reader.diff(first, second, service="bb")[0] == []
    assert reader.diff(first, second, service="aa")[0] == found


# --- in bounds ---------------------------------------------------------------------------------------------------

def test_memory(reader, btrfs):
    """Twenty thousand entries cost no more memory than fifty."""
    top = btrfs.subvolume("app")
    for d in range(80):
        os.mkdir("%s/%03d" % (top, d))
        folder = os.open("%s/%03d" % (top, d), os.O_RDONLY)
        for n in range(250):
            os.close(os.open("file-%06d" % n, os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        os.close(folder)
    reader.machine.write_service("app", top)
    first = reader.backup("app")
    write(top + "/040/new")
    second = reader.backup("app")
    size = 0

    def count(block):
        nonlocal size
        size += len(block)

    assert reader.export(first, count)[0] == "done"
    assert size > 10 * MIB
    found, (result, summary) = reader.files(first)
    assert result == "done" and summary["entries"] == 20081
    found, (result, summary) = reader.diff(first, second)
    assert len(found) == 2 and result == "done"
    assert not memory.is_measurable() or 0 < reader.peak < RSS_MAX
