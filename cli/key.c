#include "cli/key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/fs.h"
#include "base/secret.h"

#define KEY_MAX ((size_t) 64 << 10)

int key_open(Cli *cli, const char *path) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), memfd = -1;
        _cleanup_secret_ Secret text = SECRET_INIT;
        ssize_t n;
        int r;

        if (fd < 0)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "KeyMissing", "--key %s: %s", path,
                                 strerror(errno));
        if (secret_new(&text, KEY_MAX) < 0)
                return cli_oom(&cli->error);
        n = fd_read_full(fd, text.data, KEY_MAX);
        if (n <= 0 || (size_t) n == KEY_MAX)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "KeyMissing", "--key %s: %s", path,
                                 n < 0    ? strerror((int) -n)
                                 : n == 0 ? "the file is empty"
                                          : "too large for a key");
        memfd = memfd_create("key", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        r = memfd < 0 ? -errno : fd_write_full(memfd, text.data, (size_t) n);
        if (r >= 0 && (lseek(memfd, 0, SEEK_SET) < 0 ||
                       fcntl(memfd, F_ADD_SEALS,
                             F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0))
                r = -errno;
        if (r < 0)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal", "--key: memfd: %s",
                                 strerror(-r));
        return TAKE_FD(memfd);
}

static int save_to(Cli *cli, const Secret *key, size_t n, const char *path) {
        _cleanup_close_ int fd =
                open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        int r;

        if (fd < 0)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal", "--output %s: %s", path,
                                 strerror(errno));
        r = fd_write_full(fd, key->data, n);
        if (r >= 0)
                r = fs_sync(fd);
        if (r >= 0)
                return 0;
        (void) unlink(path); /* half a key opens nothing */
        return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal", "--output %s: %s", path,
                         strerror(-r));
}

int key_save(Cli *cli, int fd, const char *path) {
        _cleanup_secret_ Secret text = SECRET_INIT;
        ssize_t n;

        if (secret_new(&text, KEY_MAX) < 0)
                return cli_oom(&cli->error);
        n = fd_read_full(fd, text.data, KEY_MAX);
        if (n <= 0 || (size_t) n == KEY_MAX)
                return cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "the agent sent no key: %s",
                                 n < 0 ? strerror((int) -n) : "nothing came");
        if (path)
                return save_to(cli, &text, (size_t) n, path);
        n = fd_write_full(STDOUT_FILENO, text.data, (size_t) n);
        return n < 0 ? cli_error(&cli->error, CLI_EXIT_FAILED, "Internal",
                                 "the key could not be written: %s", strerror((int) -n))
                     : 0;
}
