/* check.c: the check of a plan.  Pure: no system call, no state, hosted and freestanding. */
#include "check.h"
#include "plan.h"

#include <asm/unistd.h>

#define CODES (OP_HOME + 1)
#define MAX_ID 0xfffffffeull /* 2^32 - 1 is "unset" to the kernel */
#define MAX_ERRNO 133u
#define MAX_WORD 4095u /* PATH_MAX without its NUL */
#define MAX_MODE 0177777ull

/* The kinds of arguments, one letter each; what follows the last one has to be zero.
 *   s slot that holds a descriptor, S the same or none     d slot to be filled, D the same or none
 *   p path or word, P the same or none                     b any bytes, B the same or none
 *   v vector, followed by c, the number of its strings
 *   i 32-bit number     l 64-bit number     u user or group, U the same or none     m mode
 * OP_SYSCALL has its own check.  An empty row is an unknown code. */
static const char kinds[CODES][8] = {
    [OP_SETNS] = "si",       [OP_UNSHARE] = "i",      [OP_CLONE] = "i",      [OP_SYNC] = "i",
    [OP_GATE] = "s",         [OP_CHDIR] = "Sp",       [OP_FIND_EXE] = "bB",  [OP_EXEC] = "vcvcP",
    [OP_CLOSE] = "s",        [OP_SYSCALL] = "l",      [OP_WRITE] = "spbi",   [OP_OPEN] = "dSpilii",
    [OP_ROOT] = "dSpi",      [OP_MKDIR] = "spmUU",    [OP_MKFILE] = "spmUU", [OP_SYMLINK] = "spp",
    [OP_MKNOD] = "spmiUU",   [OP_FSMOUNT] = "dpPvci", [OP_TREE] = "dSpil",   [OP_ATTACH] = "sspilD",
    [OP_SETATTR] = "siiiiS", [OP_MASK] = "spss",      [OP_READONLY] = "sp",  [OP_COPYUP] = "sspi",
    [OP_PIVOT] = "si",       [OP_UNMOUNT] = "sspl",   [OP_IDS] = "UUBi",     [OP_CAPS] = "llllli",
    [OP_LOOPBACK] = "-",     [OP_CONSOLE] = "dsiiUi", [OP_STDIO] = "SSU",    [OP_SECCOMP] = "bi",
    [OP_HOME] = "Su",
};

struct check {
    const struct plan_header *head;
    const struct plan_op *ops;
    const unsigned char *data;
    struct plan_fault *fault;
    uint32_t defined[PLAN_MAX_SLOTS / 32]; /* slots that hold a descriptor, or did */
};

static int bad(struct check *c, int32_t op, int32_t argument, const char *why) {
    c->fault->op = op;
    c->fault->argument = argument;
    c->fault->why = why;
    return -1;
}

static int is_defined(const struct check *c, uint64_t slot) {
    return (c->defined[slot / 32] >> (slot % 32) & 1u) != 0;
}

/* Why a blob is not one, NULL when it is; *nuls is the number of NUL bytes inside. */
static const char *blob_fault(const struct check *c, uint64_t blob, uint32_t *nuls) {
    uint32_t offset = (uint32_t)blob, length = (uint32_t)(blob >> 32);

    /* The NUL after the blob is inside of the data area as well. */
    if (offset >= c->head->data_size || length >= c->head->data_size - offset)
        return "lies outside of the data area";
    if (c->data[offset + length] != 0)
        return "is not followed by a NUL";
    *nuls = 0;
    for (uint32_t i = 0; i < length; i++)
        *nuls += c->data[offset + i] == 0;
    return NULL;
}

static const char *word_fault(const struct check *c, uint64_t blob) {
    uint32_t nuls = 0;
    const char *why = blob_fault(c, blob, &nuls);

    if (why != NULL)
        return why;
    if (nuls != 0)
        return "has a NUL inside";
    if (blob >> 32 == 0)
        return "is empty";
    return blob >> 32 > MAX_WORD ? "is longer than 4095 bytes" : NULL;
}

