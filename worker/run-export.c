/*
 * export: a backup, or a part of it, as a tar into a pipe. It is read from the manifest and the
 * packs, every chunk checked against its id, in constant memory; the end of the archive is written
 * only when all of it came.
 */

#include <errno.h>
#include <string.h>

#include "archive/arc-tar.h"
#include "base/log.h"
#include "base/text.h"
#include "worker/dir-order.h"
#include "worker/measure.h"
#include "worker/open-repo.h"
#include "worker/pick.h"
#include "worker/request-fds.h"
#include "worker/run.h"
#include "worker/stream.h"

#define RANGES_MAX                                                                                 \
        16384        /* of one sparse file: more, and the smallest holes are written as zeros      \
                      */
#define NAMED_MAX 10 /* objects that are named in the journal */

typedef struct Export {
        Work *work;
        Stream stream;
        Repo *repo;
        json_object *record;
        Pick pick;
        RepoManifest *manifest;
        RepoManifest *again; /* for directories that did not wait */
        RepoManifest *links; /* for hard links that leave the pick */
        DirOrder *order;
        ArcTar *tar;
        Buf ranges;            /* ArcTarRange, of the file under way */
        uint64_t smallest;     /* hole that is kept one */
        uint64_t gaps[64];     /* how many holes of each power of two */
        uint64_t gap_begin;    /* where the last data ended */
        uint64_t files, bytes; /* done */
} Export;

static void export_done(Export *x) {
        arc_tar_free(x->tar);
        dir_order_free(x->order);
        repo_manifest_free(x->manifest);
        repo_manifest_free(x->again);
        repo_manifest_free(x->links);
        pick_done(&x->pick);
        json_object_put(x->record);
        repo_close(x->repo);
        buf_done(&x->ranges);
        stream_done(&x->stream);
}

static int out_of_memory(Failure *reterr) {
        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "export");
}

static int to_stream(void *userdata, const void *data, size_t n, Failure *reterr) {
        Export *x = userdata;

        return stream_write(&x->stream, data, n, reterr);
}

static bool is_interrupted(void *userdata) {
        const Export *x = userdata;

        return work_interrupted(x->work);
}

/* ---- where a sparse file has data ---- */

static unsigned power_of(uint64_t n) {
        return 63 - (unsigned) __builtin_clzll(n | 1);
}

static int count_gap(void *userdata, uint64_t offset, uint64_t n, Failure *reterr) {
        Export *x = userdata;

        x->gaps[power_of(offset - x->gap_begin)]++;
        x->gap_begin = offset + n;
        return 0;
}

/* The smallest size of a hole at which no more than RANGES_MAX are left. */
static uint64_t choose_smallest(const Export *x) {
        uint64_t n = 0;

        for (unsigned power = 64; power-- > 0;) {
                n += x->gaps[power];
                if (n >= RANGES_MAX)
                        return power < 63 ? UINT64_C(2) << power : UINT64_MAX;
        }
        return 1;
}

static int add_range(void *userdata, uint64_t offset, uint64_t n, Failure *reterr) {
        Export *x = userdata;
        ArcTarRange range = { .offset = offset, .size = n };
        int r;

        if (x->ranges.size > 0) {
                ArcTarRange *last = (void *) (x->ranges.data + x->ranges.size - sizeof(range));

                if (offset - (last->offset + last->size) < x->smallest) {
                        last->size = offset + n - last->offset;
                        return 0;
                }
        }
        r = buf_put(&x->ranges, &range, sizeof(range));
        return r < 0 ? out_of_memory(reterr) : 0;
}

static int map_file(Export *x, RepoManifest *m, const Entry *e, Failure *reterr) {
        int r;

        memset(x->gaps, 0, sizeof(x->gaps));
        x->gap_begin = 0;
        buf_clear(&x->ranges);
        r = repo_content_map(m, e, count_gap, x, reterr);
        if (r < 0)
                return r;
        x->smallest = choose_smallest(x);
        return repo_content_map(m, e, add_range, x, reterr);
}

/* ---- entries ---- */

