/*
 * `import` for the launcher, in place of importlib (whose start is a sixth of a command's whole life).
 *
 * Modules are frozen, built in, or in the short list of shared objects that the build wrote down; there is no search,
 * no spec, no loader and no relative import.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <marshal.h>

#include <string.h>

#include "import.h"

static const struct shared_module *shared_modules;
static PyObject *path_name; /* "__path__", which packages define */

/* What PyModule_FromDefAndSpec() and _imp.create_dynamic() want of a spec; a module serves as well as any object. */
static PyObject *make_spec(PyObject *name, const char *origin) {
    PyObject *spec = PyModule_NewObject(name);

    if (spec != NULL && (PyObject_SetAttrString(spec, "name", name) < 0 ||
                         (origin != NULL && PyModule_AddStringConstant(spec, "origin", origin) < 0)))
        Py_CLEAR(spec);
    return spec;
}

/* Register a module under its name; the reference comes back, or NULL. */
static PyObject *enter(PyObject *name, PyObject *module) {
    if (module != NULL && PyDict_SetItem(PyImport_GetModuleDict(), name, module) < 0)
        Py_CLEAR(module);
    return module;
}

/* Undo enter() after a failure, which stays the error; NULL. */
static PyObject *leave(PyObject *name, PyObject *module) {
    PyObject *type, *value, *trace;

    PyErr_Fetch(&type, &value, &trace);
    PyDict_DelItem(PyImport_GetModuleDict(), name);
    PyErr_Restore(type, value, trace);
    Py_DECREF(module);
    return NULL;
}

static PyObject *load_builtin(PyObject *name, PyObject *(*init)(void)) {
    PyObject *made = init(), *spec, *module;
    PyModuleDef *def;

    if (made == NULL)
        return NULL;
    if (!PyObject_TypeCheck(made, &PyModuleDef_Type)) { /* single-phase initialisation (PEP 489) */
        def = PyModule_GetDef(made);
        if (def != NULL && PyState_AddModule(made, def) < 0)
            Py_CLEAR(made);
        return enter(name, made);
    }
    def = (PyModuleDef *)made; /* static, not ours to release */
    spec = make_spec(name, NULL);
    module = spec == NULL ? NULL : PyModule_FromDefAndSpec(def, spec);
    Py_XDECREF(spec);
    if (module != NULL && PyModule_ExecDef(module, def) < 0)
        Py_CLEAR(module);
    return enter(name, module);
}

static PyObject *import_name(PyObject *name);

/* The shared object at `path` as module `name`, whether it is loaded or not. */
static PyObject *load_shared(PyObject *name, const char *path) {
    PyObject *imp_name = PyUnicode_FromString("_imp"), *imp = NULL, *spec = NULL, *module = NULL, *done = NULL;

    if (imp_name != NULL && (imp = import_name(imp_name)) != NULL && (spec = make_spec(name, path)) != NULL)
        module = enter(name, PyObject_CallMethod(imp, "create_dynamic", "O", spec));
    if (module != NULL && (done = PyObject_CallMethod(imp, "exec_dynamic", "O", module)) == NULL)
        module = leave(name, module);
    Py_XDECREF(done);
    Py_XDECREF(spec);
    Py_XDECREF(imp);
    Py_XDECREF(imp_name);
    return module;
}

/* PyImport_ImportFrozenModuleObject() would look among the standard library's first. */
static PyObject *load_frozen(PyObject *name, const struct _frozen *frozen) {
    PyObject *code = NULL, *path = NULL, *result = NULL;
    PyObject *module = enter(name, PyModule_NewObject(name));
    PyObject *names = module == NULL ? NULL : PyModule_GetDict(module);

    if (names == NULL || PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) < 0)
        goto done;
    if (frozen->is_package && ((path = PyList_New(0)) == NULL || PyDict_SetItem(names, path_name, path) < 0))
        goto done;
#if PY_VERSION_HEX >> 16 == 0x030b
    if (frozen->get_code != NULL)
        code = frozen->get_code();
    else
#endif
        code = PyMarshal_ReadObjectFromString((const char *)frozen->code, frozen->size);
    if (code != NULL)
        result = PyEval_EvalCode(code, names, names);
done:
    if (module != NULL && result == NULL)
        module = leave(name, module);
    Py_XDECREF(result);
    Py_XDECREF(code);
    Py_XDECREF(path);
    return module;
}

static PyObject *load(PyObject *name) {
    const char *text = PyUnicode_AsUTF8(name);

    if (text == NULL)
        return NULL;
    for (const struct _frozen *frozen = PyImport_FrozenModules; frozen->name != NULL; frozen++)
        if (strcmp(frozen->name, text) == 0)
            return load_frozen(name, frozen);
    for (const struct _inittab *entry = PyImport_Inittab; entry->name != NULL; entry++)
        if (entry->initfunc != NULL && strcmp(entry->name, text) == 0)
            return load_builtin(name, entry->initfunc);
    for (const struct shared_module *shared = shared_modules; shared->name != NULL; shared++)
        if (strcmp(shared->name, text) == 0)
            return load_shared(name, shared->path);
    PyErr_SetImportErrorSubclass(PyExc_ModuleNotFoundError, PyUnicode_FromFormat("No module named %R", name), name,
                                 NULL);
    return NULL;
}

