/* The launcher's own `import` (import.c). */
#ifndef OCIRUNTIME_IMPORT_H
#define OCIRUNTIME_IMPORT_H

#include <Python.h>

/* A standard extension module that is not built in here; a table of them ends with a NULL name. */
struct shared_module {
    const char *name, *path;
};

/* Put `import` in place, to be called once after initialisation; -1 on failure. */
int install_import(const struct shared_module *shared);

/* The module with the full dotted name, a new reference, or NULL with the exception set. */
PyObject *import_module(const char *name);

/* For _launcher: load_extension(name, path) -> module. */
PyObject *load_extension(PyObject *self, PyObject *args);

#endif
