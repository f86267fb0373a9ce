/* The redirect server's share of the gate: one batch of datagrams in, what is answered out.
 *
 * What agent/ingress/redirect/responder.py does with an INVITE that is a new call attempt, and with an ACK that names one
 * of our transactions. Every other datagram is given to `receive` of that responder, in its turn.
 */

#include "gate.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "reply.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h; a kernel that does not know it refuses, and answers are sent singly */
#endif

#define MAX_BATCH 64 /* agent/ingress/datagrams.py */
#define MAX_DATAGRAM 65535
#define CONTACT_MAX 512 /* bytes of the row; a longer one is not plain */


typedef struct {
    size_t at, length; /* in gate->out */
    socklen_t address_length;
    unsigned char address[ADDRESS_MAX];
} Sending;

/* A datagram, and what was found out about it before anything was counted. */
typedef struct {
    enum { FOR_PYTHON, INVITE, ACK } kind;
    Text message;
    struct sockaddr_in6 address; /* holds a sockaddr_in too */
    socklen_t address_length;
    Sender *sender; /* owned */
    Identity identity;
    uint64_t key; /* of the transaction */
    byte tag[TAG_DIGITS];
    Call call;
} Datagram;

/* Where a batch is received, one after the other: made once, since making it takes longer than an empty system call.
 * As in udp.c, the pages that no long datagram ever touches are never backed by memory. */
static Datagram *datagrams; /* MAX_BATCH of them, as of the others */
static byte *buffers;
static struct mmsghdr incoming[MAX_BATCH];
static struct iovec incoming_parts[MAX_BATCH];

