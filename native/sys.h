/* sys.h: system calls without a libc, on x86_64 and aarch64.
 *
 * Used by init, which has no libc, and by the shim, which must not touch libc's errno in a child that shares
 * the parent's memory.  Every call returns the kernel's own result: a value or a negative errno.
 */
#ifndef OCIRUNTIME_SYS_H
#define OCIRUNTIME_SYS_H

#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

static inline long sys_call(long nr, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* clone3 (or clone) whose child starts on a stack of its own with run(arg) and never returns from it. */
static inline long sys_clone_on_stack(long nr, long a, long b, long c, void (*run)(void *), void *arg) {
    register long r8 __asm__("r8") = (long)run;
    register long r9 __asm__("r9") = (long)arg;
    register long r10 __asm__("r10") = 0;
    long result;
    __asm__ volatile("syscall\n\t"
                     "test %%eax, %%eax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "and $-16, %%rsp\n\t"
                     "mov %%r9, %%rdi\n\t"
                     "call *%%r8\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r8), "r"(r9), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

static inline void cpu_relax(void) {
    __asm__ volatile("pause" ::: "memory");
}

#elif defined(__aarch64__)

static inline long sys_call(long nr, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}

static inline long sys_clone_on_stack(long nr, long a, long b, long c, void (*run)(void *), void *arg) {
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    register long x10 __asm__("x10") = (long)run;
    register long x11 __asm__("x11") = (long)arg;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x30, xzr\n\t"
                     "mov x0, x11\n\t"
                     "blr x10\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x10), "r"(x11)
                     : "memory");
    return x0;
}

static inline void cpu_relax(void) {
    __asm__ volatile("yield" ::: "memory");
}

#else
#error "only x86_64 and aarch64 are supported"
#endif

/* SYS(number, up to six arguments of any scalar type) */
#define SYS(...) SYS_PICK(__VA_ARGS__, 6, 5, 4, 3, 2, 1, 0)(__VA_ARGS__)
#define SYS_PICK(n, a, b, c, d, e, f, count, ...) SYS_##count
#define SYS_0(n) sys_call(n, 0, 0, 0, 0, 0, 0)
#define SYS_1(n, a) sys_call(n, (long)(a), 0, 0, 0, 0, 0)
#define SYS_2(n, a, b) sys_call(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS_3(n, a, b, c) sys_call(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS_4(n, a, b, c, d) sys_call(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS_5(n, a, b, c, d, e) sys_call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SYS_6(n, a, b, c, d, e, f) sys_call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* What the headers of older distributions lack; the numbers are common to all architectures. */
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef AT_EACCESS
#define AT_EACCESS 0x200
#endif

/* struct msghdr and its control messages as the kernel has them (its headers give them to itself only). */
struct sys_msghdr {
    void *name;
    int namelen;
    void *iov;
    size_t iovlen;
    void *control;
    size_t controllen;
    unsigned int flags;
};
struct sys_iovec {
    void *base;
    size_t len;
};
struct sys_cmsg_fd {
    size_t len;
    int level;
    int type;
    int fd;
};

#define SYS_SOL_SOCKET 1
#define SYS_SCM_RIGHTS 1
#define SYS_MSG_NOSIGNAL 0x4000
#define SYS_MSG_TRUNC 0x20
#define SYS_SIGCHLD 17
#define SYS_POLLIN 1
#define SYS_AF_INET 2
#define SYS_SOCK_DGRAM 2
#define SYS_SOCK_CLOEXEC 02000000

#endif
