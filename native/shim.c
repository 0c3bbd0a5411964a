/* shim.c: the start of init, its channel, and a door to the kernel's calls that Python lacks. */
#include "native.h"
#include "sys.h"

#include <linux/sched.h>
#include <string.h>

#define CHILD_STACK 16384
#define SOCK_SEQPACKET_CLOEXEC (5 | SYS_SOCK_CLOEXEC)
#define SO_PASSCRED_OPTION 16
#define SO_RCVTIMEO_OPTION 20
#define MSG_CMSG_CLOEXEC_FLAG 0x40000000
#define MSG_TRUNCATED 0x28 /* MSG_TRUNC | MSG_CTRUNC */
#define MAX_FDS 16

/* --- starting a program in new namespaces ---------------------------------------------------------------------- */

enum { STEP_NONE, STEP_JOIN, STEP_DUP, STEP_STDIO, STEP_CLOSE, STEP_EXEC, STEP_DEATH, STEP_HOOK };

const char *shim_spawn_step(int step) {
    switch (step) {
    case STEP_JOIN:
        return "write to the tasks of a cgroup";
    case STEP_DUP:
    case STEP_STDIO:
        return "dup of a descriptor for init";
    case STEP_CLOSE:
        return "close_range";
    case STEP_EXEC:
        return "execveat of init";
    case STEP_DEATH:
        return "prctl PR_SET_PDEATHSIG";
    case STEP_HOOK:
        return "execve";
    default:
        return "clone3";
    }
}

struct spawn_child {
    struct spawn_request *request;
    long result;
    long parent; /* of a hook: the pid of this process */
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

/* What a hook has otherwise than init; does not return. */
static _Noreturn void become_hook(struct spawn_child *child) {
    static const uint64_t by_default[4]; /* struct sigaction as the kernel has it */
    struct spawn_request *r = child->request;
    const uint64_t none = 0;
    long result;

    if (r->parent_death != 0) {
        result = SYS(__NR_prctl, 1 /* PR_SET_PDEATHSIG */, r->parent_death, 0, 0, 0);
        if (result < 0)
            child_failed(child, STEP_DEATH, result);
        if (SYS(__NR_getppid) != child->parent) /* it had ended before the prctl: no signal will come */
            child_failed(child, STEP_DEATH, -ESRCH);
    }
    SYS(__NR_setpgid, 0, 0);
    /* CLONE_CLEAR_SIGHAND leaves what is ignored. */
    SYS(__NR_rt_sigaction, 13 /* SIGPIPE */, by_default, 0, sizeof(none));
    SYS(__NR_rt_sigaction, 25 /* SIGXFSZ */, by_default, 0, sizeof(none));
    result = SYS(__NR_close_range, r->first_fd + r->fd_count, ~0u, 0);
    if (result < 0)
        child_failed(child, STEP_CLOSE, result);
    SYS(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &none, 0, sizeof(none));
    result = SYS(__NR_execve, r->path, r->argv, r->envp);
    child_failed(child, STEP_HOOK, result);
}

/* Runs in the child, in the parent's memory and on a stack of its own, while the parent waits: no libc.
 * First every descriptor moves above all the numbers that will be given, then down to its own. */
static void spawn_child(void *argument) {
    struct spawn_child *child = argument;
    struct spawn_request *r = child->request;
    int end = r->first_fd + r->fd_count, *copies = r->scratch, program = -1;
    long result;

    /* A process without threads that moves itself need not wait for an RCU grace period (Linux 5.17). */
    for (int i = 0; i < r->join_count; i++) {
        result = SYS(__NR_write, r->join_fds[i], "0", 1);
        if (result < 0)
            child_failed(child, STEP_JOIN, result);
    }
    for (int i = 0; i < r->fd_count; i++)
        copies[i] = move_up(child, r->fds[i], end + 1);
    for (int i = 0; i < 3; i++)
        copies[r->fd_count + i] = r->stdio[i] == i ? -1 : move_up(child, r->stdio[i], end + 1);
    if (r->path == 0)
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
    if (r->path != 0)
        become_hook(child);
    result = SYS(__NR_dup3, program, end, SYS_SOCK_CLOEXEC /* O_CLOEXEC */);
    if (result >= 0)
        result = SYS(__NR_close_range, end + 1, ~0u, 0);
    if (result < 0)
        child_failed(child, STEP_CLOSE, result);
    result = SYS(__NR_execveat, end, "", r->argv, r->envp, AT_EMPTY_PATH);
    child_failed(child, STEP_EXEC, result);
}

int shim_spawn(struct spawn_request *r) {
    _Alignas(16) char stack[CHILD_STACK];
    struct spawn_child child = {.request = r};
    const uint64_t all = ~UINT64_C(0);
    uint64_t mask = 0;
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
    if (r->path != 0) {
        args.flags |= CLONE_CLEAR_SIGHAND;
        child.parent = SYS(__NR_getpid);
    }
    r->failed_step = STEP_NONE;
    /* All signals are blocked around a child that shares the memory: no handler may run in it. */
    SYS(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &all, &mask, sizeof(all));
    pid = sys_clone_on_stack(__NR_clone3, (long)&args, sizeof(args), 0, spawn_child, &child);
    SYS(__NR_rt_sigprocmask, 2, &mask, 0, sizeof(mask));
    if (pid > 0 && child.result < 0) {
        SYS(__NR_wait4, pid, 0, 0x40000000 /* __WALL */, 0);
        SYS(__NR_close, r->pidfd);
        return (int)child.result;
    }
    return (int)pid;
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

/* fds[0] is the parent's end: it gets the sender's pid with every packet, and EAGAIN after 1 s of silence, to look
 * whether init has been stopped (host/stuck.py). */
int shim_channel_pair(int *fds) {
    static const long patience[2] = {1, 0}; /* struct timeval */
    int on = 1;
    long result = SYS(__NR_socketpair, 1 /* AF_UNIX */, SOCK_SEQPACKET_CLOEXEC, 0, fds);

    if (result < 0)
        return (int)result;
    result = SYS(__NR_setsockopt, fds[0], SYS_SOL_SOCKET, SO_PASSCRED_OPTION, &on, sizeof(on));
    if (result >= 0)
        result = SYS(__NR_setsockopt, fds[0], SYS_SOL_SOCKET, SO_RCVTIMEO_OPTION, patience, sizeof(patience));
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

/* --- all other calls ------------------------------------------------------------------------------------------- */

long shim_syscall(long number, long a, long b, long c, long d, long e, long f) {
    return sys_call(number, a, b, c, d, e, f);
}
