#include <errno.h>
#include <string.h>

#include "agent/bus-internal.h"
#include "base/log.h"
#include "base/names.h"

int bus_error_reply_standard(sd_bus_message *call, const char *name, const char *text) {
        sd_bus_error error = SD_BUS_ERROR_MAKE_CONST(name, text);

        return sd_bus_reply_method_error(call, &error);
}

int bus_error_reply(sd_bus_message *call, int r, const Failure *failure) {
        _cleanup_free_ char *name = NULL, *escaped = NULL;
        const char *text = failure->text;

        if (failure->code == FAIL_NONE && r == -EOPNOTSUPP)
                return bus_error_reply_standard(call, SD_BUS_ERROR_NOT_SUPPORTED,
                                                "not in this version");
        if (failure->code == FAIL_NONE)
                text = fail_default_text(FAIL_INTERNAL);
        name = text_printf(HP_BUS_ERROR_PREFIX "%s",
                           fail_name(failure->code == FAIL_NONE ? FAIL_INTERNAL : failure->code));
        /* Texts may name files, and files may be named anything. */
        if (!text_is_label(text, sizeof(failure->text))) {
                escaped = text_escape(text);
                text = escaped;
        }
        if (!name || !text)
                return bus_error_reply_standard(call, SD_BUS_ERROR_NO_MEMORY, "out of memory");
        log_debug("%s: %s", sd_bus_message_get_member(call), text);
        return bus_error_reply_standard(call, name, text);
}

int bus_fail(Failure *reterr, int r) {
        if (r >= 0)
                return 0;
        return fail_errno(reterr, FAIL_INTERNAL, -r, "cannot make the reply");
}
