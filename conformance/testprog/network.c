/* Verbs about sockets: interfaces, readiness, passed listeners. */
#include "testprog.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* netif: each interface with its flags. */
static int do_netif(int argc, char **argv) {
    struct if_nameindex *list = if_nameindex();
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)argc;
    if (!list || fd < 0)
        return fail(argv[0], "if_nameindex");
    for (struct if_nameindex *i = list; i->if_index; i++) {
        struct ifreq request = {0};

        strncpy(request.ifr_name, i->if_name, IFNAMSIZ - 1);
        ioctl(fd, SIOCGIFFLAGS, &request);
        printf("%s up=%d\n", i->if_name, !!(request.ifr_flags & IFF_UP));
    }
    if_freenameindex(list);
    close(fd);
    return 0;
}

static int address(struct sockaddr_un *a, const char *path) {
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    strncpy(a->sun_path, path, sizeof a->sun_path - 1);
    if (*path == '@')
        a->sun_path[0] = '\0';
    return (int)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + (*path != '@'));
}

/* notify TEXT: one datagram to $NOTIFY_SOCKET. */
static int do_notify(int argc, char **argv) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), length;

    if (argc < 2 || !path) {
        errno = ENOENT;
        return fail(argv[0], "NOTIFY_SOCKET");
    }
    length = address(&a, path);
    if (sendto(fd, argv[1], strlen(argv[1]), 0, (void *)&a, (socklen_t)length) < 0)
        return fail(argv[0], path);
    close(fd);
    return 0;
}

/* connect PATH TEXT: send over a stream socket. */
static int do_connect(int argc, char **argv) {
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), length;

    if (argc < 3)
        return 2;
    length = address(&a, argv[1]);
    if (connect(fd, (void *)&a, (socklen_t)length))
        return fail(argv[0], argv[1]);
    if (write(fd, argv[2], strlen(argv[2])) < 0)
        return fail(argv[0], "write");
    close(fd);
    return 0;
}

/* listen-fds: LISTEN_* and what kind of descriptor each passed one is. */
static int do_listen_fds(int argc, char **argv) {
    const char *count = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID"), *names = getenv("LISTEN_FDNAMES");

    (void)argc;
    (void)argv;
    printf("LISTEN_FDS=%s LISTEN_PID=%s LISTEN_FDNAMES=%s\n", count ? count : "", pid ? pid : "", names ? names : "");
    for (int fd = 3; count && fd < 3 + atoi(count); fd++) {
        struct stat st;

        printf("%d %s\n", fd, fstat(fd, &st) ? errno_name(errno) : S_ISSOCK(st.st_mode) ? "socket" : "other");
    }
    return 0;
}

/* ping-socket: an unprivileged ICMP socket, allowed by net.ipv4.ping_group_range. */
static int do_ping_socket(int argc, char **argv) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP);

    (void)argc;
    if (fd < 0)
        return fail(argv[0], "socket");
    puts("ok");
    close(fd);
    return 0;
}

const struct verb network_verbs[] = {
    {"netif", do_netif, ""},           {"notify", do_notify, "TEXT"},       {"connect", do_connect, "PATH TEXT"},
    {"listen-fds", do_listen_fds, ""}, {"ping-socket", do_ping_socket, ""}, {NULL, NULL, NULL},
};
