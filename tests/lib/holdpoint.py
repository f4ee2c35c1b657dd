"""Fixtures: real file systems, a private bus, the programs of one build, and all of it together.

Everything here is a context manager and takes away what it made, in the reverse order, also after a
failure: processes first, then mounts, loop devices, images and directories. Nothing outside the
fixture's own directory is touched. Root is needed for file systems and workers; the agent itself runs
as AGENT_USER, who has no privileges.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUS_NAME = "org.holdpoint.Backup1"
BUS_ROOT = "/org/holdpoint/Backup1"
CLASSES = ("backup", "restore", "maintain", "configure")

# An account that every Debian has and nothing runs as: the fixtures need not create (and remove) one.
AGENT_USER = "backup"

# The sanitizers' settings must reach workers too; systemd-socket-activate passes on nothing by itself.
PASSED_ON = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS", "HOLDPOINT_DEBUG")


class FixtureError(Exception):
    """The test's surroundings could not be made or taken away; the message says what to do."""


def run(*argv, **kwargs):
    """Runs a command that must succeed; its output is in the error when it does not."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, **kwargs)
    if done.returncode != 0:
        raise FixtureError("%s: exit %d\n%s%s" % (" ".join(argv), done.returncode, done.stdout, done.stderr))
    return done.stdout


def wait_until(condition, what, seconds=10.0, step=0.02):
    """Polls until condition() is true and returns its value; a timeout is an error that says `what`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise FixtureError("waited %.0f s in vain: %s" % (seconds, what))
        time.sleep(step)


def make_directory(prefix="holdpoint-"):
    """A fresh directory that other users may pass through (the agent and the databases' owners must)."""
    path = tempfile.mkdtemp(prefix=prefix)
    os.chmod(path, 0o755)
    return path


def stop_process(process, grace=10.0):
    """Ends a child of ours: asked first, killed after `grace` seconds."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def processes_below(pid):
    """All descendants of `pid`, from /proc."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/stat" % entry) as f:
                    fields = f.read().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


class LoopFs:
    """A file system of its own on a sparse file: kind is btrfs, ext4 or xfs. `path` is its mount point."""

    def __init__(self, kind="btrfs", size_mib=1024, options=""):
        self.kind, self.size_mib, self.options = kind, size_mib, options
        self.base = self.path = self.device = None

    def __enter__(self):
        self.base = make_directory("holdpoint-%s-" % self.kind)
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def _make(self):
        image = os.path.join(self.base, "image")
        with open(image, "wb") as f:
            f.truncate(self.size_mib << 20)
        force = {"btrfs": ["-q", "-f"], "ext4": ["-q", "-F"], "xfs": ["-q", "-f"]}[self.kind]
        run("mkfs." + self.kind, *force, image)
        os.mkdir(os.path.join(self.base, "mnt"))
        self._mount()

    def _mount(self):
        """The kernel frees the loop device with the mount, even when this process is killed."""
        path = os.path.join(self.base, "mnt")
        options = ",".join(filter(None, ("loop", self.options)))
        run("mount", "-t", self.kind, "-o", options, os.path.join(self.base, "image"), path)
        self.path = path
        self.device = run("findmnt", "--noheadings", "--first-only", "--output", "SOURCE", path).strip()

    def subvolume(self, *names):
        """Makes a btrfs subvolume below the mount point and returns its path."""
        path = os.path.join(self.path, *names)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        run("btrfs", "subvolume", "create", path)
        return path

    def directory(self, *names):
        """The same for callers that want a subvolume only where there are any."""
        if self.kind == "btrfs":
            return self.subvolume(*names)
        path = os.path.join(self.path, *names)
        os.makedirs(path)
        return path

    def remount(self):
        """Unmounts and mounts again: the page cache and every open file are gone."""
        self._unmount()
        self._mount()

    def _unmount(self):
        if self.path and os.path.ismount(self.path):
            last = None
            for _ in range(100):
                last = subprocess.run(["umount", self.path], capture_output=True, text=True)
                if last.returncode == 0:
                    break
                time.sleep(0.05)
            else:
                run("umount", "--lazy", self.path)
                raise FixtureError("%s was still in use: %s" % (self.path, last.stderr.strip()))
        self.path = None

    def close(self):
        with contextlib.ExitStack() as undo:
            if self.base:
                undo.callback(shutil.rmtree, self.base, ignore_errors=True)
            undo.callback(self._unmount)
        self.device = self.base = None

    def __exit__(self, *exc):
        self.close()


BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
    <!-- Methods are open to all, since each is authorised by itself; the rest is root's. -->
    <allow send_destination="{name}" send_interface="{name}.Manager"/>
    <allow send_destination="{name}" send_interface="{name}.Job"/>
    <allow send_destination="{name}" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="{name}" send_interface="org.freedesktop.DBus.Peer"/>
    <deny receive_sender="{name}" receive_type="signal"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <policy user="polkitd">
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_interface="org.freedesktop.PolicyKit1.AuthenticationAgent"/>
  </policy>
  <policy user="{agent}">
    <allow own="{name}"/>
  </policy>
  <policy user="root">
    <allow send_destination="{name}"/>
    <allow receive_sender="{name}"/>
  </policy>
</busconfig>
"""


class PrivateBus:
    """A dbus-daemon that nobody else sees. `address` is what DBUS_SYSTEM_BUS_ADDRESS takes."""

    def __init__(self, directory, agent_user=AGENT_USER):
        self.directory, self.agent_user, self.process = directory, agent_user, None
        self.socket = os.path.join(directory, "bus")
        self.address = "unix:path=" + self.socket

    def __enter__(self):
        config = os.path.join(self.directory, "bus.conf")
        with open(config, "w") as f:
            f.write(BUS_CONFIG.format(socket=self.socket, name=BUS_NAME, agent=self.agent_user))
        with open(os.path.join(self.directory, "bus.log"), "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "dbus-daemon", "--config-file=" + config, "--nofork", "--nopidfile"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, "the private bus")
        return self

    def _answers(self):
        """The socket's file is there a moment before it can be connected to."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def call(self, member, *arguments):
        """A method of the bus itself; arguments as dbus-send takes them."""
        return run("dbus-send", "--bus=" + self.address, "--print-reply", "--dest=org.freedesktop.DBus",
                   "/org/freedesktop/DBus", "org.freedesktop.DBus." + member, *arguments)

    def has_owner(self, name=BUS_NAME):
        return "boolean true" in self.call("NameHasOwner", "string:" + name)

    def close(self):
        if self.process:
            stop_process(self.process)
        self.process = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)

    def __exit__(self, *exc):
        self.close()


class Install:
    """The programs of a DESTDIR tree, copied to where every user can run them.

    The tree may lie in a directory closed to others (a clone below /root): agent and helpers, who are
    not root, could not even start from there.
    """

    def __init__(self, tree=None):
        self.tree = tree or os.environ.get("HOLDPOINT_TREE") or os.path.join(TOP, "build", "tree")
        self.directory = self.agent = self.cli = self.libexec = self.worker = None

    def __enter__(self):
        wanted = {"agent": "usr/sbin/holdpointd", "cli": "usr/bin/holdpoint", "libexec": "usr/libexec/holdpoint"}
        for path in wanted.values():
            if not os.path.exists(os.path.join(self.tree, path)):
                raise FixtureError("%s has no %s: run ./run build first" % (self.tree, path))
        self.directory = make_directory("holdpoint-programs-")
        for name, path in wanted.items():
            copy = os.path.join(self.directory, path)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            source = os.path.join(self.tree, path)
            if os.path.isdir(source):
                shutil.copytree(source, copy)
            else:
                shutil.copy2(source, copy)
            setattr(self, name, copy)
        self.worker = os.path.join(self.libexec, "holdpoint-worker")
        return self

    def __exit__(self, *exc):
        shutil.rmtree(self.directory, ignore_errors=True)


