"""Repositories, keys and configurations that are not what they should be: named, nothing lost, and the way back works."""

import contextlib
import hashlib
import hmac
import json
import os
import struct

import fakeclock
import holdpoint
import pytest
import read_repo
import sites


@pytest.fixture(scope="module")
def shared(install):
    with sites.open_site(install) as site:
        write(os.path.join(site.fs.path, "data", "f"), os.urandom(100000))
        yield site


@pytest.fixture
def site(shared):
    shared.data = os.path.join(shared.fs.path, "data")
    shared.service("app", shared.data)
    shared.backup = shared.create("app")["backup_id"]
    yield shared
    shared.forget()


def write(path, data=b"content"):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def failed(site, name, *arguments, exit_code=1):
    """A command that must fail with this error; the agent goes on. Returns what it said."""
    done = site.machine.cli(*arguments, "--json", exit_code=exit_code)
    assert '"%s"' % name in done.stdout or "." + name in done.stdout + done.stderr, done.stdout + done.stderr
    assert site.machine.json("list")["total"] >= 1
    return done.stdout + done.stderr


def whole(site):
    """All is as if nothing had been: the backup can be checked and read, and the next one is made."""
    site.machine.cli("verify", site.backup, "--depth", "data")
    with site.extracted(site.backup) as output:
        assert read(os.path.join(output, "app") + site.data + "/f") == read(site.data + "/f")
    assert site.create("app")["status"] == "completed"


@contextlib.contextmanager
def in_place_of(path, data):
    before = read(path)
    write(path, data)
    os.chmod(path, 0o600)
    try:
        yield
    finally:
        write(path, before)


# --- a newer format --------------------------------------------------------------------------------------

def resealed(site, name, change):
    """An object of the repository as a later program would write it: changed, and its MAC right."""
    path = os.path.join(site.machine.repository, name)
    key = read_repo.load_private_key(os.path.join(site.machine.etc, "keys", "private.pem"))
    k_mac = read_repo.Repository(site.machine.repository, key).k_mac
    data = change(read(path)[:-32])
    return path, data + hmac.new(k_mac, data, hashlib.sha256).digest()


def version_2(data):
    return data[:8] + struct.pack("<H", 2) + data[10:]


def with_setting(**settings):
    def change(data):
        payload = json.dumps(dict(json.loads(data[48:]), **settings)).encode()
        return data[:44] + struct.pack("<I", len(payload)) + payload
    return change


@pytest.mark.parametrize("change, said", [(with_setting(format=2), "format 2"), (with_setting(incompat=["holograms"]), "holograms"),
                                          (version_2, "config")])
def test_a_newer_repository(site, change, said):
    path, data = resealed(site, "config", change)
    before, files = read(path), sorted(os.walk(site.machine.repository))
    write(path, data)
    try:
        for arguments in (("create", "app"), ("verify", site.backup), ("restore", site.backup, "--into", site.fs.path + "/out")):
            done = site.machine.call(*arguments, "--json")
            assert (done.returncode, json.loads(done.stdout)["error"]["name"]) == (1, "NotRestorable"), done.stdout
            assert said in done.stdout and "newer" in done.stdout, done.stdout
        # Nor is it forgotten what there was.
        site.machine.agent.stop()
        site.machine.agent.start(site.machine.bus)
        assert site.backup in [b["backup_id"] for b in site.machine.json("list")["backups"]]
        assert sorted(os.walk(site.machine.repository)) == files
    finally:
        write(path, before)
    whole(site)


def test_a_newer_feature_that_readers_may_ignore(site):
    """What is there can be checked and restored; nothing is written beside it."""
    path, data = resealed(site, "config", with_setting(ro_compat=["holograms"]))
    with in_place_of(path, data):
        done = site.machine.call("create", "app", "--json")
        assert done.returncode == 1 and "newer program" in done.stdout and "NotRestorable" in done.stdout, done.stdout
        site.machine.cli("verify", site.backup, "--depth", "data")
        with site.extracted(site.backup) as output:
            assert read(os.path.join(output, "app") + site.data + "/f") == read(site.data + "/f")
    whole(site)


