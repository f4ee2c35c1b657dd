/*
 * Units are fixed and aligned, so that a changed range of a file maps to chunks without looking at
 * the rest. A hole counts only in whole units: what is partly data is read whole, and the kernel's
 * answer is never trusted beyond "nothing is stored here".
 */

#include "repo/chunk.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repo/format.h"

uint32_t chunk_unit(EntryClass class) {
        switch (class) {
        case ENTRY_CLASS_LARGE:
                return LARGE_UNIT;
        case ENTRY_CLASS_SMALL:
                return SMALL_MAX;
        case ENTRY_CLASS_SQLITE:
                return SQLITE_UNIT;
        case ENTRY_CLASS_NONE:
                break;
        }
        return 0;
}

EntryClass chunk_class(EntryClass wanted, uint64_t size) {
        if (size == 0)
                return ENTRY_CLASS_NONE;
        if (wanted == ENTRY_CLASS_SQLITE)
                return ENTRY_CLASS_SQLITE;
        return size <= SMALL_MAX ? ENTRY_CLASS_SMALL : ENTRY_CLASS_LARGE;
}

bool chunk_is_zero(const void *data, size_t n) {
        const uint8_t *p = data;
        size_t head = n < 16 ? n : 16;

        for (size_t i = 0; i < head; i++)
                if (p[i] != 0)
                        return false;

        /* Each byte equals the one 16 before it, and the first 16 are zero. */
        return n <= 16 || memcmp(p, p + 16, n - 16) == 0;
}

/*
 * How much of the rest of the file, known to hold no data, is hole: whole units as far as the file
 * goes now, so that the reader finds out about one that has become shorter. 0: treat it as data.
 */
static uint64_t chunk_hole_to_end(const ChunkScan *scan, uint64_t offset) {
        struct stat st;
        uint64_t size;

        if (fstat(scan->fd, &st) < 0)
                return 0;
        size = (uint64_t) st.st_size;
        if (size >= scan->size)
                return scan->size - offset;
        return size <= offset ? 0 : (size - offset) - (size - offset) % scan->unit;
}

int chunk_scan_next(const ChunkScan *scan, uint64_t offset, bool *ret_hole, uint64_t *ret_bytes) {
        uint64_t left = scan->size - offset, data, end;
        off_t at;

        at = lseek(scan->fd, (off_t) offset, SEEK_DATA);
        if (at < 0 && errno != ENXIO && errno != EINVAL)
                return -errno;
        if (at < 0) {
                uint64_t hole = errno == ENXIO ? chunk_hole_to_end(scan, offset) : 0;

                *ret_hole = hole > 0;
                *ret_bytes = hole > 0 ? hole : left;
                return 0;
        }

        data = (uint64_t) at - (uint64_t) at % scan->unit;
        if (data > offset) {
                *ret_hole = true;
                *ret_bytes = data - offset < left ? data - offset : left;
                return 0;
        }

        at = lseek(scan->fd, at, SEEK_HOLE);
        *ret_hole = false;
        *ret_bytes = left;
        if (at < 0)
                return errno == ENXIO ? 0 : -errno; /* ENXIO: shorter since; the reader sees it */
        end = (uint64_t) at + scan->unit - 1;
        end -= end % scan->unit;
        if (end > offset && end - offset < left)
                *ret_bytes = end - offset;
        return 0;
}
