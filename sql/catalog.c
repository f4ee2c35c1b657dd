/*
 * Opening. A damaged catalogue is no reason not to run: everything in it but the history of jobs
 * can be told again by the repository, so it is put aside for whoever wants to look and a fresh one
 * made. A file that another program version made newer is different: nothing in it is wrong.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/fs.h"
#include "base/log.h"
#include "sql/catalog-internal.h"

const char *catalog_string(json_object *o, const char *key) {
        const char *s;

        return json_get_string(o, key, &s) < 0 ? "" : s;
}

uint64_t catalog_number(json_object *o, const char *key) {
        uint64_t v;

        return json_get_u64(o, key, &v) < 0 ? 0 : v;
}

int catalog_column_json(DbStmt *s, int column, json_object **ret, Failure *reterr) {
        const char *text = db_column_text(s, column);
        _cleanup_json_ json_object *o = json_parse(text, strlen(text));

        if (!json_object_is_type(o, json_type_object))
                return fail_set(reterr, FAIL_INTERNAL, EUCLEAN,
                                "a row of the catalogue is damaged; stop the agent and remove %s: "
                                "it is made again",
                                CATALOG_FILE);
        *ret = TAKE_PTR(o);
        return 0;
}

int catalog_collect(DbStmt *s, json_object **ret, Failure *reterr) {
        _cleanup_json_ json_object *list = json_object_new_array();
        int r;

        if (!list)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        while ((r = db_step(s, reterr)) > 0) {
                Failure why = FAILURE_INIT;
                json_object *o;

                if (catalog_column_json(s, 0, &o, &why) < 0) {
                        log_warning("Ignoring: %s", why.text);
                        continue;
                }
                if (json_object_array_add(list, o) < 0) {
                        json_object_put(o);
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
                }
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(list);
        return 0;
}

int catalog_get_one(DbStmt *s, json_object **ret, Failure *reterr) {
        int r = db_step(s, reterr);

        if (r < 0)
                return r;
        return r == 0 ? -ENOENT : catalog_column_json(s, 0, ret, reterr);
}

/* The reconcile's marks live in memory: what they say is worth nothing after a restart. */
static const char session_schema[] = "CREATE TEMP TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID";

static int open_and_check(const char *path, Db **ret, Failure *reterr) {
        const DbOptions options = {
                .full_sync = true, .foreign_keys = true, .cache_kib = 4096, .busy_msec = 2000
        };
        _cleanup_db_ Db *db = NULL;
        int r = db_open(path, &options, &db, reterr);

        if (r >= 0)
                r = db_quick_check(db, reterr);
        if (r >= 0)
                r = migrate_apply(db, catalog_migrations, catalog_n_migrations, reterr);
        if (r >= 0)
                r = db_exec(db, session_schema, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(db);
        return 0;
}

/* The side files go along: a log left behind would be replayed into the new file. */
static int move_aside(const char *dir, const char *path, Failure *reterr) {
        static const char *const suffixes[] = { "-wal", "-shm", "" };
        _cleanup_close_ int fd = -1;
        char stamp[32];
        time_t now = time(NULL);
        struct tm tm;

        (void) gmtime_r(&now, &tm);
        (void) strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
        for (size_t i = 0; i < ELEMENTSOF(suffixes); i++) {
                _cleanup_free_ char *from = text_printf("%s%s", path, suffixes[i]);
                _cleanup_free_ char *to = text_printf("%s.damaged-%s%s", path, stamp, suffixes[i]);

                if (!from || !to)
                        return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
                if (rename(from, to) < 0 && errno != ENOENT)
                        return fail_errno(reterr, FAIL_INTERNAL, errno,
                                          "cannot move the damaged %s aside", from);
        }
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fs_sync(fd) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot sync %s", dir);
        return 0;
}

int catalog_open(const char *dir, Catalog **ret, Failure *reterr) {
        _cleanup_free_ char *path = text_printf("%s/%s", dir, CATALOG_FILE);
        _cleanup_catalog_ Catalog *c = calloc(1, sizeof(*c));
        Failure why = FAILURE_INIT;
        int r;

        if (!path || !c)
                return fail_set(reterr, FAIL_INTERNAL, ENOMEM, "out of memory");
        r = open_and_check(path, &c->db, &why);
        if (r == -EUCLEAN) {
                log_warning("The catalogue is damaged (%s); moving it aside, it will be filled "
                            "again from the repository",
                            why.text);
                r = move_aside(dir, path, reterr);
                if (r < 0)
                        return r;
                why = FAILURE_INIT;
                r = open_and_check(path, &c->db, &why);
        }
        if (r < 0) {
                if (reterr)
                        *reterr = why;
                return r;
        }
        *ret = TAKE_PTR(c);
        return 0;
}

/* A reconcile goes on as if nothing had happened. */
static int copy_marks(Db *from, Db *to, Failure *reterr) {
        _cleanup_db_stmt_ DbStmt *get = NULL, *put = NULL;
        int r = db_prepare(from, "SELECT id FROM temp.seen", &get, reterr);

        if (r >= 0)
                r = db_prepare(to, "INSERT INTO temp.seen VALUES (?)", &put, reterr);
        while (r >= 0 && (r = db_step(get, reterr)) > 0) {
                db_reset(put);
                db_bind_text(put, 1, db_column_text(get, 0));
                r = db_run(put, reterr);
        }
        return r;
}

int catalog_move(Catalog *c, const char *dir, Failure *reterr) {
        _cleanup_catalog_ Catalog *to = NULL;
        Db *old = c->db;
        int r;

        if (c->depth > 0)
                return fail_set(reterr, FAIL_BUSY, EBUSY, "the catalogue is being written");
        r = catalog_open(dir, &to, reterr);
        if (r >= 0)
                r = db_copy(old, to->db, reterr);
        if (r >= 0)
                r = copy_marks(old, to->db, reterr);
        if (r < 0)
                return r;
        c->db = to->db;
        to->db = old;
        return 0;
}

void catalog_free(Catalog *c) {
        if (!c)
                return;
        db_close(c->db);
        free(c);
}

int catalog_batch_begin(Catalog *c, Failure *reterr) {
        int r = c->depth > 0 ? 0 : db_begin(c->db, reterr);

        if (r < 0)
                return r;
        if (c->depth == 0)
                c->broken = false;
        c->depth++;
        return 0;
}

int catalog_batch_commit(Catalog *c, Failure *reterr) {
        c->depth--;
        /* An error inside may have ended the transaction already (disk full): that is a failed
         * batch. */
        if (c->broken || !db_in_transaction(c->db)) {
                if (c->depth == 0)
                        db_rollback(c->db);
                return fail_set(reterr, FAIL_INTERNAL, EIO, "the catalogue could not be written");
        }
        return c->depth > 0 ? 0 : db_commit(c->db, reterr);
}

void catalog_batch_cancel(Catalog *c) {
        c->broken = true;
        if (--c->depth == 0)
                db_rollback(c->db);
}

void catalog_relax(Catalog *c, bool relaxed) {
        if (c->depth == 0)
                (void) db_exec(c->db,
                               relaxed ? "PRAGMA synchronous=NORMAL" : "PRAGMA synchronous=FULL",
                               NULL); /* else it waits, as usual */
}
