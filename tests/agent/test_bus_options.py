"""Every member that takes options refuses one that it does not know, and one of another type, by name; and takes those of the manual."""

import os
import re
import xml.etree.ElementTree as ElementTree

import pytest

import documented
import holdpoint
from busclient import JOB, MANAGER, BusError, variant
from busrig import bus, install, rig  # noqa: F401

MANUAL = documented.page("docs/man/org.holdpoint.Backup1.5.scd").replace("\\", "")
# A value of each type, and one of another type that is not far from it.
VALUES = {"s": "x", "b": True, "u": 1, "h": 0, "as": ["x"]}
OTHERS = {"s": ("as", ["x"]), "b": ("s", "true"), "u": ("t", 1), "h": ("s", "x"), "as": ("s", "x")}


def options(member):
    """{name: type} as the manual tells of the member."""
    text = re.search(r"^\*%s\*\(.*?\n((?:\t.*\n)+)" % member, MANUAL, re.M)
    found = re.search(r"\b(?:Options|Keys): (.*?)(?:\. Keys:|\Z)", text.group(1), re.S) if text else None
    return dict(re.findall(r"\*(\w+)\* (as|[sbuh])\b", found.group(1))) if found else {}  # "Keys" are those of SetSchedule


def known():
    """Everything that is an option of any member, as the code has it."""
    folder = os.path.join(holdpoint.TOP, "agent")
    return {pair for name in os.listdir(folder) if name.startswith("bus-") and name.endswith(".c")
            for pair in re.findall(r"\{ \"([a-z_]+)\", \"(as|[sbuh])\", &", documented.page("agent/" + name))}


class Member:
    def __init__(self, element, interface, path):
        self.name, self.interface, self.path = element.get("name"), interface, path
        self.signature = [a.get("type") for a in element.iter("arg") if a.get("direction") == "in"]
        self.names = [a.get("name") for a in element.iter("arg") if a.get("direction") == "in"]
        schedule = self.name == "SetSchedule"
        self.options = {} if interface == JOB else options(self.name)
        assert schedule or self.names[-1:] == ["options"] or "a{sv}" not in self.signature

    def call(self, client, backup, given):
        """Whatever else is asked for is right."""
        with open(os.devnull) as stream:
            values = {"a{sv}": given, "h": 0, "b": True, "u": 1}
            texts = {"type": "alpha", "restore_type": "alpha", "service": "alpha", "name": "nightly", "path": ""}
            body = [values[t] if t != "s" else texts.get(n, backup) for t, n in zip(self.signature, self.names)]
            return client.call(self.name, "".join(self.signature), body, path=self.path, interface=self.interface, fds=[stream.fileno()])

    def refusal(self, client, backup, key, kind, value):
        try:
            self.call(client, backup, {key: variant(kind, value)})
        except BusError as error:
            return error.short, error.text
        return None, ""


@pytest.fixture
def members(rig, bus):  # noqa: F811
    """All that take options, on an agent with a backup and a job that waits for its worker."""
    backup = rig.completed()
    rig.workers.handlers["verify"] = lambda worker: worker.receive(60)
    job = bus.call("VerifyBackup", "sa{sv}", [backup, {}])
    found = []
    for path in (holdpoint.BUS_ROOT, job):
        for interface in ElementTree.fromstring(bus.introspect(path)).iter("interface"):
            if interface.get("name") in (MANAGER, JOB):
                found += [Member(m, interface.get("name"), path) for m in interface.iter("method")]
    assert len(found) == len({m.name for m in found}) > 25
    yield backup, [m for m in found if "a{sv}" in m.signature]


def test_unknown(bus, members):  # noqa: F811
    backup, found = members
    for member in found:
        assert member.refusal(bus, backup, "no_such_option", "b", True) == (
            "InvalidArgument", "unknown option 'no_such_option'"), member.name


def test_types(bus, members):  # noqa: F811
    """What the manual names is known, and nothing else is; another type is refused, a like one too."""
    backup, found = members
    assert len(known()) > 20
    assert sum(len(m.options) for m in found) > 30
    for member in found:
        for key, kind in member.options.items():
            other, value = OTHERS[kind]
            assert member.refusal(bus, backup, key, other, value) == (
                "InvalidArgument", "option '%s' must be of type '%s', not '%s'" % (key, kind, other)), member.name
            text = member.refusal(bus, backup, key, kind, VALUES[kind])[1]
            assert "unknown option" not in text and "must be of type" not in text, (member.name, text)
        for key, kind in known():
            if key not in member.options:
                assert member.refusal(bus, backup, key, kind, VALUES[kind])[1] == "unknown option '%s'" % key, member.name


def test_arguments(bus, members):  # noqa: F811
    """Too few, too many, another type: the call itself is wrong."""
    _, found = members
    for member in found:
        for signature, body in (("", []), ("".join(member.signature) + "s", None), ("d" * len(member.signature), None)):
            values = {"s": "x", "h": 0, "b": True, "u": 1, "d": 1.0}
            if body is None:
                body = [values.get(t, {}) for t in member.signature + ["s"]] if signature.endswith("s") else [1.0] * len(member.signature)
            with pytest.raises(BusError) as caught, open(os.devnull) as stream:
                bus.call(member.name, signature, body, path=member.path, interface=member.interface, fds=[stream.fileno()])
            assert caught.value.name == "org.freedesktop.DBus.Error.InvalidArgs", (member.name, signature, caught.value)
