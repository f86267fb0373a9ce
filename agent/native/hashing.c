/* The key by which all tables remember identifiers, and hashes under it for Python: the twin of agent/hashing.py. */

#include "hashing.h"

#include <sys/random.h>

static uint64_t key[2];
const uint64_t *hash_key = key;

/* -1 with an exception set. */
static int add(uint64_t *hash, PyObject *text)
{
    Py_ssize_t length;
    const char *at;
    if (PyBytes_Check(text)) {
        at = PyBytes_AS_STRING(text);
        length = PyBytes_GET_SIZE(text);
    } else if (PyUnicode_Check(text)) {
        at = PyUnicode_AsUTF8AndSize(text, &length);
        if (at == NULL)
            return -1;
    } else {
        PyErr_SetString(PyExc_TypeError, "identifiers are bytes or str");
        return -1;
    }
    *hash = hash_join(*hash, hash_text(at, (size_t)length));
    return 0;
}

static PyObject *identify(PyObject *Py_UNUSED(self), PyObject *const *texts, Py_ssize_t count)
{
    uint64_t hash = (uint64_t)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (add(&hash, texts[i]) < 0)
            return NULL;
    }
    return PyLong_FromUnsignedLongLong(hash);
}

static PyObject *set_key(PyObject *Py_UNUSED(self), PyObject *bytes)
{
    if (!PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) != sizeof(key)) {
        PyErr_Format(PyExc_ValueError, "the key is %zu bytes", sizeof(key));
        return NULL;
    }
    memcpy(key, PyBytes_AS_STRING(bytes), sizeof(key));
    Py_RETURN_NONE;
}

static PyObject *get_key(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return PyBytes_FromStringAndSize((const char *)key, sizeof(key));
}

static PyMethodDef methods[] = {
    {"identify", (PyCFunction)(void (*)(void))identify, METH_FASTCALL, "identify(*texts) -> int of 64 bits"},
    {"set_key", set_key, METH_O, "set_key(key): 16 bytes; before anything is remembered"},
    {"get_key", get_key, METH_NOARGS, "get_key() -> bytes"},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._hashing",
    .m_doc = "Compiled twin of agent.hashing.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__hashing(void)
{
    if (getentropy(key, sizeof(key)) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *m = PyModule_Create(&module);
    if (m == NULL)
        return NULL;
    PyObject *capsule = PyCapsule_New(key, HASHING_KEY, NULL);
    int failed = PyModule_AddObjectRef(m, "key", capsule);
    Py_XDECREF(capsule);
    if (failed < 0)
        Py_CLEAR(m);
    return m;
}