# --- keys and repositories of somebody else --------------------------------------------------------------

def test_the_wrong_private_key(site):
    holdpoint.run("openssl", "genpkey", "-algorithm", "X25519", "-out", site.fs.path + "/other.pem")
    other = read(site.fs.path + "/other.pem")
    key = os.path.join(site.machine.etc, "keys", "private.pem")
    for data in (other, b"no key at all\n", b""):
        with in_place_of(key, data):
            said = failed(site, "KeyMissing", "restore", site.backup, "--from", "local", "--into", site.fs.path + "/wrong")
            assert key in said or "key" in said
            assert not os.path.exists(site.fs.path + "/wrong/app")
            site.machine.cli("verify", site.backup, "--depth", "data")
            assert site.machine.json("create", "app")["status"] == "completed"
    said = failed(site, "KeyMissing", "restore", site.backup, "--from", "local", "--into", site.fs.path + "/wrong",
                  "--key", site.fs.path + "/other.pem")
    assert "does not belong to the repository" in said
    whole(site)


def test_the_repository_of_another_host(site, install):
    """It is not written into, and its backups are not taken for ours."""
    with holdpoint.Machine(install) as other:
        write(other.directory + "/data/f", b"of the other")
        other.write_service("app", other.directory + "/data", Snapshot="none")
        other.start()
        theirs = other.json("create", "app")["backup_id"]
        other.stop()
        files = sorted(os.walk(other.repository))
        ours = site.machine.repository
        site.machine.repository = other.repository
        site.machine.write_config()
        site.machine.reload()
        try:
            said = site.machine.cli("create", "app", "--json", exit_code=1).stdout
            assert other.repository in said and "belongs to another host" in said and "NotRestorable" in said, said
            assert sorted(os.walk(other.repository)) == files
        finally:
            site.machine.repository = ours
            site.machine.write_config()
            site.machine.reload()
        assert theirs not in [b["backup_id"] for b in site.machine.json("list")["backups"]]
    whole(site)


# --- a repository in a service ---------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["link", "bind"])
def test_a_repository_inside_a_service(install, how):
    """As text the paths have nothing to do with each other."""
    with holdpoint.LoopFs("btrfs", 512) as fs:
        data, door = fs.subvolume("data"), os.path.join(fs.path, "door")
        os.makedirs(os.path.join(data, "sub", "backups"))
        if how == "link":
            os.symlink(os.path.join(data, "sub"), door)
        else:
            os.mkdir(door)
            holdpoint.run("mount", "--bind", os.path.join(data, "sub"), door)
        try:
            with sites.open_site(install, repository=os.path.join(door, "backups")) as site:
                site.service("app", data)
                for _ in range(2):
                    done = site.machine.call("create", "app", "--json")
                    assert done.returncode == 1 and "ConfigurationInvalid" in done.stdout, done.stdout
                    assert os.path.join(data, "sub", "backups") in done.stdout and "Exclude=" in done.stdout
                assert site.records() == [] and site.packs() == []
                site.service("app", data, Exclude="sub/backups")
                assert site.create("app")["status"] == "completed"
        finally:
            if how == "bind":
                holdpoint.run("umount", "--lazy", door)


# --- a configuration that breaks between two jobs --------------------------------------------------------

@pytest.mark.parametrize("text, said", [
    ("[Repository]\nPath=relative\n", "holdpoint.conf:2"), ("[Repository]\nPath=/x\nColour=blue\n", "Colour"),
    ("[Retention]\nDays=many\n", "Days"), ("\0\xff garbage", "holdpoint.conf:1")])
