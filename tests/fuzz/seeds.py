#!/usr/bin/python3
"""Makes the seeds of the corpora anew: small valid inputs, in the formats that the targets describe.

  seeds.py            writes tests/fuzz/corpus/TARGET/seed-*

Everything else in a corpus was found by a run and stays: inputs that reach further (hash names), and
inputs of findings (regression-*).
"""

import os
import sqlite3
import struct
import subprocess
import tarfile
import tempfile

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
BACKUP = "00000000-0000-4000-8000-000000000001"
RESTORE = "00000000-0000-4000-8000-000000000002"


def write(target, name, data):
    folder = os.path.join(CORPUS, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "seed-" + name), "wb") as f:
        f.write(data.encode() if isinstance(data, str) else data)


def piece(data):
    data = data.encode() if isinstance(data, str) else data
    return struct.pack("<H", len(data)) + data


# ---- configuration ----

AGENT = """# comment
[Agent]
MaxQueuedJobs=16
MaxQueuedJobsPerUser=4
[Repository]
Path=/var/backups/holdpoint
CompressionLevel=6
PackSizeMiB=32
[Hold]
LockTimeoutMSec=200
MaxHoldMSec=1000
OnTimeout=degrade
"""
SERVICE = """[Service]
Description=the shop
Path=/srv/yeepay/back
Path=/srv/yeepay/env.production
Exclude=thumbnails/**
Exclude=a/[!x-z]?*/b
Databases=auto
DatabaseCapture=auto
DatabaseCheck=age:24h
Snapshot=btrfs
MaxAgeHours=26
Unit=yeepay-back.service
HealthCheckUnit=yeepay-check.service
HealthDelaySec=5
"""
LISTED = "[Service]\nPath=/srv/admin\nDatabases=list\nDatabase=/srv/admin/admin.db\n"


def ini():
    write("ini", "empty", "")
    write("ini", "all", "\x1f".join([AGENT, "[Hold]\nOnTimeout=fail\n", SERVICE, LISTED.replace("Databases=list\n", "")]))
    write("ini", "overlap", "\x1f".join(["", "", SERVICE, "[Service]\nPath=/srv/yeepay\n"]))
    write("ini", "listed", "\x1f\x1f" + LISTED)
    write("ini", "globs", "\x1f\x1f[Service]\nPath=/a\nExclude=**/x\nExclude=**\nExclude=*a*b*c*\nExclude=[]a]\nExclude=\xc3\xa9?\n")
    for i, bad in enumerate(["[Agent\n", "Path=/a\n", "[Agent]\nnothing\n", "[Agent]\n: x\n", "[Nope]\n", "[Agent]\nNope=1\n",
                             "[Repository]\nPath=a/../b\n", "[Agent]\n  MaxQueuedJobs = 3 \n MaxQueuedJobs=4\n"]):
        write("ini", "bad-%d" % i, bad)


def defaults():
    all_set = ("# comment\nBACKUP_DIR=/var/backups/\nBACKUP_RETENTION_DAYS=30\nBACKUP_COMPRESSION_LEVEL='6'\nAUTO_BACKUP_ENABLED=yes\n"
               "AUTO_BACKUP_FREQUENCY=\"weekly\"\nAUTO_BACKUP_TIME=02:30\nAUTO_BACKUP_TYPE=full\n")
    secret = "BACKUP_ENCRYPTION_KEY=\"a \\\"long\\\" pass\\\nphrase\"' and more'\\ end  \n"
    write("defaults", "all", "\0" + all_set)
    write("defaults", "secret", "\0" + all_set + secret)
    write("defaults", "secret-shown", "\1" + secret + all_set)
    write("defaults", "twice", "\0" + secret + "BACKUP_ENCRYPTION_KEY=\n" + secret.replace("a ", "b "))
    write("defaults", "odd", "\1export BACKUP_DIR=/a\n;x\n=y\nBACKUP_X=1\nno equals\n  A = b \\\n c\r\nLAST='")
    for i, bad in enumerate(["BACKUP_DIR=a/../b", "BACKUP_RETENTION_DAYS=0", "AUTO_BACKUP_TIME=24:00", "AUTO_BACKUP_ENABLED=maybe",
                             "AUTO_BACKUP_FREQUENCY=hourly", "AUTO_BACKUP_TYPE=a/b", 'A="open', "A=b\0c"]):
        write("defaults", "bad-%d" % i, "\1" + bad)


# ---- messages ----

def packet(how, text, fds=None):
    return bytes([how | (0x40 if fds is not None else 0)]) + (bytes([fds]) if fds is not None else b"") + piece(text)


