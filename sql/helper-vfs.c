/*
 * The only door between SQLite and files. A database is known by the name /proc/self/fd/N/NAME;
 * that name and its -wal and -journal are all that can be opened, and full paths are what they are:
 * stock SQLite walks and expands them, which fails below directories that the owner cannot enter.
 *
 * Live databases get the stock files, because only those take part in the service's locks (SQLite
 * opens -shm by itself, next to the database). Nothing live can be deleted, and a journal can be
 * read but not written, so that it is never played: a journal may name any file as its
 * super-journal, and SQLite deletes that one when it is done.
 *
 * In an image nobody else is about: files there are plain descriptors, opened beneath the image's
 * directory, with locks that always succeed. Whether a super-journal exists is looked up in the
 * frozen image; a look at the live path would find it gone and take a half-finished transaction for
 * a finished one.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/text.h"
#include "sql/helper.h"

typedef struct PlainFile {
        const sqlite3_io_methods *methods; /* first: this is a sqlite3_file */
        int fd;                            /* -1: an empty file that exists only here */
        bool immutable;
} PlainFile;

/* ---- plain files ---- */

static int plain_close(sqlite3_file *f) {
        PlainFile *p = (PlainFile *) f;

        p->fd = fd_close(p->fd);
        return SQLITE_OK;
}

static int plain_read(sqlite3_file *f, void *data, int n, sqlite3_int64 offset) {
        PlainFile *p = (PlainFile *) f;
        ssize_t got = p->fd < 0 ? 0 : fd_pread_full(p->fd, data, (size_t) n, (uint64_t) offset);

        if (got < 0)
                return SQLITE_IOERR_READ;
        if (got == n)
                return SQLITE_OK;
        memset((char *) data + got, 0, (size_t) (n - got)); /* SQLite wants zeroes for the rest */
        return SQLITE_IOERR_SHORT_READ;
}

static int plain_write(sqlite3_file *f, const void *data, int n, sqlite3_int64 offset) {
        PlainFile *p = (PlainFile *) f;
        int r = p->fd < 0 ? -EBADF : fd_pwrite_full(p->fd, data, (size_t) n, (uint64_t) offset);

        if (r == -ENOSPC || r == -EDQUOT)
                return SQLITE_FULL;
        return r < 0 ? SQLITE_IOERR_WRITE : SQLITE_OK;
}

static int plain_truncate(sqlite3_file *f, sqlite3_int64 size) {
        PlainFile *p = (PlainFile *) f;

        return p->fd < 0 || ftruncate(p->fd, size) < 0 ? SQLITE_IOERR_TRUNCATE : SQLITE_OK;
}

/*
 * Nothing: an image or a copy that is not finished when the machine fails is thrown away. Each
 * database is synced once when it is done, and that error is looked at.
 */
static int plain_sync(sqlite3_file *f, int flags) {
        return SQLITE_OK;
}

static int plain_size(sqlite3_file *f, sqlite3_int64 *ret) {
        PlainFile *p = (PlainFile *) f;
        struct stat st = { 0 };

        if (p->fd >= 0 && fstat(p->fd, &st) < 0)
                return SQLITE_IOERR_FSTAT;
        *ret = st.st_size;
        return SQLITE_OK;
}

static int plain_lock(sqlite3_file *f, int level) {
        return SQLITE_OK;
}

static int plain_check_lock(sqlite3_file *f, int *ret) {
        *ret = 0;
        return SQLITE_OK;
}

static int plain_control(sqlite3_file *f, int op, void *arg) {
        return SQLITE_NOTFOUND;
}

static int plain_sector_size(sqlite3_file *f) {
        return 4096;
}

static int plain_characteristics(sqlite3_file *f) {
        return ((PlainFile *) f)->immutable ? SQLITE_IOCAP_IMMUTABLE : 0;
}

static const sqlite3_io_methods plain_methods = {
        .iVersion = 1, /* no shared memory: connections to an image are exclusive */
        .xClose = plain_close,
        .xRead = plain_read,
        .xWrite = plain_write,
        .xTruncate = plain_truncate,
        .xSync = plain_sync,
        .xFileSize = plain_size,
        .xLock = plain_lock,
        .xUnlock = plain_lock,
        .xCheckReservedLock = plain_check_lock,
        .xFileControl = plain_control,
        .xSectorSize = plain_sector_size,
        .xDeviceCharacteristics = plain_characteristics,
};

static int plain_open(sqlite3_file *f, int fd, bool immutable) {
        *(PlainFile *) f =
                (PlainFile){ .methods = &plain_methods, .fd = fd, .immutable = immutable };
        return SQLITE_OK;
}

/* ---- what a name means ---- */

