/*
 * A tree, in manifest order, while its owner may be changing it.
 *
 * A directory's names are read whole, sorted and looked at; the subdirectories among them wait in
 * one buffer that all levels share like a stack, and are entered one after the other. So the stack
 * of frames is on the heap, and memory is one directory's names plus the waiting names above it.
 *
 * Only the root and the lowest OPEN_FRAMES levels keep their directories open. A closed one is
 * opened again from the nearest open level above it, by names, and must be the inode it was:
 * nothing is ever reached through "..", which a moved directory would lead out of the tree.
 */

#include "archive/arc-tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#include "archive/arc-dir.h"
#include "archive/arc-internal.h"
#include "archive/arc-links.h"
#include "archive/arc-scan.h"
#include "base/fd.h"
#include "base/names.h"
#include "base/text.h"

#define OPEN_FRAMES   24
#define PATH_BYTES    ((size_t) (ARC_DEPTH_MAX + 16) * (ENTRY_NAME_MAX + 1) + PATH_MAX)
#define PENDING_BYTES ((size_t) 1 << 30)

/* What btrfs numbers its roots, and the stub that stands where a snapshot leaves one out. */
#define BTRFS_ROOT_INO 256
#define BTRFS_STUB_INO 2

typedef struct Frame {
        int fd; /* -1: closed for the time being */
        uint64_t ino;
        size_t n_path;           /* how much of ArcTree.dir is this directory's path */
        size_t pending, at, end; /* its waiting subdirectories in ArcTree.pending; the next one */
} Frame;

struct ArcTree {
        const ArcSink *sink;
        const ArcRoot *root;
        uint32_t dev_major, dev_minor; /* of the root, as are the next two */
        uint64_t mount;
        bool btrfs;
        ArcDir *listing;
        ArcScan *scan;
        Buf dir, full; /* NUL-terminated: the directory being read; the object looked at */
        Buf pending;   /* for each waiting subdirectory: inode number, name, NUL */
        Frame *frames;
        size_t n_frames, n_allocated;
        ArcLinks *links;
        ArcMeta *meta;
        Failure *reterr;
};

static int no_memory(ArcTree *t, int r) {
        return fail_errno(t->reterr, FAIL_INTERNAL, -r, "reading '%.200s'", t->root->path);
}

static int set_path(ArcTree *t, Buf *b, const char *dir, size_t n_dir, const char *name) {
        int r;

        buf_clear(b);
        r = buf_put(b, dir, n_dir);
        if (r >= 0 && *name && (n_dir == 0 || dir[n_dir - 1] != '/'))
                r = buf_put_u8(b, '/');
        if (r >= 0)
                r = buf_put(b, name, strlen(name) + 1);
        return r < 0 ? no_memory(t, r) : 0;
}

/* Tells of the object at ArcTree.full. 0, or negative to stop. */
static int report(ArcTree *t, FailCode code, int errnum, const char *what) {
        const char *path = (const char *) t->full.data;
        Failure why = FAILURE_INIT;
        char shown[ARC_SHOWN_MAX];

        (void) fail_set(&why, code, errnum, "'%s' %s", arc_show(path, shown), what);
        return t->sink->problem(t->sink->userdata, t->root->service, path, &why);
}

/* As above, with what the kernel said. */
static int report_errno(ArcTree *t, FailCode code, int errnum, const char *what) {
        const char *path = (const char *) t->full.data;
        Failure why = FAILURE_INIT;
        char shown[ARC_SHOWN_MAX];

        (void) fail_errno(&why, code, errnum, "'%s' %s", arc_show(path, shown), what);
        return t->sink->problem(t->sink->userdata, t->root->service, path, &why);
}

static int check_interrupted(ArcTree *t) {
        if (t->sink->interrupted && t->sink->interrupted(t->sink->userdata))
                return fail_set(t->reterr, FAIL_CANCELED, ECANCELED, "canceled");
        return 0;
}

/* ---- one object ---- */

static bool on_root_mount(const ArcTree *t, const struct statx *stx) {
        return !(stx->stx_mask & STATX_MNT_ID) || t->mount == stx->stx_mnt_id;
}

static bool on_root_device(const ArcTree *t, const struct statx *stx) {
        return t->dev_major == stx->stx_dev_major && t->dev_minor == stx->stx_dev_minor;
}

