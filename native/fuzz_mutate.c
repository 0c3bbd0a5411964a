/* fuzz_mutate.c: changes of plans that know what a plan looks like, for libFuzzer or, with -DMUTATE, with a main of
 * its own: PROGRAM SECONDS FILE... prints how many inputs were tried. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HEAD sizeof(struct plan_header)
#define OP sizeof(struct plan_op)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static uint64_t state = 20261124;

/* xorshift64 */
uint64_t chance(uint64_t bound) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % bound;
}

size_t length_of_plan(const uint8_t *plan, size_t size) {
    struct plan_header head;
    uint64_t length;

    if (size < sizeof(head))
        return size;
    memcpy(&head, plan, sizeof(head));
    length = sizeof(head) + (uint64_t)head.op_count * OP + head.data_size;
    return length < size ? length : size;
}

/* A number that is likely to matter: small, large, a power of two, a blob of this plan. */
static uint64_t number(size_t size) {
    switch (chance(6)) {
    case 0:
        return chance(64);
    case 1:
        return UINT64_C(1) << chance(chance(2) ? 20 : 64);
    case 2:
        return UINT64_MAX - chance(4);
    case 3:
        return PLAN_BLOB(chance(size + 2), chance(size + 2));
    case 4:
        return PLAN_BLOB(chance(64), chance(16));
    default:
        return chance(UINT32_MAX);
    }
}

/* Any number anywhere, garbage at the end, an end that is cut off. */
static size_t mutate_bytes(uint8_t *plan, size_t size, size_t room) {
    uint64_t value = number(size);
    size_t width = (size_t)1 << chance(4), at = chance(chance(2) ? size : 32);

    if (chance(6) == 0)
        return chance(2) || room == size ? 1 + chance(size) : size + chance(room - size > 64 ? 64 : room - size);
    if (chance(8) == 0) { /* a text that ends later, or is another word */
        width = chance(64);
        if (at + width <= size)
            memset(plan + at, 'k', width);
    } else if (at + width <= size)
        memcpy(plan + at, &value, width);
    return size;
}

/* An operation more (a copy of another) or fewer: the header says so, the data area moves. */
static size_t mutate_count(uint8_t *plan, size_t size, size_t room) {
    struct plan_header head;
    size_t from, at;

    memcpy(&head, plan, HEAD);
    from = HEAD + OP * chance(head.op_count);
    at = HEAD + OP * chance(head.op_count);
    if (chance(2)) {
        uint8_t op[OP];
        if (size + OP > room)
            return size;
        memcpy(op, plan + from, OP);
        memmove(plan + at + OP, plan + at, size - at);
        memcpy(plan + at, op, OP);
        head.op_count++;
        size += OP;
    } else if (head.op_count > 1) {
        memmove(plan + at, plan + at + OP, size - at - OP);
        head.op_count--;
        size -= OP;
    }
    memcpy(plan, &head, HEAD);
    return size;
}

/* One field of one operation. */
static void mutate_op(uint8_t *plan, size_t size) {
    struct plan_header head;
    struct plan_op op, other;
    size_t at, from;

    memcpy(&head, plan, HEAD);
    at = HEAD + OP * chance(head.op_count);
    from = HEAD + OP * chance(head.op_count);
    memcpy(&op, plan + at, OP);
    memcpy(&other, plan + from, OP);
    switch (chance(8)) {
    case 0:
        op.code = (uint16_t)chance(OP_HOME + 3);
        break;
    case 1:
        op.flags ^= (uint16_t)(1u << chance(16));
        break;
    case 2: /* a failure that does not matter, and what happens then */
        op.errnos = (uint32_t)(chance(2) ? chance(134) : chance(UINT32_MAX));
        op.flags = (uint16_t)((op.flags & ~7u) | (op.errnos != 0) << chance(3));
        break;
    case 3: /* what is right elsewhere */
        op.arg[chance(7)] = other.arg[chance(7)];
        break;
    case 4:
        op.arg[chance(7)] = chance((uint64_t)head.slot_count + 2);
        break;
    case 5: { /* the two change places */
        struct plan_op middle = op;
        op = other;
        memcpy(plan + from, &middle, OP);
        break;
    }
    case 6:
        op.arg[chance(7)] ^= UINT64_C(1) << chance(64);
        break;
    default:
        op.arg[chance(7)] = number(size);
    }
    memcpy(plan + at, &op, OP);
}

