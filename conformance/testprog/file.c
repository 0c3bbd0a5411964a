/* Verbs about files: reading, writing, looking at and changing a tree. */
#include "testprog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int cat_one(const char *verb, const char *path) {
    char buf[65536];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return fail(verb, path);
    while ((n = read(fd, buf, sizeof buf)) > 0)
        fwrite(buf, 1, (size_t)n, stdout);
    if (n < 0) {
        fail(verb, path);
        close(fd);
        return 1;
    }
    close(fd);
    return 0;
}

static int do_cat(int argc, char **argv) {
    int rc = 0;

    for (int i = 1; i < argc; i++)
        rc |= cat_one(argv[0], argv[i]);
    return rc;
}

static int do_mounts(int argc, char **argv) {
    (void)argc;
    return cat_one(argv[0], "/proc/self/mountinfo");
}

static int do_ls(int argc, char **argv) {
    struct dirent **list;
    int rc = 0;

    for (int i = 1; i < argc; i++) {
        int n = scandir(argv[i], &list, NULL, alphasort);

        if (n < 0) {
            rc |= fail(argv[0], argv[i]);
            continue;
        }
        for (int k = 0; k < n; k++) {
            if (strcmp(list[k]->d_name, ".") && strcmp(list[k]->d_name, ".."))
                puts(list[k]->d_name);
            free(list[k]);
        }
        free(list);
    }
    return rc;
}

static const char *type_word(mode_t mode) {
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "file";
    case S_IFDIR:
        return "dir";
    case S_IFLNK:
        return "link";
    case S_IFCHR:
        return "char";
    case S_IFBLK:
        return "block";
    case S_IFIFO:
        return "fifo";
    default:
        return "socket";
    }
}

static int stat_one(int argc, char **argv, int follow) {
    int rc = 0;

    for (int i = 1; i < argc; i++) {
        struct stat st;

        if (follow ? stat(argv[i], &st) : lstat(argv[i], &st)) {
            rc |= fail(argv[0], argv[i]);
            continue;
        }
        printf("%s type=%s mode=%04o uid=%u gid=%u rdev=%u:%u size=%lld nlink=%lu ino=%lu dev=%u:%u\n", argv[i],
               type_word(st.st_mode), st.st_mode & 07777, st.st_uid, st.st_gid, major(st.st_rdev), minor(st.st_rdev),
               (long long)st.st_size, (unsigned long)st.st_nlink, (unsigned long)st.st_ino, major(st.st_dev),
               minor(st.st_dev));
    }
    return rc;
}

static int do_stat(int argc, char **argv) {
    return stat_one(argc, argv, 1);
}
static int do_lstat(int argc, char **argv) {
    return stat_one(argc, argv, 0);
}

static int do_statfs(int argc, char **argv) {
    int rc = 0;

    for (int i = 1; i < argc; i++) {
        struct statfs s;

        if (statfs(argv[i], &s))
            rc |= fail(argv[0], argv[i]);
        else
            printf("%s type=%#lx flags=%#lx blocks=%llu bsize=%ld\n", argv[i], (unsigned long)s.f_type,
                   (unsigned long)s.f_flags, (unsigned long long)s.f_blocks, (long)s.f_bsize);
    }
    return rc;
}

static int do_readlink(int argc, char **argv) {
    int rc = 0;

    for (int i = 1; i < argc; i++) {
        char buf[PATH_MAX];
        ssize_t n = readlink(argv[i], buf, sizeof buf);

        if (n < 0)
            rc |= fail(argv[0], argv[i]);
        else
            printf("%.*s\n", (int)n, buf);
    }
    return rc;
}

static int do_cwd(int argc, char **argv) {
    char buf[PATH_MAX];

    (void)argc;
    if (!getcwd(buf, sizeof buf))
        return fail(argv[0], "getcwd");
    puts(buf);
    return 0;
}

static int write_text(char **argv, int flags) {
    size_t length = strlen(argv[2]);
    int fd = open(argv[1], flags | O_WRONLY | O_CLOEXEC, 0666);
    int rc = 0;

    if (fd < 0)
        return fail(argv[0], argv[1]);
    if (write(fd, argv[2], length) != (ssize_t)length)
        rc = fail(argv[0], argv[1]);
    close(fd);
    return rc;
}

static int do_write(int argc, char **argv) {
    return argc < 3 ? 2 : write_text(argv, O_CREAT | O_TRUNC);
}

static int do_append(int argc, char **argv) {
    return argc < 3 ? 2 : write_text(argv, O_APPEND);
}

