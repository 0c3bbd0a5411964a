/* process.c: the pages about descriptors, signals, dumpability and capabilities; namespaces and the gate. */
#include "init.h"

#include <linux/capability.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/sockios.h>

/* --- descriptors (CVE-2016-9962, CVE-2024-21626) ------------------------------------------------------------- */

/* Nothing but stdio, the preserved ones and the plan's remains, and the plan's end with the execve.
 * Called at the start, and again before the execve, when what operations have opened counts as well. */
void keep_only(unsigned first_kept, unsigned count) {
    if (count < PLAN_MAX_SLOTS)
        SYS(__NR_close_range, first_kept + count, ~0u, 0);
    if (SYS(__NR_close_range, first_kept, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */) == -EINVAL) /* Linux 5.10 */
        for (unsigned fd = first_kept; fd < first_kept + 2 * PLAN_MAX_SLOTS; fd++)
            SYS(__NR_fcntl, fd, F_SETFD, FD_CLOEXEC);
}

/* --- signals ------------------------------------------------------------------------------------------------- */

/* What the caller ignores or blocks would be inherited by the program (CPython ignores SIGPIPE). */
void reset_signals(void) {
    const uint64_t none = 0;
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } by_default = {0, 0, 0, 0};

    for (int number = 1; number <= 64; number++)
        SYS(__NR_rt_sigaction, number, &by_default, 0, sizeof(none)); /* SIGKILL and SIGSTOP refuse */
    SYS(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &none, 0, sizeof(none));
}

/* --- dumpability --------------------------------------------------------------------------------------------- */

/* No ptrace, no /proc/PID/{fd,exe,mem} for anyone inside (CVE-2016-9962).  The kernel sets it anew with every change
 * of ids; so do we.  execve of the program is what ends it. */
void set_dumpable(int value) {
    long result = SYS(__NR_prctl, PR_SET_DUMPABLE, value, 0, 0, 0);

    /* Without this guard init does not go on; without its opposite the runtime of an ordinary user cannot. */
    if (result < 0) {
        m.call = "prctl PR_SET_DUMPABLE";
        m.detail[0] = '\0';
        give_up((int)-result);
    }
}

/* An ordinary user may write the id maps and oom_score_adj of a dumpable process only, and join only its namespaces
 * (hooks).  While it waits for the runtime it is one, unless it has joined a namespace, where others may live. */
static void open_to_its_user(void) {
    if (m.ordinary && !m.joined)
        set_dumpable(1);
}

/* --- capabilities and ids ------------------------------------------------------------------------------------ */

