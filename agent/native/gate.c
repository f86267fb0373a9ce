/* The compiled hot path: what screening does with a new INVITE whose decision needs no Python. The policy that it decides
 * by, and everything that it cannot decide, are agent/gate.py's; screening there is the reference.
 *
 * A call passes here if it is of a known sender, is no emergency call, is on no list and within all limits. It is
 * counted in the same tables that Python counts in. Whatever else an INVITE may be, Python is asked, before anything
 * is counted or at the very place where the answer is missing.
 */

#include "gate.h"

#include <math.h>
#include <structmember.h>

#include "number_index.h"

#define NANP_FIRST 10000000000LL /* agent/numbers/ranges.py: +1 000 000 0000 as an integer */
#define SENDERS_KEPT 16384       /* as in agent/policy/trunks.py: cleared when full */

static PyTypeObject *number_index_type;
static const RatesApi *rates_api;
const uint64_t *hash_key;

/* ---- senders ----------------------------------------------------------------------------------------------------- */

static int sender_clear(Sender *self)
{
    Py_CLEAR(self->trunk);
    Py_CLEAR(self->source);
    Py_CLEAR(self->policy);
    Py_CLEAR(self->status_line);
    Py_CLEAR(self->rows);
    Py_CLEAR(self->next_hop);
    return 0;
}