def proto():
    request = '{"type":"request","verb":"create","job":7,"backup_id":"%s","services":["a"],"pinned":true,"paths":["a\\\\x41"]}' % BACKUP
    failure = '{"type":"result","result":"failed","error":{"name":"NoSpace","errno":28,"text":"no \\\\xff space"},"summary":{}}'
    write("proto", "request", packet(0, request) + packet(2, request, 1) + packet(0, request, 1))
    write("proto", "cancel", packet(1, '{"type":"cancel"}'))
    write("proto", "failure", packet(0, failure) + packet(0, '{"error":{"name":"x","errno":-1,"text":"\\u0000"}}'))
    write("proto", "descriptors", packet(2, "{}", 64) + packet(2, "{}", 65) + packet(0, "", 3) + packet(2, "[]", 2))
    fds = '{"type":"request","into":true,"stream":true,"key":true}'
    write("proto", "request-fds", packet(2, fds, 3) + packet(2, fds, 2) + packet(2, fds.replace('"key":true', '"key":false'), 2)
          + packet(2, fds.replace("true", "1"), 3))
    write("proto", "odd", packet(0, '{"a":' * 40) + packet(0, "{} {}") + packet(0, '{"type":1}') + packet(0, "") + packet(0, '{"type":"\xc3"}'.encode("latin1")))


def agent():
    backup = ('{"backup_id":"%s","backup_name":"n","backup_type":"full","status":"completed","bytes":12,"files":3,"services":["a"],'
              '"service_consistency":{"a":"crash"},"consistency":"crash","databases":[{"path":"/x","n":1,"ok":true}],"metadata":"{}",'
              '"checksum":"%s","copies":["local"],"pinned":false,"created_at":"2024-01-01T00:00:00Z","completed_at":"2024-01-01T00:01:00Z"}'
              % (BACKUP, "ab" * 32))
    restore = ('{"restore_id":"%s","backup_id":"%s","services":["a"],"state":"active","created_at":"2024-01-01T00:00:00Z",'
               '"completed_at":"","units_down_usec":5}' % (RESTORE, BACKUP))
    lines = ['{"type":"accepted"}', '{"type":"phase","phase":"scan"}',
             '{"type":"progress","bytes_done":5,"bytes_total":10,"files_done":1,"files_total":2}',
             '{"type":"point","pause_usec":1500}', '{"type":"backup","backup":%s}' % backup,
             '{"type":"space","stored_bytes":100,"free_bytes":18446744073709551615}']
    done = '{"type":"result","result":"done","summary":{"backup_id":"%s","bytes":12,"list":["a",1,null],"d":1.5}}' % BACKUP
    failed = '{"type":"result","result":"failed","error":{"name":"NoSpace","errno":28,"text":"full"}}'
    write("agent", "backup", "\0" + "\n".join(lines + [done]))
    write("agent", "backup-failed", "\0" + "\n".join(lines[:3] + [failed]))
    write("agent", "restore", "\1" + "\n".join(['{"type":"restore","restore":%s}' % restore, done]))
    write("agent", "rollback", "\2" + "\n".join(['{"type":"restore","restore":%s}' % restore.replace("active", "rolled_back"), failed]))
    write("agent", "verify", "\4" + done.replace("done", "canceled"))
    write("agent", "delete", "\5" + failed.replace("NoSpace", "NoSuchBackup"))
    write("agent", "reconcile", "\6" + "\n".join([lines[4], '{"type":"restore","restore":%s}' % restore.replace("active", "staging"), lines[5], done]))
    write("agent", "pin", bytes([14]) + "\n".join([lines[4], done]).encode())
    write("agent", "prune", bytes([15]) + "\n".join(['{"type":"removed","backup_id":"%s"}' % BACKUP, lines[4], lines[5], done]).encode())
    write("agent", "repository", bytes([16]) + "\n".join([lines[5], done]).encode())
    write("agent", "recover", "\7" + "\n".join(['{"type":"restore","restore":%s}' % restore, done.replace("done", "partial")]))


