#include "cli/receive.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"
#include "cli/fields.h"
#include "cli/output.h"

/* An entry with a long path, every byte escaped, and many attributes. */
#define LINE_MAX_BYTES ((size_t) 4 << 20)

typedef struct Lines {
        Cli *cli;
        void (*show)(json_object *line);
        Buf pending; /* the line that has not ended */
        bool ended;  /* the end mark came */
} Lines;

static int take_line(Lines *l, const char *text, size_t n) {
        _cleanup_json_ json_object *o = json_parse(text, n);

        if (!o)
                return cli_error(&l->cli->error, CLI_EXIT_FAILED, "Internal",
                                 "the agent sent a line that is no JSON; is it another version?");
        if (field_bool(o, "end"))
                l->ended = true;
        if (l->cli->options.json)
                (void) printf("%.*s\n", (int) n, text); /* ferror() is looked at below */
        else if (!l->ended)
                l->show(o);
        return 0;
}

static int on_lines(void *userdata, const void *data, size_t n) {
        Lines *l = userdata;
        const char *p = data, *end;
        int r = 0;

        while (r >= 0 && (end = memchr(p, '\n', n))) {
                size_t part = (size_t) (end - p);

                r = buf_put(&l->pending, p, part);
                if (r >= 0)
                        r = take_line(l, (const char *) l->pending.data, l->pending.size);
                buf_clear(&l->pending);
                p += part + 1;
                n -= part + 1;
        }
        if (r >= 0)
                r = buf_put(&l->pending, p, n);
        return r < 0 ? r : ferror(stdout) ? -EIO : 0;
}

int receive_lines(Cli *cli, ClientCall *call, void (*show)(json_object *line)) {
        _cleanup_(buf_done) Buf pending = BUF_INIT(LINE_MAX_BYTES);
        _cleanup_follow_job_ FollowJob job = { 0 };
        Lines l = { .cli = cli, .show = show, .pending = pending };
        FollowStream stream = { .sink = on_lines, .userdata = &l };
        int r = follow_stream(cli, call, &stream, &job), code;

        pending = l.pending;
        if (r < 0)
                return r;
        code = follow_exit_code(cli, &job);
        if (code == CLI_EXIT_DONE && !l.ended)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "the list ended without its end mark: it is not whole");
        return code;
}

static int write_out(void *userdata, const void *data, size_t n) {
        return fd_write_full(*(int *) userdata, data, n);
}

static int to_stdout(Cli *cli, ClientCall *call, FollowJob *ret) {
        int fd = STDOUT_FILENO;
        FollowStream stream = { .sink = write_out,
                                .userdata = &fd,
                                .progress = !isatty(STDOUT_FILENO) };

        return follow_stream(cli, call, &stream, ret);
}

static int cannot_write(Cli *cli, const char *path, int errnum) {
        return cli_error(&cli->error, CLI_EXIT_FAILED, errnum == ENOSPC ? "NoSpace" : "Internal",
                         "--output %s: %s", path, strerror(errnum));
}

/*
 * What is no file is written as it is: one that took its place would be the end of a device. Only
 * root makes devices; somebody else's pipe or link may stand there to catch what root exports.
 */
static int
to_special(Cli *cli, ClientCall *call, const char *path, const struct stat *st, FollowJob *ret) {
        _cleanup_close_ int fd = -1;
        FollowStream stream = { .sink = write_out, .userdata = &fd, .progress = true };

        if (!S_ISCHR(st->st_mode) && !S_ISBLK(st->st_mode) &&
            !(S_ISFIFO(st->st_mode) && st->st_uid == geteuid()))
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "--output %s: there is something that is no file; name another "
                                 "place, or '-' for standard output",
                                 path);
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW);
        return fd < 0 ? cannot_write(cli, path, errno) : follow_stream(cli, call, &stream, ret);
}

int receive_file(Cli *cli, ClientCall *call, const char *path, mode_t mode, FollowJob *ret) {
        _cleanup_free_ char *copy = NULL, *part = NULL;
        _cleanup_close_ int dir = -1, fd = -1;
        FollowStream stream = { .sink = write_out, .userdata = &fd, .progress = true };
        struct stat st;
        int r;

        if (!path || strcmp(path, "-") == 0)
                return to_stdout(cli, call, ret);
        if (lstat(path, &st) >= 0 && !S_ISREG(st.st_mode))
                return to_special(cli, call, path, &st, ret);
        copy = strdup(path);
        part = text_printf("%s.part-%d", path, (int) getpid());
        if (!copy || !part)
                return cli_oom(&cli->error);
        dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fd = dir < 0 ? -1 : open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
        if (fd < 0)
                return cannot_write(cli, path, errno);
        r = follow_stream(cli, call, &stream, ret);
        if (r >= 0 && follow_exit_code(cli, ret) == CLI_EXIT_DONE) {
                r = fs_sync(fd);
                if (r >= 0 && rename(part, path) < 0)
                        r = -errno;
                if (r >= 0)
                        r = fs_sync(dir);
                if (r < 0)
                        r = cannot_write(cli, path, -r);
        }
        if (r < 0 || cli->error.exit_code != 0)
                (void) unlink(part); /* half an archive helps nobody */
        return r;
}
