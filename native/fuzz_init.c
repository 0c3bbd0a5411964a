/* fuzz_init.c: all of init in one file, with the door to the kernel replaced by the one in fuzz_kernel.c.
 *
 * Freestanding, as init is: the headers of a libc would hide constants of the kernel's.
 */
#define sys_call sys_call_of_the_kernel
#define sys_clone_on_stack sys_clone_of_the_kernel
#define cpu_relax cpu_relax_of_the_processor
#include "sys.h"
#undef sys_call
#undef sys_clone_on_stack
#undef cpu_relax
#include "fuzz.h"
#define sys_call fuzz_call
#define sys_clone_on_stack fuzz_clone
#define cpu_relax fuzz_relax

/* init's own few functions of a libc must not take the place of the real ones, nor its _start that of the program. */
#define memcpy init_memcpy
#define memset init_memset
#define memcmp init_memcmp
#define __stack_chk_guard init_stack_chk_guard
#define __stack_chk_fail init_stack_chk_fail
#define __asm__(text) _Static_assert(1, "")
#include "main.c"
#undef __asm__
#include "check.c"
#include "copy.c"
#include "exec.c"
#include "mount.c"
#include "path.c"
#include "process.c"
#include "stdio.c"

void fuzz_reset(void *(*clear)(void *, int, size_t)) {
    clear(&m, 0, sizeof(m));
    clear(&load, 0, sizeof(load));
}

void fuzz_listener(int fd) {
    load.listener = fd;
}

void fuzz_listener_was_sent(void) {
    load.sent = 1;
}

const struct plan_op *fuzz_operation(void) {
    return m.ops == NULL || m.at >= m.head->op_count ? NULL : &m.ops[m.at];
}
