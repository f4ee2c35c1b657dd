"""The far ends of what Linux keeps about files, and a comparison that reaches them.

Nothing here goes through a path longer than PATH_MAX: every object is reached by the descriptor of its
directory. Content is compared by what is in it, not by how it is laid out, so that files of a TiB cost
what their data costs.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import resource
import socket
import stat
import struct
import subprocess

TIB, GIB, BLOCK = 1 << 40, 1 << 30, 1 << 16
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME, NOCOMP, DIRSYNC, NOCOW = (
    0x8, 0x10, 0x20, 0x40, 0x80, 0x400, 0x10000, 0x800000)
KEPT = SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME | NOCOMP | DIRSYNC | NOCOW | 0x4

YEAR = 31556952
# In seconds. ext4 ends in 1901 and 2446, xfs in 1901 and 2486.
TIMES = (0, 1, -1, -86400, -50 * YEAR, -2**31, 2**31 - 1, 2**31, 2**32 + 5, 15032385535)
TIMES_BTRFS = (-2**35, 2**38)


def raise_limits():
    """A tree 1 000 deep is walked with a descriptor for each level."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))


# --- flags -----------------------------------------------------------------------------------------------

def flags_of(fd):
    try:
        return struct.unpack("I4x", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))[0]
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            return 0
        raise


def add_flags(path, flags):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("I4x", flags_of(fd) | flags))
    finally:
        os.close(fd)


# --- making ----------------------------------------------------------------------------------------------

def write(path, data=b"", dir_fd=None, mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode, dir_fd=dir_fd)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def make_names(top):
    """Every byte there is, alone and 255 times."""
    for byte in range(1, 256):
        if byte != 0x2f:
            if byte != 0x2e:
                write(os.path.join(top, bytes([byte])), b"%d" % byte)
            os.mkdir(os.path.join(top, bytes([byte]) * 255))
            write(os.path.join(top, bytes([byte]) * 255, bytes([byte ^ 0x80 or 1]).replace(b"/", b"s") * 255))
    os.mkdir(os.path.join(top, b"mine"))
    os.mkdir(os.path.join(top, b"mine", b".holdpoint"), 0o755)  # not root's alone: somebody's data
    write(os.path.join(top, b"mine", b".holdpoint", b"f"), b"data")
    for name in (b".holdpoint", b"..x", b"...", b".tmp-x", b"\xed\xa0\x80", b"\\x41", b"a\\x00b", b"\xc3\x28"):
        write(os.path.join(top, name), name)


