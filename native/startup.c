/*
 * Link-time wraps that shorten CPython's own start (static variant only; each is used when libpython
 * has the symbol, see native/build_launcher.py).
 */
#define Py_BUILD_CORE 1
#include <Python.h>

#include "internal/pycore_code.h"
#include "internal/pycore_gc.h"

#ifdef WRAP_DEEPFREEZE
/*
 * The original interns the strings of every deep-frozen module of the standard library, which touches
 * some 100 pages.  Only importlib's bootstrap runs from a deep-frozen image here: what else is needed of
 * the standard library is frozen anew by native/freeze.py.
 */
#if PY_VERSION_HEX < 0x030c0000
#define PREPARE_CODE _PyStaticCode_InternStrings
#else
#define PREPARE_CODE _PyStaticCode_Init
#endif
PyObject *_Py_get_importlib__bootstrap_toplevel(void);
int __wrap__Py_Deepfreeze_Init(void);

int __wrap__Py_Deepfreeze_Init(void) {
    PyObject *code = _Py_get_importlib__bootstrap_toplevel();
    int result = PREPARE_CODE((PyCodeObject *)code);

    Py_DECREF(code);
    return result;
}
#endif

#ifdef WRAP_GC
/* Collections during the start find nothing: the collector is off from birth. */
void __real__PyGC_InitState(struct _gc_runtime_state *state);
void __wrap__PyGC_InitState(struct _gc_runtime_state *state);

void __wrap__PyGC_InitState(struct _gc_runtime_state *state) {
    __real__PyGC_InitState(state);
    state->enabled = 0;
}
#endif

#if defined(WRAP_CONSTANTS) || defined(WRAP_TABLES)
#include "frozen_modules.h"

/* Whether a frozen module has this name in it; some other names pass too, which does no harm. */
static int is_wanted(const char *name) {
    static const unsigned char names[] = {NAMES};
    uint32_t number = 2166136261u;

    for (; *name != '\0'; name++) {
        if (*name >= 'a' && *name <= 'z')
            return 1; /* only constants are in the bitmap */
        number = (number ^ (unsigned char)*name) * 16777619u;
    }
    number >>= 32 - NAME_BITS;
    return names[number / 8] >> number % 8 & 1;
}
#endif

#ifdef WRAP_CONSTANTS
/* Built-in modules have some 1200 constants of the system's headers. */
int __real_PyModule_AddIntConstant(PyObject *module, const char *name, long value);
int __wrap_PyModule_AddIntConstant(PyObject *module, const char *name, long value);

int __wrap_PyModule_AddIntConstant(PyObject *module, const char *name, long value) {
    return is_wanted(name) ? __real_PyModule_AddIntConstant(module, name, value) : 0;
}
#endif

#ifdef WRAP_TABLES
/* The names of posix.sysconf(), confstr() and pathconf() are entered here one by one. */
int __real_PyDict_SetItemString(PyObject *dict, const char *name, PyObject *value);
int __wrap_PyDict_SetItemString(PyObject *dict, const char *name, PyObject *value);

int __wrap_PyDict_SetItemString(PyObject *dict, const char *name, PyObject *value) {
    if ((name[0] == 'S' || name[0] == 'P' || name[0] == 'C') && (name[1] == 'C' || name[1] == 'S') && name[2] == '_' &&
        !is_wanted(name))
        return 0;
    return __real_PyDict_SetItemString(dict, name, value);
}
#endif
