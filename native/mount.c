/* mount.c: mounts are made detached, finished, and attached to a descriptor that was resolved inside the root. */
#include "init.h"

#include <asm/stat.h>
#include <asm/statfs.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/stat.h>

int clone_tree(int fd, unsigned flags) {
    return (int)CALL(open_tree, fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
}

/* --- attaching ----------------------------------------------------------------------------------------------- */

/* What is behind the kernel's EINVAL, if it is that. */
static int wrong_target(int tree, int target, int error) {
    int source_type = type_of(tree), target_type = type_of(target);

    if (source_type == S_IFDIR && target_type != S_IFDIR)
        return fail(ENOTDIR, "move_mount", "source is a directory, target is not", NULL, NULL);
    if (source_type != S_IFDIR && target_type == S_IFDIR)
        return fail(EISDIR, "move_mount", "target is a directory, source is not", NULL, NULL);
    m.call = "move_mount";
    return error;
}

/* The target, made where it is missing.  What RESOLVE_NO_SYMLINKS refuses is refused before anything is made. */
static int open_target(int root, const char *path, int target, uint64_t resolve) {
    int fd = open_in_root(root, path, O_PATH, resolve);

    if (fd == -ENOENT && target != TARGET_EXISTS) {
        fd = target == TARGET_FILE ? make_file(root, path, 0644, PLAN_NONE, PLAN_NONE)
                                   : make_directory(root, path, 0755, PLAN_NONE, PLAN_NONE);
        if (fd < 0)
            return fd;
        close_fd(fd);
        fd = open_in_root(root, path, O_PATH, resolve);
    }
    if (fd == -ELOOP && (resolve & RESOLVE_NO_SYMLINKS) != 0)
        detail("must be mounted on ordinary directory", NULL, NULL);
    return fd;
}

/* Attach, then see that the path leads to the new mount: whoever can rename below the root gains nothing by it. */
int attach(int tree, int root, const char *path, int target, uint64_t resolve) {
    int fd = open_target(root, path, target, resolve), result;

    if (fd < 0)
        return fd;
    result = (int)CALL(move_mount, tree, "", fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    if (result < 0)
        result = wrong_target(tree, fd, result);
    close_fd(fd);
    if (result < 0)
        return result;
    fd = open_in_root(root, path, O_PATH, resolve);
    if (fd < 0)
        return fd;
    result = same_mount(fd, tree);
    if (result == -ESTALE)
        result = fail(ESTALE, "move_mount", "the target was exchanged meanwhile", NULL, NULL);
    close_fd(fd);
    return result;
}

/* What the image has in a directory is covered, what its mode allows is not: /tmp stays open to all. */
static int take_mode(int tree, int root, const char *path, uint64_t resolve) {
    struct statx about;
    int covered = open_in_root(root, path, O_PATH | O_DIRECTORY, resolve), result, top;

    if (covered < 0)
        return 0; /* nothing there, or nothing that can be attached to */
    result = look(covered, &about);
    close_fd(covered);
    if (result < 0)
        return result;
    top = (int)CALL(openat, tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (top < 0)
        return top;
    result = (int)CALL(fchmod, top, about.stx_mode & 07777);
    close_fd(top);
    return result;
}

int op_attach(const struct plan_op *op) {
    int tree = slot(op->arg[0]), root = slot(op->arg[1]);
    const char *path = blob(op->arg[2]);
    int result = op->arg[3] == TARGET_LIKE ? take_mode(tree, root, path, op->arg[4]) : 0;

    if (result == 0 && op->arg[3] == TARGET_PROCFS)
        result = check_magic(tree, PROC_SUPER_MAGIC);
    if (result == -ENXIO && op->arg[3] == TARGET_PROCFS)
        return fail(EINVAL, "fstatfs", "is not a proc file system", NULL, NULL);
    if (result == 0)
        result = attach(tree, root, path, (int)op->arg[3], op->arg[4]);
    if (result < 0)
        return result;
    if (op->arg[5] != op->arg[0]) {
        if (op->arg[5] != PLAN_NONE)
            fill_slot(op->arg[5], tree);
        else
            close_fd(tree);
        m.slots[op->arg[0]] = -1;
    }
    return 0;
}

/* The root's tree covers the directory that it was cloned from, so that all of it is reached through one mount. */
int op_root(const struct plan_op *op) {
    int tree = op->arg[1] == PLAN_NONE ? -1 : slot(op->arg[1]), result;
    int target = open_how(AT_FDCWD, blob(op->arg[2]), O_PATH | O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS);

    /* The mapped root may not walk the host's path (a bundle below /root, mode 0700); where the tree hangs until the
     * pivot is all the same then. */
    if (target == -EACCES && tree >= 0)
        target = open_how(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS);
    if (target < 0)
        return target;
    if (op->arg[1] == PLAN_NONE)
        tree = clone_tree(target, (op->arg[3] & ROOT_RECURSIVE) != 0 ? AT_RECURSIVE : 0);
    result = tree;
    if (tree >= 0)
        result = (int)CALL(move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    close_fd(target);
    if (result < 0)
        return result;
    if (op->arg[1] != PLAN_NONE)
        m.slots[op->arg[1]] = -1;
    fill_slot(op->arg[0], tree);
    return 0;
}

int op_tree(const struct plan_op *op) {
    int dir = op->arg[1] == PLAN_NONE ? AT_FDCWD : slot(op->arg[1]);
    int fd = open_how(dir, blob(op->arg[2]), O_PATH, 0, op->arg[4]), tree;

    if (fd < 0)
        return fd;
    tree = clone_tree(fd, (unsigned)op->arg[3]);
    close_fd(fd);
    if (tree < 0)
        return tree;
    fill_slot(op->arg[0], tree);
    return 0;
}

/* --- new file systems ---------------------------------------------------------------------------------------- */

/* The last error in the context's log is the reason; what failed is what is said where there is none. */
static void explain(int context, const char *what) {
    char line[512];

    detail(what, NULL, NULL);
    for (int i = 0; i < 16; i++) {
        long n = SYS(__NR_read, context, line, sizeof(line) - 1);
        if (n < 3)
            break;
        while (line[n - 1] == '\n')
            n--;
        line[n] = '\0';
        if (line[0] == 'e')
            detail(line + 2, NULL, NULL);
    }
}

static int set_option(int context, const char *option) {
    char key[256];
    const char *value = option;
    size_t n;

    while (*value != '\0' && *value != '=')
        value++;
    n = (size_t)(value - option);
    m.call = "fsconfig";
    if (n >= sizeof(key))
        return -ENAMETOOLONG;
    memcpy(key, option, n);
    key[n] = '\0';
    if (*value == '\0')
        return (int)CALL(fsconfig, context, FSCONFIG_SET_FLAG, key, 0, 0);
    return (int)CALL(fsconfig, context, FSCONFIG_SET_STRING, key, value + 1, 0);
}

int op_fsmount(const struct plan_op *op) {
    const char *option = blob(op->arg[3]);
    int context = (int)CALL(fsopen, blob(op->arg[1]), FSOPEN_CLOEXEC), mount;
    long result = 0;

    if (context < 0)
        return context;
    if (op->arg[2] != PLAN_NONE)
        result = CALL(fsconfig, context, FSCONFIG_SET_STRING, "source", blob(op->arg[2]), 0);
    if (result < 0)
        explain(context, "source");
    for (uint64_t i = 0; result >= 0 && i < op->arg[4]; i++) {
        result = set_option(context, option);
        if (result < 0)
            explain(context, option);
        option += length_of(option) + 1;
    }
    if (result >= 0) {
        result = CALL(fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
        if (result >= 0)
            result = CALL(fsmount, context, FSMOUNT_CLOEXEC, op->arg[5]);
        if (result < 0)
            explain(context, "");
    }
    close_fd(context);
    if (result < 0)
        return (int)result;
    mount = (int)result;
    fill_slot(op->arg[0], mount);
    return 0;
}

/* --- attributes ---------------------------------------------------------------------------------------------- */

/* "/proc/self/fd/N": for the calls of kernels that know no other way; only before the root is entered. */
static void fd_path(char *path, int fd) {
    const char *prefix = "/proc/self/fd/";
    char digits[12];
    int n = 0;

    while (*prefix != '\0')
        *path++ = *prefix++;
    do
        digits[n++] = (char)('0' + fd % 10);
    while ((fd /= 10) != 0);
    while (n > 0)
        *path++ = digits[--n];
    *path = '\0';
}

/* Attributes of a mount as mount(2) has them; `have` is as statfs(2) says.  Access times that are not changed are kept
 * by the kernel. */
static unsigned long remount_flags(uint64_t have, uint64_t set, uint64_t clear) {
    static const unsigned pairs[][2] = {
        {MOUNT_ATTR_RDONLY, MS_RDONLY}, {MOUNT_ATTR_NOSUID, MS_NOSUID},         {MOUNT_ATTR_NODEV, MS_NODEV},
        {MOUNT_ATTR_NOEXEC, MS_NOEXEC}, {MOUNT_ATTR_NODIRATIME, MS_NODIRATIME},
    };
    unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NODIRATIME | MS_NOATIME;

    flags &= have;
    if ((have & 0x1000) != 0) /* ST_RELATIME */
        flags |= MS_RELATIME;
    if ((clear & MOUNT_ATTR__ATIME) != 0) {
        flags &= ~(unsigned long)(MS_RELATIME | MS_NOATIME);
        if ((set & MOUNT_ATTR__ATIME) == MOUNT_ATTR_RELATIME)
            flags |= MS_RELATIME;
        else
            flags |= (set & MOUNT_ATTR_NOATIME) != 0 ? MS_NOATIME : (unsigned long)MS_STRICTATIME;
    }
    for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        if ((clear & pairs[i][0]) != 0)
            flags &= ~(unsigned long)pairs[i][1];
        if ((set & pairs[i][0]) != 0)
            flags |= pairs[i][1];
    }
    return flags | MS_REMOUNT | MS_BIND;
}

/* Linux 5.10 and 5.11 have no mount_setattr(2). */
static int set_by_mount(int fd, const struct mount_attr *attr, unsigned flags) {
    const uint64_t known = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
                           MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME;
    struct statfs about;
    char path[32];
    long result = 0;

    /* Of a whole tree mount(2) can change the propagation alone. */
    if ((flags != 0 && (attr->attr_set | attr->attr_clr) != 0) || attr->userns_fd != 0 ||
        ((attr->attr_set | attr->attr_clr) & ~known) != 0)
        return fail(ENOSYS, "mount_setattr", "needs Linux 5.12", NULL, NULL);
    fd_path(path, fd);
    if ((attr->attr_set | attr->attr_clr) != 0) {
        result = CALL(fstatfs, fd, &about);
        if (result >= 0)
            result = CALL(mount, 0, path, 0, remount_flags((uint64_t)about.f_flags, attr->attr_set, attr->attr_clr), 0);
    }
    if (result >= 0 && attr->propagation != 0)
        result = CALL(mount, 0, path, 0, attr->propagation | (flags != 0 ? MS_REC : 0), 0);
    return (int)result;
}

static int set_attributes(int fd, struct mount_attr *attr, unsigned flags) {
    int result = (int)CALL(mount_setattr, fd, "", AT_EMPTY_PATH | flags, attr, sizeof(*attr));

    if (result != -ENOSYS)
        return result;
    result = set_by_mount(fd, attr, flags);
    if (result == -EINVAL) /* mount(2) knows attached mounts only; what is missing is the other call */
        result = fail(ENOSYS, "mount_setattr", "needs Linux 5.12", NULL, NULL);
    else if (result < 0 && m.detail[0] == '\0')
        detail("in place of mount_setattr: function not implemented", NULL, NULL);
    return result;
}

int op_setattr(const struct plan_op *op) {
    struct mount_attr attr = {.attr_set = op->arg[1], .attr_clr = op->arg[2], .propagation = op->arg[3]};

    if (op->arg[5] != PLAN_NONE)
        attr.userns_fd = (unsigned)slot(op->arg[5]);
    return set_attributes(slot(op->arg[0]), &attr, (unsigned)op->arg[4]);
}

/* --- masked and read-only paths (CVE-2025-31133) ------------------------------------------------------------- */

static int is_absent(int error) {
    return error == -ENOENT || error == -ENOTDIR;
}

/* Give a detached tree its attributes, attach it on path and close it. */
static int attach_with(int tree, struct mount_attr *attr, unsigned flags, int root, const char *path) {
    int result, late;

    if (tree < 0)
        return tree;
    result = (int)CALL(mount_setattr, tree, "", AT_EMPTY_PATH | flags, attr, sizeof(*attr));
    late = result == -ENOSYS; /* mount(2) works on attached mounts only, and on one at a time */
    if (result == 0 || late) {
        result = attach(tree, root, path, TARGET_EXISTS, 0);
        if (result == 0 && late)
            result = set_by_mount(tree, attr, 0);
    }
    close_fd(tree);
    return result;
}

/* A file is covered by the null device, a directory by an empty one.  Only the path itself may be missing.
 * The cover is read-only: the node is the host's own, and chmod or chown through the mask would change it there. */
int op_mask(const struct plan_op *op) {
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC};
    int root = slot(op->arg[0]), cover, tree, type;
    const char *path = blob(op->arg[1]);
    int fd = open_in_root(root, path, O_PATH, 0);

    if (fd < 0)
        return is_absent(fd) ? 0 : fd;
    type = type_of(fd);
    close_fd(fd);
    if (type < 0)
        return type;
    cover = slot(op->arg[type == S_IFDIR ? 3 : 2]);
    tree = clone_tree(cover, 0);
    if (tree == -EINVAL) /* before Linux 6.15 a detached tree cannot be cloned: it is attached itself, once */
        return attach(cover, root, path, TARGET_EXISTS, 0);
    return attach_with(tree, &attr, 0, root, path);
}

int op_readonly(const struct plan_op *op) {
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    int root = slot(op->arg[0]), tree;
    const char *path = blob(op->arg[1]);
    int fd = open_in_root(root, path, O_PATH, 0);

    if (fd < 0)
        return is_absent(fd) ? 0 : fd;
    tree = clone_tree(fd, AT_RECURSIVE);
    close_fd(fd);
    return attach_with(tree, &attr, AT_RECURSIVE, root, path);
}

/* --- the new root -------------------------------------------------------------------------------------------- */

int op_pivot(const struct plan_op *op) {
    long result = CALL(fchdir, slot(op->arg[0]));

    if (result >= 0 && op->arg[1] == PIVOT_ROOT) {
        /* The old root ends up on top of the new one, where nothing of the container has to hold it. */
        int old = (int)CALL(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
        if (old < 0)
            return old;
        result = CALL(pivot_root, ".", ".");
        if (result >= 0)
            result = CALL(fchdir, old);
        if (result >= 0) /* so that the unmounting stays here */
            result = CALL(mount, 0, ".", 0, MS_SLAVE | MS_REC, 0);
        if (result >= 0)
            result = CALL(umount2, ".", 2 /* MNT_DETACH */);
        close_fd(old);
    } else if (result >= 0) {
        if (op->arg[1] == PIVOT_MOVE)
            result = CALL(mount, ".", "/", 0, MS_MOVE, 0);
        if (result >= 0)
            result = CALL(chroot, ".");
    }
    return result < 0 ? (int)result : (int)CALL(chdir, "/");
}

/* --- taking a mount off --------------------------------------------------------------------------------------- */

/* The path is resolved once; what was found there, and nothing else, is detached: by its descriptor, through the host's
 * procfs, so that nobody who renames below the root has a say in which mount it is. */
int op_unmount(const struct plan_op *op) {
    uint64_t id = op->arg[3], resolve = id == PLAN_NONE ? RESOLVE_NO_SYMLINKS : 0;
    int fd = open_in_root(slot(op->arg[1]), blob(op->arg[2]), O_PATH, resolve), result;
    struct statx about;
    char path[32];

    if (fd < 0)
        return fd;
    result = look(fd, &about);
    if (result >= 0 && (about.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0)
        result = fail(EINVAL, "umount2", "is not a mount point", NULL, NULL);
    if (result >= 0 && id != PLAN_NONE && about.stx_mnt_id != id)
        result = fail(EINVAL, "umount2", "something else is mounted there", NULL, NULL);
    if (result >= 0)
        result = (int)CALL(fchdir, slot(op->arg[0]));
    if (result >= 0) {
        fd_path(path, fd);
        result = (int)CALL(umount2, path + sizeof("/proc/") - 1, 2 /* MNT_DETACH */);
    }
    close_fd(fd);
    return result;
}
