/* exec.c: the machine proper: one operation after the other, and the last one, which becomes the program. */
#include "check.h"
#include "init.h"

#include <asm/stat.h>
#include <linux/elf.h>
#include <linux/mman.h>
#include <linux/stat.h>

#define X_OK 1
#define PASSWD_LIMIT (10u << 20)     /* bytes of /etc/passwd that are read (CVE-2026-47262) */
#define DEFAULT_PATH "/bin:/usr/bin" /* execvp(3) without PATH */

/* --- arguments ----------------------------------------------------------------------------------------------- */

const char *blob(uint64_t argument) {
    return m.data + (uint32_t)argument;
}

size_t blob_size(uint64_t argument) {
    return (size_t)(argument >> 32);
}

int slot(uint64_t argument) {
    return m.slots[argument];
}

void fill_slot(uint64_t argument, int fd) {
    close_slot(argument);
    m.slots[argument] = fd;
}

void close_slot(uint64_t argument) {
    close_fd(m.slots[argument]);
    m.slots[argument] = -1;
}

void close_fd(int fd) {
    if (fd >= 0)
        SYS(__NR_close, fd);
}

/* --- the loop ------------------------------------------------------------------------------------------------ */

static int op_syscall(const struct plan_op *op) {
    long value[6];
    long result;

    for (unsigned i = 0; i < 6; i++) {
        uint64_t argument = op->arg[i + 1];
        unsigned kind = (unsigned)op->flags >> (4 + 2 * i) & 3u;

        if (kind == PLAN_ARG_BLOB)
            value[i] = argument == PLAN_NONE ? 0 : (long)blob(argument);
        else
            value[i] = kind == PLAN_ARG_SLOT ? slot(argument) : (long)argument;
    }
    m.call = syscall_name(op->arg[0]);
    result = sys_call((long)op->arg[0], value[0], value[1], value[2], value[3], value[4], value[5]);
    return result < 0 && result > -4096 ? (int)result : 0;
}

#define RUN(CODE, function)                                                                                            \
    case OP_##CODE:                                                                                                    \
        return function(op);

static int run(const struct plan_op *op) {
    switch (op->code) {
        RUN(SETNS, op_setns)
        RUN(UNSHARE, op_unshare)
        RUN(CLONE, op_clone)
        RUN(SYNC, op_sync)
        RUN(GATE, op_gate)
        RUN(CHDIR, op_chdir)
        RUN(FIND_EXE, op_find_exe)
        RUN(EXEC, op_exec)
        RUN(SYSCALL, op_syscall)
        RUN(WRITE, op_write)
        RUN(OPEN, op_open)
        RUN(ROOT, op_root)
        RUN(MKDIR, op_mkdir)
        RUN(MKFILE, op_mkfile)
        RUN(SYMLINK, op_symlink)
        RUN(MKNOD, op_mknod)
        RUN(FSMOUNT, op_fsmount)
        RUN(TREE, op_tree)
        RUN(ATTACH, op_attach)
        RUN(SETATTR, op_setattr)
        RUN(MASK, op_mask)
        RUN(READONLY, op_readonly)
        RUN(COPYUP, op_copyup)
        RUN(PIVOT, op_pivot)
        RUN(UNMOUNT, op_unmount)
        RUN(IDS, op_ids)
        RUN(CAPS, op_caps)
        RUN(LOOPBACK, op_loopback)
        RUN(CONSOLE, op_console)
        RUN(STDIO, op_stdio)
        RUN(SECCOMP, op_seccomp)
        RUN(HOME, op_home)
    case OP_CLOSE:
        close_slot(op->arg[0]);
        return 0;
    default:
        return fail(EINVAL, "check_plan", "unknown operation", NULL, NULL);
    }
}

static int is_listed(uint32_t errnos, int error) {
    for (; errnos != 0; errnos >>= 8)
        if ((int)(errnos & 0xff) == error)
            return 1;
    return 0;
}

/* Run the operations from index on; returns after the last. */
void run_from(uint32_t index) {
    while (index < m.head->op_count) {
        const struct plan_op *op = &m.ops[index];
        int error;

        m.at = index;
        m.call = "";
        m.detail[0] = '\0';
        error = -run(op);
        index++;
        if (error > 0 && !is_listed(op->errnos, error))
            give_up(error);
        if (error > 0 && (op->flags & PLAN_F_WARN) != 0)
            warn(error);
        if (error == 0)
            while ((m.ops[index - 1].flags & PLAN_F_ALT) != 0)
                index++; /* the alternative is not needed, nor is the alternative's */
    }
}

