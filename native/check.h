/* check.h: the check of a whole plan before its first operation runs. */
#ifndef OCIRUNTIME_CHECK_H
#define OCIRUNTIME_CHECK_H

#include <stddef.h>
#include <stdint.h>

/* Where a plan is broken: op and argument are -1 where the header or the operation as a whole is. */
struct plan_fault {
    int32_t op;
    int32_t argument;
    const char *why;
};

/* 0 when the plan may be run, else -1 and *fault filled.  Reads only bytes[0 .. length - 1]; executes nothing. */
int check_plan(const void *bytes, size_t length, struct plan_fault *fault);

/* The name of a system call that OP_SYSCALL may make, NULL for any other number. */
const char *syscall_name(uint64_t number);

#endif
