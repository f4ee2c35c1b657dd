/*
 * Reads all that a backup needs and compares it with MACs and keyed hashes; no private key, no mark
 * left.
 *
 * The manifest says which ids are needed, the index which packs hold them, and each such pack is
 * read from its first byte to its last. The index itself is believed only as far as the directories
 * bear it out: the rows that point to a pack must be exactly those of its directory, else an id
 * might be "found" where it is not.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "repo/repo-internal.h"

#define MISSING_NAMED 20 /* missing chunks that are named one by one */

typedef struct Check {
        Repo *repo;
        const char *backup_id;
        bool metadata; /* packs are opened and compared with the index, their records not read */
        void (*on_damage)(void *userdata, const char *object, const Failure *why);
        void (*on_progress)(void *userdata, const RepoCheck *sum);
        void *userdata;
        RepoCheck sum;
        uint64_t missing;
        Buf rows;          /* u32 per pack number: rows of the index that point to it */
        Buf used;          /* a byte per pack number */
        Buf sessions;      /* uuids */
        CryptoSha *blocks; /* over the ids of the manifest's blocks */
        uint64_t n_blocks;
        Failure not_noted; /* why a pack's damage could not be kept */
} Check;

#define CHECK_MAX ((size_t) 256 << 20)

static void report(Check *c, const char *object, const Failure *why) {
        c->sum.damaged++;
        if (c->on_damage)
                c->on_damage(c->userdata, object, why);
}

/* Damage is reported and passed over (0); anything else ends the check. */
static int judge(Check *c, const char *object, int r, const Failure *why, Failure *reterr) {
        if (r >= 0)
                return 0;
        if (why->code == FAIL_INTEGRITY_FAILURE) {
                report(c, object, why);
                return 0;
        }
        if (reterr && reterr->code == FAIL_NONE)
                *reterr = *why;
        return r;
}

static void advance(void *userdata, uint64_t bytes) {
        Check *c = userdata;

        c->sum.bytes += bytes;
        if (c->on_progress)
                c->on_progress(c->userdata, &c->sum);
}

/* ---- small objects ---- */

static int check_object(Check *c,
                        ObjectKind kind,
                        const uint8_t uuid[UUID_SIZE],
                        json_object **ret,
                        Failure *reterr) {
        _cleanup_json_ json_object *payload = NULL;
        Failure why = FAILURE_INIT;
        char name[STORE_NAME_MAX];
        int r;

        store_object_name(kind, uuid, name);
        r = object_read(c->repo, kind, uuid, &payload, &why);
        if (r == -ENOENT)
                r = fail_set(&why, FAIL_INTEGRITY_FAILURE, ENOENT, "%s is missing", name);
        c->sum.objects++;
        c->sum.bytes += store_size(c->repo->store, name);
        if (r >= 0 && ret)
                *ret = TAKE_PTR(payload);
        return judge(c, name, r, &why, reterr);
}

/* ---- which packs ---- */