/* --- the program --------------------------------------------------------------------------------------------- */

/* 0 when the path is a file that may be executed with the effective ids. */
static int executable(const char *path) {
    struct statx about;
    int result = (int)CALL(statx, AT_FDCWD, path, 0, STATX_TYPE, &about);

    if (result < 0)
        return result;
    if ((about.stx_mode & S_IFMT) == S_IFDIR)
        return -EISDIR;
    if ((about.stx_mode & S_IFMT) != S_IFREG)
        return -EACCES;
    return (int)CALL(faccessat2, AT_FDCWD, path, X_OK, AT_EACCESS);
}

static int found(const char *path, size_t size) {
    if (size >= sizeof(m.exe))
        return -ENAMETOOLONG;
    memcpy(m.exe, path, size);
    m.exe[size] = '\0';
    return executable(m.exe);
}

/* As execvp(3): a name with a slash as it is, else along PATH, where an empty entry is the working directory. */
int op_find_exe(const struct plan_op *op) {
    const char *name = blob(op->arg[0]), *entry = op->arg[1] == PLAN_NONE ? DEFAULT_PATH : blob(op->arg[1]);
    char candidate[2 * PATH_SIZE];
    size_t length = length_of(name);
    int denied = 0, result;

    detail(name, NULL, NULL);
    for (size_t i = 0; i < length; i++)
        if (name[i] == '/')
            return found(name, length);
    m.call = "execve";
    for (; length > 0; entry++) {
        size_t n = 0;

        for (; entry[n] != ':' && entry[n] != '\0'; n++)
            if (n < PATH_SIZE)
                candidate[n] = entry[n];
        if (n < PATH_SIZE) {
            size_t end = n;
            if (n > 0)
                candidate[end++] = '/';
            memcpy(candidate + end, name, length);
            result = found(candidate, end + length);
            if (result == 0)
                return 0;
            denied |= result == -EACCES;
        }
        entry += n;
        if (*entry == '\0')
            break;
    }
    m.call = "execve";
    return denied ? -EACCES : -ENOENT;
}

/* Why a file that is there could not be executed: what its first bytes ask for. */
static void post_mortem(const char *path, int error) {
    _Alignas(Elf64_Phdr) char head[4096];
    const char *interpreter = NULL;
    int fd = error == ENOENT ? open_how(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, 0) : -1;
    long n = fd < 0 ? 0 : SYS(__NR_read, fd, head, sizeof(head) - 1);

    close_fd(fd);
    if (n < 4)
        return;
    head[n] = '\0';
    if (head[0] == '#' && head[1] == '!') {
        char *end = head + 2;
        while (*end == ' ' || *end == '\t')
            end++;
        interpreter = end;
        while (*end != '\0' && *end != ' ' && *end != '\t' && *end != '\n' && *end != '\r')
            end++;
        if (*end == '\r') /* the kernel looks for a name that ends with it */
            interpreter = "with a carriage return at the end of its name";
        *end = '\0';
    } else if (memcmp(head, ELFMAG, SELFMAG) == 0 && head[EI_CLASS] == ELFCLASS64 && n >= (long)sizeof(Elf64_Ehdr)) {
        const Elf64_Ehdr *elf = (const Elf64_Ehdr *)head;
        for (unsigned i = 0; i < elf->e_phnum && interpreter == NULL; i++) {
            uint64_t at = elf->e_phoff + i * sizeof(Elf64_Phdr);
            const Elf64_Phdr *part = (const Elf64_Phdr *)(head + at);
            if (elf->e_phoff > (uint64_t)n || at % sizeof(at) != 0 || at + sizeof(*part) > (uint64_t)n)
                break;
            if (part->p_type == PT_INTERP && part->p_offset < (uint64_t)n)
                interpreter = head + part->p_offset;
        }
    }
    if (interpreter != NULL) {
        detail(path, ": interpreter ", interpreter);
        detail(m.detail, " not found", NULL);
    }
}

