"""The demo's data: the layout of YeePay Admin, an image and video generation platform.

Three services with a few thousand files that look real (PNG images that open in a viewer, JSON workflows,
logs, configuration) and databases of tens of MB: tasks.db in WAL mode, admin.db with a rollback journal,
owned by an ordinary user. The same seed makes the same bytes.
"""

import contextlib
import json
import os
import random
import sqlite3
import struct
import zlib

from stores import Store

ADMIN_UID = 33  # www-data: an ordinary account that every Debian has
MODELS = ("flux-dev", "sdxl-turbo", "wan-video", "hunyuan-video", "qwen-image")
WORDS = ("harbour at dawn", "paper lantern", "red bridge in fog", "old tram", "mountain tea house", "glass tower",
         "market in the rain", "sleeping cat", "robot gardener", "sailing junk", "bamboo forest", "night train")


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rng, width, height):
    """A valid PNG: a gradient with some noise, so that it compresses like a picture."""
    red, green, blue = rng.randrange(256), rng.randrange(256), rng.randrange(256)
    noise = rng.randbytes(width * 3 // 2)
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        line = bytes(v for x in range(width) for v in ((red + x) & 255, (green + y) & 255, (blue + x + y) & 255))
        start = rng.randrange(width)
        line = bytearray(line)
        line[start:start + len(noise)] = noise[:max(0, len(line) - start)]
        rows += line

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) +
            png_chunk(b"IDAT", zlib.compress(bytes(rows), 1)) + png_chunk(b"IEND", b""))


def with_comment(image, text):
    """The same picture with a comment right after its header: another file, the same look."""
    return image[:33] + png_chunk(b"tEXt", b"Comment\0" + text) + image[33:]


NUMBERED = [png(random.Random(n), 64 + n, 64) for n in range(8)]


def numbered_png(n):
    """What the demo's writers write: a picture that is a function of its number, and says it."""
    return with_comment(NUMBERED[n % len(NUMBERED)], b"task %d " % n + random.Random(n).randbytes(1500).hex().encode())


def media(rng, size):
    """Bytes of a video or JPEG: nothing compresses them. They begin as such a file does."""
    return b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + rng.randbytes(size - 24)


def workflow(rng, n):
    """A generation workflow as the editors write it."""
    nodes = [{"id": i, "type": rng.choice(("KSampler", "VAEDecode", "LoadImage", "CLIPTextEncode", "SaveImage")),
              "pos": [rng.randrange(2000), rng.randrange(1200)], "widgets": [rng.random(), rng.choice(WORDS)]}
             for i in range(rng.randrange(6, 40))]
    links = [[i, rng.randrange(len(nodes)), rng.randrange(len(nodes)), "IMAGE"] for i in range(len(nodes))]
    return json.dumps({"name": "workflow %d" % n, "model": rng.choice(MODELS), "nodes": nodes, "links": links},
                      indent=2).encode()


def write(path, data, uid=0, mode=0o644):
    with open(path, "wb") as f:
        f.write(data)
    os.chown(path, uid, uid)
    os.chmod(path, mode)


def directory(path, uid=0):
    os.makedirs(path, exist_ok=True)
    os.chown(path, uid, uid)
    return path