def helper():
    def both(line):
        return [line.replace("%", "0"), line.replace("%", "1")]

    fail = '{"type":"failed","index":%,"failure":{"name":"IntegrityFailure","errno":74,"text":"bad page"}}'
    let_go, done = '{"type":"released","index":%,"usec":9,"self":false}', '{"type":"done"}'
    held = (both('{"type":"prepared","index":%,"wal":true}') + [done] + both('{"type":"locked","index":%,"usec":5}') + [done]
            + both('{"type":"pinned","index":%}') + [done] + both(let_go) + [done])
    copies = ['{"type":"progress","index":0}', '{"type":"copied","index":0}', done, '{"type":"copied","index":1}', done]
    write("helper", "held", b"\x14" + "\n".join(held + copies).encode())
    write("helper", "held-dead", b"\0" + "\n".join(held + copies).encode())
    write("helper", "nothing-copied", b"\x14" + "\n".join(held + [done, done]).encode())
    write("helper", "lets-go", b"\4" + "\n".join(held[:6] + both(let_go.replace("false", "true"))).encode())
    write("helper", "fails", b"\4" + "\n".join(both(fail) + [done] * 6).encode())
    write("helper", "floods", b"\x0c" + "\n".join(held[:3] + [let_go.replace("%", "0")]).encode())
    write("helper", "floods-failures", b"\x0c" + fail.replace("%", "0").encode())
    write("helper", "floods-copy", b"\x1c" + "\n".join(held + copies[:1]).encode())
    write("helper", "recovered", b"\2" + "\n".join(['{"type":"recovered","index":0}', done]).encode())
    write("helper", "not-recovered", b"\2" + "\n".join([fail.replace("%", "0"), done]).encode())
    write("helper", "sound", b"\3" + "\n".join(['{"type":"sound","index":0}', done]).encode())
    write("helper", "damaged", b"\3" + "\n".join([fail.replace("%", "0").replace("failed", "damaged"), done]).encode())


# ---- entries ----

def varint(v):
    out = b""
    while True:
        out += bytes([v & 0x7f | (0x80 if v > 0x7f else 0)])
        v >>= 7
        if not v:
            return out


def zigzag(v):
    return varint((v << 1) ^ (v >> 63) if v >= 0 else ((-v) << 1) - 1)


def entry(kind, name, flags=0, xattrs=(), device=None, target=None, sparse=False, content=None):
    """`content`: size, class, chunk list."""
    fields = ((1 if flags else 0) | (2 if xattrs else 0) | (4 if device else 0) | (8 if target else 0) | (16 if sparse else 0)
              | (32 if content else 0))
    out = kind.encode() + varint(fields) + name + b"\0"
    if kind != "h":
        out += varint(0o644) + varint(33) + varint(33) + zigzag(1700000000) + struct.pack("<I", 5)
    if flags:
        out += varint(flags)
    if xattrs:
        out += varint(len(xattrs)) + b"".join(n + b"\0" + varint(len(v)) + v for n, v in xattrs)
    if device:
        out += varint(device[0]) + varint(device[1])
    if target:
        out += target + b"\0"
    if content:
        out += varint(content[0]) + bytes([content[1]]) + varint(len(content[2])) + content[2]
    return out


def data_run(ids):
    return varint(len(ids) << 2) + b"".join(ids)


def id_of(k):
    return b"ID#" + bytes([k]) + bytes(28)


FILE = entry("f", b"b", content=(5, 2, b"\0" + data_run([bytes(32)])))
KINDS = [entry("d", b"a", flags=0x10), entry("l", b"c", target=b"../x"), entry("p", b"d"), entry("c", b"e", device=(1, 3)),
         entry("b", b"f", device=(259, 1)), entry("h", b"g", target=b"/srv/app/b"),
         entry("f", b"h", xattrs=[(b"security.capability", b"\1\0\0\2" + bytes(16)), (b"user.a", b"")]),
         entry("f", b"i", sparse=True, content=(3 << 20, 1, b"\0" + varint(1 << 2 | 1) + data_run([bytes(32)]) + varint(1 << 2 | 2))),
         entry("f", b"j", content=(200000, 3, b"\1" + bytes(64)))]


def entries():
    write("entry", "all", KINDS[0] + FILE + b"".join(KINDS[1:]))
    for i, one in enumerate(KINDS + [FILE]):
        write("entry", "kind-%d" % i, one)
    good = entry("f", b"n", flags=1)
    for i, (at, bad) in enumerate([(0, b"z"), (1, b"\x40"), (2, b"/"), (2, b"\0"), (4, b"\xff\xff\x07"), (len(good) - 5, b"\xff\xff\xff\xff"), (len(good) - 1, b"\0")]):
        write("entry", "bad-%d" % i, good[:at] + bad + good[at + len(bad):])
    for name in (b".", b"..", b"", b"x" * 256):
        write("entry", "bad-name-%d" % len(name), entry("d", name))
    write("entry", "bad-order", entry("d", b"a", xattrs=[(b"user.b", b""), (b"user.a", b"")]))
    write("entry", "bad-content", entry("f", b"a", content=(5, 4, b"\0")) + entry("f", b"a", content=(5, 2, b"\0" + varint(3 << 2))))


