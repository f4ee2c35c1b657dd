#pragma once

/*
 * What the fuzz targets share: reading an input piece by piece, and a private tmpfs to work in.
 *
 * A target is LLVMFuzzerTestOneInput() of tests/fuzz/fuzz-NAME.c. It aborts for what must never be,
 * and the sanitizers abort for the rest. Whatever it makes on disk is gone when it returns.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An assertion that no build switches off. */
#define fuzz_assert(condition)                                                                     \
        do {                                                                                       \
                if (!(condition)) {                                                                \
                        (void) fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)

/* ---- inputs ---- */

/* What is left of an input. Past its end numbers are 0 and pieces are empty. */
typedef struct FuzzInput {
        const uint8_t *data;
        size_t size;
} FuzzInput;

uint8_t fuzz_u8(FuzzInput *in);
uint16_t fuzz_u16(FuzzInput *in);
uint32_t fuzz_u32(FuzzInput *in);

/* The next `n` bytes, or fewer. */
FuzzInput fuzz_take(FuzzInput *in, size_t n);

/* A piece that its length (two bytes) stands before. */
FuzzInput fuzz_piece(FuzzInput *in);

/* The same as a string, cut at its first zero. Owned. */
char *fuzz_string(FuzzInput *in);

/* ---- where a target works ---- */

/*
 * A directory of this process alone: a tmpfs of its own where mounting is allowed. It is made at
 * the first call; the path and the descriptor stay valid.
 */
const char *fuzz_dir(void);
int fuzz_dir_fd(void);

/* Creates or replaces `name` in `dirfd` with the piece. */
void fuzz_write(int dirfd, const char *name, FuzzInput content);

/* Makes the directory `name` in `dirfd` if it is missing and opens it. Caller closes. */
int fuzz_mkdir(int dirfd, const char *name);

/* Removes it with all that is below. A missing one is fine. */
void fuzz_remove(int dirfd, const char *name);

/* A line for each object below `dirfd`: path, mode, owner, size, mtime, target. Owned. */
char *fuzz_listing(int dirfd);

/* The lowest free descriptor: the same before and after, or one was leaked. */
int fuzz_next_fd(void);
