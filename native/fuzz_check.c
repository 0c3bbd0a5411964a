/* fuzz_check.c: whatever check_plan accepts can be read as init reads it.  Built with ASan and UBSan, and with
 * fuzz_mutate.c, for libFuzzer or with that file's own main.
 *
 * Nothing is executed.  Every argument of an accepted plan is used as its operation would use it: slots index the
 * table, words end, vectors have their strings; the sanitizers see what lies outside.
 */
#include "check.h"
#include "plan.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static volatile size_t sink;

static void use_blob(const char *data, uint64_t blob) {
    if (blob != PLAN_NONE)
        sink += strlen(data + (uint32_t)blob) + (size_t)(unsigned char)data[(uint32_t)blob + (blob >> 32)];
}

static void use_vector(const char *data, uint64_t blob, uint64_t count) {
    const char *text = data + (uint32_t)blob;

    for (uint64_t i = 0; i < count; i++)
        text += strlen(text) + 1;
    if (text != data + (uint32_t)blob + (blob >> 32))
        abort();
}

static void use_slot(const int *slots, uint64_t slot) {
    if (slot != PLAN_NONE)
        sink += (size_t)slots[slot];
}

static void use(const struct plan_op *op, const char *data, const int *slots) {
    switch (op->code) {
    case OP_EXEC:
        use_vector(data, op->arg[0], op->arg[1]);
        use_vector(data, op->arg[2], op->arg[3]);
        use_blob(data, op->arg[4]);
        break;
    case OP_FSMOUNT:
        use_slot(slots, op->arg[0]);
        use_blob(data, op->arg[1]);
        use_blob(data, op->arg[2]);
        use_vector(data, op->arg[3], op->arg[4]);
        break;
    case OP_SYSCALL:
        for (unsigned i = 0; i < 6; i++)
            switch (op->flags >> (4 + 2 * i) & 3) {
            case PLAN_ARG_BLOB:
                use_blob(data, op->arg[i + 1]);
                break;
            case PLAN_ARG_SLOT:
                use_slot(slots, op->arg[i + 1]);
                break;
            }
        break;
    case OP_ATTACH:
        use_slot(slots, op->arg[0]);
        use_slot(slots, op->arg[1]);
        use_blob(data, op->arg[2]);
        use_slot(slots, op->arg[5]);
        break;
    case OP_MASK:
        use_slot(slots, op->arg[2]);
        use_slot(slots, op->arg[3]);
        /* fall through */
    case OP_CHDIR:
    case OP_WRITE:
    case OP_MKDIR:
    case OP_MKFILE:
    case OP_MKNOD:
    case OP_READONLY:
        use_slot(slots, op->arg[0]);
        use_blob(data, op->arg[1]);
        break;
    case OP_OPEN:
    case OP_TREE:
    case OP_ROOT:
    case OP_COPYUP:
    case OP_UNMOUNT:
        use_slot(slots, op->arg[0]);
        use_slot(slots, op->arg[1]);
        use_blob(data, op->arg[2]);
        break;
    case OP_FIND_EXE:
        use_blob(data, op->arg[0]);
        use_blob(data, op->arg[1]);
        break;
    case OP_SYMLINK:
        use_blob(data, op->arg[1]);
        use_blob(data, op->arg[2]);
        break;
    case OP_SETNS:
    case OP_GATE:
    case OP_CLOSE:
    case OP_PIVOT:
    case OP_CONSOLE:
        use_slot(slots, op->arg[0]);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    struct plan_fault fault = {0};
    const struct plan_header *head;
    const struct plan_op *ops;
    char *copy;
    int *slots;

    copy = malloc(size > 0 ? size : 1); /* aligned, and ends where the plan ends */
    if (copy == NULL)
        return 0;
    if (size > 0)
        memcpy(copy, bytes, size);
    if (check_plan(copy, size, &fault) < 0) {
        if (fault.why == NULL || strlen(fault.why) == 0)
            abort();
        free(copy);
        return 0;
    }
    head = (const void *)copy;
    ops = (const void *)(head + 1);
    slots = calloc(head->slot_count, sizeof(*slots));
    for (uint32_t i = 0; slots != NULL && i < head->op_count; i++) {
        if ((ops[i].flags & PLAN_F_ALT) != 0 && i + 1 == head->op_count)
            abort();
        use(&ops[i], (const char *)(ops + head->op_count), slots);
    }
    free(slots);
    free(copy);
    return 0;
}
