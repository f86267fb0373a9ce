/* The compiled twin of the hook's plain requests and answers: agent/ingress/hook/wire.py says what they mean.
 *
 * read_requests takes apart what almost every ScreenStreamRequest is made of: raw messages, every field once and in its
 * own wire type, plain ASCII text. Of anything else it returns None, for protobuf to read; so a message has one meaning,
 * and what is odd costs time and not correctness. allowed writes the answer that almost every call gets.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define BATCH_MAX 1024
#define NAME_MAX_BYTES 64
#define PORT_MAX 65535

/* Fields of ScreenRequest by number. */
enum { ID = 1, SIP_MESSAGE, PARSED, SOURCE_ADDRESS, SOURCE_PORT, LOCAL_ADDRESS, LOCAL_PORT, TRANSPORT, TRUNK, CUSTOMER,
       RECEIVED_AT, FIELDS };

typedef struct {
    const uint8_t *start;
    size_t length;
} Text;

typedef struct {
    uint64_t number[FIELDS];
    Text text[FIELDS];
} Fields;

/* Attributes of Observation in the order of its fields, and the words for transport. */
enum { RAW, ATTR_TRANSPORT, SOURCE, ATTR_SOURCE_PORT, DESTINATION, DESTINATION_PORT, WHEN, ATTR_TRUNK, ATTR_CUSTOMER,
       ATTRIBUTES };
static const char *const ATTRIBUTE_NAMES[ATTRIBUTES] = {"raw", "transport", "source", "source_port", "destination",
                                                        "destination_port", "when", "trunk", "customer"};
static PyObject *attribute_names[ATTRIBUTES];
static const char *const TRANSPORT_NAMES[] = {"udp", "tcp", "tls", "ws"};
static PyObject *transports[4];
static PyObject *empty_text;

/* Reads a varint; NULL where it ends early or has more than ten bytes or 64 bits. */
static const uint8_t *read_varint(const uint8_t *at, const uint8_t *end, uint64_t *value)
{
    uint64_t result = 0;
    for (int shift = 0; shift < 70 && at < end; shift += 7) {
        uint8_t byte = *at++;
        if (shift == 63 && byte > 1)
            return NULL;
        result |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            *value = result;
            return at;
        }
    }
    return NULL;
}

/* Reads the length of a length-delimited field; NULL where the field would end behind `end`. */
static const uint8_t *read_length(const uint8_t *at, const uint8_t *end, size_t *length)
{
    uint64_t value;
    at = read_varint(at, end, &value);
    if (at == NULL || value > (uint64_t)(end - at))
        return NULL;
    *length = (size_t)value;
    return at;
}

static int is_number(unsigned field)
{
    return field == ID || field == SOURCE_PORT || field == LOCAL_PORT || field == RECEIVED_AT;
}

/* Takes one request apart; 0 for anything but a plain one. */
static int read_fields(const uint8_t *at, const uint8_t *end, Fields *fields)
{
    unsigned seen = 0;
    memset(fields, 0, sizeof *fields);
    while (at < end) {
        uint8_t tag = *at++;
        unsigned field = tag >> 3, type = tag & 7; /* a tag of more bytes is of no field of ours */
        if (tag > 127 || field == 0 || field >= FIELDS || field == PARSED || (seen >> field & 1))
            return 0;
        seen |= 1u << field;
        if (is_number(field)) {
            if (type != 0 || (at = read_varint(at, end, &fields->number[field])) == NULL)
                return 0;
        } else {
            if (type != 2 || (at = read_length(at, end, &fields->text[field].length)) == NULL)
                return 0;
            fields->text[field].start = at;
            at += fields->text[field].length;
        }
    }
    return 1;
}

/* Whether what was read is within the bounds of the contract; what is not, Python finds the words for. */
static int is_plain(const Fields *fields)
{
    static const uint8_t named[] = {SOURCE_ADDRESS, LOCAL_ADDRESS, TRANSPORT, TRUNK, CUSTOMER};
    for (size_t i = 0; i < sizeof named; i++) {
        const Text *text = &fields->text[named[i]];
        if (text->length > NAME_MAX_BYTES || (text->length > 0 && text->start[0] == '['))
            return 0;
        for (size_t n = 0; n < text->length; n++)
            if (text->start[n] > 126)
                return 0;
    }
    return fields->text[SIP_MESSAGE].length > 0 && fields->number[SOURCE_PORT] <= PORT_MAX &&
           fields->number[LOCAL_PORT] <= PORT_MAX;
}

/* A borrowed reference to the word, or NULL for one that there is not. */
static PyObject *transport_of(const Text *text)
{
    if (text->length == 0)
        return transports[0];
    for (int i = 0; i < 4; i++)
        if (strlen(TRANSPORT_NAMES[i]) == text->length && memcmp(TRANSPORT_NAMES[i], text->start, text->length) == 0)
            return transports[i];
    return NULL;
}

static PyObject *text_of(const Text *text)
{
    if (text->length == 0)
        return Py_NewRef(empty_text);
    return PyUnicode_FromStringAndSize((const char *)text->start, (Py_ssize_t)text->length);
}

/* An Observation, made like its own __init__ makes it: by setting its attributes. */
static PyObject *observation(PyTypeObject *type, const Fields *fields, PyObject *transport, PyObject *now)
{
    int64_t micros = (int64_t)fields->number[RECEIVED_AT];
    const Text *raw = &fields->text[SIP_MESSAGE];
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

/* (id, observation, True, "") or NULL with an exception; NULL without one for what is not plain. */
static PyObject *request(PyTypeObject *type, const uint8_t *at, const uint8_t *end, PyObject *now)
{
    Fields fields;
    PyObject *transport;
    if (!read_fields(at, end, &fields) || !is_plain(&fields) ||
        (transport = transport_of(&fields.text[TRANSPORT])) == NULL)
        return NULL;
    PyObject *made = observation(type, &fields, transport, now);
    PyObject *number = made ? PyLong_FromUnsignedLongLong(fields.number[ID]) : NULL;
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
    const uint8_t *end = at + PyBytes_GET_SIZE(args[0]);
    PyObject *result = PyList_New(0);
    while (result != NULL && at < end) {
        size_t length;
        PyObject *one = NULL;
        if (*at++ == (1 << 3 | 2) && (at = read_length(at, end, &length)) != NULL && PyList_GET_SIZE(result) < BATCH_MAX)
            one = request((PyTypeObject *)args[2], at, at + length, args[1]);
        if (one == NULL || PyList_Append(result, one) < 0) {
            Py_XDECREF(one);
            Py_DECREF(result);
            return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
        }
        Py_DECREF(one);
        at += length;
    }
    return result;
}

static size_t varint_size(uint64_t value)
{
    size_t size = 1;
    while (value > 127) {
        value >>= 7;
        size++;
    }
    return size;
}

static uint8_t *write_varint(uint8_t *at, uint64_t value)
{
    while (value > 127) {
        *at++ = (uint8_t)(value | 128);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

static uint8_t *write_bytes(uint8_t *at, const void *from, size_t length)
{
    memcpy(at, from, length);
    return at + length;
}

static const char IDENTITY_NAME[] = "\x0a\x08Identity\x12";
#define IDENTITY_NAME_SIZE (sizeof IDENTITY_NAME - 1)

static size_t row_size(size_t value)
{
    return IDENTITY_NAME_SIZE + varint_size(value) + value;
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
    for (int i = 0; i < 4; i++)
        if ((transports[i] = PyUnicode_InternFromString(TRANSPORT_NAMES[i])) == NULL)
            return NULL;
    return PyModule_Create(&definition);
}
