/*
 * How the index was left. SQLite notices a page that is torn, but neither an older copy of one of
 * its two files beside a newer one, which may look sound and map ids to the wrong packs, nor,
 * before it comes upon the place, a file that was cut short. So what the files looked like after
 * each commit is noted beside them, with the kernel's own time of their last change, which nobody
 * sets.
 *
 * The file is a lock as well: shared by all who have the index open. Only who is alone may judge:
 * else the files change while they are looked at. The lock belongs to the open file, for a failed
 * upgrade must not lose what was held.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "repo/repo-internal.h"

#define SEAL_NAME  "index.seal"
#define LOG_HEADER 32 /* of SQLite's log: its salts change whenever it begins anew */

/* What is noted; only ever compared with what the same program made. */
typedef struct Seal {
        uint64_t magic;
        uint64_t ino, size, mtime_sec, mtime_nsec, ctime_sec, ctime_nsec;
        uint64_t log_size;
        uint8_t log_header[LOG_HEADER];
} Seal;

#define SEAL_MAGIC UINT64_C(0x3130304c41455350) /* any number that chance does not write */

static bool try_lock(int fd, short type, bool wait) {
        struct flock l = { .l_type = type, .l_whence = SEEK_SET };

        return fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &l) == 0;
}

int index_seal_open(int state_fd, bool *ret_alone) {
        int fd = openat(state_fd, SEAL_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

        if (fd < 0)
                return -errno;
        *ret_alone = try_lock(fd, F_WRLCK, false);
        if (!*ret_alone && !try_lock(fd, F_RDLCK, true)) {
                int r = -errno;

                fd_close(fd);
                return r;
        }
        return fd;
}

void index_seal_share(int fd) {
        (void) try_lock(fd, F_RDLCK, false); /* a downgrade */
}

static void look_at_log(int state_fd, Seal *s) {
        _cleanup_close_ int fd =
                openat(state_fd, INDEX_NAME "-wal", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < LOG_HEADER ||
            fd_pread_full(fd, s->log_header, LOG_HEADER, 0) != LOG_HEADER) {
                memset(s->log_header, 0, LOG_HEADER);
                return;
        }
        s->log_size = (uint64_t) st.st_size;
}

/* By name: to close a descriptor of the database would drop SQLite's locks on it. */
static bool look(int state_fd, Seal *ret) {
        struct stat st;

        *ret = (Seal){ .magic = SEAL_MAGIC };
        if (fstatat(state_fd, INDEX_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return false;
        ret->ino = st.st_ino;
        ret->size = (uint64_t) st.st_size;
        ret->mtime_sec = (uint64_t) st.st_mtim.tv_sec;
        ret->mtime_nsec = (uint64_t) st.st_mtim.tv_nsec;
        ret->ctime_sec = (uint64_t) st.st_ctim.tv_sec;
        ret->ctime_nsec = (uint64_t) st.st_ctim.tv_nsec;
        look_at_log(state_fd, ret);
        return true;
}

void index_seal_put(int fd, int state_fd) {
        Seal now;

        /* One that is missing or stale costs the index, nothing else. */
        if (look(state_fd, &now))
                (void) fd_pwrite_full(fd, &now, sizeof(now), 0);
}

void index_seal_settle(int fd, int state_fd) {
        if (try_lock(fd, F_WRLCK, false))
                index_seal_put(fd, state_fd);
}

static bool same_file(const Seal *a, const Seal *b) {
        return a->ino == b->ino && a->size == b->size && a->mtime_sec == b->mtime_sec &&
               a->mtime_nsec == b->mtime_nsec && a->ctime_sec == b->ctime_sec &&
               a->ctime_nsec == b->ctime_nsec;
}

/*
 * What a killed transaction has appended does no harm: SQLite does not believe it. Nor does what a
 * kill left between a commit and its note: packs that the index does not have are taken in.
 */
static bool same_log(const Seal *then, const Seal *now) {
        return memcmp(then->log_header, now->log_header, LOG_HEADER) == 0 &&
               now->log_size >= then->log_size;
}

IndexSeal index_seal_judge(int fd, int state_fd) {
        Seal then = { 0 }, now;
        bool sealed = fd_pread_full(fd, &then, sizeof(then), 0) == (ssize_t) sizeof(then) &&
                      then.magic == SEAL_MAGIC;

        if (!look(state_fd, &now))
                return INDEX_SEAL_ABSENT;
        return sealed && same_file(&then, &now) && same_log(&then, &now) ? INDEX_SEAL_WHOLE
                                                                         : INDEX_SEAL_CHANGED;
}
