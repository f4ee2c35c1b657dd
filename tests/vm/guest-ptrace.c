/*
 * Preloaded into linux.uml. Its kernel keeps 2696 bytes of FPU state per process (up to AVX-512 and
 * PKRU); where the CPU has more (AMX), the host refuses to take back less than all of it, and the
 * guest dies before its first process. What the guest does not know stays in its initial state.
 */

#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define STATE_MAX (64 << 10)

typedef long (*Ptrace)(enum __ptrace_request request, ...);

/* The whole state's size, as the host reports it for a stopped child; 0 when it cannot be told. */
static size_t whole_size(Ptrace next, pid_t pid, void *buffer) {
        struct iovec whole = { buffer, STATE_MAX };

        return next(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) == 0 ? whole.iov_len : 0;
}

/* linux.uml asks from one thread only, and on a stack that is too small for the buffer. */
static long set_state(Ptrace next, pid_t pid, const struct iovec *part) {
        static char buffer[STATE_MAX];
        static size_t size;
        struct iovec whole;

        if (size == 0) {
                size = whole_size(next, pid, buffer);
                memset(buffer, 0, sizeof(buffer));
        }
        if (part->iov_len >= size)
                return next(PTRACE_SETREGSET, pid, NT_X86_XSTATE, part);
        memcpy(buffer, part->iov_base, part->iov_len);
        whole = (struct iovec){ buffer, size };
        return next(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

__attribute__((visibility("default"))) long ptrace(enum __ptrace_request request, ...) {
        static Ptrace next;
        void *address, *data;
        va_list ap;
        pid_t pid;

        va_start(ap, request);
        pid = va_arg(ap, pid_t);
        address = va_arg(ap, void *);
        data = va_arg(ap, void *);
        va_end(ap);
        if (!next)
                next = (Ptrace) dlsym(RTLD_NEXT, "ptrace");
        if (request == PTRACE_SETREGSET && address == (void *) NT_X86_XSTATE)
                return set_state(next, pid, data);
        return next(request, pid, address, data);
}