static int write_chunk(void *userdata, uint64_t offset, const void *data, size_t n, Failure *e) {
        Export *x = userdata;
        int r = arc_tar_data(x->tar, offset, data, n, e);

        if (r < 0)
                return r;
        x->work->bytes_done += n;
        work_progress(x->work, false);
        return work_interrupted(x->work) ? fail_set(e, FAIL_CANCELED, ECANCELED, "canceled") : 0;
}

static int put_file(Export *x, RepoManifest *m, const Entry *e, const char *name, Failure *reterr) {
        static const ArcTarRange none;
        const ArcTarRange *ranges = NULL;
        uint64_t before = x->work->bytes_done;
        int r = 0;

        if (e->sparse && e->size > 0) {
                r = map_file(x, m, e, reterr);
                ranges = x->ranges.size > 0 ? (const void *) x->ranges.data : &none;
        }
        if (r >= 0)
                r = arc_tar_put(x->tar, name, e, NULL, ranges,
                                ranges ? x->ranges.size / sizeof(*ranges) : 0, reterr);
        if (r >= 0)
                r = repo_content_read(m, e, write_chunk, x, reterr);
        if (r >= 0)
                r = arc_tar_end_file(x->tar, reterr);
        x->bytes += e->size;
        x->work->bytes_done = before + e->size; /* holes are done, too */
        return r;
}

/* A further name of a file that is not in this archive: here it is the file itself. */
static int
put_linked(Export *x, const Entry *link, const char *name, const char *target, Failure *reterr) {
        _cleanup_free_ char *dir = strdup(target);
        const Entry *e;
        char *slash;
        int r;

        if (!dir)
                return out_of_memory(reterr);
        slash = strrchr(dir, '/');
        *slash = 0;
        r = x->links ? 0 : repo_manifest_open(x->repo, x->record, &x->links, reterr);
        if (r >= 0)
                r = repo_manifest_find(x->links, link->service, slash == dir ? "/" : dir, slash + 1,
                                       &e, reterr);
        if (r > 0 && e->type == ENTRY_FILE)
                return put_file(x, x->links, e, name, reterr);
        if (r > 0 && e->type != ENTRY_DIRECTORY && e->type != ENTRY_HARDLINK)
                return arc_tar_put(x->tar, name, e, NULL, NULL, 0, reterr);
        return r < 0 ? r
                     : fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT,
                                "%s is a hard link to a file that is not in the manifest",
                                link->name);
}

static int put_link(Export *x, const Entry *e, const char *name, Failure *reterr) {
        _cleanup_free_ char *target = NULL, *link = NULL;

        if (!text_is_clean_path(e->target) || !e->target[1])
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "%s is a hard link to nothing", e->name);
        target = strdup(e->target);
        link = text_printf("%s%s", e->service, e->target);
        if (!target || !link)
                return out_of_memory(reterr);
        if (pick_has_path(&x->pick, target))
                return arc_tar_put(x->tar, name, e, link, NULL, 0, reterr);
        return put_linked(x, e, name, target, reterr);
}

static void tell_large_acl(const Export *x, const char *name) {
        _cleanup_free_ char *shown = text_escape(name);

        if (arc_tar_large_acls(x->tar) <= NAMED_MAX)
                log_warning(
                        "%s has an ACL for a user or group beyond 2147483646, which bsdtar takes "
                        "for 2147483647: unpack it with GNU tar",
                        shown ? shown : "an object");
}

static int export_entry(void *userdata, const Entry *e, Failure *reterr) {
        Export *x = userdata;
        uint64_t large = arc_tar_large_acls(x->tar);
        _cleanup_free_ char *path = pick_entry_path(e), *name = NULL;
        int r;

        if (path)
                name = text_printf("%s%s", e->service, path);
        if (!name)
                return out_of_memory(reterr);
        if (e->type == ENTRY_FILE)
                r = put_file(x, x->manifest, e, name, reterr);
        else if (e->type == ENTRY_HARDLINK)
                r = put_link(x, e, name, reterr);
        else
                r = arc_tar_put(x->tar, name, e, NULL, NULL, 0, reterr);
        if (r < 0)
                return r;
        if (arc_tar_large_acls(x->tar) > large)
                tell_large_acl(x, name);
        x->files++;
        x->work->files_done++;
        work_progress(x->work, false);
        return 0;
}

