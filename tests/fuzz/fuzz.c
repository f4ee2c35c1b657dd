/*
 * The mount namespace is taken once, before the first input: an input may name any path, so the
 * only thing that must not depend on luck is that everything a target makes goes with the process.
 */

#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"

#define MOUNT_POINT "/mnt"

/* ---- inputs ---- */

FuzzInput fuzz_take(FuzzInput *in, size_t n) {
        FuzzInput piece = { in->data, n < in->size ? n : in->size };

        if (piece.size > 0)
                in->data += piece.size;
        in->size -= piece.size;
        return piece;
}

uint8_t fuzz_u8(FuzzInput *in) {
        FuzzInput p = fuzz_take(in, 1);

        return p.size == 1 ? p.data[0] : 0;
}

uint16_t fuzz_u16(FuzzInput *in) {
        FuzzInput p = fuzz_take(in, 2);

        return p.size == 2 ? get_le16(p.data) : 0;
}

uint32_t fuzz_u32(FuzzInput *in) {
        FuzzInput p = fuzz_take(in, 4);

        return p.size == 4 ? get_le32(p.data) : 0;
}

FuzzInput fuzz_piece(FuzzInput *in) {
        size_t n = fuzz_u16(in);

        return fuzz_take(in, n);
}

char *fuzz_string(FuzzInput *in) {
        FuzzInput p = fuzz_piece(in);
        char *s = p.size > 0 ? strndup((const char *) p.data, p.size) : strdup("");

        fuzz_assert(s);
        return s;
}

/* ---- where a target works ---- */

static char work_path[64];

static void remove_work(void) {
        (void) fs_remove_tree(AT_FDCWD, work_path, NULL, NULL); /* what stays is in a tmpfs */
}

/* A tmpfs that nobody else sees and that ends with the process. */
static bool make_private(void) {
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("fuzz", MOUNT_POINT, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=512m") < 0)
                return false;
        (void) strcpy(work_path, MOUNT_POINT);
        return true;
}

const char *fuzz_dir(void) {
        if (*work_path)
                return work_path;
        (void) umask(022);
        if (make_private())
                return work_path;
        (void) strcpy(work_path, access("/dev/shm", W_OK) == 0 ? "/dev/shm/holdpoint-fuzz-XXXXXX"
                                                               : "/tmp/holdpoint-fuzz-XXXXXX");
        fuzz_assert(mkdtemp(work_path));
        fuzz_assert(atexit(remove_work) == 0);
        return work_path;
}

int fuzz_dir_fd(void) {
        static int fd = -1;

        if (fd < 0)
                fd = open(fuzz_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fuzz_assert(fd >= 0);
        return fd;
}

void fuzz_write(int dirfd, const char *name, FuzzInput content) {
        _cleanup_close_ int fd =
                openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

        fuzz_assert(fd >= 0);
        fuzz_assert(fd_write_full(fd, content.data, content.size) == 0);
}

int fuzz_mkdir(int dirfd, const char *name) {
        int fd;

        fuzz_assert(mkdirat(dirfd, name, 0700) == 0 || errno == EEXIST);
        fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        fuzz_assert(fd >= 0);
        return fd;
}

void fuzz_remove(int dirfd, const char *name) {
        int r = fs_remove_tree(dirfd, name, NULL, NULL);

        fuzz_assert(r == 0 || r == -ENOENT);
}

static int compare_names(const struct dirent **a, const struct dirent **b) {
        return strcmp((*a)->d_name, (*b)->d_name);
}

static void list(int dirfd, const char *at, FILE *to) {
        struct dirent **names = NULL;
        int n = scandirat(dirfd, ".", &names, NULL, compare_names);

        fuzz_assert(n >= 0);
        for (int i = 0; i < n; i++) {
                const char *name = names[i]->d_name;
                _cleanup_free_ char *shown = text_escape(name), *shown_target = NULL;
                char target[4096] = "";
                struct stat st;

                if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
                        free(names[i]);
                        continue;
                }
                fuzz_assert(fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0);
                if (S_ISLNK(st.st_mode))
                        (void) !readlinkat(dirfd, name, target, sizeof(target) - 1);
                shown_target = text_escape(target);
                fuzz_assert(shown && shown_target);
                (void) fprintf(to, "%s/%s %o %u:%u %lld %lld.%09ld %s\n", at, shown, st.st_mode,
                               st.st_uid, st.st_gid, (long long) st.st_size,
                               (long long) st.st_mtim.tv_sec, st.st_mtim.tv_nsec, shown_target);
                if (S_ISDIR(st.st_mode)) {
                        _cleanup_free_ char *below = text_printf("%s/%s", at, shown);
                        _cleanup_close_ int fd =
                                openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

                        fuzz_assert(below && fd >= 0);
                        list(fd, below, to);
                }
                free(names[i]);
        }
        free(names);
}

char *fuzz_listing(int dirfd) {
        char *text = NULL;
        size_t n = 0;
        FILE *to = open_memstream(&text, &n);

        fuzz_assert(to);
        list(dirfd, "", to);
        fuzz_assert(fclose(to) == 0);
        return text;
}

int fuzz_next_fd(void) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        fuzz_assert(fd >= 0);
        fuzz_assert(close(fd) == 0);
        return fd;
}
