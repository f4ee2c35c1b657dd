"""A tree with one of everything that Linux keeps, and a comparison that overlooks nothing of it."""

import contextlib
import fcntl
import hashlib
import os
import random
import socket
import sqlite3
import stat
import struct
import subprocess

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
KEPT_FLAGS = 0x00000010 | 0x00000020 | 0x00000040 | 0x00000080 | 0x00800000 | 0x00000004
FS_NODUMP_FL, FS_NOCOW_FL = 0x40, 0x00800000


def get_flags(path):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))[0] & KEPT_FLAGS
    except OSError:
        return 0
    finally:
        os.close(fd)


def set_flags(path, flags):
    fd = os.open(path, os.O_RDONLY)
    try:
        now = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))[0]  # the others are the file system's own
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", now & ~KEPT_FLAGS | flags))
    finally:
        os.close(fd)


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


def describe_one(path):
    """Everything of one object but its place, as a dictionary."""
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode)
    d = {"type": stat.filemode(s.st_mode)[0], "owner": (s.st_uid, s.st_gid), "mtime": s.st_mtime_ns,
         "xattrs": {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}}
    if kind != stat.S_IFLNK:
        d["mode"] = stat.S_IMODE(s.st_mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        d["flags"] = get_flags(path)
    if kind == stat.S_IFREG:
        d["size"], d["sha256"] = s.st_size, digest(path)
        d["holes"] = s.st_size >= 1 << 20 and s.st_blocks * 512 < s.st_size // 2
    elif kind == stat.S_IFLNK:
        d["target"] = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        d["device"] = s.st_rdev
    return d


def describe(top, ignore=()):
    """All objects below and at `top`: relative path (bytes) → description with its hard-link group.

    `ignore` names keys of the descriptions to leave out. Sockets are no part of a backup."""
    top = os.fsencode(top)
    found, groups = {}, {}

    def add(path):
        s = os.lstat(path)
        if stat.S_ISSOCK(s.st_mode):
            return
        d = describe_one(path)
        relative = os.path.relpath(path, top)
        if s.st_nlink > 1 and not stat.S_ISDIR(s.st_mode):
            groups.setdefault((s.st_dev, s.st_ino), []).append(relative)
        found[relative] = {k: v for k, v in d.items() if k not in ignore}

    add(top)
    if os.path.isdir(top):
        for folder, folders, files in os.walk(top):
            for name in sorted(folders + files):
                add(os.path.join(folder, name))
    for paths in groups.values():
        for path in paths:
            found[path]["links"] = sorted(paths)
    return found


def differences(before, after, limit=20):
    """What differs between two descriptions, as lines for a message; empty when nothing does."""
    lines = ["missing: %r" % p for p in sorted(before.keys() - after.keys())]
    lines += ["extra: %r" % p for p in sorted(after.keys() - before.keys())]
    for path in sorted(before.keys() & after.keys()):
        a, b = before[path], after[path]
        lines += ["%r: %s %r, not %r" % (path, key, b.get(key), a.get(key))
                  for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    return lines[:limit]


def write(path, data=b"", mode=0o644):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def make_content(top, rng):
    """Files of every size at which something changes, sparse ones, twins, and databases."""
    for n, size in enumerate((0, 1, 4095, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3500000)):
        write(os.path.join(top, b"size-%02d" % n), rng.randbytes(size))
    write(os.path.join(top, b"text"), b"all work and no play\n" * 40000)
    write(os.path.join(top, b"twin"), b"all work and no play\n" * 40000)
    write(os.path.join(top, b"zeros"), bytes(3 << 20))
    with open(os.path.join(top, b"sparse"), "wb") as f:
        f.truncate(1 << 30)
        for offset in (5, 7 << 20, (600 << 20) + 12345):
            os.pwrite(f.fileno(), rng.randbytes(5000), offset)
    for name, mode in ((b"wal.db", "wal"), (b"rollback.db", "delete"), (b"empty.db", "delete")):
        with contextlib.closing(sqlite3.connect(os.fsdecode(os.path.join(top, name)))) as db, db:
            db.execute("PRAGMA journal_mode=" + mode)
            if name != b"empty.db":
                db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
                db.executemany("INSERT INTO t (data) VALUES (?)", ((rng.randbytes(900),) for _ in range(2000)))


def make_names(top):
    """Names that break programs which take them for text."""
    for name in (b"with space", b"new\nline", b"\xff\xfe\x80", b"-rf", b"back\\slash", b"quote'\"", b"n" * 255,
                 b"a-b", b"a.b", b"a", b"\xc3\xa4\xc3\xb6\xc3\xbc", b"*?[x]"):
        os.makedirs(os.path.join(top, name), exist_ok=True)
        write(os.path.join(top, name, b"file " + name[:40]), name)
    deep = top
    for _ in range(60):
        deep = os.path.join(deep, b"deep")
    os.makedirs(deep)
    write(os.path.join(deep, b"bottom"), b"found")


def make_attributes(top):
    """Modes, owners, times, extended attributes, ACLs, capabilities, flags, links, devices."""
    p = lambda name: os.path.join(top, name)  # noqa: E731
    for name, mode in ((b"setuid", 0o4755), (b"setgid", 0o2755), (b"none", 0), (b"all", 0o777)):
        write(p(name), name, 0o644)
        os.chmod(p(name), mode)
    os.mkdir(p(b"sticky"))
    os.chmod(p(b"sticky"), 0o1777)
    write(p(b"owned"), b"owned")
    os.chown(p(b"owned"), 1234567, 7654321)
    for name, ns in ((b"old", -86400 * 10**9 * 365 - 1), (b"exact", 1700000000123456789), (b"future", 4100000000 * 10**9 + 7)):
        write(p(name), name)
        os.utime(p(name), ns=(ns, ns))
    write(p(b"attributes"), b"x")
    os.setxattr(p(b"attributes"), "user.colour", b"blue\0green")
    os.setxattr(p(b"attributes"), "user.empty", b"")
    os.setxattr(p(b"attributes"), "trusted.big", bytes(range(256)) * 12)
    subprocess.run(["setfacl", "-m", "u:33:rw,g:34:r", os.fsdecode(p(b"attributes"))], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:33:rwx", os.fsdecode(p(b"sticky"))], check=True)
    write(p(b"capable"), b"#!/bin/true\n", 0o755)
    subprocess.run(["setcap", "cap_net_bind_service+ep", os.fsdecode(p(b"capable"))], check=True)
    write(p(b"nodump"), b"x")
    set_flags(p(b"nodump"), FS_NODUMP_FL)
    os.symlink(b"nowhere/at all", p(b"dangling"))
    os.symlink(b"t" * 3000, p(b"long link"))
    os.lchown(p(b"dangling"), 33, 33)
    os.utime(p(b"dangling"), ns=(5, 5 * 10**9 + 5), follow_symlinks=False)
    os.mkdir(p(b"links"))
    write(p(b"links/first"), b"hard")
    for name in (b"links/second", b"zz-third", b"AA-fourth"):
        os.link(p(b"links/first"), p(name))
    os.mkfifo(p(b"fifo"), 0o640)
    os.mknod(p(b"null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(p(b"block"), stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.mkdir(p(b"empty directory"))


def make_nocow(top):
    """btrfs only: a file that is not copied on write."""
    path = os.path.join(top, b"nocow")
    write(path)
    set_flags(path, FS_NOCOW_FL)
    with open(path, "r+b") as f:
        f.write(b"nocow" * 50000)


def make_zoo(top, seed=7, with_socket=False):
    """Fills the existing directory `top` with one of everything."""
    top, rng = os.fsencode(top), random.Random(seed)
    for name, make in ((b"content", lambda d: make_content(d, rng)), (b"names", make_names),
                       (b"attributes", make_attributes)):
        os.mkdir(os.path.join(top, name))
        make(os.path.join(top, name))
    if with_socket:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
            s.bind(os.fsdecode(os.path.join(top, b"socket")))
