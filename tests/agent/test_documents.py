"""What the pages show must work as typed: commands of the manual and the READMEs, examples of configuration."""

import os
import re
import subprocess

import pytest

import holdpoint

PAGES = ("README.md", "README.zh-CN.md", "docs/man/holdpoint.1.scd", "docs/man/org.holdpoint.Backup1.5.scd")
EXAMPLES = os.path.join(holdpoint.TOP, "units", "examples")


def read(path):
    with open(os.path.join(holdpoint.TOP, path), encoding="utf-8") as f:
        return f.read()


def commands(path):
    """Lines of code blocks that call a program of ours, in their order."""
    blocks = re.findall(r"^```\n(.*?)^```", read(path), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if re.match(r"(holdpoint|busctl call) ", line)]
    # Schedules are timers: tests/vm/test_schedules.py types these, where systemd is.
    return [line for line in lines if not line.startswith("holdpoint schedule ")]


@pytest.fixture(scope="module")
def site(install):
    with holdpoint.LoopFs("btrfs", 512) as fs, holdpoint.Machine(install) as machine:
        data = fs.subvolume("back")
        holdpoint.run("sqlite3", os.path.join(data, "tasks.db"), "pragma journal_mode=wal; create table t(n);")
        machine.write_service("main_service", data, Exclude="thumbnails/**")
        os.mkdir(os.path.join(data, "uploads"))
        with open(os.path.join(data, "uploads", "a.png"), "wb") as f:
            f.write(os.urandom(1000))
        machine.start()
        machine.cli("create", "full", "--name", "first")  # keys are there from the first backup on
        yield machine


@pytest.mark.parametrize("path", PAGES)
def test_commands(site, path, tmp_path):
    lines = commands(path)
    assert len(lines) >= 2, "no commands found in " + path
    environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=site.bus.address, LC_ALL="C.UTF-8",
                       PATH=os.path.dirname(site.install.cli) + ":/usr/bin:/bin")
    for number, line in enumerate(lines):
        line = line.replace("/tmp/out", os.path.join(site.directory, "out-%s-%d" % (os.path.basename(path), number)))
        done = subprocess.run(["bash", "-c", "set -o pipefail\n" + line], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60, env=environment, cwd=tmp_path)
        # Without systemd nothing runs by itself, and the doctor says so.
        assert done.returncode in ((0, 3) if "doctor" in line else (0,)), "%s: %s\n%s%s" % (path, line, done.stdout, done.stderr)


def check_config(site, tmp_path):
    return subprocess.run([site.install.agent, "--check-config"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          env=dict(os.environ, CONFIGURATION_DIRECTORY=str(tmp_path)))


@pytest.fixture
def etc(tmp_path):
    """A configuration directory that only root may write."""
    (tmp_path / "services.d").mkdir()
    for path in (tmp_path, tmp_path / "services.d"):
        path.chmod(0o755)
    return tmp_path


def test_shipped_examples(site, etc):
    for name in sorted(os.listdir(os.path.join(EXAMPLES, "services.d"))):
        (etc / "services.d" / name).write_text(read(os.path.join(EXAMPLES, "services.d", name)))
    # Its lines are the defaults, commented out: they must be keys that there are.
    text = re.sub(r"^#(?=[A-Z]\w+=)", "", read(os.path.join(EXAMPLES, "holdpoint.conf")), flags=re.M)
    (etc / "holdpoint.conf").write_text(text)
    done = check_config(site, etc)
    assert done.returncode == 0, done.stderr
    (etc / "holdpoint.conf").write_text(text + "NoSuchKey=1\n")
    assert "NoSuchKey" in check_config(site, etc).stderr


@pytest.mark.parametrize("path", ["README.md", "README.zh-CN.md", "docs/man/holdpoint.conf.5.scd"])
def test_shown_services(site, etc, path):
    shown = [b for b in re.findall(r"^```\n(.*?)^```", read(path), re.M | re.S) if re.search(r"^\[Service\]$", b, re.M)]
    assert shown, "no service is shown in " + path
    for text in shown:
        (etc / "services.d" / "main_service.conf").write_text(text)
        done = check_config(site, etc)
        assert done.returncode == 0, done.stderr
