/* tracer.c: run a program, number the system calls of it and of all that it starts, and let one of them fail.
 *
 *   tracer [-r RECORD] [-o RESULT] [-f TASK:CALL:NTH:ACTION] [-p PID] [-u UID:GID] [-t SECONDS] PROGRAM [ARG...]
 *
 * A task is a number: 0 is the program (counted from its execve on), then in order of appearance what is given by -p and
 * what they start.  CALL is the number of a system call, NTH which one of that task (from 1).  ACTION: `eN` the call is
 * not made and gives errno N; `kM` task M gets SIGKILL while this call is about to begin.
 * RECORD gets a line "TASK CALL" for each call.  RESULT gets "HIT STATUS HUNG": whether the action took place, the
 * program's wait status, whether it was killed because the time was over.
 * When the program ends, everything else is let go of and goes on by itself.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_TASKS 256
#define OPTIONS                                                                                                        \
    (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC)

struct task {
    pid_t pid;
    int seen;    /* calls so far with the number that is looked for */
    int pending; /* errno to give at the end of the call under way */
    int counted; /* the program itself only from its execve on */
};

static struct task tasks[MAX_TASKS];
static int task_count;
static int want_task = -1, want_nth, victim = -1, give_errno, hit;
static long want_call = -1;
static FILE *record;
static volatile sig_atomic_t expired;

static void on_alarm(int number) {
    (void)number;
    expired = 1;
}

static _Noreturn void die(const char *what) {
    perror(what);
    exit(125);
}

static int index_of(pid_t pid) {
    for (int i = 0; i < task_count; i++)
        if (tasks[i].pid == pid)
            return i;
    if (task_count == MAX_TASKS)
        die("too many tasks");
    tasks[task_count] = (struct task){.pid = pid, .counted = task_count > 0};
    return task_count++;
}

/* The call that is about to begin is not made: its number becomes one that no kernel has. */
static void skip_call(pid_t pid) {
#if defined(__x86_64__)
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0) {
        regs.orig_rax = (unsigned long long)-1;
        ptrace(PTRACE_SETREGS, pid, 0, &regs);
    }
#else
    int number = -1;
    struct iovec part = {&number, sizeof(number)};
    ptrace(PTRACE_SETREGSET, pid, NT_ARM_SYSTEM_CALL, &part);
#endif
}

static void set_result(pid_t pid, long value) {
#if defined(__x86_64__)
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0) {
        regs.rax = (unsigned long long)value;
        ptrace(PTRACE_SETREGS, pid, 0, &regs);
    }
#else
    struct user_regs_struct regs;
    struct iovec part = {&regs, sizeof(regs)};
    if (ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &part) == 0) {
        regs.regs[0] = (unsigned long long)value;
        ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &part);
    }
#endif
}

static void at_call(int which) {
    struct __ptrace_syscall_info info = {0};
    struct task *task = &tasks[which];

    if (ptrace(PTRACE_GET_SYSCALL_INFO, task->pid, sizeof(info), &info) <= 0)
        return;
    if (info.op == PTRACE_SYSCALL_INFO_EXIT && task->pending != 0) {
        set_result(task->pid, -task->pending);
        task->pending = 0;
    }
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY || !task->counted)
        return;
    if (record != NULL)
        fprintf(record, "%d %llu\n", which, (unsigned long long)info.entry.nr);
    if (hit || which != want_task || (long)info.entry.nr != want_call || ++task->seen != want_nth)
        return;
    hit = 1;
    if (victim >= 0) {
        if (victim < task_count)
            kill(tasks[victim].pid, SIGKILL);
    } else {
        skip_call(task->pid);
        task->pending = give_errno;
    }
}

/* Handle one stop; returns the signal to pass on, -1 when the task must stay stopped (a group stop). */
static int at_stop(int which, int status) {
    int number = WSTOPSIG(status), event = status >> 16;

    if (number == (SIGTRAP | 0x80)) {
        at_call(which);
        return 0;
    }
    if (event == PTRACE_EVENT_EXEC)
        tasks[which].counted = 1;
    if (event == PTRACE_EVENT_STOP)
        return number == SIGSTOP || number == SIGTSTP || number == SIGTTIN || number == SIGTTOU ? -1 : 0;
    return event != 0 ? 0 : number;
}

static void seize(pid_t pid) {
    int status;

    if (ptrace(PTRACE_SEIZE, pid, 0, OPTIONS) < 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
        die("ptrace");
    if (waitpid(pid, &status, __WALL) != pid)
        die("waitpid");
    index_of(pid);
    if (ptrace(PTRACE_SYSCALL, pid, 0, 0) < 0)
        die("PTRACE_SYSCALL");
}

static pid_t start(char **argv, long uid, long gid, int *go) {
    int gate[2];
    pid_t pid;
    char byte;

    if (pipe2(gate, 02000000 /* O_CLOEXEC */) < 0)
        die("pipe");
    pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        close(gate[1]);
        if (read(gate[0], &byte, 1) != 1)
            _exit(125);
        if (uid >= 0 && (setgroups(0, NULL) < 0 || setgid((gid_t)gid) < 0 || setuid((uid_t)uid) < 0))
            die("setuid");
        execvp(argv[0], argv);
        die(argv[0]);
    }
    close(gate[0]);
    *go = gate[1];
    return pid;
}

int main(int argc, char **argv) {
    long uid = -1, gid = -1, other = -1, seconds = 0;
    const char *result = NULL;
    char action = 0;
    int option, go, status = 0, hung = 0, number = 0;
    pid_t program;

    while ((option = getopt(argc, argv, "+r:o:f:p:u:t:")) != -1) {
        switch (option) {
        case 'r':
            record = fopen(optarg, "we");
            break;
        case 'o':
            result = optarg;
            break;
        case 'f':
            if (sscanf(optarg, "%d:%ld:%d:%c%d", &want_task, &want_call, &want_nth, &action, &number) != 5)
                die("-f");
            if (action == 'k')
                victim = number;
            else
                give_errno = number;
            break;
        case 'p':
            other = atol(optarg);
            break;
        case 'u':
            if (sscanf(optarg, "%ld:%ld", &uid, &gid) != 2)
                die("-u");
            break;
        case 't':
            seconds = atol(optarg);
            break;
        default:
            return 125;
        }
    }
    program = start(argv + optind, uid, gid, &go);
    seize(program);
    if (other > 0)
        seize((pid_t)other);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
    alarm((unsigned)seconds);
    if (write(go, "", 1) != 1)
        die("write");
    close(go);
    for (;;) {
        int which, pass, how;
        pid_t pid = waitpid(-1, &status, __WALL);

        if (expired && !hung) {
            hung = 1;
            kill(program, SIGKILL);
        }
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid < 0)
            die("waitpid");
        if (pid == program && !WIFSTOPPED(status))
            break;
        if (!WIFSTOPPED(status))
            continue;
        which = index_of(pid);
        pass = at_stop(which, status);
        /* Nobody has to stop any more once the action took place; all stay traced until the program ends. */
        how = hit && record == NULL && tasks[which].pending == 0 ? PTRACE_CONT : PTRACE_SYSCALL;
        if (pass < 0)
            ptrace(PTRACE_LISTEN, pid, 0, 0);
        else
            ptrace((enum __ptrace_request)how, pid, 0, (long)pass);
    }
    if (record != NULL)
        fclose(record);
    if (result != NULL) {
        FILE *out = fopen(result, "we");
        if (out == NULL)
            die(result);
        fprintf(out, "%d %d %d\n", hit, status, hung);
        fclose(out);
    }
    return 0;
}
