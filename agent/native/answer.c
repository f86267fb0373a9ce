/* The compiled twins of build_reply_py in agent/sip/answers.py and transaction_tag_py in agent/sip/tags.py.
 *
 * transaction_tag(secret, message) -> str
 *
 * build(request, status_line, rows, tag, host, port) -> (answer, port) | None, for the plain forms that nearly every
 * request uses.
 *
 * None says "not plain": the caller then asks the Python reference, which also finds the words for every error. So
 * this file may refuse whatever is easier to refuse, and must give the very bytes of the reference where it does not.
 * Plain is: every copied header is there, the first Via has no quote, angle bracket or fold, To has no fold.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "blake2b.h"
#include "sip_text.h"

#define DEFAULT_PORT 5060 /* RFC 3261 18.2.2: where sent-by names no port */
#define MAX_MESSAGE 65535 /* agent/sip/scan.py */

typedef struct {
    byte *at;
} Out;

static inline void put(Out *out, const void *data, size_t length)
{
    memcpy(out->at, data, length);
    out->at += length;
}

static inline void put_text(Out *out, Text text) { put(out, text.at, (size_t)(text.end - text.at)); }

#define PUT(out, literal) put((out), "" literal, sizeof(literal) - 1)

static void put_number(Out *out, unsigned number)
{
    byte digits[10];
    size_t count = 0;
    do {
        digits[sizeof(digits) - ++count] = (byte)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    put(out, digits + sizeof(digits) - count, count);
}

/* A row as received, ending in CRLF; the line feeds of its folds become CRLF too. At most twice its length plus 2. */
static void put_row(Out *out, Text row)
{
    if (row.end > row.at && row.end[-1] == '\r')
        row.end--;
    const byte *feed;
    while ((feed = find(row.at, row.end, '\n')) != NULL) {
        bool bare = feed == row.at || feed[-1] != '\r';
        put_text(out, (Text){row.at, feed});
        if (bare)
            PUT(out, "\r\n");
        else
            PUT(out, "\n");
        row.at = feed + 1;
    }
    put_text(out, row);
    PUT(out, "\r\n");
}

/* ---- Via ------------------------------------------------------------------------------------------------------- */

/* What is before "=" in a parameter, without space around it. */
static Text parameter_name(Text piece)
{
    const byte *equals = find(piece.at, piece.end, '=');
    return trimmed((Text){piece.at, equals != NULL ? equals : piece.end});
}

static bool is_named(Text name, const char *word, size_t length)
{
    return (size_t)(name.end - name.at) == length && same_word(name.at, word, length);
}

/* The port that sent-by names, DEFAULT_PORT where it names none that can be. */
static unsigned sent_by_port(Text value)
{
    Text sent_by, parameters;
    read_via(value, &sent_by, &parameters);
    const byte *at = sent_by.end;
    while (at > sent_by.at && at[-1] != ':' && at[-1] != ']')
        at--;
    if (at == sent_by.at || at[-1] == ']')
        return DEFAULT_PORT;
    for (const byte *other = at - 1; other > sent_by.at && other[-1] != ']'; other--) {
        if (other[-1] == ':') /* IPv6 without brackets names no port that can be told */
            return DEFAULT_PORT;
    }
    Text digits = trimmed((Text){at, sent_by.end});
    const byte *cursor = digits.at;
    unsigned long long port = read_digits(&cursor, digits.end, 65536);
    return cursor == digits.at || cursor != digits.end || port == 0 || port > 65535 ? DEFAULT_PORT : (unsigned)port;
}

/* The first Via row with `received` and, if it asks for one, a value for `rport` (RFC 3261 18.2.1, RFC 3581 4).
 * `value` begins behind the colon. The port that the answer goes to, or 0 if the row is not plain. */
static unsigned put_first_via(Out *out, Text row, Text value, Text host, unsigned port)
{
    for (const byte *at = value.at; at < value.end; at++) {
        if (*at == '"' || *at == '<' || *at == '\n')
            return 0;
    }
    const byte *comma = find(value.at, value.end, ',');
    Text element = {value.at, comma != NULL ? comma : value.end};
    while (element.end > element.at && is_space(element.end[-1]))
        element.end--;
    put_text(out, (Text){row.at, value.at});
    PUT(out, " ");
    bool asked = false, first = true;
    const byte *at = element.at;
    for (;;) {
        const byte *stop = find(at, element.end, ';');
        Text piece = trimmed((Text){at, stop != NULL ? stop : element.end});
        Text name = parameter_name(piece);
        bool rport = !first && is_named(name, "rport", 5);
        asked = asked || rport;
        if (first) {
            put_text(out, piece);
        } else if (!rport && !is_named(name, "received", 8)) {
            PUT(out, ";");
            put_text(out, piece);
        }
        first = false;
        if (stop == NULL)
            break;
        at = stop + 1;
    }
    PUT(out, ";received=");
    put_text(out, host);
    if (asked) {
        PUT(out, ";rport=");
        put_number(out, port);
    }
    if (comma != NULL)
        put_row(out, (Text){comma, value.end});
    else
        PUT(out, "\r\n");
    return asked ? port : sent_by_port(value);
}

/* ---- To -------------------------------------------------------------------------------------------------------- */

static bool has_tag(Text value)
{
    Text uri, parameters;
    read_address(value, &uri, &parameters);
    const byte *at = parameters.at;
    while (at < parameters.end) {
        const byte *stop = next_separator(at + 1, parameters.end, ';');
        if (is_named(parameter_name((Text){at + 1, stop}), "tag", 3))
            return true;
        at = stop;
    }
    return false;
}

static void put_to(Out *out, Text row, Text value, Text tag)
{
    if (has_tag(value)) {
        put_row(out, row);
        return;
    }
    while (row.end > row.at && is_space(row.end[-1]))
        row.end--;
    put_text(out, row);
    PUT(out, ";tag=");
    put_text(out, tag);
    PUT(out, "\r\n");
}

/* ---- the answer ------------------------------------------------------------------------------------------------ */

typedef struct {
    Text request, status_line, rows, tag, host;
    unsigned port;
} Wanted;

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

/* Write the answer to `out`, which has room for it; the port that it goes to, or 0 if the request is not plain. */
static unsigned write_answer(Out *out, const Wanted *it)
{
    const byte *at = headers_of(it->request);
    if (at == NULL)
        return 0;
    put_text(out, it->status_line);
    Text rows[KINDS] = {{NULL, NULL}}, values[KINDS], value = {at, at};
    unsigned port = 0;
    for (;;) {
        const byte *line = at;
        Kind kind = next_row(&at, it->request.end, &value);
        if (kind == NO_ROW)
            break;
        if (kind == OTHER || kind > CSEQ)
            continue;
        Text row = {line, value.end};
        bool first = rows[kind].at == NULL;
        if (first) {
            rows[kind] = row;
            values[kind] = value;
        }
        if (kind != VIA)
            continue;
        if (first && it->host.at != NULL) {
            port = put_first_via(out, row, value, it->host, it->port);
            if (port == 0)
                return 0;
        } else {
            put_row(out, row);
        }
    }
    for (int kind = VIA; kind <= CSEQ; kind++) {
        if (rows[kind].at == NULL)
            return 0;
    }
    if (find(rows[TO].at, rows[TO].end, '\n') != NULL)
        return 0;
    put_row(out, rows[FROM]);
    put_to(out, rows[TO], values[TO], it->tag);
    put_row(out, rows[CALL_ID]);
    put_row(out, rows[CSEQ]);
    put_text(out, it->rows);
    PUT(out, "Content-Length: 0\r\n\r\n");
    return it->host.at != NULL ? port : DEFAULT_PORT;
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
static bool read_arguments(PyObject *const *args, Wanted *it)
{
    for (int i = 0; i < 3; i++) {
        if (!PyBytes_CheckExact(args[i]))
            return false;
    }
    if (!is_ascii(args[3]) || PyUnicode_GET_LENGTH(args[3]) == 0 || !PyLong_CheckExact(args[5]))
        return false;
    *it = (Wanted){bytes_text(args[0]), bytes_text(args[1]), bytes_text(args[2]), ascii_text(args[3]), {NULL, NULL}, 0};
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
    bool too_long = it->request.end - it->request.at > MAX_MESSAGE || it->tag.end - it->tag.at > MAX_MESSAGE ||
                    it->host.end - it->host.at > MAX_MESSAGE;
    return !too_long && !overflow && port >= (it->host.at != NULL) && port <= 65535;
}

static PyObject *build(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 6)
        return PyErr_Format(PyExc_TypeError, "build takes 6 arguments, not %zd", count);
    Wanted it;
    if (!read_arguments(args, &it))
        Py_RETURN_NONE;
    /* Rows are copied once each, and at worst every byte of them is a line feed that becomes two. */
    size_t room = 2 * (size_t)(it.request.end - it.request.at) + (size_t)(it.status_line.end - it.status_line.at) +
                  (size_t)(it.rows.end - it.rows.at) + (size_t)(it.tag.end - it.tag.at) +
                  (size_t)(it.host.end - it.host.at) + 128;
    byte small[6144];
    byte *memory = room <= sizeof(small) ? small : PyMem_Malloc(room);
    if (memory == NULL)
        return PyErr_NoMemory();
    Out out = {memory};
    unsigned port = write_answer(&out, &it);
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
