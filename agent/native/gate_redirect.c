/* The redirect server's share of the gate: one batch of datagrams in, what is answered out.
 *
 * What agent/ingress/redirect/responder.py does with an INVITE that is a new call attempt, and with an ACK that names one
 * of our transactions. Every other datagram is given to `receive` of that responder, in its turn.
 */

#include "gate.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "reply.h"

#define MAX_BATCH 64 /* agent/ingress/datagrams.py */
#define MAX_DATAGRAM 65535
#define CONTACT_MAX 512 /* bytes of the row; a longer one is not plain */

/* As in udp.c: the pages that no long datagram ever touches are never backed by memory. */
static byte *buffers;

typedef struct {
    size_t at, length; /* in gate->out */
    socklen_t address_length;
    unsigned char address[ADDRESS_MAX];
} Sending;

typedef struct {
    Gate *gate;
    Transactions *transactions;
    PyObject *receive; /* (raw, address) -> (payload, address) | None: whatever is not for the gate */
    PyObject *ask;     /* (entry, raw, sender, when, signs) -> see below: what only Python decides */
    PyObject *when;
    double now;
    size_t used; /* of gate->out */
    int sending_count;
    Sending sending[MAX_BATCH];
    long unsent, requests, answers, acks, dropped, undecided, faults;
} Batch;

static Text text_of(PyObject *bytes)
{
    const byte *at = (const byte *)PyBytes_AS_STRING(bytes);
    return (Text){at, at + PyBytes_GET_SIZE(bytes)};
}

static void send_later(Batch *batch, size_t length, const void *address, socklen_t address_length)
{
    Sending *it = &batch->sending[batch->sending_count++];
    it->at = batch->used;
    it->length = length;
    it->address_length = address_length;
    memcpy(it->address, address, address_length);
    batch->used += length;
}

/* ---- the answer that passes ---------------------------------------------------------------------------------- */

static bool is_user(byte c) { return is_digit(c) || (byte)((c | 0x20) - 'a') < 26 || c == '+' || c == '-' || c == '_' || c == '.'; }
static bool is_host(byte c) { return is_digit(c) || (byte)((c | 0x20) - 'a') < 26 || c == '-' || c == '.'; }

/* The plain form of agent.sip.redirection: user and scheme end at *at_end; whether ";user=phone" follows the host. */
static bool is_plain_uri(Text uri, const byte **at_end, bool *phone)
{
    static const char user_phone[] = ";user=phone";
    const byte *at = uri.at, *start;
    if (uri.end - at < 5 || memcmp(at, "sip", 3) != 0)
        return false;
    at += at[3] == 's' ? 4 : 3;
    if (*at++ != ':')
        return false;
    for (start = at; at < uri.end && is_user(*at); at++) {}
    if (at == start || at == uri.end || *at != '@')
        return false;
    *at_end = ++at;
    for (start = at; at < uri.end && is_host(*at); at++) {}
    if (at == start)
        return false;
    if (at < uri.end && *at == ':') {
        for (start = ++at; at < uri.end && is_digit(*at); at++) {}
        if (at == start)
            return false;
    }
    *phone = at < uri.end;
    return at == uri.end ||
           ((size_t)(uri.end - at) == sizeof(user_phone) - 1 && memcmp(at, user_phone, sizeof(user_phone) - 1) == 0);
}

/* The rows of the answer that lets this call pass (responder._passing); false if they are not plain. */
static bool passing_rows(const Sender *sender, Text uri, byte *room, Text *rows)
{
    *rows = text_of(sender->rows);
    Text next_hop = text_of(sender->next_hop);
    if (next_hop.at == next_hop.end)
        return true;
    const byte *user_end;
    bool phone;
    if (!is_plain_uri(uri, &user_end, &phone) || (uri.end - uri.at) + (next_hop.end - next_hop.at) + 32 > CONTACT_MAX)
        return false;
    Out out = {room};
    PUT(&out, "Contact: <");
    put_text(&out, (Text){uri.at, user_end});
    put_text(&out, next_hop);
    if (phone)
        PUT(&out, ";user=phone");
    PUT(&out, ">\r\n");
    *rows = (Text){room, out.at};
    return true;
}