static void sender_dealloc(Sender *self)
{
    sender_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* `keys`: a str is a constant key, 1 the calling number, 2 the called one. */
static bool read_keys(Sender *self, PyObject *keys)
{
    self->key_count = PyTuple_GET_SIZE(keys);
    if (self->key_count > KEYS_MAX) {
        PyErr_Format(PyExc_ValueError, "an attempt has at most %d keys", KEYS_MAX);
        return false;
    }
    for (Py_ssize_t i = 0; i < self->key_count; i++) {
        PyObject *key = PyTuple_GET_ITEM(keys, i);
        if (PyUnicode_Check(key)) {
            Py_ssize_t length;
            const char *text = PyUnicode_AsUTF8AndSize(key, &length);
            if (text == NULL)
                return false;
            self->keys[i] = rate_key(text, (size_t)length);
        } else {
            long made_of = PyLong_AsLong(key);
            if (made_of != KEY_CALLING && made_of != KEY_CALLED) {
                PyErr_SetString(PyExc_ValueError, "a key is a str, 1 or 2");
                return false;
            }
            self->made_of[i] = (unsigned char)made_of;
        }
    }
    return true;
}

static PyObject *sender_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"trunk", "trunk_id", "source", "policy", "country", "trusted", "plain", "known",
                            "status_line", "rows", "next_hop", "keys", NULL};
    PyObject *trunk, *source, *policy, *status_line, *rows, *next_hop, *keys;
    const char *id, *country;
    Py_ssize_t id_length, country_length;
    int trusted, plain, known;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$Os#UOs#pppSSSO!:Sender", names, &trunk, &id, &id_length, &source,
                                     &policy, &country, &country_length, &trusted, &plain, &known, &status_line, &rows,
                                     &next_hop, &PyTuple_Type, &keys))
        return NULL;
    if (!PyUnicode_IS_ASCII(source) || !is_country((Span){country, country_length}))
        return PyErr_Format(PyExc_ValueError, "a source is ASCII, a country a code of at most three digits");
    Sender *self = (Sender *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->trunk = Py_NewRef(trunk);
    self->source = Py_NewRef(source);
    self->policy = Py_NewRef(policy);
    self->status_line = Py_NewRef(status_line);
    self->rows = Py_NewRef(rows);
    self->next_hop = Py_NewRef(next_hop);
    self->trunk_hash = hash_text(id, (size_t)id_length);
    memcpy(self->country, country, (size_t)country_length);
    self->trusted = (char)trusted;
    self->plain = (char)plain;
    self->known = (char)known;
    if (!read_keys(self, keys))
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMemberDef sender_members[] = {
    {"trunk", T_OBJECT_EX, offsetof(Sender, trunk), READONLY, "agent.policy.trunks.Trunk"},
    {"source", T_OBJECT_EX, offsetof(Sender, source), READONLY, "its address"},
    {"policy", T_OBJECT_EX, offsetof(Sender, policy), READONLY, "the policy that this is told by"},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject SenderType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._gate.Sender",
    .tp_basicsize = sizeof(Sender),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Who sends calls, and what the policy says about all of them. `keys`: a str is a constant, 1 the calling "
              "number, 2 the called one.",
    .tp_new = sender_new,
    .tp_dealloc = (destructor)sender_dealloc,
    .tp_members = sender_members,
};

static Sender *look_up(Gate *gate, const void *key, size_t length)
{
    PyObject *name = PyBytes_FromStringAndSize(key, (Py_ssize_t)length);
    PyObject *found = name != NULL ? PyDict_GetItemWithError(gate->senders, name) : NULL;
    if (found == NULL && name != NULL && !PyErr_Occurred()) {
        if (PyDict_GET_SIZE(gate->senders) >= SENDERS_KEPT)
            PyDict_Clear(gate->senders);
        PyObject *made = PyObject_CallOneArg(gate->sender_of, name);
        if (made != NULL && made != Py_None && !Py_IS_TYPE(made, &SenderType))
            PyErr_SetString(PyExc_TypeError, "sender_of gives a Sender or None");
        else if (made != NULL && PyDict_SetItem(gate->senders, name, made) == 0)
            found = made; /* which the dict holds */
        Py_XDECREF(made);
    }
    Py_XDECREF(name);
    return found != NULL && found != Py_None ? (Sender *)found : NULL;
}

Sender *gate_sender(Gate *gate, const void *key, size_t length)
{
    if (length > SENDER_KEY_MAX)
        return NULL;
    if (length == gate->last_length && memcmp(key, gate->last_key, length) == 0)
        return gate->last;
    gate->last_length = SENDER_KEY_MAX + 1; /* no key has that length: nothing is remembered if this fails */
    Sender *sender = look_up(gate, key, length);
    if (PyErr_Occurred())
        return NULL;
    memcpy(gate->last_key, key, length);
    gate->last_length = length;
    gate->last = sender;
    return sender;
}

/* ---- deciding ---------------------------------------------------------------------------------------------------- */

static uint64_t hash_of(Text text) { return hash_text(text.at, (size_t)(text.end - text.at)); }

Identity gate_identity(const Sender *sender, const Call *call)
{
    uint64_t attempt = hash_join(sender->trunk_hash, hash_of(call->call_id));
    attempt = hash_join(attempt, hash_of(call->from_tag));
    if (call->from_tag.at == call->from_tag.end)
        attempt = hash_join(attempt, hash_of(call->from_uri));
    uint64_t transaction = hash_join(hash_of(call->branch), hash_of(call->sent_by));
    transaction = hash_join(hash_join(transaction, call->cseq), hash_of(call->uri));
    return (Identity){attempt, transaction, call->cseq};
}

/* Whether a list may say something about this number; what, and whether it still holds, Python knows. */
static bool is_listed(const Gate *gate, const Reading *number)
{
    if (number->kind == NANP_INVALID && gate->refuse_invalid)
        return true;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(gate->indexes); i++) {
        PyObject *pair = PyTuple_GET_ITEM(gate->indexes, i);
        const Index *index = (const Index *)PyTuple_GET_ITEM(pair, 0);
        if (number->national >= 0 ? index_place(index, number->national) != INDEX_ABSENT
                                  : number->kind == FOREIGN && PyTuple_GET_ITEM(pair, 1) == Py_True)
            return true;
    }
    return false;
}

