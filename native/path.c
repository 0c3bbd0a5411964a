/* path.c: the page about paths.
 *
 * Whoever made the root may still be changing it.  So no path inside of it is ever given to the kernel as
 * a joined string: openat2 resolves it below the root's descriptor, and whatever is made is made by its
 * last name alone in a directory that is held open (CVE-2021-30465, CVE-2024-45310, CVE-2026-41579).
 */
#include "init.h"

#include <asm/stat.h>
#include <asm/statfs.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/stat.h>

#define MAX_LINKS 40    /* as in the kernel */
#define MAX_RETRIES 128 /* openat2: EAGAIN where something was renamed meanwhile */

/* --- resolution ---------------------------------------------------------------------------------------------- */

int open_how(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    long fd = -EAGAIN;

    for (int i = 0; i < MAX_RETRIES && (fd == -EAGAIN || fd == -EINTR); i++)
        fd = CALL(openat2, dir, path, &how, sizeof(how));
    return (int)fd;
}

/* Links are followed, with the root as their "/"; the magic ones of procfs are not (CVE-2024-21626). */
int open_in_root(int root, const char *path, uint64_t flags, uint64_t resolve) {
    int fd, again;

    fd = open_how(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve);
    if (fd != -ELOOP || (resolve & RESOLVE_NO_SYMLINKS) != 0)
        return fd;
    /* The same number as for a loop of links: without that flag the kernel refuses a magic one as EXDEV (openat2(2)). */
    again = open_how(root, path, O_PATH, 0, RESOLVE_IN_ROOT | resolve);
    close_fd(again);
    if (again == -EXDEV)
        detail("magic links of /proc are not followed", NULL, NULL);
    return fd;
}

/* --- what a descriptor refers to ----------------------------------------------------------------------------- */

int look(int fd, void *statx_buffer) {
    return (int)CALL(statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, statx_buffer);
}

int type_of(int fd) {
    struct statx about;
    int result = look(fd, &about);

    return result < 0 ? result : about.stx_mode & S_IFMT;
}

static const char *type_name(uint32_t type) {
    switch (type) {
    case S_IFDIR:
        return "a directory";
    case S_IFREG:
        return "a regular file";
    case S_IFLNK:
        return "a symbolic link";
    case S_IFCHR:
        return "character device ";
    case S_IFBLK:
        return "block device ";
    case S_IFIFO:
        return "a fifo";
    default:
        return "a socket";
    }
}

static char *put_number(char *to, uint32_t value) {
    char digits[10];
    int n = 0;

    do
        digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (n > 0)
        *to++ = digits[--n];
    *to = '\0';
    return to;
}

/* 0 for a node of that type and number.  For another one -ENXIO, with what it is as the detail; else why that cannot be
 * told. */
int check_node(int fd, uint32_t type, uint64_t rdev) {
    struct statx about;
    char numbers[24] = "";
    uint64_t have;
    uint32_t found;
    int result = look(fd, &about);

    if (result < 0)
        return result;
    found = about.stx_mode & S_IFMT;
    have = (about.stx_rdev_minor & 0xffu) | (about.stx_rdev_major << 8) | (about.stx_rdev_minor & ~0xffu) << 12;
    if (found == type && ((type != S_IFCHR && type != S_IFBLK) || have == rdev))
        return 0;
    if (found == S_IFCHR || found == S_IFBLK) {
        char *end = put_number(numbers, about.stx_rdev_major);
        *end++ = ':';
        put_number(end, about.stx_rdev_minor);
    }
    detail(type_name(found), numbers, " is there instead");
    return -ENXIO;
}

/* 0 when both are on the same mount, -ESTALE when not, else why that cannot be told. */
int same_mount(int a, int b) {
    struct statx first, second;
    int result = look(a, &first);

    if (result == 0)
        result = look(b, &second);
    if (result == 0 && first.stx_mnt_id != second.stx_mnt_id)
        result = -ESTALE;
    return result;
}