/* Write an answer at the end of gate->out: its length, 0 if the request is not plain, -1 with an exception. */
static Py_ssize_t write_reply(Batch *batch, const Call *call, const Wanted *wanted, unsigned *port)
{
    size_t room = reply_room((size_t)(call->message.end - call->message.at), wanted);
    if (!gate_room(batch->gate, batch->used, room))
        return -1;
    Out out = {batch->gate->out + batch->used};
    *port = write_answer(&out, &call->rows, wanted);
    return *port != 0 ? out.at - (batch->gate->out + batch->used) : 0;
}

/* ---- asking Python --------------------------------------------------------------------------------------------- */

enum word { ERROR = -1, PASS, REFUSE, SILENCE };

/* What Python decides about a new attempt: True to let it pass, None for the same after a fault, False to say nothing,
 * or the status line and the rows of the answer, which *rendered then holds. */
static enum word ask(Batch *batch, const Sender *sender, const Call *call, Entry *entry, uint64_t signs,
                     PyObject **rendered)
{
    PyObject *raw = PyBytes_FromStringAndSize((const char *)call->message.at, call->message.end - call->message.at);
    PyObject *number = signs == NOT_HIT ? PyLong_FromLong(-1) : PyLong_FromUnsignedLongLong(signs), *said = NULL;
    if (raw != NULL && number != NULL)
        said = PyObject_CallFunctionObjArgs(batch->ask, (PyObject *)entry, raw, (PyObject *)sender, batch->when, number,
                                            NULL);
    Py_XDECREF(raw);
    Py_XDECREF(number);
    if (said == NULL || !gate_now(batch->gate, &batch->now)) {
        Py_XDECREF(said);
        return ERROR;
    }
    if (PyTuple_Check(said) && PyTuple_GET_SIZE(said) == 2 && PyBytes_Check(PyTuple_GET_ITEM(said, 0)) &&
        PyBytes_Check(PyTuple_GET_ITEM(said, 1))) {
        *rendered = said;
        return REFUSE;
    }
    enum word word = said == Py_False ? SILENCE : PASS;
    batch->undecided += said == Py_None;
    Py_DECREF(said);
    return word;
}

/* ---- one datagram ------------------------------------------------------------------------------------------------ */

/* Count a call that can be answered, and answer it; false with an exception. `wanted` is the answer that passes, which
 * stands at the end of gate->out already, with `length` bytes and for `port`. */
static bool decide(Batch *batch, Sender *sender, const Call *call, const Identity *identity, Wanted *wanted,
                   Py_ssize_t length, unsigned port, struct sockaddr_in6 *address, socklen_t address_length, uint64_t key)
{
    Gate *gate = batch->gate;
    Entry *entry = NULL;
    uint64_t signs;
    PyObject *rendered = NULL;
    enum word word = ERROR;
    batch->requests++;
    switch (gate_decide(gate, sender, call, identity, batch->now, &entry, &signs)) {
    case FAILED:
        break;
    case PASSES:
        word = gate_passed(gate, sender, call->message, batch->when) ? PASS : ERROR;
        break;
    case ASKS:
        word = ask(batch, sender, call, entry, signs, &rendered);
        break;
    }
    Py_XDECREF((PyObject *)entry);
    if (word == REFUSE) {
        wanted->status_line = text_of(PyTuple_GET_ITEM(rendered, 0));
        wanted->rows = text_of(PyTuple_GET_ITEM(rendered, 1));
        length = write_reply(batch, call, wanted, &port);
        Py_DECREF(rendered);
        if (length <= 0)
            return false;
    }
    if (word == SILENCE)
        batch->dropped++;
    if (word == ERROR || word == SILENCE)
        return word != ERROR;
    address->sin6_port = htons((uint16_t)port);
    if (sender->known && !transactions_answer(batch->transactions, key, gate->out + batch->used, (size_t)length, address,
                                              address_length, batch->now)) {
        PyErr_NoMemory();
        return false;
    }
    batch->answers++;
    send_later(batch, (size_t)length, address, address_length);
    return true;
}

