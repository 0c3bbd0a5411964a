/* fuzz_kernel.c: init from its first instruction to its last, against a kernel that is made up.
 *
 * An input is a plan and, behind the length that its header claims, the kernel's answers (none: every call succeeds).
 * Each system call of init comes here instead of to the kernel: what its arguments point to is used as the kernel would
 * use it, strings read to their end, buffers filled to theirs, under ASan and UBSan.  Nothing is executed.  What must
 * hold:
 *   - nothing outside of the plan, of init's own memory and of what was asked for is touched;
 *   - a plan that check_plan refuses makes none of the calls that carry an operation out (the canary);
 *   - a message has a length that the runtime takes, and no descriptor that is not open;
 *   - no descriptor is closed that is not open, and init ends.
 */
#include "check.h"
#include "fuzz.h"
#include "sys.h"

#include <asm/ioctls.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <linux/stat.h>
#include <sanitizer/asan_interface.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CALLS 4096u
#define MAX_FD (65536u + 2 * PLAN_MAX_SLOTS)
#define AREAS 16

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static jmp_buf over;
static struct {
    const uint8_t *answers, *end;
    const uint8_t *plan;
    size_t plan_size;
    int accepted; /* by check_plan */
    int running;  /* the plan has been taken: its descriptor is closed */
    unsigned calls, lowest;
    uint64_t open[MAX_FD / 64 + 1];
    struct plan_msg said; /* the last message */
    void *areas[AREAS];
    unsigned area_count;
} kernel;

static _Noreturn void found(const char *what, long number) {
    fprintf(stderr, "fuzz_kernel: %s (%ld)\n", what, number);
    abort();
}

/* The next byte of the answers, 0 at their end. */
static unsigned answer(void) {
    return kernel.answers < kernel.end ? *kernel.answers++ : 0;
}

/* --- memory that the kernel reads and writes ------------------------------------------------------------------- */

static void *memory(long address, size_t size) {
    void *p = (void *)(uintptr_t)address;

    if (size > 0 && __asan_region_is_poisoned(p, size) != NULL)
        found("the kernel would touch memory that is not init's", address);
    return p;
}

/* Fill a buffer with `size` bytes from the answers; the kernel may fill all of `room`. */
static long fill(long address, size_t room, size_t size) {
    uint8_t *p = memory(address, room);

    if (size > room)
        size = room;
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)answer();
    return (long)size;
}

static size_t text(long address) {
    return address == 0 ? 0 : strlen((const char *)(uintptr_t)address);
}

static void vector(long address) {
    const long *strings = (const long *)(uintptr_t)address;

    while (*strings != 0)
        text(*strings++);
}

/* --- descriptors ------------------------------------------------------------------------------------------------- */

static int is_open(long fd) {
    return fd >= 0 && fd < (long)MAX_FD && (kernel.open[fd / 64] >> (fd % 64) & 1) != 0;
}

static void set_open(long fd, int on) {
    if (on)
        kernel.open[fd / 64] |= UINT64_C(1) << (fd % 64);
    else
        kernel.open[fd / 64] &= ~(UINT64_C(1) << (fd % 64));
}

static long new_fd(void) {
    for (long fd = kernel.lowest; fd < (long)MAX_FD; fd++)
        if (!is_open(fd)) {
            set_open(fd, 1);
            return fd;
        }
    return -EMFILE;
}

static long close_many(unsigned long first, unsigned long last, long flags) {
    if (last >= MAX_FD)
        last = MAX_FD - 1;
    for (unsigned long fd = first; flags == 0 && fd <= last; fd++) {
        if (kernel.open[fd / 64] == 0)
            fd |= 63;
        else
            set_open((long)fd, 0);
    }
    return 0;
}

/* --- what calls say ---------------------------------------------------------------------------------------------- */

