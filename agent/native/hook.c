/* The compiled twin of the hook's plain requests and answers: agent/ingress/hook/wire.py says what they mean.
 *
 * read_requests takes apart what almost every ScreenStreamRequest is made of: raw messages, every field once and in its
 * own wire type, plain ASCII text. Of anything else it returns None, for protobuf to read; so a message has one meaning,
 * and what is odd costs time and not correctness. allowed writes the answer that almost every call gets.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "contract.h"

/* Attributes of Observation in the order of its fields, and the words for transport. */
enum { RAW, ATTR_TRANSPORT, SOURCE, ATTR_SOURCE_PORT, DESTINATION, DESTINATION_PORT, WHEN, ATTR_TRUNK, ATTR_CUSTOMER,
       ATTRIBUTES };
static const char *const ATTRIBUTE_NAMES[ATTRIBUTES] = {"raw", "transport", "source", "source_port", "destination",
                                                        "destination_port", "when", "trunk", "customer"};
static PyObject *attribute_names[ATTRIBUTES];
static PyObject *transports[TRANSPORTS];
static PyObject *empty_text;

static PyObject *text_of(const Chars *text)
{
    if (text->length == 0)
        return Py_NewRef(empty_text);
    return PyUnicode_FromStringAndSize((const char *)text->start, (Py_ssize_t)text->length);
}

/* An Observation, made like its own __init__ makes it: by setting its attributes. */
static PyObject *observation(PyTypeObject *type, const Fields *fields, PyObject *transport, PyObject *now)
{
    int64_t micros = (int64_t)fields->number[RECEIVED_AT];
    const Chars *raw = &fields->text[SIP_MESSAGE];
    PyObject *values[ATTRIBUTES] = {
        [RAW] = PyBytes_FromStringAndSize((const char *)raw->start, (Py_ssize_t)raw->length),
        [ATTR_TRANSPORT] = Py_NewRef(transport),
        [SOURCE] = text_of(&fields->text[SOURCE_ADDRESS]),
        [ATTR_SOURCE_PORT] = PyLong_FromUnsignedLongLong(fields->number[SOURCE_PORT]),
        [DESTINATION] = text_of(&fields->text[LOCAL_ADDRESS]),
        [DESTINATION_PORT] = PyLong_FromUnsignedLongLong(fields->number[LOCAL_PORT]),
        [WHEN] = micros > 0 ? PyFloat_FromDouble((double)micros * 1e-6) : Py_NewRef(now),
        [ATTR_TRUNK] = text_of(&fields->text[TRUNK]),
        [ATTR_CUSTOMER] = text_of(&fields->text[CUSTOMER]),
    };
    PyObject *made = type->tp_alloc(type, 0);
    int failed = made == NULL;
    for (int i = 0; i < ATTRIBUTES; i++) {
        failed = failed || values[i] == NULL || PyObject_SetAttr(made, attribute_names[i], values[i]) < 0;
        Py_XDECREF(values[i]);
    }
    if (failed)
        Py_CLEAR(made);
    return made;
}

/* (id, observation, True, ""), NULL with an exception. */
static PyObject *request(PyTypeObject *type, const Fields *fields, PyObject *now)
{
    PyObject *made = observation(type, fields, transports[transport_of(&fields->text[TRANSPORT])], now);
    PyObject *number = made ? PyLong_FromUnsignedLongLong(fields->number[ID]) : NULL;
    PyObject *result = number ? PyTuple_Pack(4, number, made, Py_True, empty_text) : NULL;
    Py_XDECREF(made);
    Py_XDECREF(number);
    return result;
}

static PyObject *read_requests(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs != 3 || !PyBytes_Check(args[0]) || !PyFloat_Check(args[1]) || !PyType_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "read_requests(bytes, float, type)");
        return NULL;
    }
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(args[0]);
    const uint8_t *stop = at + PyBytes_GET_SIZE(args[0]), *end;
    PyObject *result = PyList_New(0);
    while (result != NULL && at < stop) {
        Fields fields;
        PyObject *one = NULL;
        if (PyList_GET_SIZE(result) < BATCH_MAX && next_request(at, stop, &end, &fields) != NULL)
            one = request((PyTypeObject *)args[2], &fields, args[1]);
        if (one == NULL || PyList_Append(result, one) < 0) {
            Py_XDECREF(one);
            Py_DECREF(result);
            return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
        }
        Py_DECREF(one);
        at = end;
    }
    return result;
}

static PyObject *allowed(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    if (nargs != 3 || !PyTuple_Check(args[1]) || !PyBytes_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "allowed(int, tuple, bytes)");
        return NULL;
    }
    uint64_t number = PyLong_AsUnsignedLongLong(args[0]);
    if (number == (uint64_t)-1 && PyErr_Occurred())
        return NULL;
    size_t tail = (size_t)PyBytes_GET_SIZE(args[2]);
    size_t size = 1 + varint_size(number) + 2 + tail;
    Py_ssize_t rows = PyTuple_GET_SIZE(args[1]);
    for (Py_ssize_t i = 0; i < rows; i++) {
        PyObject *value = PyTuple_GET_ITEM(args[1], i);
        if (!PyBytes_Check(value)) {
            PyErr_SetString(PyExc_TypeError, "an Identity row is bytes");
            return NULL;
        }
        size_t row = row_size((size_t)PyBytes_GET_SIZE(value));
        size += 1 + varint_size(row) + row;
    }
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(1 + varint_size(size) + size));
    if (result == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(result);
    *at++ = 1 << 3 | 2; /* ScreenStreamResponse.responses */
    at = write_varint(at, size);
    *at++ = 1 << 3; /* id */
    at = write_varint(at, number);
    at = write_bytes(at, "\x10\x01", 2); /* decision: DECISION_ALLOW */
    for (Py_ssize_t i = 0; i < rows; i++) {
        PyObject *value = PyTuple_GET_ITEM(args[1], i);
        size_t length = (size_t)PyBytes_GET_SIZE(value);
        *at++ = 4 << 3 | 2; /* egress_headers */
        at = write_varint(at, row_size(length));
        at = write_bytes(at, IDENTITY_NAME, IDENTITY_NAME_SIZE);
        at = write_varint(at, length);
        at = write_bytes(at, PyBytes_AS_STRING(value), length);
    }
    write_bytes(at, PyBytes_AS_STRING(args[2]), tail);
    return result;
}

static PyMethodDef methods[] = {
    {"read_requests", (PyCFunction)(void (*)(void))read_requests, METH_FASTCALL,
     "read_requests(data, now, Observation) -> list of (id, observation, True, \"\"), or None for protobuf to read"},
    {"allowed", (PyCFunction)(void (*)(void))allowed, METH_FASTCALL,
     "allowed(id, identity, tail) -> a ScreenResponse that allows, framed"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._hook",
    .m_doc = "The compiled twin of the hook's plain requests and answers.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__hook(void)
{
    empty_text = PyUnicode_InternFromString("");
    if (empty_text == NULL)
        return NULL;
    for (int i = 0; i < ATTRIBUTES; i++)
        if ((attribute_names[i] = PyUnicode_InternFromString(ATTRIBUTE_NAMES[i])) == NULL)
            return NULL;
    for (int i = 0; i < TRANSPORTS; i++)
        if ((transports[i] = PyUnicode_InternFromString(TRANSPORT_NAMES[i])) == NULL)
            return NULL;
    return PyModule_Create(&definition);
}