def base_state():
    def string(s):
        return struct.pack("<I", len(s)) + s

    def item(encoded):
        return b"\2" + bytes(32) + bytes(24) + struct.pack("<I", len(encoded)) + encoded

    header = b"HPBASE01" + bytes(16) + string(b"paths and rules")
    frame = b"\1" + string(b"/srv") + item(entry("d", b"app")) + b"\1" + string(b"/srv/app") + item(FILE)
    more = b"\1" + string(b"/srv/app") + b"".join(item(k) for k in KINDS[1:5])
    write("base-state", "frames", b"\0" + piece(header) + piece(frame) + piece(more))
    write("base-state", "header", b"\0" + piece(header))
    write("base-state", "empty-frames", b"\0" + piece(header) + piece(b"") + piece(b"\1" + string(b"")))
    write("base-state", "raw", b"\1" + struct.pack("<II", 0xffffffff, 0) + header)


# ---- archives ----

def member(kind, name, content=b"", target=b"", mode=0o644, how=0, other=0, prefix=b""):
    return (kind + piece(name) + piece(target) + struct.pack("<H", mode) + bytes([how]) + (struct.pack("<I", other) if how & 3 else b"")
            + (piece(prefix) if how & 0x80 else b"") + piece(content))


def pax(**values):
    out = b""
    for key, value in values.items():
        body = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        n = len(body) + 1
        while len(str(n)) + len(body) > n:
            n += 1
        out += str(n).encode() + body
    return member(b"x", b"PaxHeaders/x", out)


def untar():
    file = member(b"0", b"main/srv/app/a", b"hello")
    kinds = (member(b"5", b"./main/srv/app/", mode=0o3755) + file + member(b"2", b"main/srv/app/l", target=b"../x")
             + member(b"1", b"main/srv/app/h", target=b"main/srv/app/a") + member(b"6", b"main/srv/app/p") + member(b"3", b"main/dev")
             + member(b"0", b"main/srv/app/s", b"x", mode=0o6755))
    header = b"\0\0"
    write("untar", "kinds", header + kinds)
    write("untar", "portions", b"\0\1" + kinds)
    write("untar", "no-end", b"\0\4" + kinds)
    write("untar", "breaks", b"\0\x0a" + kinds)
    write("untar", "pax", header + pax(path=b"main/" + b"d/" * 90 + b"x", mtime=b"-1.25", uid=b"70000") + file + pax(linkpath=b"t" * 300)
          + member(b"2", b"main/l"))
    write("untar", "xattrs", header + pax(**{"SCHILY__xattr__user__b": b"\0v", "LIBARCHIVE__xattr__user__a%25": b"dg==",
                                             "SCHILY__xattr__security__x": b"1", "SCHILY__acl__access": b"user::rwx,user:x:r--:5,group::r--,mask::rwx,other::---"})
          + file)
    write("untar", "sparse", header + pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__name=b"main/sparse",
                                          GNU__sparse__realsize=b"1048576") + member(b"0", b"x", b"1\n4096\n5\n".ljust(512, b"\0") + b"hello"))
    write("untar", "sparse-old", header + pax(GNU__sparse__size=b"100", GNU__sparse__numblocks=b"2", GNU__sparse__map=b"0,2,50,3") + member(b"0", b"main/s", b"hello"))
    write("untar", "gnu-names", header + member(b"L", b"././@LongLink", b"main/" + b"n" * 200 + b"\0", how=0x40) + member(b"0", b"x", b"1", how=0x40))
    write("untar", "prefix", header + member(b"0", b"a", b"1", how=0x80, prefix=b"main/srv"))
    for i, size in enumerate([(1, 9), (1, 2), (2, 9), (0x42, 0xffffffff), (0x7e, 0xffffffff)]):
        write("untar", "size-%d" % i, header + member(b"0", b"main/a", b"hello", how=size[0], other=size[1]) + file)
    for i, name in enumerate([b"/etc/passwd", b"../x", b"main/../../x", b"main//x", b".", b"", b"main/" + b"n" * 90, b"main/\xff\n"]):
        write("untar", "name-%d" % i, header + member(b"0", name, b"1") + member(b"1", b"main/h", target=name))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.tar")
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as t:
            t.addfile(tarfile.TarInfo("main/f"))
        with open(path, "rb") as f:
            plain = f.read(2048)
    write("untar", "raw", b"\1\0" + plain)
    write("untar", "raw-zstd", b"\1\0" + subprocess.run(["zstd", "-c"], input=plain, stdout=subprocess.PIPE, check=True).stdout)
    write("untar", "raw-zip", b"\1\0PK\3\4" + bytes(60))


