#pragma once

/*
 * The recipient's private key as its owner sees it: where keys are kept, whether a recovery copy
 * was handed out and proven, taking the key off the host. Nothing here is needed to make backups.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/fail.h"
#include "base/secret.h"

typedef struct Repo Repo;

/* Where keys come from. Strings are borrowed for as long as the struct is used. */
typedef struct KeyPlaces {
        const char *dir;         /* keys/ in root's configuration, absolute */
        const char *credentials; /* directory of systemd's credentials, or NULL */
        /* The passphrase that wraps the private key: 0, -ENOENT if none is set. May be NULL. */
        int (*passphrase)(Secret *ret, Failure *reterr);
} KeyPlaces;

#define KEY_ID_MAX 17

typedef struct KeyFacts {
        char id[KEY_ID_MAX]; /* of the public key; "" if there is none yet */
        bool private_key;    /* it is on this host, or was not wiped to the end */
        bool recovery_exported, recovery_proven;
} KeyFacts;

/* What is known without opening anything. A missing directory is no failure. */
int keys_facts(const KeyPlaces *places, KeyFacts *ret, Failure *reterr);

/*
 * Finishes what a crash interrupted (a key that was to be wiped), and wraps a private key that lies
 * there in the clear although a passphrase is set. For jobs that may write to the directory.
 */
int keys_settle(const KeyPlaces *places, Failure *reterr);

/* The private key as PEM, to be handed out; then, once it was, that it was. FAIL_KEY_MISSING. */
int keys_export(const KeyPlaces *places, Secret *ret_pem, Failure *reterr);
int keys_note_exported(const KeyPlaces *places, const Secret *pem, Failure *reterr);

/*
 * Proves the key that the repository was opened with: it opens the host secret and the key of every
 * session; then notes that it does. `ret_sessions` says how many. FAIL_KEY_MISSING.
 */
int keys_prove(Repo *repo, uint64_t *ret_sessions, Failure *reterr);

/*
 * Wipes the private key from the directory, durably. FAIL_NOT_CONFIRMED unless a recovery copy of
 * this very key was handed out and proven. `ret_forgotten` is false if there was none.
 */
int keys_forget(const KeyPlaces *places, bool *ret_forgotten, Failure *reterr);
