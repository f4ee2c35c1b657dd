"""A guest: this machine's root file system under user-mode Linux, with systemd as process 1 and this build installed.

    guest.py [--tree TREE] [--seconds N] [SCRIPT]

runs SCRIPT in one and exits with its status; without SCRIPT there is a root shell (or standard input is the
script, when it is no terminal). Status 124: the time was up, 125: the guest did not come up or died.

The host's root is read only; what the guest writes is gone with it, unless `upper` names a disk. `/host` in the
guest is the folder `share` of the run. Every run has a folder of its own; guests may run side by side.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
RUNS = os.path.join(TOP, "build", "vm")
BLANK_DISK_MIB = 2048
TIMEOUT, NO_RESULT = 124, 125

# Units that a guest can do without; each costs up to a second there.
MASKED = """
    apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer
    systemd-tmpfiles-clean.timer getty.target getty@tty1.service console-getty.service
    kmod-static-nodes.service modprobe@.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
    proc-sys-fs-binfmt_misc.mount sys-kernel-config.mount dev-hugepages.mount dev-mqueue.mount
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-sysusers.service
    systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service
    systemd-journal-flush.service systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service
    systemd-random-seed.service e2scrub_reap.service systemd-firstboot.service systemd-pstore.service
    systemd-machine-id-commit.service systemd-pcrphase.service systemd-pcrphase-sysinit.service
    systemd-repart.service cryptsetup.target integritysetup.target veritysetup.target
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-initctl.socket
    systemd-journald-audit.socket systemd-journal-catalog-update.service systemd-hwdb-update.service
    ldconfig.service systemd-boot-system-token.service systemd-networkd.service systemd-resolved.service
    systemd-timesyncd.service remote-fs.target lvm2-monitor.service blk-availability.service
""".split()

BOOT_UNIT = """[Unit]
After=multi-user.target dbus.service
[Service]
Type=exec
ExecStart=/guest/boot.sh
ExecStopPost=/bin/systemctl --force --force poweroff
{terminal}
"""
TERMINAL = "StandardInput=tty-force\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/tty1\nTTYReset=yes"

# Only block devices are announced to udev: the rest costs seconds.
COLDPLUG = """[Service]
ExecStart=
ExecStart=/bin/udevadm trigger --type=devices --subsystem-match=block --action=add
"""


class GuestError(Exception):
    """A guest could not be made; the message says what is missing."""


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)


def make_disk(path, mib=BLANK_DISK_MIB):
    """A blank disk: a sparse file."""
    with open(path, "wb") as f:
        f.truncate(mib << 20)
    return path


def make_ext4(path):
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)


def memory_directory():
    """Where the guest's memory lies, as a file that has no name and must be executable."""
    for path in ("/dev/shm", "/tmp"):
        if os.path.isdir(path) and not os.statvfs(path).f_flag & os.ST_NOEXEC:
            return path
    return RUNS


def preloaded():
    """The library that lets linux.uml run where the CPU has more state than it knows (guest-ptrace.c)."""
    source, library = os.path.join(HERE, "guest-ptrace.c"), os.path.join(RUNS, "guest-ptrace.so")
    if not os.path.exists(library) or os.stat(library).st_mtime < os.stat(source).st_mtime:
        new = "%s.%d" % (library, os.getpid())
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-O2", "-Wall", "-fPIC", "-shared", "-o", new, source], check=True)
        os.replace(new, library)
    return library


