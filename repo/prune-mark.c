/*
 * What the backups need, read off their manifests. Memory: a bit for each record of a metadata
 * pack, two words for each pack. A block that several backups share is walked once, which is what
 * makes the hundredth backup cost little.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "repo/prune.h"

#define PACKS_MAX     (UINT64_C(1) << 28)
#define MISSING_NAMED 20 /* missing chunks that are named one by one */

bool uuids_have(const Buf *list, const uint8_t uuid[UUID_SIZE]) {
        for (size_t i = 0; i < list->size; i += UUID_SIZE)
                if (memcmp(list->data + i, uuid, UUID_SIZE) == 0)
                        return true;
        return false;
}

bool marks_use(const Marks *m, uint64_t no) {
        return no < m->n_packs && m->packs[no].used;
}

void marks_done(Marks *m) {
        for (size_t i = 0; i < m->n_packs; i++)
                free(m->packs[i].walked);
        free(m->packs);
        buf_done(&m->backups);
        buf_done(&m->sessions);
}

static void report(Marks *m, const char *object, const Failure *why) {
        m->damaged++;
        if (m->params->on_damage)
                m->params->on_damage(m->params->userdata, object, why);
}

static int no_memory(Failure *reterr) {
        return fail_errno(reterr, FAIL_INTERNAL, ENOMEM, "cannot note what the backups need");
}

static int use_pack(Marks *m, uint64_t no, MarkedPack **ret, Failure *reterr) {
        if (no >= m->n_packs) {
                size_t n = (size_t) no + 1024;
                MarkedPack *grown =
                        no < PACKS_MAX ? reallocarray(m->packs, n, sizeof(*grown)) : NULL;

                if (!grown)
                        return no_memory(reterr);
                memset(grown + m->n_packs, 0, (n - m->n_packs) * sizeof(*grown));
                m->packs = grown;
                m->n_packs = n;
        }
        m->packs[no].used = true;
        *ret = &m->packs[no];
        return 0;
}

/* 1 if this block was walked before; else it is from now on. */
static int walk_once(MarkedPack *p, uint32_t ordinal, Failure *reterr) {
        uint8_t bit = (uint8_t) (1u << (ordinal % 8));

        if (ordinal / 8 >= p->n_walked) {
                uint32_t n = ordinal / 8 + 64;
                uint8_t *grown = realloc(p->walked, n);

                if (!grown)
                        return no_memory(reterr);
                memset(grown + p->n_walked, 0, n - p->n_walked);
                p->walked = grown;
                p->n_walked = n;
        }
        if (p->walked[ordinal / 8] & bit)
                return 1;
        p->walked[ordinal / 8] |= bit;
        return 0;
}

static int on_missing(Marks *m, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr) {
        char hex[2 * ID_SIZE + 1], object[16 + sizeof(hex)];
        Failure why = FAILURE_INIT;

        text_hex(id, ID_SIZE, hex);
        if (class == CLASS_ROOT || class == CLASS_BLOCK || class == CLASS_LIST)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, ENOENT,
                                "a part of its manifest (%.16s…) is in no pack that can be read",
                                hex);
        if (m->missing++ >= MISSING_NAMED || !m->params->on_damage)
                return 0;
        (void) snprintf(object, sizeof(object), "chunk %s", hex);
        (void) fail_set(&why, FAIL_INTEGRITY_FAILURE, ENOENT,
                        "backup %s needs it, and it is in no pack that can be read", m->current);
        m->params->on_damage(m->params->userdata, object, &why);
        return 0;
}

static int on_id(void *userdata, uint8_t class, const uint8_t id[ID_SIZE], Failure *reterr) {
        Marks *m = userdata;
        IndexPlace place;
        MarkedPack *p;
        int r;

        if (repo_is_interrupted(m->repo))
                return -ECANCELED;
        r = index_find(m->repo->index, id, &place, reterr);
        if (r == 0 || (r > 0 && place.class != class))
                return on_missing(m, class, id, reterr);
        if (r > 0)
                r = use_pack(m, place.pack_no, &p, reterr);
        if (r >= 0 && class == CLASS_BLOCK)
                r = walk_once(p, place.ordinal, reterr);
        return r;
}

static bool is_without(const Marks *m, const char *id) {
        for (size_t i = 0; i < m->params->n_without; i++)
                if (strcmp(m->params->without[i], id) == 0)
                        return true;
        return false;
}

static int note_session(Marks *m, json_object *record, Failure *reterr) {
        uint8_t uuid[UUID_SIZE];
        const char *text;

        if (json_get_string(record, "session", &text) < 0 || text_uuid_parse(text, uuid) < 0)
                return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG, "it names no session");
        return buf_put(&m->sessions, uuid, UUID_SIZE) < 0 ? no_memory(reterr) : 0;
}

/* All that is damaged is named: the walk goes on to the next backup. */
static int on_record(void *userdata, const char *id, json_object *record, const Failure *damage) {
        Marks *m = userdata;
        Failure why = FAILURE_INIT;
        uint8_t uuid[UUID_SIZE];
        char object[64];
        int r = 0;

        if (is_without(m, id))
                return 0;
        if (text_uuid_parse(id, uuid) < 0 || buf_put(&m->backups, uuid, UUID_SIZE) < 0)
                return -ENOMEM;
        (void) snprintf(object, sizeof(object), "backups/%s", id);
        if (damage) {
                report(m, object, damage);
                return 0;
        }
        m->current = id;
        r = note_session(m, record, &why);
        if (r >= 0)
                r = manifest_walk_ids(m->repo, record, on_id, m, &why);
        if (m->params->on_progress)
                m->params->on_progress(m->params->userdata, ++m->done, 0);
        if (r >= 0 || why.code != FAIL_INTEGRITY_FAILURE)
                return r;
        report(m, object, &why);
        return 0;
}

int prune_mark(Marks *m, Failure *reterr) {
        int r = repo_list(m->repo, on_record, m, reterr);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read what the backups need");
        if (m->damaged == 0)
                return 0;
        return fail_set(reterr, FAIL_INTEGRITY_FAILURE, EBADMSG,
                        "%llu backups cannot be read, so that it is not known which packs they "
                        "need: no pack was removed; mend them from a copy of the repository, or "
                        "delete them",
                        (unsigned long long) m->damaged);
}
