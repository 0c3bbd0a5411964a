/* copy.c: tmpcopyup: what the root has at a path is copied into the file system that is going to cover it. */
#include "init.h"

#include <asm/stat.h>
#include <linux/stat.h>
#include <linux/time_types.h>

#define MAX_DEPTH 64
#define MAX_ENTRIES (1u << 20)

/* struct linux_dirent64 */
struct entry {
    uint64_t inode;
    int64_t next;
    unsigned short size;
    unsigned char type;
    char name[];
};

static int same_owner_and_times(int fd, const struct statx *from, unsigned kept) {
    struct __kernel_timespec times[2] = {{from->stx_atime.tv_sec, from->stx_atime.tv_nsec},
                                         {from->stx_mtime.tv_sec, from->stx_mtime.tv_nsec}};
    long result = 0;

    if (!(kept & KEEP_OWNER))
        result = CALL(fchown, fd, from->stx_uid, from->stx_gid);
    if (result >= 0 && !(kept & KEEP_MODE))
        result = CALL(fchmod, fd, from->stx_mode & 07777);
    if (result >= 0)
        result = CALL(utimensat, fd, 0, times, 0);
    return (int)result;
}

static int copy_file(int from_dir, int to_dir, const char *name, const struct statx *about) {
    int from = (int)CALL(openat, from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0), to;
    long result;

    if (from < 0)
        return from;
    to = (int)CALL(openat, to_dir, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
    result = to;
    while (result >= 0) {
        result = CALL(sendfile, to, from, 0, 1 << 30);
        if (result == 0) {
            result = same_owner_and_times(to, about, 0);
            break;
        }
    }
    close_fd(from);
    close_fd(to);
    return (int)result;
}

static int copy_link(int from_dir, int to_dir, const char *name, const struct statx *about) {
    char target[PATH_SIZE];
    long n = CALL(readlinkat, from_dir, name, target, sizeof(target) - 1);

    if (n < 0)
        return (int)n;
    target[n] = '\0';
    n = CALL(symlinkat, target, to_dir, name);
    return n < 0 ? (int)n : (int)CALL(fchownat, to_dir, name, about->stx_uid, about->stx_gid, AT_SYMLINK_NOFOLLOW);
}

static int copy_node(int to_dir, const char *name, const struct statx *about) {
    uint32_t rdev =
        (about->stx_rdev_minor & 0xffu) | about->stx_rdev_major << 8 | (about->stx_rdev_minor & ~0xffu) << 12;
    long result = CALL(mknodat, to_dir, name, about->stx_mode, rdev);

    return result < 0 ? (int)result
                      : (int)CALL(fchownat, to_dir, name, about->stx_uid, about->stx_gid, AT_SYMLINK_NOFOLLOW);
}

static int copy_directory(int from, int to, unsigned depth, unsigned *entries);

static int copy_entry(int from_dir, int to_dir, const char *name, unsigned depth, unsigned *entries) {
    struct statx about;
    int from, to, result = (int)CALL(statx, from_dir, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &about);

    if (result < 0)
        return result;
    if (++*entries > MAX_ENTRIES || depth > MAX_DEPTH)
        return fail(ELOOP, "openat", "has too many files to copy", NULL, NULL);
    if ((about.stx_mode & S_IFMT) == S_IFREG)
        return copy_file(from_dir, to_dir, name, &about);
    if ((about.stx_mode & S_IFMT) == S_IFLNK)
        return copy_link(from_dir, to_dir, name, &about);
    if ((about.stx_mode & S_IFMT) != S_IFDIR)
        return copy_node(to_dir, name, &about);
    from = (int)CALL(openat, from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (from < 0)
        return from;
    result = (int)CALL(mkdirat, to_dir, name, 0700);
    to = result < 0 ? result : (int)CALL(openat, to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
    result = to < 0 ? to : copy_directory(from, to, depth + 1, entries);
    if (result == 0)
        result = same_owner_and_times(to, &about, 0);
    close_fd(from);
    close_fd(to);
    return result;
}

static int copy_directory(int from, int to, unsigned depth, unsigned *entries) {
    _Alignas(struct entry) char buffer[2048];
    long n;

    while ((n = CALL(getdents64, from, buffer, sizeof(buffer))) > 0) {
        for (long at = 0; at < n;) {
            const struct entry *e = (const struct entry *)(buffer + at);
            int result = 0;

            if (!same_text(e->name, ".") && !same_text(e->name, ".."))
                result = copy_entry(from, to, e->name, depth, entries);
            if (result < 0) {
                if (m.detail[0] == '\0')
                    detail(e->name, NULL, NULL);
                return result;
            }
            at += e->size;
        }
    }
    return (int)n;
}

/* Nothing there, nothing copied; a file there is no directory to copy. */
int op_copyup(const struct plan_op *op) {
    struct statx about;
    unsigned entries = 0;
    int tree = slot(op->arg[0]), to, result;
    int from = open_in_root(slot(op->arg[1]), blob(op->arg[2]), O_RDONLY | O_DIRECTORY, 0);

    if (from < 0)
        return from == -ENOENT ? 0 : from;
    result = look(from, &about);
    to = (int)CALL(openat, tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (result == 0)
        result = to < 0 ? to : copy_directory(from, to, 0, &entries);
    if (result == 0)
        result = same_owner_and_times(to, &about, (unsigned)op->arg[3]);
    close_fd(from);
    close_fd(to);
    return result;
}
