/* shim.c: the kernel's calls that Python lacks, and the start of init.
 *
 * Every function returns the kernel's result, a value or a negative errno; shim.h has the declarations.
 */
#include "sys.h"
#include "check.h"
#include "native.h"

#include <linux/bpf.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <asm/statfs.h>
#include <string.h>

#define CHILD_STACK 16384
#define CLOSE_CLOEXEC 4 /* CLOSE_RANGE_CLOEXEC */
#define SOCK_SEQPACKET_CLOEXEC (5 | SYS_SOCK_CLOEXEC)
#define SO_PASSCRED_OPTION 16
#define MSG_CMSG_CLOEXEC_FLAG 0x40000000
#define MSG_TRUNCATED 0x28 /* MSG_TRUNC | MSG_CTRUNC */
#define MAX_FDS 16

/* --- starting a program in new namespaces ---------------------------------------------------------------------- */

enum { STEP_NONE, STEP_DUP, STEP_STDIO, STEP_CLOSE, STEP_EXEC };

const char *shim_spawn_step(int step) {
    switch (step) {
    case STEP_DUP:
    case STEP_STDIO:
        return "dup of a descriptor for init";
    case STEP_CLOSE:
        return "close_range";
    case STEP_EXEC:
        return "execveat of init";
    default:
        return "clone3";
    }
}

struct spawn_child {
    struct spawn_request *request;
    long result;
};

static _Noreturn void child_failed(struct spawn_child *child, int step, long error) {
    child->request->failed_step = step;
    child->result = error;
    for (;;)
        SYS(__NR_exit_group, 127);
}

static int move_up(struct spawn_child *child, int fd, int floor) {
    long copy = SYS(__NR_fcntl, fd, F_DUPFD_CLOEXEC, floor);

    if (copy < 0)
        child_failed(child, STEP_DUP, copy);
    return (int)copy;
}

/* Runs in the child, in the parent's memory and on a stack of its own, while the parent waits: no libc.
 * First every descriptor moves above all the numbers that will be given, then down to its own. */
static void spawn_child(void *argument) {
    struct spawn_child *child = argument;
    struct spawn_request *r = child->request;
    int end = r->first_fd + r->fd_count, *copies = r->scratch, program;
    long result;

    for (int i = 0; i < r->fd_count; i++)
        copies[i] = move_up(child, r->fds[i], end + 1);
    for (int i = 0; i < 3; i++)
        copies[r->fd_count + i] = r->stdio[i] == i ? -1 : move_up(child, r->stdio[i], end + 1);
    program = move_up(child, r->program, end + 1);
    for (int i = 0; i < r->fd_count; i++) {
        result = SYS(__NR_dup3, copies[i], r->first_fd + i, 0);
        if (result < 0)
            child_failed(child, STEP_DUP, result);
    }
    for (int i = 0; i < 3; i++) {
        result = copies[r->fd_count + i];
        if (result >= 0)
            result = SYS(__NR_dup3, result, i, 0);
        else
            result = SYS(__NR_fcntl, i, F_SETFD, 0);
        if (result < 0 && result != -EBADF)
            child_failed(child, STEP_STDIO, result);
    }
    for (int fd = 3; fd < r->first_fd; fd++) /* the preserved ones; one that is not open is the program's affair */
        SYS(__NR_fcntl, fd, F_SETFD, 0);
    result = SYS(__NR_dup3, program, end, SYS_SOCK_CLOEXEC /* O_CLOEXEC */);
    if (result >= 0)
        result = SYS(__NR_close_range, end + 1, ~0u, 0);
    if (result < 0)
        child_failed(child, STEP_CLOSE, result);
    result = SYS(__NR_execveat, end, "", r->argv, r->envp, AT_EMPTY_PATH);
    child_failed(child, STEP_EXEC, result);
}

/* All signals are blocked around a child that shares the memory: no handler may run in it. */
static long clone_sharing(struct clone_args *args, void (*run)(void *), void *argument) {
    const uint64_t all = ~UINT64_C(0);
    uint64_t old = 0;
    long result;

    SYS(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &all, &old, sizeof(all));
    result = sys_clone_on_stack(__NR_clone3, (long)args, sizeof(*args), 0, run, argument);
    SYS(__NR_rt_sigprocmask, 2, &old, 0, sizeof(old));
    return result;
}

