#pragma once

/*
 * Key bytes: locked in memory where the limit allows, never dumped, wiped when freed.
 */

#include <stddef.h>
#include <stdint.h>

typedef struct Secret {
        uint8_t *data;
        size_t size;
} Secret;

#define SECRET_INIT ((Secret){ .data = NULL })

/* Allocates `n` zero bytes. 0 or -ENOMEM. */
int secret_new(Secret *ret, size_t n);
int secret_copy(Secret *ret, const void *data, size_t n);

/* Wipes and frees; fine on SECRET_INIT. */
void secret_done(Secret *s);

#define _cleanup_secret_ __attribute__((cleanup(secret_done)))
