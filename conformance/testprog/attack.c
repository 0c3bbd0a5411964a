/* Verbs that a hostile container would use, and single system calls for seccomp tests. */
#include "testprog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* syscall NUMBER [ARG...]: "= RESULT" or the errno's name. */
static int do_syscall(int argc, char **argv) {
    long a[6] = {0}, result;

    if (argc < 2)
        return 2;
    for (int i = 0; i < 6; i++)
        a[i] = (long)strtoull(argc > i + 2 ? argv[i + 2] : "0", NULL, 0);
    fflush(stdout);
    result = syscall((long)number(argc, argv, 1, 0), a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result < 0)
        printf("%s\n", errno_name(errno));
    else
        printf("= %ld\n", result);
    return 0;
}

static int do_ptrace(int argc, char **argv) {
    if (ptrace(PTRACE_SEIZE, (pid_t)number(argc, argv, 1, 1), NULL, NULL))
        return fail(argv[0], "PTRACE_SEIZE");
    puts("ok");
    return 0;
}

/* overwrite FD SECONDS: write to the file of a read-only descriptor as soon as nothing executes it; leaves
 * /overwrite-end at its end. */
static int do_overwrite(int argc, char **argv) {
    time_t end = time(NULL) + (time_t)number(argc, argv, 2, 2);
    char path[64], name[PATH_MAX] = "";
    int fd, rc = 0;

    snprintf(path, sizeof path, "/proc/self/fd/%d", (int)number(argc, argv, 1, 9));
    if (readlink(path, name, sizeof name - 1) < 0)
        return fail(argv[0], path);
    printf("overwriting %s\n", name);
    fflush(stdout);
    // Who called may still execute the file: go on when it has ended.
    if (getpid() != 1 && fork())
        return 0;
    while (time(NULL) < end && !rc) {
        fd = open(path, O_WRONLY | O_CLOEXEC);
        // A sealed memory file may be opened for writing, but not written.
        if (fd >= 0 && pwrite(fd, "", 1, 0) == 1)
            rc = printf("WRITTEN %s\n", name) > 0;
        if (fd >= 0)
            close(fd);
        usleep(1000);
    }
    close(creat("/overwrite-end", 0600));
    return rc;
}

struct hunt {
    char self[PATH_MAX];
    int trace;
    unsigned long looks, hidden; /* foreign processes looked at; of these, whose program was not to be seen */
};

/* The name of a process's program: "" when it has gone, "?" when it is hidden. */
static void program_of(const char *pid, char *target, size_t size) {
    char path[NAME_MAX + 16];
    ssize_t n;

    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    n = readlink(path, target, size - 1);
    if (n < 0)
        snprintf(target, size, "%s", errno == EACCES || errno == EPERM ? "?" : "");
    else
        target[n] = '\0';
}

/* Tell of a success, unless the process has become this program meanwhile: then it was no secret. */
static void told(const struct hunt *hunt, const char *pid, const char *what, const char *more) {
    char now[PATH_MAX];

    program_of(pid, now, sizeof now);
    if (*now && strcmp(now, hunt->self))
        printf("%s %s\n", what, more);
}

/* Open a file again, for writing, by its descriptor. */
static void write_again(const char *target, int fd) {
    char again[64];
    int writable;

    snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
    writable = open(again, O_WRONLY | O_CLOEXEC);
    // A sealed memory file may be opened for writing, but not written or cut.
    if (writable >= 0 && pwrite(writable, "", 1, 0) < 0 && ftruncate(writable, 0) < 0) {
        close(writable);
        writable = -1;
    }
    printf("write-exe %s %s\n", target, writable < 0 ? errno_name(errno) : "WRITTEN");
    if (writable >= 0)
        close(writable);
}

/* Open every descriptor of a process, by name and by pidfd_getfd(2). */
static void take_descriptors(const struct hunt *hunt, const char *pid, const char *target) {
    char path[NAME_MAX + 32];
    struct dirent *entry;
    DIR *fds;
    int pidfd;

    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    fds = opendir(path);
    if (fds) {
        // Names are no secret to who has the user of the process; what they lead to is.
        while ((entry = readdir(fds))) {
            int fd = entry->d_name[0] == '.' ? -1 : openat(dirfd(fds), entry->d_name, O_RDONLY | O_NONBLOCK);

            if (fd >= 0) {
                told(hunt, pid, "opened-fd", target);
                close(fd);
            }
        }
        closedir(fds);
    }
    pidfd = (int)syscall(SYS_pidfd_open, atoi(pid), 0);
    for (int number = 0; pidfd >= 0 && number < 16; number++) {
        int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

        if (fd >= 0) {
            told(hunt, pid, "took-fd", target);
            close(fd);
        }
    }
    if (pidfd >= 0)
        close(pidfd);
}

