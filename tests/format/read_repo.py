#!/usr/bin/python3
"""An independent reader of a repository, written from docs/REPO-FORMAT.md alone.

  read_repo.py [--crc] [--passphrase-file FILE] REPOSITORY PRIVATE_KEY BACKUP_ID OUTPUT

restores everything that the backup holds below OUTPUT/SERVICE/ABSOLUTE/PATH: names, content, modes, owners,
times, extended attributes, links, devices, holes, inode flags. It needs nothing of the program that wrote
the repository. It checks every MAC and id it passes, and refuses what the format does not allow. --crc
also checks the CRCs of all packs (slow in Python).
"""

import argparse
import errno
import fcntl
import hashlib
import hmac
import json
import os
import stat
import struct
import sys

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

LARGE, SMALL, SQLITE, LIST, BLOCK, ROOT, BUNDLE = range(1, 8)
UNIT = {LARGE: 1 << 20, SQLITE: 64 << 10}
CONFIG, HOST, SESSION, RECORD = 1, 2, 3, 4
FS_IOC_SETFLAGS = 0x40086602
FS_NOCOW_FL = 0x00800000


class Damaged(Exception):
    """The repository is not what the format allows."""


def check(condition, what):
    if not condition:
        raise Damaged(what)


def uuid_text(raw):
    h = raw.hex()
    return "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))


def uuid_bytes(text):
    return bytes.fromhex(text.replace("-", ""))


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def hkdf(key, salt, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt or None, info=info).derive(key)


def open_sealed(key, nonce, sealed, aad, what):
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise Damaged(what + ": cannot be opened") from None


def expand(flag, data, limit, what):
    if flag == 0:
        return data
    check(flag == 1, what + ": unknown compression")
    try:
        size = zstandard.frame_content_size(data)
        check(size <= limit, what + ": too large")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise Damaged("%s: %s" % (what, error)) from None


def crc32c_table_entry(i):
    for _ in range(8):
        i = (i >> 1) ^ (0x82F63B78 if i & 1 else 0)
    return i


