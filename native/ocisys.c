/*
 * _ocisys: the few system calls that the hot path needs and CPython's built-in modules lack.
 *
 * Built into the launcher and, from the same source, as an extension module for the full interpreter, so
 * that both worlds make the same calls.  (`_signal` cannot be imported in the core phase; `time` reads
 * /etc/localtime and makes types that nobody needs.)
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef __NR_close_range
#define __NR_close_range 436
#endif
#ifndef __NR_pidfd_send_signal
#define __NR_pidfd_send_signal 424
#endif

PyMODINIT_FUNC PyInit__ocisys(void);

/* -1 and errno become OSError; everything else an int. */
static PyObject *result_of(long result) {
    if (result < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromLong(result);
}

static PyObject *sys_pidfd_send_signal(PyObject *Py_UNUSED(module), PyObject *args) {
    int pidfd, signum;

    if (!PyArg_ParseTuple(args, "ii:pidfd_send_signal", &pidfd, &signum))
        return NULL;
    if (syscall(__NR_pidfd_send_signal, pidfd, signum, NULL, 0) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *sys_close_range(PyObject *Py_UNUSED(module), PyObject *args) {
    unsigned int first, last, flags = 0;

    if (!PyArg_ParseTuple(args, "II|I:close_range", &first, &last, &flags))
        return NULL;
    if (syscall(__NR_close_range, first, last, flags) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *sys_prctl(PyObject *Py_UNUSED(module), PyObject *args) {
    int option;
    unsigned long arg2 = 0, arg3 = 0, arg4 = 0, arg5 = 0;

    if (!PyArg_ParseTuple(args, "i|kkkk:prctl", &option, &arg2, &arg3, &arg4, &arg5))
        return NULL;
    return result_of(prctl(option, arg2, arg3, arg4, arg5));
}

static PyObject *sys_reset_signals(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    static const long by_default[8]; /* struct sigaction as the kernel has it: SIG_DFL and nothing else */
    sigset_t none;

    /* Of a broken pipe and a file that is too large write(2) tells as well.  SIGKILL and SIGSTOP refuse; 32 and 33 are
     * libc's own, but a caller may have left them ignored all the same. */
    for (int signum = 1; signum < NSIG; signum++)
        if (signum == 32 || signum == 33)
            syscall(SYS_rt_sigaction, signum, by_default, NULL, 8);
        else
            signal(signum, signum == SIGPIPE || signum == SIGXFSZ ? SIG_IGN : SIG_DFL);
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *sys_signalfd(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *signums;
    sigset_t set;
    int fd;

    if (!PyArg_ParseTuple(args, "O!:signalfd", &PyTuple_Type, &signums))
        return NULL;
    sigemptyset(&set);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(signums); i++) {
        long signum = PyLong_AsLong(PyTuple_GET_ITEM(signums, i));
        if (signum == -1 && PyErr_Occurred())
            return NULL;
        if (signum < 1 || signum >= NSIG || sigaddset(&set, (int)signum) < 0) {
            PyErr_Format(PyExc_ValueError, "no such signal: %ld", signum);
            return NULL;
        }
    }
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        close(fd);
        return NULL;
    }
    return PyLong_FromLong(fd);
}

static PyObject *sys_monotonic(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    struct timespec now;

    if (clock_gettime(CLOCK_MONOTONIC, &now) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyFloat_FromDouble((double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
}

static PyObject *sys_sleep(PyObject *Py_UNUSED(module), PyObject *argument) {
    double seconds = PyFloat_AsDouble(argument);
    struct timespec left;
    int error;

    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    if (!(seconds >= 0.0 && seconds < 1e9))
        return PyErr_Format(PyExc_ValueError, "sleep length must be from 0 to 1e9 s");
    left.tv_sec = (time_t)seconds;
    left.tv_nsec = (long)((seconds - (double)left.tv_sec) * 1e9);
    do {
        Py_BEGIN_ALLOW_THREADS;
        error = clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left);
        Py_END_ALLOW_THREADS;
        if (error == EINTR && PyErr_CheckSignals() < 0)
            return NULL;
    } while (error == EINTR);
    Py_RETURN_NONE;
}

static PyObject *sys_timestamp(PyObject *Py_UNUSED(module), PyObject *args) {
    struct timespec now;
    struct tm date;
    char text[64], fraction[16] = "";
    int nanoseconds = 0;

    if (!PyArg_ParseTuple(args, "|p:timestamp", &nanoseconds))
        return NULL;
    if (clock_gettime(CLOCK_REALTIME, &now) < 0 || gmtime_r(&now.tv_sec, &date) == NULL)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (nanoseconds)
        snprintf(fraction, sizeof(fraction), ".%09ld", now.tv_nsec);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &date);
    return PyUnicode_FromFormat("%s%sZ", text, fraction);
}

static PyMethodDef ocisys_methods[] = {
    {"pidfd_send_signal", sys_pidfd_send_signal, METH_VARARGS,
     "pidfd_send_signal(pidfd, signum): pidfd_send_signal(2) with no siginfo; OSError."},
    {"close_range", sys_close_range, METH_VARARGS,
     "close_range(first, last, flags=0): close_range(2); flags 2 = unshare, 4 = cloexec; OSError."},
    {"prctl", sys_prctl, METH_VARARGS, "prctl(option, arg2=0, arg3=0, arg4=0, arg5=0) -> int: prctl(2); OSError."},
    {"reset_signals", sys_reset_signals, METH_NOARGS,
     "reset_signals(): every disposition to its default (SIGPIPE and SIGXFSZ ignored), empty signal mask."},
    {"signalfd", sys_signalfd, METH_VARARGS,
     "signalfd(signums) -> fd: block the signals of the tuple and read them from a new descriptor\n"
     "(close-on-exec, non-blocking; records of 128 bytes, the first word is the number); OSError."},
    {"monotonic", sys_monotonic, METH_NOARGS, "monotonic() -> float: seconds of CLOCK_MONOTONIC."},
    {"sleep", sys_sleep, METH_O, "sleep(seconds): wait so long; ValueError for what is not from 0 to 1e9."},
    {"timestamp", sys_timestamp, METH_VARARGS,
     "timestamp(nanoseconds=False) -> str: now in UTC, as RFC 3339 has it, with nine digits after the second or none."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot ocisys_slots[] = {
    {0, NULL},
};

static struct PyModuleDef ocisys_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_ocisys",
    .m_doc = "System calls of the hot path that CPython's built-in modules lack.",
    .m_methods = ocisys_methods,
    .m_slots = ocisys_slots,
};

PyMODINIT_FUNC PyInit__ocisys(void) {
    return PyModuleDef_Init(&ocisys_module);
}