def make_chain(top, names, every=1):
    """Directories in each other, with a file in every so manieth; the last one holds links, too."""
    fd = os.open(top, os.O_RDONLY)
    write(b"near", b"one file, two names far apart", fd)
    near = os.open(b"near", os.O_PATH, dir_fd=fd)
    for i, name in enumerate(names):
        os.mkdir(name, 0o750, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
        if i % every == 0:
            write(b"f", b"%d" % i, fd)
    os.symlink(b"f", b"link", dir_fd=fd)
    os.link(b"/proc/self/fd/%d" % near, b"far", dst_dir_fd=fd, follow_symlinks=True)
    for one in (near, fd):
        os.close(one)


def make_modes(top):
    for mode in list(range(0o1000)) + [special | mode for special in range(0o1000, 0o10000, 0o1000)
                                       for mode in (0, 0o7, 0o644, 0o755, 0o777)]:
        path = os.path.join(top, b"%04o" % mode)
        write(path, b"x")
        os.chown(path, 1000, 1000)
        os.chmod(path, mode)
    for mode in (0, 0o111, 0o1777, 0o2775, 0o7777):
        path = os.path.join(top, b"directory %04o" % mode)
        os.mkdir(path)
        write(os.path.join(path, b"inside"), b"inside", mode=0)
        os.chmod(path, mode)
    os.mkdir(os.path.join(top, b"empty"), 0)
    for uid in (0, 1, 65534, 65536, 2**31, 2**32 - 2):
        path = os.path.join(top, b"owner %d" % uid)
        write(path, b"x")
        os.chown(path, uid, 2**32 - 2 - uid)


def make_times(top, kind):
    for seconds in TIMES + (TIMES_BTRFS if kind == "btrfs" else ()):
        for nanoseconds in (0, 1, 999999999):
            ns = seconds * 10**9 + (0 if seconds in (-2**31, 15032385535) else nanoseconds)
            name = os.path.join(top, b"%d.%d" % (seconds, nanoseconds))
            write(name, b"x")
            os.mkdir(name + b".d")
            write(name + b".d/f", b"x")
            os.symlink(b"nowhere", name + b".l")
            os.mkfifo(name + b".p")
            for suffix in (b"", b".d/f", b".d", b".l", b".p"):
                os.utime(name + suffix, ns=(7, ns), follow_symlinks=False)


def make_attributes(top, kind):
    p = lambda *name: os.path.join(top, *name)  # noqa: E731
    os.makedirs(p(b"d", b"below"))
    for name in (b"f", b"d/below/f"):
        write(p(name), b"x")
    os.symlink(b"f", p(b"l"))
    os.mkfifo(p(b"p"))
    os.mknod(p(b"c"), stat.S_IFCHR, os.makedev(511, 262143) if kind == "xfs" else os.makedev(4095, 1048575))
    os.mknod(p(b"b"), stat.S_IFBLK | 0o660, os.makedev(0, 0))
    for name in (b"f", b"d", b"l", b"p", b"c", b"b"):
        os.setxattr(p(name), b"trusted.\xff odd\n", b"\0trusted of " + name, follow_symlinks=False)
        os.setxattr(p(name), b"security.thing", b"security of " + name, follow_symlinks=False)
    for name in (b"f", b"d"):
        os.setxattr(p(name), b"user." + b"n" * 250, b"long name")
        os.setxattr(p(name), b"user.nothing", b"")
    write(p(b"many"))
    for i in range(100):
        os.setxattr(p(b"many"), b"user.%d" % i, b"%d" % i)
    write(p(b"big"), b"x")
    os.setxattr(p(b"big"), b"user.big", os.urandom({"btrfs": 15000, "xfs": 65536}.get(kind, 3800)))
    acl = lambda *words: subprocess.run(["setfacl", *words], check=True)  # noqa: E731
    acl("-m", "u:33:rw,g:34:-wx,m::r-x", os.fsdecode(p(b"d/below/f")))
    acl("-m", "u:0:---,u:4000000000:rwx", os.fsdecode(p(b"p")))
    acl("-m", "u:33:rwx,g::---,o::---", "-m", "d:u:33:rwx,d:g:34:r-x,d:m::rwx", os.fsdecode(p(b"d")))
    write(p(b"d/inherited"), b"x")
    os.mkdir(p(b"d/heir"))
    os.mkdir(p(b"d/disinherited"))
    acl("-b", os.fsdecode(p(b"d/disinherited")))
    for name, revision in ((b"capable", 2), (b"capable here", 3)):
        write(p(name), b"#!/bin/true\n", mode=0o755)
        rootid = struct.pack("<I", 100000) if revision == 3 else b""
        os.setxattr(p(name), "security.capability", struct.pack("<5I", revision << 24 | 1, 1 << 10, 0, 0, 1 << 6) + rootid)


def make_links(top, kind):
    """Several names for everything that can have them, across directories."""
    p = lambda *name: os.path.join(top, *name)  # noqa: E731
    for directory in (b"b", b"a/deep", b"c"):
        os.makedirs(p(directory))
    write(p(b"b/file"), b"b" * 70000)
    os.setxattr(p(b"b/file"), "user.linked", b"yes")
    os.symlink(b"target", p(b"b/symlink"))
    os.mkfifo(p(b"b/fifo"))
    os.mknod(p(b"b/device"), stat.S_IFCHR | 0o600, os.makedev(1, 5))
    write(p(b"b/capable"), b"x", mode=0o755)
    os.setxattr(p(b"b/capable"), "security.capability", struct.pack("<5I", 2 << 24 | 1, 1, 0, 0, 0))
    for name in (b"file", b"symlink", b"fifo", b"device", b"capable"):
        for directory in (b"a/deep", b"a", b"c", b"."):
            os.link(p(b"b", name), p(directory, name), follow_symlinks=False)
    for n in (1, 255, 1000, 1023 if kind == "xfs" else 3000 if kind == "btrfs" else 4095):
        os.symlink(b"\xff/" * (n // 2) + b"x" * (n % 2), p(b"text of %d" % n))
    for text in (b"/", b".", b"..", b"loop", b"\n"):
        os.symlink(text, p(b"to " + text.replace(b"/", b"root")))
    os.symlink(b"loop", p(b"loop"))


def island(path, size, offsets, length=5000):
    with open(path, "wb") as f:
        f.truncate(size)
        for offset in offsets:
            os.pwrite(f.fileno(), hashlib.sha256(b"%d" % offset).digest() * (length // 32 + 1), offset)
            os.truncate(f.fileno(), max(size, os.fstat(f.fileno()).st_size))


def make_sparse(top):
    p = lambda name: os.path.join(top, name)  # noqa: E731
    island(p(b"TiB"), TIB, (0, 12345, 3 * GIB - 7, 600 * GIB + 4096, TIB - 4096 * 5))
    island(p(b"TiB of nothing"), TIB, ())
    island(p(b"6 GiB"), 6 * GIB + 3, (4 * GIB - 2500, 5 * GIB), 1 << 20)
    island(p(b"end"), GIB, (GIB - 1 - 5120,), 5088)
    with open(p(b"reserved"), "wb") as f:
        f.write(b"x" * 5000)
        os.posix_fallocate(f.fileno(), 0, 8 << 20)
    write(p(b"zeros"), bytes(2 << 20))


def make_flags(top, kind):
    p = lambda *name: os.path.join(top, *name)  # noqa: E731
    for name in (b"immutable", b"append", b"both"):
        os.makedirs(p(name + b" directory", b"below"))
        write(p(name), name)
        write(p(name + b" directory", b"below", b"f"), name)
        os.link(p(name), p(name + b" directory", b"linked"))
    for name, flags in ((b"nodump", NODUMP), (b"noatime", NOATIME), (b"sync", SYNC), (b"all", NODUMP | NOATIME | SYNC)):
        write(p(name), name)
        add_flags(p(name), flags)
    os.mkdir(p(b"quiet directory"))
    add_flags(p(b"quiet directory"), NODUMP | NOATIME | SYNC | (0 if kind == "xfs" else DIRSYNC))
    if kind == "btrfs":
        os.mkdir(p(b"nocow directory"))
        add_flags(p(b"nocow directory"), NOCOW)
        write(p(b"nocow directory", b"heir"), b"nocow" * 50000)
        write(p(b"nocow"))
        add_flags(p(b"nocow"), NOCOW)
        with open(p(b"nocow"), "r+b") as f:
            f.write(b"nocow" * 50000)
        os.mkdir(p(b"compressed directory"))
        add_flags(p(b"compressed directory"), 0x4)
        write(p(b"compressed directory", b"heir"), b"c" * 300000)
        write(p(b"incompressible"))
        add_flags(p(b"incompressible"), NOCOMP)
    for name, flags in ((b"immutable", IMMUTABLE), (b"append", APPEND), (b"both", IMMUTABLE | APPEND)):
        for path in (p(name), p(name + b" directory", b"below", b"f"), p(name + b" directory", b"below"), p(name + b" directory")):
            add_flags(path, flags)


def make(top, kind):
    """Fills the existing directory `top`; `kind` is the file system it is on."""
    top = os.fsencode(top)
    parts = ((b"names", make_names), (b"long", lambda d: make_chain(d, [b"%03d" % i * 83 for i in range(24)])),
             (b"deep", lambda d: make_chain(d, [b"d"] * 1000, 100)), (b"modes", make_modes),
             (b"times", lambda d: make_times(d, kind)), (b"attributes", lambda d: make_attributes(d, kind)),
             (b"links", lambda d: make_links(d, kind)), (b"sparse", make_sparse), (b"flags", lambda d: make_flags(d, kind)))
    for name, fill in parts:
        os.mkdir(os.path.join(top, name))
        fill(os.path.join(top, name))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
        s.bind(os.fsdecode(os.path.join(top, b"socket")))


# --- looking ---------------------------------------------------------------------------------------------

def digest(fd, size):
    """Of all blocks that are not zero, with their places."""
    h, at = hashlib.sha256(), 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = os.lseek(fd, at, os.SEEK_HOLE)
        at -= at % BLOCK
        while at < end:
            block = os.pread(fd, BLOCK, at)
            if block.count(0) != len(block):
                h.update(b"%d %d\n" % (at, len(block.rstrip(b"\0"))) + block)
            at += BLOCK
    return h.hexdigest()


def describe_one(dir_fd, name):
    path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode)
    d = {"type": stat.filemode(s.st_mode)[0], "mode": stat.S_IMODE(s.st_mode), "owner": (s.st_uid, s.st_gid),
         "mtime": s.st_mtime_ns, "xattrs": {n: os.getxattr(path, n, follow_symlinks=False)
                                            for n in os.listxattr(path, follow_symlinks=False)}}
    if kind == stat.S_IFLNK:
        d["target"] = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        d["device"] = (os.major(s.st_rdev), os.minor(s.st_rdev))
    elif kind in (stat.S_IFREG, stat.S_IFDIR):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            d["flags"] = flags_of(fd) & KEPT
            if kind == stat.S_IFREG:
                d["size"], d["content"] = s.st_size, digest(fd, s.st_size)
                d["sparse"] = s.st_size >= 1 << 28 and s.st_blocks * 512 < s.st_size // 32
        finally:
            os.close(fd)
    return s, d


def describe(top):
    """All below and at `top` but sockets: path (bytes) → description, with the names of its hard links."""
    found, groups = {}, {}

    def look(fd, name, path):
        s, d = describe_one(fd, name)
        if d["type"] == "s":
            return False
        found[path] = d
        if s.st_nlink > 1 and d["type"] != "d":
            groups.setdefault((s.st_dev, s.st_ino), []).append(path)
        return d["type"] == "d"

    def names(fd):
        return sorted(map(os.fsencode, os.listdir(fd)))

    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    look(root, b".", b".")
    stack = [(root, b"", names(root))]
    try:
        while stack:
            fd, path, left = stack[-1]
            if not left:
                os.close(fd)
                stack.pop()
                continue
            name = left.pop()
            if look(fd, name, path + name):
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                stack.append((below, path + name + b"/", names(below)))
    finally:
        for fd, _, _ in stack:
            os.close(fd)
    for paths in groups.values():
        for path in paths:
            found[path]["links"] = sorted(paths)
    return found
