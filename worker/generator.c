/*
 * holdpoint-generator: runs when systemd reads its units, and names a repository elsewhere than
 * where the units expect it, so that workers which may write nothing else may write there. Its
 * drop-ins lie in systemd's own directory, which is empty before: there is nothing to take back.
 *
 * A configuration that is broken grants nothing; workers refuse it, too.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config.h"
#include "base/fd.h"
#include "base/names.h"
#include "base/text.h"

#define DROPIN "50-repository.conf"

static const char *const units[] = { "holdpoint-maintain@.service",
                                     "holdpoint-configure@.service" };

/* As systemd reads it: a quoted word, with specifiers. Owned. */
static char *escape(const char *path) {
        char *text = malloc(2 * strlen(path) + 1), *t = text;

        for (const char *p = path; text && *p; p++) {
                if (*p == '"' || *p == '\\')
                        *t++ = '\\';
                else if (*p == '%')
                        *t++ = '%';
                *t++ = *p;
        }
        if (text)
                *t = 0;
        return text;
}

/* ProtectHome=yes hides what no other setting can bring back; read-only, a part can be written. */
static bool is_hidden(const char *path) {
        return text_path_is_below(path, "/home") || text_path_is_below(path, "/root") ||
               text_path_is_below(path, "/run/user");
}

/* The "-": a disk that is not mounted is for the worker to tell. Owned. */
static char *compose(const char *path) {
        _cleanup_free_ char *word = escape(path);

        return !word ? NULL
                     : text_printf("# Made by holdpoint-generator from the configuration.\n"
                                   "[Service]\n%sReadWritePaths=\"-%s\"\n",
                                   is_hidden(path) ? "ProtectHome=read-only\n" : "", word);
}

static int write_dropin(int top, const char *unit, const char *text) {
        _cleanup_free_ char *name = text_printf("%s.d", unit);
        _cleanup_close_ int dir = -1, fd = -1;

        if (!name)
                return -ENOMEM;
        if (mkdirat(top, name, 0755) < 0 && errno != EEXIST)
                return -errno;
        dir = openat(top, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0)
                return -errno;
        fd = openat(dir, DROPIN, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        return fd < 0 ? -errno : fd_write_full(fd, text, strlen(text));
}

static int generate(const char *dir, const char *path) {
        _cleanup_free_ char *text = compose(path);
        _cleanup_close_ int top = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r = top < 0 ? -errno : text ? 0 : -ENOMEM;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(units); i++)
                r = write_dropin(top, units[i], text);
        return r;
}

/* While systemd reads its units nobody else takes lines, at boot not even the journal. */
static int complain(const char *what) {
        _cleanup_free_ char *line = text_printf("<3>holdpoint-generator: %s\n", what);
        _cleanup_close_ int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NOCTTY);

        if (line) /* there is nowhere else to say it */
                (void) fd_write_full(fd < 0 ? STDERR_FILENO : fd, line, strlen(line));
        return EXIT_FAILURE;
}

int main(int argc, char **argv) {
        Failure why = FAILURE_INIT;
        Config *config = NULL;
        int r;

        if (argc != 2 && argc != 4)
                return complain("one or three directories are expected, as systemd gives them");
        (void) umask(0022);
        if (access(config_dir(), F_OK) < 0 && errno == ENOENT)
                return EXIT_SUCCESS; /* installed, and not yet configured */
        if (config_load(config_dir(), &config, &why) < 0)
                return complain(why.text);
        r = strcmp(config->repository_path, HP_DEFAULT_REPOSITORY) == 0
                    ? 0
                    : generate(argv[1], config->repository_path);
        config_free(config);
        return r < 0 ? complain(strerror(-r)) : EXIT_SUCCESS;
}