/* A new string at the end of the data area, of a length where limits are, in place of one argument. */
static size_t mutate_string(uint8_t *plan, size_t size, size_t room) {
    static const unsigned lengths[] = {0, 1, 2, 16, 64, 255, 256, 3000, 4094, 4095, 4096, 5000};
    unsigned length = lengths[chance(sizeof(lengths) / sizeof(lengths[0]))];
    struct plan_header head;
    uint64_t blob;

    memcpy(&head, plan, HEAD);
    if (room - size < length + 2 || size != HEAD + OP * head.op_count + head.data_size)
        return size;
    blob = PLAN_BLOB(head.data_size, length);
    for (unsigned i = 0; i < length; i++)
        plan[size++] = (uint8_t) "aaaaaaaa/.=:"[chance(chance(8) ? 9 : 12)];
    plan[size++] = 0;
    if (chance(2)) { /* a vector of one */
        plan[size++] = 0;
        blob += UINT64_C(1) << 32;
    }
    head.data_size = (uint32_t)(size - HEAD - OP * head.op_count);
    memcpy(plan, &head, HEAD);
    memcpy(plan + HEAD + OP * chance(head.op_count) + 8 + 8 * chance(5), &blob, sizeof(blob));
    return size;
}

size_t mutate_plan(uint8_t *plan, size_t size, size_t room) {
    struct plan_header head;

    if (size < HEAD || chance(8) == 0)
        return size == 0 ? 0 : mutate_bytes(plan, size, room);
    memcpy(&head, plan, HEAD);
    if (head.op_count == 0 || (size - HEAD) / OP < head.op_count)
        return mutate_bytes(plan, size, room);
    if (chance(8) == 0)
        return mutate_count(plan, size, room);
    if (chance(8) == 0)
        return mutate_string(plan, size, room);
    if (chance(16) == 0) { /* a byte of the strings */
        size_t data = HEAD + OP * head.op_count;
        if (data < size)
            plan[data + chance(size - data)] = (uint8_t)chance(chance(2) ? 2 : 256);
        return size;
    }
    mutate_op(plan, size);
    return size;
}

/* What comes behind the plan: answers of a kernel. */
static size_t mutate_tail(uint8_t *bytes, size_t plan, size_t size, size_t room) {
    size_t more = 1 + chance(16);

    if (chance(2) && size + more <= room) {
        for (size_t i = 0; i < more; i++)
            bytes[size++] = (uint8_t)(chance(4) == 0 ? chance(256) : 0);
    } else if (size > plan) {
        bytes[plan + chance(size - plan)] = (uint8_t)chance(256);
    }
    return size;
}

static size_t mutate(uint8_t *bytes, size_t size, size_t room) {
    size_t plan = length_of_plan(bytes, size), tail = size - plan, changed;
    uint8_t *kept;

    if (chance(3) == 0)
        return mutate_tail(bytes, plan, size, room);
    kept = malloc(tail + 1);
    if (kept == NULL)
        return size;
    memcpy(kept, bytes + plan, tail);
    changed = mutate_plan(bytes, plan, room);
    if (tail > room - changed)
        tail = room - changed;
    memcpy(bytes + changed, kept, tail);
    free(kept);
    return changed + tail;
}

#ifdef MUTATE

#define ROOM 65536

int main(int argc, char **argv) {
    static uint8_t plan[ROOM];
    uint8_t(*seeds)[ROOM] = calloc((size_t)argc, ROOM);
    size_t *sizes = calloc((size_t)argc, sizeof(*sizes)), count = 0;
    unsigned long executed = 0;
    time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 0);

    for (int i = 2; i < argc && seeds != NULL && sizes != NULL; i++) {
        FILE *file = fopen(argv[i], "rb");
        sizes[count] = file == NULL ? 0 : fread(seeds[count], 1, ROOM, file);
        if (file != NULL)
            fclose(file);
        if (sizes[count] > 0)
            LLVMFuzzerTestOneInput(seeds[count], sizes[count]);
        count += sizes[count] > 0;
    }
    while (count > 0 && (executed % 1024 != 0 || time(NULL) < end)) {
        size_t seed = chance(count), size = sizes[seed];
        memcpy(plan, seeds[seed], size);
        for (uint64_t n = 1 + chance(4); n > 0; n--)
            size = mutate(plan, size, ROOM);
        LLVMFuzzerTestOneInput(plan, size);
        executed++;
    }
    free(seeds);
    free(sizes);
    printf("%lu\n", executed);
    return 0;
}

#else

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed) {
    state = seed | UINT64_C(0x9e3779b900000000);
    if (size == 0 || chance(6) == 0)
        return LLVMFuzzerMutate(data, size, room);
    for (uint64_t n = 1 + chance(4); n > 0 && size > 0; n--)
        size = mutate(data, size, room);
    return size;
}

#endif