/* Ours is root's alone (snapshot/area.c); what else has its name is somebody's data. */
static bool is_area(const struct statx *stx) {
        return stx->stx_uid == 0 && stx->stx_gid == 0 && (stx->stx_mode & 07777) == 0700;
}

/*
 * 1 if the object may be read, 0 if it is left out (and was reported, but for our own area),
 * negative to stop. Other devices are told apart for directories alone: some file systems number
 * their files' devices differently.
 */
static int classify(ArcTree *t, const char *name, const struct statx *stx) {
        bool is_dir = S_ISDIR(stx->stx_mode);

        if (is_dir && strcmp(name, HP_AREA_NAME) == 0 && is_area(stx))
                return 0;
        if (S_ISSOCK(stx->stx_mode))
                return report(t, FAIL_NONE, EOPNOTSUPP,
                              "is a socket; only its program can make it again");
        if (!on_root_mount(t, stx))
                return report(t, FAIL_NOT_RESTORABLE, EXDEV,
                              "is a mount, which is not crossed; give it a Path= of its own");
        if (is_dir && t->btrfs &&
            ((stx->stx_ino == BTRFS_ROOT_INO && !on_root_device(t, stx)) ||
             stx->stx_ino == BTRFS_STUB_INO))
                return report(t, FAIL_SNAPSHOT_FAILED, EXDEV,
                              "is a nested subvolume, which the snapshot does not hold; give it a "
                              "Path= of its own");
        if (is_dir && !on_root_device(t, stx))
                return report(t, FAIL_NOT_RESTORABLE, EXDEV, "is on another file system");
        return 1;
}

static int
emit(ArcTree *t, Entry *entry, const struct statx *stx, int fd, const char *dir, const char *name) {
        EntryLocal local;

        entry->service = t->root->service;
        entry->dir = dir;
        entry->name = name;
        arc_local(stx, &local);
        return t->sink->entry(t->sink->userdata, entry, &local, fd, t->reterr);
}

/* A further name of a file needs no reading: what it is stands in the entry of the first. */
static int emit_link(ArcTree *t,
                     const struct statx *stx,
                     const char *target,
                     const char *dir,
                     const char *name) {
        Entry entry = {
                .type = ENTRY_HARDLINK,
                .mode = stx->stx_mode & 07777,
                .uid = stx->stx_uid,
                .gid = stx->stx_gid,
                .mtime_sec = stx->stx_mtime.tv_sec,
                .mtime_nsec = stx->stx_mtime.tv_nsec,
                .target = target,
        };
        int r = emit(t, &entry, stx, -1, dir, name);

        arc_links_met(t->links, stx);
        return r < 0 ? r : 0;
}

/* Reads the open object and hands it out. 1 if it was recorded, 0 if not, negative to stop. */
static int read_open(ArcTree *t, const ArcObject *object, const char *dir, const char *name) {
        Failure why = FAILURE_INIT;
        Entry entry;
        int r;

        r = arc_meta_read(t->meta, object, (const char *) t->full.data, &entry, &why);
        if (r == -ENOMEM)
                return no_memory(t, r);
        if (r < 0)
                return t->sink->problem(t->sink->userdata, t->root->service,
                                        (const char *) t->full.data, &why);
        r = emit(t, &entry, &object->stx, entry.size > 0 ? object->fd : -1, dir, name);
        return r < 0 ? r : r == 0;
}

static int not_opened(ArcTree *t, int r) {
        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM)
                return no_memory(t, r);
        return report_errno(t, FAIL_SOURCE_MISSING, -r, "cannot be opened");
}

/* Opens what was looked at, and reads it. As read_open(). */
static int read_object(ArcTree *t,
                       int dirfd,
                       const char *at,
                       struct statx *stx,
                       const char *dir,
                       const char *name) {
        _cleanup_(arc_object_done) ArcObject object = ARC_OBJECT_INIT;
        int r;

        r = arc_object_open(dirfd, at, &object);
        if (r < 0)
                return not_opened(t, r);
        if (!arc_same_inode(stx, &object.stx) || !on_root_mount(t, &object.stx))
                return report(t, FAIL_SOURCE_MISSING, ESTALE, "was replaced while it was read");
        *stx = object.stx;
        return read_open(t, &object, dir, name);
}