int shim_spawn(struct spawn_request *r) {
    _Alignas(16) char stack[CHILD_STACK];
    struct spawn_child child = {.request = r};
    struct clone_args args = {
        .flags = r->clone_flags | CLONE_VM | CLONE_VFORK | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)&r->pidfd,
        .exit_signal = SYS_SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = sizeof(stack),
    };
    long pid;

    if (r->cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (unsigned)r->cgroup;
    }
    r->failed_step = STEP_NONE;
    pid = clone_sharing(&args, spawn_child, &child);
    if (pid > 0 && child.result < 0) {
        SYS(__NR_wait4, pid, 0, 0x40000000 /* __WALL */, 0);
        SYS(__NR_close, r->pidfd);
        return (int)child.result;
    }
    return (int)pid;
}

/* --- clone3 by itself: a child that makes a few calls and hands back what they gave ----------------------------- */

struct clone_child {
    const uint8_t *steps;
    size_t count;
    long *results;
};

/* 'p' getpid, 'P' getppid, 'u' getuid, 'g' getgid, 's' setsid: what tells namespaces apart. */
static void clone_child(void *argument) {
    struct clone_child *c = argument;

    for (size_t i = 0; i < c->count; i++) {
        switch (c->steps[i]) {
        case 'p':
            c->results[i] = SYS(__NR_getpid);
            break;
        case 'P':
            c->results[i] = SYS(__NR_getppid);
            break;
        case 'u':
            c->results[i] = SYS(__NR_getuid);
            break;
        case 'g':
            c->results[i] = SYS(__NR_getgid);
            break;
        case 's':
            c->results[i] = SYS(__NR_setsid);
            break;
        default:
            c->results[i] = -ENOSYS;
        }
    }
    for (;;)
        SYS(__NR_exit_group, 0);
}

int shim_clone3(uint64_t flags, int cgroup, int *pidfd, void *result, size_t size, const uint8_t *steps, size_t count) {
    _Alignas(16) char stack[CHILD_STACK];
    struct clone_child child = {steps, count, result};
    struct clone_args args = {
        .flags = flags | CLONE_VM | CLONE_VFORK | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SYS_SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = sizeof(stack),
    };

    if (size < count * sizeof(long))
        return -EINVAL;
    if (cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (unsigned)cgroup;
    }
    return (int)clone_sharing(&args, clone_child, &child);
}

/* --- the message channel -------------------------------------------------------------------------------------- */

struct credentials {
    size_t len;
    int level;
    int type;
    int pid;
    unsigned uid;
    unsigned gid;
};

/* fds[0] is the parent's end: it gets the sender's pid with every packet. */
int shim_channel_pair(int *fds) {
    int on = 1;
    long result = SYS(__NR_socketpair, 1 /* AF_UNIX */, SOCK_SEQPACKET_CLOEXEC, 0, fds);

    if (result < 0)
        return (int)result;
    result = SYS(__NR_setsockopt, fds[0], SYS_SOL_SOCKET, SO_PASSCRED_OPTION, &on, sizeof(on));
    if (result < 0) {
        SYS(__NR_close, fds[0]);
        SYS(__NR_close, fds[1]);
    }
    return (int)result;
}

int shim_channel_send(int fd, const void *data, size_t size, const int *fds, int count) {
    _Alignas(size_t) char control[sizeof(size_t) + 2 * sizeof(int) + MAX_FDS * sizeof(int)] = {0};
    struct sys_iovec part = {(void *)(uintptr_t)data, size};
    struct sys_msghdr msg = {.iov = &part, .iovlen = 1};
    const int head[2] = {SYS_SOL_SOCKET, SYS_SCM_RIGHTS};
    size_t length = sizeof(size_t) + sizeof(head) + (size_t)count * sizeof(int);
    long result;

    if (count < 0 || count > MAX_FDS)
        return -EINVAL;
    if (count > 0) {
        memcpy(control, &length, sizeof(length));
        memcpy(control + sizeof(length), head, sizeof(head));
        memcpy(control + sizeof(length) + sizeof(head), fds, (size_t)count * sizeof(int));
        msg.control = control;
        msg.controllen = length;
    }
    do
        result = SYS(__NR_sendmsg, fd, &msg, SYS_MSG_NOSIGNAL);
    while (result == -EINTR);
    return (int)result;
}

