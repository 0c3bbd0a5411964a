/* stdio.c: the terminal, the standard streams, and the filter that is loaded last. */
#include "init.h"

#include <asm/ioctls.h>
#include <asm/stat.h>
#include <asm/termios.h>
#include <linux/magic.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/filter.h>
#include <linux/stat.h>

#define NULL_RDEV 0x103ull /* 1:3 */
#define PTMX_RDEV 0x502ull /* 5:2 */
#define UNSHARED_STACK 32768
#define CONSOLE "/dev/console"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

/* --- terminal (CVE-2025-52565, CVE-2026-88264) --------------------------------------------------------------- */

/* Put the path that is meant before what is known about a failure; returns the error. */
static int about_path(const char *path, int error) {
    char more[128];
    size_t n = length_of(m.detail);

    if (n >= sizeof(more))
        n = sizeof(more) - 1;
    memcpy(more, m.detail, n);
    more[n] = '\0';
    detail(path, n > 0 ? ": " : NULL, more);
    return error;
}

static int check_device(int fd, uint64_t rdev, uint64_t magic) {
    int result = check_node(fd, S_IFCHR, rdev);

    if (result == 0 && magic != 0) {
        result = check_magic(fd, magic);
        if (result == -ENXIO)
            detail("is not on devpts", NULL, NULL);
    }
    if (result == -ENXIO)
        m.call = "openat2";
    return result;
}

/* A device inside the root: looked at before it is opened, and again after. */
static int open_device(int root, const char *path, uint64_t flags, uint64_t rdev, uint64_t magic) {
    int fd = open_in_root(root, path, O_PATH, 0);
    int result = fd < 0 ? fd : check_device(fd, rdev, magic);

    close_fd(fd);
    if (result < 0)
        return about_path(path, result);
    fd = open_in_root(root, path, flags | O_NOCTTY, 0);
    result = fd < 0 ? fd : check_device(fd, rdev, magic);
    if (result < 0) {
        close_fd(fd);
        return about_path(path, result);
    }
    return fd;
}

/* The slave on /dev/console: by descriptors from end to end, and never through a link. */
static int mount_console(int slave, int root) {
    char work[PATH_SIZE];
    const char *name;
    int dir = make_parent(root, CONSOLE, work, &name), fd, tree, result;

    if (dir < 0)
        return about_path(CONSOLE, dir);
    fd = (int)CALL(openat, dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd == -ENOENT)
        fd = (int)CALL(openat, dir, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600);
    close_fd(dir);
    if (fd < 0)
        return about_path(CONSOLE, fd);
    result = type_of(fd);
    if (result == S_IFLNK)
        result = fail(ELOOP, "openat", "a symbolic link, which is not followed", NULL, NULL);
    else if (result == S_IFDIR)
        result = fail(EISDIR, "openat", "a terminal cannot be mounted on it", NULL, NULL);
    if (result < 0) {
        close_fd(fd);
        return about_path(CONSOLE, result);
    }
    tree = clone_tree(slave, 0);
    result = tree;
    if (tree >= 0)
        result = (int)CALL(move_mount, tree, "", fd, "", 0x44 /* MOVE_MOUNT_{F,T}_EMPTY_PATH */);
    close_fd(tree);
    close_fd(fd);
    return result < 0 ? about_path(CONSOLE, result) : 0;
}

