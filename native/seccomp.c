/* seccomp.c: libseccomp, loaded when a filter has to be compiled and not before. */
#include "sys.h"
#include "native.h"

#include <dlfcn.h>
#include <seccomp.h>

#define LIBRARY "libseccomp.so.2"

/* The functions of the library that are used, in a table so that nothing is linked at start. */
static struct {
    void *handle;
    __typeof__(seccomp_version) *version;
    __typeof__(seccomp_init) *init;
    __typeof__(seccomp_release) *release;
    __typeof__(seccomp_arch_add) *arch_add;
    __typeof__(seccomp_arch_native) *arch_native;
    __typeof__(seccomp_attr_set) *attr_set;
    __typeof__(seccomp_rule_add_array) *rule_add_array;
    __typeof__(seccomp_export_bpf) *export_bpf;
    __typeof__(seccomp_syscall_resolve_name_arch) *resolve;
} lib;

#define FIND(member, name) ((*(void **)&lib.member = dlsym(lib.handle, name)) != NULL)

static int find_library(void) {
    if (lib.handle != NULL)
        return 0;
    lib.handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (lib.handle == NULL)
        return -ENOENT;
    if (FIND(version, "seccomp_version") && FIND(init, "seccomp_init") && FIND(release, "seccomp_release") &&
        FIND(arch_add, "seccomp_arch_add") && FIND(arch_native, "seccomp_arch_native") &&
        FIND(attr_set, "seccomp_attr_set") && FIND(rule_add_array, "seccomp_rule_add_array") &&
        FIND(export_bpf, "seccomp_export_bpf") && FIND(resolve, "seccomp_syscall_resolve_name_arch"))
        return 0;
    dlclose(lib.handle);
    lib.handle = NULL;
    return -ENOSYS;
}

int shim_seccomp_version(unsigned int *numbers) {
    const struct scmp_version *version;
    int result = find_library();

    if (result < 0)
        return result;
    version = lib.version();
    numbers[0] = version->major;
    numbers[1] = version->minor;
    numbers[2] = version->micro;
    return 0;
}

/* The number of a system call on an architecture (0: this machine's); below 0 where it has none there. */
int shim_seccomp_resolve(uint32_t arch, const char *name) {
    if (find_library() < 0)
        return -1;
    return lib.resolve(arch == 0 ? lib.arch_native() : arch, name);
}

static int add_rules(scmp_filter_ctx context, const struct filter_rule *rules, size_t count, size_t *failed) {
    for (size_t i = 0; i < count; i++) {
        const struct filter_rule *rule = &rules[i];
        struct scmp_arg_cmp arguments[6];
        int result;

        *failed = i;
        if (rule->arg_count > 6)
            return -EINVAL;
        for (uint32_t k = 0; k < rule->arg_count; k++)
            arguments[k] = (struct scmp_arg_cmp){rule->index[k], (enum scmp_compare)rule->op[k], rule->value[k],
                                                 rule->value_two[k]};
        result = lib.rule_add_array(context, rule->action, rule->syscall, rule->arg_count, arguments);
        if (result < 0)
            return result;
    }
    return 0;
}

/* A memory file with the filter as struct sock_filter[], or a negative errno; *failed: the rule, if it is one. */
int shim_seccomp_compile(uint32_t default_action, const uint32_t *archs, size_t arch_count, const uint32_t *attributes,
                         size_t attribute_count, const struct filter_rule *rules, size_t rule_count, size_t *failed) {
    int result = find_library();
    scmp_filter_ctx context;
    long fd = -1;

    *failed = (size_t)-1;
    if (result < 0)
        return result;
    context = lib.init(default_action);
    if (context == NULL)
        return -ENOMEM;
    /* libseccomp begins with this machine's architecture. */
    for (size_t i = 0; i < arch_count && result >= 0; i++) {
        result = lib.arch_add(context, archs[i]);
        if (result == -EEXIST)
            result = 0;
    }
    for (size_t i = 0; i + 1 < 2 * attribute_count && result >= 0; i += 2)
        result = lib.attr_set(context, (enum scmp_filter_attr)attributes[i], attributes[i + 1]);
    if (result >= 0)
        result = add_rules(context, rules, rule_count, failed);
    if (result >= 0) {
        *failed = (size_t)-1;
        fd = SYS(__NR_memfd_create, "seccomp", 1 /* MFD_CLOEXEC */);
        result = fd < 0 ? (int)fd : lib.export_bpf(context, (int)fd);
    }
    lib.release(context);
    if (result < 0 && fd >= 0)
        SYS(__NR_close, fd);
    return result < 0 ? result : (int)fd;
}
