#pragma once

/*
 * Scope-bound release of resources: `_cleanup_(f)` on a local runs f on its address when the scope
 * ends; ownership leaves only by TAKE_PTR or TAKE_FD.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

/* Defines `f##p(T *)` that calls `f` on a non-NULL pointer, for use with _cleanup_. */
#define DEFINE_CLEANUP(T, f)                                                                       \
        static inline void f##p(T *p) {                                                            \
                if (*p)                                                                            \
                        f(*p);                                                                     \
        }                                                                                          \
        struct cleanup_semicolon_##f

#define TAKE_PTR(p)                                                                                \
        ({                                                                                         \
                __typeof__(p) *_take_p = &(p);                                                     \
                __typeof__(p) _take_v = *_take_p;                                                  \
                *_take_p = NULL;                                                                   \
                _take_v;                                                                           \
        })

#define TAKE_FD(fd)                                                                                \
        ({                                                                                         \
                int *_take_p = &(fd);                                                              \
                int _take_v = *_take_p;                                                            \
                *_take_p = -1;                                                                     \
                _take_v;                                                                           \
        })

static inline void freep(void *p) {
        free(*(void **) p);
}

/* Closes `fd` if it is one and returns -1; keeps errno. */
int fd_close(int fd);

static inline void fd_closep(int *fd) {
        fd_close(*fd);
}

static inline void closedirp(DIR **d) {
        if (*d)
                closedir(*d);
}

static inline void fclosep(FILE **f) {
        if (*f)
                fclose(*f);
}

#define _cleanup_free_  _cleanup_(freep)
#define _cleanup_close_ _cleanup_(fd_closep)
#define _cleanup_dir_   _cleanup_(closedirp)
#define _cleanup_file_  _cleanup_(fclosep)

#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))