class Result:
    """What a run left: status, output, the journal (empty when the guest died; the console has its lines, too), and its folder."""

    def __init__(self, status, directory, seconds):
        self.status, self.directory, self.seconds = status, directory, seconds
        self.output, self.journal, self.console = (
            self._read(name) for name in ("share/out", "share/journal", "console"))

    def _read(self, name):
        try:
            with open(os.path.join(self.directory, name), errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""


class Guest:
    """One boot. `script` is text (None: a shell on this terminal).

    `files` are more files for the guest by their path, `units` the same below /etc/systemd/system.
    """

    def __init__(self, script, tree=None, disks=None, upper=None, memory="512M", cpu=None, seconds=120, files=None,
                 units=None, directory=None):
        self.tree = tree or os.environ.get("HOLDPOINT_TREE") or os.path.join(TOP, "build", "tree")
        self.script, self.disks, self.upper, self.memory = script, disks, upper, memory
        self.cpu, self.seconds, self.files, self.units = cpu, seconds, files or {}, units or {}
        self.process, self.console = None, None
        os.makedirs(RUNS, exist_ok=True)
        self.directory = directory or tempfile.mkdtemp(prefix="run-", dir=RUNS)
        self.share = os.path.join(self.directory, "share")

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def _make_layers(self):
        """The folders that become the guest's root, from the top: config, tree, the host. Nobody's umask matters."""
        for name in ("share", "uml", "units", "config/host", "config/etc/systemd/system", "config/usr/lib",
                     "config/var/lib/holdpoint", "config/var/lib/holdpoint-worker", "config/var/backups"):
            os.makedirs(self.path(name), exist_ok=True)
        shutil.copytree(self.tree, self.path("tree"), symlinks=True, dirs_exist_ok=True)
        os.symlink("/usr/lib/uml/modules", self.path("config/usr/lib/modules"))
        write(self.path("config/etc/machine-id"), "0123456789abcdef0123456789abcdef\n")
        write(self.path("config/etc/fstab"), "")
        write(self.path("config/etc/hostname"), "guest\n")
        write(self.path("config/etc/systemd/journald.conf.d/guest.conf"),
              "[Journal]\nStorage=volatile\nRateLimitBurst=0\nForwardToConsole=yes\n")
        write(self.path("config/etc/systemd/system.conf.d/guest.conf"), "[Manager]\nShowStatus=no\n")
        for name in os.listdir("/lib/systemd/system-generators"):
            path = self.path("config/etc/systemd/system-generators", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink("/dev/null", path)
        for source, name in ((os.path.join(HERE, "boot.sh"), "boot.sh"),
                             (os.path.join(TOP, "units", "setup", "finish"), "finish")):
            with open(source) as f:
                write(self.path("config/guest", name), f.read(), 0o755)
        if self.script is not None:
            write(self.path("config/guest/script"), self.script, 0o755)
        for path, text in self.files.items():
            write(self.path("config" + path), text, 0o755 if text.startswith("#!") else 0o644)
        self._make_units()
        for top in ("config", "tree", "units"):
            for base, directories, _ in os.walk(self.path(top)):
                for name in directories:
                    if not os.path.islink(os.path.join(base, name)):
                        os.chmod(os.path.join(base, name), 0o755)
            os.chmod(self.path(top), 0o755)

    def _make_units(self):
        for name in MASKED:
            os.symlink("/dev/null", self.path("units", name))
        write(self.path("units/guest.service"), BOOT_UNIT.format(terminal="" if self.script is not None else TERMINAL))
        os.makedirs(self.path("units/multi-user.target.wants"))
        os.symlink("../guest.service", self.path("units/multi-user.target.wants/guest.service"))
        os.symlink("/lib/systemd/system/multi-user.target", self.path("units/default.target"))
        write(self.path("units/systemd-udev-trigger.service.d/guest.conf"), COLDPLUG)
        for name, text in self.units.items():
            write(self.path("units", name), text)

    def start(self):
        if not shutil.which("linux.uml"):
            raise GuestError("linux.uml is missing: install user-mode-linux")
        self._make_layers()
        with open(os.path.join(HERE, "init.sh")) as f:
            write(self.path("init"), "#!/bin/sh\nRUN=%s\n%s" % (self.directory, f.read().split("\n", 1)[1]), 0o755)
        disks = self.disks if self.disks is not None else [make_disk(self.path("disk"))]
        arguments = ["mem=" + self.memory, "rootfstype=hostfs", "rootflags=/", "rw", "init=" + self.path("init"), "quiet",
                     "uml_dir=" + self.path("uml"), "umid=guest", "con=null"]
        arguments += ["ubd%s=%s" % (chr(ord("b") + i), disk) for i, disk in enumerate(disks)]
        if self.upper:
            arguments.append("ubda=" + self.upper)
        self.console = open(self.path("console"), "ab")
        arguments.append("con0=null,fd:%d" % self.console.fileno())
        if self.script is None:
            arguments.append("con1=fd:0,fd:1")
        # Of two cores that are idle a guest is faster on one.
        cpus = sorted(os.sched_getaffinity(0))
        cpu = self.cpu if self.cpu is not None else cpus[os.getpid() % len(cpus)]
        self.process = subprocess.Popen(
            ["taskset", "--cpu-list", str(cpu), "setpriv", "--pdeathsig", "KILL", "linux.uml", *arguments],
            stdin=None if self.script is None else subprocess.DEVNULL,
            stdout=None if self.script is None else self.console, stderr=self.console,
            pass_fds=[self.console.fileno()], env=dict(os.environ, TMPDIR=memory_directory(), LD_PRELOAD=preloaded()),
            start_new_session=self.script is not None)
        return self

    def kill(self):
        """The power is cut. Also takes away what a guest that ended by itself may have left."""
        if self.process is None:
            return
        if self.script is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        elif self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.console:
            self.console.close()

    def has(self, name):
        """Whether the guest has made /host/NAME yet."""
        return os.path.exists(os.path.join(self.share, name))

    def wait(self, output=None):
        """Waits for the end, or for /host/cut: then the power is cut. `output` gets what the script prints."""
        began, shown, status = time.monotonic(), 0, None
        try:
            while self.process.poll() is None and status is None:
                time.sleep(0.05)
                if self.has("cut"):
                    status = 0
                elif self.seconds and time.monotonic() - began > self.seconds:
                    status = TIMEOUT
                if output:
                    shown = self._show(output, shown)
        finally:
            self.kill()
        if output:
            self._show(output, shown)
        if status is None:
            status = self._status()
        return Result(status, self.directory, time.monotonic() - began)

    def _show(self, output, shown):
        try:
            with open(os.path.join(self.share, "out"), "rb") as f:
                f.seek(shown)
                text = f.read()
        except FileNotFoundError:
            return shown
        output.write(text)
        output.flush()
        return shown + len(text)

    def _status(self):
        try:
            with open(os.path.join(self.share, "status")) as f:
                return int(f.read())
        except (FileNotFoundError, ValueError):
            return NO_RESULT

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def explain(result):
    """Why there is no status, for people."""
    if result.status == TIMEOUT:
        return "the guest's time was up after %.0f s" % result.seconds
    return "the guest ended without a result; the end of its console:\n" + "\n".join(result.console.splitlines()[-25:])


def shell(tree):
    size = os.get_terminal_size()
    guest = Guest(None, tree=tree, seconds=None,
                  files={"/guest/size": "rows %d cols %d\n" % (size.lines, size.columns)})
    try:
        result = guest.start().wait()
        if result.status == NO_RESULT:
            print(explain(result), file=sys.stderr)
        return result.status
    finally:
        guest.remove()
        subprocess.run(["stty", "sane"], stderr=subprocess.DEVNULL, check=False)


def main():
    parser = argparse.ArgumentParser(prog="run vm", description="Runs a script, or a root shell, in a guest.")
    parser.add_argument("--tree", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=600, help="the longest it may take (default 600)")
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="without one: a shell, or what is piped in")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.script is None and sys.stdin.isatty():
        return shell(options.tree)
    if options.script is None:
        text = sys.stdin.read()
    else:
        with open(options.script) as f:
            text = f.read()
    if not text.startswith("#!"):
        text = "#!/bin/bash\n" + text
    guest = Guest(text, tree=options.tree, seconds=options.seconds)
    try:
        result = guest.start().wait(sys.stdout.buffer)
        if result.status in (TIMEOUT, NO_RESULT):
            print(explain(result), file=sys.stderr)
        return result.status
    except KeyboardInterrupt:
        return 130
    finally:
        guest.kill()
        guest.remove()


if __name__ == "__main__":
    sys.exit(main())