static long about_file(long fd, long address) {
    static const unsigned types[] = {0040000, 0100000, 0120000, 0020000, 0060000, 0010000, 0140000, 0};
    struct statx *out = memory(address, sizeof(*out));
    unsigned kind = answer();

    memset(out, 0xa5, sizeof(*out));
    if (!kernel.running && is_open(fd)) {
        out->stx_size = kernel.plan_size;
        return 0;
    }
    out->stx_mode = (uint16_t)(types[kind % 8] | 0755);
    out->stx_mnt_id = kind / 8 % 4;
    out->stx_uid = kind / 32;
    out->stx_attributes = kind % 3 == 0 ? STATX_ATTR_MOUNT_ROOT : 0;
    out->stx_rdev_major = kind % 8 == 3 ? (kind & 0x80 ? 5 : 1) : answer();
    out->stx_rdev_minor = kind % 8 == 3 ? (kind & 0x80 ? 2 : 3) : answer();
    return 0;
}

static long about_file_system(long address) {
    static const uint32_t magic[] = {PROC_SUPER_MAGIC, DEVPTS_SUPER_MAGIC, TMPFS_MAGIC, 0};
    long *out = memory(address, 120);

    memset(out, 0xa5, 120);
    out[0] = magic[answer() % 4];
    return 0;
}

/* Entries as getdents64(2) has them: whole, aligned, each with a NUL. */
static long entries(long address, size_t room) {
    char *out = memory(address, room);
    size_t at = 0;

    for (unsigned count = answer() % 4; count > 0; count--) {
        size_t length = 1 + answer() % 255, size = (19 + length + 1 + 7) & ~(size_t)7;
        if (at + size > room)
            break;
        memset(out + at, 0, size);
        for (size_t i = 0; i < length; i++)
            out[at + 19 + i] = (char)(answer() | 1);
        out[at + 16] = (char)size;
        out[at + 17] = (char)(size >> 8);
        at += size;
    }
    return (long)at;
}

/* The runtime's answer: what was asked for, or anything else. */
static long receive(long address) {
    const struct sys_msghdr *msg = memory(address, sizeof(*msg));
    const struct sys_iovec *part = memory((long)(uintptr_t)msg->iov, sizeof(*part));
    struct plan_msg *out = memory((long)(uintptr_t)part->base, part->len);
    unsigned how = answer();

    if (msg->iovlen != 1 || msg->control != NULL)
        found("init takes more than a message", (long)msg->iovlen);
    if (how % 4 != 0) /* a lie, cut short or with more behind it, which the kernel drops */
        return fill((long)(uintptr_t)out, part->len, how / 4);
    *out = (struct plan_msg){MSG_GO, UINT32_MAX, 0, kernel.said.value};
    if (kernel.said.type != MSG_SYNC)
        out->value = TAG_START;
    return sizeof(*out);
}

static long send(long address) {
    const struct sys_msghdr *msg = memory(address, sizeof(*msg));
    const struct sys_iovec *parts = memory((long)(uintptr_t)msg->iov, msg->iovlen * sizeof(*parts));
    const struct sys_cmsg_fd *control = msg->control;
    size_t total = 0;

    for (size_t i = 0; i < msg->iovlen; i++) {
        memory((long)(uintptr_t)parts[i].base, parts[i].len);
        total += parts[i].len;
    }
    memcpy(&kernel.said, parts[0].base, sizeof(kernel.said));
    if (total > sizeof(struct plan_msg) + MSG_TEXT_MAX)
        found("a message is too long", (long)total);
    if (control != NULL) {
        memory((long)(uintptr_t)control, msg->controllen);
        if (!is_open(control->fd))
            found("a message carries what is not open", control->fd);
    }
    return (long)total;
}

static long map(long size, long fd) {
    void *area;

    if (!kernel.running && is_open(fd))
        return (long)(uintptr_t)kernel.plan;
    area = kernel.area_count < AREAS ? malloc((size_t)size) : NULL;
    if (area == NULL)
        return -ENOMEM;
    kernel.areas[kernel.area_count++] = area;
    return (long)(uintptr_t)area;
}

static void control_terminal(unsigned long request, long argument) {
    if (request == SIOCGIFFLAGS || request == SIOCSIFFLAGS)
        memory(argument, 40);
    else if (request == TIOCSWINSZ)
        memory(argument, 8);
    else if (request == TIOCSPTLCK)
        memory(argument, 4);
}

