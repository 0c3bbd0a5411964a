/* Dispatch of the test program's verbs. */
#include "testprog.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct verb *const tables[] = {
    file_verbs, process_verbs, identity_verbs, device_verbs, network_verbs, attack_verbs,
};

const char *errno_name(int err) {
    static char unknown[16];
    const char *name = strerrorname_np(err);

    if (name)
        return name;
    snprintf(unknown, sizeof unknown, "E%d", err);
    return unknown;
}

int fail(const char *verb, const char *what) {
    int err = errno;

    fflush(stdout);
    fprintf(stderr, "%s: %s: %s\n", verb, what, errno_name(err));
    return 1;
}

long long number(int argc, char **argv, int index, long long fallback) {
    return index < argc ? strtoll(argv[index], NULL, 0) : fallback;
}

static const struct verb *find(const char *name) {
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct verb *v = tables[t]; v->name; v++)
            if (!strcmp(v->name, name))
                return v;
    return NULL;
}

static int usage(void) {
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct verb *v = tables[t]; v->name; v++)
            printf("%s %s\n", v->name, v->usage);
    return 2;
}

int run_verbs(int argc, char **argv) {
    int status = 0;

    for (int i = 0; i < argc;) {
        int end = i;

        while (end < argc && strcmp(argv[end], ";"))
            end++;
        if (end > i) {
            const struct verb *v = find(argv[i]);
            int rc;

            if (!v) {
                fprintf(stderr, "unknown verb: %s\n", argv[i]);
                return 125;
            }
            rc = v->run(end - i, argv + i);
            fflush(stdout);
            if (rc)
                status = rc;
        }
        i = end + 1;
    }
    return status;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOFBF, 65536);
    return argc < 2 ? usage() : run_verbs(argc - 1, argv + 1);
}