static HelperDb *find_db(Helper *h, const char *zname, const char **ret_suffix) {
        static const char *const suffixes[] = { "", "-wal", "-journal" };

        for (size_t i = 0; zname && i < h->n_dbs; i++) {
                size_t n = strlen(h->dbs[i].zname);

                if (strncmp(zname, h->dbs[i].zname, n) != 0)
                        continue;
                for (size_t k = 0; k < ELEMENTSOF(suffixes); k++)
                        if (strcmp(zname + n, suffixes[k]) == 0) {
                                *ret_suffix = suffixes[k];
                                return &h->dbs[i];
                        }
        }
        return NULL;
}

/* Keeps the first reason: what follows is only its consequence. */
static int refuse(Helper *h, int rc, const char *format, const char *what) {
        _cleanup_free_ char *text = what ? text_escape(what) : NULL;

        if (h->refused.code == FAIL_NONE) {
                h->refused.code = FAIL_INTEGRITY_FAILURE;
                h->refused.errnum = EACCES;
                (void) snprintf(h->refused.text, sizeof(h->refused.text), "%s%s%s", format,
                                text ? " " : "", text ? text : "");
        }
        return rc;
}

static int check_file(const struct stat *st, bool main_file, const char *path, Failure *reterr) {
        if (!S_ISREG(st->st_mode))
                return fail_set(reterr, FAIL_SOURCE_MISSING, EINVAL,
                                "%s is not a regular file; remove it, or exclude it", path);
        if (st->st_nlink != 1)
                return fail_set(
                        reterr, FAIL_SOURCE_MISSING, EMLINK,
                        "%s has %ju names (hard links), its journals cannot be told; keep one",
                        path, (uintmax_t) st->st_nlink);
        /* Side files belong to whoever wrote last, which may be another member of the group. */
        if (st->st_uid != geteuid() && (main_file || geteuid() == 0))
                return fail_set(reterr, FAIL_SOURCE_MISSING, EPERM,
                                "%s belongs to uid %u, not to uid %u as expected; chown it", path,
                                st->st_uid, geteuid());
        return 0;
}

int helper_open_file(Helper *h, HelperDb *db, const char *suffix, int flags, Failure *reterr) {
        _cleanup_free_ char *name = text_printf("%s%s", db->name, suffix);
        _cleanup_free_ char *path = text_printf("%s%s", db->path, suffix);
        _cleanup_close_ int fd = -1;
        struct stat st;
        int r;

        if (!name || !path)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        fd = fd_open_beneath(db->dirfd, name, O_PATH, 0, false);
        if (fd == -ENOENT && (flags & O_CREAT))
                r = fd_open_beneath(db->dirfd, name, flags | O_EXCL | O_NOFOLLOW, 0600, false);
        else if (fd < 0)
                r = fd;
        else if (fstat(fd, &st) < 0)
                r = -errno;
        else {
                r = check_file(&st, !*suffix, path, reterr);
                if (r < 0)
                        return r;
                /* By the descriptor that was looked at, so that a swapped-in FIFO cannot block us.
                 */
                r = fd_reopen(fd, (flags & ~O_CREAT) | O_NOCTTY | O_NONBLOCK);
        }
        if (r == -ELOOP || r == -EXDEV)
                return fail_set(
                        reterr, FAIL_SOURCE_MISSING, -r,
                        "%s is a symbolic link or a mount point; put the database itself there",
                        path);
        if (r < 0)
                return fail_errno(reterr, FAIL_SOURCE_MISSING, -r, "cannot open %s as uid %u", path,
                                  geteuid());
        return r;
}

int helper_read_header(HelperDb *db, int fd, HelperHeader *ret, Failure *reterr) {
        uint8_t b[HELPER_HEADER_SIZE] = { 0 };
        ssize_t n = fd_pread_full(fd, b, sizeof(b), 0);
        uint32_t page;

        *ret = (HelperHeader){ .empty = n == 0 };
        if (n < 0)
                return fail_errno(reterr, FAIL_INTERNAL, (int) -n, "cannot read %s", db->path);
        if (n == 0)
                return 0;
        page = (uint32_t) b[16] << 8 | b[17];
        if (page == 1)
                page = 65536;
        if (n < (ssize_t) sizeof(b) || memcmp(b, "SQLite format 3", 16) != 0 || page < 512 ||
            (page & (page - 1)) != 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "%s is not an SQLite database; see Databases= of its service",
                                db->path);
        ret->wal = b[19] == 2;
        ret->page_size = page;
        ret->user_version =
                (uint32_t) b[60] << 24 | (uint32_t) b[61] << 16 | (uint32_t) b[62] << 8 | b[63];
        return 0;
}

/* ---- super-journals ---- */

/*
 * Whether the super-journal of this live path exists in the image. An empty file does not count, as
 * in stock SQLite. Refuses (SQLITE_IOERR_ACCESS) whatever it cannot answer for sure.
 */