def test_a_configuration_that_breaks(site, text, said):
    """The agent goes on with what it has read; a worker does not act on what it cannot read."""
    config = os.path.join(site.machine.etc, "holdpoint.conf")
    before = site.records(), site.images(), site.packs()
    with in_place_of(config, text.encode("latin-1")):
        assert said in failed(site, "ConfigurationInvalid", "create", "app")
        assert said in failed(site, "ConfigurationInvalid", "verify", site.backup)
        assert said in failed(site, "ConfigurationInvalid", "restore", site.backup, "--into", site.fs.path + "/out")
        with pytest.raises(holdpoint.FixtureError, match="ConfigurationInvalid"):
            site.machine.reload()
        assert (site.records(), site.images(), site.packs()) == before
    os.chmod(config, 0o644)
    whole(site)


def test_services_that_overlap(site):
    """Named with both files; the agent keeps what it had."""
    site.machine.write_service("inner", os.path.join(site.data, "sub"))
    with pytest.raises(holdpoint.FixtureError, match="ConfigurationInvalid") as refused:
        site.machine.reload()
    assert "app" in str(refused.value) and "inner.conf:2" in str(refused.value)
    assert site.machine.json("status")["services"] == ["app"]
    assert "inner.conf" in failed(site, "ConfigurationInvalid", "create", "app")
    os.unlink(os.path.join(site.machine.etc, "services.d", "inner.conf"))
    whole(site)


# --- no room to restore ----------------------------------------------------------------------------------

def test_a_quota_while_staging(install):
    """The limit is on the subvolume that would hold the staged tree: the live one stays, and nothing of the new."""
    with sites.open_site(install, size_mib=1024) as site:
        top = site.fs.subvolume("limited")
        data = os.path.join(top, "data")
        for i in range(16):
            write(os.path.join(data, "%d" % i), os.urandom(1 << 20))
        site.service("app", data)
        backup = site.create("app")["backup_id"]
        for i in range(16):
            write(os.path.join(data, "%d" % i), b"newer")
        holdpoint.run("btrfs", "quota", "enable", site.fs.path)
        holdpoint.run("btrfs", "quota", "rescan", "-w", site.fs.path)
        holdpoint.run("btrfs", "qgroup", "limit", "10M", top)
        for way in (("--yes",), ("--into", os.path.join(top, "out"))):
            said = failed(site, "NoSpace", "restore", backup, "--from", "local", *way)
            assert "quota" in said.lower(), said
            assert read(os.path.join(data, "3")) == b"newer"
            assert [n for n in os.listdir(os.path.join(top, ".holdpoint")) if n.startswith("restore.")] == []
        holdpoint.run("btrfs", "qgroup", "limit", "none", top)
        site.machine.cli("restore", backup, "--from", "local", "--yes")
        assert len(read(os.path.join(data, "3"))) == 1 << 20


# --- a clock that is set back ----------------------------------------------------------------------------

def test_a_clock_that_is_set_back(install):
    """Files of the future are read again rather than believed; the newest backup stays the newest."""
    with holdpoint.LoopFs("btrfs", 512) as fs, holdpoint.Machine(install) as machine:
        clock, data = fakeclock.WallClock(machine, machine.workers, machine.agent), fs.subvolume("data")
        write(os.path.join(data, "f"), b"first")
        machine.write_service("app", data)
        machine.start()
        first = machine.json("create", "app")
        clock.set(-3 * 86400)
        again = machine.json("create", "app")
        assert (again["status"], again["checksum"]) == ("completed", first["checksum"])
        assert again["created_at"] < first["created_at"]
        before = os.stat(os.path.join(data, "f"))
        write(os.path.join(data, "f"), b"other")
        os.utime(os.path.join(data, "f"), ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = machine.json("create", "app")
        assert changed["checksum"] != first["checksum"] and "hot" in changed["copies"]
        assert machine.json("show", "latest")["backup_id"] == changed["backup_id"]
        machine.json("restore", "latest", "--into", os.path.join(fs.path, "out"), "--from", "local")
        assert read(os.path.join(fs.path, "out", "app") + data + "/f") == b"other"