# ---- the repository ----

CONFIG = ('{"format":1,"compat":[],"ro_compat":[],"incompat":[],"host":"%HOST%","id_alg":"hmac-sha256","aead_alg":"aes-256-gcm",'
          '"recipients":[{"id":"0011223344556677","public":"' + "ab" * 32 + '","label":"first"}]}')
RECORD = ('{"backup_id":"%s","status":"completed","bytes":12,"services":["a"],"session":"%s","base":"%s",'
          '"manifest":{"roots":["%s"],"level":6,"blocks":1,"entries":2,"bytes":5,"checksum":"%s"}}' % (BACKUP, RESTORE, RESTORE, "cd" * 32, "ef" * 32))


def objects():
    write("config", "valid", b"\0" + CONFIG.encode())
    write("config", "newer", b"\0" + CONFIG.replace('"incompat":[]', '"incompat":["x"]').encode())
    write("config", "read-only", b"\0" + CONFIG.replace('"ro_compat":[]', '"ro_compat":["x"]').encode())
    write("config", "recipients", b"\0" + CONFIG.replace("]}", ",{},null]}").encode())
    write("config", "version", b"\2" + piece(bytes(8) + b"\3") + CONFIG.encode())
    write("config", "raw", b"\1HOLDPNT1" + bytes(100))
    boxes = b'{"boxes":[{"recipient":"0011","box":"00"},{"recipient":"0011223344556677","box":"%BOX%"}],"created_at":"2024-01-01T00:00:00Z"}'
    for kind, name in enumerate(["host", "session"]):
        write("object", name, bytes([kind, 0]) + boxes)
        write("object", name + "-none", bytes([kind, 0]) + b'{"boxes":[]}')
    write("object", "record", b"\2\4" + RECORD.encode())
    write("object", "record-length", b"\2\2" + piece(bytes(44) + b"\1") + RECORD.encode())
    write("object", "pin", b'\3\0{"created_at":"2024-01-01T00:00:00Z"}')
    write("object", "raw", b"\2\5HOLDPNT1" + bytes(72))
    for place in (0, 8 * 8, 8 * 13, 8 * 30, 8 * 45, 8 * 60, 8 * 200, 8 * 700):
        write("object", "turned-%d" % place, b"\2\x08" + struct.pack("<I", place) + RECORD.encode())
        write("object", "turned-pin-%d" % place, b"\3\x08" + struct.pack("<I", place) + b'{"created_at":"2024-01-01T00:00:00Z"}')
    write("object", "short", b"\2\1HOLD")


PRIVATE = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VuBCIEIHcHbQpzGKV9PBbBclGyZkXfTC+H68CZKrF3+6UduSwq
-----END PRIVATE KEY-----
"""
PUBLIC = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VuAyEAhSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=
-----END PUBLIC KEY-----
"""


def keys():
    write("keyfile", "host", "\0" + "0123456789abcdef" * 4 + "\n")
    write("keyfile", "private", "\1" + PRIVATE)
    write("keyfile", "public", "\2" + PUBLIC)
    write("keyfile", "given-private", "\3" + PRIVATE)
    write("keyfile", "given-public", "\4" + PUBLIC)
    write("keyfile", "given-encrypted", "\3" + PRIVATE.replace("PRIVATE", "ENCRYPTED PRIVATE"))


