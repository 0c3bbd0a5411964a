/* main.c: init's first instructions, its messages, and the bits of a libc that it needs.
 *
 * Started as `init FIRST_FD` from a sealed memfd with an empty environment (native/shim.c: spawn).
 * Order: not dumpable, signals, umask, descriptors, plan mapped, plan checked, plan run.
 */
#include "check.h"
#include "init.h"

#include <linux/elf.h>
#include <linux/auxvec.h>
#include <linux/mman.h>
#include <asm/stat.h>
#include <linux/stat.h>

struct machine m;

/* The compiler's canary; process start fills it with the kernel's random bytes. */
uintptr_t __stack_chk_guard;
_Noreturn void __stack_chk_fail(void);
_Noreturn void start_c(const long *stack);

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start_c\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x30, xzr\n\tmov x0, sp\n\tbl start_c\n\tbrk #0\n");
#endif

/* --- strings ------------------------------------------------------------------------------------------------- */

size_t length_of(const char *text) {
    size_t n = 0;

    while (text[n] != '\0')
        n++;
    return n;
}

int same_text(const char *a, const char *b) {
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* The empty statements keep the compiler from seeing a call of the function itself in the loop. */
void *memcpy(void *to, const void *from, size_t size) {
    for (size_t i = 0; i < size; i++) {
        ((char *)to)[i] = ((const char *)from)[i];
        __asm__ volatile("");
    }
    return to;
}

void *memset(void *to, int byte, size_t size) {
    for (size_t i = 0; i < size; i++) {
        ((char *)to)[i] = (char)byte;
        __asm__ volatile("");
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t size) {
    const unsigned char *x = a, *y = b;

    for (size_t i = 0; i < size; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

/* --- messages ------------------------------------------------------------------------------------------------ */

/* What is known about a failure beyond its number: a, b and c in a row, cut where they do not fit. */
void detail(const char *a, const char *b, const char *c) {
    const char *parts[3];
    size_t n = 0;

    parts[0] = a;
    parts[1] = b;
    parts[2] = c;
    for (int i = 0; i < 3; i++)
        for (const char *p = parts[i]; p != NULL && *p != '\0' && n < sizeof(m.detail) - 1; p++)
            m.detail[n++] = *p;
    m.detail[n] = '\0';
}

int fail(int error, const char *call, const char *a, const char *b, const char *c) {
    m.call = call;
    detail(a, b, c);
    return -error;
}

_Noreturn void quit(int code) {
    for (;;)
        SYS(__NR_exit_group, code);
}

/* One packet on the channel.  The other side is gone: nobody wants this container any more. */
void send_message(uint32_t type, uint32_t value, int error, int fd) {
    struct plan_msg head = {.type = type, .op = m.at, .error = error, .value = value};
    size_t call = length_of(m.call), more = length_of(m.detail);
    struct sys_iovec parts[3] = {{&head, sizeof(head)}, {(void *)(uintptr_t)m.call, call + 1}, {m.detail, more}};
    struct sys_cmsg_fd control = {.len = sizeof(size_t) + 3 * sizeof(int), .level = SYS_SOL_SOCKET};
    struct sys_msghdr msg = {.iov = parts, .iovlen = type == MSG_ERROR || type == MSG_WARNING ? 3 : 1};

    if (more > MSG_TEXT_MAX - call - 1)
        parts[2].len = MSG_TEXT_MAX - call - 1;
    control.type = SYS_SCM_RIGHTS;
    control.fd = fd;
    if (fd >= 0) {
        msg.control = &control;
        msg.controllen = sizeof(control);
    }
    if (SYS(__NR_sendmsg, m.slots[0], &msg, SYS_MSG_NOSIGNAL) < 0)
        quit(1);
}

void warn(int error) {
    send_message(MSG_WARNING, 0, error, -1);
}

_Noreturn void give_up(int error) {
    send_message(MSG_ERROR, 0, error, -1);
    quit(1);
}

/* Wait for MSG_GO with the tag: 0; 1 at the end of the channel or after anything else; below: -errno. */
int receive_go(uint32_t tag) {
    struct plan_msg answer;
    struct sys_iovec part = {&answer, sizeof(answer)};
    struct sys_msghdr msg = {.iov = &part, .iovlen = 1};
    long n;

    do
        n = CALL(recvmsg, m.slots[0], &msg, 0);
    while (n == -EINTR);
    if (n < 0 && n != -ECONNRESET)
        return (int)n;
    if (n != sizeof(answer) || (msg.flags & SYS_MSG_TRUNC) != 0)
        return 1;
    return answer.type == MSG_GO && answer.value == tag ? 0 : 1;
}

/* --- start --------------------------------------------------------------------------------------------------- */

void __stack_chk_fail(void) {
    __builtin_trap();
}

/* The number in argv[1], -1 when it is none or out of range. */
static int small_number(const char *text) {
    int value = 0;

    if (text == NULL || *text == '\0')
        return -1;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || value > 6553)
            return -1;
        value = value * 10 + (*text - '0');
    }
    return value;
}

/* The plan must not change under the check: only a sealed memfd will do. */
static const void *map_plan(int fd, size_t *size) {
    const long seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    struct statx about;
    long got = CALL(fcntl, fd, F_GET_SEALS), address;

    if (got < 0)
        give_up((int)-got);
    if ((got & seals) != seals) {
        detail("the plan is not sealed", NULL, NULL);
        give_up(EPERM);
    }
    got = CALL(statx, fd, "", AT_EMPTY_PATH, STATX_SIZE, &about);
    if (got < 0)
        give_up((int)-got);
    *size = (size_t)about.stx_size;
    address = CALL(mmap, 0, about.stx_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address < 0 && address > -4096)
        give_up((int)-address);
    return (const void *)address;
}

static void take_plan(void) {
    struct plan_fault fault;
    size_t size;
    const void *bytes = map_plan(m.slots[1], &size);

    if (check_plan(bytes, size, &fault) < 0) {
        m.at = (uint32_t)fault.op;
        m.call = "check_plan";
        detail(fault.op < 0 ? "the plan " : "the operation ", fault.why, NULL);
        if (fault.argument >= 0) {
            char number[2] = {(char)('0' + fault.argument), '\0'};
            detail("argument ", number, " ");
            detail(m.detail, fault.why, NULL);
        }
        give_up(EINVAL);
    }
    close_slot(1);
    m.head = bytes;
    m.ops = (const struct plan_op *)(m.head + 1);
    m.data = (const char *)(m.ops + m.head->op_count);
    if (m.head->first_fd != m.first_fd) {
        m.call = "check_plan";
        detail("the plan is made for other descriptors", NULL, NULL);
        give_up(EINVAL);
    }
}

static void seed_canary(const long *stack) {
    const long *p = stack + 1 + stack[0] + 1;

    while (*p++ != 0) /* the environment */
        ;
    for (; p[0] != AT_NULL; p += 2)
        if (p[0] == AT_RANDOM)
            memcpy(&__stack_chk_guard, (const void *)p[1], sizeof(__stack_chk_guard));
    __stack_chk_guard &= ~(uintptr_t)0xff; /* a NUL stops a string that runs over */
}

__attribute__((no_stack_protector)) _Noreturn void start_c(const long *stack) {
    int first;

    seed_canary(stack);
    first = small_number(stack[0] == 2 ? (const char *)stack[2] : NULL);
    if (first < 3)
        quit(127);
    m.first_fd = (unsigned)first;
    m.at = UINT32_MAX;
    m.call = "";
    for (unsigned i = 0; i < PLAN_MAX_SLOTS; i++)
        m.slots[i] = -1;
    m.slots[0] = first;
    m.slots[1] = first + 1;
    set_dumpable(0);
    reset_signals();
    SYS(__NR_umask, 0);
    m.ordinary = SYS(__NR_geteuid) != 0;
    take_plan();
    for (int i = 2; i < m.head->fd_count; i++)
        m.slots[i] = first + i;
    keep_only(m.first_fd, m.head->fd_count);
    run_from(0);
    quit(0);
}
