#pragma once

/*
 * Failures that a user can cause or must be told of. One list feeds the D-Bus error names, the exit
 * codes of the command line and docs/ERRORS.md.
 *
 * Results of functions: 0 (or a documented positive outcome) is success; a negative errno is a
 * failure, passed up unchanged. Where a user is told, a `Failure *reterr` says what (`code`), why
 * (`errnum`) and one sentence (`text`) that names the object and what to do next.
 */

#include <stdarg.h>

/* X(code, D-Bus name, exit code of the command line, default text) */
#define FAIL_CODES(X)                                                                              \
        X(FAIL_INTERNAL, "Internal", 1, "internal error")                                          \
        X(FAIL_NO_SUCH_BACKUP, "NoSuchBackup", 5, "no such backup")                                \
        X(FAIL_NO_SUCH_SERVICE, "NoSuchService", 5, "no such service")                             \
        X(FAIL_NO_SUCH_JOB, "NoSuchJob", 5, "no such job")                                         \
        X(FAIL_NO_SUCH_RESTORE, "NoSuchRestore", 5, "no such restore")                             \
        X(FAIL_NO_SUCH_SCHEDULE, "NoSuchSchedule", 5, "no such schedule")                          \
        X(FAIL_INVALID_ARGUMENT, "InvalidArgument", 2, "argument is not allowed")                  \
        X(FAIL_CONFIGURATION_INVALID, "ConfigurationInvalid", 1, "configuration is invalid")       \
        X(FAIL_NOT_CONFIRMED, "NotConfirmed", 2, "not confirmed")                                  \
        X(FAIL_BUSY, "Busy", 6, "busy")                                                            \
        X(FAIL_QUEUE_FULL, "QueueFull", 6, "too many jobs are waiting")                            \
        X(FAIL_HOLD_TIMEOUT, "HoldTimeout", 1, "databases could not be held in time")              \
        X(FAIL_SNAPSHOT_FAILED, "SnapshotFailed", 1, "snapshot could not be made")                 \
        X(FAIL_SNAPSHOT_FULL, "SnapshotFull", 1, "snapshot ran out of space")                      \
        X(FAIL_NO_SPACE, "NoSpace", 1, "no space left")                                            \
        X(FAIL_SOURCE_MISSING, "SourceMissing", 1, "a source path is missing")                     \
        X(FAIL_INTEGRITY_FAILURE, "IntegrityFailure", 8, "stored data is damaged")                 \
        X(FAIL_KEY_MISSING, "KeyMissing", 1, "the private key is needed and not here")             \
        X(FAIL_NOT_RESTORABLE, "NotRestorable", 1, "cannot be restored in this way")               \
        X(FAIL_TARGET_IN_USE, "TargetInUse", 1, "the target is in use")                            \
        X(FAIL_CANCELED, "Canceled", 7, "canceled")                                                \
        X(FAIL_INTERRUPTED, "Interrupted", 1, "interrupted")

typedef enum FailCode {
        FAIL_NONE,
#define X(code, bus, exit_code, text) code,
        FAIL_CODES(X)
#undef X
} FailCode;

#define FAIL_N (FAIL_INTERRUPTED + 1)

typedef struct Failure {
        FailCode code;
        int errnum;
        char text[1024];
} Failure;

#define FAILURE_INIT ((Failure){ .code = FAIL_NONE })

/*
 * Of a text too long for its place the middle is left out. Fills `reterr` if not NULL (keeping a
 * failure that is already there) and returns -errnum. `errnum` is positive; 0 is taken as EIO so
 * that a failure is never success.
 */
int fail_set(Failure *reterr, FailCode code, int errnum, const char *format, ...)
        __attribute__((format(printf, 4, 5)));

/* As fail_set() with ": <strerror>" appended to the text. */
int fail_errno(Failure *reterr, FailCode code, int errnum, const char *format, ...)
        __attribute__((format(printf, 4, 5)));

/* Puts a prefix before the text that is there. Returns nothing to keep call sites honest. */
void fail_prefix(Failure *reterr, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The code that fits an errno of a write: ENOSPC and EDQUOT are FAIL_NO_SPACE, else `other`. */
FailCode fail_code_for_write(int errnum, FailCode other);

/* Short name ("NoSuchBackup"), exit code and default text of a code. */
const char *fail_name(FailCode code);
int fail_exit_code(FailCode code);
const char *fail_default_text(FailCode code);

/* The code with this short name, or FAIL_INTERNAL if there is none. */
FailCode fail_from_name(const char *name);