int op_console(const struct plan_op *op) {
    struct winsize size = {.ws_row = (unsigned short)op->arg[2], .ws_col = (unsigned short)op->arg[3]};
    int root = slot(op->arg[1]), unlocked = 0, slave;
    int master = open_device(root, "/dev/pts/ptmx", O_RDWR, PTMX_RDEV, DEVPTS_SUPER_MAGIC);
    long result = master;

    if (master < 0)
        return master;
    result = CALL(ioctl, master, TIOCSPTLCK, &unlocked);
    slave = result < 0 ? (int)result : (int)CALL(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    result = slave;
    if (result >= 0 && (size.ws_row != 0 || size.ws_col != 0))
        result = CALL(ioctl, slave, TIOCSWINSZ, &size);
    if (result >= 0 && op->arg[4] != PLAN_NONE)
        result = CALL(fchown, slave, op->arg[4], -1);
    if (result >= 0 && (op->arg[5] & CONSOLE_MOUNT) != 0)
        result = mount_console(slave, root);
    if (result >= 0)
        send_message(MSG_CONSOLE, 0, 0, master);
    close_fd(master);
    if (result < 0) {
        close_fd(slave);
        return (int)result;
    }
    fill_slot(op->arg[0], slave);
    return 0;
}

/* --- standard streams ---------------------------------------------------------------------------------------- */

/* The host's /dev/null would show a path of the host: the root's own takes its place, if it has a genuine one. */
static void reopen_null(int root, int fd) {
    long flags = SYS(__NR_fcntl, fd, F_GETFL);
    int own = flags < 0 ? -1 : open_device(root, "/dev/null", (uint64_t)flags & O_ACCMODE, NULL_RDEV, 0);

    if (own >= 0)
        SYS(__NR_dup3, own, fd, 0);
    close_fd(own);
}

/* The user may open /proc/self/fd/1 again; what cannot be owned (EINVAL, EPERM, EROFS) stays as it is. */
static int own_stream(int fd, uint64_t uid) {
    struct statx about;
    long result = look(fd, &about);

    if (result < 0 || about.stx_uid == uid)
        return 0;
    result = CALL(fchown, fd, uid, -1);
    return result == -EINVAL || result == -EPERM || result == -EROFS ? 0 : (int)result;
}

int op_stdio(const struct plan_op *op) {
    int slave = op->arg[1] == PLAN_NONE ? -1 : slot(op->arg[1]), root;
    long result = 0;

    if (op->arg[1] != PLAN_NONE) {
        result = CALL(ioctl, slave, TIOCSCTTY, 0);
        for (int fd = 0; fd < 3 && result >= 0; fd++)
            result = CALL(dup3, slave, fd, 0);
        close_slot(op->arg[1]);
        return result < 0 ? (int)result : 0;
    }
    root = op->arg[0] == PLAN_NONE ? (int)CALL(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0)
                                   : slot(op->arg[0]);
    for (int fd = 0; fd < 3 && result >= 0; fd++) {
        int is_null = check_node(fd, S_IFCHR, NULL_RDEV) == 0;
        if (is_null)
            reopen_null(root, fd);
        m.detail[0] = '\0'; /* neither has to be */
        if (!is_null && op->arg[2] != PLAN_NONE)
            result = own_stream(fd, op->arg[2]);
    }
    if (op->arg[0] == PLAN_NONE)
        close_fd(root);
    return (int)result;
}

/* --- seccomp ------------------------------------------------------------------------------------------------- */

struct seccomp_load {
    const struct plan_op *op;
    struct sock_fprog program;
    int listener; /* 0: not yet; a descriptor, or a negative errno */
    int sent;
};
static struct seccomp_load load;
static _Alignas(16) char thread_stack[UNSHARED_STACK];

/* A thread takes over: it has the filter, and goes on with the plan; execve makes it the process. */
static void run_filtered(void *argument) {
    /* TSYNC would give the filter to the other thread as well. */
    uint64_t flags = load.op->arg[1] & ~(uint64_t)(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH);
    long result = CALL(seccomp, SECCOMP_SET_MODE_FILTER, flags, &load.program);

    (void)argument;
    if (result < 0)
        give_up((int)-result);
    __atomic_store_n(&load.listener, (int)result, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&load.sent, __ATOMIC_ACQUIRE)) /* any system call may be one that the filter traps */
        cpu_relax();
    run_from(m.at + 1);
    quit(0);
}

/* With a listener the filter may stop whatever its own process would do to hand the listener out.  So the
 * thread that loads it does not: this one, without the filter, sends it, and ends with the other's execve. */
static int load_with_listener(void) {
    const uint64_t flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    int listener;
    long result;

    m.call = "clone3";
    struct clone_args arguments = {
        .flags = flags, .stack = (uint64_t)(uintptr_t)thread_stack, .stack_size = sizeof(thread_stack)};
    result = sys_clone_on_stack(__NR_clone3, (long)&arguments, sizeof(arguments), 0, run_filtered, NULL);
    if (result < 0)
        return (int)result;
    while ((listener = __atomic_load_n(&load.listener, __ATOMIC_ACQUIRE)) == 0)
        SYS(__NR_sched_yield);
    send_message(MSG_LISTENER, 0, 0, listener);
    __atomic_store_n(&load.sent, 1, __ATOMIC_RELEASE);
    for (;;)
        SYS(__NR_ppoll, 0, 0, 0, 0, 0);
}

int op_seccomp(const struct plan_op *op) {
    int result = prepare_exec();

    if (result < 0)
        return result;
    load.op = op;
    load.program.len = (unsigned short)(blob_size(op->arg[0]) / sizeof(struct sock_filter));
    load.program.filter = (struct sock_filter *)(uintptr_t)blob(op->arg[0]);
    if ((op->arg[1] & SECCOMP_FILTER_FLAG_NEW_LISTENER) != 0)
        return load_with_listener();
    return (int)CALL(seccomp, SECCOMP_SET_MODE_FILTER, op->arg[1], &load.program);
}
