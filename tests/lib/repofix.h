#pragma once

/*
 * A repository of its own for one test, and files whose content is a function of a seed, so that
 * what comes back can be compared without keeping it.
 */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "repo/repo.h"

typedef struct RepoFix {
        char *top; /* a fresh directory; repository, keys and state are below */
        char *path, *keys;
        int state_fd;
        Repo *repo;
        int polls_left; /* of the interruption; below 0: never */
} RepoFix;

/* Makes a repository and opens it with both locks. Fails the test on any error. */
void repofix_setup(RepoFix *x);
void repofix_reopen(RepoFix *x);
void repofix_teardown(RepoFix *x);

/* A test whose state is a RepoFix, which is removed after a failed test, too. */
int repofix_setup_test(void **state);
int repofix_teardown_test(void **state);
#define repofix_test(f)                                                                            \
        cmocka_unit_test_setup_teardown(f, repofix_setup_test, repofix_teardown_test)

/* The number of files with this ending below one of the repository's directories. */
unsigned repofix_count(const RepoFix *x, const char *dir, const char *ending);

/* The sum of the sizes of all files in the repository. */
uint64_t repofix_bytes(const RepoFix *x);

/* Writes what (seed, offset) says. */
void repofix_fill(uint64_t seed, uint64_t offset, void *data, size_t n);

/* An unnamed file of `size` bytes. Caller closes. */
int repofix_file(uint64_t seed, uint64_t size);

/* Entry and local of `fd` (or of a directory, with -1). Strings are borrowed. */
void repofix_entry(const char *dir, const char *name, int fd, Entry *ret, EntryLocal *ret_local);

/* Begins with level 1 and small packs; `params` may be NULL. */
RepoSession *repofix_begin(RepoFix *x, const RepoSessionParams *params);

/* Adds a file of generated content and expects it to be recorded. */
void repofix_add(RepoSession *s, const char *dir, const char *name, uint64_t seed, uint64_t size);

/* Finishes and commits under a fresh id. Returns the record, owned. */
json_object *repofix_commit(RepoSession *s, RepoTotals *ret);

/* The manifest of a record; and the content of a file compared with its seed. */
RepoManifest *repofix_manifest(RepoFix *x, json_object *record);
void repofix_check_content(RepoManifest *m, const Entry *e, uint64_t seed);