int op_ids(const struct plan_op *op) {
    long result = 0;

    if ((op->arg[3] & IDS_KEEPCAPS) != 0)
        result = CALL(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    if (result >= 0 && op->arg[2] != PLAN_NONE && (op->arg[3] & IDS_NO_SETGROUPS) == 0)
        result = CALL(setgroups, blob_size(op->arg[2]) / sizeof(uint32_t), blob(op->arg[2]));
    if (result >= 0 && op->arg[1] != PLAN_NONE)
        result = CALL(setresgid, op->arg[1], op->arg[1], op->arg[1]);
    if (result >= 0 && op->arg[0] != PLAN_NONE)
        result = CALL(setresuid, op->arg[0], op->arg[0], op->arg[0]);
    set_dumpable(0);
    return (int)result;
}

static int drop_bounding(uint64_t keep) {
    for (int capability = 0; capability < 64; capability++) {
        long result;

        if ((keep >> capability & 1) != 0)
            continue;
        result = CALL(prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
        if (result == -EPERM) { /* no matter where it is gone already, or does not exist */
            long have = SYS(__NR_prctl, PR_CAPBSET_READ, capability, 0, 0, 0);
            result = have > 0 ? result : have;
        }
        if (result == -EINVAL) /* beyond the kernel's last one */
            break;
        if (result < 0)
            return (int)result;
    }
    return 0;
}

static int set_ambient(uint64_t wanted) {
    long result = CALL(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);

    for (int capability = 0; result >= 0 && capability < 64; capability++) {
        long raised = 0;

        if ((wanted >> capability & 1) != 0)
            raised = CALL(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
        if (raised < 0) { /* the specification asks for a warning */
            char number[3] = {(char)('0' + capability / 10), (char)('0' + capability % 10), '\0'};
            detail("ambient capability ", number, NULL);
            warn((int)-raised);
        }
    }
    return (int)result;
}

/* Bounding set first (it needs CAP_SETPCAP), ambient last (it needs the others).  With a filter loaded no call is
 * made that is not asked for. */
int op_caps(const struct plan_op *op) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2];
    int result = 0;

    if ((op->arg[5] & CAPS_DROP_BOUNDING) != 0)
        result = drop_bounding(op->arg[0]);
    if (result == 0 && (op->arg[5] & CAPS_SET) != 0) {
        for (int half = 0; half < 2; half++) {
            sets[half].effective = (uint32_t)(op->arg[1] >> 32 * half);
            sets[half].permitted = (uint32_t)(op->arg[2] >> 32 * half);
            sets[half].inheritable = (uint32_t)(op->arg[3] >> 32 * half);
        }
        result = (int)CALL(capset, &head, sets);
    }
    if (result == 0 && (op->arg[5] & CAPS_AMBIENT) != 0)
        result = set_ambient(op->arg[4]);
    return result;
}

/* --- namespaces ---------------------------------------------------------------------------------------------- */

int op_setns(const struct plan_op *op) {
    int fd = slot(op->arg[0]), result;

    if (fd < 0 && (op->flags & PLAN_F_RETRY) != 0)
        return 0;
    result = (int)CALL(setns, fd, op->arg[1]);
    if (result == 0) {
        close_slot(op->arg[0]);
        m.joined = 1;
    }
    set_dumpable(0);
    return result;
}

int op_unshare(const struct plan_op *op) {
    int result = (int)CALL(unshare, op->arg[0]);

    set_dumpable(0);
    return result;
}

/* The child is a child of the runtime as this process is: a pid namespace takes effect with it. */
int op_clone(const struct plan_op *op) {
    long pid = CALL(clone, op->arg[0] | CLONE_PARENT | SYS_SIGCHLD, 0, 0, 0, 0);

    if (pid > 0)
        quit(0);
    if (pid == 0)
        send_message(MSG_CHILD, 0, 0, -1);
    return (int)pid;
}

int op_sync(const struct plan_op *op) {
    uint32_t tag = (uint32_t)op->arg[0];
    int result;

    if (tag == TAG_USERNS || tag == TAG_CGROUP || tag == TAG_HOOKS)
        open_to_its_user();
    send_message(MSG_SYNC, tag, 0, -1);
    result = receive_go(tag);
    if (result > 0)
        quit(1); /* nobody wants this container any more */
    if (result < 0)
        return result;
    set_dumpable(0);
    return 0;
}

/* `start` connects and says so; that connection is the channel from then on.  A waiting init holds nothing that
 * leads to the host: in a pod's pid namespace a tracer may see it for as long as it waits (CVE-2016-9962). */
int op_gate(const struct plan_op *op) {
    int gate = slot(op->arg[0]);

    for (uint64_t other = 1; other < m.head->slot_count; other++)
        if (other != op->arg[0])
            close_slot(other);
    open_to_its_user();
    send_message(MSG_READY, 0, 0, -1);
    close_slot(0);
    for (;;) {
        int fd = (int)CALL(accept4, gate, 0, 0, SYS_SOCK_CLOEXEC), result;

        if (fd == -EINTR || fd == -ECONNABORTED)
            continue;
        if (fd < 0)
            return fd;
        m.slots[0] = fd;
        result = receive_go(TAG_START);
        if (result == 0)
            break;
        if (result < 0) /* an end without a word would be taken for the program's start */
            return result;
        close_slot(0);
    }
    close_slot(op->arg[0]); /* a second `start` finds nobody */
    set_dumpable(0);
    return 0;
}

/* --- the rest ------------------------------------------------------------------------------------------------ */

/* By descriptor inside the root, and getcwd must find a way from there to "/" (CVE-2024-21626). */
static int change_directory(const struct plan_op *op) {
    char cwd[PATH_SIZE];
    int root = op->arg[0] == PLAN_NONE ? (int)CALL(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0)
                                       : slot(op->arg[0]);
    int fd = root < 0 ? root : open_in_root(root, blob(op->arg[1]), O_PATH | O_DIRECTORY, 0);
    long result = fd;

    if (op->arg[0] == PLAN_NONE)
        close_fd(root);
    if (fd < 0)
        return fd;
    result = CALL(fchdir, fd);
    close_fd(fd);
    if (result < 0)
        return (int)result;
    result = CALL(getcwd, cwd, sizeof(cwd));
    if (result < 0)
        return (int)result;
    return cwd[0] == '/' ? 0 : fail(ENOENT, "getcwd", "current working directory is outside of the root", NULL, NULL);
}

/* As root the directory may be open that is closed to the user, or on a network file system the other way round. */
int op_chdir(const struct plan_op *op) {
    int result = (op->flags & PLAN_F_RETRY) != 0 && !m.astray ? 0 : change_directory(op);

    m.astray = result != 0;
    return result;
}

int op_loopback(const struct plan_op *op) {
    struct { /* struct ifreq */
        char name[16];
        short flags;
        char rest[22];
    } request = {.name = "lo"};
    int fd = (int)CALL(socket, SYS_AF_INET, SYS_SOCK_DGRAM | SYS_SOCK_CLOEXEC, 0);
    long result;

    (void)op;
    if (fd < 0)
        return fd;
    result = CALL(ioctl, fd, SIOCGIFFLAGS, &request);
    if (result >= 0) {
        request.flags |= 1; /* IFF_UP */
        result = CALL(ioctl, fd, SIOCSIFFLAGS, &request);
    }
    close_fd(fd);
    return (int)result;
}