class Workers:
    """The sockets of all classes, each served by one systemd-socket-activate (see docs/ARCHITECTURE.md)."""

    def __init__(self, install, directory, environment, log, agent_user=AGENT_USER):
        self.install, self.directory, self.log, self.agent_user = install, directory, log, agent_user
        self.environment, self.processes = environment, {}

    def start(self, name, **extra):
        """Serves one class; `extra` is added to its workers' environment (HOLDPOINT_STEP=...)."""
        path = os.path.join(self.directory, name + ".socket")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        environment = dict(self.environment, **extra)
        passed = [x for key, value in environment.items() for x in ("-E", "%s=%s" % (key, value))]
        with open(self.log, "ab") as log:
            self.processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "systemd-socket-activate", "--seqpacket", "--accept", "-l", path,
                 *passed, self.install.worker, name], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: os.path.exists(path) or self.processes[name].poll() is not None, "socket " + path)
        if self.processes[name].poll() is not None:
            raise FixtureError("systemd-socket-activate for %s ended at once: see %s" % (name, self.log))
        account = pwd.getpwnam(self.agent_user)
        os.chown(path, account.pw_uid, account.pw_gid)
        os.chmod(path, 0o600)

    def stop(self, name):
        """Closes a class: no new workers, and those that run are killed."""
        process = self.processes.pop(name, None)
        if process:
            running = processes_below(process.pid)
            stop_process(process)
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.directory, name + ".socket"))

    def restart(self, name, **extra):
        self.stop(name)
        self.start(name, **extra)

    def pids(self):
        """The workers (and their helpers) that run now."""
        return [pid for p in self.processes.values() for pid in processes_below(p.pid)]

    def __enter__(self):
        try:
            for name in CLASSES:
                self.start(name)
        except BaseException:
            self.close()
            raise
        return self

    def close(self):
        for name in list(self.processes):
            self.stop(name)

    def __exit__(self, *exc):
        self.close()


class Agent:
    """holdpointd as an unprivileged user."""

    def __init__(self, install, environment, log, user=AGENT_USER):
        self.install, self.environment, self.log, self.user = install, environment, log, user
        self.process = None

    def start(self, bus=None, seconds=10.0):
        """Starts the agent; with `bus` it waits until the agent owns its name."""
        account = pwd.getpwnam(self.user)
        environment = dict(PATH="/usr/sbin:/usr/bin:/sbin:/bin", **self.environment)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups",
                 "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--pdeathsig", "KILL", self.install.agent],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/")
        if bus:
            wait_until(lambda: bus.has_owner() or self.process.poll() is not None, "the agent's bus name", seconds)
            if self.process.poll() is not None:
                raise FixtureError("holdpointd ended at once with %s: see %s" % (self.process.returncode, self.log))

    def stop(self):
        if self.process:
            stop_process(self.process)
        status = self.process.returncode if self.process else None
        self.process = None
        return status

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None


class CliError(Exception):
    """The command line answered with another exit code than the test wanted."""