/* A plan's own call: its numbers may be anything; what points into the plan is a string or bytes with a NUL behind. */
static void use_pointers(const long *args) {
    for (int i = 0; i < 6; i++) {
        uintptr_t p = (uintptr_t)args[i];
        if (p >= (uintptr_t)kernel.plan && p < (uintptr_t)kernel.plan + kernel.plan_size)
            text(args[i]);
    }
}

/* The calls that come before the check of the plan, and those that say how it went. */
static int is_harmless(long nr, long a, long b) {
    switch (nr) {
    case __NR_prctl:
        return a == 4 /* PR_SET_DUMPABLE */ && b == 0;
    case __NR_rt_sigaction:
    case __NR_rt_sigprocmask:
    case __NR_umask:
    case __NR_geteuid:
    case __NR_sendmsg:
    case __NR_exit_group:
    case __NR_mmap:
    case __NR_statx:
        return 1;
    case __NR_fcntl:
        return b == F_GET_SEALS;
    default:
        return 0;
    }
}

static long carry_out(long nr, const long *args) {
    long a = args[0], b = args[1], c = args[2], d = args[3], e = args[4];

    switch (nr) {
    case __NR_open_tree:
    case __NR_openat:
    case __NR_openat2:
        text(b);
        if (nr == __NR_openat2)
            memory(c, (size_t)d);
        return new_fd();
    case __NR_fsopen:
        text(a);
        return new_fd();
    case __NR_accept4:
    case __NR_fsmount:
    case __NR_socket:
        return new_fd();
    case __NR_ioctl:
        control_terminal((unsigned long)b, c);
        return b == 0x5441 /* TIOCGPTPEER */ ? new_fd() : 0;
    case __NR_dup3:
        set_open(b, 1);
        return b;
    case __NR_close_range:
        return close_many((unsigned long)a, (unsigned long)b, c);
    case __NR_statx:
        text(b);
        return about_file(a, e);
    case __NR_fstatfs:
        return about_file_system(b);
    case __NR_fcntl:
        return b == F_GET_SEALS ? F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL : (long)(answer() % 3);
    case __NR_mmap:
        return map(b, e);
    case __NR_read:
        return fill(b, (size_t)c, answer() * (answer() % 24));
    case __NR_write:
        memory(b, (size_t)c);
        return answer() % 8 == 0 ? c : c / 2;
    case __NR_sendfile:
        return answer();
    case __NR_readlinkat:
        text(b);
        return fill(c, (size_t)d, 1 + answer() * (answer() % 18));
    case __NR_getcwd:
        memory(a, (size_t)b);
        memcpy((char *)(uintptr_t)a, answer() % 4 == 0 ? "/" : "(", 2);
        return 2;
    case __NR_getdents64:
        return entries(b, (size_t)c);
    case __NR_recvmsg:
        return receive(b);
    case __NR_sendmsg:
        return send(b);
    case __NR_clone:
        return answer() % 4 == 0 ? 0 : 7;
    case __NR_mkdirat:
    case __NR_mknodat:
    case __NR_faccessat2:
    case __NR_fchownat:
        text(b);
        return 0;
    case __NR_symlinkat:
        text(a);
        text(c);
        return 0;
    case __NR_utimensat:
        memory(c, 32);
        return 0;
    case __NR_chdir:
    case __NR_chroot:
    case __NR_umount2:
        text(a);
        return 0;
    case __NR_pivot_root:
        text(a);
        text(b);
        return 0;
    case __NR_mount:
        text(a);
        text(b);
        text(c);
        return 0;
    case __NR_move_mount:
        text(b);
        text(d);
        return 0;
    case __NR_mount_setattr:
        text(b);
        memory(d, (size_t)e);
        return 0;
    case __NR_fsconfig:
        text(c);
        text(d);
        return 0;
    case __NR_setgroups:
        memory(b, (size_t)a * 4);
        return 0;
    case __NR_capset:
        memory(a, sizeof(struct __user_cap_header_struct));
        memory(b, 2 * sizeof(struct __user_cap_data_struct));
        return 0;
    case __NR_seccomp: {
        const struct sock_fprog *program = memory(c, sizeof(*program));
        memory((long)(uintptr_t)program->filter, program->len * sizeof(struct sock_filter));
        return (b & 8 /* NEW_LISTENER */) != 0 ? new_fd() : 0;
    }
    case __NR_sched_yield: /* of the thread that waits for the listener of the other */
        fuzz_listener(answer() % 4 == 0 ? (int)new_fd() : 0);
        return 0;
    default:
        return 0;
    }
}