def packs():
    def record(kind, flags, stored, content, plain=0, members=()):
        return (bytes([kind, flags, stored]) + struct.pack("<I", plain) + piece(b"".join(struct.pack("<H", m) for m in members))
                + piece(content))

    meta = record(5, 1, 0, b"\1block") + record(6, 1, 0, b"\1root") + record(4, 1, 0, b"list")
    content = record(1, 1, 0, b"large") + record(2, 1, 0, b"small") + record(7, 3, 0, b"abcdef", members=(1, 2, 3)) + record(3, 0, 0, b"leaf")
    zstd = bytes.fromhex("28b52ffd20040d0000") + b""
    frame = bytes.fromhex("28b52ffd0004210000") + b"abcd"
    write("pack", "meta", b"\0" + meta)
    write("pack", "content", b"\2" + content)
    write("pack", "zstd", b"\2" + record(1, 1, 1, frame, plain=4) + record(1, 1, 1, zstd, plain=99))
    for place in (0, 8 * 9, 8 * 30, 8 * 50, 8 * 66, 8 * 90, 8 * 150, 8 * 300, 8 * 400, 8 * 500, 8 * 520):
        write("pack", "turned-%d" % place, b"\x80" + struct.pack("<I", place) + meta)
        write("pack", "turned-content-%d" % place, b"\x82" + struct.pack("<I", place + 1) + content)
    for i, members in enumerate([(1, 2, 4), (1, 2), (0, 6), (65535, 6), ()]):
        write("pack", "members-%d" % i, b"\2" + record(7, 3, 0, b"abcdef", members=members))
    for i, (kind, flags) in enumerate([(7, 1), (1, 3), (8, 1), (0, 1), (4, 1), (1, 5)]):
        write("pack", "class-%d" % i, b"\2" + record(kind, flags, 0, b"abcdef", members=(6,)))
    write("pack", "plain", b"\0" + record(5, 1, 0, b"block", plain=99) + record(5, 1, 2, b"flag"))
    write("pack", "empty", b"\0")
    write("pack", "header", b"\x08" + piece(bytes(10) + b"\1") + meta)
    write("pack", "footer", b"\x10" + piece(bytes(12) + b"\1") + meta)
    write("pack", "table", b"\x20" + piece(b"\1") + meta)
    write("pack", "stored", b"\x44" + struct.pack("<I", 66) + piece(b"\1" + frame) + piece(b"") + b"\1" + bytes(20))
    directory = bytes([5, 1]) + struct.pack("<IQI", 3, 64, 20) + bytes(48)
    write("pack", "directory", b"\x04" + piece(directory) + b"\1" + bytes(20))
    write("pack", "raw", b"\1HOLDPPK1" + bytes(200) + b"HOLDPFT1" + bytes(72) + b"HOLDPEND")


def manifests():
    def root(blocks):
        return b"\1" + b"".join(id_of(k) + b"SZ#" + bytes([k]) + struct.pack("<I", n) + s + b"\0" + d + b"\0" + name + b"\0"
                                for k, n, s, d, name in blocks)

    def directory(service, path):
        return b"\1" + service + b"\0" + path + b"\0"

    chunk, listed = b"hello", id_of(0)
    small = entry("f", b"b", content=(5, 2, b"\0" + data_run([id_of(0)])))
    one = b"\1" + directory(b"main", b"/srv") + b"\2" + entry("d", b"app") + directory(b"main", b"/srv/app") + b"\2" + small
    large = entry("f", b"big", content=(2 << 20, 1, b"\1" + id_of(2)))
    two = b"\1" + directory(b"main", b"/srv/app/b") + b"\2" + large + b"".join(b"\2" + k for k in KINDS[1:5])
    records = (b"\1" + piece(chunk) + b"\4" + piece(one) + b"\3" + piece(varint(1 << 2 | 1) + data_run([listed]))
               + b"\4" + piece(two.replace(b"\2l", b"\2l")))
    both = root([(1, 2, b"main", b"/srv", b"app"), (3, 5, b"main", b"/srv/app/b", b"big")])
    write("manifest", "one", b"\1" + piece(chunk) + b"\4" + piece(one) + b"\5" + piece(root([(1, 2, b"main", b"/srv", b"app")])))
    write("manifest", "two", records + b"\5" + piece(both))
    write("manifest", "two-roots", records + b"\5" + piece(root([(1, 2, b"main", b"/srv", b"app")]))
          + b"\5" + piece(root([(3, 5, b"main", b"/srv/app/b", b"big")])))
    write("manifest", "swapped", records + b"\5" + piece(root([(3, 5, b"main", b"/srv/app/b", b"big"), (1, 2, b"main", b"/srv", b"app")])))
    write("manifest", "empty", b"\5" + piece(b"\1"))
    write("manifest", "none", b"")


# ---- databases ----

def database(folder, statements, keep=False, wal=False):
    """Bytes of a database and of its side file, which a connection that is left open keeps."""
    path = os.path.join(folder, "x.db")
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA page_size=512")
    if wal:
        db.execute("PRAGMA journal_mode=WAL")
    for s in statements:
        db.execute(s)
    parts = []
    for ending in ("", "-journal", "-wal"):
        try:
            with open(path + ending, "rb") as f:
                parts.append(f.read())
        except FileNotFoundError:
            parts.append(b"")
    db.close()
    return parts


