"""Workers killed at every step of a key's life: no key is lost that something was sealed to, none stays on
the host that was to leave it, and no crash lets one go that was not proven."""

import os

import holdpoint
import pytest
import worker

FIRST_USE = ["key-private", "repo-key-pair", "repo-host-secret", "repo-host", "repo-config"]
FORGET = ["key-renamed", "key-overwritten", "key-unlinked"]
WRAP = ["key-wrapped", *FORGET]


@pytest.fixture(scope="module")
def site(install):
    with holdpoint.LoopFs("ext4", 128) as fs, holdpoint.Machine(install) as machine:
        data = fs.directory("data")
        with open(os.path.join(data, "file"), "w") as f:
            f.write("content\n" * 1000)
        machine.write_service("app", data, Snapshot="none")
        machine.keys = os.path.join(machine.etc, "keys")
        machine.start()
        yield machine


@pytest.fixture
def fresh(site):
    """No repository, no keys, and nothing remembered of either."""
    site.stop()
    for path in (site.repository, site.keys, os.path.join(site.worker_state, "repository.json")):
        holdpoint.run("rm", "-rf", path)
    site.start()
    return site


def read(site, name):
    with open(os.path.join(site.keys, name), "rb") as f:
        return f.read()


def files(site):
    return sorted(os.listdir(site.keys))


def configure(site, verb, *content):
    """One of the verbs for keys; the bytes that came out of a stream, or its Answer."""
    if verb == "export-key":
        reading, writing = os.pipe()
        answer = worker.ask(site, "configure", verb, [writing], stream=True)
        os.close(writing)
        with os.fdopen(reading, "rb") as f:
            assert answer.result == "done", answer
            return f.read()
    if content:
        with worker.memfd(*content) as fd:
            return worker.ask(site, "configure", verb, [fd], key=True)
    return worker.ask(site, "configure", verb)


def proven(site):
    pem = configure(site, "export-key")
    assert configure(site, "prove-key", pem).result == "done"
    return pem


@pytest.mark.parametrize("step", FIRST_USE)
def test_first_use_killed(fresh, step):
    """The next run uses what is there already: a key that was made is never made again."""
    fresh.workers.restart("backup", HOLDPOINT_STEP=step + "=kill")
    assert fresh.call("create", "app").returncode == 1
    private = read(fresh, "private.pem")
    fresh.workers.restart("backup")
    fresh.json("create", "app")
    assert read(fresh, "private.pem") == private
    assert files(fresh) == ["host.secret", "private.pem", "public.pem"]
    assert proven(fresh) == private


@pytest.mark.parametrize("step", FORGET)
def test_forget_killed(fresh, step):
    fresh.json("create", "app")
    pem = proven(fresh)
    fresh.workers.restart("configure", HOLDPOINT_STEP=step + "=kill")
    with pytest.raises(worker.Lost):
        configure(fresh, "forget-key")
    fresh.workers.restart("configure")
    # Whoever asks is told of the key until it was wiped to the end; nothing uses it any more.
    left = step != "key-unlinked"
    assert worker.ask(fresh, "maintain", "reconcile").of_type("keys")[0]["private_key"] is left
    assert "private.pem" not in files(fresh)
    assert configure(fresh, "forget-key").summary == {"forgotten": left}
    assert files(fresh) == ["host.secret", "public.pem", "recovery.json"]
    fresh.json("create", "app")
    assert configure(fresh, "prove-key", pem).result == "done"


def test_forget_killed_then_a_backup(fresh):
    """A backup finishes the wiping as well: nobody need ask again."""
    fresh.json("create", "app")
    proven(fresh)
    fresh.workers.restart("configure", HOLDPOINT_STEP="key-renamed=kill")
    with pytest.raises(worker.Lost):
        configure(fresh, "forget-key")
    fresh.workers.restart("configure")
    fresh.json("create", "app")
    assert files(fresh) == ["host.secret", "public.pem", "recovery.json"]
