/* The hook's share of the gate: the requests of one message in, their responses out.
 *
 * What agent/ingress/hook/desk.py does with a request for a new call attempt. Every other request is given to `general` of
 * that desk, in its turn. Contract and responses as in contract.h; the message is known to be plain.
 */

#include "gate.h"

#include "contract.h"

#define AT_ONCE 64 /* SLICE in agent/ingress/hook/exchange.py */

/* A request, and what was found out about it before anything was counted. */
typedef struct {
    const byte *start, *end; /* of the request as it was sent */
    Fields fields;
    bool plain;
    Sender *sender; /* owned */
    Identity identity;
    Call call;
} Request;

static Request *requests; /* AT_ONCE of them; a slice is over before the next one begins */

typedef struct {
    Gate *gate;
    PyObject *general; /* (request: bytes) -> response, framed: whatever is not for the gate */
    PyObject *ask;     /* (number, entry, raw, sender, when, signs, verdict) -> response, framed: what only Python decides */
    PyObject *failed;  /* (number) -> response, framed: after a fault of ours */
    PyObject *wall;    /* float: the time of requests that state none */
    Text tail;         /* how the response to a call that passes ends */
    double now;
    size_t used; /* of gate->out */
} Slice;

/* ---- responses --------------------------------------------------------------------------------------------------- */

static bool put_object(Slice *slice, PyObject *response)
{
    bool good = response != NULL && PyBytes_Check(response);
    if (response != NULL && !good)
        PyErr_SetString(PyExc_TypeError, "a response is bytes");
    size_t length = good ? (size_t)PyBytes_GET_SIZE(response) : 0;
    good = good && gate_room(slice->gate, slice->used, length);
    if (good) {
        memcpy(slice->gate->out + slice->used, PyBytes_AS_STRING(response), length);
        slice->used += length;
    }
    Py_XDECREF(response);
    return good && gate_now(slice->gate, &slice->now);
}

static size_t length_of(Text text) { return (size_t)(text.end - text.at); }

/* The response to a call that passes, with its Identity rows; as `allowed` in hook.c. */
static bool put_allowed(Slice *slice, const Request *it)
{
    const Rows *rows = &it->call.rows;
    uint64_t number = it->fields.number[ID];
    Text row = rows->line[IDENTITY], value = rows->value[IDENTITY];
    size_t size = 1 + varint_size(number) + 2 + length_of(slice->tail);
    for (unsigned left = rows->count[IDENTITY]; left > 0; left--) {
        size_t length = row_size(length_of(trimmed(value)));
        size += 1 + varint_size(length) + length;
        if (left > 1 && !next_of_kind(rows, IDENTITY, &row, &value))
            break;
    }
    if (!gate_room(slice->gate, slice->used, 1 + varint_size(size) + size))
        return false;
    byte *at = slice->gate->out + slice->used;
    *at++ = 1 << 3 | 2; /* ScreenStreamResponse.responses */
    at = write_varint(at, size);
    *at++ = 1 << 3; /* id */
    at = write_varint(at, number);
    at = write_bytes(at, "\x10\x01", 2); /* decision: DECISION_ALLOW */
    row = rows->line[IDENTITY];
    value = rows->value[IDENTITY];
    for (unsigned left = rows->count[IDENTITY]; left > 0; left--) {
        Text one = trimmed(value);
        *at++ = 4 << 3 | 2; /* egress_headers */
        at = write_varint(at, row_size(length_of(one)));
        at = write_bytes(at, IDENTITY_NAME, IDENTITY_NAME_SIZE);
        at = write_varint(at, length_of(one));
        at = write_bytes(at, one.at, length_of(one));
        if (left > 1 && !next_of_kind(rows, IDENTITY, &row, &value))
            break;
    }
    at = write_bytes(at, slice->tail.at, length_of(slice->tail));
    slice->used = (size_t)(at - slice->gate->out);
    return true;
}

/* ---- one request ------------------------------------------------------------------------------------------------- */

/* Find out what it is, and have the memory come that it will be looked up in. Counts nothing. */
static bool look_at(Gate *gate, Request *it)
{
    static const byte named[] = {SOURCE_ADDRESS, TRUNK, CUSTOMER};
    byte key[3 * (NAME_MAX_BYTES + 1)];
    size_t length = 0;
    it->plain = false;
    it->sender = NULL;
    for (size_t i = 0; i < sizeof(named); i++) {
        const Chars *text = &it->fields.text[named[i]];
        if (text->length > 0)
            memcpy(key + length, text->start, text->length);
        length += text->length;
        key[length++] = 0;
    }
    const Chars *raw = &it->fields.text[SIP_MESSAGE];
    if (raw->length < 7 || memcmp(raw->start, "INVITE ", 7) != 0)
        return true;
    Sender *sender = gate_sender(gate, key, length);
    if (sender == NULL)
        return !PyErr_Occurred();
    Text message = {raw->start, raw->start + raw->length};
    if (!read_call(message, sender->country, sender->trusted, &it->call))
        return true;
    it->plain = true;
    it->sender = (Sender *)Py_NewRef((PyObject *)sender); /* Python may let go of every sender that is remembered */
    it->identity = gate_identity(sender, &it->call);
    gate_expect(gate, sender, &it->call, &it->identity);
    return true;
}

