/*
 * Objects of CPython 3.11 as static data: the vocabulary of the file that native/deepfreeze.py writes.
 *
 * Every object has a count of references that a process cannot bring to zero, so that none is ever freed; whoever
 * looks at a tuple finds the header of the garbage collector in front of it, untracked.
 */
#ifndef DEEPFREEZE_H
#define DEEPFREEZE_H

#define Py_BUILD_CORE 1
#include <Python.h>

#include "internal/pycore_code.h"
#include "internal/pycore_gc.h"
#include "internal/pycore_object.h"
#include "internal/pycore_runtime.h"

#if PY_VERSION_HEX >> 16 != 0x030b
#error "the layout of objects is that of CPython 3.11"
#endif

/* Types of the members that hold objects; N counts elements, with the end mark of text where there is one. */
#define ASCII(N)                                                                                                       \
    struct {                                                                                                           \
        PyASCIIObject head;                                                                                            \
        char data[N];                                                                                                  \
    }
#define TEXT(UNIT, N)                                                                                                  \
    struct {                                                                                                           \
        PyCompactUnicodeObject head;                                                                                   \
        UNIT data[N];                                                                                                  \
    }
#define BYTES(N)                                                                                                       \
    struct {                                                                                                           \
        PyVarObject head;                                                                                              \
        Py_hash_t hash;                                                                                                \
        char data[N];                                                                                                  \
    }
#define INT(N)                                                                                                         \
    struct {                                                                                                           \
        PyVarObject head;                                                                                              \
        digit data[N];                                                                                                 \
    }
#define TUPLE(N)                                                                                                       \
    struct {                                                                                                           \
        PyGC_Head collector;                                                                                           \
        PyVarObject head;                                                                                              \
        PyObject *data[N];                                                                                             \
    }
#define FLOAT PyFloatObject
#define CODE(N) struct _PyCode_DEF(N)

/* Their initial values. */
#define OBJECT(TYPE) _PyObject_IMMORTAL_INIT(&Py##TYPE##_Type)
#define SIZED(TYPE, N) _PyVarObject_IMMORTAL_INIT(&Py##TYPE##_Type, N)
#define STRING(N, KIND, IS_ASCII)                                                                                      \
    {                                                                                                                  \
        .ob_base = OBJECT(Unicode), .length = (N), .hash = -1,                                                         \
        .state = {.kind = (KIND), .compact = 1, .ascii = (IS_ASCII), .ready = 1},                                      \
    }

/* Objects that every process has already. */
#define SMALL_INT(VALUE) ((PyObject *)&_Py_SINGLETON(small_ints)[_PY_NSMALLNEGINTS + (VALUE)])
#define ASCII_CHARACTER(CODE) ((PyObject *)&_Py_SINGLETON(strings).ascii[CODE])
#define LATIN1_CHARACTER(CODE) ((PyObject *)&_Py_SINGLETON(strings).latin1[(CODE)-128])
#define EMPTY_STRING ((PyObject *)&_Py_SINGLETON(strings).literals._empty)
#define BYTE(VALUE) ((PyObject *)&_Py_SINGLETON(bytes_characters)[VALUE])
#define EMPTY_BYTES ((PyObject *)&_Py_SINGLETON(bytes_empty))
#define EMPTY_TUPLE ((PyObject *)&_Py_SINGLETON(tuple_empty))
#define NONE ((PyObject *)&_Py_NoneStruct)
#define TRUE_OBJECT ((PyObject *)&_Py_TrueStruct)
#define FALSE_OBJECT ((PyObject *)&_Py_FalseStruct)
#define ELLIPSIS ((PyObject *)&_Py_EllipsisObject)
#define REF(MEMBER) ((PyObject *)&(MEMBER))

/* A set constant, which is hashed with this process's secret: made of the tuple in its place. */
static inline int make_frozenset(PyObject **place) {
    PyObject *set = PyFrozenSet_New(*place);

    if (set == NULL)
        return -1;
    *place = set;
    return 0;
}

#endif
