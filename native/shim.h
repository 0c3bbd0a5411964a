/* shim.h: what Python calls.  build_ffi.py gives this file to cffi as it is: declarations only, no directives.
 *
 * Results are those of the kernel: a value, or a negative errno.
 */

struct spawn_request {
    int program;           /* descriptor of the executable */
    int first_fd;          /* 3 + the number of preserved descriptors */
    const int *fds;        /* become first_fd, first_fd + 1, ... */
    int fd_count;
    int stdio[3];          /* become 0, 1 and 2 */
    uint64_t clone_flags;  /* CLONE_NEW* and others of clone3(2) that go with CLONE_VM */
    int cgroup;            /* cgroup v2 directory to start in, or -1 */
    const char *const *argv;
    const char *const *envp;
    int *scratch;          /* room for fd_count + 4 numbers */
    int pidfd;             /* result */
    int failed_step;       /* result: 0, or what failed in the child, see spawn_step() */
};
int shim_spawn(struct spawn_request *request);
const char *shim_spawn_step(int step);
int shim_clone3(uint64_t flags, int cgroup, int *pidfd, void *result, size_t size,
                const uint8_t *steps, size_t step_count);

int shim_channel_pair(int *fds);
int shim_channel_send(int fd, const void *data, size_t size, const int *fds, int fd_count);
int shim_channel_recv(int fd, void *data, size_t size, int *fds, int fd_room, int *fd_count, int *pid);

int shim_memfd(const char *name, const void *data, size_t size, int executable);
int shim_memfd_copy(const char *name, int from);
int64_t shim_fs_type(int fd);
int64_t shim_mount_id(int fd);

int shim_setns(int fd, int type);
int shim_unshare(uint64_t flags);
int shim_pivot_root(const char *new_root, const char *put_old);
int shim_chroot(const char *path);
int shim_mount(const char *source, const char *target, const char *type, uint64_t flags, const char *data);
int shim_umount2(const char *target, int flags);
int shim_open_tree(int dir, const char *path, unsigned int flags);
int shim_move_mount(int from_dir, const char *from, int to_dir, const char *to, unsigned int flags);
int shim_mount_setattr(int dir, const char *path, unsigned int flags, uint64_t set, uint64_t clear,
                       uint64_t propagation, int userns);
int shim_fsopen(const char *type, unsigned int flags);
int shim_fsconfig(int fd, unsigned int command, const char *key, const void *value, int aux);
int shim_fsmount(int fd, unsigned int flags, unsigned int attributes);
int shim_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int shim_pidfd_open(int pid, unsigned int flags);
int shim_pidfd_send_signal(int pidfd, int number);
int shim_pidfd_getfd(int pidfd, int number);
int shim_close_range(unsigned int first, unsigned int last, unsigned int flags);
int shim_prlimit(int pid, int resource, const uint64_t *set, uint64_t *old);
int shim_sched_setaffinity(int pid, size_t size, const void *mask);
int shim_prctl(int option, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
int shim_keyctl_join(const char *name);

int shim_bpf_load(const void *code, unsigned int count, char *log, unsigned int log_size);
int shim_bpf_attach(int cgroup, int program, unsigned int flags, int replaced);
int shim_bpf_detach(int cgroup, int program);
int shim_bpf_query(int cgroup, uint32_t *ids, uint32_t room);
int shim_bpf_open(uint32_t id);

struct foreground {
    int pid;
    int pidfd;
    int master;       /* pty master, or -1 */
    int input;        /* terminal or file that is copied to master */
    int output;       /* what master says is copied here */
    int raw;          /* put input into raw mode meanwhile */
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
int shim_seccomp_compile(uint32_t default_action, const uint32_t *archs, size_t arch_count,
                         const uint32_t *attributes, size_t attribute_count,
                         const struct filter_rule *rules, size_t rule_count, size_t *failed);