typedef struct {
    Gate *gate;
    Transactions *transactions;
    PyObject *receive; /* (raw, address) -> (payload, address) | None: whatever is not for the gate */
    PyObject *ask;     /* (entry, raw, sender, when, signs, verdict) -> see below: what only Python decides */
    PyObject *when;
    double now;
    size_t used; /* of gate->out */
    long unsent, requests, answers, acks, dropped, undecided, faults;
    int sending_count;
    Sending sending[MAX_BATCH];
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
static enum word ask(Batch *batch, const Sender *sender, const Call *call, const Asked *asked, PyObject **rendered)
{
    PyObject *raw = PyBytes_FromStringAndSize((const char *)call->message.at, call->message.end - call->message.at);
    PyObject *signs = asked_signs(asked), *said = NULL;
    if (raw != NULL && signs != NULL)
        said = PyObject_CallFunctionObjArgs(batch->ask, (PyObject *)asked->entry, raw, (PyObject *)sender, batch->when,
                                            signs, asked->verdict != NULL ? asked->verdict : Py_None, NULL);
    Py_XDECREF(raw);
    Py_XDECREF(signs);
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
static bool decide(Batch *batch, Datagram *it, Wanted *wanted, Py_ssize_t length, unsigned port)
{
    Gate *gate = batch->gate;
    Asked asked;
    PyObject *rendered = NULL;
    enum word word = ERROR;
    batch->requests++;
    switch (gate_decide(gate, it->sender, &it->call, &it->identity, batch->now, batch->when, &asked)) {
    case FAILED:
        break;
    case PASSES:
        word = gate_passed(gate, it->sender, it->message, batch->when) ? PASS : ERROR;
        break;
    case ASKS:
        word = ask(batch, it->sender, &it->call, &asked, &rendered);
        break;
    }
    asked_end(&asked);
    if (word == REFUSE) {
        wanted->status_line = text_of(PyTuple_GET_ITEM(rendered, 0));
        wanted->rows = text_of(PyTuple_GET_ITEM(rendered, 1));
        length = write_reply(batch, &it->call, wanted, &port);
        Py_DECREF(rendered);
        if (length <= 0)
            return false;
    }
    if (word == SILENCE)
        batch->dropped++;
    if (word == ERROR || word == SILENCE)
        return word != ERROR;
    struct sockaddr_in6 address = it->address;
    address.sin6_port = htons((uint16_t)port); /* which stands at the same place in sockaddr_in */
    if (it->sender->known && !transactions_answer(batch->transactions, it->key, gate->out + batch->used, (size_t)length,
                                                  &address, it->address_length, batch->now)) {
        PyErr_NoMemory();
        return false;
    }
    batch->answers++;
    send_later(batch, (size_t)length, &address, it->address_length);
    return true;
}

/* An INVITE that was read. 1: done, 0: not a new call attempt in the plain form, for Python; -1: an exception. */
static int take_invite(Batch *batch, Datagram *it)
{
    if (attempts_known(batch->gate->attempts, it->identity.attempt, batch->now))
        return 0;
    byte contact[CONTACT_MAX];
    const byte *host = PyUnicode_1BYTE_DATA(it->sender->source);
    Wanted wanted = {text_of(it->sender->status_line), {NULL, NULL}, {it->tag, it->tag + TAG_DIGITS},
                     {host, host + PyUnicode_GET_LENGTH(it->sender->source)}, ntohs(it->address.sin6_port)};
    unsigned port;
    if (wanted.port == 0 || !passing_rows(it->sender, it->call.uri, contact, &wanted.rows))
        return 0;
    Py_ssize_t length = write_reply(batch, &it->call, &wanted, &port);
    if (length <= 0)
        return (int)length;
    return decide(batch, it, &wanted, length, port) ? 1 : -1;
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

/* The transaction that an ACK names; false for an ACK that is for Python. */
static bool read_ack(Text message, uint64_t *key)
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
    read_address(text, &uri, &parameters);
    return read_tag(parameter(parameters, "tag", 3), key);
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

/* Find out what it is, and have the memory come that it will be looked up in. Counts nothing. */
static bool look_at(Batch *batch, Datagram *it)
{
    Gate *gate = batch->gate;
    it->kind = FOR_PYTHON;
    it->sender = NULL;
    if (it->message.end - it->message.at <= 7)
        return true;
    if (memcmp(it->message.at, "ACK ", 4) == 0) {
        if (read_ack(it->message, &it->key)) {
            it->kind = ACK;
            transactions_expect(batch->transactions, it->key);
        }
        return true;
    }
    if (memcmp(it->message.at, "INVITE ", 7) != 0)
        return true;
    struct sockaddr_in6 address = it->address;
    address.sin6_port = 0;
    Sender *sender = gate_sender(gate, &address, it->address_length);
    if (sender == NULL)
        return !PyErr_Occurred();
    if (!read_call(it->message, sender->country, sender->trusted, &it->call))
        return true;
    it->kind = INVITE;
    it->sender = (Sender *)Py_NewRef((PyObject *)sender); /* Python may let go of every sender that is remembered */
    it->identity = gate_identity(sender, &it->call);
    it->key = gate_tag(gate, &it->call, it->tag);
    gate_expect(gate, sender, &it->call, &it->identity);
    transactions_expect(batch->transactions, it->key);
    return true;
}

/* Do what is to be done; false with an exception. */
static bool take(Batch *batch, Datagram *it)
{
    if (it->kind == INVITE) {
        int done = take_invite(batch, it);
        if (done != 0)
            return done > 0;
    } else if (it->kind == ACK && transactions_ack(batch->transactions, it->key, batch->now)) {
        batch->acks++;
        return true;
    }
    return give_to_python(batch, it->message, &it->address, it->address_length);
}

/* ---- a batch ----------------------------------------------------------------------------------------------------- */

/* What has come: how many datagrams, -1 with errno. */
static int receive_some(int fd)
{
    int count;
    do {
        count = recvmmsg(fd, incoming, MAX_BATCH, MSG_DONTWAIT, NULL);
    } while (count < 0 && errno == EINTR);
    for (int i = 0; i < count; i++) {
        const byte *at = incoming[i].msg_hdr.msg_iov->iov_base;
        datagrams[i].message = (Text){at, at + incoming[i].msg_len};
        datagrams[i].address_length = incoming[i].msg_hdr.msg_namelen;
        incoming[i].msg_hdr.msg_namelen = sizeof(datagrams[i].address);
    }
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : count;
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

/* Answers of one length to one address leave as one datagram, which the kernel takes apart as late as it can
 * (UDP_SEGMENT, Linux 4.18): an answer then costs it half. An SBC's messages are made alike, so that this is the rule. */
typedef struct {
    int count;
    int members[MAX_BATCH]; /* indexes of batch->sending, in order */
} Group;

#define SEGMENT_MAX 1200 /* bytes: longer ones might not fit a path, and then the kernel refuses all of them */
#define GROUP_BYTES_MAX 60000

static bool fits(const Batch *batch, const Group *group, const Sending *it)
{
    const Sending *first = &batch->sending[group->members[0]];
    return it->length == first->length && it->length <= SEGMENT_MAX && it->address_length == first->address_length &&
           memcmp(it->address, first->address, it->address_length) == 0 &&
           ((size_t)group->count + 1) * it->length <= GROUP_BYTES_MAX;
}

static int make_groups(const Batch *batch, Group *groups)
{
    int count = 0;
    for (int i = 0; i < batch->sending_count; i++) {
        int at = count;
        while (!batch->gate->sends_singly && at > 0 && !fits(batch, &groups[at - 1], &batch->sending[i]))
            at--;
        if (batch->gate->sends_singly || at == 0) {
            groups[count].count = 0;
            at = ++count;
        }
        Group *group = &groups[at - 1];
        group->members[group->count++] = i;
    }
    return count;
}

typedef union { /* aligned as a cmsghdr is */
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(uint16_t))];
} Control;

/* Have `head` send [first, first + count) of the group. */
static void point_at(const Batch *batch, const Group *group, int first, int count, struct mmsghdr *head,
                     struct iovec *parts, Control *control)
{
    const Sending *it = &batch->sending[group->members[first]];
    memset(head, 0, sizeof(*head));
    head->msg_hdr.msg_name = (void *)it->address;
    head->msg_hdr.msg_namelen = it->address_length;
    head->msg_hdr.msg_iov = parts;
    head->msg_hdr.msg_iovlen = (size_t)count;
    for (int i = 0; i < count; i++) {
        it = &batch->sending[group->members[first + i]];
        parts[i] = (struct iovec){batch->gate->out + it->at, it->length};
    }
    if (count > 1) {
        uint16_t size = (uint16_t)it->length;
        memset(control, 0, sizeof(*control));
        head->msg_hdr.msg_control = control;
        head->msg_hdr.msg_controllen = sizeof(*control);
        control->head.cmsg_level = SOL_UDP;
        control->head.cmsg_type = UDP_SEGMENT;
        control->head.cmsg_len = CMSG_LEN(sizeof(size));
        memcpy(CMSG_DATA(&control->head), &size, sizeof(size));
    }
}

static bool is_full(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EBADF; }

/* Send the members of a group one by one; how many were sent. *full: there is no room for any more. */
static int send_singly(int fd, Batch *batch, const Group *group, bool *full)
{
    int sent = 0;
    for (int i = 0; i < group->count && !*full; i++) {
        struct mmsghdr head;
        struct iovec part;
        ssize_t done;
        point_at(batch, group, i, 1, &head, &part, NULL);
        while ((done = sendmsg(fd, &head.msg_hdr, MSG_DONTWAIT)) < 0 && errno == EINTR) {}
        sent += done >= 0;
        *full = done < 0 && is_full();
    }
    return sent;
}

/* Send all; how many could not be sent. Never waits. */
static int send_all(int fd, Batch *batch)
{
    static Group groups[MAX_BATCH]; /* as `datagrams` */
    struct mmsghdr heads[MAX_BATCH];
    struct iovec parts[MAX_BATCH];
    Control controls[MAX_BATCH];
    int count = make_groups(batch, groups), at = 0, sent = 0, used = 0;
    bool full = false;
    for (int i = 0; i < count; i++) {
        point_at(batch, &groups[i], 0, groups[i].count, &heads[i], &parts[used], &controls[i]);
        used += groups[i].count;
    }
    while (at < count && !full) {
        int done = sendmmsg(fd, heads + at, (unsigned)(count - at), MSG_DONTWAIT);
        if (done < 0 && errno == EINTR)
            continue;
        for (int i = 0; i < done; i++)
            sent += groups[at++].count;
        if (done >= 0)
            continue;
        full = is_full();
        if (!full) { /* this one cannot be sent: no route, not permitted, or not as segments on this way */
            batch->gate->sends_singly |= groups[at].count > 1;
            sent += send_singly(fd, batch, &groups[at++], &full);
        }
    }
    return batch->sending_count - sent;
}

/* ---- serving ----------------------------------------------------------------------------------------------------- */

/* Memory of a table is far away: what a batch needs of it is asked for while the whole batch is read, and is there when
 * it is decided. */
static void look_ahead(Batch *batch, Datagram *datagrams, int count)
{
    for (int i = 0; i < count; i++) {
        if (!look_at(batch, &datagrams[i])) {
            batch->faults++;
            PyErr_WriteUnraisable((PyObject *)batch->gate);
        }
    }
    for (int i = 0; i < count; i++) {
        if (datagrams[i].kind == ACK)
            transactions_expect_more(batch->transactions, datagrams[i].key);
    }
}

/* One batch: how many datagrams it had, -1 with errno. */
static int serve_batch(Batch *it, int fd)
{
    int count = receive_some(fd);
    it->used = 0;
    it->sending_count = 0;
    look_ahead(it, datagrams, count);
    for (int i = 0; i < count; i++) {
        if (!take(it, &datagrams[i])) {
            it->faults++; /* of ours; the peer sends the message again, and the others must not suffer for it */
            PyErr_WriteUnraisable((PyObject *)it->gate);
        }
        Py_CLEAR(datagrams[i].sender);
    }
    if (count > 0)
        it->unsent += send_all(fd, it);
    return count;
}

PyObject *gate_serve(Gate *gate, PyObject *args)
{
    int fd, most, received = 0, count;
    Batch batch, *it = &batch;
    memset(it, 0, offsetof(Batch, sending)); /* the rest is written before it is read */
    it->gate = gate;
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
    datagrams = PyMem_RawCalloc(MAX_BATCH, sizeof(*datagrams));
    if (buffers == NULL || datagrams == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (int i = 0; i < MAX_BATCH; i++) {
        incoming_parts[i] = (struct iovec){buffers + (size_t)i * MAX_DATAGRAM, MAX_DATAGRAM};
        incoming[i].msg_hdr.msg_name = &datagrams[i].address;
        incoming[i].msg_hdr.msg_namelen = sizeof(datagrams[i].address);
        incoming[i].msg_hdr.msg_iov = &incoming_parts[i];
        incoming[i].msg_hdr.msg_iovlen = 1;
    }
    return true;
}