/* 0 for a file of that file system, -ENXIO for one of another, else why that cannot be told. */
int check_magic(int fd, uint64_t magic) {
    struct statfs about;
    int result = (int)CALL(fstatfs, fd, &about);

    return result == 0 && (uint64_t)about.f_type != magic ? -ENXIO : result;
}

/* --- making directories and files ---------------------------------------------------------------------------- */

/* Put the target of the dangling link `name` in `dir` in place of work[start .. end). */
static int follow_by_hand(int dir, char *work, size_t start, size_t end) {
    char link[PATH_SIZE];
    char saved = work[end];
    size_t rest = length_of(work + end), keep;
    long n;

    work[end] = '\0';
    n = CALL(readlinkat, dir, work + start, link, sizeof(link) - 1);
    work[end] = saved;
    if (n < 0)
        return n == -EINVAL ? -EAGAIN : (int)n; /* no link any more */
    keep = n > 0 && link[0] == '/' ? 0 : start;
    if (keep + (size_t)n + rest >= PATH_SIZE)
        return -ENAMETOOLONG;
    /* The rest moves first; the areas may overlap in either direction. */
    if (keep + (size_t)n > end)
        for (size_t i = rest + 1; i-- > 0;)
            work[keep + (size_t)n + i] = work[end + i];
    else
        for (size_t i = 0; i <= rest; i++)
            work[keep + (size_t)n + i] = work[end + i];
    memcpy(work + keep, link, (size_t)n);
    return 0;
}

/* mkdir in a held directory; the new one is opened without following anything and then owned. */
static int make_one(int dir, const char *name, uint64_t mode, uint64_t uid, uint64_t gid) {
    int fd, result = (int)CALL(mkdirat, dir, name, mode);

    if (result < 0)
        return result;
    fd = (int)CALL(openat, dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd >= 0 && (uid != PLAN_NONE || gid != PLAN_NONE)) {
        result = (int)CALL(fchownat, fd, "", uid, gid, AT_EMPTY_PATH);
        if (result < 0) {
            close_fd(fd);
            return result;
        }
    }
    return fd;
}

