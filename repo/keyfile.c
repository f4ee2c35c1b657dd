/*
 * Keys in files. In the directory `keys` of root's configuration (0700, files 0600):
 *
 *   host.secret       H, hex, one line
 *   private.pem       the recipient's private key in the clear, or
 *   private.wrapped   the same under a passphrase (keywrap.c); may both be taken off the host
 *   public.pem        its public half
 *   recovery.json     whether a recovery copy was handed out and proven (recovery.c)
 *
 * Credentials of systemd take their place where they were handed over; nothing is written for
 * those.
 *
 * A private key is durable before anything is sealed to it, and public.pem is written after it: a
 * crash between the two is mended from the private key. Whoever changes what is in the directory
 * holds its lock.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/fs.h"
#include "base/step.h"
#include "base/text.h"
#include "repo/repo-internal.h"

/* A secret that others can read is no secret: refused, with the way to mend it. */
static int check_private(int fd, const char *dir, const char *name, Failure *reterr) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot look at %s/%s", dir, name);
        if (!S_ISREG(st.st_mode) || (st.st_uid != 0 && st.st_uid != geteuid()) ||
            (st.st_mode & 077))
                return fail_set(
                        reterr, FAIL_KEY_MISSING, EACCES,
                        "%s/%s must be a file of root with mode 0600; run chown root and chmod 600",
                        dir, name);
        return 0;
}

/* Reads a key file into a Secret without leaving a copy. -ENOENT leaves reterr alone. */
static int load(const char *dir, const char *name, bool private, Secret *ret, Failure *reterr) {
        _cleanup_close_ int dirfd = -1, fd = -1;
        _cleanup_secret_ Secret s = SECRET_INIT;
        struct stat st;
        ssize_t n;
        int r;

        dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd >= 0)
                fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? -ENOENT
                                       : fail_errno(reterr, FAIL_KEY_MISSING, errno,
                                                    "cannot open %s/%s", dir, name);
        r = private ? check_private(fd, dir, name, reterr) : 0;
        if (r < 0)
                return r;
        if (fstat(fd, &st) < 0 || st.st_size <= 0 || (uint64_t) st.st_size > KEY_FILE_MAX)
                return fail_set(reterr, FAIL_KEY_MISSING, EBADMSG, "%s/%s is no key file", dir,
                                name);
        r = secret_new(&s, (size_t) st.st_size);
        if (r < 0)
                return r;
        n = fd_read_full(fd, s.data, s.size);
        if (n < 0 || (size_t) n != s.size)
                return fail_errno(reterr, FAIL_KEY_MISSING, n < 0 ? (int) -n : EIO,
                                  "cannot read %s/%s", dir, name);
        *ret = s;
        s = SECRET_INIT;
        return 0;
}

int keyfile_save(const char *dir, const char *name, const void *data, size_t n, Failure *reterr) {
        _cleanup_close_ int fd = fs_ensure_path(dir, 0700);
        int r = fd < 0 ? fd : fs_write_atomic(fd, name, data, n, 0600);

        if (r < 0)
                return fail_errno(reterr, fail_code_for_write(r, FAIL_INTERNAL), -r,
                                  "cannot write %s/%s", dir, name);
        return 0;
}

int keyfile_lock(const KeyPlaces *places, Failure *reterr) {
        _cleanup_close_ int fd = open(places->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0 && errno == ENOENT)
                return -ENOENT;
        /* Held for a few writes, or for one run of scrypt: nobody waits long. */
        if (fd < 0 || flock(fd, LOCK_EX) < 0)
                return fail_errno(reterr, FAIL_INTERNAL, errno, "cannot lock %s", places->dir);
        return TAKE_FD(fd);
}

/* ---- credentials ---- */

bool keyfile_has_credential(const KeyPlaces *places, const char *name) {
        _cleanup_free_ char *path = NULL;

        if (!places->credentials)
                return false;
        path = text_printf("%s/%s", places->credentials, name);
        return path && access(path, F_OK) == 0;
}

