/* Verbs about devices and terminals. */
#include "testprog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

/* mknod PATH b|c|p MAJOR MINOR */
static int do_mknod(int argc, char **argv) {
    mode_t type;

    if (argc < 3)
        return 2;
    type = *argv[2] == 'b' ? S_IFBLK : *argv[2] == 'c' ? S_IFCHR : S_IFIFO;
    if (mknod(argv[1], type | 0666, makedev((unsigned)number(argc, argv, 3, 0), (unsigned)number(argc, argv, 4, 0))))
        return fail(argv[0], argv[1]);
    puts("ok");
    return 0;
}

static int do_tty(int argc, char **argv) {
    (void)argc;
    (void)argv;
    for (int fd = 0; fd < 3; fd++) {
        char name[256];
        struct stat st = {0};

        fstat(fd, &st);
        printf("%d %s rdev=%u:%u\n", fd, isatty(fd) ? (ttyname_r(fd, name, sizeof name) ? "tty" : name) : "none",
               major(st.st_rdev), minor(st.st_rdev));
    }
    return 0;
}

static int do_winsize(int argc, char **argv) {
    struct winsize size;

    (void)argc;
    if (ioctl(0, TIOCGWINSZ, &size))
        return fail(argv[0], "TIOCGWINSZ");
    printf("rows=%d columns=%d\n", size.ws_row, size.ws_col);
    return 0;
}

/* wait-winsize ROWS COLUMNS: until the terminal has that size, at most ten seconds. */
static int do_wait_winsize(int argc, char **argv) {
    struct winsize size = {0};

    for (int i = 0; i < 500; i++) {
        ioctl(0, TIOCGWINSZ, &size);
        if (size.ws_row == number(argc, argv, 1, 0) && size.ws_col == number(argc, argv, 2, 0))
            break;
        usleep(20000);
    }
    return do_winsize(argc, argv);
}

/* ctty: is there a controlling terminal, and is this its foreground group? */
static int do_ctty(int argc, char **argv) {
    int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);

    (void)argc;
    if (fd < 0)
        return fail(argv[0], "/dev/tty");
    printf("foreground=%d\n", tcgetpgrp(fd) == getpgrp());
    close(fd);
    return 0;
}

/* push-input TEXT: TIOCSTI, the old way to type into the terminal of somebody else. */
static int do_push_input(int argc, char **argv) {
    for (const char *p = argc > 1 ? argv[1] : ""; *p; p++)
        if (ioctl(0, TIOCSTI, p))
            return fail(argv[0], "TIOCSTI");
    return 0;
}

const struct verb device_verbs[] = {
    {"mknod", do_mknod, "PATH b|c|p MAJOR MINOR"},
    {"tty", do_tty, ""},
    {"winsize", do_winsize, ""},
    {"wait-winsize", do_wait_winsize, "ROWS COLUMNS"},
    {"ctty", do_ctty, ""},
    {"push-input", do_push_input, "TEXT"},
    {NULL, NULL, NULL},
};