static int mark_pack(Check *c, uint64_t no, Failure *reterr) {
        int r;

        if (no >= c->used.size) {
                size_t grow = (size_t) no + 1024 - c->used.size;

                r = no > CHECK_MAX / 2 ? -EMSGSIZE : buf_reserve(&c->used, grow);
                if (r < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot note the packs");
                memset(c->used.data + c->used.size, 0, grow);
                c->used.size += grow;
        }
        c->used.data[no] = 1;
        return 0;
}

static void report_missing(Check *c, const uint8_t id[ID_SIZE]) {
        Failure why = FAILURE_INIT;
        char hex[2 * ID_SIZE + 1], object[16 + sizeof(hex)];

        if (c->missing++ >= MISSING_NAMED)
                return;
        text_hex(id, ID_SIZE, hex);
        (void) snprintf(object, sizeof(object), "chunk %s", hex);
        (void) fail_set(&why, FAIL_INTEGRITY_FAILURE, ENOENT,
                        "chunk %s is in no pack that can be read; bring back what is missing of "
                        "packs/ and sessions/",
                        hex);
        report(c, object, &why);
}

static int on_id(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr) {
        Check *c = userdata;
        IndexPlace place;
        int r;

        if (repo_is_interrupted(c->repo))
                return -ECANCELED;
        r = index_find(c->repo->index, id, &place, reterr);
        if (r == 0 || (r > 0 && place.class != class))
                report_missing(c, id);
        if (r > 0)
                r = mark_pack(c, place.pack_no, reterr);
        if (r < 0 || class != CLASS_BLOCK)
                return r;
        c->n_blocks++;
        r = crypto_sha_add(c->blocks, id, ID_SIZE);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot hash a manifest") : 0;
}

static int on_row(void *userdata, uint64_t no, Failure *reterr) {
        Check *c = userdata;

        if (no < c->used.size && c->used.data[no])
                put_le32(c->rows.data + 4 * no, get_le32(c->rows.data + 4 * no) + 1);
        return repo_is_interrupted(c->repo) ? -ECANCELED : 0;
}

static int count_rows(Check *c, Failure *reterr) {
        int r = buf_reserve(&c->rows, 4 * c->used.size + 1);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot count the index");
        memset(c->rows.data, 0, 4 * c->used.size);
        return index_each_row(c->repo->index, on_row, c, reterr);
}

/* ---- packs ---- */

static int note_session(Check *c, const uint8_t session[UUID_SIZE], Failure *reterr) {
        int r;

        for (size_t i = 0; i < c->sessions.size; i += UUID_SIZE)
                if (memcmp(c->sessions.data + i, session, UUID_SIZE) == 0)
                        return 0;
        r = buf_put(&c->sessions, session, UUID_SIZE);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot note a session") : 0;
}

/* 1 if the index says of `id` exactly what the directory says, 0 if it points elsewhere. */
static int
row_fits(Check *c, uint64_t no, const PackEntry *e, const uint8_t *member, Failure *reterr) {
        IndexPlace p;
        IndexExtra extra;
        int r = index_find(c->repo->index, member ? member : e->id, &p, reterr);

        if (r <= 0 || p.pack_no != no || p.ordinal != e->ordinal)
                return r < 0 ? r : 0;
        if (p.offset != e->offset || p.stored != e->stored || p.plain != e->plain ||
            p.class != (member ? CLASS_SMALL : e->class) || p.member != (member != NULL) ||
            p.extra != (member || e->origin))
                return 0;
        if (member && (p.member_offset != get_le32(member + ID_SIZE) ||
                       p.member_size != get_le32(member + ID_SIZE + 4)))
                return 0;
        if (!p.extra)
                return 1;
        r = index_extra_get(c->repo->index, no, e->ordinal, &extra, reterr);
        return r <= 0 ? r : memcmp(extra.id, e->id, ID_SIZE) == 0 && extra.class == e->class;
}

static int compare_rows(Check *c, uint64_t no, const PackInfo *info, Failure *reterr) {
        Reader at = READER_INIT(info->directory.data, info->directory.size);
        uint32_t fitting = 0;
        PackEntry e;
        int r = 0;

        if (info->kind == PACK_CONTENT)
                r = note_session(c, info->session, reterr);
        for (uint32_t n = 0; r >= 0 && pack_entry_next(&at, n, &e); n++) {
                if (e.origin && info->kind == PACK_CONTENT)
                        r = note_session(c, e.origin, reterr);
                if (r >= 0 && e.n_members == 0) {
                        r = row_fits(c, no, &e, NULL, reterr);
                        fitting += r > 0;
                }
                for (size_t i = 0; i < e.n_members && r >= 0; i++) {
                        r = row_fits(c, no, &e, e.members + i * (ID_SIZE + 8), reterr);
                        fitting += r > 0;
                }
        }
        if (r < 0)
                return r;
        if (fitting == get_le32(c->rows.data + 4 * no))
                return 0;
        index_discard(c->repo->index);
        return fail_set(
                reterr, FAIL_INTERNAL, EUCLEAN,
                "the local index did not agree with the packs and is made again by the next run; "
                "verify again");
}

/* What a check finds about a pack is kept, so that no later backup relies on a damaged one. */
static void note_pack(Check *c, const uint8_t pack[UUID_SIZE], bool whole, int found) {
        Failure why = FAILURE_INIT;
        int r = 0;

        if (found == -EBADMSG || found == -EIO || found == -ENODATA)
                r = suspects_note(c->repo, pack, true, &why);
        else if (found >= 0 && whole)
                r = suspects_note(c->repo, pack, false, &why);
        if (r < 0 && c->not_noted.code == FAIL_NONE)
                c->not_noted = why;
}

static int check_pack(Check *c, const IndexPack *row, Failure *reterr) {
        PackInfo info = PACK_INFO_INIT;
        Failure why = FAILURE_INIT;
        char name[STORE_NAME_MAX];
        bool whole;
        int r, found;

        store_pack_name(row->uuid, name);
        r = pack_info_load(c->repo, row->uuid, &info, &why);
        if (r == -ENOENT)
                r = fail_set(&why, FAIL_INTEGRITY_FAILURE, ENOENT,
                             "%s is missing; bring it back from a copy of the repository", name);
        if (r >= 0 && info.size != row->size)
                r = fail_set(&why, FAIL_INTEGRITY_FAILURE, EBADMSG, "%s has another size", name);
        whole = r >= 0 && (!c->metadata || info.kind == PACK_META);
        if (whole)
                r = pack_info_verify(c->repo, &info, advance, c, &why);
        found = r;
        if (r >= 0)
                r = compare_rows(c, row->no, &info, &why);
        pack_info_done(&info);
        note_pack(c, row->uuid, whole, found);
        c->sum.packs++;
        advance(c, 0);
        return judge(c, name, r, &why, reterr);
}

static int count_packs(Check *c, Failure *reterr) {
        IndexPack row;
        int r = 0;

        c->sum.bytes_total = c->metadata ? 0 : c->sum.bytes;
        for (uint64_t no = 0; no < c->used.size && r >= 0; no++) {
                if (!c->used.data[no])
                        continue;
                r = index_pack_get(c->repo->index, no, &row, reterr);
                c->sum.packs_total++;
                if (r > 0 && !c->metadata)
                        c->sum.bytes_total += row.size;
        }
        advance(c, 0);
        return r;
}

static int check_packs(Check *c, Failure *reterr) {
        IndexPack row;
        int r = count_rows(c, reterr);

        if (r >= 0)
                r = count_packs(c, reterr);
        for (uint64_t no = 0; no < c->used.size && r >= 0; no++) {
                if (!c->used.data[no])
                        continue;
                r = index_pack_get(c->repo->index, no, &row, reterr);
                if (r > 0)
                        r = check_pack(c, &row, reterr);
                else if (r == 0)
                        r = fail_set(reterr, FAIL_INTERNAL, EUCLEAN, "the index lost a pack");
        }
        return r;
}

/* ---- packs that the index does not know: where a missing chunk may have been ---- */

static int on_known(void *userdata, const IndexPack *pack, Failure *reterr) {
        int r = buf_put(userdata, pack->uuid, UUID_SIZE);

        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot list the packs") : 0;
}

typedef struct Strays {
        Check *check;
        Buf known;
} Strays;

static int compare_uuid(const void *a, const void *b) {
        return memcmp(a, b, UUID_SIZE);
}

static int on_pack_file(void *userdata, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        Strays *s = userdata;
        PackInfo info = PACK_INFO_INIT;
        Failure why = FAILURE_INIT;
        char name[STORE_NAME_MAX];
        int r;

        if (s->known.size > 0 &&
            bsearch(uuid, s->known.data, s->known.size / UUID_SIZE, UUID_SIZE, compare_uuid))
                return 0;
        store_pack_name(uuid, name);
        r = pack_info_load(s->check->repo, uuid, &info, &why);
        if (r >= 0 && !s->check->metadata)
                r = pack_info_verify(s->check->repo, &info, advance, s->check, &why);
        if (r >= 0 && info.kind == PACK_CONTENT) /* sound, but its session may be lost */
                r = note_session(s->check, info.session, &why);
        pack_info_done(&info);
        s->check->sum.packs++;
        return r == -ENOENT ? 0 : judge(s->check, name, r, &why, reterr);
}

static int check_strays(Check *c, Failure *reterr) {
        Strays s = { .check = c, .known = BUF_INIT(CHECK_MAX) };
        int r;

        r = index_each_pack(c->repo->index, on_known, &s.known, reterr);
        if (r >= 0 && s.known.size > 0)
                qsort(s.known.data, s.known.size / UUID_SIZE, UUID_SIZE, compare_uuid);
        if (r >= 0)
                r = store_list(c->repo->store, "packs", on_pack_file, &s, reterr);
        buf_done(&s.known);
        return r;
}

/* ---- the whole ---- */

static int
check_record(Check *c, const uint8_t uuid[UUID_SIZE], json_object **ret, Failure *reterr) {
        uint8_t session[UUID_SIZE];
        const char *text;
        int r;

        r = check_object(c, OBJECT_CONFIG, c->repo->uuid, NULL, reterr);
        if (r >= 0)
                r = check_object(c, OBJECT_HOST, c->repo->host_id, NULL, reterr);
        if (r >= 0)
                r = check_object(c, OBJECT_RECORD, uuid, ret, reterr);
        if (r >= 0 && *ret && json_get_string(*ret, "session", &text) >= 0 &&
            text_uuid_parse(text, session) >= 0)
                r = note_session(c, session, reterr);
        return r;
}

/* The blocks are those that the record has summed up. */
static int compare_blocks(Check *c, json_object *record, Failure *ret_why) {
        uint8_t digest[32];
        char hex[65];
        json_object *manifest;
        const char *checksum;
        uint64_t blocks;
        int r = crypto_sha_end(c->blocks, digest);

        if (r < 0)
                return fail_errno(ret_why, FAIL_INTERNAL, -r, "cannot hash a manifest");
        text_hex(digest, sizeof(digest), hex);
        if (json_get_object(record, "manifest", &manifest) < 0 ||
            json_get_u64(manifest, "blocks", &blocks) < 0 ||
            json_get_string(manifest, "checksum", &checksum) < 0 || blocks != c->n_blocks ||
            strcmp(checksum, hex) != 0)
                return fail_set(ret_why, FAIL_INTEGRITY_FAILURE, EBADMSG,
                                "the manifest is not the one that the record describes");
        return 0;
}

/* The walk ends at the first block that cannot be read; its pack was noted before, and is named
 * below. */
static int walk(Check *c, json_object *record, Failure *ret_why, Failure *reterr) {
        int r = crypto_sha_new(&c->blocks);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot hash a manifest");
        r = manifest_walk_ids(c->repo, record, on_id, c, ret_why);
        if (r >= 0)
                r = compare_blocks(c, record, ret_why);
        if (r < 0 && ret_why->code != FAIL_INTEGRITY_FAILURE) {
                if (reterr && reterr->code == FAIL_NONE)
                        *reterr = *ret_why;
                return r;
        }
        return 0;
}

static int check_all(Check *c, const uint8_t uuid[UUID_SIZE], Failure *reterr) {
        _cleanup_json_ json_object *record = NULL;
        Failure why = FAILURE_INIT;
        char name[STORE_NAME_MAX];
        int r;

        r = check_record(c, uuid, &record, reterr);
        if (r >= 0 && record)
                r = walk(c, record, &why, reterr);
        if (r >= 0)
                r = check_packs(c, reterr);
        if (r >= 0 && (c->missing > 0 || why.code != FAIL_NONE))
                r = check_strays(c, reterr);
        for (size_t i = 0; i < c->sessions.size && r >= 0; i += UUID_SIZE)
                r = check_object(c, OBJECT_SESSION, c->sessions.data + i, NULL, reterr);
        store_object_name(OBJECT_PIN, uuid, name);
        if (r >= 0 && store_has(c->repo->store, name))
                r = check_object(c, OBJECT_PIN, uuid, NULL, reterr);
        if (r >= 0 && why.code != FAIL_NONE && c->sum.damaged == 0) {
                store_object_name(OBJECT_RECORD, uuid, name);
                report(c, name, &why);
        }
        return r;
}

int repo_check(Repo *repo,
               const char *backup_id,
               bool metadata,
               void (*on_damage)(void *userdata, const char *object, const Failure *why),
               void (*on_progress)(void *userdata, const RepoCheck *sum),
               void *userdata,
               RepoCheck *ret,
               Failure *reterr) {
        Check c = {
                .repo = repo,
                .backup_id = backup_id,
                .metadata = metadata,
                .on_damage = on_damage,
                .on_progress = on_progress,
                .userdata = userdata,
                .rows = BUF_INIT(CHECK_MAX),
                .used = BUF_INIT(CHECK_MAX),
                .sessions = BUF_INIT(CHECK_MAX),
        };
        uint8_t uuid[UUID_SIZE];
        int r;

        if (!repo_has_backup(repo, backup_id) || text_uuid_parse(backup_id, uuid) < 0)
                return fail_set(reterr, FAIL_NO_SUCH_BACKUP, ENOENT, "there is no backup %s",
                                backup_id);
        r = check_all(&c, uuid, reterr);
        buf_done(&c.rows);
        buf_done(&c.used);
        buf_done(&c.sessions);
        crypto_sha_free(c.blocks);
        if (ret)
                *ret = c.sum;
        if (r >= 0 && c.sum.damaged > 0)
                r = fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                             "backup %s is damaged in %" PRIu64 " objects of the repository%s%s%s",
                             backup_id, c.sum.damaged,
                             c.missing > MISSING_NAMED ? " and more chunks that are not named" : "",
                             c.not_noted.code ? "; the next backup may rely on them still: " : "",
                             c.not_noted.text);
        return r;
}
