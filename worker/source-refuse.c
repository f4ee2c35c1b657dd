/*
 * What the user of one service can bring about (a missing path, a nested subvolume, an exhausted
 * quota) must not cost the others their backup. Everything that belongs to the service is taken
 * out of the Source, as if it had not been asked for; that it was stays in `refused`.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "worker/source.h"

/*
 * All else is ours, the configuration's, or the caller's own wish. Busy is a swap of the service
 * that is not recovered yet.
 */
static bool is_its_own_affair(const Failure *why) {
        return why->code == FAIL_SOURCE_MISSING || why->code == FAIL_SNAPSHOT_FAILED ||
               why->code == FAIL_NOT_RESTORABLE || why->code == FAIL_NO_SPACE ||
               why->code == FAIL_BUSY;
}

static void drop_paths(Source *s, size_t service) {
        size_t n = 0;

        for (size_t i = 0; i < s->n_paths; i++) {
                SourcePath p = s->paths[i];

                if (p.service == service)
                        continue;
                p.service -= p.service > service;
                s->paths[n++] = p;
        }
        s->n_paths = n;
}

static void drop_databases(Source *s, size_t service) {
        size_t n = 0;

        for (size_t i = 0; i < s->n_databases; i++) {
                SourceDatabase d = s->databases[i];

                if (d.service == service) {
                        free(d.path);
                        fd_close(d.live_dirfd);
                        fd_close(d.copy_fd);
                        continue;
                }
                d.service -= d.service > service;
                s->databases[n++] = d;
        }
        s->n_databases = n;
}

static void drop_problems(Source *s, size_t service) {
        size_t n = 0;

        for (size_t i = 0; i < s->n_problems; i++) {
                SourceProblem p = s->problems[i];

                if (p.service == service) {
                        free(p.path);
                        continue;
                }
                p.service -= p.service > service;
                s->problems[n++] = p;
        }
        s->n_problems = n;
}

/* An image of what nobody asked for any more would cost space, and could fail once again. */
static void drop_volumes(Source *s) {
        for (size_t v = 0; v < s->n_volumes;) {
                bool used = false;

                for (size_t i = 0; i < s->n_paths; i++)
                        used |= s->paths[i].volume == v;
                if (used) {
                        v++;
                        continue;
                }
                volume_free(s->volumes[v]);
                s->n_volumes--;
                memmove(s->volumes + v, s->volumes + v + 1,
                        (s->n_volumes - v) * sizeof(*s->volumes));
                for (size_t i = 0; i < s->n_paths; i++)
                        s->paths[i].volume -= s->paths[i].volume > v;
                for (size_t i = 0; i < s->n_databases; i++)
                        s->databases[i].volume -= s->databases[i].volume > v;
        }
}

int source_refuse(Source *s, size_t i, int r, const Failure *why, Failure *reterr) {
        bool had_holds = s->holds != NULL;

        if (!is_its_own_affair(why) || (s->n_services == 1 && s->n_refused == 0)) {
                *reterr = *why;
                return r;
        }
        log_message(MESSAGE_SERVICE_LEFT_OUT,
                    &(LogFields){ .service = s->services[i].config->name,
                                  .error = fail_name(why->code) },
                    "service %s is not in this backup: %s", s->services[i].config->name, why->text);
        s->refused[s->n_refused++] =
                (SourceRefusal){ .config = s->services[i].config, .why = *why };
        drop_paths(s, i);
        drop_databases(s, i);
        drop_problems(s, i);
        drop_volumes(s);
        globs_free(s->services[i].rules);
        s->n_services--;
        memmove(s->services + i, s->services + i + 1, (s->n_services - i) * sizeof(*s->services));
        if (s->n_services == 0) {
                *reterr = s->refused[0].why;
                return -reterr->errnum;
        }
        return had_holds ? source_make_holds(s, reterr) : 0;
}

int source_refuse_volume(Source *s, size_t v, int r, const Failure *why, Failure *reterr) {
        _cleanup_free_ bool *concerned = calloc(s->n_services, sizeof(bool));

        if (!concerned)
                return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "services");
        for (size_t i = 0; i < s->n_paths; i++)
                concerned[s->paths[i].service] |= s->paths[i].volume == v;
        /* From the last to the first: what comes before keeps its number. */
        for (size_t i = s->n_services; i-- > 0;) {
                int k = concerned[i] ? source_refuse(s, i, r, why, reterr) : 0;

                if (k < 0)
                        return k;
        }
        return 0;
}
