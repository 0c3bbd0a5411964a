/* plan.h: the wire format between the compiler (ociruntime/plan) and the machine (init).
 *
 * A plan is a header, op_count fixed-size operations and a data area, in one sealed memfd.
 * It is checked as a whole (check_plan) before the first operation runs.  All numbers are in
 * host byte order: both ends are on one machine.  ociruntime/plan/ops.py holds the same numbers;
 * tests/native compares the two.
 */
#ifndef OCIRUNTIME_PLAN_H
#define OCIRUNTIME_PLAN_H

#include <stdint.h>

#define PLAN_MAGIC 0x4e4c504fu /* "OPLN" */
#define PLAN_VERSION 1u
#define PLAN_MAX_OPS 65536u
#define PLAN_MAX_DATA (64u << 20)
#define PLAN_MAX_SLOTS 1024u

/* Descriptors: slot i < fd_count is descriptor number first_fd + i when init starts; the others are
 * filled by operations.  Slot 0 is the message channel, slot 1 the plan itself.  0, 1 and 2 are the
 * program's stdio, 3 .. first_fd - 1 the descriptors of --preserve-fds. */
struct plan_header {
    uint32_t magic;
    uint16_t version;
    uint16_t header_size; /* sizeof(struct plan_header) */
    uint32_t op_count;
    uint32_t data_size;
    uint16_t fd_count;
    uint16_t first_fd; /* 3 + preserve_fds */
    uint16_t slot_count;
    uint16_t flags;
    uint64_t reserved[5];
};

struct plan_op {
    uint16_t code;
    uint16_t flags;  /* PLAN_F_*; SYSCALL keeps its argument kinds in bits 4-15 */
    uint32_t errnos; /* up to four errno numbers, one a byte, 0 = unused */
    uint64_t arg[7]; /* integers, slots, or blobs */
};

/* A blob argument: length in the upper, offset into the data area in the lower 32 bits.  Each blob is followed by a
 * NUL that does not count; a path or word has no NUL inside.  A vector is a row of NUL-ended strings. */
#define PLAN_BLOB(offset, length) (((uint64_t)(length) << 32) | (uint32_t)(offset))
#define PLAN_NONE UINT64_MAX /* absent blob, absent slot, unset id */

/* What happens when an operation fails with one of the listed errno numbers; any other failure is fatal. */
#define PLAN_F_IGNORE 1u /* as if it had succeeded */
#define PLAN_F_WARN 2u   /* the same, with a warning message */
#define PLAN_F_ALT 4u    /* run the next operation in its stead (which is skipped after a success) */
/* SETNS: a slot that is closed already is no error, the join has happened.
 * CHDIR: only where the one before has failed. */
#define PLAN_F_RETRY 8u

/* Argument kinds of SYSCALL, two bits for each of its six arguments, from bit 4 on. */
#define PLAN_ARG_INT 0u
#define PLAN_ARG_BLOB 1u /* pointer to the blob's bytes */
#define PLAN_ARG_SLOT 2u /* descriptor in the slot */

enum plan_code {
    OP_NONE = 0,
    /* processes and namespaces */
    OP_SETNS = 1,    /* slot, nstype: setns(2), a namespace or pidfd; closes the slot after success */
    OP_UNSHARE = 2,  /* flags */
    OP_CLONE = 3,    /* flags: go on in a child made with CLONE_PARENT, which sends MSG_CHILD; the old one exits 0 */
    OP_SYNC = 4,     /* tag: MSG_SYNC, then wait for MSG_GO with the same tag */
    OP_GATE = 5,     /* slot of the listening socket: MSG_READY, close the channel, wait for `start` */
    OP_CHDIR = 6,    /* root slot, path: openat2 in root, fchdir, getcwd verified (CVE-2024-21626) */
    OP_FIND_EXE = 7, /* name, PATH value (or none): the program that EXEC runs, as execvp(3) finds it */
    OP_EXEC = 8,     /* argv vector, argc, env vector, envc, path (or none: what FIND_EXE found) */
    OP_CLOSE = 9,    /* slot */
    /* generic */
    OP_SYSCALL = 10, /* number, six arguments (kinds in flags); the number must be on check.c's list */
    OP_WRITE = 11,   /* dir slot (procfs), path, data, flags WRITE_*: verified write to one file */
    OP_OPEN = 12,    /* dst slot, dir slot or none (host path), path, open flags, resolve flags, S_IFMT or 0, rdev */
    /* file system objects inside the root, all by descriptor */
    OP_ROOT = 16,   /* dst slot, tree slot or none (open_tree here), host path, ROOT_*: the root's tree over its path */
    OP_MKDIR = 17,  /* root slot, path, mode, uid, gid: mkdir -p inside root */
    OP_MKFILE = 18, /* root slot, path, mode, uid, gid: empty file with its parents; any non-directory there is fine */
    OP_SYMLINK = 19, /* root slot, path, target: parents are made; the same link there already is fine */
    OP_MKNOD = 20,   /* root slot, path, mode with type, rdev, uid, gid: the same node there already is fine */
    /* mounts, made detached and then attached */
    OP_FSMOUNT = 24, /* dst slot, fstype, source or none, vector of options ("k=v" or "k"), count, MOUNT_ATTR_* */
    OP_TREE = 25, /* dst slot, dir slot or none (host path), path, AT_RECURSIVE or 0, resolve flags: open_tree CLONE */
    OP_ATTACH = 26,  /* tree slot, root slot, path, TARGET_*, extra resolve flags, dst slot or none: move_mount */
    OP_SETATTR = 27, /* mount slot, attr_set, attr_clr, propagation (MS_*), AT_RECURSIVE or 0, userns slot or none */
    OP_MASK = 28, /* root slot, path, null device slot, empty tree slot: cover a file or a directory, absent is fine */
    OP_READONLY = 29, /* root slot, path: bind over itself, read-only, other flags kept; absent is fine */
    OP_COPYUP = 30,   /* tree slot, root slot, path, KEEP_*: copy what the root has there into the tree (tmpcopyup) */
    OP_PIVOT = 31,    /* root slot, PIVOT_* method */
    OP_UNMOUNT = 32,  /* procfs slot, root slot, path, mount id or none (then no symlink is followed): detach it */
    /* the process that will become the program */
    OP_IDS = 40,      /* uid, gid, groups blob (uint32 array) or none, flags IDS_* */
    OP_CAPS = 41,     /* bounding, effective, permitted, inheritable, ambient, flags CAPS_* */
    OP_LOOPBACK = 42, /* bring up lo */
    OP_CONSOLE = 43, /* dst slot (slave), root slot, rows, cols, uid, flags CONSOLE_*: MSG_CONSOLE carries the master */
    OP_STDIO = 44,   /* root slot, slave slot or none, uid to own what is no null device (or none) */
    OP_SECCOMP = 45, /* filter blob, SECCOMP_FILTER_FLAG_*; with NEW_LISTENER the descriptor is sent in MSG_LISTENER */
    OP_HOME = 46,    /* root slot, uid: HOME from the root's /etc/passwd for EXEC (bounded, CVE-2026-47262) */
};