/* The sink's first look. 1: it took care of the object. */
static int ask(ArcTree *t, const char *dir, const char *name, const EntryLocal *local) {
        const ArcSink *sink = t->sink;

        return sink->known
                       ? sink->known(sink->userdata, t->root->service, dir, name, local, t->reterr)
                       : 0;
}

/*
 * What was scanned: a file or link with one name, which in a read-only image can neither be a mount
 * nor be replaced. 1: done with; 0: it needs a closer look, the sink having been asked already.
 */
static int
visit_scanned(ArcTree *t, int dirfd, const EntryLocal *scanned, const char *dir, const char *name) {
        _cleanup_(arc_object_done) ArcObject object = ARC_OBJECT_INIT;
        int r = ask(t, dir, name, scanned);

        if (r != 0)
                return r;
        if (!S_ISREG(scanned->mode) || arc_object_open_file(dirfd, name, &object) < 0 ||
            object.stx.stx_ino != scanned->ino || object.stx.stx_nlink != 1 ||
            !on_root_mount(t, &object.stx) || !on_root_device(t, &object.stx))
                return 0;
        r = read_open(t, &object, dir, name);
        return r < 0 ? r : 1;
}

/*
 * `at` in dirfd is the object `name` of `dir`; `scanned`, if not NULL, what it is. 1: a directory
 * to enter; 0; negative to stop.
 */
static int visit(ArcTree *t,
                 int dirfd,
                 const char *at,
                 const char *dir,
                 const char *name,
                 const EntryLocal *scanned,
                 uint64_t *ret_ino) {
        const ArcSink *sink = t->sink;
        bool linked;
        const char *first;
        struct statx stx;
        EntryLocal local;
        int r;

        r = check_interrupted(t);
        if (r < 0)
                return r;
        if (sink->skip && sink->skip(sink->userdata, t->root->service, dir, name))
                return 0;
        if (scanned) {
                r = visit_scanned(t, dirfd, scanned, dir, name);
                if (r != 0)
                        return r < 0 ? r : 0;
        }
        r = arc_statx(dirfd, at, &stx);
        if (r < 0)
                return report_errno(t, FAIL_SOURCE_MISSING, -r, "cannot be looked at");
        r = classify(t, name, &stx);
        if (r <= 0)
                return r;
        *ret_ino = stx.stx_ino;
        linked = !S_ISDIR(stx.stx_mode) && stx.stx_nlink > 1;
        first = linked ? arc_links_find(t->links, &stx) : NULL;
        if (first)
                return emit_link(t, &stx, first, dir, name);
        arc_local(&stx, &local);
        r = scanned ? 0 : ask(t, dir, name, &local);
        if (r == 0)
                r = read_object(t, dirfd, at, &stx, dir, name);
        if (r > 0 && linked) {
                r = arc_links_add(t->links, &stx, (const char *) t->full.data);
                if (r < 0)
                        return no_memory(t, r);
        }
        /* What is below a directory that was not recorded could not be restored. */
        return r > 0 ? S_ISDIR(stx.stx_mode) : r;
}

/* ---- directories ---- */

static int push_frame(ArcTree *t, int fd, uint64_t ino) {
        if (t->n_frames == t->n_allocated) {
                size_t n = t->n_allocated ? t->n_allocated * 2 : 64;
                Frame *p = realloc(t->frames, n * sizeof(*p));

                if (!p) {
                        fd_close(fd);
                        return no_memory(t, -ENOMEM);
                }
                t->frames = p;
                t->n_allocated = n;
        }
        if (t->n_frames > OPEN_FRAMES) {
                Frame *old = &t->frames[t->n_frames - OPEN_FRAMES];

                old->fd = fd_close(old->fd);
        }
        t->frames[t->n_frames++] = (Frame){
                .fd = fd,
                .ino = ino,
                .n_path = t->dir.size - 1,
                .pending = t->pending.size,
                .at = t->pending.size,
                .end = t->pending.size,
        };
        return 0;
}

static void pop_frame(ArcTree *t) {
        Frame *f = &t->frames[--t->n_frames];

        fd_close(f->fd);
        t->pending.size = f->pending;
}

/* True if the open directory is the one that was looked at before. */
static bool is_still(const ArcTree *t, int fd, uint64_t ino) {
        struct statx stx;

        return arc_statx(fd, "", &stx) >= 0 && stx.stx_ino == ino && on_root_mount(t, &stx) &&
               on_root_device(t, &stx);
}

