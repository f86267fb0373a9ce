/* The compiled twin of ServerTransactions in agent/sip/transactions.py, for datagrams: the same states, timers, bounds
 * and counts. A transaction is named by the To tag of its answer, 16 hexadecimal digits; where an answer goes is the
 * bytes of a sockaddr.
 *
 * Here a transaction stands in one queue at a time and leaves it when it moves, so no queue holds what is over.
 */

#include "gate.h"

#include <structmember.h>

/* agent/sip/transactions.py: INTERVALS, and the last of them that ends with Timer H. */
static const double INTERVALS[] = {0.5, 1, 2, 4, 4, 4, 4, 4, 4, 4, 0.5};
#define STAGES ((int)(sizeof(INTERVALS) / sizeof(INTERVALS[0])))
#define GIVE_UP (STAGES - 1)
#define CONFIRMED STAGES /* the queue of those that were acknowledged; in any other one, a transaction is Completed */
#define T4 5.0

typedef struct Transaction {
    struct Transaction *before, *after; /* in its queue */
    uint64_t key;
    double deadline;
    unsigned char *payload; /* NULL once it is acknowledged */
    uint32_t length;
    unsigned char stage;
    unsigned char address_length;
    unsigned char address[ADDRESS_MAX];
} Transaction;

typedef struct {
    Transaction *first, *last;
} Queue;

struct Transactions {
    PyObject_HEAD
    Map known; /* of Transaction, owned */
    Queue queues[STAGES + 1];
    long long capacity, waiting;
    long long overflows, shortened, retransmissions, acknowledged, unacknowledged;
};

/* ---- queues ------------------------------------------------------------------------------------------------------ */

static void leave(Transactions *table, Transaction *it)
{
    Queue *queue = &table->queues[it->stage];
    *(it->before != NULL ? &it->before->after : &queue->first) = it->after;
    *(it->after != NULL ? &it->after->before : &queue->last) = it->before;
}

/* To the end of the queue of `stage`, which it leaves first there after `seconds`. */
static void enter(Transactions *table, Transaction *it, int stage, double deadline)
{
    Queue *queue = &table->queues[stage];
    it->stage = (unsigned char)stage;
    it->deadline = deadline;
    it->before = queue->last;
    it->after = NULL;
    *(queue->last != NULL ? &queue->last->after : &queue->first) = it;
    queue->last = it;
}

static void drop(Transactions *table, Transaction *it)
{
    leave(table, it);
    table->waiting -= it->stage != CONFIRMED;
    map_remove(&table->known, it->key);
    PyMem_Free(it->payload);
    PyMem_Free(it);
}

/* ---- what happens ------------------------------------------------------------------------------------------------ */

void transactions_expect(const Transactions *table, uint64_t key) { map_expect(&table->known, key); }

void transactions_expect_more(const Transactions *table, uint64_t key)
{
    const Slot *slot = &table->known.slots[key & table->known.mask];
    if (slot->item != NULL)
        __builtin_prefetch(slot->item, 1);
}

/* In a full table each answer has the oldest confirmed transaction go. What the next one will read for that comes now:
 * its neighbour, and where the table has it. */
static void expect_drop(const Transactions *table)
{
    const Transaction *next = table->queues[CONFIRMED].first;
    if (next == NULL)
        return;
    map_expect(&table->known, next->key);
    __builtin_prefetch(next->after, 1);
}