long fuzz_call(long nr, long a, long b, long c, long d, long e, long f) {
    static const unsigned char errors[] = {ENOENT, EACCES, EPERM,   EINVAL, EEXIST, EAGAIN, EINTR, ENOSYS,
                                           ELOOP,  EROFS,  ENOTDIR, ENOSPC, ENOMEM, EXDEV,  EBUSY};
    const long args[6] = {a, b, c, d, e, f};
    const struct plan_op *op = fuzz_operation();
    unsigned how;

    if (!kernel.accepted && !is_harmless(nr, a, b))
        found("a plan that is refused makes system call", nr);
    if (nr == __NR_exit_group || nr == __NR_ppoll || ++kernel.calls > MAX_CALLS)
        longjmp(over, 1);
    if (nr == __NR_close) {
        if (!is_open(a))
            found("a descriptor is closed that is not open", a);
        set_open(a, 0);
        kernel.running = 1; /* that of the plan is the first */
        return 0;
    }
    if (nr == __NR_rt_sigaction || nr == __NR_rt_sigprocmask || nr == __NR_umask) /* nobody looks at the answer */
        return 0;
    how = answer();
    if (how > 0 && how <= sizeof(errors))
        return -(long)errors[how - 1];
    if (op != NULL && op->code == OP_SYSCALL && nr == (long)op->arg[0]) {
        use_pointers(args);
        return 0;
    }
    if (nr == __NR_execve) {
        text(a);
        vector(b);
        vector(c);
        longjmp(over, 1);
    }
    return carry_out(nr, args);
}

/* The thread with the filter, or the one that waits for it. */
long fuzz_clone(long nr, long a, long b, long c, void (*run)(void *), void *argument) {
    (void)c;
    if (!kernel.accepted)
        found("a plan that is refused makes system call", nr);
    memory(a, (size_t)b);
    switch (answer() % 4) {
    case 0:
        run(argument);
        found("the thread with the filter returns", 0);
    case 1:
        return -EPERM;
    default:
        return 7;
    }
}

void fuzz_relax(void) {
    fuzz_listener_was_sent();
}

/* --- one input ----------------------------------------------------------------------------------------------------- */

static void start(unsigned first_fd) {
    char number[8];
    /* as the kernel leaves it: argc, argv, NULL, an empty environment, the auxiliary vector */
    long stack[6] = {2, (long)(uintptr_t) "init", (long)(uintptr_t)number, 0, 0, 0};

    snprintf(number, sizeof(number), "%u", first_fd);
    if (setjmp(over) == 0)
        start_c(stack);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    struct plan_header head = {.fd_count = 2, .first_fd = 3};
    struct plan_fault fault = {0};
    size_t plan_size = length_of_plan(bytes, size);
    uint8_t *plan = malloc(plan_size > 0 ? plan_size : 1); /* aligned, and ends where the plan ends */

    if (plan == NULL)
        return 0;
    memcpy(plan, bytes, plan_size);
    if (plan_size >= sizeof(head))
        memcpy(&head, plan, sizeof(head));
    if (head.first_fd < 3)
        head.first_fd = 3;
    memset(&kernel, 0, sizeof(kernel));
    kernel.answers = bytes + plan_size;
    kernel.end = bytes + size;
    kernel.plan = plan;
    kernel.plan_size = plan_size;
    kernel.accepted = check_plan(plan, plan_size, &fault) == 0;
    for (unsigned fd = 0; fd < head.first_fd + 2u + head.fd_count && fd < MAX_FD; fd++)
        set_open(fd, 1);
    kernel.lowest = head.first_fd;
    fuzz_reset(memset);
    start(head.first_fd);
    for (unsigned i = 0; i < kernel.area_count; i++)
        free(kernel.areas[i]);
    free(plan);
    return 0;
}