static int super_journal_exists(Helper *h, const char *path, int *ret) {
        const HelperImage *best = NULL;
        _cleanup_close_ int fd = -1;
        const char *below;
        struct stat st;

        if (h->mode != HELPER_RECOVER || !text_is_clean_path(path))
                return refuse(h, SQLITE_IOERR_ACCESS,
                              "its journal names a super-journal that is not looked at:", path);
        for (size_t i = 0; i < h->n_images; i++)
                if (text_path_is_below(path, h->images[i].live) &&
                    (!best || strlen(h->images[i].live) > strlen(best->live)))
                        best = &h->images[i];
        if (!best)
                return refuse(
                        h, SQLITE_IOERR_ACCESS,
                        "its journal is part of a transaction over several databases, decided by a "
                        "super-journal outside of this backup; add its directory to the service:",
                        path);
        below = path + strlen(best->live);
        below += strspn(below, "/");
        if (!*below)
                return refuse(h, SQLITE_IOERR_ACCESS,
                              "its journal names a directory as super-journal:", path);
        fd = fd_open_beneath(best->fd, below, O_PATH, 0, false);
        *ret = 0;
        if (fd == -ENOENT)
                return SQLITE_OK;
        if (fd < 0 || fstat(fd, &st) < 0)
                return refuse(h, SQLITE_IOERR_ACCESS,
                              "cannot look up the super-journal in the image:", path);
        *ret = !S_ISREG(st.st_mode) || st.st_size > 0;
        return SQLITE_OK;
}

/* ---- methods ---- */