bool transactions_answer(Transactions *table, uint64_t key, const void *payload, size_t length, const void *address,
                         size_t address_length, double now)
{
    Transaction *it = map_find(&table->known, key);
    if (it != NULL) /* a caller that reuses a finished transaction: the newer answer counts */
        drop(table, it);
    if ((long long)table->known.count >= table->capacity) {
        it = table->queues[CONFIRMED].first;
        if (it == NULL) {
            table->overflows++;
            return true;
        }
        table->shortened++;
        drop(table, it);
        expect_drop(table);
    }
    it = PyMem_Malloc(sizeof(*it));
    unsigned char *copy = PyMem_Malloc(length ? length : 1);
    if (it == NULL || copy == NULL || !map_add(&table->known, key, it)) {
        PyMem_Free(it);
        PyMem_Free(copy);
        return false;
    }
    memcpy(copy, payload, length);
    it->key = key;
    it->payload = copy;
    it->length = (uint32_t)length;
    it->address_length = (unsigned char)address_length;
    memcpy(it->address, address, address_length);
    table->waiting++;
    enter(table, it, 0, now + INTERVALS[0]);
    return true;
}

bool transactions_ack(Transactions *table, uint64_t key, double now)
{
    Transaction *it = map_find(&table->known, key);
    if (it == NULL)
        return false;
    if (it->stage == CONFIRMED)
        return true;
    leave(table, it);
    table->waiting--;
    table->acknowledged++;
    PyMem_Free(it->payload);
    it->payload = NULL;
    it->length = 0;
    enter(table, it, CONFIRMED, now + T4);
    return true;
}

/* ---- for Python -------------------------------------------------------------------------------------------------- */

