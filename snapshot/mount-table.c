#include "snapshot/mount-table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/text.h"
#include "snapshot/snapshot-internal.h"

/*
 * mountinfo is written for its reader's eyes: points relative to the process's root, mounts outside
 * that root left out, blanks as octal escapes. The links under /proc/PID are relative to *our*
 * root, or, in a foreign namespace, to its topmost mount. Putting the process's root before each
 * point makes both agree.
 */

#define MOUNTS_MAX 100000 /* the kernel's own limit for a namespace by default */

static void mount_done(Mount *m) {
        free(m->root);
        free(m->point);
        free(m->source);
}

void mount_table_done(MountTable *t) {
        for (size_t i = 0; i < t->n; i++)
                mount_done(&t->mounts[i]);
        free(t->mounts);
        *t = (MountTable){ 0 };
}

static bool is_octal(const char *s) {
        return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' && s[2] >= '0' &&
               s[2] <= '7';
}

static void unescape(char *s) {
        char *to = s;

        while (*s)
                if (*s == '\\' && is_octal(s + 1)) {
                        *to++ = (char) ((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
                        s += 4;
                } else
                        *to++ = *s++;
        *to = 0;
}

static int parse_device(const char *text, dev_t *ret) {
        unsigned major, minor;
        int end = 0;

        if (sscanf(text, "%u:%u%n", &major, &minor, &end) != 2 || text[end])
                return -EINVAL;
        *ret = makedev(major, minor);
        return 0;
}

/* "OPTIONS [shared:N] [master:N] … - TYPE SOURCE OPTIONS"; NULL for the source if it ends before.
 */
static char *parse_rest(char **save, bool *ret_follows) {
        char *field = strtok_r(NULL, " \n", save);

        *ret_follows = false;
        while (field && (field = strtok_r(NULL, " \n", save)) && strcmp(field, "-") != 0)
                if (strncmp(field, "shared:", 7) == 0 || strncmp(field, "master:", 7) == 0)
                        *ret_follows = true;
        if (field)
                field = strtok_r(NULL, " \n", save);
        return field ? strtok_r(NULL, " \n", save) : NULL;
}

/* "ID PARENT MAJOR:MINOR ROOT POINT", and the rest */
static int parse_line(char *line, const char *root, Mount *ret) {
        char *fields[5], *save = NULL, *source;

        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                fields[i] = strtok_r(i == 0 ? line : NULL, " \n", &save);
                if (!fields[i])
                        return -EBADMSG;
        }
        if (text_to_u64(fields[0], &ret->id) < 0 || text_to_u64(fields[1], &ret->parent) < 0 ||
            parse_device(fields[2], &ret->dev) < 0)
                return -EBADMSG;
        source = parse_rest(&save, &ret->follows);
        unescape(fields[3]);
        unescape(fields[4]);
        if (source)
                unescape(source);
        ret->source = strdup(source ? source : "");
        ret->root = strdup(fields[3]);
        if (strcmp(root, "/") == 0)
                ret->point = strdup(fields[4]);
        else
                ret->point =
                        text_printf("%s%s", root, strcmp(fields[4], "/") == 0 ? "" : fields[4]);
        if (ret->root && ret->point && ret->source)
                return 0;
        mount_done(ret);
        return -ENOMEM;
}

static int append(MountTable *t, const Mount *m) {
        if (t->n == t->allocated) {
                size_t n = t->allocated ? 2 * t->allocated : 64;
                Mount *mounts = reallocarray(t->mounts, n, sizeof(*mounts));

                if (!mounts)
                        return -ENOMEM;
                t->mounts = mounts;
                t->allocated = n;
        }
        t->mounts[t->n++] = *m;
        return 0;
}

int mount_table_load(MountTable *t, int procfd, pid_t pid, const char *root) {
        _cleanup_file_ FILE *f = NULL;
        _cleanup_free_ char *line = NULL;
        char path[64] = "self/mountinfo";
        size_t allocated = 0, n = 0;
        int fd, r;

        if (pid > 0)
                (void) snprintf(path, sizeof(path), "%d/mountinfo", pid);
        fd = openat(procfd, path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        f = fdopen(fd, "re");
        if (!f) {
                r = -errno;
                fd_close(fd);
                return r;
        }
        while ((errno = 0, getline(&line, &allocated, f)) > 0) {
                Mount m = { .pid = pid };

                if (++n > MOUNTS_MAX)
                        return -E2BIG;
                r = parse_line(line, root, &m);
                if (r < 0)
                        return r;
                r = append(t, &m);
                if (r < 0) {
                        mount_done(&m);
                        return r;
                }
        }
        return errno ? -errno : 0;
}

static int compare(const void *a, const void *b) {
        const Mount *x = a, *y = b;

        return x->id < y->id ? -1 : x->id > y->id;
}

/* Of what was read twice our own view comes first. */
static int compare_views(const void *a, const void *b) {
        const Mount *x = a, *y = b;
        int r = compare(a, b);

        return r != 0 ? r : x->pid < y->pid ? -1 : x->pid > y->pid;
}

void mount_table_sort(MountTable *t) {
        size_t to = 0;

        if (t->n == 0)
                return;
        qsort(t->mounts, t->n, sizeof(*t->mounts), compare_views);
        for (size_t i = 1; i < t->n; i++)
                if (t->mounts[i].id == t->mounts[to].id)
                        mount_done(&t->mounts[i]);
                else
                        t->mounts[++to] = t->mounts[i];
        t->n = to + 1;
}

const Mount *mount_table_find(const MountTable *t, uint64_t id) {
        Mount key = { .id = id };

        return t->n == 0 ? NULL : bsearch(&key, t->mounts, t->n, sizeof(key), compare);
}

char *mount_place(const Mount *m, const char *path) {
        const char *below = path + (strcmp(m->point, "/") == 0 ? 0 : strlen(m->point));
        const char *root = strcmp(m->root, "/") == 0 ? "" : m->root;

        if (!text_path_is_below(path, m->point)) {
                errno = EINVAL;
                return NULL;
        }
        if (strcmp(below, "/") == 0)
                below = "";
        return text_printf("%s%s", *root || *below ? root : "/", below);
}

/* Walks up to the top directory of the mount of *fd. Returns how many steps it took. */
static int climb(int *fd, Place *here) {
        for (int steps = 0; steps < PATH_MAX; steps++) {
                _cleanup_close_ int up = openat(*fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
                Place above;
                int r = up < 0 ? -errno : place_stat(up, &above);

                if (r < 0)
                        return r;
                if (above.mount != here->mount ||
                    (above.ino == here->ino && above.dev == here->dev))
                        return steps;
                fd_close(*fd);
                *fd = TAKE_FD(up);
                *here = above;
        }
        return -ELOOP;
}

/* Our mount of superblock `dev` with this top directory. A directory has one place in a file
 * system. */
static const Mount *find_twin(const MountTable *t, const Place *top, dev_t dev) {
        for (size_t i = 0; i < t->n; i++) {
                const Mount *m = &t->mounts[i];
                _cleanup_close_ int fd = -1;
                Place place;

                if (m->pid != 0 || m->dev != dev)
                        continue;
                fd = open(m->point, O_PATH | O_NOFOLLOW | O_CLOEXEC);
                /* Another mount may stand upon it, and then nothing is known about this one. */
                if (fd >= 0 && place_stat(fd, &place) >= 0 && place.mount == m->id &&
                    place.dev == top->dev && place.ino == top->ino)
                        return m;
        }
        return NULL;
}

int mount_table_add_root(MountTable *t, int procfd, pid_t pid, const char *root, dev_t dev) {
        _cleanup_free_ char *point = strdup(root);
        _cleanup_close_ int fd = -1;
        char path[32], *slash;
        const Mount *twin;
        Place place;
        Mount m;
        int r;

        if (!point)
                return -ENOMEM;
        (void) snprintf(path, sizeof(path), "%d/root", pid);
        fd = openat(procfd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || place_stat(fd, &place) < 0 || mount_table_find(t, place.mount))
                return 0;
        r = climb(&fd, &place);
        twin = r < 0 ? NULL : find_twin(t, &place, dev);
        if (!twin)
                return 0;
        for (; r > 0 && (slash = strrchr(point, '/')); r--)
                *slash = 0;
        m = (Mount){ .id = place.mount, .dev = dev, .pid = pid };
        m.root = strdup(twin->root);
        m.point = strdup(*point ? point : "/");
        m.source = strdup("");
        r = m.root && m.point && m.source ? append(t, &m) : -ENOMEM;
        if (r < 0) {
                mount_done(&m);
                return r;
        }
        mount_table_sort(t);
        return 0;
}
