/* shim.h: what Python calls.  build_ffi.py gives this file to cffi as it is: declarations only, no directives.
 *
 * Results are those of the kernel: a value, or a negative errno.
 */

struct spawn_request {
    int program;      /* descriptor of the executable */
    const char *path; /* or its path: a hook, in a process group of its own and with signals as by default */
    int first_fd;     /* 3 + the number of preserved descriptors */
    int fd_count;
    const int *fds;      /* become first_fd, first_fd + 1, ... */
    int stdio[3];        /* become 0, 1 and 2 */
    int cgroup;          /* cgroup v2 directory to start in, or -1 */
    const int *join_fds; /* tasks files of cgroup v1 that the child writes itself to */
    int join_count;
    uint64_t clone_flags; /* CLONE_NEW* and others of clone3(2) that go with CLONE_VM */
    const char *const *argv;
    const char *const *envp;
    int *scratch;     /* room for fd_count + 3 numbers */
    int parent_death; /* of a hook: the signal that it gets when this process ends (PR_SET_PDEATHSIG), or 0 */
    int pidfd;        /* result */
    int failed_step;  /* result: what failed, see shim_spawn_step() */
};
int shim_spawn(struct spawn_request *request);
const char *shim_spawn_step(int step);

int shim_channel_pair(int *fds);
int shim_channel_send(int fd, const void *data, size_t size, const int *fds, int count);
int shim_channel_recv(int fd, void *data, size_t size, int *fds, int room, int *count, int *pid);

long shim_syscall(long number, long a, long b, long c, long d, long e, long f);

struct foreground {
    int pid;
    int pidfd;
    int master; /* pty master, or -1 */
    int input;  /* terminal or file that is copied to master */
    int output; /* what master says is copied here */
    int raw;    /* put input into raw mode meanwhile */
};
int shim_wait_foreground(const struct foreground *request, int *status);

struct filter_rule {
    uint32_t action;
    int32_t syscall;
    uint32_t arg_count;
    uint32_t index[6];
    uint32_t op[6];
    uint64_t value[6];
    uint64_t value_two[6];
};
int shim_seccomp_version(unsigned int *numbers);
int shim_seccomp_resolve(uint32_t arch, const char *name);
int shim_seccomp_compile(uint32_t default_action, const uint32_t *archs, size_t arch_count, const uint32_t *attributes,
                         size_t attribute_count, const struct filter_rule *rules, size_t rule_count, size_t *failed);