/* The descriptor of frame `i`, opened again if it was closed. Negative errno if that fails. */
static int frame_fd(ArcTree *t, size_t i) {
        const char *path = (const char *) t->dir.data;
        Frame *f = &t->frames[i];
        size_t above = i;
        int fd;

        if (f->fd >= 0)
                return f->fd;
        while (t->frames[above].fd < 0) /* the root's is never closed */
                above--;
        fd = arc_open_below(t->frames[above].fd, path + t->frames[above].n_path + 1,
                            f->n_path - t->frames[above].n_path - 1);
        if (fd < 0)
                return fd;
        if (!is_still(t, fd, f->ino)) {
                fd_close(fd);
                return -ESTALE;
        }
        return f->fd = fd;
}

static int put_pending(ArcTree *t, uint64_t ino, const char *name) {
        int r = buf_put(&t->pending, &ino, sizeof(ino));

        if (r >= 0)
                r = buf_put(&t->pending, name, strlen(name) + 1);
        return r < 0 ? no_memory(t, r) : 0;
}

/* Reads the directory on top of the stack, hands out what is in it, and queues its directories. */
static int read_directory(ArcTree *t) {
        const char *dir = (const char *) t->dir.data;
        Frame *f = &t->frames[t->n_frames - 1];
        size_t n_dir = t->dir.size - 1;
        uint64_t ino = 0;
        int r;

        r = arc_dir_read(t->listing, f->fd);
        if (r < 0) {
                int stop = set_path(t, &t->full, dir, n_dir, "");

                if (stop >= 0)
                        stop = report_errno(t, FAIL_SOURCE_MISSING, -r, "cannot be listed in full");
                if (stop < 0)
                        return stop;
        }
        arc_scan_list(t->scan, f->fd, t->listing);
        for (size_t i = 0; i < arc_dir_count(t->listing); i++) {
                const char *name = arc_dir_name(t->listing, i), *full;

                r = set_path(t, &t->full, dir, n_dir, name);
                if (r < 0)
                        return r;
                full = (const char *) t->full.data;
                if (t->root->rules &&
                    globs_exclude(t->root->rules, full + strlen(t->root->path) + 1))
                        continue;
                r = visit(t, f->fd, name, dir, name, arc_scan_at(t->scan, i), &ino);
                if (r > 0)
                        r = put_pending(t, ino, name);
                if (r < 0)
                        return r;
        }
        f->end = t->pending.size;
        return 0;
}

static int open_dir(int dirfd, const char *name) {
        int flags = O_RDONLY | O_DIRECTORY | O_NOATIME;
        int fd = fd_open_beneath(dirfd, name, flags, 0, false);

        return fd == -EPERM ? fd_open_beneath(dirfd, name, flags & ~O_NOATIME, 0, false) : fd;
}

/* Enters a waiting subdirectory of the frame on top. 1 if it is on the stack now, 0 if reported. */
static int enter(ArcTree *t, uint64_t ino, const char *name) {
        Frame *f = &t->frames[t->n_frames - 1];
        _cleanup_close_ int fd = -1;
        int r, parent;

        t->dir.size = f->n_path;
        t->dir.data[f->n_path] = 0;
        r = set_path(t, &t->full, (const char *) t->dir.data, f->n_path, name);
        if (r < 0)
                return r;
        if (t->n_frames == ARC_DEPTH_MAX || t->full.size - 1 > ARC_DIR_MAX)
                return report(t, FAIL_NOT_RESTORABLE, ELOOP,
                              "is nested too deep; nothing below it is read");
        parent = frame_fd(t, t->n_frames - 1);
        fd = parent < 0 ? parent : open_dir(parent, name);
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
                return no_memory(t, fd);
        if (fd < 0)
                return report_errno(t, FAIL_SOURCE_MISSING, -fd, "cannot be entered");
        if (!is_still(t, fd, ino))
                return report(t, FAIL_SOURCE_MISSING, ESTALE, "was replaced while it was read");
        r = set_path(t, &t->dir, (const char *) t->full.data, t->full.size - 1, "");
        if (r < 0)
                return r;
        r = push_frame(t, TAKE_FD(fd), ino);
        return r < 0 ? r : 1;
}