/* Whether the calling number is one of those whose calls only Python decides (NumberPatterns.__contains__). */
static bool is_watched(const Gate *gate, const Reading *number)
{
    size_t low = 0, count = (size_t)PyBytes_GET_SIZE(gate->watched) / (2 * sizeof(uint64_t)), high = count;
    uint64_t value = 0, range[2];
    if (count == 0 || (number->national < 0 && number->kind != FOREIGN))
        return false;
    for (size_t i = 0; i < number->length; i++)
        value = value * 10 + (uint64_t)(number->digits[i] - '0');
    while (low < high) { /* the first range that begins above the number */
        size_t middle = low + (high - low) / 2;
        memcpy(range, PyBytes_AS_STRING(gate->watched) + middle * sizeof(range), sizeof(range));
        if (range[0] <= value)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return false;
    memcpy(range, PyBytes_AS_STRING(gate->watched) + (low - 1) * sizeof(range), sizeof(range));
    return value <= range[1];
}

/* Whether a rule may have something to say about this call, apart from limits. */
static bool is_special(const Gate *gate, const Sender *sender, const Call *call)
{
    const Rows *rows = &call->rows;
    if (!sender->plain || gate->asks || (call->called.kind != NANP && call->called.kind != FOREIGN))
        return true;
    if (rows->count[PRIORITY] || rows->count[RESOURCE_PRIORITY] || is_watched(gate, &call->calling))
        return true;
    return call->other.kind != ABSENT && (is_listed(gate, &call->other) || is_listed(gate, &call->calling));
}

/* How a list has this call refused, whose number is on it: a new reference; NULL with none set where no entry holds any
 * more. Python looks up what is known by number and time alone, which is a third of a whole decision. */
static PyObject *refusal_of(const Gate *gate, const Reading *calling, PyObject *when)
{
    PyObject *number = PyLong_FromLongLong(NANP_FIRST + calling->national);
    PyObject *verdict = number != NULL ? PyObject_CallFunctionObjArgs(gate->refusal, number, when, NULL) : NULL;
    Py_XDECREF(number);
    if (verdict == Py_None)
        Py_CLEAR(verdict);
    return verdict;
}

static PyObject *digits_of(const Reading *number)
{
    PyObject *text = PyUnicode_New((Py_ssize_t)number->length, 127);
    if (text != NULL && number->length > 0)
        memcpy(PyUnicode_1BYTE_DATA(text), number->digits, number->length);
    return text;
}

/* What the limits count this call by: sender->key_count keys. */
static void keys_of(const Sender *sender, const Call *call, uint64_t *keys)
{
    uint64_t made[] = {
        [KEY_CALLING] = rate_key(call->calling.digits, call->calling.length),
        [KEY_CALLED] = rate_key(call->called.digits, call->called.length),
    };
    for (Py_ssize_t i = 0; i < sender->key_count; i++)
        keys[i] = sender->made_of[i] == KEY_CONSTANT ? sender->keys[i] : made[sender->made_of[i]];
}

void gate_expect(const Gate *gate, const Sender *sender, const Call *call, const Identity *identity)
{
    attempts_expect(gate->attempts, identity->attempt);
    if (gate->bank != NULL && sender->plain) {
        uint64_t keys[KEYS_MAX];
        keys_of(sender, call, keys);
        gate->rates->expect(gate->bank, keys, sender->key_count);
    }
}

/* Ask all limits; PASSES has consumed of them. */
static enum outcome within_limits(Gate *gate, const Sender *sender, const Call *call, double now, uint64_t *signs)
{
    uint64_t keys[KEYS_MAX];
    keys_of(sender, call, keys);
    if (!gate->rates->hit(gate->bank, keys, sender->key_count, now, signs))
        return FAILED;
    if (*signs)
        return ASKS;
    gate->rates->admit(gate->bank, now);
    return PASSES;
}

/* 1 if the called number has a list of its own, -1 with an exception. */
static int has_own_list(const Gate *gate, const Call *call)
{
    if (gate->unwanted == NULL)
        return 0;
    PyObject *called = digits_of(&call->called);
    int found = called != NULL ? PyDict_Contains(gate->unwanted, called) : -1;
    Py_XDECREF(called);
    return found;
}

/* Ask all limits about an attempt that a list refuses: it counts, and consumes nothing. */
static enum outcome count_refused(Gate *gate, const Sender *sender, const Call *call, double now, uint64_t *signs)
{
    uint64_t keys[KEYS_MAX];
    *signs = 0;
    if (gate->bank == NULL)
        return ASKS;
    keys_of(sender, call, keys);
    return gate->rates->hit(gate->bank, keys, sender->key_count, now, signs) ? ASKS : FAILED;
}

enum outcome gate_decide(Gate *gate, const Sender *sender, const Call *call, const Identity *identity, double now,
                         PyObject *when, Asked *asked)
{
    *asked = (Asked){attempts_observe(gate->attempts, identity, now), NULL, NOT_HIT};
    Entry *entry = asked->entry;
    if (entry == NULL)
        return FAILED;
    entry->numbers = fingerprint_of(call->calling.digits, call->calling.length, call->called.digits, call->called.length);
    if (is_special(gate, sender, call))
        return ASKS;
    int own_list = has_own_list(gate, call);
    if (own_list != 0)
        return own_list < 0 ? FAILED : ASKS;
    if (is_listed(gate, &call->calling)) {
        if (gate->refusal == NULL || call->calling.kind != NANP)
            return ASKS;
        asked->verdict = refusal_of(gate, &call->calling, when);
        if (asked->verdict != NULL)
            return count_refused(gate, sender, call, now, &asked->signs);
        if (PyErr_Occurred())
            return FAILED;
    }
    enum outcome outcome = gate->bank != NULL ? within_limits(gate, sender, call, now, &asked->signs) : PASSES;
    if (outcome == PASSES)
        entry->decision = Py_NewRef(gate->judged);
    return outcome;
}

void asked_end(Asked *asked)
{
    Py_CLEAR(asked->entry);
    Py_CLEAR(asked->verdict);
}

PyObject *asked_signs(const Asked *asked)
{
    return asked->signs == NOT_HIT ? PyLong_FromLong(-1) : PyLong_FromUnsignedLongLong(asked->signs);
}

bool gate_passed(Gate *gate, Sender *sender, Text message, PyObject *when)
{
    if (sender->passed == 0) {
        if (gate->touched_count == SENDERS_MAX) {
            PyErr_SetString(PyExc_RuntimeError, "passed calls were not taken");
            return false;
        }
        gate->touched[gate->touched_count++] = (Sender *)Py_NewRef((PyObject *)sender);
    }
    sender->passed++;
    PyObject *raw = PyBytes_FromStringAndSize((const char *)message.at, message.end - message.at);
    PyObject *record = raw != NULL ? PyTuple_New(3) : NULL;
    if (record == NULL) {
        Py_XDECREF(raw);
        return false;
    }
    PyTuple_SET_ITEM(record, 0, raw);
    PyTuple_SET_ITEM(record, 1, Py_NewRef((PyObject *)sender));
    PyTuple_SET_ITEM(record, 2, Py_NewRef(when));
    int failed = PyList_Append(gate->passed, record);
    Py_DECREF(record);
    return failed == 0;
}

/* ---- small things ------------------------------------------------------------------------------------------------ */

static void add_text(Blake2b *hash, Text text)
{
    blake2b_add(hash, text.at, (size_t)(text.end - text.at));
    blake2b_add(hash, (const byte *)"", 1);
}

/* As transaction_tag_py in agent/sip/tags.py. */
uint64_t gate_tag(const Gate *gate, const Call *call, byte *digits)
{
    Blake2b hash = gate->keyed;
    add_text(&hash, call->call_id);
    add_text(&hash, call->from_tag);
    add_text(&hash, call->branch);
    add_text(&hash, call->sent_by);
    char number[24];
    int length = PyOS_snprintf(number, sizeof(number), "%llu", call->cseq);
    blake2b_add(&hash, (const byte *)number, (size_t)length);
    byte digest[BLAKE2B_DIGEST];
    blake2b_end(&hash, digest);
    uint64_t key = 0;
    for (int i = 0; i < BLAKE2B_DIGEST; i++) {
        digits[2 * i] = (byte)"0123456789abcdef"[digest[i] >> 4];
        digits[2 * i + 1] = (byte)"0123456789abcdef"[digest[i] & 15];
        key = key << 8 | digest[i];
    }
    return key;
}

bool gate_now(Gate *gate, double *now)
{
    PyObject *time = PyObject_CallNoArgs(gate->clock);
    if (time == NULL)
        return false;
    *now = PyFloat_AsDouble(time);
    Py_DECREF(time);
    return !(*now == -1.0 && PyErr_Occurred());
}

bool gate_room(Gate *gate, size_t used, size_t more)
{
    if (gate->out_room - used >= more)
        return true;
    size_t room = 2 * (used + more);
    unsigned char *out = PyMem_Realloc(gate->out, room);
    if (out == NULL) {
        PyErr_NoMemory();
        return false;
    }
    gate->out = out;
    gate->out_room = room;
    return true;
}

/* ---- the type ---------------------------------------------------------------------------------------------------- */

static int gate_traverse(Gate *gate, visitproc visit, void *arg)
{
    Py_VISIT(gate->attempts);
    Py_VISIT(gate->bank);
    Py_VISIT(gate->indexes);
    Py_VISIT(gate->unwanted);
    Py_VISIT(gate->judged);
    Py_VISIT(gate->refusal);
    Py_VISIT(gate->sender_of);
    Py_VISIT(gate->clock);
    Py_VISIT(gate->senders);
    Py_VISIT(gate->passed);
    return 0;
}

static int gate_clear(Gate *gate)
{
    gate->last = NULL;
    gate->last_length = SENDER_KEY_MAX + 1;
    Py_CLEAR(gate->attempts);
    Py_CLEAR(gate->bank);
    Py_CLEAR(gate->indexes);
    Py_CLEAR(gate->watched);
    Py_CLEAR(gate->unwanted);
    Py_CLEAR(gate->judged);
    Py_CLEAR(gate->refusal);
    Py_CLEAR(gate->sender_of);
    Py_CLEAR(gate->clock);
    Py_CLEAR(gate->senders);
    Py_CLEAR(gate->passed);
    for (int i = 0; i < gate->touched_count; i++)
        Py_CLEAR(gate->touched[i]);
    gate->touched_count = 0;
    return 0;
}

static void gate_dealloc(Gate *gate)
{
    PyObject_GC_UnTrack(gate);
    gate_clear(gate);
    PyMem_Free(gate->out);
    Py_TYPE(gate)->tp_free((PyObject *)gate);
}

static bool are_indexes(PyObject *indexes)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(indexes); i++) {
        PyObject *pair = PyTuple_GET_ITEM(indexes, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            !Py_IS_TYPE(PyTuple_GET_ITEM(pair, 0), number_index_type) || !PyBool_Check(PyTuple_GET_ITEM(pair, 1)))
            return false;
    }
    return true;
}

