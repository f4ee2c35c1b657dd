#include "base/secret.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int secret_new(Secret *ret, size_t n) {
        void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
                return -ENOMEM;
        (void) mlock(p, n); /* best effort: a low limit must not stop a backup */
        (void) madvise(p, n, MADV_DONTDUMP);
        (void) madvise(p, n, MADV_WIPEONFORK);
        *ret = (Secret){ .data = p, .size = n };
        return 0;
}

int secret_copy(Secret *ret, const void *data, size_t n) {
        int r = secret_new(ret, n);

        if (r >= 0)
                memcpy(ret->data, data, n);
        return r;
}

void secret_done(Secret *s) {
        if (s->data) {
                explicit_bzero(s->data, s->size);
                (void) munmap(s->data, s->size);
        }
        *s = SECRET_INIT;
}
