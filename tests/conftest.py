"""Fixtures for all suites in Python; what they are made of stands in tests/lib/."""

import os
import sys

import pytest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "lib"), os.path.join(HERE, "format")]

import holdpoint  # noqa: E402


@pytest.fixture(scope="session")
def install():
    """The programs under test: $HOLDPOINT_TREE, else build/tree."""
    with holdpoint.Install() as programs:
        yield programs


@pytest.fixture
def machine(install):
    """A whole Holdpoint with an empty configuration, not started yet (`machine.start()`)."""
    with holdpoint.Machine(install) as m:
        yield m


@pytest.fixture
def btrfs():
    """An empty btrfs on a loop device."""
    with holdpoint.LoopFs("btrfs", 2048) as fs:
        yield fs


@pytest.fixture
def ext4():
    """An empty ext4 on a loop device."""
    with holdpoint.LoopFs("ext4", 2048) as fs:
        yield fs


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds the logs of agent and workers to the report of a failed test."""
    outcome = yield
    report = outcome.get_result()
    m = item.funcargs.get("machine") if hasattr(item, "funcargs") else None
    if report.when == "call" and report.failed and m is not None:
        report.sections.append(("holdpoint logs", m.logs()))
