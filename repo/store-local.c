/*
 * The repository as a directory. Every change is either a small file put in place by
 * fs_write_atomic(), or a pack: written under a temporary name, renamed when it is whole, and
 * durable only after store_sync().
 *
 * store_sync() relies on the descriptor of the top directory having been opened before the packs
 * were written: the kernel then reports every write-back error since, exactly once. It is never
 * retried: after a failure the session is void.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"
#include "repo/repo-internal.h"

static const char *const store_dirs[] = { "hosts", "sessions", "packs", "backups", "pins" };

#define STORE_DIRS ELEMENTSOF(store_dirs)

struct Store {
        char *path;
        int top;
        int dirs[STORE_DIRS];
};

/* ---- names ---- */

void store_pack_name(const uint8_t uuid[UUID_SIZE], char ret[STORE_NAME_MAX]) {
        char text[UUID_TEXT_MAX];

        text_uuid_format(uuid, text);
        (void) snprintf(ret, STORE_NAME_MAX, "packs/%.2s/%s.pack", text, text);
}

void store_object_name(ObjectKind kind, const uint8_t uuid[UUID_SIZE], char ret[STORE_NAME_MAX]) {
        static const char *const dirs[] = {
                [OBJECT_HOST] = "hosts",
                [OBJECT_SESSION] = "sessions",
                [OBJECT_RECORD] = "backups",
                [OBJECT_PIN] = "pins",
        };
        char text[UUID_TEXT_MAX];

        if (kind == OBJECT_CONFIG) {
                (void) snprintf(ret, STORE_NAME_MAX, "config");
                return;
        }
        text_uuid_format(uuid, text);
        (void) snprintf(ret, STORE_NAME_MAX, "%s/%s", dirs[kind], text);
}

/* Splits "dir/leaf" or "leaf": the directory's descriptor, and the leaf. */
static int split(Store *s, const char *name, const char **ret_leaf) {
        const char *slash = strchr(name, '/');

        *ret_leaf = slash ? slash + 1 : name;
        if (!slash)
                return s->top;
        for (size_t i = 0; i < STORE_DIRS; i++)
                if (strncmp(name, store_dirs[i], (size_t) (slash - name)) == 0 &&
                    store_dirs[i][slash - name] == '\0')
                        return s->dirs[i];
        return -EINVAL;
}

int store_dir_fd(Store *s, const char *dir) {
        if (*dir == '\0')
                return s->top;
        for (size_t i = 0; i < STORE_DIRS; i++)
                if (strcmp(dir, store_dirs[i]) == 0)
                        return s->dirs[i];
        return -EINVAL;
}

/* ---- open ---- */

static int open_dirs(Store *s, bool create, Failure *reterr) {
        for (size_t i = 0; i < STORE_DIRS; i++) {
                int fd = create ? fs_ensure_dir(s->top, store_dirs[i], 0700)
                                : fs_open_dir(s->top, store_dirs[i]);

                if (fd == -ENOENT)
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT,
                                        "%s/%s is missing; bring the repository back from a copy",
                                        s->path, store_dirs[i]);
                if (fd < 0)
                        return fail_errno(reterr, fail_code_for_write(fd, FAIL_INTERNAL), -fd,
                                          "cannot open %s/%s", s->path, store_dirs[i]);
                s->dirs[i] = fd;
        }
        return 0;
}

