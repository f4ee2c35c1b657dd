/*
 * Databases of a frozen image, one per process: recovery in place, and the check of what is
 * recovered.
 *
 * Recovery leaves one file per database: SQLite rolls a hot journal back and folds the WAL in; side
 * files that are left then hold nothing (a journal with a zeroed header, -shm, an empty WAL) and
 * are removed. A side file that still holds something fails the database: it is never thrown away.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "sql/helper.h"

/* ---- recover ---- */

/* What SQLite says of the database once it is recovered, to be found again in the closed file. */
static int read_state(Helper *h, HelperDb *db, sqlite3 *conn, HelperHeader *ret, Failure *reterr) {
        int64_t page_size = 0, user_version = 0, tables;
        sqlite3_stmt *stmt = NULL;
        int rc;

        /* The first read recovers; the second makes SQLite look at the whole schema. */
        rc = helper_db_number(conn, "PRAGMA schema_version", &tables);
        if (rc == SQLITE_OK)
                rc = helper_db_number(conn, "SELECT count(*) FROM sqlite_schema", &tables);
        if (rc == SQLITE_OK)
                rc = helper_db_number(conn, "PRAGMA page_size", &page_size);
        if (rc == SQLITE_OK)
                rc = helper_db_number(conn, "PRAGMA user_version", &user_version);
        if (rc == SQLITE_OK)
                rc = sqlite3_prepare_v2(conn, "PRAGMA journal_mode", -1, &stmt, NULL);
        if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
                const char *mode = (const char *) sqlite3_column_text(stmt, 0);

                ret->wal = mode && strcmp(mode, "wal") == 0;
        }
        (void) sqlite3_finalize(stmt);
        if (rc != SQLITE_OK)
                return helper_db_failure(h, db, conn, rc, "recover", reterr);
        ret->page_size = (uint32_t) page_size;
        ret->user_version = (uint32_t) user_version;
        return 0;
}

static int recover_open(Helper *h, HelperDb *db, HelperHeader *state, Failure *reterr) {
        sqlite3 *conn = NULL;
        int r, rc;

        r = helper_db_open(h, db, &h->deadline_usec, &conn, reterr);
        if (r < 0)
                return r;
        r = read_state(h, db, conn, state, reterr);
        if (r >= 0 && state->wal) {
                int log = -1, done = -1;

                rc = sqlite3_wal_checkpoint_v2(conn, "main", SQLITE_CHECKPOINT_TRUNCATE, &log,
                                               &done);
                if (rc != SQLITE_OK || log != 0)
                        r = helper_db_failure(h, db, conn, rc == SQLITE_OK ? SQLITE_BUSY : rc,
                                              "fold the write-ahead log in", reterr);
        }
        /* Nothing is left to checkpoint, or the log is to stay as it is: NO_CKPT_ON_CLOSE is set.
         */
        rc = sqlite3_close(conn);
        if (r >= 0 && rc != SQLITE_OK)
                r = helper_db_failure(h, db, NULL, rc, "close", reterr);
        return r;
}

/* Removes a side file that holds nothing any more. */
static int remove_side_file(Helper *h, HelperDb *db, const char *suffix, Failure *reterr) {
        /* SQLite writes a journal's magic last, when it syncs it, before it touches the database;
         * what was caught before that point is no journal yet, whatever follows in it. */
        static const uint8_t zeroes[8] = { 0 };
        _cleanup_free_ char *name = text_printf("%s%s", db->name, suffix);
        uint8_t head[sizeof(zeroes)] = { 0 };
        _cleanup_close_ int fd = -1;
        struct stat st;
        ssize_t n;

        if (!name)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        if (fstatat(db->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
                if (errno == ENOENT)
                        return 0;
                return fail_errno(reterr, FAIL_INTERNAL, errno, "%s%s", db->path, suffix);
        }
        fd = helper_open_file(h, db, suffix, O_RDONLY, reterr);
        if (fd < 0)
                return fd;
        if (strcmp(suffix, "-shm") != 0 && st.st_size > 0) {
                n = fd_pread_full(fd, head, sizeof(head), 0);
                if (n < 0 || strcmp(suffix, "-journal") != 0 ||
                    memcmp(head, zeroes, sizeof(head)) != 0)
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                        "%s%s still holds data after the recovery", db->path,
                                        suffix);
        }
        if (unlinkat(db->dirfd, name, 0) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot remove %s%s from the image",
                                  db->path, suffix);
        return 0;
}

