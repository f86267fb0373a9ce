/* The compiled twin of agent/sip/scan.py: same fields, same errors, same offsets.
 *
 * scan(raw) reads the start line, notes where the rows are that screening wants, and keeps the message. What an
 * attribute says is read from its row when somebody asks: an attribute that nobody asks for costs nothing. Nothing is
 * allocated per row. Where a header comes several times only its first row and their number are noted; asking for it
 * walks the headers again from there, so a message full of rows costs no memory.
 *
 * A Scan never changes after it is made (no cached attribute), so threads may share one without a lock. It refers to
 * an exact `bytes` and to its type only, so it cannot be part of a reference cycle and is not tracked by the collector.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "sip_text.h"

/* The bounds of agent/sip/scan.py, with the same reasons. Offsets fit 16 bits because of the first one. */
#define MAX_MESSAGE 65535
#define MAX_CSEQ 4294967295ULL
#define MAX_CONTENT_LENGTH 9223372036854775807ULL

static const char *const METHODS[] = {
    "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "PRACK",
    "UPDATE", "INFO", "MESSAGE", "SUBSCRIBE", "NOTIFY", "REFER", "PUBLISH",
};
#define KNOWN_METHODS (sizeof(METHODS) / sizeof(METHODS[0]))

typedef struct {
    uint16_t at;
    uint16_t length;
} Slice;

typedef struct {
    PyObject_HEAD
    PyObject *raw;
    uint16_t status;      /* 0: a request */
    uint16_t body_offset;
    Slice method;
    Slice request_uri;
    Slice first[KINDS];   /* the value of the first row; a value never starts at 0, so at == 0 says: no row */
    uint16_t rows[KINDS]; /* how many rows; counted from IDENTITY on */
} Scan;

typedef struct {
    PyTypeObject *scan_type;
    PyObject *parse_error;
    PyObject *methods[KNOWN_METHODS]; /* interned */
    PyObject *no_text;
} State;

/* ---- from the message to its slices ---------------------------------------------------------------------------- */

static inline const byte *message_start(const Scan *self) { return (const byte *)PyBytes_AS_STRING(self->raw); }
static inline const byte *message_end(const Scan *self) { return message_start(self) + PyBytes_GET_SIZE(self->raw); }

static inline Slice slice_of(const byte *start, Text text)
{
    return (Slice){(uint16_t)(text.at - start), (uint16_t)(text.end - text.at)};
}

static inline Text text_of(const Scan *self, Slice slice)
{
    const byte *at = message_start(self) + slice.at;
    return (Text){at, at + slice.length};
}

/* Read the start line into `self`; *headers is where the first header row starts. */
static Fault read_start_line(Scan *self, const byte *start, const byte *end, const byte **headers)
{
    /* RFC 3261 7.5: line breaks before the start line are ignored; RFC 5626 uses them as keep-alives. */
    const byte *at = start;
    while (at < end && (*at == '\r' || *at == '\n'))
        at++;
    const byte *feed = find(at, end, '\n');
    const byte *stop = feed != NULL ? feed : end;
    *headers = feed != NULL ? feed + 1 : end;
    if (stop > at && stop[-1] == '\r')
        stop--;
    if (at == stop)
        return (Fault){"no start line", at};
    if (stop - at >= 4 && same_word(at, "sip/", 4)) {
        unsigned status = 0;
        Fault fault = read_status_line(at, stop, &status);
        self->status = (uint16_t)status;
        return fault;
    }
    Text method = {at, at}, uri = {at, at};
    Fault fault = read_request_line(at, stop, &method, &uri);
    self->method = slice_of(start, method);
    self->request_uri = slice_of(start, uri);
    return fault;
}

static void read_rows(Scan *self, const byte *start, const byte *end, const byte *at)
{
    Text value = {at, at};
    Kind kind;
    while ((kind = next_row(&at, end, &value)) != NO_ROW) {
        if (kind == OTHER)
            continue;
        if (self->first[kind].at == 0)
            self->first[kind] = slice_of(start, value);
        self->rows[kind]++; /* a row takes two bytes at least: 16 bits hold the count */
    }
    self->body_offset = (uint16_t)(at - start);
}

static PyObject *refused(const State *state, const char *place, const char *reason, Py_ssize_t offset)
{
    PyObject *error = PyObject_CallFunction(state->parse_error, "ssn", place, reason, offset);
    if (error != NULL) {
        PyErr_SetObject(state->parse_error, error);
        Py_DECREF(error);
    }
    return NULL;
}

