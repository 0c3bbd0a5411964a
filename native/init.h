/* init.h: what the parts of init share. */
#ifndef OCIRUNTIME_INIT_H
#define OCIRUNTIME_INIT_H

#include "plan.h"
#include "sys.h"

#define PATH_SIZE 4096

/* The state of the machine: one plan, one process, so one instance. */
struct machine {
    const struct plan_header *head;
    const struct plan_op *ops;
    const char *data;
    uint32_t at;                  /* index of the running operation, UINT32_MAX before the first */
    unsigned first_fd;            /* number of slot 0's descriptor */
    int ordinary;                 /* started by another user than root */
    int joined;                   /* a namespace of others */
    int astray;                   /* the last CHDIR has failed */
    const char *call;             /* the system call that was tried last */
    char detail[PATH_SIZE + 512]; /* more about its failure, or empty */
    char exe[PATH_SIZE];          /* what FIND_EXE found */
    char home[PATH_SIZE];         /* HOME=..., or empty */
    const char **argv;            /* of EXEC, once they are prepared */
    const char **envp;
    int slots[PLAN_MAX_SLOTS]; /* descriptors, -1 where there is none */
};
extern struct machine m;

/* Make a system call and remember its name for the message about its failure. */
#define CALL(name, ...) (m.call = #name, SYS(__NR_##name, __VA_ARGS__))

/* main.c: strings and messages */
size_t length_of(const char *text);
int same_text(const char *a, const char *b);
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);
void detail(const char *a, const char *b, const char *c);
int fail(int error, const char *call, const char *a, const char *b, const char *c);
_Noreturn void quit(int code);
void send_message(uint32_t type, uint32_t value, int error, int fd);
void warn(int error);
int receive_go(uint32_t tag);
_Noreturn void give_up(int error);

/* exec.c: arguments of operations; running them */
const char *blob(uint64_t argument);
size_t blob_size(uint64_t argument);
int slot(uint64_t argument);
void fill_slot(uint64_t argument, int fd);
void close_slot(uint64_t argument);
void close_fd(int fd);
void run_from(uint32_t index);
int op_find_exe(const struct plan_op *op);
int op_home(const struct plan_op *op);
int prepare_exec(void);
int op_exec(const struct plan_op *op);

/* path.c: everything that resolves or makes a path inside the root */
int open_how(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int open_in_root(int root, const char *path, uint64_t flags, uint64_t resolve);
int look(int fd, void *statx_buffer);
int type_of(int fd);
int check_node(int fd, uint32_t type, uint64_t rdev);
int same_mount(int a, int b);
int check_magic(int fd, uint64_t magic);
int make_directory(int root, const char *path, uint64_t mode, uint64_t uid, uint64_t gid);
int make_file(int root, const char *path, uint64_t mode, uint64_t uid, uint64_t gid);
int make_parent(int root, const char *path, char *work, const char **name);
int op_mkdir(const struct plan_op *op);
int op_mkfile(const struct plan_op *op);
int op_symlink(const struct plan_op *op);
int op_mknod(const struct plan_op *op);
int op_write(const struct plan_op *op);
int op_open(const struct plan_op *op);

/* mount.c */
int clone_tree(int fd, unsigned flags);
int attach(int tree, int root, const char *path, int target, uint64_t resolve);
int op_root(const struct plan_op *op);
int op_fsmount(const struct plan_op *op);
int op_tree(const struct plan_op *op);
int op_attach(const struct plan_op *op);
int op_setattr(const struct plan_op *op);
int op_mask(const struct plan_op *op);
int op_readonly(const struct plan_op *op);
int op_pivot(const struct plan_op *op);
int op_unmount(const struct plan_op *op);

/* copy.c */
int op_copyup(const struct plan_op *op);

/* process.c: the process that will become the program */
void set_dumpable(int value);
void reset_signals(void);
void keep_only(unsigned first_kept, unsigned count);
int op_setns(const struct plan_op *op);
int op_unshare(const struct plan_op *op);
int op_clone(const struct plan_op *op);
int op_sync(const struct plan_op *op);
int op_gate(const struct plan_op *op);
int op_chdir(const struct plan_op *op);
int op_ids(const struct plan_op *op);
int op_caps(const struct plan_op *op);
int op_loopback(const struct plan_op *op);

/* stdio.c: terminal, standard streams, seccomp */
int op_console(const struct plan_op *op);
int op_stdio(const struct plan_op *op);
int op_seccomp(const struct plan_op *op);

#endif