static int recover_one(Helper *h, HelperDb *db, Failure *reterr) {
        HelperHeader state = { 0 }, after;
        _cleanup_close_ int fd = -1;
        int r;

        fd = helper_open_file(h, db, "", O_RDWR, reterr);
        if (fd < 0)
                return fd;
        r = recover_open(h, db, &state, reterr);
        if (r < 0)
                return r;
        r = remove_side_file(h, db, "-journal", reterr);
        if (r >= 0)
                r = remove_side_file(h, db, "-wal", reterr);
        if (r >= 0)
                r = remove_side_file(h, db, "-shm", reterr);
        if (r >= 0)
                r = helper_read_header(db, fd, &after, reterr);
        if (r < 0)
                return r;
        if (!after.empty && (after.wal != state.wal || after.page_size != state.page_size ||
                             after.user_version != state.user_version))
                return fail_set(
                        reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                        "%s: journal mode, page size or user_version changed by the recovery",
                        db->path);
        if (fsync(fd) < 0) /* once, and its error counts: see plain_sync() */
                return fail_errno(reterr, fail_code_for_write(errno, FAIL_INTERNAL), errno,
                                  "the recovery of %s could not be written", db->path);
        return 0;
}

static int set_deadline(Helper *h, json_object *message) {
        uint64_t timeout;

        if (json_get_u64(message, "timeout_usec", &timeout) < 0)
                return -EBADMSG;
        h->deadline_usec = clock_monotonic_usec() + timeout;
        return 0;
}

int helper_image_recover(Helper *h, json_object *message) {
        HelperDb *db = &h->dbs[0];
        Failure failure = FAILURE_INIT;
        int r = set_deadline(h, message);

        if (r < 0)
                return r;
        r = recover_one(h, db, &failure);
        if (r >= 0)
                log_info("%s: recovered in the image", db->path);
        return helper_answer(h, r < 0 ? "failed" : "recovered", db, r < 0 ? &failure : NULL);
}

/* ---- check ---- */

/* With a journal or a log next to it the file alone is not the database. */
static int require_alone(Helper *h, HelperDb *db, Failure *reterr) {
        static const char *const suffixes[] = { "-journal", "-wal" };

        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                _cleanup_free_ char *name = text_printf("%s%s", db->name, suffixes[i]);
                struct stat st;

                if (!name)
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
                if (fstatat(db->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) >= 0)
                        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EEXIST,
                                        "%s%s exists: the database has not been recovered",
                                        db->path, suffixes[i]);
                if (errno != ENOENT)
                        return fail_errno(reterr, FAIL_INTERNAL, errno, "%s%s", db->path,
                                          suffixes[i]);
        }
        return 0;
}

/* SQLite heads its findings with "*** in database main ***". */
static const char *first_line(const unsigned char *text) {
        const char *line = text ? (const char *) text : "no answer", *next = strchr(line, '\n');

        return strncmp(line, "***", 3) == 0 && next ? next + 1 : line;
}

/*
 * Returns 1 for a sound database, 0 for a damaged one with the reason, negative when nothing is
 * known.
 */
static int check_one(Helper *h, HelperDb *db, Failure *reterr) {
        sqlite3_stmt *stmt = NULL;
        sqlite3 *conn = NULL;
        int r, rc;

        r = require_alone(h, db, reterr);
        if (r < 0)
                return r;
        r = helper_db_open(h, db, &h->deadline_usec, &conn, reterr);
        if (r < 0)
                return r;
        rc = sqlite3_prepare_v2(conn, "PRAGMA quick_check(1)", -1, &stmt, NULL);
        if (rc == SQLITE_OK) {
                rc = sqlite3_step(stmt);
                if (rc == SQLITE_ROW) {
                        const char *line = first_line(sqlite3_column_text(stmt, 0));

                        r = strcmp(line, "ok") == 0;
                        if (r == 0)
                                (void) fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "%s: %.*s",
                                                db->path, (int) strcspn(line, "\n"), line);
                        rc = SQLITE_OK;
                }
        }
        if (rc != SQLITE_OK) {
                r = helper_db_failure(h, db, conn, rc, "quick_check", reterr);
                if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB)
                        r = 0;
        }
        (void) sqlite3_finalize(stmt); /* its error is that of the step */
        (void) sqlite3_close(conn);    /* nothing was written */
        return r;
}

int helper_image_check(Helper *h, json_object *message) {
        HelperDb *db = &h->dbs[0];
        Failure failure = FAILURE_INIT;
        int r = set_deadline(h, message);

        if (r < 0)
                return r;
        r = check_one(h, db, &failure);
        if (r < 0)
                return helper_answer(h, "failed", db, &failure);
        log_info("%s: quick_check says %s", db->path, r > 0 ? "ok" : "that it is damaged");
        return helper_answer(h, r > 0 ? "sound" : "damaged", db, r > 0 ? NULL : &failure);
}
