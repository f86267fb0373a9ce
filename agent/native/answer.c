/* The compiled twins of build_reply_py in agent/sip/answers.py and transaction_tag_py in agent/sip/tags.py.
 *
 * transaction_tag(secret, message) -> str
 *
 * build(request, status_line, rows, tag, host, port) -> (answer, port) | None, for the plain forms that nearly every
 * request uses (reply.h says which).
 *
 * None says "not plain": the caller then asks the Python reference, which also finds the words for every error. So
 * this file may refuse whatever is easier to refuse, and must give the very bytes of the reference where it does not.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "blake2b.h"
#include "reply.h"

#define MAX_MESSAGE 65535 /* agent/sip/scan.py */

/* Where the header rows begin, or NULL if the request is none that is answered here. */
static const byte *headers_of(Text request)
{
    const byte *at = request.at;
    while (at < request.end && (*at == '\r' || *at == '\n'))
        at++;
    size_t left = (size_t)(request.end - at);
    if (left < 4 || same_word(at, "ack ", 4) || same_word(at, "sip/", 4))
        return NULL;
    const byte *feed = find(at, request.end, '\n');
    return feed != NULL ? feed + 1 : NULL;
}

static Text bytes_text(PyObject *bytes)
{
    const byte *at = (const byte *)PyBytes_AS_STRING(bytes);
    return (Text){at, at + PyBytes_GET_SIZE(bytes)};
}

static Text ascii_text(PyObject *text)
{
    const byte *at = PyUnicode_1BYTE_DATA(text);
    return (Text){at, at + PyUnicode_GET_LENGTH(text)};
}

static bool is_ascii(PyObject *object) { return PyUnicode_CheckExact(object) && PyUnicode_IS_ASCII(object); }

/* The arguments as texts; false if they are not what a plain answer is made of. */
static bool read_arguments(PyObject *const *args, Text *request, Wanted *it)
{
    for (int i = 0; i < 3; i++) {
        if (!PyBytes_CheckExact(args[i]))
            return false;
    }
    if (!is_ascii(args[3]) || PyUnicode_GET_LENGTH(args[3]) == 0 || !PyLong_CheckExact(args[5]))
        return false;
    *request = bytes_text(args[0]);
    *it = (Wanted){bytes_text(args[1]), bytes_text(args[2]), ascii_text(args[3]), {NULL, NULL}, 0};
    for (const byte *at = it->tag.at; at < it->tag.end; at++) {
        if (!is_token(*at))
            return false;
    }
    if (args[4] != Py_None) {
        if (!is_ascii(args[4]))
            return false;
        it->host = ascii_text(args[4]);
    }
    int overflow;
    long port = PyLong_AsLongAndOverflow(args[5], &overflow);
    it->port = (unsigned)port;
    bool too_long = request->end - request->at > MAX_MESSAGE || it->tag.end - it->tag.at > MAX_MESSAGE ||
                    it->host.end - it->host.at > MAX_MESSAGE;
    return !too_long && !overflow && port >= (it->host.at != NULL) && port <= 65535;
}

static PyObject *build(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 6)
        return PyErr_Format(PyExc_TypeError, "build takes 6 arguments, not %zd", count);
    Text request;
    Wanted it;
    const byte *headers;
    if (!read_arguments(args, &request, &it) || (headers = headers_of(request)) == NULL)
        Py_RETURN_NONE;
    size_t room = reply_room((size_t)(request.end - request.at), &it);
    byte small[6144];
    byte *memory = room <= sizeof(small) ? small : PyMem_Malloc(room);
    if (memory == NULL)
        return PyErr_NoMemory();
    Out out = {memory};
    Rows rows;
    read_all_rows(headers, request.end, &rows);
    unsigned port = write_answer(&out, &rows, &it);
    PyObject *result = NULL;
    if (port == 0)
        result = Py_NewRef(Py_None);
    else
        result = Py_BuildValue("(y#I)", (const char *)memory, (Py_ssize_t)(out.at - memory), port);
    if (memory != small)
        PyMem_Free(memory);
    return result;
}