static PyObject *scan(PyObject *module, PyObject *raw)
{
    const State *state = PyModule_GetState(module);
    if (!PyBytes_CheckExact(raw))
        return PyErr_Format(PyExc_TypeError, "a message is bytes, not %s", Py_TYPE(raw)->tp_name);
    if (PyBytes_GET_SIZE(raw) > MAX_MESSAGE)
        return refused(state, "message", "longer than 65535 bytes", MAX_MESSAGE);
    Scan *self = PyObject_New(Scan, state->scan_type);
    if (self == NULL)
        return NULL;
    memset((char *)self + sizeof(PyObject), 0, sizeof(Scan) - sizeof(PyObject));
    self->raw = Py_NewRef(raw);
    const byte *start = message_start(self), *end = message_end(self), *headers = end;
    Fault fault = read_start_line(self, start, end, &headers);
    if (fault.reason != NULL) {
        Py_DECREF(self);
        return refused(state, "start-line", fault.reason, fault.at - start);
    }
    read_rows(self, start, end, headers);
    return (PyObject *)self;
}

/* ---- from the slices to Python objects ------------------------------------------------------------------------- */

static inline const State *state_of(const Scan *self) { return PyType_GetModuleState(Py_TYPE((PyObject *)self)); }

static PyObject *bytes_of(Text text)
{
    return PyBytes_FromStringAndSize((const char *)text.at, text.end - text.at);
}

/* The text without outer space, folds undone. */
static PyObject *unfolded(Text text)
{
    text = trimmed(text);
    if (find(text.at, text.end, '\n') == NULL)
        return bytes_of(text);
    PyObject *result = PyBytes_FromStringAndSize(NULL, text.end - text.at);
    if (result != NULL) {
        size_t length = copy_unfolded(text, (byte *)PyBytes_AS_STRING(result));
        _PyBytes_Resize(&result, (Py_ssize_t)length);
    }
    return result;
}

/* A method name: one of the interned ones if possible. The text is a token, hence ASCII. */
static PyObject *method_name(const State *state, Text text)
{
    size_t length = (size_t)(text.end - text.at);
    for (size_t i = 0; i < KNOWN_METHODS; i++) {
        if (*text.at == (byte)METHODS[i][0] && strlen(METHODS[i]) == length && memcmp(text.at, METHODS[i], length) == 0)
            return Py_NewRef(state->methods[i]);
    }
    return PyUnicode_DecodeASCII((const char *)text.at, (Py_ssize_t)length, NULL);
}

static PyObject *get_raw(Scan *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->raw); }

static PyObject *get_method(Scan *self, void *Py_UNUSED(closure))
{
    const State *state = state_of(self);
    return self->status != 0 ? Py_NewRef(state->no_text) : method_name(state, text_of(self, self->method));
}

static PyObject *get_status(Scan *self, void *Py_UNUSED(closure)) { return PyLong_FromLong(self->status); }

static PyObject *get_request_uri(Scan *self, void *Py_UNUSED(closure))
{
    return bytes_of(text_of(self, self->request_uri));
}

static PyObject *get_branch(Scan *self, void *Py_UNUSED(closure))
{
    Text sent_by, parameters;
    read_via(text_of(self, self->first[VIA]), &sent_by, &parameters);
    return unfolded(parameter(parameters, "branch", 6));
}

/* Sent-by, spaces around its colon removed: host [ COLON port ], COLON = SWS ":" SWS. */
static PyObject *get_sent_by(Scan *self, void *Py_UNUSED(closure))
{
    Text sent_by, parameters;
    read_via(text_of(self, self->first[VIA]), &sent_by, &parameters);
    const byte *at = sent_by.at;
    while (at < sent_by.end && !is_space(*at))
        at++;
    if (at == sent_by.end)
        return bytes_of(sent_by);
    PyObject *result = PyBytes_FromStringAndSize(NULL, sent_by.end - sent_by.at);
    if (result == NULL)
        return NULL;
    byte *out = (byte *)PyBytes_AS_STRING(result);
    size_t length = copy_unfolded(sent_by, out), kept = 0;
    for (size_t i = 0; i < length; i++) {
        if (out[i] == ':') {
            while (kept > 0 && is_space(out[kept - 1]))
                kept--;
        } else if (is_space(out[i]) && kept > 0 && out[kept - 1] == ':') {
            continue;
        }
        out[kept++] = out[i];
    }
    _PyBytes_Resize(&result, (Py_ssize_t)kept);
    return result;
}

static PyObject *get_call_id(Scan *self, void *Py_UNUSED(closure))
{
    return unfolded(text_of(self, self->first[CALL_ID]));
}

static PyObject *get_cseq(Scan *self, void *Py_UNUSED(closure))
{
    unsigned long long number = 0;
    Text method;
    bool good = read_cseq(text_of(self, self->first[CSEQ]), MAX_CSEQ, &number, &method);
    return PyLong_FromUnsignedLongLong(good ? number : 0);
}

