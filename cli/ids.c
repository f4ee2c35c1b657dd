#include "cli/ids.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/text.h"
#include "cli/client.h"
#include "cli/fields.h"

#define PAGE_SIZE      500
#define CANDIDATES_MAX 8

/* What a prefix has matched so far. */
typedef struct Matches {
        const char *prefix, *key;
        char id[IDS_MAX];
        char list[512]; /* for the message */
        size_t n;
} Matches;

static int check_prefix(Cli *cli, const char *text, char ret[IDS_MAX]) {
        size_t n = strlen(text);

        for (size_t i = 0; i < n && n < IDS_MAX; i++) {
                ret[i] = (char) tolower((unsigned char) text[i]);
                if (!isxdigit((unsigned char) ret[i]) && ret[i] != '-')
                        n = IDS_MAX;
        }
        if (n == 0 || n >= IDS_MAX)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "'%s' is not an id, the beginning of one, or 'latest'", text);
        ret[n] = 0;
        return 0;
}

static void match_rows(Matches *m, json_object *rows) {
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                const char *id = field_text(row, m->key);

                /* Pages shift when a backup is added while we turn them: the same row may come
                 * twice. */
                if (strncmp(id, m->prefix, strlen(m->prefix)) != 0 || !text_is_uuid(id) ||
                    strcmp(id, m->id) == 0)
                        continue;
                if (m->n++ < CANDIDATES_MAX) {
                        size_t used = strlen(m->list);

                        (void) snprintf(m->list + used, sizeof(m->list) - used, "\n  %s  %s", id,
                                        field_text(row, "created_at"));
                }
                (void) snprintf(m->id, sizeof(m->id), "%s", id);
        }
}

static int
settle(Cli *cli, const Matches *m, const char *none, const char *what, char ret[IDS_MAX]) {
        if (m->n == 0)
                return cli_error(&cli->error, CLI_EXIT_NO_SUCH_THING, none,
                                 "no %s begins with '%s'", what, m->prefix);
        if (m->n > 1)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "'%s' is the beginning of %zu %ss; type more of it:%s", m->prefix,
                                 m->n, what, m->list);
        (void) snprintf(ret, IDS_MAX, "%s", m->id);
        return 0;
}

/* One page of ListBackups: the rows are borrowed from `ret_reply`. */
static int
list_backups(Cli *cli, json_object *options, json_object **ret_reply, json_object **ret_rows) {
        ClientCall call = { .method = "ListBackups", .has_options = true, .options = options };
        json_object *rows;
        int r = client_call(cli->client, &call, ret_reply, &cli->error);

        if (r < 0)
                return r;
        rows = json_object_array_get_idx(*ret_reply, 1);
        if (!json_object_is_type(rows, json_type_array))
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "the agent's answer to ListBackups is not understood; is it "
                                 "another version?");
        *ret_rows = rows;
        return 0;
}

static int latest_backup(Cli *cli, const char *service, char ret[IDS_MAX]) {
        _cleanup_json_ json_object *options = json_object_new_object(), *reply = NULL;
        json_object *rows;
        int r;

        if (!options || json_put_string(options, "status", "completed") < 0 ||
            json_put_u64(options, "limit", 1) < 0 ||
            cli_put_string(options, "service", service) < 0)
                return cli_oom(&cli->error);
        r = list_backups(cli, options, &reply, &rows);
        if (r < 0)
                return r;
        if (json_object_array_length(rows) == 0)
                return cli_error(
                        &cli->error, CLI_EXIT_NO_SUCH_THING, "NoSuchBackup",
                        "there is no completed backup%s%s yet; make one with 'holdpoint create'",
                        service ? " of " : "", service ? service : "");
        (void) snprintf(ret, IDS_MAX, "%s",
                        field_text(json_object_array_get_idx(rows, 0), "backup_id"));
        return 0;
}