static int take_entry(void *userdata, const Entry *e, Failure *reterr) {
        Export *x = userdata;

        return dir_order_put(x->order, e, reterr);
}

/* ---- the verb ---- */

static int open_backup(Export *x, const char *id, Failure *reterr) {
        int r = open_repo(x->work, false, false, &x->repo, reterr);

        if (r == -ENOENT && reterr->code == FAIL_NONE)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT,
                                "no backup %s: there is no repository", id);
        if (r >= 0)
                r = repo_record_load(x->repo, id, &x->record, reterr);
        return r < 0 ? r : request_use_key(x->work, x->repo, reterr);
}

static int prepare(Export *x, Failure *reterr) {
        const char *id, *service, *path, *format;
        ArcTarParams params = { .write = to_stream, .interrupted = is_interrupted, .userdata = x };
        Work *w = x->work;
        int r;

        if ((r = work_uuid(w, "backup_id", &id, reterr)) < 0 ||
            (r = work_string(w, "service", &service, reterr)) < 0 ||
            (r = work_string(w, "path", &path, reterr)) < 0 ||
            (r = work_string(w, "format", &format, reterr)) < 0)
                return r;
        params.zstd = strcmp(format, "tar.zst") == 0;
        if (!params.zstd && strcmp(format, "tar") != 0)
                return fail_set(reterr, FAIL_INVALID_ARGUMENT, EINVAL,
                                "format '%s' is not known: tar and tar.zst are", format);
        if ((r = stream_open(w, &x->stream, reterr)) < 0 || (r = open_backup(x, id, reterr)) < 0 ||
            (r = pick_resolve(x->repo, x->record, service, path, &x->pick, reterr)) < 0 ||
            (r = repo_manifest_open(x->repo, x->record, &x->manifest, reterr)) < 0 ||
            (r = repo_manifest_open(x->repo, x->record, &x->again, reterr)) < 0 ||
            (r = dir_order_new(x->again, export_entry, x, &x->order, reterr)) < 0)
                return r;
        return arc_tar_new(&params, &x->tar, reterr);
}

static int set_totals(Export *x, Failure *reterr) {
        json_object *services = x->pick.services;
        Measured sum = { 0 };
        int r = 0;

        if (x->pick.all && !x->pick.path)
                measure_record(x->record, &sum);
        else
                for (size_t i = 0; r >= 0 && i < json_object_array_length(services); i++)
                        r = measure_path(
                                x->work, x->repo, x->record,
                                json_object_get_string(json_object_array_get_idx(services, i)),
                                x->pick.path, &sum, reterr);
        x->work->bytes_total = sum.bytes;
        x->work->files_total = sum.entries;
        work_progress(x->work, true);
        return r;
}

int run_export(Work *w, const char **ret_result, json_object **ret_summary, Failure *reterr) {
        _cleanup_(export_done) Export x = { .work = w, .stream = STREAM_INIT, .pick = PICK_INIT };
        int r = prepare(&x, reterr);

        if (r < 0)
                return r;
        work_accepted(w);
        work_phase(w, "export");
        r = set_totals(&x, reterr);
        if (r >= 0)
                r = pick_each(&x.pick, w, x.manifest, take_entry, &x, reterr);
        if (r >= 0)
                r = dir_order_finish(x.order, reterr);
        if (r >= 0)
                r = arc_tar_finish(x.tar, reterr);
        if (r >= 0)
                r = stream_end(&x.stream, reterr);
        if (r < 0)
                return r;
        work_progress(w, true);
        *ret_summary = json_object_new_object();
        if (json_put_u64(*ret_summary, "files", x.files) < 0 ||
            json_put_u64(*ret_summary, "bytes", x.bytes) < 0 ||
            json_put_u64(*ret_summary, "large_acls", arc_tar_large_acls(x.tar)) < 0)
                return out_of_memory(reterr);
        return 0;
}
