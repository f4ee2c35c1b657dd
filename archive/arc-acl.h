#pragma once

/* POSIX ACLs: the kernel's extended attributes <-> entries of libarchive. */

#include <archive_entry.h>

#include "base/buf.h"
#include "base/entry.h"

#define ARC_ACL_ACCESS  "system.posix_acl_access"
#define ARC_ACL_DEFAULT "system.posix_acl_default"

/*
 * Adds the ACL in `x` to `to`: 1; 2 if it names an id of INT_MAX or beyond, which GNU tar reads as
 * it is, but libarchive as INT_MAX: the attribute belongs beside it, for arc_acl_copy(); 0 if it is
 * no ACL, or none that is understood: then it is an attribute like others; -ENOMEM. Comes after the
 * mode was set.
 */
int arc_acl_add(struct archive_entry *to, const EntryXattr *x);

/*
 * The attribute's value for the entries of `type` (ARCHIVE_ENTRY_ACL_TYPE_ACCESS or _DEFAULT) that
 * `from` has: 1, 0 if it has none, -EINVAL if they are no proper ACL, -ENOMEM. Users and groups are
 * taken by number; a name without one, and a number that libarchive cannot read, are not proper.
 */
int arc_acl_encode(struct archive_entry *from, int type, Buf *ret);

/* An attribute's value as it came: 1, 0 if it is no proper ACL, -ENOMEM. */
int arc_acl_copy(const void *value, size_t size, Buf *ret);

/* The bits of a mode as the kernel has them beside this value: those of the group are the mask. */
uint32_t arc_acl_mode(const Buf *acl, uint32_t mode);

/* Those for a file that loses its ACL: group and others get nothing that the mask, or somebody who
 * was named, did not have. */
uint32_t arc_acl_mode_without(struct archive_entry *from, uint32_t mode);
