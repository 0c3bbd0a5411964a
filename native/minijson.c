/*
 * _ocijson: a strict reader of JSON text (RFC 8259) and a string encoder, on CPython's public API.
 *
 * Stricter than RFC 8259 where config.json has to be: UTF-8 only and no byte order mark, no name twice in
 * an object (runtime-spec, "glossary": JSON), no NUL in a string (the class of CVE-2021-43784), no lone
 * surrogate, a depth limit.  Integers are exact; NaN and Infinity do not exist.
 *
 * Every error is ValueError(message, byte offset).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

PyMODINIT_FUNC PyInit__ocijson(void);

enum {
    DEFAULT_DEPTH = 128,
    MAX_DEPTH = 1000,
    MAX_DIGITS = 4000, /* below CPython's own limit (sys.int_info), which would raise another error */
    MAX_NUMBER = MAX_DIGITS + 1,
    NAME_SLOTS = 256, /* a power of two */
    NAME_LENGTH = 48,
};

/* The input ends with a NUL (as every bytes object does), which stops each scanning loop. */
struct reader {
    const unsigned char *start, *at, *end;
    int depth;
    PyObject *names[NAME_SLOTS]; /* object names met before, by hash of their bytes */
};

static PyObject *read_value(struct reader *r);

static PyObject *fail(const struct reader *r, const unsigned char *where, const char *message) {
    PyObject *args;

    PyErr_Clear();
    args = Py_BuildValue("(sn)", message, (Py_ssize_t)(where - r->start));
    if (args != NULL) {
        PyErr_SetObject(PyExc_ValueError, args);
        Py_DECREF(args);
    }
    return NULL;
}