/* Look at one foreign process the way an attacker would. */
static void probe(const char *pid, struct hunt *hunt) {
    static const char *const doors[] = {"mem", "root", "cwd", "maps", "environ", "ns/mnt"};
    char path[NAME_MAX + 32], target[PATH_MAX];
    int fd;

    program_of(pid, target, sizeof target);
    if (!*target || !strcmp(target, hunt->self))
        return;
    hunt->looks++;
    if (!strcmp(target, "?"))
        hunt->hidden++;
    else
        printf("exe %s %s\n", pid, target);
    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        told(hunt, pid, "opened-exe", target);
        if (strcmp(target, "?"))
            write_again(target, fd);
        close(fd);
    }
    take_descriptors(hunt, pid, target);
    for (size_t i = 0; i < sizeof doors / sizeof *doors; i++) {
        char what[32];

        snprintf(path, sizeof path, "/proc/%s/%s", pid, doors[i]);
        snprintf(what, sizeof what, "opened-%s", doors[i]);
        fd = open(path, (i ? O_RDONLY : O_RDWR) | O_CLOEXEC);
        if (fd >= 0) {
            // Some may be opened, and then have nothing to say.
            if ((strcmp(doors[i], "environ") && strcmp(doors[i], "maps")) || read(fd, path, 1) == 1)
                told(hunt, pid, what, target);
            close(fd);
        }
    }
    if (hunt->trace && ptrace(PTRACE_SEIZE, (pid_t)atoi(pid), NULL, NULL) == 0) {
        told(hunt, pid, "traced", target);
        // Let go on: a traced process is not reaped by its parent.
        ptrace(PTRACE_INTERRUPT, (pid_t)atoi(pid), NULL, NULL);
        waitpid((pid_t)atoi(pid), NULL, __WALL);
        ptrace(PTRACE_DETACH, (pid_t)atoi(pid), NULL, NULL);
    }
}

/* hunt SECONDS [look]: watch /proc for processes that are not this program and try to get into them. */
static int do_hunt(int argc, char **argv) {
    time_t end = time(NULL) + (time_t)number(argc, argv, 1, 5);
    struct hunt hunt = {.trace = argc < 3 || strcmp(argv[2], "look")};

    if (readlink("/proc/self/exe", hunt.self, sizeof hunt.self - 1) < 0)
        return fail(argv[0], "/proc/self/exe");
    puts("hunting");
    fflush(stdout);
    while (time(NULL) < end && access("/stop-hunt", F_OK)) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;

        if (!proc)
            return fail(argv[0], "/proc");
        while ((entry = readdir(proc)))
            if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && atoi(entry->d_name) != getpid())
                probe(entry->d_name, &hunt);
        closedir(proc);
        fflush(stdout);
    }
    printf("looked %lu hidden %lu\n", hunt.looks, hunt.hidden);
    puts("end");
    return 0;
}

/* flip A B SECONDS: exchange two names in a loop (the race of CVE-2021-30465). */
static int do_flip(int argc, char **argv) {
    time_t end = time(NULL) + (time_t)number(argc, argv, 3, 5);
    unsigned long long count = 0, failed = 0;

    if (argc < 3)
        return 2;
    while (count % 1024 || time(NULL) < end) {
        // A name that is being mounted on can be busy, or not be found, for a moment.
        int done = syscall(SYS_renameat2, AT_FDCWD, argv[1], AT_FDCWD, argv[2], 2 /* EXCHANGE */) == 0;

        failed = done ? 0 : failed + 1;
        if (failed > 1000000)
            return fail(argv[0], argv[1]);
        count++;
    }
    printf("flipped %llu\n", count);
    return 0;
}

/* fd-escape: try to leave the root through every descriptor. */
static int do_fd_escape(int argc, char **argv) {
    (void)argc;
    (void)argv;
    for (int fd = 0; fd < 1024; fd++) {
        int up = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

        if (up >= 0) {
            printf("escaped %d\n", fd);
            close(up);
        }
    }
    puts("end");
    return 0;
}

const struct verb attack_verbs[] = {
    {"syscall", do_syscall, "NUMBER [ARG...]"},
    {"ptrace", do_ptrace, "PID"},
    {"hunt", do_hunt, "SECONDS [look]"},
    {"flip", do_flip, "A B SECONDS"},
    {"fd-escape", do_fd_escape, ""},
    {"overwrite", do_overwrite, "FD SECONDS"},
    {NULL, NULL, NULL},
};
