#include "tests/lib/repofix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/fs.h"
#include "base/text.h"

static bool repofix_interrupted(void *userdata) {
        RepoFix *x = userdata;

        if (x->polls_left < 0)
                return false;
        if (x->polls_left == 0)
                return true;
        x->polls_left--;
        return false;
}

static void repofix_open(RepoFix *x, bool create) {
        Failure failure = FAILURE_INIT;
        RepoParams params = {
                .path = x->path,
                .keys = { .dir = x->keys },
                .state_fd = x->state_fd,
                .create = create,
                .interrupted = repofix_interrupted,
                .userdata = x,
        };
        int r;

        r = repo_open(&params, &x->repo, &failure);
        if (r == 0)
                r = repo_lock(x->repo, REPO_LOCK_WRITER, 0, &failure);
        if (r == 0)
                r = repo_lock(x->repo, REPO_LOCK_PACKS_SHARED, 0, &failure);
        if (r < 0)
                fail_msg("%s", failure.text);
}

void repofix_setup(RepoFix *x) {
        const char *tmp = getenv("TMPDIR");
        char *dir;

        *x = (RepoFix){ .polls_left = -1 };
        x->top = text_printf("%s/holdpoint-repo-XXXXXX", tmp ? tmp : "/tmp");
        assert_non_null(x->top);
        assert_non_null(mkdtemp(x->top));
        x->path = text_printf("%s/repository", x->top);
        x->keys = text_printf("%s/keys", x->top);
        dir = text_printf("%s/state", x->top);
        assert_return_code(mkdir(dir, 0700), errno);
        x->state_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_return_code(x->state_fd, errno);
        free(dir);
        repofix_open(x, true);
}

void repofix_reopen(RepoFix *x) {
        repo_close(x->repo);
        x->repo = NULL;
        repofix_open(x, false);
}

void repofix_teardown(RepoFix *x) {
        repo_close(x->repo);
        (void) fd_close(x->state_fd);
        assert_int_equal(fs_remove_tree(AT_FDCWD, x->top, NULL, NULL), 0);
        free(x->keys);
        free(x->path);
        free(x->top);
}

int repofix_setup_test(void **state) {
        RepoFix *x = malloc(sizeof(*x));

        assert_non_null(x);
        repofix_setup(x);
        *state = x;
        return 0;
}

int repofix_teardown_test(void **state) {
        repofix_teardown(*state);
        free(*state);
        return 0;
}

typedef struct Census {
        unsigned files;
        uint64_t bytes;
} Census;

static void repofix_census(int dirfd, const char *name, const char *ending, Census *c) {
        _cleanup_dir_ DIR *d = NULL;
        struct dirent *de;
        int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        assert_return_code(fd, errno);
        d = fdopendir(fd);
        assert_non_null(d);
        while ((de = readdir(d))) {
                size_t n = strlen(de->d_name), end = strlen(ending);
                struct stat st;

                if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
                        continue;
                assert_return_code(fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW), errno);
                if (S_ISDIR(st.st_mode))
                        repofix_census(fd, de->d_name, ending, c);
                else if (n >= end && strcmp(de->d_name + n - end, ending) == 0) {
                        c->files++;
                        c->bytes += (uint64_t) st.st_size;
                }
        }
}