static void skip_space(struct reader *r) {
    while (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r')
        r->at++;
}

static int hex4(const unsigned char *p) {
    int value = 0;

    for (int i = 0; i < 4; i++) {
        unsigned char c = p[i];
        if (c >= '0' && c <= '9')
            value = value * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            value = value * 16 + (c - 'A' + 10);
        else
            return -1; /* the closing NUL included */
    }
    return value;
}

static unsigned char *put_utf8(unsigned char *out, unsigned int c) {
    if (c < 0x80) {
        *out++ = (unsigned char)c;
    } else if (c < 0x800) {
        *out++ = (unsigned char)(0xc0 | (c >> 6));
        *out++ = (unsigned char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *out++ = (unsigned char)(0xe0 | (c >> 12));
        *out++ = (unsigned char)(0x80 | ((c >> 6) & 0x3f));
        *out++ = (unsigned char)(0x80 | (c & 0x3f));
    } else {
        *out++ = (unsigned char)(0xf0 | (c >> 18));
        *out++ = (unsigned char)(0x80 | ((c >> 12) & 0x3f));
        *out++ = (unsigned char)(0x80 | ((c >> 6) & 0x3f));
        *out++ = (unsigned char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* r->at is behind the backslash: append what the escape stands for, or return NULL with the error set. */
static unsigned char *read_escape(struct reader *r, unsigned char *out) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const unsigned char *escape = r->at - 1;
    unsigned char c = *r->at++;
    int code, low;

    if (c != 'u') {
        const char *found = c == '\0' ? NULL : strchr(letters, c);
        if (found == NULL) {
            fail(r, escape, "unknown escape in string");
            return NULL;
        }
        *out++ = (unsigned char)meanings[found - letters];
        return out;
    }
    code = hex4(r->at);
    if (code < 0) {
        fail(r, escape, "\\u needs four hexadecimal digits");
        return NULL;
    }
    r->at += 4;
    if (code == 0) {
        fail(r, escape, "NUL in string");
        return NULL;
    }
    if (code < 0xd800 || code > 0xdfff)
        return put_utf8(out, (unsigned int)code);
    if (code < 0xdc00 && r->at[0] == '\\' && r->at[1] == 'u') {
        low = hex4(r->at + 2);
        if (low >= 0xdc00 && low <= 0xdfff) {
            r->at += 6;
            return put_utf8(out, 0x10000u + (((unsigned int)code - 0xd800u) << 10) + ((unsigned int)low - 0xdc00u));
        }
    }
    fail(r, escape, "lone surrogate in string");
    return NULL;
}

static PyObject *decode(struct reader *r, const unsigned char *from, const char *text, Py_ssize_t length) {
    PyObject *string = PyUnicode_DecodeUTF8(text, length, "strict");

    if (string == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
        return fail(r, from, "invalid UTF-8 in string");
    return string;
}

/* The rest of a string whose first escape is at r->at; `from` is behind the opening quote. */
static PyObject *read_escaped(struct reader *r, const unsigned char *from) {
    const unsigned char *p = r->at;
    unsigned char *buffer, *out;
    PyObject *string = NULL;

    while (*p != '"' && p < r->end)
        p += (*p == '\\' && p + 1 < r->end) ? 2 : 1;
    buffer = PyMem_Malloc((size_t)(p - from) + 1); /* no escape is shorter than its meaning */
    if (buffer == NULL)
        return PyErr_NoMemory();
    memcpy(buffer, from, (size_t)(r->at - from));
    out = buffer + (r->at - from);
    for (;;) {
        unsigned char c = *r->at;
        if (c == '"')
            break;
        if (c < 0x20) {
            fail(r, r->at, r->at == r->end ? "string without end" : "control character in string");
            goto done;
        }
        r->at++;
        if (c != '\\')
            *out++ = c;
        else if ((out = read_escape(r, out)) == NULL)
            goto done;
    }
    r->at++;
    string = decode(r, from, (const char *)buffer, out - buffer);
done:
    PyMem_Free(buffer);
    return string;
}

/* r->at is behind the opening quote.  With `name`, equal short ASCII strings are one object. */
static PyObject *read_string(struct reader *r, int name) {
    const unsigned char *from = r->at, *p = from;
    unsigned int hash = 0;
    unsigned char high = 0;
    Py_ssize_t length;
    PyObject *string, **slot = NULL;

    while (*p != '"' && *p != '\\' && *p >= 0x20) {
        hash = hash * 31 + *p;
        high |= *p++;
    }
    r->at = p;
    if (*p == '\\')
        return read_escaped(r, from);
    if (*p != '"')
        return fail(r, p, p == r->end ? "string without end" : "control character in string");
    r->at = p + 1;
    length = p - from;
    if (high >= 0x80)
        return decode(r, from, (const char *)from, length);
    if (name && length <= NAME_LENGTH) {
        slot = &r->names[(hash ^ (hash >> 8)) & (NAME_SLOTS - 1)];
        if (*slot != NULL && PyUnicode_GET_LENGTH(*slot) == length &&
            memcmp(PyUnicode_1BYTE_DATA(*slot), from, (size_t)length) == 0) {
            Py_INCREF(*slot);
            return *slot;
        }
    }
    string = PyUnicode_New(length, 127);
    if (string == NULL)
        return NULL;
    memcpy(PyUnicode_1BYTE_DATA(string), from, (size_t)length); /* a shared empty string has length 0 */
    if (slot != NULL) {
        Py_INCREF(string);
        Py_XSETREF(*slot, string);
    }
    return string;
}

static PyObject *read_number(struct reader *r) {
    const unsigned char *from = r->at, *p = from;
    char text[MAX_NUMBER + 1];
    Py_ssize_t length;
    int integer = 1;
    PyObject *number;
    double value;

    if (*p == '-')
        p++;
    if (*p < '0' || *p > '9')
        return fail(r, from, "a digit must follow the minus sign");
    if (*p == '0' && p[1] >= '0' && p[1] <= '9')
        return fail(r, from, "leading zero in number");
    while (*p >= '0' && *p <= '9')
        p++;
    if (*p == '.') {
        integer = 0;
        if (*++p < '0' || *p > '9')
            return fail(r, from, "a digit must follow the decimal point");
        while (*p >= '0' && *p <= '9')
            p++;
    }
    if (*p == 'e' || *p == 'E') {
        integer = 0;
        p++;
        if (*p == '+' || *p == '-')
            p++;
        if (*p < '0' || *p > '9')
            return fail(r, from, "a digit must follow the exponent sign");
        while (*p >= '0' && *p <= '9')
            p++;
    }
    r->at = p;
    length = p - from;
    if (integer && length <= 18) {
        long long small = 0;
        for (const unsigned char *d = *from == '-' ? from + 1 : from; d < p; d++)
            small = small * 10 + (*d - '0');
        return PyLong_FromLongLong(*from == '-' ? -small : small);
    }
    if (length > MAX_DIGITS)
        return fail(r, from, "number has too many digits");
    memcpy(text, from, (size_t)length);
    text[length] = '\0';
    if (integer)
        return PyLong_FromString(text, NULL, 10);
    value = PyOS_string_to_double(text, NULL, PyExc_OverflowError);
    if (value == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError))
            return fail(r, from, "number is out of range");
        return NULL;
    }
    number = PyFloat_FromDouble(value);
    return number;
}

static PyObject *read_array(struct reader *r) {
    PyObject *list = PyList_New(0);

    if (list == NULL)
        return NULL;
    skip_space(r);
    if (*r->at == ']') {
        r->at++;
        return list;
    }
    for (;;) {
        PyObject *item = read_value(r);
        int bad = item == NULL || PyList_Append(list, item) < 0;
        Py_XDECREF(item);
        if (bad)
            break;
        skip_space(r);
        if (*r->at == ']') {
            r->at++;
            return list;
        }
        if (*r->at != ',') {
            fail(r, r->at, "expected \",\" or \"]\" in array");
            break;
        }
        r->at++;
    }
    Py_DECREF(list);
    return NULL;
}

/* One `"name": value` into the dict; -1 with the error set. */
static int read_member(struct reader *r, PyObject *dict) {
    const unsigned char *where;
    Py_ssize_t before = PyDict_GET_SIZE(dict);
    PyObject *name, *value;
    int result = -1;

    skip_space(r);
    where = r->at;
    if (*where != '"') {
        fail(r, where, "expected a name in double quotes");
        return -1;
    }
    r->at++;
    name = read_string(r, 1);
    if (name == NULL)
        return -1;
    skip_space(r);
    if (*r->at != ':') {
        fail(r, r->at, "expected \":\" after the name");
        Py_DECREF(name);
        return -1;
    }
    r->at++;
    value = read_value(r);
    if (value != NULL && PyDict_SetItem(dict, name, value) == 0) {
        if (PyDict_GET_SIZE(dict) != before)
            result = 0;
        else
            fail(r, where, "duplicate name in object");
    }
    Py_XDECREF(value);
    Py_DECREF(name);
    return result;
}

static PyObject *read_object(struct reader *r) {
    PyObject *dict = PyDict_New();

    if (dict == NULL)
        return NULL;
    skip_space(r);
    if (*r->at == '}') {
        r->at++;
        return dict;
    }
    while (read_member(r, dict) == 0) {
        skip_space(r);
        if (*r->at == '}') {
            r->at++;
            return dict;
        }
        if (*r->at != ',') {
            fail(r, r->at, "expected \",\" or \"}\" in object");
            break;
        }
        r->at++;
    }
    Py_DECREF(dict);
    return NULL;
}

static PyObject *read_value(struct reader *r) {
    PyObject *value;

    skip_space(r);
    switch (*r->at) {
    case '{':
    case '[':
        if (r->depth-- == 0)
            return fail(r, r->at, "nested too deeply");
        value = *r->at++ == '{' ? read_object(r) : read_array(r);
        r->depth++;
        return value;
    case '"':
        r->at++;
        return read_string(r, 0);
    case 't':
        if (strncmp((const char *)r->at, "true", 4) == 0) {
            r->at += 4;
            Py_RETURN_TRUE;
        }
        break;
    case 'f':
        if (strncmp((const char *)r->at, "false", 5) == 0) {
            r->at += 5;
            Py_RETURN_FALSE;
        }
        break;
    case 'n':
        if (strncmp((const char *)r->at, "null", 4) == 0) {
            r->at += 4;
            Py_RETURN_NONE;
        }
        break;
    default:
        if (*r->at == '-' || (*r->at >= '0' && *r->at <= '9'))
            return read_number(r);
        break;
    }
    return fail(r, r->at, r->at == r->end ? "unexpected end of text" : "expected a value");
}

static PyObject *json_loads(PyObject *Py_UNUSED(module), PyObject *args) {
    struct reader r = {.depth = DEFAULT_DEPTH};
    PyObject *data, *value;

    if (!PyArg_ParseTuple(args, "S|i:loads", &data, &r.depth))
        return NULL;
    if (r.depth < 0 || r.depth > MAX_DEPTH)
        return PyErr_Format(PyExc_OverflowError, "depth must be between 0 and %d", (int)MAX_DEPTH);
    r.start = r.at = (const unsigned char *)PyBytes_AS_STRING(data);
    r.end = r.start + PyBytes_GET_SIZE(data);
    if (memcmp(r.at, "\xef\xbb\xbf", (size_t)(r.end - r.at < 3 ? r.end - r.at + 1 : 3)) == 0)
        return fail(&r, r.at, "byte order mark before the text");
    value = read_value(&r);
    if (value != NULL) {
        skip_space(&r);
        if (r.at != r.end) {
            fail(&r, r.at, "text after the end of the document");
            Py_CLEAR(value);
        }
    }
    for (int i = 0; i < NAME_SLOTS; i++)
        Py_XDECREF(r.names[i]);
    return value;
}

/* How many characters `c` takes inside a JSON string. */
static Py_ssize_t quoted_size(Py_UCS4 c) {
    if (c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t' || c == '\b' || c == '\f')
        return 2;
    return c < 0x20 || (c >= 0xd800 && c <= 0xdfff) ? 6 : 1;
}

static PyObject *json_quote(PyObject *Py_UNUSED(module), PyObject *string) {
    static const char digits[] = "0123456789abcdef";
    Py_ssize_t length, size = 2, at = 0;
    Py_UCS4 widest = 127;
    PyObject *quoted;
    const void *in;
    void *out;
    int in_kind, out_kind;

    if (!PyUnicode_Check(string))
        return PyErr_Format(PyExc_TypeError, "quote() needs a str");
    if (PyUnicode_READY(string) < 0)
        return NULL;
    length = PyUnicode_GET_LENGTH(string);
    in = PyUnicode_DATA(string);
    in_kind = (int)PyUnicode_KIND(string);
    for (Py_ssize_t i = 0; i < length; i++) {
        Py_UCS4 c = PyUnicode_READ(in_kind, in, i);
        Py_ssize_t more = quoted_size(c);
        if (size > PY_SSIZE_T_MAX - more)
            return PyErr_NoMemory();
        size += more;
        if (more == 1 && c > widest)
            widest = c;
    }
    quoted = PyUnicode_New(size, widest);
    if (quoted == NULL)
        return NULL;
    out = PyUnicode_DATA(quoted);
    out_kind = (int)PyUnicode_KIND(quoted);
#define PUT(character) PyUnicode_WRITE(out_kind, out, at++, (Py_UCS4)(character))
    PUT('"');
    for (Py_ssize_t i = 0; i < length; i++) {
        Py_UCS4 c = PyUnicode_READ(in_kind, in, i);
        switch (quoted_size(c)) {
        case 1:
            PUT(c);
            break;
        case 2:
            PUT('\\');
            PUT(c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c == '\b' ? 'b' : c == '\f' ? 'f' : c);
            break;
        default:
            PUT('\\');
            PUT('u');
            for (int shift = 12; shift >= 0; shift -= 4)
                PUT(digits[(c >> shift) & 0xf]);
        }
    }
    PUT('"');
#undef PUT
    return quoted;
}

static PyMethodDef ocijson_methods[] = {
    {"loads", json_loads, METH_VARARGS,
     "loads(data: bytes, depth=128): the value of a strict JSON text; ValueError(message, byte offset)."},
    {"quote", json_quote, METH_O, "quote(string) -> str: the JSON string for it; lone surrogates become \\uXXXX."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot ocijson_slots[] = {
    {0, NULL},
};

static struct PyModuleDef ocijson_module = {
    PyModuleDef_HEAD_INIT,        .m_name = "_ocijson",     .m_doc = "Strict JSON without Python's own json package.",
    .m_methods = ocijson_methods, .m_slots = ocijson_slots,
};

PyMODINIT_FUNC PyInit__ocijson(void) {
    return PyModuleDef_Init(&ocijson_module);
}