int store_open(const char *path, bool create, Store **ret, Failure *reterr) {
        _cleanup_(store_closep) Store *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        s->top = -1;
        for (size_t i = 0; i < STORE_DIRS; i++)
                s->dirs[i] = -1;
        s->path = strdup(path);
        if (!s->path)
                return -ENOMEM;
        if (create)
                s->top = fs_ensure_path(path, 0700);
        else {
                s->top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                s->top = s->top < 0 ? -errno : s->top;
        }
        if (s->top < 0)
                return fail_errno(reterr, fail_code_for_write(s->top, FAIL_INTERNAL), -s->top,
                                  "cannot open the repository %s", path);
        r = open_dirs(s, create, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

void store_close(Store *s) {
        if (!s)
                return;
        for (size_t i = 0; i < STORE_DIRS; i++)
                fd_close(s->dirs[i]);
        fd_close(s->top);
        free(s->path);
        free(s);
}

/* ---- small files ---- */

int store_put(Store *s, const char *name, const void *data, size_t n, Failure *reterr) {
        const char *leaf;
        int dir = split(s, name, &leaf), r;

        r = dir < 0 ? dir : fs_write_atomic(dir, leaf, data, n, 0600);
        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "cannot write %s/%s", s->path, name);
        return 0;
}

int store_get(Store *s, const char *name, size_t max, Buf *ret) {
        const char *leaf;
        int dir = split(s, name, &leaf);

        return dir < 0 ? dir : fs_read_file(dir, leaf, max, ret);
}

bool store_has(Store *s, const char *name) {
        const char *leaf;
        struct stat st;
        int dir = split(s, name, &leaf);

        return dir >= 0 && fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

uint64_t store_size(Store *s, const char *name) {
        const char *leaf;
        struct stat st;
        int dir = split(s, name, &leaf);

        return dir >= 0 && fstatat(dir, leaf, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (uint64_t) st.st_size
                                                                             : 0;
}

int store_delete(Store *s, const char *name, Failure *reterr) {
        const char *leaf;
        int dir = split(s, name, &leaf), r;

        r = dir < 0 ? dir : fs_unlink_durable(dir, leaf);
        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot remove %s/%s", s->path, name);
        return 0;
}

/* ---- lists ---- */

/* A directory stream of its own position and offset. */
static DIR *stream(int dirfd, const char *name) {
        int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);

        if (!d && fd >= 0)
                fd_close(fd);
        return d;
}

/* The uuid in `name` with `suffix` after it; false for anything else. */
static bool parse_name(const char *name, const char *suffix, uint8_t ret[UUID_SIZE]) {
        char text[UUID_TEXT_MAX];

        if (strlen(name) != UUID_TEXT_MAX - 1 + strlen(suffix) ||
            strcmp(name + UUID_TEXT_MAX - 1, suffix) != 0)
                return false;
        memcpy(text, name, UUID_TEXT_MAX - 1);
        text[UUID_TEXT_MAX - 1] = '\0';
        return text_is_uuid(text) && text_uuid_parse(text, ret) == 0;
}

typedef struct ListCall {
        Store *store;
        store_on_name on_name;
        void *userdata;
} ListCall;

static int list_dir(const ListCall *call,
                    int dirfd,
                    const char *name,
                    const char *suffix,
                    const char *prefix,
                    Failure *reterr) {
        _cleanup_dir_ DIR *d = stream(dirfd, name);
        uint8_t uuid[UUID_SIZE];
        struct dirent *e;
        int r;

        if (!d)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot list %s",
                                  call->store->path);
        while ((errno = 0, e = readdir(d))) {
                if (!parse_name(e->d_name, suffix, uuid) ||
                    strncmp(e->d_name, prefix, strlen(prefix)) != 0)
                        continue;
                r = call->on_name(call->userdata, uuid, reterr);
                if (r < 0)
                        return r;
        }
        if (errno)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot list %s",
                                  call->store->path);
        return 0;
}

static bool is_pack_dir(const char *name) {
        return strlen(name) == 2 && strspn(name, "0123456789abcdef") == 2;
}

int store_list(Store *s, const char *dir, store_on_name on_name, void *userdata, Failure *reterr) {
        ListCall call = { .store = s, .on_name = on_name, .userdata = userdata };
        int fd = store_dir_fd(s, dir), r = 0;
        _cleanup_dir_ DIR *d = NULL;
        struct dirent *e;

        if (strcmp(dir, "packs") != 0)
                return list_dir(&call, fd, ".", "", "", reterr);
        d = stream(fd, ".");
        if (!d)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot list %s/packs", s->path);
        while (r >= 0 && (errno = 0, e = readdir(d)))
                if (is_pack_dir(e->d_name))
                        r = list_dir(&call, fd, e->d_name, ".pack", e->d_name, reterr);
        if (r >= 0 && errno)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot list %s/packs", s->path);
        return r;
}

