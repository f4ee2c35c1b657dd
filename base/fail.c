#include "base/fail.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

typedef struct FailInfo {
        const char *name;
        int exit_code;
        const char *text;
} FailInfo;

static const FailInfo fail_table[FAIL_N] = { [FAIL_NONE] = { "None", 0, "no error" },
#define X(code, bus, exit_code, text) [code] = { bus, exit_code, text },
                                             FAIL_CODES(X)
#undef X
};

__attribute__((format(printf, 4, 0))) static void
fail_fill(Failure *f, FailCode code, int errnum, const char *format, va_list ap) {
        f->code = code;
        f->errnum = errnum;
        (void) vsnprintf(f->text, sizeof(f->text), format, ap); /* cut text is still the truth */
}

int fail_set(Failure *reterr, FailCode code, int errnum, const char *format, ...) {
        va_list ap;

        if (errnum <= 0)
                errnum = EIO;
        if (reterr && reterr->code == FAIL_NONE) {
                va_start(ap, format);
                fail_fill(reterr, code, errnum, format, ap);
                va_end(ap);
        }
        return -errnum;
}

int fail_errno(Failure *reterr, FailCode code, int errnum, const char *format, ...) {
        va_list ap;
        size_t n;

        if (errnum <= 0)
                errnum = EIO;
        if (reterr && reterr->code == FAIL_NONE) {
                va_start(ap, format);
                fail_fill(reterr, code, errnum, format, ap);
                va_end(ap);
                n = strlen(reterr->text);
                (void) snprintf(reterr->text + n, sizeof(reterr->text) - n, ": %s",
                                strerror(errnum));
        }
        return -errnum;
}

void fail_prefix(Failure *reterr, const char *format, ...) {
        char old[sizeof(reterr->text)];
        va_list ap;
        size_t n;

        if (!reterr || reterr->code == FAIL_NONE)
                return;
        memcpy(old, reterr->text, sizeof(old));
        va_start(ap, format);
        (void) vsnprintf(reterr->text, sizeof(reterr->text), format, ap);
        va_end(ap);
        n = strlen(reterr->text);
        (void) snprintf(reterr->text + n, sizeof(reterr->text) - n, ": %s", old);
}

FailCode fail_code_for_write(int errnum, FailCode other) {
        if (errnum < 0)
                errnum = -errnum;
        return errnum == ENOSPC || errnum == EDQUOT ? FAIL_NO_SPACE : other;
}

const char *fail_name(FailCode code) {
        return fail_table[code].name;
}

int fail_exit_code(FailCode code) {
        return fail_table[code].exit_code;
}

const char *fail_default_text(FailCode code) {
        return fail_table[code].text;
}

FailCode fail_from_name(const char *name) {
        for (int i = FAIL_NONE + 1; i < FAIL_N; i++)
                if (name && strcmp(fail_table[i].name, name) == 0)
                        return (FailCode) i;
        return FAIL_INTERNAL;
}