CRC32C = [crc32c_table_entry(i) for i in range(256)]


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Cursor:
    """Reads fields from bytes; going past the end is damage."""

    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def more(self):
        return self.at < len(self.data)

    def take(self, n):
        check(self.at + n <= len(self.data), self.what + ": ends too early")
        self.at += n
        return self.data[self.at - n:self.at]

    def unpack(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def string(self):
        end = self.data.find(b"\0", self.at)
        check(end >= 0, self.what + ": string without end")
        text = self.data[self.at:end]
        self.at = end + 1
        return text

    def varint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                check(byte or not shift, self.what + ": number not in its shortest form")
                check(value < 1 << 64, self.what + ": number too large")
                return value
            shift += 7
            check(shift < 70, self.what + ": number too long")

    def zigzag(self):
        value = self.varint()
        return (value >> 1) ^ -(value & 1)


class Pack:
    """The directory of one pack, and what is needed to open its records."""

    def __init__(self, repository, path, with_crc):
        self.path, self.name = path, os.path.basename(path)
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            check(64 + 88 <= size <= 4 << 30, self.name + ": size")
            header = f.read(64)
            footer = os.pread(f.fileno(), 88, size - 88)
        magic, version, kind, repo, self.uuid, self.session, zero = struct.unpack("<8sHH16s16s16sI", header)
        check((magic, version, repo, zero) == (b"HOLDPPK1", 1, repository.uuid, 0), self.name + ": header")
        check(kind in (1, 2) and self.name == uuid_text(self.uuid) + ".pack", self.name + ": header")
        self.kind = kind
        self._read_footer(repository, header, footer, size)
        if with_crc:
            self._check_crcs(header)

    def _read_footer(self, repository, header, footer, size):
        fields = struct.unpack("<8sHHIQIIQII32s8s", footer)
        (magic, version, kind, self.n, self.directory_at, stored, plain, self.crc_at, crc_length, zero, tag, end) = fields
        check((magic, version, kind, zero, end) == (b"HOLDPFT1", 1, self.kind, 0, b"HOLDPEND"), self.name + ": footer")
        check(self.crc_at == self.directory_at + stored and crc_length == 4 * (self.n + 2), self.name + ": footer")
        check(self.crc_at + crc_length == size - 88 and plain <= 16 << 20, self.name + ": footer")
        with open(self.path, "rb") as f:
            self.sealed_directory = os.pread(f.fileno(), stored, self.directory_at)
            self.crcs = os.pread(f.fileno(), crc_length, self.crc_at)
        expected = mac(repository.k_mac, header + self.sealed_directory + self.crcs + footer[:48])
        check(hmac.compare_digest(expected, tag), self.name + ": MAC of the footer")
        key = hkdf(repository.k_meta, self.uuid, b"holdpoint-1 directory")
        flag = self.sealed_directory[:1]
        data = open_sealed(key, struct.pack("<IQ", 0xFFFFFFFF, 0), self.sealed_directory[1:], header + flag,
                           self.name + ": directory")
        data = expand(flag[0], data, 16 << 20, self.name + ": directory")
        check(len(data) == plain, self.name + ": length of the directory")
        self._read_directory(data)

    def _read_directory(self, data):
        cursor, at, self.records = Cursor(data, self.name + ": directory"), 64, []
        for ordinal in range(self.n):
            cls, flags, plain, offset, stored, ident, sealed_hash = cursor.unpack("<BBIQI32s16s")
            allowed = (LARGE, SMALL, SQLITE, BUNDLE) if self.kind == 1 else (LIST, BLOCK, ROOT)
            check(cls in allowed and flags & ~3 == 0 and offset == at and stored >= 17, self.name + ": entry")
            check(bool(flags & 2) == (cls == BUNDLE) and plain <= 4 << 20, self.name + ": entry")
            origin = (self.session, self.uuid, ordinal) if flags & 1 else cursor.unpack("<16s16sI")
            members, end = [], 0
            if flags & 2:
                count, = cursor.unpack("<H")
                check(1 <= count <= 4096, self.name + ": members")
                for _ in range(count):
                    member, start, length = cursor.unpack("<32sII")
                    check(start == end, self.name + ": gap between members")
                    end = start + length
                    members.append((member, start, length))
                check(end == plain, self.name + ": members")
            self.records.append((cls, plain, offset, stored, ident, sealed_hash, origin, members))
            at += stored
        check(not cursor.more() and at == self.directory_at, self.name + ": directory")

    def _check_crcs(self, header):
        wanted = struct.unpack("<%dI" % (self.n + 2), self.crcs)
        with open(self.path, "rb") as f:
            found = [crc32c(os.pread(f.fileno(), r[3], r[2])) for r in self.records]
        found += [crc32c(header), crc32c(self.sealed_directory)]
        check(list(wanted) == found, self.name + ": CRC")


class Repository:
    def __init__(self, path, private_key, with_crc=False):
        self.path = path
        self.private = private_key
        self.public = private_key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.recipient = hashlib.sha256(self.public).hexdigest()[:16]
        self._open_host()
        self.sessions, self.index, self.cached = {}, {}, (None, None)
        for folder in sorted(os.listdir(os.path.join(path, "packs"))):
            for name in sorted(os.listdir(os.path.join(path, "packs", folder))):
                if not name.startswith(".tmp-"):
                    check(name[:2] == folder, name + ": in the wrong directory")
                    self._add_pack(Pack(self, os.path.join(path, "packs", folder, name), with_crc))

    # --- small objects --------------------------------------------------------------------------------

    def _read_object(self, relative, kind, object_uuid=None):
        """Returns (header, payload, mac) of a small object after all checks but that of the MAC."""
        with open(os.path.join(self.path, relative), "rb") as f:
            data = f.read((16 << 20) + 81)
        check(len(data) >= 80, relative + ": too short")
        magic, version, found, repo, uuid, n = struct.unpack("<8sHH16s16sI", data[:48])
        check((magic, version, found) == (b"HOLDPNT1", 1, kind), relative + ": header")
        check(len(data) == 48 + n + 32 and n <= 16 << 20, relative + ": length")
        if kind == CONFIG:
            self.uuid, object_uuid = repo, repo
        check(repo == self.uuid and uuid == object_uuid, relative + ": uuid")
        return data[:48], data[48:48 + n], data

    def _check_mac(self, data, what):
        check(hmac.compare_digest(mac(self.k_mac, data[:-32]), data[-32:]), what + ": MAC")

    def _open_box(self, payload, label, object_uuid, what):
        boxes = [b["box"] for b in json.loads(payload)["boxes"] if b["recipient"] == self.recipient]
        check(boxes, what + ": not sealed to this key")
        box = bytes.fromhex(boxes[0])
        check(len(box) == 80, what + ": box")
        shared = self.private.exchange(X25519PublicKey.from_public_bytes(box[:32]))
        key = hkdf(shared, box[:32] + self.public, label + self.uuid + object_uuid)
        return open_sealed(key, bytes(12), box[32:], None, what)

    def _open_host(self):
        _, config, whole_config = self._read_object("config", CONFIG)
        settings = json.loads(config)
        check(settings["format"] == 1 and not settings["incompat"], "config: made by a later version")
        check((settings["id_alg"], settings["aead_alg"]) == ("hmac-sha256", "aes-256-gcm"), "config: algorithms")
        host = uuid_bytes(settings["host"])
        what = "hosts/" + settings["host"]
        _, payload, whole_host = self._read_object(what, HOST, host)
        secret = self._open_box(payload, b"holdpoint-1 seal host", host, what)
        self.k_id, self.k_meta, self.k_mac = (hkdf(secret, b"", b"holdpoint-1 " + x) for x in (b"id", b"meta", b"mac"))
        self._check_mac(whole_config, "config")
        self._check_mac(whole_host, what)

    def _session_key(self, session):
        if session not in self.sessions:
            what = "sessions/" + uuid_text(session)
            _, payload, whole = self._read_object(what, SESSION, session)
            self._check_mac(whole, what)
            self.sessions[session] = self._open_box(payload, b"holdpoint-1 seal session", session, what)
        return self.sessions[session]

    def record(self, backup_id):
        what, uuid = "backups/" + backup_id, uuid_bytes(backup_id)
        header, payload, whole = self._read_object(what, RECORD, uuid)
        self._check_mac(whole, what)
        key = hkdf(self.k_meta, uuid, b"holdpoint-1 record")
        return json.loads(open_sealed(key, payload[:12], payload[12:], header, what))

    # --- records of packs -----------------------------------------------------------------------------

    def _add_pack(self, pack):
        for record in pack.records:
            self.index.setdefault(record[4], (pack, record, None))
            for member, start, length in record[7]:
                self.index.setdefault(member, (pack, record, (start, length)))

    def _open_record(self, pack, record):
        cls, plain, offset, stored, ident, sealed_hash, origin, members = record
        what = "%s, record at %d" % (pack.name, offset)
        with open(pack.path, "rb") as f:
            data = os.pread(f.fileno(), stored, offset)
        check(len(data) == stored and mac(self.k_mac, data)[:16] == sealed_hash, what + ": hash")
        session, uuid, ordinal = origin
        key = hkdf(self._session_key(session) if pack.kind == 1 else self.k_meta, uuid, b"holdpoint-1 pack")
        aad = struct.pack("<H16s16s16sIBB32s", 1, self.uuid, session, uuid, ordinal, cls, data[0], ident)
        content = open_sealed(key, struct.pack("<IQ", ordinal, 0), data[1:], aad, what)
        content = expand(data[0], content, 4 << 20, what)
        check(len(content) == plain, what + ": length")
        if cls == BUNDLE:
            check(mac(self.k_id, bytes([BUNDLE]) + b"".join(m[0] for m in members)) == ident, what + ": id")
        return content

    def fetch(self, ident, cls):
        check(ident in self.index, "no pack holds %s" % ident.hex())
        pack, record, member = self.index[ident]
        place = (pack.name, record[2])
        if self.cached[0] != place:  # the members of a bundle are wanted one after the other
            self.cached = (place, self._open_record(pack, record))
        content = self.cached[1]
        if member:
            content = content[member[0]:member[0] + member[1]]
        check(mac(self.k_id, bytes([cls]) + content) == ident, "%s: content is not its id's" % pack.name)
        return content

    # --- manifest -------------------------------------------------------------------------------------

    def blocks(self, record):
        digest, count = hashlib.sha256(), 0
        for root in record["manifest"]["roots"]:
            part = self.fetch(bytes.fromhex(root), ROOT)
            check(len(part) <= 1 << 20, "root part too large")
            cursor = Cursor(part, "root")
            check(cursor.take(1) == b"\1", "root: version")
            while cursor.more():
                ident, size, entries = cursor.unpack("<32sII")
                first = (cursor.string(), cursor.string(), cursor.string())
                digest.update(ident)
                count += 1
                yield ident, size, entries, first
        check(digest.hexdigest() == record["manifest"]["checksum"], "checksum of the manifest")
        check(count == record["manifest"]["blocks"], "number of blocks")

    def entries(self, record):
        """All entries, as (service, dir, entry dictionary), in their order, which is checked."""
        last, total = None, 0
        for ident, size, wanted, first in self.blocks(record):
            data = self.fetch(ident, BLOCK)
            check(len(data) == size <= 4 << 20, "size of a block")
            for n, (service, folder, entry) in enumerate(read_block(data)):
                if n == 0:
                    check((service, folder, entry["name"]) == first, "first key of a block")
                key = (service, [p for p in folder.split(b"/") if p], entry["name"])
                check(last is None or last < key, "order of the entries at %r" % (key,))
                last = key
                total += 1
                wanted -= 1
                yield service, folder, entry
            check(wanted == 0, "number of entries in a block")
        check(total == record["manifest"]["entries"], "number of entries")

    def content(self, entry):
        """(offset, bytes) of all that was allocated in the source; what is not returned is a hole."""
        size, cls = entry["size"], entry["class"]
        unit = UNIT.get(cls, size)
        check(cls in (LARGE, SMALL, SQLITE) and (cls != SMALL or size <= 64 << 10), "class of %r" % entry["name"])
        cursor = Cursor(entry["chunks"], "chunk list")
        kind = cursor.take(1)[0]
        if kind == 1:
            runs = b"".join(self.fetch(cursor.take(32), LIST) for _ in range((len(cursor.data) - 1) // 32))
            check(not cursor.more(), "indirect chunk list")
            cursor = Cursor(runs, "chunk list")
        check(kind in (0, 1), "kind of chunk list")
        at = 0
        while cursor.more():
            head = cursor.varint()
            n, run = head >> 2, head & 3
            check(n >= 1 and run <= 2 and at < size, "run of a chunk list")
            if run == 1:
                at += n * unit
                continue
            for _ in range(n):
                data = bytes(max(0, min(unit, size - at))) if run == 2 else self.fetch(cursor.take(32), cls)
                check(len(data) == min(unit, size - at), "length of a chunk of %r" % entry["name"])
                yield at, data
                at += unit
        check(at >= size > at - unit, "chunk list of %r" % entry["name"])


def read_block(data):
    cursor = Cursor(data, "block")
    check(cursor.take(1) == b"\1", "block: version")
    service = folder = None
    pending = False
    while cursor.more():
        item = cursor.take(1)[0]
        if item == 1:
            check(not pending, "block: directory without entry")
            service, folder, pending = cursor.string(), cursor.string(), True
            parts = folder.split(b"/")
            check(folder == b"/" or (parts[0] == b"" and not {b"", b".", b".."} & set(parts[1:])), "block: directory")
        else:
            check(item == 2 and service is not None, "block: item")
            yield service, folder, read_entry(cursor)
            pending = False
    check(not pending, "block: directory without entry")


ALLOWED = {"d": 3, "f": 51, "l": 11, "p": 3, "c": 7, "b": 7, "h": 8}
ALWAYS = {"l": 8, "c": 4, "b": 4, "h": 8}


def read_entry(cursor):
    kind = chr(cursor.take(1)[0])
    check(kind in ALLOWED, "entry: type")
    fields = cursor.varint()
    check(fields & ~ALLOWED[kind] == 0 and fields & ALWAYS.get(kind, 0) == ALWAYS.get(kind, 0), "entry: fields")
    e = {"type": kind, "name": cursor.string(), "size": 0, "flags": 0, "xattrs": []}
    check(1 <= len(e["name"]) <= 255 and b"/" not in e["name"] and e["name"] not in (b".", b".."), "entry: name")
    if kind != "h":
        e["mode"], e["uid"], e["gid"], seconds = cursor.varint(), cursor.varint(), cursor.varint(), cursor.zigzag()
        nanoseconds, = cursor.unpack("<I")
        check(e["mode"] <= 0o7777 and nanoseconds < 10**9, "entry: mode or time")
        e["mtime"] = seconds * 10**9 + nanoseconds
    if fields & 1:
        e["flags"] = cursor.varint()
    if fields & 2:
        for _ in range(cursor.varint()):
            name = cursor.string()
            e["xattrs"].append((name, cursor.take(cursor.varint())))
    if fields & 4:
        e["device"] = (cursor.varint(), cursor.varint())
    if fields & 8:
        e["target"] = cursor.string()
    e["sparse"] = bool(fields & 16)
    if fields & 32:
        e["size"], e["class"] = cursor.varint(), cursor.take(1)[0]
        e["chunks"] = cursor.take(cursor.varint())
    return e


# --- making the tree ---------------------------------------------------------------------------------


class Writer:
    """Makes the objects below `output`; times and flags come last, since later objects touch directories."""

    def __init__(self, repository, output):
        self.repository, self.output = repository, os.fsencode(output)
        self.late = []

    def path(self, service, absolute):
        return os.path.join(self.output, service, absolute.lstrip(b"/"))

    def make(self, service, folder, entry):
        parent = self.path(service, folder)
        os.makedirs(parent, exist_ok=True)
        path = os.path.join(parent, entry["name"])
        kind = entry["type"]
        if kind == "h":
            os.link(self.path(service, entry["target"]), path, follow_symlinks=False)
            return
        if kind == "d":
            os.mkdir(path)
        elif kind == "f":
            self._write_file(path, entry)
        elif kind == "l":
            os.symlink(entry["target"], path)
        elif kind == "p":
            os.mkfifo(path)
        else:
            os.mknod(path, stat.S_IFCHR if kind == "c" else stat.S_IFBLK, os.makedev(*entry["device"]))
        self._apply(path, entry)

    def _write_file(self, path, entry):
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            if entry["flags"] & FS_NOCOW_FL:  # only an empty file can get it
                set_flags(fd, FS_NOCOW_FL)
            os.ftruncate(fd, entry["size"])
            if entry["size"]:
                for offset, data in self.repository.content(entry):
                    check(os.pwrite(fd, data, offset) == len(data), "short write")
        finally:
            os.close(fd)

    def _apply(self, path, entry):
        os.lchown(path, entry["uid"], entry["gid"])
        for name, value in entry["xattrs"]:
            os.setxattr(path, name, value, follow_symlinks=False)
        if entry["type"] != "l":
            os.chmod(path, entry["mode"])
        if entry["type"] == "d" or entry["flags"]:
            self.late.append((path, entry))
        else:
            os.utime(path, ns=(entry["mtime"], entry["mtime"]), follow_symlinks=False)

    def finish(self):
        for path, entry in reversed(self.late):
            os.utime(path, ns=(entry["mtime"], entry["mtime"]), follow_symlinks=False)
            if entry["flags"]:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    set_flags(fd, entry["flags"])
                finally:
                    os.close(fd)


def set_flags(fd, flags):
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise


def unwrap_private_key(text, password):
    """A private key under a passphrase."""
    o = json.loads(text)
    check((o["kind"], o["version"], o["kdf"]) == ("holdpoint wrapped private key", 1, "scrypt"), "kind of the key")
    check((o["n"], o["r"], o["p"]) == (1 << 17, 8, 1), "parameters of the key")
    check(password is not None, "the key is wrapped: its passphrase is needed")
    salt, nonce, public, sealed = (bytes.fromhex(o[name]) for name in ("salt", "nonce", "public", "sealed"))
    check([len(b) for b in (salt, nonce, public, sealed)] == [32, 12, 32, 48], "sizes in the key")
    key = Scrypt(salt=salt, length=32, n=o["n"], r=o["r"], p=o["p"]).derive(password)
    raw = open_sealed(key, nonce, sealed, b"holdpoint-1 wrapped key" + public, "wrapped key")
    private = X25519PrivateKey.from_private_bytes(raw)
    check(private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw) == public,
          "public half of the key")
    return private


def load_private_key(path, password=None):
    with open(path, "rb") as f:
        text = f.read()
    if text.startswith(b"{"):
        return unwrap_private_key(text, password)
    return serialization.load_pem_private_key(text, password)


def restore(repository_path, key_path, backup_id, output, with_crc=False, password=None):
    """Restores one backup; returns how many entries it had."""
    repository = Repository(repository_path, load_private_key(key_path, password), with_crc)
    writer, n = Writer(repository, output), 0
    for service, folder, entry in repository.entries(repository.record(backup_id)):
        writer.make(service, folder, entry)
        n += 1
    writer.finish()
    return n


def main():
    parser = argparse.ArgumentParser(description="restore a backup from its repository alone")
    parser.add_argument("--crc", action="store_true", help="check the CRCs of all packs")
    parser.add_argument("--passphrase-file", help="the passphrase of a wrapped key, without its last newline")
    for name in ("repository", "private_key", "backup_id", "output"):
        parser.add_argument(name)
    a = parser.parse_args()
    try:
        password = None
        if a.passphrase_file:
            with open(a.passphrase_file, "rb") as f:
                password = f.read().removesuffix(b"\n")
        n = restore(a.repository, a.private_key, a.backup_id, a.output, a.crc, password)
    except (Damaged, OSError, ValueError, KeyError) as error:
        print("read_repo: %s" % error, file=sys.stderr)
        return 1
    print("%d entries restored below %s" % (n, a.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
