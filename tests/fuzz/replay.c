/*
 * The main of a fuzz target without an engine: runs the files it is given, and all files of the
 * directories it is given, each once. No file at all is a failure: a corpus that is gone must not
 * look like one that was replayed.
 */

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"

static unsigned replayed;

static void run_file(const char *path) {
        _cleanup_file_ FILE *f = fopen(path, "re");
        _cleanup_free_ uint8_t *exact = NULL;
        struct stat st;

        fuzz_assert(f && fstat(fileno(f), &st) == 0);
        exact = malloc((size_t) st.st_size); /* so that one byte too many is seen */
        fuzz_assert(exact || st.st_size == 0);
        fuzz_assert(fread(exact, 1, (size_t) st.st_size, f) == (size_t) st.st_size);
        (void) fprintf(stderr, "%s\n", path);
        (void) LLVMFuzzerTestOneInput(exact, (size_t) st.st_size);
        replayed++;
}

static void run_path(const char *path) {
        struct dirent **names = NULL;
        struct stat st;
        int n;

        fuzz_assert(stat(path, &st) == 0);
        if (!S_ISDIR(st.st_mode)) {
                run_file(path);
                return;
        }
        n = scandir(path, &names, NULL, alphasort);
        fuzz_assert(n >= 0);
        for (int i = 0; i < n; i++) {
                _cleanup_free_ char *file = text_printf("%s/%s", path, names[i]->d_name);

                fuzz_assert(file);
                if (names[i]->d_name[0] != '.')
                        run_path(file);
                free(names[i]);
        }
        free(names);
}

int main(int argc, char **argv) {
        for (int i = 1; i < argc; i++)
                run_path(argv[i]);
        (void) printf("%u inputs\n", replayed);
        return replayed > 0 ? 0 : 1;
}
