#include "base/fail.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define FAIL_HEAD 400 /* what is kept before a cut */

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

static bool is_continuation(char c) {
        return ((unsigned char) c & 0xc0) == 0x80;
}

/*
 * A sentence begins with the object and ends with the reason and what to do: of one that is too
 * long, for it names a deep path, the middle goes. Cuts lie between characters of UTF-8.
 */
static void fail_fit(Failure *f, const char *sentence) {
        size_t n = strlen(sentence), head = FAIL_HEAD, tail;

        if (n < sizeof(f->text)) {
                memmove(f->text, sentence, n + 1);
                return;
        }
        tail = n - (sizeof(f->text) - FAIL_HEAD - sizeof("..."));
        for (int i = 0; i < 3 && is_continuation(sentence[head]); i++)
                head--;
        for (int i = 0; i < 3 && is_continuation(sentence[tail]); i++)
                tail++;
        (void) snprintf(f->text, sizeof(f->text), "%.*s...%s", (int) head, sentence,
                        sentence + tail);
}

/* `end` is put behind what the format gives: "" or ": reason". */
__attribute__((format(printf, 3, 0))) static void
fail_say(Failure *f, const char *end, const char *format, va_list ap) {
        _cleanup_free_ char *text = NULL, *sentence = NULL;

        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        else if (asprintf(&sentence, "%s%s", text, end) < 0)
                sentence = NULL;
        fail_fit(f, sentence ? sentence : fail_default_text(f->code)); /* no memory for more */
}

__attribute__((format(printf, 5, 0))) static void
fail_fill(Failure *f, FailCode code, int errnum, const char *end, const char *format, va_list ap) {
        f->code = code;
        f->errnum = errnum;
        fail_say(f, end, format, ap);
}

int fail_set(Failure *reterr, FailCode code, int errnum, const char *format, ...) {
        va_list ap;

        if (errnum <= 0)
                errnum = EIO;
        if (reterr && reterr->code == FAIL_NONE) {
                va_start(ap, format);
                fail_fill(reterr, code, errnum, "", format, ap);
                va_end(ap);
        }
        return -errnum;
}

int fail_errno(Failure *reterr, FailCode code, int errnum, const char *format, ...) {
        char end[128];
        va_list ap;

        if (errnum <= 0)
                errnum = EIO;
        if (reterr && reterr->code == FAIL_NONE) {
                (void) snprintf(end, sizeof(end), ": %s", strerror(errnum));
                va_start(ap, format);
                fail_fill(reterr, code, errnum, end, format, ap);
                va_end(ap);
        }
        return -errnum;
}

void fail_prefix(Failure *reterr, const char *format, ...) {
        char end[sizeof(reterr->text) + 2];
        va_list ap;

        if (!reterr || reterr->code == FAIL_NONE)
                return;
        (void) snprintf(end, sizeof(end), ": %s", reterr->text);
        va_start(ap, format);
        fail_say(reterr, end, format, ap);
        va_end(ap);
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