static PyObject *gate_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"attempts", "bank", "indexes", "refuse_invalid", "watched", "unwanted", "asks", "judged",
                            "refusal", "secret", "sender_of", "clock", NULL};
    PyObject *attempts, *bank, *indexes, *watched, *unwanted, *judged, *refusal, *secret, *sender_of, *clock;
    int refuse_invalid, asks;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$O!OO!pSOpOOSOO:Gate", names, &AttemptTableType, &attempts, &bank,
                                     &PyTuple_Type, &indexes, &refuse_invalid, &watched, &unwanted, &asks, &judged,
                                     &refusal, &secret, &sender_of, &clock))
        return NULL;
    if ((bank != Py_None && !Py_IS_TYPE(bank, rates_api->bank)) || !are_indexes(indexes) ||
        (unwanted != Py_None && !PyDict_CheckExact(unwanted)) || PyBytes_GET_SIZE(secret) > BLAKE2B_KEY_MAX) {
        PyErr_SetString(PyExc_TypeError, "a gate works on compiled tables, a dict, and a secret of at most 64 bytes");
        return NULL;
    }
    Gate *gate = (Gate *)type->tp_alloc(type, 0);
    if (gate == NULL)
        return NULL;
    gate->last_length = SENDER_KEY_MAX + 1;
    gate->rates = rates_api;
    gate->attempts = (AttemptTable *)Py_NewRef(attempts);
    gate->bank = bank != Py_None ? Py_NewRef(bank) : NULL;
    gate->indexes = Py_NewRef(indexes);
    gate->watched = Py_NewRef(watched);
    gate->unwanted = unwanted != Py_None ? Py_NewRef(unwanted) : NULL;
    gate->judged = Py_NewRef(judged);
    gate->refusal = refusal != Py_None ? Py_NewRef(refusal) : NULL;
    gate->sender_of = Py_NewRef(sender_of);
    gate->clock = Py_NewRef(clock);
    gate->refuse_invalid = (char)refuse_invalid;
    gate->asks = (char)asks;
    blake2b_begin(&gate->keyed, (const byte *)PyBytes_AS_STRING(secret), (size_t)PyBytes_GET_SIZE(secret));
    blake2b_settle_key(&gate->keyed);
    gate->senders = PyDict_New();
    gate->passed = PyList_New(0);
    if (gate->senders == NULL || gate->passed == NULL)
        Py_CLEAR(gate);
    return (PyObject *)gate;
}