/* The module with the full name, its packages imported before it; a new reference. */
static PyObject *import_name(PyObject *name) {
    PyObject *module = PyDict_GetItemWithError(PyImport_GetModuleDict(), name), *package, *head, *tail;
    Py_ssize_t length, dot;

    if (module != NULL || PyErr_Occurred()) {
        Py_XINCREF(module);
        return module;
    }
    length = PyUnicode_GET_LENGTH(name);
    dot = PyUnicode_FindChar(name, '.', 0, length, -1); /* the last one */
    if (dot < 0)
        return dot == -1 ? load(name) : NULL;
    head = PyUnicode_Substring(name, 0, dot);
    tail = PyUnicode_Substring(name, dot + 1, length);
    package = head == NULL || tail == NULL ? NULL : import_name(head);
    if (package != NULL) {
        module = load(name);
        if (module != NULL && PyObject_SetAttr(package, tail, module) < 0)
            Py_CLEAR(module);
        Py_DECREF(package);
    }
    Py_XDECREF(head);
    Py_XDECREF(tail);
    return module;
}

/* Whether a module defines the name; its own dictionary says so without an exception. */
static int defines(PyObject *module, PyObject *name) {
    return PyModule_Check(module) ? PyDict_Contains(PyModule_GetDict(module), name) == 1
                                  : PyObject_HasAttr(module, name);
}

/* `from package import item`: the item may be a module that is not imported yet. */
static int import_item(PyObject *package, PyObject *name, PyObject *item) {
    PyObject *below, *module;

    if (defines(package, item))
        return 0;
    below = PyUnicode_FromFormat("%U.%U", name, item);
    if (below == NULL)
        return -1;
    module = import_name(below);
    Py_DECREF(below);
    if (module == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_ModuleNotFoundError))
            return -1;
        PyErr_Clear(); /* the statement itself reports the missing name */
        return 0;
    }
    Py_DECREF(module);
    return 0;
}

/* Called as the statement does: (name, globals, locals, fromlist, level); only a relative import would need globals. */
static PyObject *import_function(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count) {
    PyObject *name, *items = count > 3 ? args[3] : NULL, *module;

    if (count < 1 || count > 5 || !PyUnicode_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "__import__ takes a name and up to four arguments more");
    name = args[0];
    if (count > 4 && PyObject_IsTrue(args[4]) != 0)
        return PyErr_Format(PyExc_ImportError, "relative import of %R", name);
    module = import_name(name);
    if (module == NULL)
        return NULL;
    if (items == NULL || items == Py_None || PyObject_IsTrue(items) != 1) {
        Py_ssize_t dot = PyUnicode_FindChar(name, '.', 0, PyUnicode_GET_LENGTH(name), 1);
        PyObject *top;
        if (dot < 0)
            return module;
        Py_DECREF(module);
        top = PyUnicode_Substring(name, 0, dot);
        module = top == NULL ? NULL : import_name(top);
        Py_XDECREF(top);
        return module;
    }
    if (!PyTuple_Check(items)) {
        Py_DECREF(module);
        return PyErr_Format(PyExc_TypeError, "fromlist must be a tuple");
    }
    if (defines(module, path_name))
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items); i++)
            if (import_item(module, name, PyTuple_GET_ITEM(items, i)) < 0) {
                Py_DECREF(module);
                return NULL;
            }
    return module;
}

PyObject *load_extension(PyObject *Py_UNUSED(self), PyObject *args) {
    PyObject *name, *module;
    const char *path;

    if (!PyArg_ParseTuple(args, "Us:load_extension", &name, &path))
        return NULL;
    module = PyDict_GetItemWithError(PyImport_GetModuleDict(), name);
    if (module != NULL || PyErr_Occurred()) {
        Py_XINCREF(module);
        return module;
    }
    return load_shared(name, path);
}

static PyMethodDef import_method = {
    "__import__",
    (PyCFunction)(void (*)(void))import_function,
    METH_FASTCALL,
    "Import a frozen or built-in module.",
};

int install_import(const struct shared_module *shared) {
    PyObject *builtins = PyDict_GetItemString(PyImport_GetModuleDict(), "builtins"), *function;
    int result = -1;

    shared_modules = shared;
    path_name = PyUnicode_InternFromString("__path__");
    if (builtins == NULL || path_name == NULL)
        return -1;
    function = PyCFunction_NewEx(&import_method, NULL, NULL);
    if (function != NULL) {
        result = PyObject_SetAttrString(builtins, "__import__", function);
        Py_DECREF(function);
    }
    return result;
}

PyObject *import_module(const char *text) {
    PyObject *name = PyUnicode_FromString(text), *module = name == NULL ? NULL : import_name(name);

    Py_XDECREF(name);
    return module;
}
