#include "tests/lib/dbfix.h"

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/names.h"
#include "base/proc.h"
#include "base/text.h"

char *dbfix_new(void) {
        const char *tmp = getenv("TMPDIR");
        char *base = text_printf("%s/hold-XXXXXX", tmp ? tmp : "/tmp");

        assert_non_null(base);
        assert_non_null(mkdtemp(base));
        assert_int_equal(chmod(base, 0711), 0);
        return base;
}

void dbfix_remove(char *base) {
        assert_int_equal(fs_remove_tree(AT_FDCWD, base, NULL, NULL), 0);
        free(base);
}

char *dbfix_dir(const char *base, const char *name, uid_t uid, int *ret_fd) {
        char *dir = text_printf("%s/%s", base, name);

        assert_non_null(dir);
        assert_int_equal(mkdir(dir, 0755), 0);
        assert_int_equal(chown(dir, uid, uid), 0);
        *ret_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        assert_true(*ret_fd >= 0);
        return dir;
}

/* The child must not run the test's own clean-up: it ends by _exit alone. */
static pid_t child_of(uid_t uid) {
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0 &&
            (setgid(uid) < 0 || setuid(uid) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0))
                _exit(9);
        return pid;
}

static sqlite3 *child_open(const char *dir, const char *name) {
        char path[512];
        sqlite3 *db = NULL;

        (void) snprintf(path, sizeof(path), "%s/%s", dir, name);
        /* Long: several busy writers of one rollback journal starve each other, hold or not. */
        if (sqlite3_open(path, &db) != SQLITE_OK || sqlite3_busy_timeout(db, 60000) != SQLITE_OK)
                _exit(8);
        return db;
}

