#pragma once

/*
 * A repository of the process, and what makes hostile content authentic: behind a MAC or a seal an
 * input would reach nothing.
 */

#include "repo/pack.h"
#include "tests/fuzz/fuzz.h"

/* Made at the first call, with both locks held. */
Repo *fuzz_repo(void);
const char *fuzz_repo_path(void);
const char *fuzz_repo_keys(void);

/*
 * Writes the file of a small object with this payload. `damage` is laid over the header by XOR
 * before the MAC is computed.
 */
void fuzz_seal_object(ObjectKind kind,
                      const uint8_t uuid[UUID_SIZE],
                      FuzzInput payload,
                      FuzzInput damage);

/* As it is, whatever it is. */
void fuzz_write_object(ObjectKind kind, const uint8_t uuid[UUID_SIZE], FuzzInput file);
/* Turns one bit of the file. */
void fuzz_turn_object(ObjectKind kind, const uint8_t uuid[UUID_SIZE], uint32_t place);
void fuzz_remove_object(ObjectKind kind, const uint8_t uuid[UUID_SIZE]);

/* Lays `damage` over `to` by XOR, as far as both reach. */
void fuzz_damage(uint8_t *to, size_t n, FuzzInput damage);