/* An INVITE. 1: done, 0: not a new call attempt in the plain form, for Python; -1: an exception. */
static int take_invite(Batch *batch, Text message, const struct sockaddr_in6 *from, socklen_t from_length)
{
    Gate *gate = batch->gate;
    struct sockaddr_in6 address = *from;
    address.sin6_port = 0; /* which stands at the same place in sockaddr_in */
    Sender *sender = gate_sender(gate, &address, from_length);
    if (sender == NULL)
        return PyErr_Occurred() ? -1 : 0;
    Call call;
    Identity identity;
    if (!read_call(message, sender->country, sender->trusted, &call) ||
        gate_knows(gate, sender, &call, batch->now, &identity))
        return 0;
    byte contact[CONTACT_MAX], tag[TAG_DIGITS];
    uint64_t key = gate_tag(gate, &call, tag);
    const byte *host = PyUnicode_1BYTE_DATA(sender->source);
    Wanted wanted = {text_of(sender->status_line), {NULL, NULL}, {tag, tag + TAG_DIGITS},
                     {host, host + PyUnicode_GET_LENGTH(sender->source)}, ntohs(from->sin6_port)};
    unsigned port;
    if (wanted.port == 0 || !passing_rows(sender, call.uri, contact, &wanted.rows))
        return 0;
    Py_ssize_t length = write_reply(batch, &call, &wanted, &port);
    if (length <= 0)
        return (int)length;
    Py_INCREF(sender); /* asking Python may let go of every sender that is remembered */
    bool good = decide(batch, sender, &call, &identity, &wanted, length, port, &address, from_length, key);
    Py_DECREF(sender);
    return good ? 1 : -1;
}

/* The number of a To tag that we gave; false for any other. */
static bool read_tag(Text tag, uint64_t *key)
{
    *key = 0;
    if (tag.end - tag.at != TAG_DIGITS)
        return false;
    for (const byte *at = tag.at; at < tag.end; at++) {
        if (!(is_digit(*at) || (*at >= 'a' && *at <= 'f')))
            return false;
        *key = *key << 4 | (uint64_t)(is_digit(*at) ? *at - '0' : *at - 'a' + 10);
    }
    return true;
}

/* Whether this was an ACK of a transaction that is known. Anything else is for Python. */
static bool take_ack(Batch *batch, Text message)
{
    const byte *feed = find(message.at, message.end, '\n'), *at = feed + 1;
    if (feed == NULL || feed[-1] != '\r')
        return false;
    Text method, text = {message.at, feed - 1};
    if (read_request_line(text.at, text.end, &method, &text).reason != NULL || method.end - method.at != 3)
        return false;
    Kind kind;
    while ((kind = next_row(&at, message.end, &text)) != TO) {
        if (kind == NO_ROW)
            return false;
    }
    Text uri, parameters;
    uint64_t key;
    read_address(text, &uri, &parameters);
    if (!read_tag(parameter(parameters, "tag", 3), &key) || !transactions_ack(batch->transactions, key, batch->now))
        return false;
    batch->acks++;
    return true;
}

/* Have Python take it in; false with an exception. */
static bool give_to_python(Batch *batch, Text message, const void *address, socklen_t address_length)
{
    PyObject *raw = PyBytes_FromStringAndSize((const char *)message.at, message.end - message.at);
    PyObject *from = PyBytes_FromStringAndSize(address, (Py_ssize_t)address_length);
    PyObject *reply = raw != NULL && from != NULL ? PyObject_CallFunctionObjArgs(batch->receive, raw, from, NULL) : NULL;
    bool good = reply != NULL && gate_now(batch->gate, &batch->now);
    Py_XDECREF(raw);
    Py_XDECREF(from);
    if (good && reply != Py_None) {
        good = PyTuple_CheckExact(reply) && PyTuple_GET_SIZE(reply) == 2 && PyBytes_Check(PyTuple_GET_ITEM(reply, 0)) &&
               PyBytes_Check(PyTuple_GET_ITEM(reply, 1)) && PyBytes_GET_SIZE(PyTuple_GET_ITEM(reply, 1)) <= ADDRESS_MAX;
        if (!good) {
            PyErr_SetString(PyExc_TypeError, "a reply is a pair of bytes: payload and address");
        } else {
            Text payload = text_of(PyTuple_GET_ITEM(reply, 0)), to = text_of(PyTuple_GET_ITEM(reply, 1));
            size_t length = (size_t)(payload.end - payload.at);
            good = gate_room(batch->gate, batch->used, length);
            if (good) {
                memcpy(batch->gate->out + batch->used, payload.at, length);
                send_later(batch, length, to.at, (socklen_t)(to.end - to.at));
            }
        }
    }
    Py_XDECREF(reply);
    return good;
}

static bool take(Batch *batch, Text message, const struct sockaddr_in6 *from, socklen_t from_length)
{
    if (message.end - message.at > 7) {
        int done = 0;
        if (memcmp(message.at, "INVITE ", 7) == 0)
            done = take_invite(batch, message, from, from_length);
        else if (memcmp(message.at, "ACK ", 4) == 0)
            done = take_ack(batch, message);
        if (done != 0)
            return done > 0;
    }
    return give_to_python(batch, message, from, from_length);
}