/* A vector is a row of NUL-ended strings, exactly as many as the next argument says. */
static const char *vector_fault(const struct check *c, uint64_t blob, uint64_t count) {
    uint32_t nuls = 0, offset = (uint32_t)blob, length = (uint32_t)(blob >> 32);
    const char *why = blob_fault(c, blob, &nuls);

    if (why != NULL)
        return why;
    if (nuls != count || (length != 0 && c->data[offset + length - 1] != 0) || (length == 0 && count != 0))
        return "has not as many strings as it says";
    return NULL;
}

static const char *slot_fault(const struct check *c, uint64_t slot) {
    if (slot < 2 || slot >= c->head->slot_count)
        return "is no slot";
    return is_defined(c, slot) ? NULL : "is a slot that nothing has filled";
}

static const char *argument_fault(struct check *c, char kind, uint64_t value, uint64_t next) {
    uint32_t nuls = 0;

    switch (kind) {
    case 'S':
    case 'D':
    case 'P':
    case 'B':
    case 'U':
        if (value == PLAN_NONE)
            return NULL;
        return argument_fault(c, (char)(kind + ('a' - 'A')), value, next);
    case 's':
        return slot_fault(c, value);
    case 'd':
        if (value < 2 || value >= c->head->slot_count)
            return "is no slot";
        return NULL;
    case 'p':
        return word_fault(c, value);
    case 'b':
        return blob_fault(c, value, &nuls);
    case 'v':
        return vector_fault(c, value, next);
    case 'c':
    case 'i':
        return value > UINT32_MAX ? "is more than 32 bits" : NULL;
    case 'l':
        return NULL;
    case 'u':
        return value > MAX_ID ? "is no user or group" : NULL;
    case 'm':
        return value > MAX_MODE ? "is no mode" : NULL;
    default:
        return value != 0 ? "is one too many" : NULL;
    }
}

/* What an operation's own meaning asks for beyond the kinds of its arguments. */
static const char *meaning_fault(const struct check *c, const struct plan_op *op) {
    uint64_t last;

    switch (op->code) {
    case OP_SYNC:
        return op->arg[0] < TAG_USERNS || op->arg[0] >= TAG_START ? "has no such tag" : NULL;
    case OP_WRITE:
        return op->arg[3] > (WRITE_PROCFS | WRITE_SKIP_SAME | WRITE_DUMPABLE) ? "has unknown flags" : NULL;
    case OP_ROOT:
        return op->arg[3] > ROOT_RECURSIVE ? "has unknown flags" : NULL;
    case OP_ATTACH:
        return op->arg[3] > TARGET_PROCFS ? "has no such target" : NULL;
    case OP_PIVOT:
        return op->arg[1] > PIVOT_CHROOT ? "has no such method" : NULL;
    case OP_IDS:
        if (op->arg[2] != PLAN_NONE && (op->arg[2] >> 32) % sizeof(uint32_t) != 0)
            return "has groups that are no whole numbers";
        return op->arg[3] > (IDS_KEEPCAPS | IDS_NO_SETGROUPS) ? "has unknown flags" : NULL;
    case OP_CAPS:
        return op->arg[5] > (CAPS_DROP_BOUNDING | CAPS_SET | CAPS_AMBIENT) ? "has unknown flags" : NULL;
    case OP_CONSOLE:
        if (op->arg[2] > UINT16_MAX || op->arg[3] > UINT16_MAX)
            return "has a size of more than 16 bits";
        return op->arg[5] > CONSOLE_MOUNT ? "has unknown flags" : NULL;
    case OP_SECCOMP:
        last = op->arg[0] >> 32; /* struct sock_filter has 8 bytes, a program up to 4096 of them */
        return last == 0 || last % 8 != 0 || last / 8 > 4096 ? "has a filter of a wrong length" : NULL;
    case OP_FIND_EXE:
        if (op->arg[0] >> 32 > MAX_WORD)
            return "has a name longer than 4095 bytes";
        for (uint64_t i = 0; i < 2; i++) {
            uint32_t nuls = 0;
            if (op->arg[i] != PLAN_NONE && (blob_fault(c, op->arg[i], &nuls) != NULL || nuls != 0))
                return "has a NUL inside";
        }
        return NULL;
    case OP_EXEC:
        return op->arg[1] == 0 ? "has no argv[0]" : NULL;
    default:
        return NULL;
    }
}

