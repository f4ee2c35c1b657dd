#pragma once

/*
 * Messages between agent and worker, and between worker and helpers: one JSON object per packet of
 * a SOCK_SEQPACKET socket, descriptors as SCM_RIGHTS. Hostile in both directions: sizes, depth and
 * counts are bounded, unknown types are the receiver's error. docs/ARCHITECTURE.md lists the types.
 */

#include <stddef.h>

#include "base/fail.h"
#include "base/json.h"

#define PROTO_MESSAGE_MAX ((size_t) 128 << 10)
#define PROTO_FDS_MAX     64

typedef struct ProtoFds {
        int fds[PROTO_FDS_MAX];
        size_t n;
} ProtoFds;

#define PROTO_FDS_INIT ((ProtoFds){ .n = 0 })

/* Closes what is left. Set an entry to -1 to keep that descriptor. */
void proto_fds_done(ProtoFds *fds);
#define _cleanup_proto_fds_ _cleanup_(proto_fds_done)

/*
 * Sends `message` (borrowed) with `fds` (borrowed). Blocks while the peer's queue is full, unless
 * the socket is non-blocking (then -EAGAIN). 0; -EPIPE when the peer is gone; -EMSGSIZE.
 */
int proto_send(int socket, json_object *message, const int *fds, size_t n_fds);

/*
 * Receives one message. Returns 1 with an owned object in `ret`, 0 when the peer has closed,
 * -EAGAIN on an empty non-blocking socket, -EBADMSG for anything malformed. `ret_fds` may be NULL:
 * then a message with descriptors is malformed.
 */
int proto_recv(int socket, json_object **ret, ProtoFds *ret_fds);

/* A new message {"type": type}. Owned; NULL if out of memory. */
json_object *proto_new(const char *type);

/* The type of a received message, "" if it has none. Borrowed. */
const char *proto_type(json_object *message);

/* A Failure as {"name", "errno", "text"}, and back (anything malformed is FAIL_INTERNAL). */
json_object *proto_failure(const Failure *f);
void proto_failure_read(json_object *o, Failure *ret);