def vfs():
    def write_one(name, how, parts, super_name=b"", content=b""):
        write("vfs", name, bytes([how]) + b"".join(piece(p) for p in parts) + piece(super_name) + piece(content))

    tables = ["CREATE TABLE t (a, b)", "CREATE INDEX i ON t (a)", "INSERT INTO t VALUES (1, 'x'), (2, hex(zeroblob(200)))", "PRAGMA user_version=3"]
    cold = "PRAGMA cache_size=1"
    open_write = tables + [cold, "PRAGMA cache_spill=1", "BEGIN IMMEDIATE", "UPDATE t SET b = hex(zeroblob(300))",
                           "INSERT INTO t SELECT a + 10, hex(zeroblob(400)) FROM t"]
    with tempfile.TemporaryDirectory() as folder:
        plain = database(folder, tables)
        logged = database(folder, tables, wal=True)
        hot = database(folder, open_write)
    journal = hot[1]
    write_one("plain", 4, plain)
    write_one("empty", 4, [b"", b"", b""])
    write_one("log", 6, logged)
    write_one("log-of-plain", 6, [plain[0], b"", logged[2]])
    write_one("check-alone", 8, logged)
    write_one("hot", 4, [hot[0], journal, b""])
    write_one("hot-and-log", 6, [logged[0], journal, logged[2]])
    live = b"%TOP%/outside/"
    for name, super_name in (("live", live + b"super"), ("gone", live + b"no-super"), ("outside", b"%TOP%/elsewhere/bait"),
                             ("relative", b"bait"), ("dots", live + b"../outside/bait"), ("self", live + b"app.db"),
                             ("other", live + b"other.db"), ("top", live[:-1]), ("empty", b""), ("proc", b"/proc/self/cwd/bait")):
        write_one("super-" + name, 5, [hot[0], journal, b""], super_name, b"/srv/app/app.db-journal\0%TOP%/outside/bait\0")


def index():
    schema = ["CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
              "CREATE TABLE packs (no INTEGER PRIMARY KEY AUTOINCREMENT, uuid BLOB NOT NULL UNIQUE, session BLOB NOT NULL,"
              " kind INTEGER NOT NULL, size INTEGER NOT NULL, durable INTEGER NOT NULL)",
              "CREATE TABLE chunks (id BLOB PRIMARY KEY, pack_no INTEGER NOT NULL, ordinal INTEGER NOT NULL, offset INTEGER NOT NULL,"
              " stored INTEGER NOT NULL, plain INTEGER NOT NULL, class INTEGER NOT NULL, extra INTEGER NOT NULL, member_offset INTEGER,"
              " member_size INTEGER) WITHOUT ROWID",
              "CREATE TABLE extras (pack_no INTEGER NOT NULL, ordinal INTEGER NOT NULL, id BLOB NOT NULL, class INTEGER NOT NULL,"
              " session BLOB NOT NULL, pack BLOB NOT NULL, origin INTEGER NOT NULL, PRIMARY KEY (pack_no, ordinal)) WITHOUT ROWID",
              "CREATE TABLE bases (backup BLOB PRIMARY KEY) WITHOUT ROWID",
              "INSERT INTO meta VALUES ('repository', x'%s')" % ("09" * 3 + "00" * 13),
              "INSERT INTO packs VALUES (1, x'%s', x'%s', 2, 1000, 1)" % ("11" * 16, "22" * 16),
              "INSERT INTO chunks VALUES (x'%s', 1, 0, 64, 100, 50, 5, 1, NULL, NULL)" % ("07" + "00" * 31),
              "INSERT INTO extras VALUES (1, 0, x'%s', 7, x'%s', x'%s', 0)" % ("07" + "00" * 31, "22" * 16, "33" * 16),
              "INSERT INTO bases VALUES (x'%s')" % ("44" * 16),
              "PRAGMA user_version=1"]
    with tempfile.TemporaryDirectory() as folder:
        whole = database(folder, schema)
        logged = database(folder, schema, wal=True)
    write("index", "whole", piece(whole[0]) + piece(b""))
    write("index", "log", piece(logged[0]) + piece(logged[2]))
    write("index", "no-database", piece(b"not a database at all" * 30))
    write("index", "newer", piece(whole[0][:60] + b"\0\0\0\x63" + whole[0][64:]))
    write("index", "none", b"")


# ---- paths ----