/* A credential if there is one of this name, else the file. -ENOENT leaves reterr alone. */
static int load_either(const KeyPlaces *places,
                       const char *credential,
                       const char *name,
                       Secret *ret,
                       const char **ret_dir,
                       Failure *reterr) {
        bool handed_over = keyfile_has_credential(places, credential);

        *ret_dir = handed_over ? places->credentials : places->dir;
        return load(*ret_dir, handed_over ? credential : name, true, ret, reterr);
}

int keyfile_passphrase(const KeyPlaces *places, Secret *ret, Failure *reterr) {
        _cleanup_secret_ Secret text = SECRET_INIT;
        int r = -ENOENT;

        if (keyfile_has_credential(places, CREDENTIAL_PASSPHRASE)) {
                r = load(places->credentials, CREDENTIAL_PASSPHRASE, true, &text, reterr);
                /* An editor's newline is no part of it. */
                if (r >= 0 && text.data[text.size - 1] == '\n')
                        text.data[--text.size] = 0;
        } else if (places->passphrase) {
                r = places->passphrase(&text, reterr);
        }
        if (r < 0)
                return r;
        if (text.size == 0 || text.size > PASSPHRASE_MAX)
                return fail_set(reterr, FAIL_CONFIGURATION_INVALID, EINVAL,
                                "the passphrase of the private key must have 1 to %d bytes",
                                PASSPHRASE_MAX);
        if (ret) {
                *ret = text;
                text = SECRET_INIT;
        }
        return 0;
}

/* ---- the host secret ---- */

int keyfile_load_host(const KeyPlaces *places, Secret *ret, Failure *reterr) {
        _cleanup_secret_ Secret text = SECRET_INIT, host = SECRET_INIT;
        char hex[2 * KEY_SIZE + 1];
        const char *dir;
        int r;

        r = load_either(places, CREDENTIAL_HOST, KEY_HOST, &text, &dir, reterr);
        if (r < 0)
                return r;
        r = -EINVAL;
        if (text.size == 2 * KEY_SIZE + 1 && text.data[2 * KEY_SIZE] == '\n') {
                r = secret_new(&host, KEY_SIZE);
                if (r < 0)
                        return r;
                memcpy(hex, text.data, 2 * KEY_SIZE);
                hex[2 * KEY_SIZE] = '\0';
                r = text_unhex(hex, host.data, KEY_SIZE);
                explicit_bzero(hex, sizeof(hex));
        }
        if (r < 0)
                return fail_set(reterr, FAIL_KEY_MISSING, EBADMSG,
                                "the host secret in %s is damaged; move it away, and it is made "
                                "again from the repository and the private key",
                                dir);
        *ret = host;
        host = SECRET_INIT;
        return 0;
}

int keyfile_save_host(const KeyPlaces *places, const Secret *host, Failure *reterr) {
        char line[2 * KEY_SIZE + 2];
        int r;

        text_hex(host->data, KEY_SIZE, line);
        line[2 * KEY_SIZE] = '\n';
        r = keyfile_save(places->dir, KEY_HOST, line, 2 * KEY_SIZE + 1, reterr);
        explicit_bzero(line, sizeof(line));
        return r;
}

/* ---- the private key ---- */

static int bad_key(const char *where, int r, Failure *reterr) {
        if (r == -ENOKEY)
                return fail_set(reterr, FAIL_KEY_MISSING, ENOKEY,
                                "%s is encrypted PEM, for which no passphrase is asked; decrypt "
                                "it first: openssl pkey -in FILE -out KEY",
                                where);
        if (r == -EBADMSG)
                return fail_set(reterr, FAIL_KEY_MISSING, EBADMSG, "%s is no X25519 key in PEM",
                                where);
        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read %s", where);
}

