#pragma once

/*
 * CRC-32C (Castagnoli, reflected polynomial 0x82f63b78; RFC 3720 appendix B.4): finds torn and
 * rotten bytes without a key. It protects against accidents only.
 */

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 to begin) over `n` bytes. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);
