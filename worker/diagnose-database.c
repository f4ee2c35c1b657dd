#include "worker/diagnose-database.h"

#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/text.h"

#define OWNERS_MAX    8
#define OWNERS_TEXT   256
#define BAD_TOLD_MAX  20
#define VERSION_PLACE 18 /* of the file format's write version in the header: 2 is WAL */

typedef struct Owners {
        uid_t uids[OWNERS_MAX];
        size_t n;
        bool more;
} Owners;

static void add_owner(Owners *o, uid_t uid) {
        for (size_t i = 0; i < o->n; i++)
                if (o->uids[i] == uid)
                        return;
        if (o->n == OWNERS_MAX)
                o->more = true;
        else
                o->uids[o->n++] = uid;
}

static void name_owners(const Owners *o, char ret[OWNERS_TEXT]) {
        size_t n = 0;

        *ret = 0;
        for (size_t i = 0; i < o->n && n < OWNERS_TEXT; i++) {
                const struct passwd *pw = getpwuid(o->uids[i]);

                n += (size_t) snprintf(ret + n, OWNERS_TEXT - n, i > 0 ? ", %.20s" : "%.20s",
                                       pw ? pw->pw_name : "uid");
                if (!pw && n < OWNERS_TEXT)
                        n += (size_t) snprintf(ret + n, OWNERS_TEXT - n, " %u",
                                               (unsigned) o->uids[i]);
        }
        if (o->more && n < OWNERS_TEXT)
                (void) snprintf(ret + n, OWNERS_TEXT - n, " and more");
}

static bool is_wal(const SourceDatabase *db) {
        _cleanup_close_ int fd =
                openat(db->live_dirfd, db->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        uint8_t version = 0;

        return fd >= 0 && fd_pread_full(fd, &version, 1, VERSION_PLACE) == 1 && version == 2;
}

/* The rule of snapshot/hold-helper.c: root does not open what others can exchange under it. */
static bool is_unsafe(const SourceDatabase *db) {
        struct stat st;

        return db->uid == 0 && fstat(db->live_dirfd, &st) == 0 &&
               (st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)));
}

static void tell_unsafe(Diagnosis *d, const ConfigService *c, const SourceDatabase *db) {
        findings_add(
                &d->findings, FINDING_WARNING, ABOUT_SERVICE("service.database-owner", c, db->path),
                "chown it (and its -wal and -shm) to the user of its service, or its directory "
                "to root",
                "belongs to root in a directory that others may write: it is not held, and the "
                "backup is only as consistent as after a crash");
}

void diagnose_databases(Diagnosis *d, const ConfigService *c, const Source *s) {
        const FindingAbout about = { "service.databases", c->name, c->name };
        Owners owners = { .n = 0 };
        char names[OWNERS_TEXT];
        size_t wal = 0, bad = 0;

        if (c->databases == CONFIG_DATABASES_NONE)
                return;
        if (s->n_databases == 0) {
                findings_add(&d->findings, FINDING_NOTE, &about,
                             "Databases=none says that it is meant so",
                             "no SQLite database was found");
                return;
        }
        for (size_t i = 0; i < s->n_databases; i++) {
                const SourceDatabase *db = &s->databases[i];

                add_owner(&owners, db->uid);
                wal += is_wal(db);
                if (is_unsafe(db) && bad++ < BAD_TOLD_MAX)
                        tell_unsafe(d, c, db);
        }
        if (bad > BAD_TOLD_MAX)
                findings_add(&d->findings, FINDING_WARNING,
                             ABOUT_SERVICE("service.database-owner", c, c->name), NULL,
                             "%zu more like these", bad - BAD_TOLD_MAX);
        name_owners(&owners, names);
        findings_add(&d->findings, FINDING_OK, &about, NULL,
                     "%zu databases (%zu WAL, %zu rollback journal), of %s", s->n_databases, wal,
                     s->n_databases - wal, names);
}