static int check_syscall(struct check *c, int32_t index, const struct plan_op *op) {
    uint32_t nuls = 0;

    if (syscall_name(op->arg[0]) == NULL)
        return bad(c, index, 0, "is a system call that no plan may make");
    if (op->arg[0] == __NR_prctl && op->arg[1] == 4 /* PR_SET_DUMPABLE */)
        return bad(c, index, 1, "would make init dumpable");
    for (int32_t i = 0; i < 6; i++) {
        const char *why = NULL;
        uint64_t value = op->arg[i + 1];

        switch ((unsigned)op->flags >> (4 + 2 * i) & 3u) {
        case PLAN_ARG_INT:
            break;
        case PLAN_ARG_BLOB:
            why = value == PLAN_NONE ? NULL : blob_fault(c, value, &nuls);
            break;
        case PLAN_ARG_SLOT:
            why = slot_fault(c, value);
            break;
        default:
            why = "has an unknown kind";
        }
        if (why != NULL)
            return bad(c, index, i + 1, why);
    }
    return 0;
}

static int check_arguments(struct check *c, int32_t index, const struct plan_op *op) {
    int32_t i = 0;
    const char *why;

    for (; i < 7 && kinds[op->code][i] != '\0' && kinds[op->code][i] != '-'; i++) {
        why = argument_fault(c, kinds[op->code][i], op->arg[i], i < 6 ? op->arg[i + 1] : 0);
        if (why != NULL)
            return bad(c, index, i, why);
    }
    for (; i < 7; i++)
        if (op->arg[i] != 0)
            return bad(c, index, i, "is one too many");
    for (i = 0; i < 7 && kinds[op->code][i] != '\0'; i++)
        if ((kinds[op->code][i] == 'd' || kinds[op->code][i] == 'D') && op->arg[i] != PLAN_NONE)
            c->defined[op->arg[i] / 32] |= 1u << (op->arg[i] % 32);
    for (i = 0; op->code == OP_GATE && i < (int32_t)(PLAN_MAX_SLOTS / 32); i++)
        c->defined[i] = 0; /* init closes them before it waits */
    return 0;
}

static int check_flags(struct check *c, int32_t index, const struct plan_op *op) {
    unsigned allowed = PLAN_F_IGNORE | PLAN_F_WARN | PLAN_F_ALT;

    if (op->code == OP_SETNS || op->code == OP_CHDIR)
        allowed |= PLAN_F_RETRY;
    if (op->code == OP_SYSCALL)
        allowed |= 0xfff0u;
    if ((op->flags & ~allowed) != 0)
        return bad(c, index, -1, "has unknown flags");
    if (((op->flags & (PLAN_F_IGNORE | PLAN_F_WARN | PLAN_F_ALT)) != 0) != (op->errnos != 0))
        return bad(c, index, -1, "has error numbers without a flag or a flag without");
    for (unsigned shift = 0; shift < 32; shift += 8)
        if ((op->errnos >> shift & 0xffu) > MAX_ERRNO)
            return bad(c, index, -1, "has an unknown error number");
    return 0;
}

