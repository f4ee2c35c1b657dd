#pragma once

/*
 * One object of a file tree: what the walker emits, the manifest keeps and the extractor makes.
 * Everything pointed to is borrowed from whoever handed the entry out, valid until its next call.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum EntryType {
        ENTRY_DIRECTORY = 'd',
        ENTRY_FILE = 'f',
        ENTRY_SYMLINK = 'l',
        ENTRY_FIFO = 'p',
        ENTRY_CHAR = 'c',
        ENTRY_BLOCK = 'b',
        ENTRY_HARDLINK = 'h', /* a further name of what has the path `target` (same service) */
} EntryType;

typedef struct EntryXattr {
        const char *name;
        const void *value;
        uint32_t size;
} EntryXattr;

/* How the content of a file is cut (docs/REPO-FORMAT.md, "Chunks"). */
typedef enum EntryClass {
        ENTRY_CLASS_NONE = 0,   /* no content: not a file, or empty */
        ENTRY_CLASS_LARGE = 1,  /* 1 MiB chunks */
        ENTRY_CLASS_SMALL = 2,  /* up to 64 KiB, one id, bundled */
        ENTRY_CLASS_SQLITE = 3, /* 64 KiB leaves */
} EntryClass;

typedef struct Entry {
        const char *service;
        const char *dir;  /* absolute path of the parent on the live system: bytes, not text */
        const char *name; /* one component, up to 255 bytes */
        EntryType type;
        uint32_t mode; /* permission bits, setuid, setgid, sticky: 07777 */
        uint32_t uid, gid;
        int64_t mtime_sec; /* may be before 1970 */
        uint32_t mtime_nsec;
        uint32_t flags;           /* FS_IMMUTABLE_FL and others (ARC_FLAGS_MASK), as the kernel
                                     numbers them */
        uint64_t size;            /* files: bytes; else 0 */
        uint32_t major, minor;    /* devices */
        const char *target;       /* symbolic link: its text; hard link: absolute path */
        const EntryXattr *xattrs; /* sorted by name; ACLs and capabilities are among them */
        size_t n_xattrs;
        bool sparse; /* the file had holes */
        EntryClass class;
        const uint8_t *content; /* encoded chunk list, opaque outside repo/; may be NULL */
        size_t content_size;
} Entry;

/* What the source's inode looked like: kept in the local base state, never in the repository. */
typedef struct EntryLocal {
        uint64_t ino;
        uint64_t size;
        int64_t mtime_sec, ctime_sec;
        uint32_t mtime_nsec, ctime_nsec;
        uint32_t mode; /* with the type bits */
        uint32_t nlink;
        uint32_t uid, gid;
} EntryLocal;

#define ENTRY_NAME_MAX 255