/* The tag as a number; false for what is no tag of ours. */
static bool read_key(PyObject *text, uint64_t *key)
{
    if (!PyUnicode_Check(text) || !PyUnicode_IS_ASCII(text) || PyUnicode_GET_LENGTH(text) != TAG_DIGITS)
        return false;
    *key = 0;
    for (int i = 0; i < TAG_DIGITS; i++) {
        unsigned char c = PyUnicode_1BYTE_DATA(text)[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        *key = *key << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

static PyObject *pair(const Transaction *it)
{
    return Py_BuildValue("(y#y#)", it->payload != NULL ? (const char *)it->payload : "", (Py_ssize_t)it->length,
                         (const char *)it->address, (Py_ssize_t)it->address_length);
}

static PyObject *answer(Transactions *table, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    uint64_t key;
    double now;
    if (names != NULL) { /* reliable=False, which is what datagrams are */
        if (PyTuple_GET_SIZE(names) != 1 || PyObject_IsTrue(args[count]) != 0)
            return PyErr_Format(PyExc_TypeError, "answer takes no keyword but reliable=False");
    }
    if (count != 4 || !PyBytes_Check(args[1]) || !PyBytes_Check(args[2]) || PyBytes_GET_SIZE(args[2]) > ADDRESS_MAX)
        return PyErr_Format(PyExc_TypeError, "answer takes a key, a payload, an address of %d bytes and the time",
                            ADDRESS_MAX);
    if (!read_key(args[0], &key))
        return PyErr_Format(PyExc_ValueError, "%R is no tag of 16 hexadecimal digits", args[0]);
    now = PyFloat_AsDouble(args[3]);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    if (!transactions_answer(table, key, PyBytes_AS_STRING(args[1]), (size_t)PyBytes_GET_SIZE(args[1]),
                             PyBytes_AS_STRING(args[2]), (size_t)PyBytes_GET_SIZE(args[2]), now))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *invite(Transactions *table, PyObject *text)
{
    uint64_t key;
    const Transaction *it = read_key(text, &key) ? map_find(&table->known, key) : NULL;
    if (it == NULL)
        Py_RETURN_NONE;
    table->retransmissions += it->stage != CONFIRMED;
    return pair(it);
}

static PyObject *ack(Transactions *table, PyObject *const *args, Py_ssize_t count)
{
    uint64_t key;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "ack takes a key and the time");
    double now = PyFloat_AsDouble(args[1]);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(read_key(args[0], &key) && transactions_ack(table, key, now));
}

static PyObject *cancel(Transactions *table, PyObject *text)
{
    uint64_t key;
    return PyBool_FromLong(read_key(text, &key) && map_find(&table->known, key) != NULL);
}

static PyObject *next_deadline(Transactions *table, PyObject *Py_UNUSED(ignored))
{
    const Transaction *soonest = NULL;
    for (int i = 0; i <= CONFIRMED; i++) {
        const Transaction *it = table->queues[i].first;
        if (it != NULL && (soonest == NULL || it->deadline < soonest->deadline))
            soonest = it;
    }
    if (soonest == NULL)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(soonest->deadline);
}

static PyObject *due(Transactions *table, PyObject *arg)
{
    double now = PyFloat_AsDouble(arg);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    PyObject *out = PyList_New(0);
    Transaction *it;
    for (int stage = 0; out != NULL && stage < STAGES; stage++) {
        while ((it = table->queues[stage].first) != NULL && it->deadline <= now) {
            if (stage == GIVE_UP) {
                table->unacknowledged++;
                drop(table, it);
                continue;
            }
            PyObject *copy = pair(it);
            if (copy == NULL || PyList_Append(out, copy) < 0) {
                Py_XDECREF(copy);
                Py_DECREF(out);
                return NULL;
            }
            Py_DECREF(copy);
            table->retransmissions++;
            leave(table, it);
            enter(table, it, stage + 1, now + INTERVALS[stage + 1]);
        }
    }
    while ((it = table->queues[CONFIRMED].first) != NULL && it->deadline <= now)
        drop(table, it);
    return out;
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", NULL};
    long long capacity = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "L:Transactions", names, &capacity))
        return NULL;
    if (capacity < 1)
        return PyErr_Format(PyExc_ValueError, "capacity %lld must be positive", capacity);
    Transactions *table = (Transactions *)type->tp_alloc(type, 0);
    if (table == NULL)
        return NULL;
    table->capacity = capacity;
    if (!map_begin(&table->known)) {
        Py_DECREF(table);
        return PyErr_NoMemory();
    }
    return (PyObject *)table;
}

static void table_dealloc(Transactions *table)
{
    for (int i = 0; i <= CONFIRMED; i++) {
        while (table->queues[i].first != NULL)
            drop(table, table->queues[i].first);
    }
    map_end(&table->known);
    Py_TYPE(table)->tp_free((PyObject *)table);
}

static Py_ssize_t table_length(Transactions *table) { return (Py_ssize_t)table->known.count; }

static PyMethodDef table_methods[] = {
    {"answer", (PyCFunction)(void (*)(void))answer, METH_FASTCALL | METH_KEYWORDS, "answer(key, payload, address, now)"},
    {"invite", (PyCFunction)invite, METH_O, "invite(key) -> (payload, address) | None"},
    {"ack", (PyCFunction)(void (*)(void))ack, METH_FASTCALL, "ack(key, now) -> bool"},
    {"cancel", (PyCFunction)cancel, METH_O, "cancel(key) -> bool"},
    {"next_deadline", (PyCFunction)next_deadline, METH_NOARGS, "next_deadline() -> float | None"},
    {"due", (PyCFunction)due, METH_O, "due(now) -> list of (payload, address)"},
    {NULL, NULL, 0, NULL},
};

#define COUNT(name, text) {#name, T_LONGLONG, offsetof(Transactions, name), READONLY, text}
static PyMemberDef table_members[] = {
    COUNT(waiting, "answers whose ACK has not come"),
    COUNT(overflows, "answers that could not be remembered"),
    COUNT(shortened, "acknowledged transactions that went before their time"),
    COUNT(retransmissions, "answers sent again"),
    COUNT(acknowledged, "answers that were acknowledged"),
    COUNT(unacknowledged, "answers given up by Timer H"),
    {NULL, 0, 0, 0, NULL},
};

static PySequenceMethods table_sequence = {.sq_length = (lenfunc)table_length};

PyTypeObject TransactionsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._gate.Transactions",
    .tp_basicsize = sizeof(Transactions),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The answered INVITEs of one UDP socket; see agent.sip.transactions.ServerTransactions.",
    .tp_new = table_new,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = table_methods,
    .tp_members = table_members,
    .tp_as_sequence = &table_sequence,
};