static PyObject *ask(Slice *slice, const Request *it, const Asked *asked, PyObject *when)
{
    const Chars *raw = &it->fields.text[SIP_MESSAGE];
    PyObject *signs = asked_signs(asked), *result = NULL;
    if (signs != NULL)
        result = PyObject_CallFunction(slice->ask, "KOy#OOOO", it->fields.number[ID], asked->entry, raw->start,
                                       (Py_ssize_t)raw->length, it->sender, when, signs,
                                       asked->verdict != NULL ? asked->verdict : Py_None);
    Py_XDECREF(signs);
    return result;
}

static bool take_call(Slice *slice, const Request *it)
{
    Gate *gate = slice->gate;
    int64_t micros = (int64_t)it->fields.number[RECEIVED_AT];
    PyObject *when = micros > 0 ? PyFloat_FromDouble((double)micros * 1e-6) : Py_NewRef(slice->wall);
    Asked asked;
    bool good = false;
    if (when == NULL)
        return false;
    switch (gate_decide(gate, it->sender, &it->call, &it->identity, slice->now, when, &asked)) {
    case FAILED:
        break;
    case PASSES:
        good = gate_passed(gate, it->sender, it->call.message, when) && put_allowed(slice, it);
        break;
    case ASKS:
        good = put_object(slice, ask(slice, it, &asked, when));
        break;
    }
    asked_end(&asked);
    Py_DECREF(when);
    return good;
}

static bool take(Slice *slice, const Request *it)
{
    if (it->plain && !attempts_known(slice->gate->attempts, it->identity.attempt, slice->now))
        return take_call(slice, it);
    return put_object(slice, PyObject_CallFunction(slice->general, "y#", it->start, (Py_ssize_t)(it->end - it->start)));
}

/* As `take`; a fault of ours costs this request its decision, and no other one. */
static bool take_safely(Slice *slice, const Request *it)
{
    size_t used = slice->used;
    if (take(slice, it))
        return true;
    PyErr_WriteUnraisable((PyObject *)slice->gate);
    slice->used = used;
    return put_object(slice, PyObject_CallFunction(slice->failed, "K", it->fields.number[ID]));
}

/* ---- for Python -------------------------------------------------------------------------------------------------- */

/* Whether the gate can read this message: how many requests it has, or -1. */
PyObject *gate_plain(PyObject *Py_UNUSED(gate), PyObject *data)
{
    if (!PyBytes_Check(data))
        return PyErr_Format(PyExc_TypeError, "a message is bytes");
    const byte *at = (const byte *)PyBytes_AS_STRING(data), *stop = at + PyBytes_GET_SIZE(data);
    long count = 0;
    Fields fields;
    for (; at < stop; count++) {
        if (count == BATCH_MAX || next_request(at, stop, &at, &fields) == NULL)
            return PyLong_FromLong(-1);
    }
    return PyLong_FromLong(count);
}

PyObject *gate_answer(Gate *gate, PyObject *args)
{
    PyObject *data, *tail;
    Slice slice = {.gate = gate};
    if (!PyArg_ParseTuple(args, "SO!SOOO:answer", &data, &PyFloat_Type, &slice.wall, &tail, &slice.general,
                          &slice.ask, &slice.failed) ||
        !gate_now(gate, &slice.now))
        return NULL;
    const byte *first = (const byte *)PyBytes_AS_STRING(data), *at = first;
    const byte *stop = first + PyBytes_GET_SIZE(data);
    slice.tail = (Text){(const byte *)PyBytes_AS_STRING(tail), (const byte *)PyBytes_AS_STRING(tail) + PyBytes_GET_SIZE(tail)};
    int count = 0;
    bool good = true;
    for (; good && count < AT_ONCE && at < stop; count++) {
        Request *it = &requests[count];
        it->sender = NULL;
        it->start = next_request(at, stop, &it->end, &it->fields);
        if (it->start == NULL) {
            PyErr_SetString(PyExc_ValueError, "the message is not plain");
            good = false;
        } else {
            at = it->end;
            good = look_at(gate, it);
        }
    }
    for (int i = 0; i < count; i++) {
        good = good && take_safely(&slice, &requests[i]);
        Py_CLEAR(requests[i].sender);
    }
    if (!good)
        return NULL;
    return Py_BuildValue("(y#ni)", (const char *)gate->out, (Py_ssize_t)slice.used, (Py_ssize_t)(at - first), count);
}

bool hook_prepare(void)
{
    requests = PyMem_RawCalloc(AT_ONCE, sizeof(*requests));
    if (requests == NULL)
        PyErr_NoMemory();
    return requests != NULL;
}