/* One pass over the components of work: an O_PATH descriptor, or -EAGAIN after work was changed. */
static int walk(int root, char *work, uint64_t mode, uint64_t uid, uint64_t gid) {
    int dir = (int)CALL(openat, root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    size_t end = 0;

    while (dir >= 0) {
        size_t start = end;
        char saved;
        int next;

        while (work[start] == '/')
            start++;
        if (work[start] == '\0')
            return dir;
        for (end = start; work[end] != '/' && work[end] != '\0'; end++)
            ;
        saved = work[end];
        work[end] = '\0';
        next = open_in_root(root, work, O_PATH | O_DIRECTORY, 0);
        if (next == -ENOENT)
            next = make_one(dir, work + start, mode, uid, gid);
        work[end] = saved;
        if (next == -EEXIST) { /* made by someone else meanwhile, or a link to nowhere */
            next = follow_by_hand(dir, work, start, end);
            if (next == 0)
                next = -EAGAIN;
        }
        close_fd(dir);
        dir = next;
    }
    return dir;
}

static int copy_path(char *work, const char *path) {
    size_t n = length_of(path);

    if (n >= PATH_SIZE)
        return -ENAMETOOLONG;
    memcpy(work, path, n + 1);
    while (n > 1 && work[n - 1] == '/')
        work[--n] = '\0';
    return 0;
}

/* mkdir -p below root; an O_PATH descriptor of the directory. */
int make_directory(int root, const char *path, uint64_t mode, uint64_t uid, uint64_t gid) {
    char work[PATH_SIZE];
    int fd = open_in_root(root, path, O_PATH | O_DIRECTORY, 0);

    if (fd != -ENOENT)
        return fd;
    fd = copy_path(work, path);
    if (fd < 0)
        return fd;
    for (int i = 0; i < MAX_LINKS; i++) {
        fd = walk(root, work, mode, uid, gid);
        if (fd != -EAGAIN)
            return fd;
    }
    return fail(ELOOP, "openat2", "links that lead nowhere, or change meanwhile", NULL, NULL);
}

/* The directory of path, made where it is missing; *name is the last name, inside of work. */
int make_parent(int root, const char *path, char *work, const char **name) {
    int fd = copy_path(work, path);
    size_t cut;

    if (fd < 0)
        return fd;
    for (cut = length_of(work); cut > 0 && work[cut - 1] != '/'; cut--)
        ;
    *name = work + cut;
    if ((*name)[0] == '\0' || same_text(*name, ".") || same_text(*name, ".."))
        return -EISDIR;
    if (cut == 0)
        return (int)CALL(openat, root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    work[cut - 1] = '\0';
    fd = make_directory(root, cut == 1 ? "/" : work, 0755, PLAN_NONE, PLAN_NONE);
    work[cut - 1] = '/';
    return fd;
}

/* An empty file where there is nothing (O_EXCL follows no link); an O_PATH descriptor of what is there. */
int make_file(int root, const char *path, uint64_t mode, uint64_t uid, uint64_t gid) {
    char work[PATH_SIZE], again[PATH_SIZE];
    int fd = copy_path(work, path);

    for (int i = 0; fd >= 0 && i < MAX_LINKS; i++) {
        const char *name;
        int dir, type;

        fd = open_in_root(root, work, O_PATH, 0);
        if (fd >= 0) {
            type = type_of(fd);
            if (type != S_IFDIR && type >= 0)
                return fd;
            close_fd(fd);
            return type < 0 ? type : -EISDIR;
        }
        if (fd != -ENOENT)
            return fd;
        dir = make_parent(root, work, again, &name);
        if (dir < 0)
            return dir;
        fd = (int)CALL(openat, dir, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, mode);
        if (fd >= 0 && (uid != PLAN_NONE || gid != PLAN_NONE)) {
            int result = (int)CALL(fchownat, fd, "", uid, gid, AT_EMPTY_PATH);
            if (result < 0) {
                close_fd(fd);
                fd = result;
            }
        }
        if (fd == -EEXIST) {
            memcpy(work, again, sizeof(work));
            fd = follow_by_hand(dir, work, (size_t)(name - again), length_of(work));
            if (fd == -EAGAIN)
                fd = 0;
        } else {
            close_fd(dir);
            return fd;
        }
        close_fd(dir);
    }
    return fd < 0 ? fd : -ELOOP;
}

/* --- operations ---------------------------------------------------------------------------------------------- */

int op_mkdir(const struct plan_op *op) {
    int fd = make_directory(slot(op->arg[0]), blob(op->arg[1]), op->arg[2], op->arg[3], op->arg[4]);

    close_fd(fd);
    return fd < 0 ? fd : 0;
}

int op_mkfile(const struct plan_op *op) {
    int fd = make_file(slot(op->arg[0]), blob(op->arg[1]), op->arg[2], op->arg[3], op->arg[4]);

    close_fd(fd);
    return fd < 0 ? fd : 0;
}

int op_symlink(const struct plan_op *op) {
    char work[PATH_SIZE], have[PATH_SIZE];
    const char *name, *target = blob(op->arg[2]);
    int dir = make_parent(slot(op->arg[0]), blob(op->arg[1]), work, &name);
    long result;

    if (dir < 0)
        return dir;
    result = CALL(symlinkat, target, dir, name);
    if (result == -EEXIST) {
        long n = SYS(__NR_readlinkat, dir, name, have, sizeof(have) - 1);
        have[n < 0 ? 0 : n] = '\0';
        if (same_text(have, target))
            result = 0;
    }
    close_fd(dir);
    return (int)result;
}

int op_mknod(const struct plan_op *op) {
    char work[PATH_SIZE];
    const char *name;
    uint32_t type = (uint32_t)op->arg[2] & S_IFMT;
    int dir = make_parent(slot(op->arg[0]), blob(op->arg[1]), work, &name), fd, made, result;

    if (dir < 0)
        return dir;
    made = (int)CALL(mknodat, dir, name, op->arg[2], op->arg[3]);
    if (made < 0 && made != -EEXIST) {
        close_fd(dir);
        return made;
    }
    fd = (int)CALL(openat, dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
    close_fd(dir);
    if (fd < 0)
        return fd;
    result = check_node(fd, type, op->arg[3]);
    if (result == -ENXIO) {
        m.call = "mknodat";
        result = -EEXIST;
    } else if (result == 0 && made == 0 && (op->arg[4] != PLAN_NONE || op->arg[5] != PLAN_NONE))
        result = (int)CALL(fchownat, fd, "", op->arg[4], op->arg[5], AT_EMPTY_PATH);
    close_fd(fd);
    return result;
}

int op_open(const struct plan_op *op) {
    int dir = op->arg[1] == PLAN_NONE ? AT_FDCWD : slot(op->arg[1]);
    int fd = open_how(dir, blob(op->arg[2]), op->arg[3], 0, op->arg[4]), result;

    if (fd < 0)
        return fd;
    result = op->arg[5] == 0 ? 0 : check_node(fd, (uint32_t)op->arg[5], op->arg[6]);
    if (result == -ENXIO) {
        m.call = "openat2";
        result = -EINVAL;
    }
    if (result < 0) {
        close_fd(fd);
        return result;
    }
    fill_slot(op->arg[0], fd);
    return 0;
}

/* --- files of the kernel (CVE-2019-16884, CVE-2025-52881) ---------------------------------------------------- */

/* Whether the file holds what was to be written already, but for the newline at its end. */
static int holds(int dir, const char *path, uint64_t resolve, const char *data, size_t size) {
    char have[1024];
    int fd = open_how(dir, path, O_RDONLY, 0, resolve);
    long n = fd < 0 ? -1 : SYS(__NR_read, fd, have, sizeof(have));

    close_fd(fd);
    while (n > 0 && have[n - 1] == '\n')
        n--;
    while (size > 0 && data[size - 1] == '\n')
        size--;
    return n >= 0 && (size_t)n == size && memcmp(have, data, size) == 0;
}

int op_write(const struct plan_op *op) {
    const uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    int dir = slot(op->arg[0]), error = 0;
    const char *path = blob(op->arg[1]), *data = blob(op->arg[2]);
    size_t size = blob_size(op->arg[2]);
    int fd;
    long n;

    if ((op->arg[3] & WRITE_DUMPABLE) != 0)
        set_dumpable(1);
    fd = open_how(dir, path, O_WRONLY, 0, resolve);
    if ((op->arg[3] & WRITE_DUMPABLE) != 0)
        set_dumpable(0);
    if (fd == -EXDEV)
        detail("another mount covers it", NULL, NULL);
    if (fd < 0)
        error = fd;
    else if ((op->arg[3] & WRITE_PROCFS) != 0) {
        error = check_magic(fd, PROC_SUPER_MAGIC);
        if (error < 0) {
            close_fd(fd);
            return error == -ENXIO ? fail(ENXIO, "fstatfs", "is not on procfs", NULL, NULL) : error;
        }
    }
    if (error == 0) {
        n = CALL(write, fd, data, size);
        if (n < 0)
            error = (int)n;
        else if ((size_t)n != size)
            error = fail(EIO, "write", "was written in part only", NULL, NULL);
    }
    close_fd(fd);
    if ((op->arg[3] & WRITE_SKIP_SAME) != 0 && (error == -EACCES || error == -EPERM || error == -EROFS) &&
        holds(dir, path, resolve, data, size))
        return 0;
    return error;
}