static int unwrap(const KeyPlaces *places,
                  const Secret *blob,
                  const char *where,
                  Secret *ret_raw,
                  uint8_t ret_public[32],
                  Failure *reterr) {
        _cleanup_secret_ Secret passphrase = SECRET_INIT;
        int r = keyfile_passphrase(places, &passphrase, reterr);

        if (r == -ENOENT)
                return fail_set(reterr, FAIL_KEY_MISSING, ENOKEY,
                                "%s is wrapped by a passphrase, and none is set; set "
                                "BACKUP_ENCRYPTION_KEY, or give the recovery key with --key",
                                where);
        if (r < 0)
                return r;
        r = keywrap_open(&passphrase, blob, ret_raw, ret_public);
        if (r == -EKEYREJECTED)
                return fail_set(reterr, FAIL_KEY_MISSING, EKEYREJECTED,
                                "the passphrase that is set does not open %s; set the one it was "
                                "wrapped with, or give the recovery key with --key",
                                where);
        if (r == -EBADMSG)
                return fail_set(reterr, FAIL_KEY_MISSING, EBADMSG, "%s is no wrapped private key",
                                where);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot unwrap %s", where) : 0;
}

int keyfile_parse_private(const KeyPlaces *places,
                          const Secret *blob,
                          const char *where,
                          Secret *ret_raw,
                          uint8_t ret_public[32],
                          Failure *reterr) {
        int r;

        if (keywrap_is(blob))
                return unwrap(places, blob, where, ret_raw, ret_public, reterr);
        r = crypto_private_parse(blob, ret_raw, ret_public);
        return r < 0 ? bad_key(where, r, reterr) : 0;
}

int keyfile_load_private(const KeyPlaces *places,
                         Secret *ret_raw,
                         uint8_t ret_public[32],
                         Failure *reterr) {
        _cleanup_secret_ Secret blob = SECRET_INIT;
        _cleanup_free_ char *where = NULL;
        const char *dir;
        int r;

        r = load_either(places, CREDENTIAL_PRIVATE, KEY_PRIVATE, &blob, &dir, reterr);
        if (r == -ENOENT) {
                r = load(places->dir, KEY_WRAPPED, true, &blob, reterr);
                dir = places->dir;
        }
        if (r < 0)
                return r;
        where = text_printf("the private key in %s", dir);
        if (!where)
                return -ENOMEM;
        return keyfile_parse_private(places, &blob, where, ret_raw, ret_public, reterr);
}

int keyfile_save_private(const KeyPlaces *places,
                         const Secret *raw,
                         const uint8_t public[32],
                         Failure *reterr) {
        _cleanup_secret_ Secret passphrase = SECRET_INIT, pem = SECRET_INIT;
        _cleanup_(buf_done) Buf text = BUF_INIT(KEY_FILE_MAX);
        int r = keyfile_passphrase(places, &passphrase, reterr);

        if (r < 0 && r != -ENOENT)
                return r;
        if (r >= 0) {
                r = keywrap_seal(&passphrase, raw, public, &text);
                if (r >= 0)
                        return keyfile_save(places->dir, KEY_WRAPPED, text.data, text.size, reterr);
        } else {
                r = crypto_private_pem(raw, &pem);
                if (r >= 0)
                        return keyfile_save(places->dir, KEY_PRIVATE, pem.data, pem.size, reterr);
        }
        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot encode a private key");
}

/* ---- the pair ---- */

static int parse_public_half(const Secret *blob, uint8_t ret_public[32]) {
        _cleanup_secret_ Secret raw = SECRET_INIT;

        return keywrap_is(blob) ? keywrap_public(blob, ret_public)
                                : crypto_private_parse(blob, &raw, ret_public);
}