class YeePay:
    """The three services below one directory of a file system. `make_root(*names)` makes a service's root:
    a subvolume where there are any, else a directory."""

    def __init__(self, fs, scale=1.0, seed=20240115):
        self.fs, self.scale, self.rng = fs, scale, random.Random(seed)
        self.top = os.path.join(fs.path, "yeepay")
        self.back, self.admin = os.path.join(self.top, "back"), os.path.join(self.top, "admin", "backend")
        self.system = [os.path.join(self.top, x)
                       for x in ("docker-compose.yml", "docker-compose.prod.yml", "env.production", "nginx")]
        # The writers of the demo: a row names the file that was written for it.
        self.tasks = Store("tasks.db", self.back, 0, "wal", "tasks.db", "outputs", "outputs", "output-%09d.png", numbered_png)
        self.users = Store("admin.db", self.admin, ADMIN_UID, "delete", "admin.db", "uploads", "uploads",
                           "upload-%09d.png", numbered_png)

    def many(self, n):
        return max(3, int(n * self.scale))

    def make(self):
        os.makedirs(self.top)
        self.fs.directory("yeepay", "back")
        os.makedirs(os.path.dirname(self.admin))
        self.fs.directory("yeepay", "admin", "backend")
        os.chown(self.admin, ADMIN_UID, ADMIN_UID)
        self.pictures = [png(self.rng, self.rng.randrange(40, 200), self.rng.randrange(40, 160)) for _ in range(40)]
        self._make_back()
        self._make_admin()
        self._make_system()
        return self

    def picture(self):
        """One of forty pictures with its own comment: different files that share nothing but their look."""
        text = self.rng.choice(WORDS).encode() + b" %d" % self.rng.randrange(1 << 60)
        return with_comment(self.rng.choice(self.pictures), text)

    def _make_back(self):
        rng = self.rng
        for name in ("uploads", "outputs", "workflows", "thumbnails", "config"):
            directory(os.path.join(self.back, name))
        for n in range(self.many(900)):
            write(os.path.join(self.back, "uploads", "photo-%05d.png" % n), self.picture())
        for n in range(self.many(600)):
            write(os.path.join(self.back, "outputs", "image-%05d.png" % n), self.picture())
        for n in range(self.many(12)):
            write(os.path.join(self.back, "outputs", "video-%03d.mp4" % n), media(rng, rng.randrange(1 << 20, 5 << 20)))
        for n in range(self.many(700)):
            write(os.path.join(self.back, "workflows", "workflow-%04d.json" % n), workflow(rng, n))
        for n in range(self.many(1200)):
            write(os.path.join(self.back, "thumbnails", "%05d.png" % n), self.picture()[:rng.randrange(900, 3000)])
        settings = {"listen": "0.0.0.0:8188", "models": list(MODELS), "queue": {"max": 64, "workers": 4}}
        write(os.path.join(self.back, "config", "app.json"), json.dumps(settings, indent=2).encode())
        self.tasks.create()
        with contextlib.closing(sqlite3.connect(self.tasks.database)) as db, db:
            db.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, model TEXT, prompt TEXT, state TEXT, graph BLOB)")
            db.execute("CREATE TABLE favourites (task INTEGER REFERENCES tasks, user INTEGER, PRIMARY KEY (task, user))")
            db.executemany("INSERT INTO tasks VALUES (?, ?, ?, ?, ?)", (
                (n, rng.choice(MODELS), rng.choice(WORDS), rng.choice(("done", "done", "failed")),
                 zlib.compress(workflow(rng, n)) + rng.randbytes(1200)) for n in range(self.many(16000))))
            db.execute("INSERT INTO favourites SELECT id, id % 40 FROM tasks WHERE id % 7 = 0")

    def _make_admin(self):
        rng, uid = self.rng, ADMIN_UID
        for name in ("uploads", "outputs", "config"):
            directory(os.path.join(self.admin, name), uid)
        for n in range(self.many(250)):
            write(os.path.join(self.admin, "uploads", "model-card-%04d.png" % n), self.picture(), uid)
        for n in range(self.many(200)):
            write(os.path.join(self.admin, "outputs", "report-%04d.json" % n), workflow(rng, n), uid)
        write(os.path.join(self.admin, "config", "admin.json"), b'{"session_minutes": 60, "audit": true}\n', uid, 0o640)
        self.users.create()
        with contextlib.closing(sqlite3.connect(self.users.database)) as db, db:
            db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT UNIQUE, password BLOB, role TEXT)")
            db.execute("CREATE TABLE models (id INTEGER PRIMARY KEY, name TEXT, settings TEXT)")
            db.execute("CREATE TABLE audit (id INTEGER PRIMARY KEY, user INTEGER, action TEXT, detail BLOB)")
            db.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", (
                (n, "user%04d" % n, rng.randbytes(32), "admin" if n < 3 else "user") for n in range(self.many(400))))
            db.executemany("INSERT INTO models VALUES (?, ?, ?)", (
                (n, m, json.dumps({"lora": rng.random(), "steps": rng.randrange(4, 50)})) for n, m in enumerate(MODELS)))
            db.executemany("INSERT INTO audit VALUES (?, ?, ?, ?)", (
                (n, n % 400, rng.choice(("login", "edit", "delete")), rng.randbytes(700))
                for n in range(self.many(24000))))
        os.chown(self.users.database, uid, uid)

    def _make_system(self):
        for path in self.system[:2]:
            write(path, b"services:\n  back:\n    image: yeepay/back:2.4\n  admin:\n    image: yeepay/admin:1.9\n")
        write(self.system[2], b"MODE=production\nQUEUE_WORKERS=4\n", 0, 0o600)
        os.makedirs(os.path.join(self.system[3], "sites"))
        write(os.path.join(self.system[3], "nginx.conf"), b"worker_processes auto;\nevents {}\nhttp { include sites/*; }\n")
        write(os.path.join(self.system[3], "sites", "yeepay.conf"), b"server { listen 443 ssl; root /srv/yeepay; }\n")

    def configure(self, machine, **keys):
        """Writes the three services of the shipped profile."""
        machine.write_service("main_service", self.back, Description="generation platform", **keys)
        machine.write_service("admin_service", self.admin, Description="administration", **keys)
        machine.write_service("system_config", self.system, Description="deployment files", **keys)