/* ---- packs ---- */

/* Names of a pack inside its sub-directory, which is opened (and made: durable with the pack). */
static int pack_dir(Store *s,
                    const uint8_t uuid[UUID_SIZE],
                    bool create,
                    char ret_final[STORE_NAME_MAX],
                    char ret_tmp[STORE_NAME_MAX]) {
        char text[UUID_TEXT_MAX], sub[3] = "";
        int packs = store_dir_fd(s, "packs");

        text_uuid_format(uuid, text);
        memcpy(sub, text, 2);
        if (create && mkdirat(packs, sub, 0700) < 0 && errno != EEXIST)
                return -errno;
        (void) snprintf(ret_final, STORE_NAME_MAX, "%s.pack", text);
        (void) snprintf(ret_tmp, STORE_NAME_MAX, ".tmp-%s", text);
        return fs_open_dir(packs, sub);
}

static int pack_failed(Store *s, const uint8_t uuid[UUID_SIZE], int r, Failure *reterr) {
        char name[STORE_NAME_MAX];

        store_pack_name(uuid, name);
        return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r, "cannot write %s/%s",
                          s->path, name);
}

int store_pack_create(Store *s, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        char final[STORE_NAME_MAX], tmp[STORE_NAME_MAX];
        _cleanup_close_ int dir = pack_dir(s, uuid, true, final, tmp);
        int fd;

        if (dir < 0)
                return pack_failed(s, uuid, dir, reterr);
        fd = openat(dir, tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        return fd < 0 ? pack_failed(s, uuid, -errno, reterr) : fd;
}

int store_pack_publish(Store *s, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        char final[STORE_NAME_MAX], tmp[STORE_NAME_MAX];
        _cleanup_close_ int dir = pack_dir(s, uuid, false, final, tmp);

        if (dir < 0)
                return pack_failed(s, uuid, dir, reterr);
        /* No fsync: the commit's one syncfs covers the file and the name. */
        if (renameat(dir, tmp, dir, final) < 0)
                return pack_failed(s, uuid, -errno, reterr);
        return 0;
}

int store_pack_open(Store *s, const uint8_t uuid[UUID_SIZE]) {
        char final[STORE_NAME_MAX], tmp[STORE_NAME_MAX];
        _cleanup_close_ int dir = pack_dir(s, uuid, false, final, tmp);
        int fd;

        if (dir < 0)
                return dir;
        fd = openat(dir, final, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

int store_pack_remove(Store *s, const uint8_t uuid[UUID_SIZE]) {
        char final[STORE_NAME_MAX], tmp[STORE_NAME_MAX];
        _cleanup_close_ int dir = pack_dir(s, uuid, false, final, tmp);
        int r = 0;

        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        if (unlinkat(dir, tmp, 0) < 0 && errno != ENOENT)
                r = -errno;
        if (unlinkat(dir, final, 0) < 0 && errno != ENOENT)
                r = -errno;
        return r;
}

static void sweep_dir(int parent, const char *name) {
        _cleanup_dir_ DIR *d = stream(parent, name);
        struct dirent *e;

        while (d && (e = readdir(d)))
                if (strncmp(e->d_name, ".tmp-", 5) == 0)
                        /* A leftover is harmless: the next writer tries again. */
                        (void) unlinkat(dirfd(d), e->d_name, 0);
}

int store_sweep_temporary(Store *s, Failure *reterr) {
        int packs = store_dir_fd(s, "packs");
        _cleanup_dir_ DIR *d = stream(packs, ".");
        struct dirent *e;

        if (!d)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot list %s/packs", s->path);
        for (size_t i = 0; i < STORE_DIRS; i++)
                sweep_dir(s->dirs[i], ".");
        sweep_dir(s->top, ".");
        while ((e = readdir(d)))
                if (is_pack_dir(e->d_name))
                        sweep_dir(packs, e->d_name);
        return 0;
}

int store_sync(Store *s, Failure *reterr) {
        if (syncfs(s->top) < 0)
                return fail_errno(
                        reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                        "cannot make the packs of %s durable; the backup is void, run it again",
                        s->path);
        return 0;
}
