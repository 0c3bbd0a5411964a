/* foreground.c: the wait of `run` and `exec` in the foreground: signals go to the container's process, what is
 * typed goes to its terminal and back, until it ends. */
#include "sys.h"
#include "native.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define BUFFER 16384

/* Bytes on their way from one descriptor to another. */
struct relay {
    int from;
    int to;
    size_t start;
    size_t end;
    char data[BUFFER];
};

static int is_full(const struct relay *r) {
    return r->end == BUFFER;
}

static int is_empty(const struct relay *r) {
    return r->start == r->end;
}

/* Both ends may be shared with others, so they stay blocking: poll said that one call would not block. */
static void pull(struct relay *r) {
    ssize_t n = read(r->from, r->data + r->end, BUFFER - r->end);

    if (n > 0)
        r->end += (size_t)n;
    else if (n == 0 || (errno != EINTR && errno != EAGAIN))
        r->from = -1; /* EIO: the last process on the terminal is gone */
}

static void push(struct relay *r) {
    size_t size = r->end - r->start;
    ssize_t n = write(r->to, r->data + r->start, size > 1024 ? 1024 : size);

    if (n > 0)
        r->start += (size_t)n;
    else if (n < 0 && errno != EINTR && errno != EAGAIN)
        r->to = -1; /* nobody reads any more: what comes is thrown away */
    if (r->to < 0 || r->start == r->end)
        r->start = r->end = 0;
}

static void copy_size(int from, int to) {
    struct winsize size;

    if (ioctl(from, TIOCGWINSZ, &size) == 0)
        ioctl(to, TIOCSWINSZ, &size);
}

/* SIGCHLD only says that some child ended; the terminal's size goes to the terminal; all others are the container's. */
static void forward(const struct foreground *f, int signals) {
    struct signalfd_siginfo info;

    while (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGWINCH && f->master >= 0)
            copy_size(f->input, f->master);
        else if (info.ssi_signo != SIGCHLD)
            SYS(__NR_pidfd_send_signal, f->pidfd, info.ssi_signo, 0, 0);
    }
}

/* Reap whatever has ended; true when it was the container's process. */
static int reap(const struct foreground *f, int *status) {
    for (;;) {
        int one = 0;
        pid_t pid = waitpid(-1, &one, WNOHANG | __WALL);

        if (pid <= 0) { /* somebody else may have reaped it while other children live on */
            siginfo_t info;
            int lost = waitid((idtype_t)3 /* P_PIDFD */, (id_t)f->pidfd, &info, WEXITED | WNOHANG | WNOWAIT) < 0;
            return lost && errno == ECHILD ? -1 : 0;
        }
        if (pid == f->pid) {
            *status = one;
            return 1;
        }
    }
}

/* What the terminal still holds when the process has ended. */
static void drain(struct relay *out) {
    struct pollfd poll_out;

    while (out->to >= 0) {
        while (!is_empty(out) && out->to >= 0)
            push(out);
        poll_out = (struct pollfd){.fd = out->from, .events = POLLIN};
        if (out->from < 0 || poll(&poll_out, 1, 0) <= 0 || (poll_out.revents & POLLIN) == 0)
            return;
        pull(out);
    }
}

static int attend(const struct foreground *f, int signals, int *status) {
    static struct relay in, out;
    int ended = 0;

    in.from = f->master >= 0 ? f->input : -1;
    in.to = out.from = f->master;
    out.to = f->output;
    in.start = in.end = out.start = out.end = 0;
    while (ended == 0) {
        struct pollfd fds[6] = {
            {.fd = signals, .events = POLLIN},
            {.fd = f->pidfd, .events = POLLIN},
            {.fd = is_full(&in) ? -1 : in.from, .events = POLLIN},
            {.fd = is_empty(&in) ? -1 : in.to, .events = POLLOUT},
            {.fd = is_full(&out) ? -1 : out.from, .events = POLLIN},
            {.fd = is_empty(&out) ? -1 : out.to, .events = POLLOUT},
        };

        if (poll(fds, 6, -1) < 0 && errno != EINTR)
            return -errno;
        if (fds[0].revents != 0)
            forward(f, signals);
        if (fds[3].revents != 0)
            push(&in);
        if (fds[5].revents != 0)
            push(&out);
        if (fds[2].revents != 0)
            pull(&in);
        if (fds[4].revents != 0)
            pull(&out);
        if (fds[0].revents != 0 || fds[1].revents != 0)
            ended = reap(f, status);
    }
    drain(&out);
    return ended < 0 ? -ECHILD : 0;
}

/* Wait for the process; *status as of waitpid(2).  Signals stay blocked only meanwhile. */
int shim_wait_foreground(const struct foreground *request, int *status) {
    struct termios before, raw;
    sigset_t all, old;
    int signals, changed = 0, result;

    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGFPE);
    if (sigprocmask(SIG_SETMASK, &all, &old) < 0)
        return -errno;
    signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0) {
        result = -errno;
        sigprocmask(SIG_SETMASK, &old, NULL);
        return result;
    }
    if (request->master >= 0)
        copy_size(request->input, request->master);
    if (request->raw && tcgetattr(request->input, &before) == 0) {
        raw = before;
        cfmakeraw(&raw);
        changed = tcsetattr(request->input, TCSANOW, &raw) == 0;
    }
    result = attend(request, signals, status);
    if (changed)
        tcsetattr(request->input, TCSADRAIN, &before);
    close(signals);
    sigprocmask(SIG_SETMASK, &old, NULL);
    return result;
}