def paths():
    for i, (a, b) in enumerate([(b"/srv/app/a", b"/srv/app"), (b"/srv/../etc", b"/"), (b"a\\x41\\x00", b""), (b"\xff\xfe\\\x01\xc2\x85", b"/"),
                                (b"../x", b"/a-b"), (b"/a/b", b"/a-b"), (b"main_service", BACKUP.encode()), (b"x" * 600, b"/")]):
        write("paths", "text-%d" % i, b"\0" + piece(a) + piece(b))
    kinds = {"d": 0, "f": 1, "l": 2, "p": 3, "c": 4, "b": 5, "h": 6}

    def one(kind, path, target=b"", how=0, rest=b""):
        return bytes([how, kinds[kind]]) + struct.pack("<H", 0o755) + piece(path) + piece(target) + rest

    def tree(name, *many):
        write("paths", "tree-" + name, b"\1" + b"".join(many))

    root = one("d", b"")
    tree("plain", root, one("d", b"a"), one("f", b"a/f", how=8, rest=struct.pack("<HB", 7, 0)), one("l", b"l", b"a/f"), one("h", b"h", b"a/f"),
         one("p", b"p"), one("c", b"c", how=16, rest=b"\1\3"))
    tree("through-link", root, one("l", b"out", b"../../outside"), one("f", b"out/marker"), one("f", b"out/new"), one("d", b"out/d"))
    tree("absolute-link", root, one("l", b"out", b"/mnt/paths/outside"), one("f", b"out/new", how=1), one("h", b"h", b"out/marker"))
    tree("dots", root, one("f", b"../outside/new"), one("f", b"a/../../x"), one("f", b"./x"), one("f", b"/x"), one("f", b"a//b"), one("h", b"y", b"../outside/marker"))
    tree("root-link", one("l", b"", b"../outside"), one("f", b"marker"), one("f", b"new", how=1))
    tree("parents", one("f", b"a/b/c", how=1), one("f", b"a/b/d"), one("f", b"a/b"), one("d", b"a"), one("f", b"a/b/c/x", how=1))
    tree("flags", root, one("d", b"i", how=4, rest=struct.pack("<I", 0x30)), one("f", b"i/f", how=4, rest=struct.pack("<I", 0x10)), one("h", b"i/h", b"i/f"))
    tree("attributes", one("d", b"", how=2 | 32, rest=struct.pack("<IIII", 33, 33, 1700000000, 5) + piece(b"user.a") + piece(b"v")
                           + piece(b"system.posix_acl_default") + piece(b"\2\0\0\0") + piece(b"")), one("f", b"f", how=1))


# ---- LVM ----

LVM_ROW = {"vg_name": "vg-a", "vg_uuid": "sWJwWO-B2bg-j18U-WQDQ-36Z0-6nyF-iVsvCA", "vg_free": "1505755136",
           "vg_extent_size": "4194304", "vg_missing_pv_count": "0", "lv_name": "l-1",
           "lv_uuid": "VkC7hz-u6kZ-ISkz-Kmdv-6fd0-nod5-1sBDFY", "lv_size": "209715200", "lv_layout": "linear",
           "lv_role": "public", "origin_uuid": "", "pool_lv": "", "data_percent": "", "metadata_percent": "",
           "lv_tags": "", "lv_snapshot_invalid": "unknown", "lv_attr": "-wi-ao----", "lv_health_status": ""}


def lvm_report():
    def text(*rows):
        lines = ",\n".join("                {%s}" % ", ".join('"%s":"%s"' % pair for pair in row.items())
                           for row in rows)
        return ('  {\n      "report": [\n          {\n              "lv": [\n%s\n              ]\n'
                "          }\n      ]\n  }\n" % lines)

    thin = dict(LVM_ROW, lv_name="thin1", lv_uuid="V49SO6-m5f0-TDK9-Bn7J-Jqgs-6208-DdM7Tj", lv_layout="thin,sparse",
                pool_lv="pool", data_percent="2.44", lv_attr="Vwi-aotz--")
    pool = dict(LVM_ROW, lv_name="pool", lv_uuid="R4akY7-SomS-cvnE-50u5-Id60-2Qbp-yS8Mr0", lv_layout="thin,pool",
                lv_role="private", data_percent="80.01", metadata_percent="10.94", lv_health_status="out_of_data")
    snapshot = dict(LVM_ROW, lv_name="s", origin_uuid=LVM_ROW["lv_uuid"], lv_role="public,snapshot,thicksnapshot",
                    lv_tags="holdpoint,holdpoint." + BACKUP, lv_snapshot_invalid="snapshot invalid")
    write("lvm-report", "none", text())
    write("lvm-report", "warned", "WARNING: a device is odd\n" + text(LVM_ROW))
    write("lvm-report", "all", text(LVM_ROW, thin, pool, snapshot))
    write("lvm-report", "hidden", text(dict(LVM_ROW, lv_name="[pool_tdata]")))
    write("lvm-report", "hostile", text(dict(LVM_ROW, lv_name="a b; rm")))


def main():
    for make in (lvm_report, ini, proto, agent, helper, entries, base_state, objects, keys, packs, manifests, vfs, index, paths, defaults, untar):
        make()


if __name__ == "__main__":
    main()