/* Take descriptors and the sender's pid out of the control messages; a descriptor without room is closed. */
static int take_control(const char *control, size_t size, int *fds, int room, int *count, int *pid) {
    int lost = 0;

    for (size_t at = 0; at + sizeof(struct sys_cmsg_fd) - sizeof(int) <= size;) {
        struct credentials head;
        size_t length;

        memset(&head, 0, sizeof(head));
        memcpy(&head, control + at, size - at < sizeof(head) ? size - at : sizeof(head));
        length = head.len;
        if (length < 16 || length > size - at)
            break;
        if (head.level == SYS_SOL_SOCKET && head.type == 2 /* SCM_CREDENTIALS */)
            *pid = head.pid;
        for (size_t i = 16; head.level == SYS_SOL_SOCKET && head.type == SYS_SCM_RIGHTS && i + 4 <= length; i += 4) {
            int fd;
            memcpy(&fd, control + at + i, sizeof(fd));
            if (*count < room) {
                fds[(*count)++] = fd;
            } else {
                SYS(__NR_close, fd);
                lost = 1;
            }
        }
        at += (length + sizeof(size_t) - 1) & ~(sizeof(size_t) - 1);
    }
    return lost;
}

int shim_channel_recv(int fd, void *data, size_t size, int *fds, int room, int *count, int *pid) {
    _Alignas(size_t) char control[256];
    struct sys_iovec part = {data, size};
    struct sys_msghdr msg = {.iov = &part, .iovlen = 1, .control = control, .controllen = sizeof(control)};
    long result;
    int lost;

    *count = 0;
    *pid = 0;
    do
        result = SYS(__NR_recvmsg, fd, &msg, MSG_CMSG_CLOEXEC_FLAG);
    while (result == -EINTR);
    if (result < 0)
        return (int)result;
    lost = take_control(control, msg.controllen, fds, room, count, pid);
    if (lost || (msg.flags & MSG_TRUNCATED) != 0) {
        while (*count > 0)
            SYS(__NR_close, fds[--*count]);
        return -EMSGSIZE;
    }
    return (int)result;
}

/* --- memory files (CVE-2019-5736) ----------------------------------------------------------------------------- */

static int new_memfd(const char *name, int executable) {
    const unsigned flags = 3; /* MFD_CLOEXEC | MFD_ALLOW_SEALING */
    long fd = SYS(__NR_memfd_create, name, flags | (executable ? MFD_EXEC : 8u /* MFD_NOEXEC_SEAL */));

    return (int)(fd == -EINVAL ? SYS(__NR_memfd_create, name, flags) : fd); /* before Linux 6.3 */
}

static int seal(int fd, long result) {
    const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

    if (result >= 0 && SYS(__NR_fcntl, fd, F_ADD_SEALS, seals | F_SEAL_EXEC) < 0)
        result = SYS(__NR_fcntl, fd, F_ADD_SEALS, seals);
    if (result < 0) {
        SYS(__NR_close, fd);
        return (int)result;
    }
    return fd;
}

int shim_memfd(const char *name, const void *data, size_t size, int executable) {
    int fd = new_memfd(name, executable);
    const char *p = data;
    long n = 0;

    while (fd >= 0 && size > 0 && (n = SYS(__NR_write, fd, p, size)) > 0) {
        p += n;
        size -= (size_t)n;
    }
    return fd < 0 ? fd : seal(fd, size > 0 && n >= 0 ? -EIO : n);
}

int shim_memfd_copy(const char *name, int from) {
    int fd = new_memfd(name, 1);
    long n = 0;

    if (fd < 0)
        return fd;
    do
        n = SYS(__NR_sendfile, fd, from, 0, 1 << 20);
    while (n > 0);
    return seal(fd, n);
}

/* --- single calls --------------------------------------------------------------------------------------------- */

int64_t shim_fs_type(int fd) {
    struct statfs about;
    long result = SYS(__NR_fstatfs, fd, &about);

    return result < 0 ? result : (int64_t)about.f_type;
}

int64_t shim_mount_id(int fd) {
    struct statx about;
    long result = SYS(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &about);

    return result < 0 ? result : (int64_t)about.stx_mnt_id;
}

int shim_setns(int fd, int type) {
    return (int)SYS(__NR_setns, fd, type);
}

int shim_unshare(uint64_t flags) {
    return (int)SYS(__NR_unshare, flags);
}

int shim_pivot_root(const char *new_root, const char *put_old) {
    return (int)SYS(__NR_pivot_root, new_root, put_old);
}

int shim_chroot(const char *path) {
    return (int)SYS(__NR_chroot, path);
}

int shim_mount(const char *source, const char *target, const char *type, uint64_t flags, const char *data) {
    return (int)SYS(__NR_mount, source, target, type, flags, data);
}

int shim_umount2(const char *target, int flags) {
    return (int)SYS(__NR_umount2, target, flags);
}

int shim_open_tree(int dir, const char *path, unsigned int flags) {
    return (int)SYS(__NR_open_tree, dir, path, flags);
}

int shim_move_mount(int from_dir, const char *from, int to_dir, const char *to, unsigned int flags) {
    return (int)SYS(__NR_move_mount, from_dir, from, to_dir, to, flags);
}

