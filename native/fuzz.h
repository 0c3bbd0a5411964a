/* fuzz.h: what the parts of the fuzzers of plans share; none of this is in any build that is installed. */
#ifndef OCIRUNTIME_FUZZ_H
#define OCIRUNTIME_FUZZ_H

#include "plan.h"

#include <stddef.h>
#include <stdint.h>

/* fuzz_mutate.c: one change of a plan in `room` bytes; the new size.  `chance` gives numbers below its argument. */
uint64_t chance(uint64_t bound);
size_t mutate_plan(uint8_t *plan, size_t size, size_t room);
/* The length that a plan claims to have by its header, at most `size`. */
size_t length_of_plan(const uint8_t *plan, size_t size);

/* fuzz_kernel.c: what init meets in place of the kernel */
long fuzz_call(long nr, long a, long b, long c, long d, long e, long f);
long fuzz_clone(long nr, long a, long b, long c, void (*run)(void *), void *argument);
void fuzz_relax(void);

/* fuzz_init.c: init */
_Noreturn void start_c(const long *stack);
void fuzz_reset(void *(*clear)(void *, int, size_t)); /* with memset(3), which is faster than init's */
void fuzz_listener(int fd);
void fuzz_listener_was_sent(void);
/* The running operation, NULL before the first. */
const struct plan_op *fuzz_operation(void);

#endif
