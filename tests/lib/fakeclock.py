"""Clocks that a test sets; the machine's own stays as it is."""

import os
import re
import struct

import holdpoint

LIBRARY = "/usr/lib/%s/faketime/libfaketime.so.1" % os.uname().machine.replace("amd64", "x86_64")


def library():
    return LIBRARY if os.path.exists(LIBRARY) else "/usr/lib/%s-linux-gnu/faketime/libfaketime.so.1" % os.uname().machine


def preload(program, path):
    """A value for LD_PRELOAD. A sanitizer's runtime must be the first library of its program."""
    return ":".join(re.findall(r"=> (\S+/lib(?:asan|tsan)\.\S+)", holdpoint.run("ldd", program)) + [path])


class FakeClock:
    """The workers' own, by libfaketime, and only real time. Before they are started. Goes on from where it is set."""

    def __init__(self, machine):
        self.path = os.path.join(machine.directory, "clock")
        self.set(0)
        machine.workers.environment.update(
            LD_PRELOAD=preload(machine.workers.install.worker, library()), FAKETIME_TIMESTAMP_FILE=self.path, FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1", NO_FAKE_STAT="1",
            FAKETIME_FLSHOOK="0")

    def set(self, days):
        """So many days from now, or before it."""
        with open(self.path + ".new", "w") as f:
            f.write("%+d\n" % round(days * 86400))
        os.rename(self.path + ".new", self.path)


class WallClock:
    """One clock for `programs` of a machine, agent or workers, from their next start on: so many seconds off."""

    def __init__(self, machine, *programs):
        self.path = os.path.join(machine.directory, "wallclock")
        module = self.path + ".so"
        holdpoint.run("gcc", "-shared", "-fPIC", "-o", module, os.path.join(holdpoint.TOP, "tests/lib/wallclock.c"), "-ldl")
        os.chmod(module, 0o755)
        with open(self.path, "wb") as f:
            f.write(bytes(24))
        os.chmod(self.path, 0o644)
        for program in programs:
            program.environment = dict(program.environment, WALLCLOCK=self.path,
                                       LD_PRELOAD=preload(machine.workers.install.agent, module))

    def set(self, real=0, boot=0, monotonic=0):
        with open(self.path, "r+b") as f:
            f.write(struct.pack("=qqq", real, boot, monotonic))