/* ---- a batch ----------------------------------------------------------------------------------------------------- */

static int receive_some(int fd, int most, struct mmsghdr *heads, struct iovec *parts, struct sockaddr_in6 *addresses)
{
    memset(heads, 0, (size_t)most * sizeof(heads[0]));
    for (int i = 0; i < most; i++) {
        parts[i] = (struct iovec){buffers + (size_t)i * MAX_DATAGRAM, MAX_DATAGRAM};
        heads[i].msg_hdr.msg_name = &addresses[i];
        heads[i].msg_hdr.msg_namelen = sizeof(addresses[i]);
        heads[i].msg_hdr.msg_iov = &parts[i];
        heads[i].msg_hdr.msg_iovlen = 1;
    }
    int count;
    do {
        count = recvmmsg(fd, heads, (unsigned)most, MSG_DONTWAIT, NULL);
    } while (count < 0 && errno == EINTR);
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : count;
}

/* Send all; how many could not be sent. As send_some in udp.c. */
static int send_all(int fd, Batch *batch)
{
    struct mmsghdr heads[MAX_BATCH];
    struct iovec parts[MAX_BATCH];
    int at = 0, sent = 0, count = batch->sending_count;
    memset(heads, 0, (size_t)count * sizeof(heads[0]));
    for (int i = 0; i < count; i++) {
        Sending *it = &batch->sending[i];
        parts[i] = (struct iovec){batch->gate->out + it->at, it->length};
        heads[i].msg_hdr.msg_name = it->address;
        heads[i].msg_hdr.msg_namelen = it->address_length;
        heads[i].msg_hdr.msg_iov = &parts[i];
        heads[i].msg_hdr.msg_iovlen = 1;
    }
    while (at < count) {
        int done = sendmmsg(fd, heads + at, (unsigned)(count - at), MSG_DONTWAIT);
        if (done > 0) {
            at += done;
            sent += done;
        } else if (done < 0 && errno == EINTR) {
            continue;
        } else if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EBADF)) {
            break;
        } else {
            at++; /* this one cannot be sent (no route, too long, not permitted): the others can */
        }
    }
    return count - sent;
}

/* One batch: how many datagrams it had, -1 with OSError. */
static int serve_batch(Batch *it, int fd)
{
    struct mmsghdr heads[MAX_BATCH];
    struct iovec parts[MAX_BATCH];
    struct sockaddr_in6 addresses[MAX_BATCH]; /* holds a sockaddr_in too */
    int count = receive_some(fd, MAX_BATCH, heads, parts, addresses);
    it->used = 0;
    it->sending_count = 0;
    for (int i = 0; i < count; i++) {
        Text message = {parts[i].iov_base, (const byte *)parts[i].iov_base + heads[i].msg_len};
        if (!take(it, message, &addresses[i], heads[i].msg_hdr.msg_namelen)) {
            it->faults++; /* of ours; the peer sends the message again, and the others must not suffer for it */
            PyErr_WriteUnraisable((PyObject *)it->gate);
        }
    }
    if (count > 0)
        it->unsent += send_all(fd, it);
    return count;
}

PyObject *gate_serve(Gate *gate, PyObject *args)
{
    int fd, most, received = 0, count;
    Batch batch = {.gate = gate}, *it = &batch;
    if (!PyArg_ParseTuple(args, "iiO!OOO!:serve", &fd, &most, &TransactionsType, &it->transactions, &it->receive, &it->ask,
                          &PyFloat_Type, &it->when) ||
        !gate_now(gate, &it->now))
        return NULL;
    do { /* what came meanwhile is served at once: going back to the event loop costs more than ten calls do */
        count = serve_batch(it, fd);
        received += count > 0 ? count : 0;
    } while (count > 0 && received < most && gate_now(gate, &it->now));
    if (PyErr_Occurred())
        return NULL;
    if (count < 0 && received == 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("(illlllll)", received, it->unsent, it->requests, it->answers, it->acks, it->dropped,
                         it->undecided, it->faults);
}

bool redirect_prepare(void)
{
    buffers = PyMem_RawMalloc((size_t)MAX_BATCH * MAX_DATAGRAM);
    if (buffers == NULL)
        PyErr_NoMemory();
    return buffers != NULL;
}