/* Pointers to the strings of a vector, and one more where extra is not NULL, and the NULL at the end. */
static const char **pointers(const char **to, uint64_t vector, uint64_t count, const char *extra) {
    const char *text = blob(vector);

    for (uint64_t i = 0; i < count; i++) {
        *to++ = text;
        text += length_of(text) + 1;
    }
    if (extra != NULL)
        *to++ = extra;
    *to++ = NULL;
    return to;
}

/* All that can be done before the execve, once; OP_SECCOMP does it before the filter that may refuse it. */
int prepare_exec(void) {
    const struct plan_op *op = &m.ops[m.head->op_count - 1];
    size_t size = (size_t)(op->arg[1] + op->arg[3] + 3) * sizeof(char *);
    long area;

    if (op->code != OP_EXEC || m.argv != NULL)
        return 0;
    area = CALL(mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area < 0 && area > -4096)
        return (int)area;
    m.argv = (const char **)area;
    m.envp = pointers(m.argv, op->arg[0], op->arg[1], NULL);
    pointers(m.envp, op->arg[2], op->arg[3], m.home[0] != '\0' ? m.home : NULL);
    keep_only(m.first_fd, PLAN_MAX_SLOTS);
    return 0;
}

int op_exec(const struct plan_op *op) {
    const char *path = op->arg[4] == PLAN_NONE ? m.exe : blob(op->arg[4]);
    int error = prepare_exec();

    if (error < 0)
        return error;
    error = (int)CALL(execve, path, m.argv, m.envp);
    detail(path, NULL, NULL);
    post_mortem(path, -error);
    m.call = "execve";
    return error;
}

/* --- HOME ---------------------------------------------------------------------------------------------------- */

/* The home directory in name:password:uid:gid:comment:home:shell of the first line with the uid. */
struct passwd_reader {
    unsigned field;
    uint64_t uid; /* of field 2 so far; UINT64_MAX when it is no number */
    unsigned digits;
    size_t length; /* of m.home */
};

static void passwd_byte(struct passwd_reader *r, char byte) {
    if (byte == ':') {
        r->field++;
    } else if (r->field == 2) {
        if (byte < '0' || byte > '9' || r->digits++ > 10)
            r->uid = UINT64_MAX;
        else if (r->uid != UINT64_MAX)
            r->uid = r->uid * 10 + (uint64_t)(byte - '0');
    } else if (r->field == 5 && r->length < sizeof(m.home)) {
        m.home[r->length++] = byte; /* too long: it stays full and is given up below */
    }
}

static int passwd_line_is(const struct passwd_reader *r, uint64_t uid) {
    return r->field == 6 && r->digits > 0 && r->uid == uid && r->length > 5 && r->length < sizeof(m.home);
}

int op_home(const struct plan_op *op) {
    char chunk[4096];
    struct passwd_reader r = {0, 0, 0, 5};
    uint32_t total = 0;
    long n = 1;
    int root = op->arg[0] == PLAN_NONE ? AT_FDCWD : slot(op->arg[0]), fd = -1;

    memcpy(m.home, "HOME=/", 7);
    if (op->arg[0] == PLAN_NONE)
        fd = open_how(AT_FDCWD, "/etc/passwd", O_PATH, 0, 0);
    else
        fd = open_in_root(root, "/etc/passwd", O_PATH, 0);
    if (fd < 0 || type_of(fd) != S_IFREG) { /* no device, no fifo: not even opened */
        close_fd(fd);
        return 0;
    }
    close_fd(fd);
    fd = op->arg[0] == PLAN_NONE ? open_how(AT_FDCWD, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, 0)
                                 : open_in_root(root, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    while (fd >= 0 && n > 0 && total < PASSWD_LIMIT) {
        n = SYS(__NR_read, fd, chunk, sizeof(chunk));
        for (long i = 0; i < n; i++) {
            if (chunk[i] != '\n') {
                passwd_byte(&r, chunk[i]);
                continue;
            }
            if (passwd_line_is(&r, op->arg[1])) {
                m.home[r.length] = '\0';
                close_fd(fd);
                return 0;
            }
            r = (struct passwd_reader){0, 0, 0, 5};
        }
        total += n > 0 ? (uint32_t)n : 0;
    }
    close_fd(fd);
    if (n == 0 && passwd_line_is(&r, op->arg[1])) { /* the last line without a newline */
        m.home[r.length] = '\0';
        return 0;
    }
    memcpy(m.home, "HOME=/", 7);
    return 0;
}