/* Where GATE and EXEC may stand, and what may be the last. */
static int check_order(struct check *c) {
    int gated = 0, found = 0, filtered = 0;
    int32_t count = (int32_t)c->head->op_count;

    for (int32_t i = 0; i < count; i++) {
        const struct plan_op *op = &c->ops[i];
        int alternative = (op->flags & PLAN_F_ALT) != 0;

        if (alternative && i == count - 1)
            return bad(c, i, -1, "has no operation to run in its stead");
        if (gated && (op->code == OP_GATE || op->code == OP_SYNC || op->code == OP_CLONE))
            return bad(c, i, -1, "stands after the gate");
        if (op->code == OP_EXEC && i != count - 1)
            return bad(c, i, -1, "is not the last operation");
        if (op->code == OP_EXEC && op->arg[4] == PLAN_NONE && !found)
            return bad(c, i, -1, "has no program");
        if (op->code == OP_GATE && alternative)
            return bad(c, i, -1, "has an alternative");
        if (op->code == OP_HOME && filtered) /* the environment is ready by then */
            return bad(c, i, -1, "stands after the filter");
        filtered |= op->code == OP_SECCOMP;
        gated |= op->code == OP_GATE;
        found |= op->code == OP_FIND_EXE;
    }
    return 0;
}

static int check_header(struct check *c, size_t length) {
    const struct plan_header *head = c->head;
    uint64_t expected;

    if (length < sizeof(*head))
        return bad(c, -1, -1, "is shorter than its header");
    if (head->magic != PLAN_MAGIC || head->version != PLAN_VERSION || head->header_size != sizeof(*head))
        return bad(c, -1, -1, "is of another version");
    if (head->op_count == 0 || head->op_count > PLAN_MAX_OPS || head->data_size > PLAN_MAX_DATA)
        return bad(c, -1, -1, "is too large or empty");
    expected = sizeof(*head) + (uint64_t)head->op_count * sizeof(struct plan_op) + head->data_size;
    if (length != expected)
        return bad(c, -1, -1, "has not the length that it says");
    if (head->fd_count < 2 || head->fd_count > head->slot_count || head->slot_count > PLAN_MAX_SLOTS)
        return bad(c, -1, -1, "has a wrong number of slots");
    if (head->first_fd < 3 || head->flags != 0)
        return bad(c, -1, -1, "has a wrong header");
    for (unsigned i = 0; i < 5; i++)
        if (head->reserved[i] != 0)
            return bad(c, -1, -1, "has a wrong header");
    return 0;
}

int check_plan(const void *bytes, size_t length, struct plan_fault *fault) {
    struct check c = {.head = bytes, .fault = fault};
    const char *why;

    if (check_header(&c, length) < 0)
        return -1;
    c.ops = (const struct plan_op *)((const unsigned char *)bytes + sizeof(*c.head));
    c.data = (const unsigned char *)(c.ops + c.head->op_count);
    for (uint32_t i = 0; i < c.head->fd_count; i++)
        c.defined[i / 32] |= 1u << (i % 32);
    for (int32_t i = 0; i < (int32_t)c.head->op_count; i++) {
        const struct plan_op *op = &c.ops[i];

        if (op->code >= CODES || kinds[op->code][0] == '\0')
            return bad(&c, i, -1, "is unknown");
        if (check_flags(&c, i, op) < 0)
            return -1;
        if (op->code == OP_SYSCALL ? check_syscall(&c, i, op) < 0 : check_arguments(&c, i, op) < 0)
            return -1;
        why = meaning_fault(&c, op);
        if (why != NULL)
            return bad(&c, i, -1, why);
    }
    return check_order(&c);
}

#define NAME(call)                                                                                                     \
    if (number == __NR_##call)                                                                                         \
        return #call;

const char *syscall_name(uint64_t number) {
    NAME(prlimit64)
    NAME(sched_setattr)
    NAME(sched_setaffinity)
    NAME(setpriority)
    NAME(ioprio_set)
    NAME(set_mempolicy)
    NAME(personality)
    NAME(keyctl)
    NAME(sethostname)
    NAME(setdomainname)
    NAME(umask)
    NAME(mount)
    NAME(umount2)
    NAME(prctl)
    NAME(setsid)
    return NULL;
}
