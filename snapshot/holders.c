#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "snapshot/exiting.h"
#include "snapshot/mount-table.h"
#include "snapshot/snapshot-internal.h"

/*
 * The question is whether an object lies in one tree of one file system, whatever way the process
 * came to it. So every link of /proc/PID is brought to the same form, superblock and path inside
 * the file system, through the mount that it was opened by; texts are never compared with the
 * target's path. For a subvolume the device decides as well, for a file the inode. What cannot be
 * placed and could be inside, counts as inside: the answer is a proof or no answer.
 *
 * Links are looked at with statx() alone and never opened: opening has side effects on devices, and
 * a server that is away would stop us (AT_STATX_DONT_SYNC asks none).
 */

#define ROUNDS         3 /* after the first, only processes that are new: they inherit descriptors */
#define MAPS_TRIES     5
#define PIDS_MAX       (4u << 20) /* the kernel's own limit */
#define NAMESPACES_MAX 16384
#define NAMESPACE_TEXT 48
#define PROCESS_TEXT   160
#define GONE(r)        ((r) == -ENOENT || (r) == -ESRCH)

enum { LOOK_FILES = 1, LOOK_FS = 2, LOOK_MAPS = 4, LOOK_ALL = 7 };

typedef struct Task {
        pid_t pid, tid;
        unsigned look; /* what it does not share with its thread group's leader */
} Task;

typedef struct View {
        char namespace[NAMESPACE_TEXT];
        char *root;
        pid_t tid;
} View;

typedef struct Scan {
        const char *path;
        int procfd;
        Failure *reterr;

        Place place;
        bool subvolume, btrfs;
        int fsid_half; /* btrfs: see first_half() */
        dev_t dev;     /* of the superblock, as in mountinfo and maps */
        char *where;   /* the target's path in its file system */
        uint64_t own;  /* the mount whose root the target is, which is taken away; 0: it is none */

        MountTable mounts;
        View *views;
        size_t n_views;
        Task *tasks;
        size_t n_tasks, allocated;
        uint8_t *known; /* a bit for each tid that was looked at */
} Scan;

static void scan_done(Scan *s) {
        fd_close(s->procfd);
        free(s->where);
        mount_table_done(&s->mounts);
        for (size_t i = 0; i < s->n_views; i++)
                free(s->views[i].root);
        free(s->views);
        free(s->tasks);
        free(s->known);
}