/* ---- the tag --------------------------------------------------------------------------------------------------- */

/* The fields of a message that its tag is made of, in this order, and its CSeq number behind them. */
static const char *const TAG_FIELDS[] = {"call_id", "from_tag", "branch", "sent_by", "cseq"};
#define TEXTS 4
#define FIELDS (TEXTS + 1)

typedef struct {
    PyObject *fields[FIELDS]; /* interned */
} State;

/* Add one text field and the zero byte behind it; 0 and an exception if it is no bytes. */
static int add_text(Blake2b *hash, PyObject *value)
{
    if (value == NULL)
        return 0;
    if (!PyBytes_Check(value)) {
        PyErr_Format(PyExc_TypeError, "a field of a message is bytes, not %s", Py_TYPE(value)->tp_name);
        return 0;
    }
    /* Together with the zero byte that every bytes object has behind its last one. */
    blake2b_add(hash, (const byte *)PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value) + 1);
    return 1;
}

static int add_number(Blake2b *hash, PyObject *value)
{
    long long number = value != NULL ? PyLong_AsLongLong(value) : -1;
    if (number == -1 && PyErr_Occurred())
        return 0;
    char digits[24];
    int length = PyOS_snprintf(digits, sizeof(digits), "%lld", number);
    blake2b_add(hash, (const byte *)digits, (size_t)length);
    return 1;
}

static PyObject *transaction_tag(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const State *state = PyModule_GetState(module);
    if (count != 2 || !PyBytes_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "transaction_tag takes a secret of bytes and a message");
    if (PyBytes_GET_SIZE(args[0]) > BLAKE2B_KEY_MAX)
        return PyErr_Format(PyExc_ValueError, "a secret has at most %d bytes", BLAKE2B_KEY_MAX);
    Blake2b hash;
    blake2b_begin(&hash, (const byte *)PyBytes_AS_STRING(args[0]), (size_t)PyBytes_GET_SIZE(args[0]));
    int good = 1;
    for (int i = 0; good && i < FIELDS; i++) {
        PyObject *value = PyObject_GetAttr(args[1], state->fields[i]);
        good = i < TEXTS ? add_text(&hash, value) : add_number(&hash, value);
        Py_XDECREF(value);
    }
    if (!good)
        return NULL;
    byte digest[BLAKE2B_DIGEST];
    blake2b_end(&hash, digest);
    PyObject *tag = PyUnicode_New(2 * BLAKE2B_DIGEST, 127);
    for (int i = 0; tag != NULL && i < BLAKE2B_DIGEST; i++) {
        PyUnicode_1BYTE_DATA(tag)[2 * i] = (byte)"0123456789abcdef"[digest[i] >> 4];
        PyUnicode_1BYTE_DATA(tag)[2 * i + 1] = (byte)"0123456789abcdef"[digest[i] & 15];
    }
    return tag;
}

/* ---- the module ------------------------------------------------------------------------------------------------ */

static int prepare(PyObject *module)
{
    State *state = PyModule_GetState(module);
    for (int i = 0; i < FIELDS; i++) {
        state->fields[i] = PyUnicode_InternFromString(TAG_FIELDS[i]);
        if (state->fields[i] == NULL)
            return -1;
    }
    return 0;
}

static int clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    for (int i = 0; i < FIELDS; i++)
        Py_CLEAR(state->fields[i]);
    return 0;
}

static void release(void *module) { clear(module); }

static PyMethodDef functions[] = {
    {"build", (PyCFunction)(void (*)(void))build, METH_FASTCALL,
     "build(request, status_line, rows, tag, host, port) -> (answer, port) | None\n\n"
     "As agent.sip.answers.build_reply_py, which is the reference; None where that has to be asked."},
    {"transaction_tag", (PyCFunction)(void (*)(void))transaction_tag, METH_FASTCALL,
     "transaction_tag(secret, message) -> str\n\nAs agent.sip.tags.transaction_tag_py, which is the reference."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, prepare},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._answer",
    .m_doc = "Compiled building of SIP answers.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__answer(void) { return PyModuleDef_Init(&definition); }