void dbfix_exec(uid_t uid, const char *dir, const char *name, const char *sql) {
        int status = -1;
        pid_t pid = child_of(uid);

        if (pid == 0) {
                sqlite3 *db = child_open(dir, name);
                char *text = NULL;

                if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK) {
                        (void) fprintf(stderr, "%s: %s\n", sql, text);
                        _exit(7);
                }
                _exit(sqlite3_close(db) == SQLITE_OK ? 0 : 6);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

int64_t dbfix_number(const char *dir, const char *name, const char *sql) {
        _cleanup_free_ char *path = text_printf("%s/%s", dir, name);
        sqlite3_stmt *stmt = NULL;
        sqlite3 *db = NULL;
        int64_t n;

        assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
        n = sqlite3_column_int64(stmt, 0);
        sqlite3_finalize(stmt);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
        return n;
}

static int write_once(sqlite3 *db, unsigned slow_usec) {
        int rc = sqlite3_exec(db, "BEGIN IMMEDIATE; INSERT INTO t VALUES(randomblob(300))", NULL,
                              NULL, NULL);

        if (rc == SQLITE_OK && slow_usec > 0)
                (void) usleep(slow_usec);
        if (rc == SQLITE_OK)
                rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
        if (rc != SQLITE_OK && !sqlite3_get_autocommit(db))
                (void) sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
        return rc;
}

static void write_for_ever(sqlite3 *db, DbfixStats *s) {
        while (!s->stop) {
                uint64_t start = clock_monotonic_usec(), took;
                int rc = write_once(db, s->slow_usec);

                took = clock_monotonic_usec() - start;
                if (rc != SQLITE_OK)
                        s->errors++;
                else
                        s->commits++;
                if (took > s->longest_usec)
                        s->longest_usec = took;
        }
}

static void grip(sqlite3 *db, DbfixStats *s) {
        if (sqlite3_exec(db, "BEGIN IMMEDIATE; INSERT INTO t VALUES(1)", NULL, NULL, NULL) !=
            SQLITE_OK)
                s->errors++;
        s->ready = true;
        while (!s->go && !s->stop)
                (void) usleep(1000);
        if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
                s->errors++;
        else
                s->commits++;
}

DbfixWriter dbfix_writer(uid_t uid, const char *dir, const char *name, bool hold) {
        DbfixWriter w = { 0 };

        w.stats = mmap(NULL, sizeof(*w.stats), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                       -1, 0);
        assert_true(w.stats != MAP_FAILED);
        w.pid = child_of(uid);
        if (w.pid == 0) {
                sqlite3 *db = child_open(dir, name);

                (void) sqlite3_exec(db, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
                if (hold)
                        grip(db, w.stats);
                else {
                        w.stats->ready = true;
                        write_for_ever(db, w.stats);
                }
                _exit(0);
        }
        while (!w.stats->ready)
                (void) usleep(1000);
        return w;
}

void dbfix_writer_stop(DbfixWriter *w) {
        w->stats->stop = true;
        assert_int_equal(waitpid(w->pid, NULL, 0), w->pid);
        (void) munmap(w->stats, sizeof(*w->stats));
}

bool dbfix_writer_advances(const DbfixWriter *w, uint64_t n) {
        uint64_t goal = w->stats->commits + n, end = clock_monotonic_usec() + 5 * USEC_PER_SEC;

        while (w->stats->commits < goal)
                if (usleep(1000) < 0 || clock_monotonic_usec() > end)
                        return false;
        return true;
}

void dbfix_copy(const char *from_dir, const char *to_dir, const char *name) {
        _cleanup_free_ char *from = text_printf("%s/%s", from_dir, name);
        _cleanup_free_ char *data = NULL;
        _cleanup_close_ int fd = open(from, O_RDONLY | O_CLOEXEC);
        struct stat st;

        if (fd < 0)
                return;
        assert_int_equal(fstat(fd, &st), 0);
        data = malloc((size_t) st.st_size + 1);
        assert_non_null(data);
        assert_int_equal(fd_read_full(fd, data, (size_t) st.st_size), st.st_size);
        dbfix_write(to_dir, name, st.st_uid, data, (size_t) st.st_size);
}

void dbfix_copy_all(const char *from_dir, const char *to_dir, const char *name) {
        static const char *const suffixes[] = { "", "-wal", "-shm", "-journal" };

        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                _cleanup_free_ char *file = text_printf("%s%s", name, suffixes[i]);

                dbfix_copy(from_dir, to_dir, file);
        }
}

void dbfix_write(const char *dir, const char *name, uid_t uid, const void *data, size_t n) {
        _cleanup_free_ char *path = text_printf("%s/%s", dir, name);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        assert_true(fd >= 0);
        assert_int_equal(fd_write_full(fd, data, n), 0);
        assert_int_equal(fchown(fd, uid, uid), 0);
}

bool dbfix_exists(const char *dir, const char *name) {
        _cleanup_free_ char *path = text_printf("%s/%s", dir, name);
        struct stat st;

        return lstat(path, &st) == 0;
}

void dbfix_hot_journal(const char *dir, const char *name, uid_t uid, const char *super) {
        static const uint8_t magic[8] = { 0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7 };
        _cleanup_free_ char *file = text_printf("%s-journal", name);
        _cleanup_free_ char *path = text_printf("%s/%s", dir, name);
        size_t len = strlen(super);
        struct stat st;
        uint8_t b[2048] = { 0 };
        uint32_t sum = 0;
        uint8_t *p = b + 512;

        /* Header: no records, sector 512, page 4096. Then the name: page, name, length, sum, magic.
         */
        assert_int_equal(stat(path, &st), 0);
        memcpy(b, magic, sizeof(magic));
        b[19] = (uint8_t) (st.st_size / 4096); /* pages before the transaction */
        b[22] = 2;                             /* sector size 512 */
        b[26] = 0x10;                          /* page size 4096 */
        p[1] = 0x04, p[3] = 0x01; /* page 0x40001: the one of the lock bytes, 1 GiB / 4096 + 1 */
        memcpy(p + 4, super, len);
        for (size_t i = 0; i < len; i++)
                sum += (uint32_t) super[i];
        p += 4 + len;
        for (int i = 0; i < 4; i++) {
                p[i] = (uint8_t) (len >> (24 - 8 * i));
                p[4 + i] = (uint8_t) (sum >> (24 - 8 * i));
        }
        memcpy(p + 8, magic, sizeof(magic));
        dbfix_write(dir, file, uid, b, (size_t) (p + 16 - b));
}

pid_t dbfix_helper_pid(void) {
        _cleanup_dir_ DIR *d = opendir("/proc");
        struct dirent *e;

        while (d && (e = readdir(d))) {
                char path[64], text[512] = "";
                _cleanup_file_ FILE *f = NULL;
                int parent = 0;
                const char *end;

                (void) snprintf(path, sizeof(path), "/proc/%.20s/stat", e->d_name);
                f = fopen(path, "re");
                if (!f || !fgets(text, sizeof(text), f) || !strstr(text, "(holdpoint-sqlit"))
                        continue;
                end = strrchr(text, ')');
                if (end && sscanf(end + 1, " %*c %d", &parent) == 1 && parent == getpid())
                        return atoi(e->d_name);
        }
        return -1;
}

int dbfix_helper_set_up(void **state) {
        char *base = dbfix_new();
        char command[512];
        int n = snprintf(command, sizeof(command), "install -m 755 '%s/%s' '%s'",
                         proc_libexec_dir(), HP_SQLITE_PROGRAM, base);

        assert_in_range(n, 1, sizeof(command) - 1);
        assert_int_equal(system(command), 0);
        assert_int_equal(setenv(HP_ENV_LIBEXEC, base, 1), 0);
        *state = base;
        return 0;
}

int dbfix_helper_tear_down(void **state) {
        dbfix_remove(*state);
        return 0;
}