/* open PATH MODE...: MODE is r, w, rw, plus c (create), x (exclusive), d (directory), p (path). */
static int do_open(int argc, char **argv) {
    const char *mode = argc > 2 ? argv[2] : "r";
    int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY, fd;

    if (argc < 2)
        return 2;
    if (strchr(mode, 'p'))
        flags |= O_PATH;
    else
        flags |= strchr(mode, 'w') ? (strchr(mode, 'r') ? O_RDWR : O_WRONLY) : O_RDONLY;
    if (strchr(mode, 'c'))
        flags |= O_CREAT;
    if (strchr(mode, 'x'))
        flags |= O_EXCL;
    if (strchr(mode, 'd'))
        flags |= O_DIRECTORY;
    fd = open(argv[1], flags, 0666);
    if (fd < 0)
        return fail(argv[0], argv[1]);
    puts("ok");
    close(fd);
    return 0;
}

static int do_access(int argc, char **argv) {
    int mode = F_OK;

    if (argc < 2)
        return 2;
    for (const char *p = argc > 2 ? argv[2] : ""; *p; p++)
        mode |= *p == 'r' ? R_OK : *p == 'w' ? W_OK : X_OK;
    if (access(argv[1], mode))
        return fail(argv[0], argv[1]);
    puts("ok");
    return 0;
}

static int do_mkdir(int argc, char **argv) {
    return argc > 1 && !mkdir(argv[1], (mode_t)number(argc, argv, 2, 0777)) ? 0 : fail(argv[0], argv[1]);
}

static int do_unlink(int argc, char **argv) {
    return argc > 1 && !unlink(argv[1]) ? 0 : fail(argv[0], argv[1]);
}

static int do_rmdir(int argc, char **argv) {
    return argc > 1 && !rmdir(argv[1]) ? 0 : fail(argv[0], argv[1]);
}

static int do_symlink(int argc, char **argv) {
    return argc > 2 && !symlink(argv[1], argv[2]) ? 0 : fail(argv[0], argv[2]);
}

static int do_chown(int argc, char **argv) {
    if (argc < 4 || chown(argv[1], (uid_t)number(argc, argv, 2, 0), (gid_t)number(argc, argv, 3, 0)))
        return fail(argv[0], argv[1]);
    return 0;
}

static int do_chmod(int argc, char **argv) {
    if (argc < 3 || chmod(argv[1], (mode_t)strtoul(argv[2], NULL, 8)))
        return fail(argv[0], argv[1]);
    return 0;
}

/* mount SOURCE TARGET TYPE [FLAGS [DATA]]: mount(2) as it is. */
static int do_mount(int argc, char **argv) {
    if (argc < 4)
        return 2;
    if (mount(argv[1], argv[2], *argv[3] ? argv[3] : NULL, (unsigned long)number(argc, argv, 4, 0),
              argc > 5 ? argv[5] : NULL))
        return fail(argv[0], argv[2]);
    return 0;
}

static int do_umount(int argc, char **argv) {
    return argc > 1 && !umount2(argv[1], (int)number(argc, argv, 2, 0)) ? 0 : fail(argv[0], argv[1]);
}

/* wait-file PATH [SECONDS]: until PATH exists. */
static int do_wait_file(int argc, char **argv) {
    long long tries = number(argc, argv, 2, 20) * 50;

    if (argc < 2)
        return 2;
    while (access(argv[1], F_OK)) {
        if (tries-- <= 0)
            return fail(argv[0], argv[1]);
        usleep(20000);
    }
    return 0;
}

const struct verb file_verbs[] = {
    {"cat", do_cat, "FILE..."},
    {"mounts", do_mounts, ""},
    {"ls", do_ls, "DIRECTORY..."},
    {"stat", do_stat, "PATH..."},
    {"lstat", do_lstat, "PATH..."},
    {"statfs", do_statfs, "PATH..."},
    {"readlink", do_readlink, "PATH..."},
    {"cwd", do_cwd, ""},
    {"write", do_write, "FILE TEXT"},
    {"append", do_append, "FILE TEXT"},
    {"open", do_open, "PATH MODE"},
    {"access", do_access, "PATH [rwx]"},
    {"mkdir", do_mkdir, "PATH [MODE]"},
    {"unlink", do_unlink, "PATH"},
    {"rmdir", do_rmdir, "PATH"},
    {"symlink", do_symlink, "TARGET PATH"},
    {"chown", do_chown, "PATH UID GID"},
    {"chmod", do_chmod, "PATH MODE"},
    {"mount", do_mount, "SOURCE TARGET TYPE [FLAGS [DATA]]"},
    {"umount", do_umount, "TARGET [FLAGS]"},
    {"wait-file", do_wait_file, "PATH [SECONDS]"},
    {NULL, NULL, NULL},
};
