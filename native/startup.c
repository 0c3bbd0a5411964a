/*
 * Two link-time wraps that shorten CPython's own start (static variant only; each is used when libpython
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