class Machine:
    """A whole Holdpoint: private bus, agent, worker sockets, configuration and repository in one directory."""

    def __init__(self, install=None, repository=None):
        self._install, self._repository, self._stack = install, repository, None

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.directory = make_directory("holdpoint-machine-")
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.install = self._install or stack.enter_context(Install())
            self._make_directories()
            self.bus = stack.enter_context(PrivateBus(self.directory))
            self._make_processes()
            stack.callback(self.stop)
            self._stack = stack.pop_all()
        return self

    def _make_directories(self):
        account = pwd.getpwnam(AGENT_USER)
        self.etc = os.path.join(self.directory, "etc")
        self.state = os.path.join(self.directory, "state")
        self.worker_state = os.path.join(self.directory, "worker-state")
        self.workers_directory = os.path.join(self.directory, "workers")
        self.repository = self._repository or os.path.join(self.directory, "repository")
        self.defaults = os.path.join(self.directory, "defaults")  # what /etc/default/holdpoint is elsewhere
        self.units = os.path.join(self.directory, "units")  # in place of systemd's
        self.agent_log = os.path.join(self.directory, "agent.log")
        self.worker_log = os.path.join(self.directory, "worker.log")
        os.makedirs(os.path.join(self.etc, "services.d"))
        os.mkdir(self.workers_directory)
        os.mkdir(self.units)
        os.mkdir(self.worker_state, 0o700)
        os.mkdir(self.state, 0o700)
        os.chown(self.state, account.pw_uid, account.pw_gid)
        self.write_config()

    def _make_processes(self):
        passed = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        common = dict(passed, CONFIGURATION_DIRECTORY=self.etc, HOLDPOINT_DEFAULTS_FILE=self.defaults, HOLDPOINT_UNIT_DIR=self.units,
                      HOLDPOINT_LIBEXECDIR=self.install.libexec, DBUS_SYSTEM_BUS_ADDRESS=self.bus.address,
                      HOLDPOINT_AGENT_USER=AGENT_USER)
        self.worker_environment = dict(common, STATE_DIRECTORY=self.worker_state)
        self.agent_environment = dict(common, STATE_DIRECTORY=self.state,
                                      HOLDPOINT_WORKERS_DIR=self.workers_directory)
        self.workers = Workers(self.install, self.workers_directory, self.worker_environment, self.worker_log)
        self.agent = Agent(self.install, self.agent_environment, self.agent_log)

    def write_config(self, text=""):
        """holdpoint.conf: `text` and the path of the repository."""
        with open(os.path.join(self.etc, "holdpoint.conf"), "w") as f:
            f.write("[Repository]\nPath=%s\n%s" % (self.repository, text))

    def write_service(self, name, paths, **keys):
        """services.d/NAME.conf; a list as a value repeats its key."""
        lines = ["[Service]"] + ["Path=" + p for p in ([paths] if isinstance(paths, str) else paths)]
        for key, value in keys.items():
            lines += ["%s=%s" % (key, v) for v in (value if isinstance(value, (list, tuple)) else [value])]
        with open(os.path.join(self.etc, "services.d", name + ".conf"), "w") as f:
            f.write("\n".join(lines) + "\n")

    def start(self, **worker_extra):
        """Worker sockets, then the agent, as an ordinary boot would."""
        for name in CLASSES:
            self.workers.start(name, **worker_extra)
        self.agent.start(self.bus)
        return self

    def stop(self):
        try:
            self.agent.stop()
        finally:
            self.workers.close()

    def reload(self):
        """Makes the running agent read its configuration again."""
        run("dbus-send", "--bus=" + self.bus.address, "--print-reply", "--dest=" + BUS_NAME, BUS_ROOT,
            BUS_NAME + ".Manager.Reload")

    def call(self, *arguments, timeout=300, user=None, stdin=None):
        """Runs the command line and returns the CompletedProcess, whatever its exit code."""
        environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=self.bus.address, LC_ALL="C.UTF-8")
        options = {}
        if user is not None:
            account = pwd.getpwnam(user)
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}
        return subprocess.run([self.install.cli, *map(str, arguments)], stdin=stdin or subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=timeout, env=environment, **options)

    def cli(self, *arguments, exit_code=0, **kwargs):
        """The same, but any other exit code than `exit_code` is an error with all logs in it."""
        done = self.call(*arguments, **kwargs)
        if done.returncode != exit_code:
            raise CliError("holdpoint %s: exit %d instead of %d\n%s%s\n%s" % (
                " ".join(map(str, arguments)), done.returncode, exit_code, done.stdout, done.stderr, self.logs()))
        return done

    def json(self, *arguments, **kwargs):
        """The command's object, with --json added."""
        done = self.cli(*arguments, "--json", **kwargs)
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise CliError("holdpoint %s: %s in %r" % (" ".join(map(str, arguments)), error, done.stdout)) from error

    def worker_recover(self, **extra):
        """What holdpoint-recover.service does early in boot."""
        environment = dict(self.worker_environment, PATH="/usr/sbin:/usr/bin:/sbin:/bin", **extra)
        return subprocess.run([self.install.worker, "--recover"], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, env=environment, timeout=120)

    def logs(self, lines=60):
        """The end of what bus, agent and workers wrote, for messages."""
        text = []
        for path in (os.path.join(self.directory, "bus.log"), self.agent_log, self.worker_log):
            with contextlib.suppress(FileNotFoundError):
                with open(path, errors="replace") as f:
                    last = f.read().splitlines()[-lines:]
                text.append("--- %s\n%s\n" % (os.path.basename(path), "\n".join(last)))
        return "".join(text)

    def __exit__(self, kind, value, trace):
        if kind is not None:
            sys.stderr.write(self.logs())
        stack, self._stack = self._stack, None
        return stack.__exit__(kind, value, trace)