static int no_memory(Scan *s) {
        return fail_set(s->reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
}

static void name_process(Scan *s, pid_t pid, char ret[PROCESS_TEXT]) {
        char path[32], comm[32] = "?";
        _cleanup_free_ char *clean = NULL;
        _cleanup_close_ int fd = -1;
        ssize_t n = -1;

        (void) snprintf(path, sizeof(path), "%d/comm", pid);
        fd = openat(s->procfd, path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
                n = read(fd, comm, sizeof(comm) - 1);
        if (n > 0)
                comm[n - 1] = 0; /* ends with a newline */
        clean = text_escape(comm);
        (void) snprintf(ret, PROCESS_TEXT, "process %d (%s)", pid, clean ? clean : "?");
}

static int busy(Scan *s, const Task *t, const char *how, const char *what) {
        _cleanup_free_ char *clean = text_escape(what);
        char process[PROCESS_TEXT];

        name_process(s, t->pid, process);
        return fail_set(s->reterr, FAIL_TARGET_IN_USE, EBUSY,
                        "'%s' is in use: %s %s '%s'; stop it first", s->path, process, how,
                        clean ? clean : "?");
}

/* 0 if it turns out that it was just ending, and holds nothing any more. */
static int unreadable(Scan *s, const Task *t, const char *entry, int r) {
        char process[PROCESS_TEXT];

        if ((r == -EACCES || r == -EPERM) && exiting_wait(s->procfd, t->tid))
                return 0;
        name_process(s, t->pid, process);
        (void) fail_set(s->reterr, FAIL_TARGET_IN_USE, EBUSY,
                        "'%s' may be in use: what %s holds cannot be seen (/proc/%d/%s: %s)",
                        s->path, process, t->tid, entry, strerror(-r));
        return -EBUSY;
}

static int read_link(Scan *s, const Task *t, const char *entry, char ret[PATH_MAX]) {
        char path[96];
        ssize_t n;

        (void) snprintf(path, sizeof(path), "%d/%s", t->tid, entry);
        n = readlinkat(s->procfd, path, ret, PATH_MAX - 1);
        if (n < 0)
                return -errno;
        ret[n] = 0;
        return 0;
}

/* ---- mounts ---- */

/* Reads what the task's namespace looks like from its root, once for each such pair. */
static int load_view(Scan *s, const Task *t) {
        char namespace[PATH_MAX], root[PATH_MAX];
        View *views;
        int r;

        r = read_link(s, t, "ns/mnt", namespace);
        if (r < 0)
                return GONE(r) ? 0 : unreadable(s, t, "ns/mnt", r);
        r = read_link(s, t, "root", root);
        if (r < 0)
                return GONE(r) ? 0 : unreadable(s, t, "root", r);
        namespace[NAMESPACE_TEXT - 1] = 0;
        for (size_t i = 0; i < s->n_views; i++)
                if (strcmp(s->views[i].namespace, namespace) == 0 &&
                    strcmp(s->views[i].root, root) == 0)
                        return 0;
        r = mount_table_load(&s->mounts, s->procfd, t->tid, root);
        if (GONE(r) || r == -EINVAL) /* it ended meanwhile */
                return 0;
        if (r < 0)
                return unreadable(s, t, "mountinfo", r);
        if (s->n_views == NAMESPACES_MAX)
                return unreadable(s, t, "mountinfo", -E2BIG);
        views = reallocarray(s->views, s->n_views + 1, sizeof(*views));
        if (!views)
                return no_memory(s);
        s->views = views;
        s->views[s->n_views].root = strdup(root);
        if (!s->views[s->n_views].root)
                return no_memory(s);
        s->views[s->n_views].tid = t->tid;
        strcpy(s->views[s->n_views++].namespace, namespace);
        return 0;
}

/* True if the place `at` in our file system is in the target. */
static bool is_inside(const Scan *s, const char *at) {
        return text_path_is_below(at, s->where);
}

static int busy_mount(Scan *s, const Mount *m, const char *how) {
        _cleanup_free_ char *clean = text_escape(m->point);
        char process[PROCESS_TEXT] = "this process";

        if (m->pid > 0)
                name_process(s, m->pid, process);
        return fail_set(s->reterr, FAIL_TARGET_IN_USE, EBUSY,
                        "'%s' is in use: the mount '%s' (as %s sees it) %s; unmount it first",
                        s->path, clean ? clean : "?", process, how);
}

/*
 * A target that is mounted by itself: its mount is taken away and brought back with what comes, and
 * so are the copies in other namespaces, if what they stand on follows.
 */
static bool goes_along(const Scan *s, const Mount *m, const Mount *parent) {
        if (s->own == 0 || strcmp(m->root, s->where) != 0)
                return false;
        return m->id == s->own || (m->pid != 0 && parent && parent->follows);
}

static int check_mounts(Scan *s) {
        for (size_t i = 0; i < s->mounts.n; i++) {
                const Mount *m = &s->mounts.mounts[i], *parent;
                _cleanup_free_ char *at = NULL;

                parent = mount_table_find(&s->mounts, m->parent);
                if (m->dev == s->dev && is_inside(s, m->root) && !goes_along(s, m, parent))
                        return busy_mount(s, m, "shows it or a part of it");
                if (!parent || parent == m || parent->dev != s->dev)
                        continue;
                at = mount_place(parent, m->point);
                if (!at && errno == ENOMEM)
                        return no_memory(s);
                if (at && is_inside(s, at))
                        return busy_mount(s, m, "stands on or in it");
        }
        return 0;
}

/* ---- what a task holds ---- */

/*
 * The first half of a btrfs's f_fsid is made of its uuid and of nothing else while it has had fewer
 * than 2^32 subvolumes: where it differs, the file system does. Equal, it proves nothing.
 */
static int first_half(const struct statfs *fs) {
        int half;

        memcpy(&half, &fs->f_fsid, sizeof(half));
        return half;
}

/*
 * The mount was made after the tables were read, or is detached, or lies outside the root of all
 * who are in its namespace. Returns it if it is known now; NULL with *ret_harmless or not.
 */
static const Mount *
find_late(Scan *s, const Task *t, const char *entry, const struct statx *x, bool *ret_harmless) {
        char path[96], root[PATH_MAX];
        struct statfs fs;

        (void) snprintf(path, sizeof(path), "/proc/%d/%s", t->tid, entry);
        if (s->btrfs) {
                /* Each subvolume has a device of its own: none of them tells which file system it
                 * is. */
                *ret_harmless =
                        statfs(path, &fs) == 0 && ((unsigned long) fs.f_type != BTRFS_SUPER_MAGIC ||
                                                   first_half(&fs) != s->fsid_half);
                if (*ret_harmless)
                        return NULL;
        }
        *ret_harmless = false;
        if (read_link(s, t, "root", root) < 0 ||
            mount_table_load(&s->mounts, s->procfd, t->tid, root) < 0)
                return NULL;
        mount_table_sort(&s->mounts);
        return mount_table_find(&s->mounts, x->stx_mnt_id);
}

/* The slow half of look(): by the mount and the path. */
static int
look_by_path(Scan *s, const Task *t, const char *entry, const char *how, const struct statx *x) {
        const Mount *m = mount_table_find(&s->mounts, x->stx_mnt_id);
        _cleanup_free_ char *at = NULL;
        bool harmless = false;
        char link[PATH_MAX];
        int r;

        if (m && m->dev != s->dev)
                return 0;
        r = read_link(s, t, entry, link);
        if (r < 0)
                return GONE(r) ? 0 : unreadable(s, t, entry, r);
        if (link[0] != '/')
                return 0; /* a socket, pipe or other thing without a place */
        if (!m)
                m = find_late(s, t, entry, x, &harmless);
        if (!m)
                return harmless ? 0 : busy(s, t, "holds, in a mount that cannot be placed,", link);
        if (m->dev != s->dev)
                return 0;
        at = mount_place(m, link);
        if (!at && errno == ENOMEM)
                return no_memory(s);
        return !at || is_inside(s, at) ? busy(s, t, how, link) : 0;
}

/* Fails if what the link `entry` of the task leads to is in the target. *ret_gone may be NULL. */
static int look(Scan *s, const Task *t, const char *entry, const char *how, bool *ret_gone) {
        char path[96], link[PATH_MAX];
        struct statx x;
        dev_t dev;
        int r;

        (void) snprintf(path, sizeof(path), "%d/%s", t->tid, entry);
        if (statx(s->procfd, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
                  STATX_TYPE | STATX_INO | STATX_MNT_ID, &x) < 0) {
                r = -errno;
                if (ret_gone)
                        *ret_gone = GONE(r);
                return GONE(r) ? 0 : unreadable(s, t, entry, r);
        }
        dev = makedev(x.stx_dev_major, x.stx_dev_minor);
        if (dev == s->place.dev && (s->subvolume || x.stx_ino == s->place.ino)) {
                r = read_link(s, t, entry, link);
                if (GONE(r))
                        return 0;
                return busy(s, t, how, r < 0 ? s->path : link);
        }
        if (!S_ISDIR(s->place.mode) || (!s->btrfs && dev != s->place.dev))
                return 0;
        return look_by_path(s, t, entry, how, &x);
}

static int look_files(Scan *s, const Task *t) {
        _cleanup_dir_ DIR *d = NULL;
        struct dirent *e;
        char path[64];
        int fd, r;

        (void) snprintf(path, sizeof(path), "%d/fd", t->tid);
        fd = openat(s->procfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return GONE(-errno) ? 0 : unreadable(s, t, "fd", -errno);
        d = fdopendir(fd); /* looks at it, and the process may have ended by now */
        if (!d) {
                r = -errno;
                fd_close(fd);
                return GONE(r) ? 0 : unreadable(s, t, "fd", r);
        }
        while ((errno = 0, e = readdir(d))) {
                char entry[32];

                if (e->d_name[0] == '.')
                        continue;
                (void) snprintf(entry, sizeof(entry), "fd/%.20s", e->d_name);
                r = look(s, t, entry, "has open", NULL);
                if (r < 0)
                        return r;
        }
        return errno == 0 || GONE(-errno) ? 0 : unreadable(s, t, "fd", -errno);
}

/* One pass over the mappings. -EAGAIN: one of them changed meanwhile. */
static int try_maps(Scan *s, const Task *t, FILE *maps) {
        _cleanup_free_ char *line = NULL;
        unsigned long last = 0;
        size_t allocated = 0;
        int r;

        while ((errno = 0, getline(&line, &allocated, maps)) > 0) {
                unsigned long from, to, inode;
                unsigned major, minor;
                bool gone = false;
                char entry[64];

                if (sscanf(line, "%lx-%lx %*s %*x %x:%x %lu", &from, &to, &major, &minor, &inode) !=
                    5)
                        continue;
                if (inode == 0 || makedev(major, minor) != s->dev || inode == last)
                        continue;
                (void) snprintf(entry, sizeof(entry), "map_files/%lx-%lx", from, to);
                r = look(s, t, entry, "maps", &gone);
                if (r < 0)
                        return r;
                if (gone)
                        return -EAGAIN;
                /* On btrfs the number says little: another subvolume may have a file of the same.
                 */
                last = s->btrfs ? 0 : inode;
        }
        return errno == 0 || GONE(-errno) ? 0 : unreadable(s, t, "maps", -errno);
}

static int look_maps(Scan *s, const Task *t) {
        char path[64];
        int r = -EAGAIN;

        (void) snprintf(path, sizeof(path), "%d/maps", t->tid);
        for (unsigned i = 0; i < MAPS_TRIES && r == -EAGAIN; i++) {
                _cleanup_file_ FILE *f = NULL;
                int fd = openat(s->procfd, path, O_RDONLY | O_CLOEXEC);

                if (fd < 0)
                        return GONE(-errno) ? 0 : unreadable(s, t, "maps", -errno);
                f = fdopen(fd, "re");
                if (!f) {
                        fd_close(fd);
                        return no_memory(s);
                }
                r = try_maps(s, t, f);
        }
        return r == -EAGAIN ? unreadable(s, t, "maps", r) : r;
}

static int look_task(Scan *s, const Task *t) {
        int r = 0;

        if (t->look & LOOK_FILES)
                r = look_files(s, t);
        if (r >= 0 && t->look & LOOK_FS)
                r = look(s, t, "cwd", "works in", NULL);
        if (r >= 0 && t->look & LOOK_FS)
                r = look(s, t, "root", "has as its root", NULL);
        if (r >= 0 && t->look & LOOK_MAPS)
                r = look(s, t, "exe", "runs", NULL);
        if (r >= 0 && t->look & LOOK_MAPS)
                r = look_maps(s, t);
        return r;
}

/* ---- who there is ---- */

static int add_task(Scan *s, pid_t pid, pid_t tid, unsigned look) {
        unsigned n = (unsigned) tid;

        if (n >= PIDS_MAX)
                return no_memory(s);
        if (look == 0 || s->known[n / 8] & 1u << n % 8)
                return 0;
        if (s->n_tasks == s->allocated) {
                size_t allocated = s->allocated ? 2 * s->allocated : 256;
                Task *tasks = reallocarray(s->tasks, allocated, sizeof(*tasks));

                if (!tasks)
                        return no_memory(s);
                s->tasks = tasks;
                s->allocated = allocated;
        }
        s->known[n / 8] |= (uint8_t) (1u << n % 8);
        s->tasks[s->n_tasks++] = (Task){ pid, tid, look };
        return 0;
}

/* What a thread does not share with its leader. Where kcmp() is not allowed: all. */
static unsigned unshared(pid_t pid, pid_t tid) {
        unsigned look = 0;

        if (syscall(SYS_kcmp, pid, tid, KCMP_FILES, 0, 0) != 0)
                look |= LOOK_FILES;
        if (syscall(SYS_kcmp, pid, tid, KCMP_FS, 0, 0) != 0)
                look |= LOOK_FS;
        if (syscall(SYS_kcmp, pid, tid, KCMP_VM, 0, 0) != 0)
                look |= LOOK_MAPS;
        return look;
}

static bool parse_pid(const char *text, pid_t *ret) {
        uint64_t v;

        if (text_to_u64(text, &v) < 0 || v == 0 || v > INT_MAX)
                return false;
        *ret = (pid_t) v;
        return true;
}

static int add_threads(Scan *s, pid_t pid) {
        Task leader = { pid, pid, 0 };
        _cleanup_dir_ DIR *d = NULL;
        struct dirent *e;
        struct stat st;
        char path[64];
        pid_t tid;
        int fd, r;

        (void) snprintf(path, sizeof(path), "%d/task", pid);
        if (fstatat(s->procfd, path, &st, 0) == 0 && st.st_nlink == 3)
                return 0; /* "." and ".." and the leader */
        fd = openat(s->procfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return GONE(-errno) ? 0 : unreadable(s, &leader, "task", -errno);
        d = fdopendir(fd);
        if (!d) {
                r = -errno;
                fd_close(fd);
                return GONE(r) ? 0 : unreadable(s, &leader, "task", r);
        }
        while ((e = readdir(d)))
                if (parse_pid(e->d_name, &tid) && tid != pid) {
                        r = add_task(s, pid, tid, unshared(pid, tid));
                        if (r < 0)
                                return r;
                }
        return 0;
}

/*
 * True for an init that shows itself to nobody, as in machines whose first process has more rights
 * than any root in them: it runs the machine, not the service, and nothing would ever be unused
 * while it counted (docs/adr/0007-closed-init.md). An init that can be read is looked at like all.
 */
static bool is_closed_init(const Scan *s, pid_t pid) {
        char link[NAMESPACE_TEXT];

        return pid == 1 && readlinkat(s->procfd, "1/ns/mnt", link, sizeof(link)) < 0 &&
               (errno == EACCES || errno == EPERM);
}

/* Fills s->tasks with those that no earlier round has seen. */
static int list_tasks(Scan *s) {
        _cleanup_dir_ DIR *d = NULL;
        bool all = false;
        struct dirent *e;
        pid_t pid;
        int fd, r;

        s->n_tasks = 0;
        fd = openat(s->procfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        d = fd < 0 ? NULL : fdopendir(fd);
        if (!d) {
                fd_close(fd);
                return no_memory(s);
        }
        while ((errno = 0, e = readdir(d))) {
                if (!parse_pid(e->d_name, &pid))
                        continue;
                all = all || pid == 1;
                if (pid == getpid() || is_closed_init(s, pid))
                        continue;
                r = add_task(s, pid, pid, LOOK_ALL);
                if (r >= 0)
                        r = add_threads(s, pid);
                if (r < 0)
                        return r;
        }
        if (errno)
                return fail_errno(s->reterr, FAIL_TARGET_IN_USE, EBUSY,
                                  "cannot list the processes");
        /* Where /proc hides processes (hidepid=), it hides the first one too, which is always
         * there. */
        if (!all)
                return fail_set(s->reterr, FAIL_TARGET_IN_USE, EBUSY,
                                "/proc hides processes from the worker, so nobody can tell whether "
                                "'%s' is in use; give it CAP_SYS_PTRACE",
                                s->path);
        return 0;
}

static int find_target(Scan *s) {
        _cleanup_close_ int fd = -1;
        struct statfs fs;
        const Mount *m;
        int r;

        fd = place_open(s->path, O_PATH, FAIL_TARGET_IN_USE, s->reterr);
        if (fd < 0)
                return fd;
        r = fstatfs(fd, &fs) < 0 ? -errno : place_stat(fd, &s->place);
        if (r >= 0)
                r = mount_table_load(&s->mounts, s->procfd, 0, "/");
        if (r < 0)
                return fail_errno(s->reterr, FAIL_TARGET_IN_USE, -r,
                                  "cannot find the place of '%s'", s->path);
        mount_table_sort(&s->mounts);
        s->btrfs = place_is_btrfs(fd);
        s->fsid_half = first_half(&fs);
        s->subvolume = place_is_subvolume(fd, &s->place);
        m = mount_table_find(&s->mounts, s->place.mount);
        s->where = m ? mount_place(m, s->path) : NULL;
        if (!s->where)
                return fail_set(s->reterr, FAIL_TARGET_IN_USE, EBUSY,
                                "cannot find the mount that holds '%s'", s->path);
        s->dev = m->dev;
        s->own = strcmp(m->point, s->path) == 0 && s->subvolume ? m->id : 0;
        return 0;
}

static int load_views(Scan *s) {
        int r = list_tasks(s);

        for (size_t i = 0; i < s->n_tasks && r >= 0; i++)
                if (s->tasks[i].look & LOOK_FS)
                        r = load_view(s, &s->tasks[i]);
        if (r < 0)
                return r;
        mount_table_sort(&s->mounts);
        for (size_t i = 0; i < s->n_views && r >= 0; i++)
                if (strcmp(s->views[i].root, "/") != 0)
                        r = mount_table_add_root(&s->mounts, s->procfd, s->views[i].tid,
                                                 s->views[i].root, s->dev);
        return r < 0 ? no_memory(s) : 0;
}

static int look_round(Scan *s) {
        int r = load_views(s);

        if (r >= 0)
                r = check_mounts(s);
        for (size_t i = 0; i < s->n_tasks && r >= 0; i++)
                r = look_task(s, &s->tasks[i]);
        return r;
}

static int scan_open(Scan *s) {
        struct statfs fs;

        s->procfd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (s->procfd < 0 || fstatfs(s->procfd, &fs) < 0 ||
            (unsigned long) fs.f_type != PROC_SUPER_MAGIC)
                return fail_set(s->reterr, FAIL_TARGET_IN_USE, EBUSY,
                                "'%s' may be in use: /proc is not mounted", s->path);
        s->known = calloc(PIDS_MAX / 8, 1);
        return s->known ? 0 : no_memory(s);
}

int tree_prove_unused(const char *path, Failure *reterr) {
        _cleanup_(scan_done) Scan s = { .path = path, .procfd = -1, .reterr = reterr };
        int r = scan_open(&s);

        if (r >= 0)
                r = find_target(&s);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < ROUNDS; i++) {
                r = look_round(&s);
                if (r < 0 || s.n_tasks == 0)
                        break;
        }
        return r;
}

int tree_prove_unmounted(const TreePlace *place, const char *path, Failure *reterr) {
        _cleanup_(scan_done)
                Scan s = { .path = path, .procfd = -1, .reterr = reterr, .dev = place->dev };
        int r = scan_open(&s);

        if (r < 0)
                return r;
        s.where = strdup(place->where);
        if (!s.where || mount_table_load(&s.mounts, s.procfd, 0, "/") < 0)
                return no_memory(&s);
        r = load_views(&s);
        return r < 0 ? r : check_mounts(&s);
}

int tree_find_mounted(const char *path, TreePlace *ret, Failure *reterr) {
        _cleanup_(scan_done) Scan s = { .path = path, .procfd = -1, .reterr = reterr };
        int r = scan_open(&s);

        if (r >= 0)
                r = find_target(&s);
        if (r < 0)
                return r;
        ret->dev = s.dev;
        ret->where = TAKE_PTR(s.where);
        return 0;
}
