"""Guests for tests: `guest(SCRIPT)` boots one, runs the script with lib.sh in front, and wants status 0.

What a failed test leaves is in build/vm/failed/TEST: output, journal and console.
"""

import os
import re
import shutil
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import guest as guests  # noqa: E402

FAILED = os.path.join(guests.RUNS, "failed")
BOOTS = 2

# In tests a system call that a unit does not allow ends the program, so that it cannot go unseen.
STRICT = "[Service]\nSystemCallErrorNumber=kill\n"
UNITS = ["holdpointd.service", "holdpoint-recover.service", "holdpoint@.service"] + [
    "holdpoint-%s@.service" % name for name in ("backup", "restore", "image", "maintain", "configure")]

# What the kernel or systemd say when a sandbox was too narrow.
DENIED = re.compile(r"(?<!\+)SECCOMP|type=1326|status=31/SYS|code=killed, signal=SYS|"
                    r"holdpoint\S*\[\d+\]: .*(Operation not permitted|Permission denied|Read-only file system)")


def own_cpu():
    """One of the host's for each of pytest's workers: a guest that wanders is slower by half."""
    cpus = sorted(os.sched_getaffinity(0))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return cpus[int(worker[2:]) % len(cpus)]


class Machine:
    """The guests of one test. Disks and `upper` (what the guests write to their root) outlive a boot."""

    def __init__(self, directory):
        self.directory, self.boots, self.denials_expected = directory, 0, None  # a pattern
        os.makedirs(directory)
        self.disks = [self.disk("disk")]
        self.upper = None

    def disk(self, name, mib=guests.BLANK_DISK_MIB):
        return guests.make_disk(os.path.join(self.directory, name), mib)

    def keep_root(self):
        """From here on a boot finds what the one before it wrote, as on a real machine."""
        self.upper = self.disk("upper")
        guests.make_ext4(self.upper)

    def start(self, script, seconds=120, files=None, **options):
        """Boots without waiting; the caller does guest.wait()."""
        self.boots += 1
        text = "#!/bin/bash\nset -eu -o pipefail\nsource %s\n%s" % (os.path.join(HERE, "lib.sh"), script)
        units = {name + ".d/strict.conf": STRICT for name in UNITS}
        return guests.Guest(text, disks=self.disks, upper=self.upper, cpu=own_cpu(), seconds=seconds, units=units,
                            files=files, directory=os.path.join(self.directory, "boot-%d" % self.boots), **options).start()

    def __call__(self, script, status=0, **options):
        result = self.start(script, **options).wait()
        assert result.status == status, "status %d instead of %d\n%s%s" % (
            result.status, status, result.output, guests.explain(result) if result.status in (124, 125) else "")
        self.check(result)
        return result

    def check(self, result):
        # Of a guest that was cut off, or switched off, only the console is left.
        denied = [line for line in (result.journal or result.console).splitlines() if DENIED.search(line)]
        if self.denials_expected:
            denied = [line for line in denied if not re.search(self.denials_expected, line)]
        assert denied == [], "denied by a sandbox:\n" + "\n".join(denied)


@pytest.fixture
def guest(request):
    name = re.sub(r"\W+", "-", request.node.name)
    directory = os.path.join(guests.RUNS, "test-%d-%s" % (os.getpid(), name))
    kept = os.path.join(FAILED, name)
    shutil.rmtree(kept, ignore_errors=True)
    machine = Machine(directory)
    yield machine
    report = getattr(request.node, "report", None)
    if report is None or report.failed:
        keep_logs(directory, kept)
    shutil.rmtree(directory, ignore_errors=True)


def keep_logs(directory, kept):
    for name in sorted(os.listdir(directory)):
        if name.startswith("boot-"):
            os.makedirs(os.path.join(kept, name))
            for log in ("console", "share/broken", "share/out", "share/journal", "share/install", "init"):
                path = os.path.join(directory, name, log)
                if os.path.exists(path):
                    shutil.copy(path, os.path.join(kept, name))
    print("kept: " + kept)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.report = outcome.get_result()