/* The next waiting subdirectory: its inode number and name are copied out, as the buffer may move.
 */
static uint64_t next_pending(ArcTree *t, Frame *f, char name[ENTRY_NAME_MAX + 1]) {
        const uint8_t *p = t->pending.data + f->at;
        uint64_t ino;
        size_t n;

        memcpy(&ino, p, sizeof(ino));
        n = strlen((const char *) p + sizeof(ino)) + 1;
        memcpy(name, p + sizeof(ino), n);
        f->at += sizeof(ino) + n;
        return ino;
}

/* What the root is on: the bounds that are not crossed. 1, or 0 if it was reported. */
static int begin_root(ArcTree *t, const ArcRoot *root, Failure *reterr, struct statx *stx) {
        struct statfs fs;
        int r;

        t->root = root;
        t->reterr = reterr;
        r = set_path(t, &t->full, root->path, strlen(root->path), "");
        if (r < 0)
                return r;
        r = arc_statx(root->fd, "", stx);
        if (r >= 0 && fstatfs(root->fd, &fs) < 0)
                r = -errno;
        if (r < 0)
                return report_errno(t, FAIL_SOURCE_MISSING, -r, "cannot be looked at");
        t->dev_major = stx->stx_dev_major;
        t->dev_minor = stx->stx_dev_minor;
        t->mount = stx->stx_mnt_id;
        t->btrfs = fs.f_type == BTRFS_SUPER_MAGIC;
        return 1;
}

int arc_tree_root(ArcTree *t,
                  const ArcRoot *root,
                  const char *dir,
                  const char *name,
                  Failure *reterr) {
        struct statx stx;
        uint64_t ino;
        int r;

        r = begin_root(t, root, reterr, &stx);
        return r <= 0 ? r : visit(t, root->fd, "", dir, name, NULL, &ino);
}

int arc_tree_below(ArcTree *t, const ArcRoot *root, Failure *reterr) {
        char name[ENTRY_NAME_MAX + 1];
        struct statx stx;
        int fd, r;

        r = begin_root(t, root, reterr, &stx);
        if (r <= 0)
                return r;
        r = set_path(t, &t->dir, root->path, strlen(root->path), "");
        if (r < 0)
                return r;
        fd = open_dir(root->fd, ".");
        if (fd < 0)
                return report_errno(t, FAIL_SOURCE_MISSING, -fd, "cannot be entered");
        arc_scan_begin(t->scan, fd);
        r = push_frame(t, fd, stx.stx_ino);
        if (r >= 0)
                r = read_directory(t);
        while (r >= 0 && t->n_frames > 0) {
                Frame *f = &t->frames[t->n_frames - 1];
                uint64_t ino;

                if (f->at == f->end) {
                        pop_frame(t);
                        continue;
                }
                ino = next_pending(t, f, name);
                r = enter(t, ino, name);
                if (r > 0)
                        r = read_directory(t);
        }
        while (t->n_frames > 0)
                pop_frame(t);
        return r < 0 ? r : 0;
}

void arc_tree_forget(ArcTree *t) {
        arc_links_clear(t->links);
}

int arc_tree_new(const ArcSink *sink, ArcTree **ret, Failure *reterr) {
        ArcTree *t = calloc(1, sizeof(*t));
        int r = -ENOMEM;

        if (t) {
                t->sink = sink;
                t->dir = t->full = BUF_INIT(PATH_BYTES);
                t->pending = BUF_INIT(PENDING_BYTES);
                r = arc_dir_new(&t->listing);
        }
        if (r >= 0)
                r = arc_scan_new(&t->scan);
        if (r >= 0)
                r = arc_links_new(&t->links);
        if (r >= 0)
                r = arc_meta_new(&t->meta);
        if (r < 0) {
                arc_tree_free(t);
                return fail_errno(reterr, FAIL_INTERNAL, -r, "reading a tree");
        }
        *ret = t;
        return 0;
}

void arc_tree_free(ArcTree *t) {
        if (!t)
                return;
        while (t->n_frames > 0)
                pop_frame(t);
        free(t->frames);
        arc_dir_free(t->listing);
        arc_scan_free(t->scan);
        arc_links_free(t->links);
        arc_meta_free(t->meta);
        buf_done(&t->dir);
        buf_done(&t->full);
        buf_done(&t->pending);
        free(t);
}
