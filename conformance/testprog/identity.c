/* Verbs about who and where the process is: ids, capabilities, limits, namespaces, clocks. */
#include "testprog.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static int do_id(int argc, char **argv) {
    uid_t r, e, s;
    gid_t gr, ge, gs, groups[1024];
    int n = getgroups(1024, groups);

    (void)argc;
    (void)argv;
    getresuid(&r, &e, &s);
    getresgid(&gr, &ge, &gs);
    printf("uid=%u,%u,%u gid=%u,%u,%u groups=", r, e, s, gr, ge, gs);
    for (int i = 0; i < n; i++)
        printf("%s%u", i ? "," : "", groups[i]);
    putchar('\n');
    return 0;
}

/* caps: the five sets as hexadecimal, without procfs. */
static int do_caps(int argc, char **argv) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {0};
    unsigned long long bounding = 0, ambient = 0;

    (void)argc;
    if (syscall(SYS_capget, &header, d))
        return fail(argv[0], "capget");
    for (unsigned long cap = 0; cap < 64; cap++) {
        if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
            bounding |= 1ULL << cap;
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1)
            ambient |= 1ULL << cap;
    }
    printf("effective=%llx permitted=%llx inheritable=%llx bounding=%llx ambient=%llx\n",
           (unsigned long long)d[1].effective << 32 | d[0].effective,
           (unsigned long long)d[1].permitted << 32 | d[0].permitted,
           (unsigned long long)d[1].inheritable << 32 | d[0].inheritable, bounding, ambient);
    return 0;
}

static int do_flags(int argc, char **argv) {
    mode_t mask = umask(0);

    (void)argc;
    (void)argv;
    umask(mask);
    printf("nnp=%d dumpable=%d seccomp=%d umask=%04o keepcaps=%d securebits=%d pdeathsig=",
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_DUMPABLE), prctl(PR_GET_SECCOMP), mask,
           prctl(PR_GET_KEEPCAPS), prctl(PR_GET_SECUREBITS));
    int signal = 0;
    prctl(PR_GET_PDEATHSIG, &signal);
    printf("%d subreaper=", signal);
    int subreaper = 0;
    prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    printf("%d timerslack=%d\n", subreaper, prctl(PR_GET_TIMERSLACK));
    return 0;
}

static const char *const limit_names[RLIM_NLIMITS] = {
    "CPU",     "FSIZE", "DATA",  "STACK",      "CORE",     "RSS",  "NPROC",  "NOFILE",
    "MEMLOCK", "AS",    "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
};

static int do_rlimits(int argc, char **argv) {
    (void)argc;
    (void)argv;
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit limit;

        if (getrlimit((__rlimit_resource_t)i, &limit) == 0)
            printf("RLIMIT_%s %lld %lld\n", limit_names[i], (long long)limit.rlim_cur, (long long)limit.rlim_max);
    }
    return 0;
}

struct attributes {
    unsigned size, policy;
    unsigned long long flags;
    int nice;
    unsigned priority;
    unsigned long long runtime, deadline, period;
};

static int do_sched(int argc, char **argv) {
    struct attributes a = {.size = sizeof a};
    cpu_set_t set;

    (void)argc;
    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0))
        return fail(argv[0], "sched_getattr");
    printf("policy=%u flags=%llu nice=%d priority=%u runtime=%llu deadline=%llu period=%llu cpus=", a.policy, a.flags,
           a.nice, a.priority, a.runtime, a.deadline, a.period);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int cpu = 0, first = 1; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &set)) {
                printf("%s%d", first ? "" : ",", cpu);
                first = 0;
            }
    putchar('\n');
    return 0;
}

static int do_ioprio(int argc, char **argv) {
    long value = syscall(SYS_ioprio_get, 1, 0);

    (void)argc;
    if (value < 0)
        return fail(argv[0], "ioprio_get");
    printf("class=%ld level=%ld\n", value >> 13, value & 7);
    return 0;
}

static int do_personality(int argc, char **argv) {
    struct utsname name;

    (void)argc;
    (void)argv;
    uname(&name);
    printf("%#x %s\n", (unsigned)personality(0xffffffff), name.machine);
    return 0;
}

static int do_uname(int argc, char **argv) {
    struct utsname name;

    (void)argc;
    (void)argv;
    uname(&name);
    printf("hostname=%s domainname=%s\n", name.nodename, name.domainname);
    return 0;
}

/* keyring: serial and description of the session keyring. */
static int do_keyring(int argc, char **argv) {
    char text[256] = "";
    long serial = syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3 /* session */, 0);

    (void)argc;
    if (serial < 0)
        return fail(argv[0], "keyctl");
    if (syscall(SYS_keyctl, 6 /* DESCRIBE */, serial, text, sizeof text - 1) < 0)
        return fail(argv[0], "describe");
    printf("%ld %s\n", serial, text);
    return 0;
}

/* keylabel: the security label of the session keyring. */
static int do_keylabel(int argc, char **argv) {
    char text[256] = "";

    (void)argc;
    if (syscall(SYS_keyctl, 17 /* GET_SECURITY */, -3 /* session */, text, sizeof text - 1) < 0)
        return fail(argv[0], "keyctl");
    printf("%s\n", text);
    return 0;
}

static const char *const namespaces[] = {
    "cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts",
};

static int do_ns(int argc, char **argv) {
    int rc = 0;

    (void)argc;
    for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++) {
        char path[64], target[64];
        ssize_t n;

        snprintf(path, sizeof path, "/proc/self/ns/%s", namespaces[i]);
        n = readlink(path, target, sizeof target);
        if (n < 0)
            rc |= fail(argv[0], path);
        else
            printf("%.*s\n", (int)n, target);
    }
    return rc;
}

static int do_clocks(int argc, char **argv) {
    struct timespec monotonic, boot;

    (void)argc;
    (void)argv;
    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    printf("monotonic=%lld boottime=%lld\n", (long long)monotonic.tv_sec, (long long)boot.tv_sec);
    return 0;
}

/* setuid UID GID: give up root for the verbs that follow. */
static int do_setuid(int argc, char **argv) {
    if (setgroups(0, NULL) || setgid((gid_t)number(argc, argv, 2, 65534)) ||
        setuid((uid_t)number(argc, argv, 1, 65534)))
        return fail(argv[0], "setuid");
    return 0;
}

const struct verb identity_verbs[] = {
    {"id", do_id, ""},
    {"caps", do_caps, ""},
    {"flags", do_flags, ""},
    {"rlimits", do_rlimits, ""},
    {"sched", do_sched, ""},
    {"ioprio", do_ioprio, ""},
    {"personality", do_personality, ""},
    {"uname", do_uname, ""},
    {"keyring", do_keyring, ""},
    {"keylabel", do_keylabel, ""},
    {"ns", do_ns, ""},
    {"clocks", do_clocks, ""},
    {"setuid", do_setuid, "UID GID"},
    {NULL, NULL, NULL},
};