static int open_stock(Helper *h,
                      HelperDb *db,
                      const char *suffix,
                      sqlite3_filename name,
                      sqlite3_file *f,
                      int flags,
                      int *ret_flags) {
        _cleanup_free_ char *file = text_printf("%s%s", db->name, suffix);
        struct stat st;

        if (!file)
                return SQLITE_NOMEM;
        /* No descriptor is opened to look: closing it would drop the locks of this process. */
        if (fstatat(db->dirfd, file, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                if (errno != ENOENT || !(flags & SQLITE_OPEN_CREATE))
                        return SQLITE_CANTOPEN;
        } else if (check_file(&st, !*suffix, db->path, &h->refused) < 0)
                return SQLITE_CANTOPEN;
        return h->stock->xOpen(h->stock, name, f, flags, ret_flags);
}

static int open_journal_live(Helper *h, HelperDb *db, sqlite3_file *f, int flags, int *ret_flags) {
        int fd;

        if (flags & SQLITE_OPEN_READWRITE)
                return refuse(
                        h, SQLITE_CANTOPEN,
                        "its last writer ended within a transaction; the journal is played in the "
                        "image alone, never in the live directory",
                        NULL);
        fd = helper_open_file(h, db, "-journal", O_RDONLY, &h->refused);
        if (fd < 0)
                return SQLITE_IOERR; /* CANTOPEN would read as: there is a hot journal */
        if (ret_flags)
                *ret_flags = SQLITE_OPEN_READONLY;
        return plain_open(f, fd, false);
}

static int
vfs_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags, int *ret_flags) {
        Helper *h = vfs->pAppData;
        bool main_file = flags & SQLITE_OPEN_MAIN_DB, writing = flags & SQLITE_OPEN_READWRITE;
        const char *suffix;
        HelperDb *db;
        int fd;

        f->pMethods = NULL;
        if (ret_flags)
                *ret_flags = flags;
        if (name && strcmp(name, HELPER_COPY_NAME) == 0 && h->copy_fd >= 0) {
                fd = fcntl(h->copy_fd, F_DUPFD_CLOEXEC, 3);
                return fd < 0 ? SQLITE_CANTOPEN : plain_open(f, fd, false);
        }
        db = find_db(h, name, &suffix);
        if (!db && (flags & SQLITE_OPEN_SUPER_JOURNAL) && h->mode == HELPER_RECOVER)
                return plain_open(f, -1,
                                  false); /* it exists, says xAccess; what it lists is not ours */
        if (!db || main_file == (*suffix != 0))
                return refuse(h, SQLITE_CANTOPEN,
                              "SQLite asked for a file that it was not given:", name);
        if (h->mode == HELPER_HOLD && strcmp(suffix, "-journal") == 0)
                return open_journal_live(h, db, f, flags, ret_flags);
        if (h->mode == HELPER_HOLD)
                return open_stock(h, db, suffix, name, f, flags, ret_flags);
        if (h->mode == HELPER_CHECK && !main_file)
                return refuse(h, SQLITE_CANTOPEN, "it has not been recovered:", suffix);
        if (h->mode == HELPER_CHECK)
                writing = false;
        fd = helper_open_file(
                h, db, suffix,
                (writing ? O_RDWR : O_RDONLY) |
                        (writing && !main_file && (flags & SQLITE_OPEN_CREATE) ? O_CREAT : 0),
                &h->refused);
        if (fd < 0)
                return SQLITE_CANTOPEN;
        if (ret_flags && !writing)
                *ret_flags = (flags & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) |
                             SQLITE_OPEN_READONLY;
        return plain_open(f, fd, h->mode == HELPER_CHECK);
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_dir) {
        Helper *h = vfs->pAppData;
        _cleanup_free_ char *file = NULL;
        const char *suffix;
        HelperDb *db = find_db(h, name, &suffix);

        if (h->mode != HELPER_RECOVER)
                return SQLITE_IOERR_DELETE;
        if (!db)
                return SQLITE_OK; /* a super-journal: other databases of the image may need it yet
                                   */
        if (!*suffix)
                return SQLITE_IOERR_DELETE;
        file = text_printf("%s%s", db->name, suffix);
        if (!file)
                return SQLITE_NOMEM;
        if (unlinkat(db->dirfd, file, 0) < 0)
                return errno == ENOENT ? SQLITE_IOERR_DELETE_NOENT : SQLITE_IOERR_DELETE;
        return SQLITE_OK; /* the image is synced as a whole when it is sealed */
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret) {
        Helper *h = vfs->pAppData;
        _cleanup_free_ char *file = NULL;
        const char *suffix;
        HelperDb *db = find_db(h, name, &suffix);
        struct stat st;

        *ret = 0;
        if (name && strncmp(name, HELPER_COPY_NAME, strlen(HELPER_COPY_NAME)) == 0)
                return SQLITE_OK; /* a copy has no side files */
        if (!db)
                return super_journal_exists(h, name ? name : "", ret);
        file = text_printf("%s%s", db->name, suffix);
        if (!file)
                return SQLITE_NOMEM;
        if (fstatat(db->dirfd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? SQLITE_OK : SQLITE_IOERR_ACCESS;
        *ret = !S_ISREG(st.st_mode) || st.st_size > 0;
        return SQLITE_OK;
}

static int vfs_full_pathname(sqlite3_vfs *vfs, const char *name, int n, char *ret) {
        if (strlen(name) >= (size_t) n)
                return SQLITE_CANTOPEN;
        memcpy(ret, name, strlen(name) + 1);
        return SQLITE_OK;
}

static int vfs_randomness(sqlite3_vfs *vfs, int n, char *ret) {
        sqlite3_vfs *stock = ((Helper *) vfs->pAppData)->stock;

        return stock->xRandomness(stock, n, ret);
}

static int vfs_sleep(sqlite3_vfs *vfs, int usec) {
        sqlite3_vfs *stock = ((Helper *) vfs->pAppData)->stock;

        return stock->xSleep(stock, usec);
}

static int vfs_time(sqlite3_vfs *vfs, sqlite3_int64 *ret) {
        sqlite3_vfs *stock = ((Helper *) vfs->pAppData)->stock;

        return stock->xCurrentTimeInt64(stock, ret);
}

static int vfs_last_error(sqlite3_vfs *vfs, int n, char *ret) {
        return errno;
}

/*
 * As uid 0, SQLite gives side files to the database's owner each time it opens them. That is who we
 * are, and a ctime that moves with every hold would make each log look written to.
 */
static int keep_owner(int fd, uid_t uid, gid_t gid) {
        return 0;
}

int helper_vfs_register(Helper *h, Failure *reterr) {
        h->stock = sqlite3_vfs_find("unix");
        if (!h->stock || h->stock->iVersion < 2)
                return fail_set(reterr, FAIL_INTERNAL, ENOSYS, "this SQLite has no VFS 'unix'");
        if (h->stock->iVersion >= 3)
                (void) h->stock->xSetSystemCall(h->stock, "fchown",
                                                (sqlite3_syscall_ptr) keep_owner);
        h->vfs = (sqlite3_vfs){
                .iVersion = 2,
                .szOsFile = h->stock->szOsFile > (int) sizeof(PlainFile) ? h->stock->szOsFile
                                                                         : (int) sizeof(PlainFile),
                .mxPathname = h->stock->mxPathname, /* SQLite's buffers rely on this limit */
                .zName = HELPER_VFS_NAME,
                .pAppData = h,
                .xOpen = vfs_open,
                .xDelete = vfs_delete,
                .xAccess = vfs_access,
                .xFullPathname = vfs_full_pathname,
                .xRandomness = vfs_randomness,
                .xSleep = vfs_sleep,
                .xGetLastError = vfs_last_error,
                .xCurrentTimeInt64 = vfs_time,
        };
        if (sqlite3_vfs_register(&h->vfs, 1) != SQLITE_OK)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "cannot register the VFS");
        return 0;
}
