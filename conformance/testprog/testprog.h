/* The test program: the only file that most test root file systems hold.
 *
 * Called as `/init VERB ARG... [";" VERB ARG...]`.  Each verb prints plain lines on stdout and
 * returns 0, or prints "VERB: WHAT: ERRNO-NAME" on stderr and returns non-zero; the exit status
 * is that of the last verb that failed.
 */
#ifndef TESTPROG_H
#define TESTPROG_H

#include <stddef.h>

struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *usage;
};

extern const struct verb file_verbs[];
extern const struct verb process_verbs[];
extern const struct verb identity_verbs[];
extern const struct verb device_verbs[];
extern const struct verb network_verbs[];
extern const struct verb attack_verbs[];

/* Report the current errno for `what` on stderr and return 1. */
int fail(const char *verb, const char *what);
/* The symbolic name of an errno ("EPERM"), or "E<number>". */
const char *errno_name(int err);
/* Argument `index` as a number (any C base), or `fallback` when it is not given. */
long long number(int argc, char **argv, int index, long long fallback);
/* Run a list of verbs separated by ";"; the whole command line after argv[0]. */
int run_verbs(int argc, char **argv);

#endif