int shim_mount_setattr(int dir, const char *path, unsigned int flags, uint64_t set, uint64_t clear,
                       uint64_t propagation, int userns) {
    struct mount_attr attr = {.attr_set = set, .attr_clr = clear, .propagation = propagation};

    if (userns >= 0)
        attr.userns_fd = (unsigned)userns;
    return (int)SYS(__NR_mount_setattr, dir, path, flags, &attr, sizeof(attr));
}

int shim_fsopen(const char *type, unsigned int flags) {
    return (int)SYS(__NR_fsopen, type, flags);
}

int shim_fsconfig(int fd, unsigned int command, const char *key, const void *value, int aux) {
    return (int)SYS(__NR_fsconfig, fd, command, key, value, aux);
}

int shim_fsmount(int fd, unsigned int flags, unsigned int attributes) {
    return (int)SYS(__NR_fsmount, fd, flags, attributes);
}

int shim_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
    long fd = -EAGAIN;

    for (int i = 0; i < 128 && (fd == -EAGAIN || fd == -EINTR); i++)
        fd = SYS(__NR_openat2, dir, path, &how, sizeof(how));
    return (int)fd;
}

int shim_pidfd_open(int pid, unsigned int flags) {
    return (int)SYS(__NR_pidfd_open, pid, flags);
}

int shim_pidfd_send_signal(int pidfd, int number) {
    return (int)SYS(__NR_pidfd_send_signal, pidfd, number, 0, 0);
}

int shim_pidfd_getfd(int pidfd, int number) {
    return (int)SYS(__NR_pidfd_getfd, pidfd, number, 0);
}

int shim_close_range(unsigned int first, unsigned int last, unsigned int flags) {
    return (int)SYS(__NR_close_range, first, last, flags);
}

int shim_prlimit(int pid, int resource, const uint64_t *set, uint64_t *old) {
    return (int)SYS(__NR_prlimit64, pid, resource, set, old);
}

int shim_sched_setaffinity(int pid, size_t size, const void *mask) {
    return (int)SYS(__NR_sched_setaffinity, pid, size, mask);
}

int shim_prctl(int option, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    return (int)SYS(__NR_prctl, option, a, b, c, d);
}

int shim_keyctl_join(const char *name) {
    return (int)SYS(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name, 0, 0, 0);
}

/* --- device filters of cgroup v2 ------------------------------------------------------------------------------ */

static int bpf(int command, union bpf_attr *attr) {
    return (int)SYS(__NR_bpf, command, attr, sizeof(*attr));
}

int shim_bpf_load(const void *code, unsigned int count, char *log, unsigned int log_size) {
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = (uint64_t)(uintptr_t)code;
    attr.insn_cnt = count;
    attr.license = (uint64_t)(uintptr_t) "Apache-2.0";
    memcpy(attr.prog_name, "ociruntime", sizeof("ociruntime"));
    if (log_size > 0) {
        attr.log_level = 1;
        attr.log_buf = (uint64_t)(uintptr_t)log;
        attr.log_size = log_size;
    }
    return bpf(BPF_PROG_LOAD, &attr);
}

int shim_bpf_attach(int cgroup, int program, unsigned int flags, int replaced) {
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.target_fd = (uint32_t)cgroup;
    attr.attach_bpf_fd = (uint32_t)program;
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = flags;
    if (replaced >= 0) {
        attr.attach_flags |= BPF_F_REPLACE;
        attr.replace_bpf_fd = (uint32_t)replaced;
    }
    return bpf(BPF_PROG_ATTACH, &attr);
}

int shim_bpf_detach(int cgroup, int program) {
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.target_fd = (uint32_t)cgroup;
    attr.attach_bpf_fd = (uint32_t)program;
    attr.attach_type = BPF_CGROUP_DEVICE;
    return bpf(BPF_PROG_DETACH, &attr);
}

int shim_bpf_query(int cgroup, uint32_t *ids, uint32_t room) {
    union bpf_attr attr;
    int result;

    memset(&attr, 0, sizeof(attr));
    attr.query.target_fd = (uint32_t)cgroup;
    attr.query.attach_type = BPF_CGROUP_DEVICE;
    attr.query.prog_ids = (uint64_t)(uintptr_t)ids;
    attr.query.prog_cnt = room;
    result = bpf(BPF_PROG_QUERY, &attr);
    return result < 0 ? result : (int)attr.query.prog_cnt;
}

int shim_bpf_open(uint32_t id) {
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.prog_id = id;
    return bpf(BPF_PROG_GET_FD_BY_ID, &attr);
}
