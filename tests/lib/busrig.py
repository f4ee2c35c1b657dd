"""What the tests of the agent's bus share: an agent with two services and workers of the test's own."""

import os
import sqlite3
import threading

import pytest

from busclient import BusError, Client, FakeWorkers
from holdpoint import Install, Machine, wait_until


@pytest.fixture(scope="session")
def install():
    with Install() as programs:
        yield programs


class Rig:
    """An agent with two services and fake workers."""

    def __init__(self, machine):
        self.machine, self.workers, self.clients = machine, None, []
        for name in ("alpha", "beta"):
            path = os.path.join(machine.directory, "srv", name)
            os.makedirs(path, exist_ok=True)
            machine.write_service(name, path)

    def start(self, workers=True):
        if workers and not self.workers:
            self.workers = FakeWorkers(self.machine.workers_directory)
        self.machine.agent.start(self.machine.bus)
        self.client = Client(self.machine.bus.address)
        self.clients.append(self.client)
        if workers:
            self.settle()
        return self.client

    def settle(self):
        """Waits for the reconcile of the start."""
        wait_until(lambda: not self.client.get("RunningJobs") and
                   any(j["type"] == "reconcile" and j["result"] for j in self.client.call("ListJobs", "a{sv}", [{}])),
                   "the first reconcile")

    def restart(self, kill=False):
        if kill:
            self.machine.agent.kill()
        else:
            assert self.machine.agent.stop() == 0
        return self.start()

    def completed(self, service="alpha", **changes):
        """Makes a completed backup and returns its id."""
        def create(worker):
            worker.send("accepted")
            worker.send("backup", backup=worker.record(**changes))
            worker.result("partial" if changes.get("status") == "partial" else "done")
        self.workers.handlers["create"] = create
        backup, job = self.client.create(service)
        result, _ = self.client.wait_job(job)
        assert result == ("partial" if changes.get("status") == "partial" else "done")
        del self.workers.handlers["create"]
        return backup

    def catalogue(self):
        return sqlite3.connect(os.path.join(self.machine.state, "catalogue.db"))

    def close(self):
        for client in self.clients:
            client.close()
        if self.workers:
            self.workers.close()


@pytest.fixture
def rig(install):
    with Machine(install=install) as machine:
        r = Rig(machine)
        try:
            yield r
        finally:
            r.close()


@pytest.fixture
def bus(rig):
    return rig.start()


def fails(name, function, *arguments, **kwargs):
    with pytest.raises(BusError) as caught:
        function(*arguments, **kwargs)
    assert caught.value.short == name, caught.value
    return caught.value.text


class Gate:
    """A handler that waits until the test lets it go on."""

    def __init__(self, then=None):
        self.entered, self.go, self.then, self.worker = threading.Event(), threading.Event(), then, None

    def __call__(self, worker):
        self.worker = worker
        worker.send("accepted")
        self.entered.set()
        assert self.go.wait(30)
        if self.then:
            self.then(worker)
        else:
            worker.result()