static PyObject *get_cseq_method(Scan *self, void *Py_UNUSED(closure))
{
    const State *state = state_of(self);
    unsigned long long number = 0;
    Text method;
    if (!read_cseq(text_of(self, self->first[CSEQ]), MAX_CSEQ, &number, &method))
        return Py_NewRef(state->no_text);
    return method_name(state, method);
}

/* The closure of what has the same form for several headers is the address of that header's number. */
static const Kind FROM_ROW = FROM, TO_ROW = TO, ASSERTED_ROWS = ASSERTED, DIVERSION_ROWS = DIVERSION,
                  PRIVACY_ROWS = PRIVACY, PRIORITY_ROWS = PRIORITY, RESOURCE_PRIORITY_ROWS = RESOURCE_PRIORITY;

static PyObject *get_uri(Scan *self, void *kind)
{
    Text uri, parameters;
    read_address(text_of(self, self->first[*(const Kind *)kind]), &uri, &parameters);
    return unfolded(uri);
}

static PyObject *get_tag(Scan *self, void *kind)
{
    Text uri, parameters;
    read_address(text_of(self, self->first[*(const Kind *)kind]), &uri, &parameters);
    return unfolded(parameter(parameters, "tag", 3));
}

static PyObject *get_content_length(Scan *self, void *Py_UNUSED(closure))
{
    Text value = trimmed(text_of(self, self->first[CONTENT_LENGTH]));
    const byte *at = value.at;
    unsigned long long number = read_digits(&at, value.end, MAX_CONTENT_LENGTH);
    return at == value.at || at != value.end ? PyLong_FromLong(-1) : PyLong_FromUnsignedLongLong(number);
}

static PyObject *get_body_offset(Scan *self, void *Py_UNUSED(closure)) { return PyLong_FromLong(self->body_offset); }

/* A walk over the rows of one kind: the first was noted, the others are found again. */
typedef struct {
    const byte *at;
    const byte *end;
    Kind kind;
    unsigned left;
    Text value;
} Walk;

static Walk walk(const Scan *self, Kind kind)
{
    return (Walk){NULL, message_end(self), kind, self->rows[kind], text_of(self, self->first[kind])};
}

/* Whether there is a (further) row; its value is in walk->value. */
static bool next_of(Walk *walk)
{
    if (walk->left == 0)
        return false;
    walk->left--;
    if (walk->at == NULL) { /* the first: the next line starts after the line feed that ended its value */
        walk->at = walk->value.end < walk->end ? walk->value.end + 1 : walk->end;
        return true;
    }
    Kind kind;
    do {
        kind = next_row(&walk->at, walk->end, &walk->value);
    } while (kind != walk->kind && kind != NO_ROW);
    return kind != NO_ROW;
}

/* Append `item`, a new reference or NULL, to `list`; 0 if either failed. */
static int append(PyObject *list, PyObject *item)
{
    int failed = item == NULL || PyList_Append(list, item) < 0;
    Py_XDECREF(item);
    return !failed;
}

static PyObject *tuple_of(PyObject *list, int good)
{
    PyObject *result = good ? PyList_AsTuple(list) : NULL;
    Py_DECREF(list);
    return result;
}

/* A tuple of one item, a new reference or NULL. */
static PyObject *tuple_with(PyObject *item)
{
    PyObject *result = item != NULL ? PyTuple_Pack(1, item) : NULL;
    Py_XDECREF(item);
    return result;
}

static PyObject *get_identity(Scan *self, void *Py_UNUSED(closure))
{
    Walk rows = walk(self, IDENTITY);
    if (rows.left == 0)
        return PyTuple_New(0);
    if (rows.left == 1)
        return tuple_with(bytes_of(trimmed(rows.value)));
    PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    int good = 1;
    while (good && next_of(&rows))
        good = append(list, bytes_of(trimmed(rows.value)));
    return tuple_of(list, good);
}

/* The addr-spec of every readable value in every row, rows and comma-joined values in order. */
static PyObject *get_addresses(Scan *self, void *kind)
{
    Walk rows = walk(self, *(const Kind *)kind);
    Text uri, parameters;
    if (rows.left == 0)
        return PyTuple_New(0);
    if (rows.left == 1 && next_comma(rows.value.at, rows.value.end) == rows.value.end) {
        read_address(rows.value, &uri, &parameters);
        return uri.at == uri.end ? PyTuple_New(0) : tuple_with(unfolded(uri));
    }
    PyObject *list = PyList_New(0);
    if (list == NULL)
        return NULL;
    int good = 1;
    while (good && next_of(&rows)) {
        const byte *at = rows.value.at;
        while (good && at < rows.value.end) {
            const byte *comma = next_comma(at, rows.value.end);
            read_address((Text){at, comma}, &uri, &parameters);
            if (uri.at < uri.end)
                good = append(list, unfolded(uri));
            at = comma < rows.value.end ? comma + 1 : comma;
        }
    }
    return tuple_of(list, good);
}