int ids_backup(Cli *cli, const char *text, const char *service, char ret[IDS_MAX]) {
        char prefix[IDS_MAX];
        Matches m = { .prefix = prefix, .key = "backup_id" };
        int r;

        if (strcmp(text, "latest") == 0)
                return latest_backup(cli, service, ret);
        r = check_prefix(cli, text, prefix);
        if (r < 0)
                return r;
        if (text_is_uuid(prefix)) {
                memcpy(ret, prefix, sizeof(prefix));
                return 0;
        }
        for (uint64_t page = 1, seen = 0;; page++) {
                _cleanup_json_ json_object *options = json_object_new_object(), *reply = NULL;
                json_object *rows;

                if (!options || json_put_u64(options, "page", page) < 0 ||
                    json_put_u64(options, "limit", PAGE_SIZE) < 0)
                        return cli_oom(&cli->error);
                r = list_backups(cli, options, &reply, &rows);
                if (r < 0)
                        return r;
                match_rows(&m, rows);
                seen += json_object_array_length(rows);
                if (json_object_array_length(rows) == 0 ||
                    seen >= json_object_get_uint64(json_object_array_get_idx(reply, 0)))
                        break;
        }
        return settle(cli, &m, "NoSuchBackup", "backup", ret);
}

static int latest_restore(Cli *cli, json_object *rows, char ret[IDS_MAX]) {
        const char *newest = "";

        *ret = 0;
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                const char *state = field_text(row, "state");

                if (strcmp(state, "active") != 0 && strcmp(state, "rolled_back") != 0)
                        continue;
                /* Newest first is how they come; of two in one second the first is the newer. */
                if (strcmp(field_text(row, "created_at"), newest) > 0 || !*ret) {
                        newest = field_text(row, "created_at");
                        (void) snprintf(ret, IDS_MAX, "%s", field_text(row, "restore_id"));
                }
        }
        if (!*ret)
                return cli_error(
                        &cli->error, CLI_EXIT_NO_SUCH_THING, "NoSuchRestore",
                        "there is no restore that is not yet confirmed; see 'holdpoint restores'");
        return 0;
}

int ids_restore(Cli *cli, const char *text, char ret[IDS_MAX]) {
        ClientCall call = { .method = "ListRestores", .has_options = true };
        _cleanup_json_ json_object *reply = NULL;
        char prefix[IDS_MAX] = "";
        Matches m = { .prefix = prefix, .key = "restore_id" };
        bool latest = strcmp(text, "latest") == 0;
        json_object *rows;
        int r = latest ? 0 : check_prefix(cli, text, prefix);

        if (r < 0)
                return r;
        if (text_is_uuid(prefix)) {
                memcpy(ret, prefix, sizeof(prefix));
                return 0;
        }
        r = client_call(cli->client, &call, &reply, &cli->error);
        if (r < 0)
                return r;
        rows = json_object_array_get_idx(reply, 0);
        if (!json_object_is_type(rows, json_type_array))
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "the agent's answer to ListRestores is not understood; is it "
                                 "another version?");
        if (latest)
                return latest_restore(cli, rows, ret);
        match_rows(&m, rows);
        return settle(cli, &m, "NoSuchRestore", "restore", ret);
}

int ids_job(Cli *cli, const char *text, uint32_t *ret) {
        uint64_t n;

        if (text_to_u64(text, &n) < 0 || n < 1 || n > UINT32_MAX)
                return cli_error(&cli->error, CLI_EXIT_USAGE, "InvalidArgument",
                                 "'%s' is not the number of a job; see 'holdpoint jobs'", text);
        *ret = (uint32_t) n;
        return 0;
}

void ids_new_name(const char *prefix, char ret[IDS_NAME_MAX]) {
        time_t now = time(NULL);
        char stamp[32];
        struct tm tm;

        if (localtime_r(&now, &tm) && strftime(stamp, sizeof(stamp), "_%Y%m%d_%H%M%S", &tm) > 0)
                (void) snprintf(ret, IDS_NAME_MAX, "%s%s", prefix, stamp);
        else
                (void) snprintf(ret, IDS_NAME_MAX, "%s", prefix);
}
