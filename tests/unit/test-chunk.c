/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "repo/chunk.h"

static void test_units(void **state) {
        assert_int_equal(chunk_unit(ENTRY_CLASS_LARGE), 1 << 20);
        assert_int_equal(chunk_unit(ENTRY_CLASS_SMALL), 64 << 10);
        assert_int_equal(chunk_unit(ENTRY_CLASS_SQLITE), 64 << 10);
        assert_int_equal(chunk_unit(ENTRY_CLASS_NONE), 0);
        assert_int_equal(chunk_unit((EntryClass) 77), 0);

        assert_int_equal(chunk_class(ENTRY_CLASS_LARGE, 0), ENTRY_CLASS_NONE);
        assert_int_equal(chunk_class(ENTRY_CLASS_SQLITE, 0), ENTRY_CLASS_NONE);
        assert_int_equal(chunk_class(ENTRY_CLASS_LARGE, 1), ENTRY_CLASS_SMALL);
        assert_int_equal(chunk_class(ENTRY_CLASS_LARGE, 64 << 10), ENTRY_CLASS_SMALL);
        assert_int_equal(chunk_class(ENTRY_CLASS_LARGE, (64 << 10) + 1), ENTRY_CLASS_LARGE);
        assert_int_equal(chunk_class(ENTRY_CLASS_SMALL, 1 << 20), ENTRY_CLASS_LARGE);
        assert_int_equal(chunk_class(ENTRY_CLASS_SQLITE, 512), ENTRY_CLASS_SQLITE);
}

static void test_zero(void **state) {
        uint8_t data[100] = { 0 };

        assert_true(chunk_is_zero(data, 0));
        for (size_t n = 1; n <= sizeof(data); n++) {
                assert_true(chunk_is_zero(data, n));
                for (size_t i = 0; i < sizeof(data); i++) {
                        data[i] = 1;
                        assert_int_equal(chunk_is_zero(data, n), i >= n);
                        data[i] = 0;
                }
        }
        memset(data, 7, sizeof(data));
        assert_false(chunk_is_zero(data, sizeof(data)));
}

static int temporary_file(void) {
        char path[] = "/tmp/holdpoint-chunk-XXXXXX";
        int fd = mkstemp(path);

        assert_true(fd >= 0);
        assert_return_code(unlink(path), errno);
        return fd;
}

/* Walks the file; every byte that is data must be in a data range, ranges must be whole units. */
static uint64_t scan_data(int fd, uint32_t unit, uint64_t size) {
        ChunkScan scan = { .fd = fd, .unit = unit, .size = size };
        uint64_t data = 0, n;
        bool hole;

        for (uint64_t at = 0; at < size; at += n) {
                assert_int_equal(chunk_scan_next(&scan, at, &hole, &n), 0);
                assert_true(n > 0 && n <= size - at);
                assert_true(n % unit == 0 || at + n == size);
                if (!hole)
                        data += n;
        }
        return data;
}

static void test_scan(void **state) {
        _cleanup_close_ int fd = temporary_file();
        const uint64_t tib = (uint64_t) 1 << 40, mib = 1 << 20;
        ChunkScan scan = { .fd = fd, .unit = 1 << 20, .size = tib };
        uint64_t n;
        bool hole;

        assert_return_code(ftruncate(fd, (off_t) tib), errno);
        assert_int_equal(scan_data(fd, 1 << 20, tib), 0);
        assert_int_equal(pwrite(fd, "x", 1, (off_t) (5 * mib + 123456)), 1);
        assert_int_equal(pwrite(fd, "x", 1, (off_t) (tib - 1)), 1);
        assert_int_equal(scan_data(fd, 1 << 20, tib), 2 * mib);
        assert_int_equal(scan_data(fd, 64 << 10, tib), 2 * (64 << 10));

        assert_int_equal(chunk_scan_next(&scan, 0, &hole, &n), 0);
        assert_true(hole);
        assert_int_equal(n, 5 * mib);
        assert_int_equal(chunk_scan_next(&scan, 5 * mib, &hole, &n), 0);
        assert_false(hole);
        assert_int_equal(n, mib);
}

static void test_scan_shorter(void **state) {
        _cleanup_close_ int fd = temporary_file();
        ChunkScan scan = { .fd = fd, .unit = 64 << 10, .size = 1 << 20 };
        uint64_t n;
        bool hole;

        /* A hole that ends before the expected size must not be recorded to that size. */
        assert_return_code(ftruncate(fd, 150000), errno);
        assert_int_equal(chunk_scan_next(&scan, 0, &hole, &n), 0);
        assert_true(hole);
        assert_int_equal(n, 2 * (64 << 10));
        assert_int_equal(chunk_scan_next(&scan, n, &hole, &n), 0);
        assert_false(hole);
        assert_int_equal(chunk_scan_next(&scan, 512 << 10, &hole, &n), 0);
        assert_false(hole);
}

static void test_scan_not_a_file(void **state) {
        ChunkScan scan = { .fd = -1, .unit = 64 << 10, .size = 1 << 20 };
        uint64_t n;
        bool hole;

        assert_int_equal(chunk_scan_next(&scan, 0, &hole, &n), -EBADF);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_units),
                cmocka_unit_test(test_zero),
                cmocka_unit_test(test_scan),
                cmocka_unit_test(test_scan_shorter),
                cmocka_unit_test(test_scan_not_a_file),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