/* The values of all rows, joined with a comma. */
static PyObject *get_joined(Scan *self, void *kind)
{
    Walk rows = walk(self, *(const Kind *)kind);
    if (rows.left <= 1)
        return unfolded(rows.value);
    PyObject *list = PyList_New(0), *comma = PyBytes_FromStringAndSize(",", 1), *result = NULL;
    int good = list != NULL && comma != NULL;
    while (good && next_of(&rows))
        good = append(list, unfolded(rows.value));
    if (good)
        result = PyObject_CallMethod(comma, "join", "O", list);
    Py_XDECREF(list);
    Py_XDECREF(comma);
    return result;
}

static void scan_dealloc(Scan *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    Py_XDECREF(self->raw);
    PyObject_Free(self);
    Py_DECREF(type);
}


static PyGetSetDef scan_attributes[] = {
    {"raw", (getter)get_raw, NULL, NULL, NULL},
    {"method", (getter)get_method, NULL, NULL, NULL},
    {"status", (getter)get_status, NULL, NULL, NULL},
    {"request_uri", (getter)get_request_uri, NULL, NULL, NULL},
    {"branch", (getter)get_branch, NULL, NULL, NULL},
    {"sent_by", (getter)get_sent_by, NULL, NULL, NULL},
    {"call_id", (getter)get_call_id, NULL, NULL, NULL},
    {"cseq", (getter)get_cseq, NULL, NULL, NULL},
    {"cseq_method", (getter)get_cseq_method, NULL, NULL, NULL},
    {"from_uri", (getter)get_uri, NULL, NULL, (void *)&FROM_ROW},
    {"from_tag", (getter)get_tag, NULL, NULL, (void *)&FROM_ROW},
    {"to_uri", (getter)get_uri, NULL, NULL, (void *)&TO_ROW},
    {"to_tag", (getter)get_tag, NULL, NULL, (void *)&TO_ROW},
    {"asserted", (getter)get_addresses, NULL, NULL, (void *)&ASSERTED_ROWS},
    {"identity", (getter)get_identity, NULL, NULL, NULL},
    {"diversion", (getter)get_addresses, NULL, NULL, (void *)&DIVERSION_ROWS},
    {"privacy", (getter)get_joined, NULL, NULL, (void *)&PRIVACY_ROWS},
    {"priority", (getter)get_joined, NULL, NULL, (void *)&PRIORITY_ROWS},
    {"resource_priority", (getter)get_joined, NULL, NULL, (void *)&RESOURCE_PRIORITY_ROWS},
    {"content_length", (getter)get_content_length, NULL, NULL, NULL},
    {"body_offset", (getter)get_body_offset, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot scan_slots[] = {
    {Py_tp_doc, (void *)"The fields of agent.model.Scan, read in place."},
    {Py_tp_dealloc, (void *)scan_dealloc},
    {Py_tp_getset, scan_attributes},
    {0, NULL},
};

static PyType_Spec scan_spec = {
    .name = "agent.native._sip.Scan",
    .basicsize = sizeof(Scan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = scan_slots,
};

/* ---- the module ------------------------------------------------------------------------------------------------ */

static int prepare(PyObject *module)
{
    State *state = PyModule_GetState(module);
    PyObject *model = PyImport_ImportModule("agent.model");
    if (model == NULL)
        return -1;
    state->parse_error = PyObject_GetAttrString(model, "ParseError");
    Py_DECREF(model);
    state->no_text = PyUnicode_InternFromString("");
    if (state->parse_error == NULL || state->no_text == NULL)
        return -1;
    for (size_t i = 0; i < KNOWN_METHODS; i++) {
        state->methods[i] = PyUnicode_InternFromString(METHODS[i]);
        if (state->methods[i] == NULL)
            return -1;
    }
    state->scan_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &scan_spec, NULL);
    return state->scan_type == NULL ? -1 : PyModule_AddType(module, state->scan_type);
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->scan_type);
    Py_VISIT(state->parse_error);
    return 0;
}

static int clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->scan_type);
    Py_CLEAR(state->parse_error);
    Py_CLEAR(state->no_text);
    for (size_t i = 0; i < KNOWN_METHODS; i++)
        Py_CLEAR(state->methods[i]);
    return 0;
}

static void release(void *module) { clear(module); }

static PyMethodDef functions[] = {
    {"scan", scan, METH_O, "scan(raw: bytes) -> Scan\n\nAs agent.sip.scan.scan_py, which is the reference."},
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
    .m_name = "agent.native._sip",
    .m_doc = "Compiled scan of SIP messages.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__sip(void) { return PyModuleDef_Init(&definition); }