static Census repofix_census_of(const RepoFix *x, const char *dir, const char *ending) {
        _cleanup_close_ int fd = open(x->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        Census c = { 0 };

        assert_return_code(fd, errno);
        repofix_census(fd, dir, ending, &c);
        return c;
}

unsigned repofix_count(const RepoFix *x, const char *dir, const char *ending) {
        return repofix_census_of(x, dir, ending).files;
}

uint64_t repofix_bytes(const RepoFix *x) {
        return repofix_census_of(x, ".", "").bytes;
}

void repofix_fill(uint64_t seed, uint64_t offset, void *data, size_t n) {
        uint8_t *p = data;

        for (size_t i = 0; i < n;) {
                uint64_t at = offset + i, z = (seed << 40) + at / 8 + 1;
                size_t skip = at % 8, some = 8 - skip < n - i ? 8 - skip : n - i;

                z *= 0x9e3779b97f4a7c15u;
                z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
                z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
                z ^= z >> 31;
                memcpy(p + i, (uint8_t *) &z + skip, some);
                i += some;
        }
}

int repofix_file(uint64_t seed, uint64_t size) {
        static uint8_t data[1 << 20];
        int fd = memfd_create("source", MFD_CLOEXEC);

        assert_return_code(fd, errno);
        for (uint64_t at = 0; at < size; at += sizeof(data)) {
                size_t n = size - at < sizeof(data) ? (size_t) (size - at) : sizeof(data);

                repofix_fill(seed, at, data, n);
                assert_int_equal(fd_pwrite_full(fd, data, n, at), 0);
        }
        return fd;
}

void repofix_entry(const char *dir, const char *name, int fd, Entry *ret, EntryLocal *ret_local) {
        struct stat st = { 0 };

        *ret = (Entry){
                .service = "main",
                .dir = dir,
                .name = name,
                .type = fd < 0 ? ENTRY_DIRECTORY : ENTRY_FILE,
                .mode = fd < 0 ? 0755 : 0640,
                .uid = 33,
                .gid = 33,
                .mtime_sec = 1700000000,
                .mtime_nsec = 5,
        };
        *ret_local = (EntryLocal){ 0 };
        if (fd < 0)
                return;
        assert_return_code(fstat(fd, &st), errno);
        ret->size = (uint64_t) st.st_size;
        ret->class = ENTRY_CLASS_LARGE;
        *ret_local = (EntryLocal){
                .ino = st.st_ino,
                .size = (uint64_t) st.st_size,
                .mtime_sec = st.st_mtim.tv_sec,
                .ctime_sec = st.st_ctim.tv_sec,
                .mtime_nsec = (uint32_t) st.st_mtim.tv_nsec,
                .ctime_nsec = (uint32_t) st.st_ctim.tv_nsec,
                .mode = st.st_mode,
                .nlink = (uint32_t) st.st_nlink,
                .uid = st.st_uid,
                .gid = st.st_gid,
        };
}

RepoSession *repofix_begin(RepoFix *x, const RepoSessionParams *params) {
        RepoSessionParams standard = { .level = 1, .pack_bytes = 4 << 20 };
        Failure failure = FAILURE_INIT;
        RepoSession *s = NULL;

        if (repo_session_begin(x->repo, params ? params : &standard, &s, &failure) < 0)
                fail_msg("%s", failure.text);
        return s;
}

void repofix_add(RepoSession *s, const char *dir, const char *name, uint64_t seed, uint64_t size) {
        _cleanup_close_ int fd = repofix_file(seed, size);
        Failure failure = FAILURE_INIT;
        EntryLocal local;
        Entry e;

        repofix_entry(dir, name, fd, &e, &local);
        if (repo_session_add(s, &e, &local, fd, true, &failure) != 0)
                fail_msg("%s", failure.text);
}

json_object *repofix_commit(RepoSession *s, RepoTotals *ret) {
        _cleanup_json_ json_object *facts = json_object_new_object();
        Failure failure = FAILURE_INIT;
        json_object *record = NULL;
        char id[UUID_TEXT_MAX];
        uint8_t uuid[16];

        assert_int_equal(text_uuid_new(uuid), 0);
        text_uuid_format(uuid, id);
        assert_int_equal(json_put_string(facts, "backup_id", id), 0);
        assert_int_equal(json_put_string(facts, "status", "completed"), 0);
        if (repo_session_finish(s, ret, &failure) < 0 ||
            repo_session_commit(s, id, facts, ret, &record, &failure) < 0)
                fail_msg("%s", failure.text);
        return record;
}

RepoManifest *repofix_manifest(RepoFix *x, json_object *record) {
        Failure failure = FAILURE_INIT;
        RepoManifest *m = NULL;

        if (repo_manifest_open(x->repo, record, &m, &failure) < 0)
                fail_msg("%s", failure.text);
        return m;
}

typedef struct CheckContent {
        uint64_t seed, at;
} CheckContent;

static int
check_content(void *userdata, uint64_t offset, const void *data, size_t n, Failure *reterr) {
        static uint8_t expected[1 << 20];
        CheckContent *c = userdata;

        assert_true(n <= sizeof(expected));
        assert_true(offset == c->at); /* nothing that is generated is a hole */
        repofix_fill(c->seed, offset, expected, n);
        assert_memory_equal(data, expected, n);
        c->at += n;
        return 0;
}

void repofix_check_content(RepoManifest *m, const Entry *e, uint64_t seed) {
        Failure failure = FAILURE_INIT;
        CheckContent c = { .seed = seed };

        if (repo_content_read(m, e, check_content, &c, &failure) < 0)
                fail_msg("%s", failure.text);
        assert_true(c.at == e->size);
}
