/* Verbs about life as a process: output, exit, signals, children, memory. */
#include "testprog.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int do_echo(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        printf("%s%s", i > 1 ? " " : "", argv[i]);
    putchar('\n');
    return 0;
}

static int do_error(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        fprintf(stderr, "%s%s", i > 1 ? " " : "", argv[i]);
    fputc('\n', stderr);
    return 0;
}

static int do_exit(int argc, char **argv) {
    fflush(stdout);
    _exit((int)number(argc, argv, 1, 0));
}

static int do_sleep(int argc, char **argv) {
    if (argc < 2) {
        for (;;)
            pause();
    }
    usleep((useconds_t)(strtod(argv[1], NULL) * 1e6));
    return 0;
}

static int do_env(int argc, char **argv) {
    int rc = 0;

    if (argc == 1)
        for (char **e = environ; *e; e++)
            puts(*e);
    for (int i = 1; i < argc; i++) {
        const char *value = getenv(argv[i]);

        if (value)
            puts(value);
        else
            rc = 1;
    }
    return rc;
}

static int do_stdin(int argc, char **argv) {
    char buf[65536];
    ssize_t n;

    (void)argc;
    while ((n = read(0, buf, sizeof buf)) > 0)
        fwrite(buf, 1, (size_t)n, stdout);
    return n < 0 ? fail(argv[0], "read") : 0;
}

/* kill PID SIGNAL: PID may be "self". */
static int do_kill(int argc, char **argv) {
    pid_t pid;

    if (argc < 3)
        return 2;
    pid = strcmp(argv[1], "self") ? (pid_t)number(argc, argv, 1, 0) : getpid();
    fflush(stdout);
    if (kill(pid, (int)number(argc, argv, 2, 0)))
        return fail(argv[0], argv[1]);
    return 0;
}

/* die SIGNAL: end by a signal even as pid 1 of a namespace is not possible; a child can. */
static int do_child_signal(int argc, char **argv) {
    int status;
    pid_t pid = fork();

    if (pid < 0)
        return fail(argv[0], "fork");
    if (pid == 0) {
        raise((int)number(argc, argv, 1, SIGKILL));
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf("signal %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    return 0;
}

static int do_signals(int argc, char **argv) {
    sigset_t blocked;

    (void)argc;
    (void)argv;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    for (int s = 1; s < 65; s++) {
        struct sigaction action;

        if (sigaction(s, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
            printf("ignored %d\n", s);
        if (sigismember(&blocked, s) == 1)
            printf("blocked %d\n", s);
    }
    puts("end");
    return 0;
}

static volatile sig_atomic_t caught;

static void on_signal(int signal) {
    caught = signal;
}

/* trap SIGNAL...: print "ready", then "caught N" for the first that comes. */
static int do_trap(int argc, char **argv) {
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t all, before;

    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    for (int i = 1; i < argc; i++)
        sigaction((int)number(argc, argv, i, 0), &action, NULL);
    puts("ready");
    fflush(stdout);
    while (!caught)
        sigsuspend(&before);
    sigprocmask(SIG_SETMASK, &before, NULL);
    printf("caught %d\n", (int)caught);
    return 0;
}

/* fork N: start N children that sleep for ever; prints how many could be started. */
static int do_fork(int argc, char **argv) {
    long long wanted = number(argc, argv, 1, 1), made = 0;

    fflush(stdout);
    for (; made < wanted; made++) {
        pid_t pid = fork();

        if (pid < 0) {
            printf("forked %lld %s\n", made, errno_name(errno));
            return 0;
        }
        if (pid == 0)
            for (;;)
                pause();
    }
    printf("forked %lld\n", made);
    return 0;
}

/* spawn VERB...: run the rest in a child and wait for it. */
static int do_spawn(int argc, char **argv) {
    int status;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid < 0)
        return fail(argv[0], "fork");
    if (pid == 0) {
        int rc = run_verbs(argc - 1, argv + 1);

        fflush(stdout);
        _exit(rc);
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) {
        printf("killed %d\n", WTERMSIG(status));
        return 128 + WTERMSIG(status);
    }
    return WEXITSTATUS(status);
}

/* orphan SECONDS: leave a child behind that outlives this process. */
static int do_orphan(int argc, char **argv) {
    fflush(stdout);
    if (fork() == 0) {
        usleep((useconds_t)number(argc, argv, 1, 1) * 1000000U);
        _exit(0);
    }
    return 0;
}

static int do_memhog(int argc, char **argv) {
    size_t size = (size_t)number(argc, argv, 1, 0);
    char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return fail(argv[0], "mmap");
    for (size_t i = 0; i < size; i += 4096)
        p[i] = 1;
    printf("touched %zu\n", size);
    fflush(stdout);
    sleep((unsigned)number(argc, argv, 2, 0));
    return 0;
}

static int do_exec(int argc, char **argv) {
    if (argc < 2)
        return 2;
    fflush(stdout);
    execv(argv[1], argv + 1);
    return fail(argv[0], argv[1]);
}

/* pids: every number in /proc. */
static int do_count_fds(int argc, char **argv) {
    (void)argc;
    (void)argv;
    for (int fd = 0; fd < 4096; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf("%d\n", fd);
    return 0;
}

static int do_pid(int argc, char **argv) {
    (void)argc;
    (void)argv;
    printf("pid=%d ppid=%d pgid=%d sid=%d\n", getpid(), getppid(), getpgrp(), getsid(0));
    return 0;
}

/* fdwrite FD TEXT / fdread FD: use an inherited descriptor. */
static int do_fdwrite(int argc, char **argv) {
    if (argc < 3)
        return 2;
    if (write((int)number(argc, argv, 1, 1), argv[2], strlen(argv[2])) < 0)
        return fail(argv[0], argv[1]);
    return 0;
}

static int do_fdread(int argc, char **argv) {
    char buf[4096];
    ssize_t n = read((int)number(argc, argv, 1, 0), buf, sizeof buf);

    if (n < 0)
        return fail(argv[0], argv[1]);
    printf("%.*s\n", (int)n, buf);
    return 0;
}

const struct verb process_verbs[] = {
    {"echo", do_echo, "TEXT..."},
    {"error", do_error, "TEXT..."},
    {"exit", do_exit, "STATUS"},
    {"sleep", do_sleep, "[SECONDS]"},
    {"env", do_env, "[NAME...]"},
    {"stdin", do_stdin, ""},
    {"kill", do_kill, "PID|self SIGNAL"},
    {"child-signal", do_child_signal, "SIGNAL"},
    {"signals", do_signals, ""},
    {"trap", do_trap, "SIGNAL..."},
    {"fork", do_fork, "COUNT"},
    {"spawn", do_spawn, "VERB..."},
    {"orphan", do_orphan, "SECONDS"},
    {"memhog", do_memhog, "BYTES [SECONDS]"},
    {"exec", do_exec, "PATH ARG..."},
    {"fds", do_count_fds, ""},
    {"pid", do_pid, ""},
    {"fdwrite", do_fdwrite, "FD TEXT"},
    {"fdread", do_fdread, "FD"},
    {NULL, NULL, NULL},
};