static PyObject *gate_take(Gate *gate, PyObject *Py_UNUSED(ignored))
{
    PyObject *counts = PyList_New(gate->touched_count), *fresh = PyList_New(0);
    for (int i = 0; counts != NULL && i < gate->touched_count; i++) {
        PyObject *pair = Py_BuildValue("(OL)", gate->touched[i]->trunk, gate->touched[i]->passed);
        if (pair == NULL)
            Py_CLEAR(counts);
        else
            PyList_SET_ITEM(counts, i, pair);
    }
    PyObject *result = counts != NULL && fresh != NULL ? Py_BuildValue("(OO)", gate->passed, counts) : NULL;
    Py_XDECREF(counts);
    if (result == NULL) {
        Py_XDECREF(fresh);
        return NULL;
    }
    for (int i = 0; i < gate->touched_count; i++) {
        gate->touched[i]->passed = 0;
        Py_CLEAR(gate->touched[i]);
    }
    gate->touched_count = 0;
    Py_SETREF(gate->passed, fresh);
    return result;
}

static PyMethodDef gate_methods[] = {
    {"serve", (PyCFunction)gate_serve, METH_VARARGS,
     "serve(fd, most, transactions, receive, ask, when) -> counts\n\nDatagrams in batches, until none has come or `most` "
     "is reached: received, unsent, requests, answers, acks, dropped, undecided, faults."},
    {"plain", (PyCFunction)gate_plain, METH_O | METH_STATIC,
     "plain(data) -> int\n\nHow many requests a ScreenStreamRequest has that `answer` can read; -1 for any other."},
    {"answer", (PyCFunction)gate_answer, METH_VARARGS,
     "answer(data, now, tail, general, ask, failed) -> (responses, end, count)\n\nThe first 64 requests of a plain message."},
    {"take", (PyCFunction)gate_take, METH_NOARGS,
     "take() -> (passed, counts)\n\nThe calls that were let pass since the last time: [(raw, sender, when)], and how many "
     "of each trunk: [(trunk, calls)]."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef gate_members[] = {
    {"sends_singly", T_BOOL, offsetof(Gate, sends_singly), READONLY, "whether the kernel has refused segments"},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject GateType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._gate.Gate",
    .tp_basicsize = sizeof(Gate),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "Decides by one policy what needs no Python; see agent/gate.py.",
    .tp_new = gate_new,
    .tp_traverse = (traverseproc)gate_traverse,
    .tp_clear = (inquiry)gate_clear,
    .tp_dealloc = (destructor)gate_dealloc,
    .tp_methods = gate_methods,
    .tp_members = gate_members,
};

/* ---- the module -------------------------------------------------------------------------------------------------- */

/* Borrow what other twins have. False with ImportError if one is missing. */
bool gate_prepare(void)
{
    PyObject *numbers = PyImport_ImportModule("agent.native._numbers");
    PyObject *type = numbers != NULL ? PyObject_GetAttrString(numbers, "NumberIndex") : NULL;
    Py_XDECREF(numbers);
    if (type == NULL || !PyType_Check(type) || ((PyTypeObject *)type)->tp_basicsize != sizeof(Index)) {
        Py_XDECREF(type);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ImportError, "agent.native._numbers is of another build");
        return false;
    }
    number_index_type = (PyTypeObject *)type;
    PyObject *rates = PyImport_ImportModule("agent.native._rates");
    PyObject *capsule = rates != NULL ? PyObject_GetAttrString(rates, "api") : NULL;
    rates_api = capsule != NULL ? PyCapsule_GetPointer(capsule, RATES_API) : NULL; /* static there: it stays */
    Py_XDECREF(capsule);
    Py_XDECREF(rates);
    return rates_api != NULL;
}

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._gate",
    .m_doc = "The compiled hot path, and the tables that it shares with Python.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__gate(void)
{
    if (!hashing_prepare() || !gate_prepare() || !redirect_prepare() || !hook_prepare() || PyType_Ready(&EntryType) < 0)
        return NULL;
    PyObject *m = PyModule_Create(&module);
    if (m != NULL && (PyModule_AddType(m, &AttemptTableType) < 0 || PyModule_AddType(m, &TransactionsType) < 0 ||
                      PyModule_AddType(m, &SenderType) < 0 || PyModule_AddType(m, &GateType) < 0))
        Py_CLEAR(m);
    return m;
}