int keyfile_public_half(const char *dir,
                        const char *name,
                        uint8_t ret_public[32],
                        Failure *reterr) {
        _cleanup_secret_ Secret blob = SECRET_INIT;
        _cleanup_free_ char *where = text_printf("%s/%s", dir, name);
        int r = where ? load(dir, name, true, &blob, reterr) : -ENOMEM;

        if (r < 0)
                return r;
        r = parse_public_half(&blob, ret_public);
        return r < 0 ? bad_key(where, r, reterr) : 0;
}

/* Of whichever private key there is. -ENOENT leaves reterr alone. */
static int private_half(const KeyPlaces *places, uint8_t ret_public[32], Failure *reterr) {
        int r;

        if (keyfile_has_credential(places, CREDENTIAL_PRIVATE))
                return keyfile_public_half(places->credentials, CREDENTIAL_PRIVATE, ret_public,
                                           reterr);
        r = keyfile_public_half(places->dir, KEY_PRIVATE, ret_public, reterr);
        return r == -ENOENT ? keyfile_public_half(places->dir, KEY_WRAPPED, ret_public, reterr) : r;
}

int keyfile_load_public(const KeyPlaces *places, uint8_t ret_public[32], Failure *reterr) {
        _cleanup_secret_ Secret text = SECRET_INIT;
        int r = load(places->dir, KEY_PUBLIC, false, &text, reterr);

        if (r < 0)
                return r;
        r = crypto_public_parse(text.data, text.size, ret_public);
        if (r == -EBADMSG)
                return fail_set(reterr, FAIL_KEY_MISSING, EBADMSG,
                                "%s/" KEY_PUBLIC " is no X25519 key in PEM", places->dir);
        return r < 0 ? fail_errno(reterr, FAIL_INTERNAL, -r, "cannot read " KEY_PUBLIC) : 0;
}

static int save_public(const KeyPlaces *places, const uint8_t public[32], Failure *reterr) {
        _cleanup_(buf_done) Buf pem = BUF_INIT(KEY_FILE_MAX);
        int r = crypto_public_pem(public, &pem);

        if (r < 0)
                return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot encode a public key");
        return keyfile_save(places->dir, KEY_PUBLIC, pem.data, pem.size, reterr);
}

/* Backups would be sealed to a key that nobody may have: found out now, or with the first restore.
 */
static int compare_pair(const KeyPlaces *places, const uint8_t public[32], Failure *reterr) {
        uint8_t half[32];
        int r = private_half(places, half, reterr);

        if (r == -ENOENT) /* it may be kept elsewhere */
                return 0;
        if (r >= 0 && memcmp(half, public, sizeof(half)) != 0)
                return fail_set(reterr, FAIL_KEY_MISSING, EKEYREJECTED,
                                "%s/" KEY_PUBLIC " does not belong to the private key beside it; "
                                "move away the one that is not meant",
                                places->dir);
        return r;
}

static int make_pair(const KeyPlaces *places, uint8_t ret_public[32], Failure *reterr) {
        _cleanup_secret_ Secret raw = SECRET_INIT;
        int r = private_half(places, ret_public, reterr);

        if (r == -ENOENT) {
                r = crypto_keypair_new(&raw, ret_public);
                if (r < 0)
                        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make a key pair");
                r = keyfile_save_private(places, &raw, ret_public, reterr);
                step("key-private");
        }
        return r < 0 ? r : save_public(places, ret_public, reterr);
}

int keyfile_ensure_pair(const KeyPlaces *places, uint8_t ret_public[32], Failure *reterr) {
        _cleanup_close_ int dir = fs_ensure_path(places->dir, 0700), lock = -1;
        int r;

        if (dir < 0)
                return fail_errno(reterr, fail_code_for_write(dir, FAIL_INTERNAL), -dir,
                                  "cannot make %s", places->dir);
        lock = keyfile_lock(places, reterr);
        if (lock < 0)
                return lock;
        r = keyfile_load_public(places, ret_public, reterr);
        if (r >= 0)
                return compare_pair(places, ret_public, reterr);
        return r == -ENOENT ? make_pair(places, ret_public, reterr) : r;
}
