"""Archives that become backups: what an export wrote, what other programs wrote, and what an enemy wrote."""

import contextlib
import io
import os
import signal
import tarfile

import holdpoint
import pytest
import sites
import trees
from busclient import variant
from busrig import fails
from test_read import Reader, reader, write  # noqa: F401

ABSOLUTE = "app/srv/data"


def import_file(reader, path, name="imported", **options):
    with open(path, "rb") as f:
        reply = reader.bus.call("ImportBackup", "hsa{sv}", [0, name, {k: variant("s", v) for k, v in options.items()}],
                                fds=[f.fileno()])
    backup, job = reply
    return backup, job, reader.bus.wait_job(job, 60)


def start(reader, btrfs):
    """A machine whose service is not the archive's."""
    top = btrfs.subvolume("srv")
    write(top + "/file", b"own")
    reader.machine.write_service("own", top)
    return reader.backup("own")


class Archive:
    """A tar of any members."""

    def __init__(self, path, mode="w"):
        self.path = path
        self.tar = tarfile.open(path, mode, format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape")

    def add(self, name, data=None, type_=tarfile.REGTYPE, link="", **fields):
        m = tarfile.TarInfo(name)
        m.type, m.linkname, m.mode, m.mtime = type_, link, 0o755 if type_ == tarfile.DIRTYPE else 0o644, 1700000000
        m.size = len(data or b"")
        for key, value in fields.items():
            setattr(m, key, value)
        self.tar.addfile(m, io.BytesIO(data or b""))
        return self

    def base(self):
        return self.add(ABSOLUTE, type_=tarfile.DIRTYPE)

    def done(self):
        self.tar.close()
        return self.path


# --- what export wrote -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["tar", "tar.zst"])
def test_round_trip(reader, btrfs, form):
    """Listing, verification and restore of the import are those of the backup, but for what is left out."""
    top, archive, out = btrfs.subvolume("app"), os.path.join(btrfs.base, "archive"), os.path.join(btrfs.base, "out")
    trees.make_zoo(top)
    for name in ("wal.db-wal", "wal.db-shm", "sparse"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(top, "content", name))
    with open(top + "/holes", "wb") as f:
        f.truncate(1 << 36)
        f.seek(1 << 35)
        f.write(b"here")
    os.utime(top + "/content/text", ns=(0, -5 * 10**9 - 123456789))
    reader.machine.write_service("app", top, Databases="none")
    first = reader.backup("app")
    assert reader.export_to(archive, first, format=form)[0] == "done"
    second, job, (result, summary) = import_file(reader, archive, description="by hand")
    assert result == "done", summary
    assert (summary["dropped_devices"], summary["dropped_modes"]) == (2, 2)
    row = reader.bus.call("GetBackup", "s", [second])
    assert (row["status"], row["consistency"], row["services"], row["backup_name"], row["description"]) == (
        "completed", "none", ["app"], "imported", "by hand")
    assert '"imported":true' in row["metadata"]

    differences = {x["path"][len(top) + 1:]: x for x in reader.diff(first, second)[0]}
    assert differences.pop("attributes/null")["change"] == differences.pop("attributes/block")["change"] == "removed"
    for name in ("setuid", "setgid", "attributes", "capable", "nodump"):
        x = differences.pop("attributes/" + name)
        assert (x["change"], x["what"]) == ("modified", ["metadata"])
    assert not differences, differences

    assert reader.machine.json("verify", second)["damaged"] == 0
    os.mkdir(out)
    os.unlink(top + "/holes")  # of the live tree: a comparison would read all of it
    reader.machine.json("restore", second, "--into", out)
    os.unlink(out + "/app" + top + "/holes")
    before, after = trees.describe(top, ("holes",)), trees.describe(out + "/app" + top, ("holes",))
    for name in (b"attributes/null", b"attributes/block"):
        del before[name]
    for name in (b"attributes/setuid", b"attributes/setgid"):
        before[name]["mode"] &= 0o777
    before[b"attributes/capable"]["xattrs"] = {}
    del before[b"attributes/attributes"]["xattrs"]["trusted.big"]
    before[b"attributes/nodump"]["flags"] = 0
    before[b"."].pop("mtime"), after[b"."].pop("mtime")
    assert not trees.differences(before, after, 100)


def test_many_in_any_order(reader, btrfs):
    """Sorted by the worker, with several services and roots that are files."""
    start(reader, btrfs)
    a = Archive(os.path.join(btrfs.base, "archive"))
    names = ["%s/%s/f%04d" % (ABSOLUTE, d, n) for d in ("x", "x-y", "x/z") for n in range(300)]
    for name in reversed(names):
        a.add(name, name.encode())
    for d in ("/x/z", "/x-y", "/x", ""):
        a.add(ABSOLUTE + d, type_=tarfile.DIRTYPE)
    a.add("./zoo/etc/zoo.ini", b"file").add("zoo/", type_=tarfile.DIRTYPE)
    backup, _, (result, summary) = import_file(reader, a.done())
    assert result == "done" and summary["files"] == 905
    found = [x["service"] + x["path"] for x in reader.files(backup)[0]]
    assert set(found) == set(names) | {ABSOLUTE + d for d in ("", "/x", "/x-y", "/x/z")} | {"zoo/etc/zoo.ini"}
    assert reader.bus.call("GetBackup", "s", [backup])["services"] == ["app", "zoo"]
    content = []
    assert reader.export(backup, content.append, path="x/z/f0007")[0] == "done"
    assert tarfile.open(fileobj=io.BytesIO(b"".join(content))).extractfile(ABSOLUTE + "/x/z/f0007").read() == (
        (ABSOLUTE + "/x/z/f0007").encode())


# --- what an enemy wrote -----------------------------------------------------------------------------------------

SYM, LNK, DIR, CHR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE
HOSTILE = {
    "dotdot": lambda a: a.add("app/srv/../../etc/x", b"x"),
    "dotdot at the end": lambda a: a.add(ABSOLUTE + "/..", type_=DIR),
    "absolute": lambda a: a.add("/etc/x", b"x"),
    "doubled slash": lambda a: a.add("app//etc/x", b"x"),
    "no service": lambda a: a.add("APP/etc/x", b"x"),
    "a reserved word": lambda a: a.add("full/etc/x", b"x"),
    "a file as a service": lambda a: a.add("app", b"x"),
    "twice": lambda a: a.base().add(ABSOLUTE + "/x", b"1").add(ABSOLUTE + "/x", b"2"),
    "twice, as others": lambda a: a.base().add(ABSOLUTE + "/x", type_=SYM, link="/etc").add(ABSOLUTE + "/x", type_=DIR),
    "below a link": lambda a: a.base().add(ABSOLUTE + "/x", type_=SYM, link="/etc").add(ABSOLUTE + "/x/passwd", b"x"),
    "far below a link": lambda a: a.base().add(ABSOLUTE + "/x", type_=SYM, link="/etc").add(ABSOLUTE + "/x/y/z/w", b"x"),
    "below a file": lambda a: a.base().add(ABSOLUTE + "/x", b"x").add(ABSOLUTE + "/x/y", b"x"),
    "below a gap": lambda a: a.base().add(ABSOLUTE + "/x/y/z", b"x"),
    "link out": lambda a: a.base().add(ABSOLUTE + "/x", type_=LNK, link="/etc/shadow"),
    "link to another service": lambda a: a.base().add("b/x", b"x").add(ABSOLUTE + "/x", type_=LNK, link="b/x"),
    "link with dots": lambda a: a.base().add(ABSOLUTE + "/x", type_=LNK, link=ABSOLUTE + "/../../etc/shadow"),
    "link to a directory": lambda a: a.base().add(ABSOLUTE + "/a", type_=DIR).add(
        ABSOLUTE + "/x", type_=LNK, link=ABSOLUTE + "/a"),
    "link to a further name": lambda a: a.base().add(ABSOLUTE + "/a", b"x").add(
        ABSOLUTE + "/b", type_=LNK, link=ABSOLUTE + "/a").add(ABSOLUTE + "/c", type_=LNK, link=ABSOLUTE + "/b"),
    "link to nothing": lambda a: a.base().add(ABSOLUTE + "/x", type_=LNK, link=ABSOLUTE + "/none"),
    "link before its file": lambda a: a.base().add(ABSOLUTE + "/y", b"x").add(ABSOLUTE + "/x", type_=LNK, link=ABSOLUTE + "/y"),
    "link to itself": lambda a: a.base().add(ABSOLUTE + "/x", type_=LNK, link=ABSOLUTE + "/x"),
    "a link as a root": lambda a: a.add("app/srv", type_=SYM, link="/"),
    "owner": lambda a: a.base().add(ABSOLUTE + "/x", b"x", uid=2**32 - 1),
    "long name": lambda a: a.base().add(ABSOLUTE + "/" + "x" * 256, b"x"),
    "long path": lambda a: a.base().add(ABSOLUTE + "/x" * 40000, b"x"),
    "empty": lambda a: a,
}


def cut(data):
    """Archives that are none, or a part of one."""
    yield "nothing", b""
    yield "text", b"no archive at all\n" * 1000
    yield "no end", data[:data.rstrip(b"\0").__len__() // 512 * 512 + 512]
    yield "half", data[:len(data) // 2]
    yield "bad header", data[:150] + b"\xff" * 10 + data[160:]
    yield "zip", b"PK\3\4" + bytes(1000)


def test_hostile(reader, btrfs):
    own, path = start(reader, btrfs), os.path.join(btrfs.base, "archive")
    packs = sum(len(files) for _, _, files in os.walk(reader.machine.repository))
    for name, fill in HOSTILE.items():
        a = Archive(path)
        fill(a)
        _, job, (result, summary) = import_file(reader, a.done())
        assert result == "failed", name
        assert reader.error(job) == "InvalidArgument", (name, summary)
    good = Archive(path).base()
    for n in range(20):
        good.add("%s/%d" % (ABSOLUTE, n), os.urandom(3000))
    with open(good.done(), "rb") as f:
        data = f.read()
    for name, damaged in cut(data):
        with open(path, "wb") as f:
            f.write(damaged)
        _, job, (result, summary) = import_file(reader, path)
        assert (result, reader.error(job)) == ("failed", "InvalidArgument"), (name, summary)
    # Nothing is left of any of them, and the next good one goes in.
    listed = reader.bus.call("ListBackups", "a{sv}", [{"status": variant("s", "completed")}])
    assert [x["backup_id"] for x in listed[1]] == [own]
    assert sum(len(files) for _, _, files in os.walk(reader.machine.repository)) <= packs + 2
    with open(path, "wb") as f:
        f.write(data)
    assert import_file(reader, path)[2][0] == "done"


def test_is_no_backup_of_the_live_data(reader, btrfs):
    """A service whose archive was imported is as overdue as before."""
    own = start(reader, btrfs)
    reader.machine.write_service("app", btrfs.subvolume("app"))
    reader.machine.reload()
    a = Archive(os.path.join(btrfs.base, "archive")).base().add("own/srv/data", type_=DIR)
    assert import_file(reader, a.done())[2][0] == "done"
    status = {s["service"]: s for s in reader.machine.json("status", exit_code=1)["service_status"]}
    assert status["app"]["overdue"] and status["app"]["last_success_usec"] == 0
    assert status["own"]["last_backup_id"] == own


def test_left_out(reader, btrfs):
    start(reader, btrfs)
    a = Archive(os.path.join(btrfs.base, "archive")).base()
    a.add(ABSOLUTE + "/setuid", b"x", mode=0o6755)
    a.add(ABSOLUTE + "/capable", b"x", pax_headers={"SCHILY.xattr.security.capability": "x" * 20,
                                                     "SCHILY.xattr.trusted.a": "1", "SCHILY.xattr.user.kept": "2"})
    a.add(ABSOLUTE + "/flagged", b"x", pax_headers={"SCHILY.fflags": "schg"})
    a.add(ABSOLUTE + "/disk", type_=CHR, devmajor=1, devminor=1)
    backup, _, (result, summary) = import_file(reader, a.done())
    assert result == "done"
    assert {k: v for k, v in summary.items() if k.startswith("dropped")} == {
        "dropped_devices": 1, "dropped_modes": 1, "dropped_xattrs": 2, "dropped_flags": 1}
    found = {os.path.basename(x["path"]): x for x in reader.files(backup)[0]}
    assert sorted(found) == ["capable", "data", "flagged", "setuid"]
    assert found["setuid"]["mode"] == "0755" and found["capable"]["xattrs"] == ["user.kept"]


def test_acls_of_nobody(reader, btrfs):
    """Names without numbers, and numbers that libarchive cannot read: nobody gets rights that the archive did not give."""
    start(reader, btrfs)
    a = Archive(os.path.join(btrfs.base, "archive")).base()
    for name, acl in (("kept", "user::rw-,user:2147483646:---,group::r--,mask::r--,other::r--"),
                      ("large", "user::rw-,user:4000000000:---,group::r--,mask::r--,other::r--"),
                      ("named", "user::rw-,user:somebody:r--,group::rw-,mask::r--,other::rw-"),
                      ("twice", "user::rw-,user:2147483647:rwx,group::---,mask::rwx,other::---")):
        a.add(ABSOLUTE + "/" + name, b"x", pax_headers={"SCHILY.acl.access": acl})
    a.add(ABSOLUTE + "/raw", b"x", pax_headers={"SCHILY.xattr.system.posix_acl_access": "no acl"})
    backup, _, (result, summary) = import_file(reader, a.done())
    assert (result, summary["dropped_xattrs"]) == ("done", 4)
    found = {os.path.basename(x["path"]): (x["mode"], x.get("xattrs")) for x in reader.files(backup)[0]}
    assert found == {"data": ("0755", None), "kept": ("0644", ["system.posix_acl_access"]), "large": ("0600", None),
                     "named": ("0644", None), "twice": ("0600", None), "raw": ("0644", None)}
    done = reader.machine.call("import", a.path)
    assert "4 privileges, devices and special attributes were left out" in done.stderr, done.stderr


def state_of(reader):
    """All that is kept of backups: files of the repository and of the worker, and what the list says."""
    found = [os.path.join(top, name) for place in (reader.machine.repository, reader.machine.worker_state)
             for top, _, names in os.walk(place) for name in names if not name.startswith("index.")]
    rows = reader.machine.json("list", "--service", "all", "--status", "completed")["backups"]
    return sorted(found), [row["backup_id"] for row in rows]


def cancel(reader, job):
    reader.bus.call("Cancel", "a{sv}", [{}], path=job, interface="org.holdpoint.Backup1.Job")
    assert reader.bus.wait_job(job, 30)[0] == "canceled"
    assert reader.error(job) == "Canceled"


@pytest.mark.parametrize("part", [0, 100, 1 << 20])
def test_cancel(reader, btrfs, part):
    """A stream that does not go on is no reason to wait, before its first byte and after a MiB of content."""
    start(reader, btrfs)
    archive = Archive(os.path.join(btrfs.base, "archive")).base().add(ABSOLUTE + "/big", os.urandom(2 << 20)).done()
    before = state_of(reader)
    r, w = os.pipe()
    _, job = reader.bus.call("ImportBackup", "hsa{sv}", [0, "slow", {}], fds=[r])
    os.close(r)
    with open(archive, "rb") as f:
        os.write(w, f.read(part))  # more than a pipe holds: the worker has taken it
    cancel(reader, job)
    os.close(w)
    assert state_of(reader) == before


def test_cancel_when_all_has_come(reader, btrfs):
    start(reader, btrfs)
    archive = Archive(os.path.join(btrfs.base, "archive")).base().add(ABSOLUTE + "/big", os.urandom(2 << 20)).done()
    before = state_of(reader)
    for step, result in (("stored", "canceled"), ("packs-durable", "done")):
        reader.machine.workers.restart("backup", HOLDPOINT_STEP=step + "=stop")
        with open(archive, "rb") as f:
            _, job = reader.bus.call("ImportBackup", "hsa{sv}", [0, "stopped", {}], fds=[f.fileno()])
        pid = holdpoint.wait_until(lambda: next((p for p in reader.machine.workers.pids() if sites.is_stopped(p)), None), step, 30)
        call = ("Cancel", "a{sv}", [{}], job, "org.holdpoint.Backup1.Job")
        if result == "canceled":
            reader.bus.call(*call)
        else:
            fails("Busy", reader.bus.call, *call)
        os.kill(pid, signal.SIGCONT)
        assert reader.bus.wait_job(job, 30)[0] == result
        assert (state_of(reader) == before) is (result == "canceled")