#define WRITE_PROCFS 1u    /* the file must be on procfs, reached without crossing a mount (CVE-2025-52881) */
#define WRITE_SKIP_SAME 2u /* EACCES, EPERM and EROFS do not matter where the value is there already (nested engines) */
/* For self/... of a process that has left the user namespace it was executed in: such files belong to that
 * namespace's root unless the process is dumpable, which it then is for the open alone. */
#define WRITE_DUMPABLE 4u

#define ROOT_RECURSIVE 1u

#define TARGET_EXISTS 0u /* TARGET_*: what ATTACH makes where the path is missing */
#define TARGET_DIR 1u
#define TARGET_FILE 2u
#define KEEP_MODE 1u     /* COPYUP: the mode of the tree was asked for */
#define KEEP_OWNER 2u    /* COPYUP: its owner was */
#define TARGET_LIKE 3u   /* a directory; the tree takes over the mode of one that is there */
#define TARGET_PROCFS 4u /* a directory; the tree must be of a procfs (CVE-2019-16884) */

#define PIVOT_ROOT 0u   /* pivot_root(".", "."), old root detached */
#define PIVOT_MOVE 1u   /* --no-pivot: MS_MOVE and chroot */
#define PIVOT_CHROOT 2u /* no mount namespace of its own */

#define IDS_KEEPCAPS 1u
#define IDS_NO_SETGROUPS 2u

#define CAPS_DROP_BOUNDING 1u
#define CAPS_SET 2u
#define CAPS_AMBIENT 4u

#define CONSOLE_MOUNT 1u /* bind the slave on /dev/console */

/* Tags of SYNC and GO. */
enum plan_tag {
    TAG_USERNS = 1,  /* parent writes the id maps */
    TAG_CGROUP = 2,  /* parent has put init into its cgroup */
    TAG_NETWORK = 3, /* parent moves network devices */
    TAG_HOOKS = 4,   /* parent runs prestart, createRuntime, createContainer */
    TAG_RLIMITS = 5, /* parent sets the limits that a user namespace may not raise */
    TAG_START = 6,   /* only in GO, over the gate */
};

/* One message, one SOCK_SEQPACKET packet; text is at most MSG_TEXT_MAX bytes, not NUL-ended. */
#define MSG_TEXT_MAX 3072u
struct plan_msg {
    uint32_t type;
    uint32_t op;    /* index of the operation, UINT32_MAX before the first */
    int32_t error;  /* errno, positive */
    uint32_t value; /* tag, or what the type says */
};

enum plan_msg_type {
    MSG_SYNC = 1,     /* value: tag */
    MSG_GO = 2,       /* value: tag; parent to init */
    MSG_ERROR = 3,    /* text: system call name, NUL, detail; init exits afterwards */
    MSG_WARNING = 4,  /* the same, init goes on */
    MSG_DEBUG = 5,    /* text */
    MSG_CHILD = 6,    /* the sender's pid comes in SCM_CREDENTIALS */
    MSG_CONSOLE = 7,  /* the pty master comes in SCM_RIGHTS */
    MSG_READY = 8,    /* waiting at the gate */
    MSG_LISTENER = 9, /* the seccomp listener comes in SCM_RIGHTS */
};

#endif
