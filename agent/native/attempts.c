/* The compiled twin of AttemptTablePy in agent/calls/attempts.py, which says what an attempt is and why the bounds are
 * what they are: the same answers, the same counts. Identifiers are hashed here field by field, so that the gate can do
 * it without making objects of them.
 */

#include "gate.h"

#include <math.h>
#include <structmember.h>

/* agent/calls/attempts.py */
#define FOLLOW_UPS 8
#define COPIES 16
#define SLICES 8
#define FORGET_AT_ONCE 2

typedef struct {
    uint64_t *items;
    size_t count, room;
} Keys;

/* A slice of time that is over, and the keys that were queued in it. */
typedef struct {
    long long turn;
    Keys keys;
} Closed;

struct AttemptTable {
    PyObject_HEAD
    Map entries; /* of Entry, owned */
    long long capacity;
    long long overflows;
    /* agent.calls.ticks.Ticks */
    double seconds, start, end;
    long long count;
    /* Every key is in exactly one of these: head (oldest last), closed slices (oldest first), queue. */
    Keys head, queue;
    long long head_turn;
    Closed *closed;
    size_t closed_count, closed_room;
    bool due;
    PyObject *seen[SEEN_KINDS];
};

/* ---- lists of keys ----------------------------------------------------------------------------------------------- */

static bool keys_room(Keys *keys)
{
    if (keys->count < keys->room)
        return true;
    size_t room = keys->room ? 2 * keys->room : 256;
    uint64_t *items = PyMem_Realloc(keys->items, room * sizeof(*items));
    if (items == NULL)
        return false;
    keys->items = items;
    keys->room = room;
    return true;
}

static void keys_end(Keys *keys)
{
    PyMem_Free(keys->items);
    *keys = (Keys){NULL, 0, 0};
}

static void keys_reverse(Keys *keys)
{
    for (size_t i = 0; i < keys->count / 2; i++) {
        uint64_t other = keys->items[i];
        keys->items[i] = keys->items[keys->count - 1 - i];
        keys->items[keys->count - 1 - i] = other;
    }
}

/* ---- entries ----------------------------------------------------------------------------------------------------- */

static Entry *new_entry(AttemptTable *table, enum seen seen, uint64_t transaction, unsigned long long cseq)
{
    Entry *entry = PyObject_New(Entry, &EntryType);
    if (entry == NULL)
        return NULL;
    entry->decision = NULL;
    entry->followers = NULL;
    entry->seen_words = table->seen;
    entry->transaction = transaction;
    entry->numbers = 0;
    entry->turn = table->count;
    entry->cseq = cseq;
    entry->seen = (unsigned char)seen;
    entry->copies = 1;
    entry->continuations = 0;
    return entry;
}

static void entry_dealloc(Entry *entry)
{
    Entry *next = entry->followers;
    while (next != NULL) { /* at most FOLLOW_UPS; one that somebody holds loses the rest, which it never looks at */
        Entry *follower = next;
        next = follower->followers;
        follower->followers = NULL;
        Py_DECREF(follower);
    }
    Py_XDECREF(entry->decision);
    PyObject_Free(entry);
}

static PyObject *entry_seen(Entry *entry, void *Py_UNUSED(closure))
{
    return Py_NewRef(entry->seen_words[entry->seen]);
}

static PyObject *entry_decision(Entry *entry, void *Py_UNUSED(closure))
{
    return Py_NewRef(entry->decision != NULL ? entry->decision : Py_None);
}

static int entry_set_decision(Entry *entry, PyObject *value, void *Py_UNUSED(closure))
{
    PyObject *old = entry->decision;
    entry->decision = value != NULL && value != Py_None ? Py_NewRef(value) : NULL;
    Py_XDECREF(old);
    return 0;
}

static PyGetSetDef entry_attributes[] = {
    {"seen", (getter)entry_seen, NULL, "what the latest observation was", NULL},
    {"decision", (getter)entry_decision, (setter)entry_set_decision, "what screening left here", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef entry_members[] = {
    {"numbers", T_ULONGLONG, offsetof(Entry, numbers), 0, "fingerprint of the numbers that were judged"},
    {"continuations", T_UBYTE, offsetof(Entry, continuations), READONLY, "follow-ups before this transaction"},
    {"copies", T_UBYTE, offsetof(Entry, copies), READONLY, "of its INVITE that were seen"},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject EntryType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._gate.AttemptEntry",
    .tp_basicsize = sizeof(Entry),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "What is remembered of one transaction; see agent.calls.attempts.AttemptEntry.",
    .tp_dealloc = (destructor)entry_dealloc,
    .tp_getset = entry_attributes,
    .tp_members = entry_members,
};

/* ---- time -------------------------------------------------------------------------------------------------------- */

/* Have the oldest closed slice as head, and know whether it has expired. */
static void check_head(AttemptTable *table)
{
    if (table->head.count == 0 && table->closed_count > 0) {
        keys_end(&table->head);
        table->head_turn = table->closed[0].turn;
        table->head = table->closed[0].keys;
        keys_reverse(&table->head); /* so that popping takes the oldest key first */
        table->closed_count--;
        memmove(table->closed, table->closed + 1, table->closed_count * sizeof(Closed));
    }
    table->due = table->head.count > 0 && table->count - table->head_turn > SLICES;
}

/* Ticks.advance: whether a tick began. */
static bool advance(AttemptTable *table, double now)
{
    if ((table->start <= now && now < table->end) || !isfinite(now))
        return false;
    double ended = now - table->end;
    if (ended < 0.0 || table->start == table->end) {
        table->start = now;
        table->end = now + table->seconds;
        return false;
    }
    double passed = ended / table->seconds;
    if (passed < SLICES + 1) {
        long long steps = 1 + (long long)passed;
        table->start = table->end + (double)(steps - 1) * table->seconds;
        table->count += steps;
    } else {
        table->start = now;
        table->count += SLICES + 1;
    }
    table->end = table->start + table->seconds;
    return true;
}

/* Close the slice of time that ended at `turn`. Without memory it stays open, and closes with the next one. */
static void close_slice(AttemptTable *table, long long turn)
{
    if (table->queue.count == 0)
        return;
    if (table->closed_count == table->closed_room) {
        size_t room = table->closed_room ? 2 * table->closed_room : SLICES + 2;
        Closed *closed = PyMem_Realloc(table->closed, room * sizeof(*closed));
        if (closed == NULL)
            return;
        table->closed = closed;
        table->closed_room = room;
    }
    table->closed[table->closed_count++] = (Closed){turn, table->queue};
    table->queue = (Keys){NULL, 0, 0};
}

static void take_time(AttemptTable *table, double now)
{
    if (table->start <= now && now < table->end)
        return;
    long long turn = table->count;
    if (advance(table, now)) {
        close_slice(table, turn);
        check_head(table);
    }
}

/* ---- forgetting -------------------------------------------------------------------------------------------------- */

/* Have the memory come that forgetting will read next time: the slots of the keys after next, the next ones' entries. */
static void expect_forgetting(const AttemptTable *table)
{
    const Keys *head = &table->head;
    for (size_t i = 1; i <= 2 * FORGET_AT_ONCE && i <= head->count; i++) {
        uint64_t key = head->items[head->count - i];
        if (i > FORGET_AT_ONCE)
            map_expect(&table->entries, key);
        else
            __builtin_prefetch(table->entries.slots[key & table->entries.mask].item, 1);
    }
}

static Entry *take_out(AttemptTable *table, uint64_t key)
{
    Entry *entry = map_find(&table->entries, key);
    map_remove(&table->entries, key);
    return entry;
}

/* Remove a few expired attempts; those that were seen after they were queued are queued again. */
static void forget_expired(AttemptTable *table)
{
    for (int i = 0; i < FORGET_AT_ONCE && table->due; i++) {
        uint64_t key = table->head.items[--table->head.count];
        Entry *entry = map_find(&table->entries, key);
        if (table->count - entry->turn > SLICES || !keys_room(&table->queue)) {
            Py_DECREF(take_out(table, key));
        } else {
            table->queue.items[table->queue.count++] = key;
        }
        if (table->head.count == 0)
            check_head(table);
    }
    expect_forgetting(table);
}

/* Make room for one: the attempt that was queued first goes, expired or not. */
static void forget_oldest(AttemptTable *table)
{
    if (table->head.count == 0) {
        if (table->closed_count == 0)
            close_slice(table, table->count);
        check_head(table);
        if (table->head.count == 0)
            return;
    }
    Entry *entry = take_out(table, table->head.items[--table->head.count]);
    table->overflows += table->count - entry->turn <= SLICES;
    Py_DECREF(entry);
    if (table->head.count == 0)
        check_head(table);
}

/* ---- observing --------------------------------------------------------------------------------------------------- */

/* A new entry under a key that is queued already (`known`, which it replaces) or not; a new reference. */
static Entry *add_entry(AttemptTable *table, Entry *known, uint64_t key, enum seen seen, const Identity *identity)
{
    Entry *entry = new_entry(table, seen, identity->transaction, identity->cseq);
    if (entry == NULL)
        return NULL;
    if (known != NULL) {
        map_remove(&table->entries, key);
    } else if (!keys_room(&table->queue)) {
        Py_DECREF(entry);
        return (Entry *)PyErr_NoMemory();
    }
    if (!map_add(&table->entries, key, entry)) { /* not where one was removed: the room of that is there */
        Py_DECREF(entry);
        return (Entry *)PyErr_NoMemory();
    }
    if (known != NULL)
        Py_DECREF(known);
    else
        table->queue.items[table->queue.count++] = key;
    Py_INCREF(entry);
    if (table->due)
        forget_expired(table);
    if ((long long)table->entries.count > table->capacity)
        forget_oldest(table);
    return entry;
}

/* Another copy of a known request; too many of them are calls that hide in a finished transaction. */
static Entry *copy_of(Entry *entry)
{
    if (entry->copies <= COPIES)
        entry->copies++;
    if (entry->copies > COPIES) {
        entry->seen = SEEN_EXCESS;
        Py_CLEAR(entry->decision);
    } else {
        entry->seen = SEEN_RETRANSMISSION;
    }
    return (Entry *)Py_NewRef((PyObject *)entry);
}

/* A transaction beyond the bound of its attempt: an attempt of its own, whose copies are copies. */
static Entry *excess(AttemptTable *table, const Identity *identity)
{
    uint64_t key = hash_join(identity->attempt, identity->transaction);
    Entry *known = map_find(&table->entries, key);
    if (known != NULL && table->count - known->turn <= SLICES) {
        known->turn = table->count;
        return copy_of(known);
    }
    Entry *entry = add_entry(table, known, key, SEEN_EXCESS, identity);
    if (entry != NULL)
        entry->continuations = FOLLOW_UPS;
    return entry;
}

/* An INVITE of a known attempt: a copy in one of its transactions, or a further transaction. */
static Entry *again(AttemptTable *table, Entry *first, const Identity *identity)
{
    first->turn = table->count;
    bool forked = first->cseq == identity->cseq;
    unsigned char count = 0;
    if (first->transaction == identity->transaction)
        return copy_of(first);
    for (Entry *one = first->followers; one != NULL; one = one->followers, count++) {
        if (one->transaction == identity->transaction)
            return copy_of(one);
        forked |= one->cseq == identity->cseq;
    }
    if (count >= FOLLOW_UPS)
        return excess(table, identity);
    Entry *entry = new_entry(table, forked ? SEEN_MERGED : SEEN_CONTINUATION, identity->transaction, identity->cseq);
    if (entry == NULL)
        return NULL;
    entry->decision = Py_XNewRef(first->decision);
    entry->numbers = first->numbers;
    entry->continuations = (unsigned char)(count + 1);
    entry->followers = first->followers;
    first->followers = entry;
    return (Entry *)Py_NewRef((PyObject *)entry);
}

void attempts_expect(const AttemptTable *table, uint64_t key) { map_expect(&table->entries, key); }

bool attempts_known(AttemptTable *table, uint64_t key, double now)
{
    take_time(table, now);
    const Entry *known = map_find(&table->entries, key);
    return known != NULL && table->count - known->turn <= SLICES;
}

Entry *attempts_observe(AttemptTable *table, const Identity *identity, double now)
{
    take_time(table, now);
    Entry *known = map_find(&table->entries, identity->attempt);
    if (known != NULL && table->count - known->turn <= SLICES)
        return again(table, known, identity);
    return add_entry(table, known, identity->attempt, SEEN_NEW, identity);
}

/* ---- for Python -------------------------------------------------------------------------------------------------- */

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"seen", "capacity", "lifetime", NULL};
    PyObject *seen, *shown;
    long long capacity = 0;
    double lifetime = 0.0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!Ld:AttemptTable", names, &PyTuple_Type, &seen, &capacity, &lifetime))
        return NULL;
    if (capacity < 1 || !(lifetime > 0.0) || !isfinite(lifetime)) {
        shown = PyFloat_FromDouble(lifetime);
        if (shown != NULL)
            PyErr_Format(PyExc_ValueError, "capacity %lld and lifetime %R must be positive", capacity, shown);
        Py_XDECREF(shown);
        return NULL;
    }
    if (PyTuple_GET_SIZE(seen) != SEEN_KINDS) {
        PyErr_SetString(PyExc_TypeError, "seen has one member for each thing that an INVITE can be");
        return NULL;
    }
    AttemptTable *table = (AttemptTable *)type->tp_alloc(type, 0);
    if (table == NULL)
        return NULL;
    for (int i = 0; i < SEEN_KINDS; i++)
        table->seen[i] = Py_NewRef(PyTuple_GET_ITEM(seen, i));
    table->capacity = capacity;
    table->seconds = lifetime / SLICES;
    if (!map_begin(&table->entries)) {
        Py_DECREF(table);
        return PyErr_NoMemory();
    }
    return (PyObject *)table;
}

static void table_dealloc(AttemptTable *table)
{
    for (size_t i = 0; table->entries.slots != NULL && i <= table->entries.mask; i++)
        Py_XDECREF(table->entries.slots[i].item);
    map_end(&table->entries);
    keys_end(&table->head);
    keys_end(&table->queue);
    for (size_t i = 0; i < table->closed_count; i++)
        keys_end(&table->closed[i].keys);
    PyMem_Free(table->closed);
    for (int i = 0; i < SEEN_KINDS; i++)
        Py_XDECREF(table->seen[i]);
    Py_TYPE(table)->tp_free((PyObject *)table);
}

static Py_ssize_t table_length(AttemptTable *table) { return (Py_ssize_t)table->entries.count; }

/* The fields of agent.model.Scan that identify an INVITE; their names are interned when they are first needed. */
enum field { CALL_ID_FIELD, FROM_TAG_FIELD, FROM_URI_FIELD, BRANCH_FIELD, SENT_BY_FIELD, REQUEST_URI_FIELD, CSEQ_FIELD,
             FIELDS };
static const char *const FIELD_NAMES[FIELDS] = {"call_id", "from_tag", "from_uri", "branch", "sent_by", "request_uri",
                                                "cseq"};
static PyObject *field_names[FIELDS];

static PyObject *get_field(PyObject *message, enum field field)
{
    if (field_names[field] == NULL && (field_names[field] = PyUnicode_InternFromString(FIELD_NAMES[field])) == NULL)
        return NULL;
    return PyObject_GetAttr(message, field_names[field]);
}

/* The hash of a field; an exception is set if it is no bytes. */
static uint64_t hash_field(PyObject *message, enum field field, bool *empty)
{
    PyObject *value = get_field(message, field);
    uint64_t hash = 0;
    if (value != NULL && !PyBytes_Check(value))
        PyErr_Format(PyExc_TypeError, "%s of a message is bytes, not %s", FIELD_NAMES[field], Py_TYPE(value)->tp_name);
    else if (value != NULL) {
        *empty = PyBytes_GET_SIZE(value) == 0;
        hash = hash_text(PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
    }
    Py_XDECREF(value);
    return hash;
}

static bool identify(const char *trunk, Py_ssize_t trunk_length, PyObject *message, Identity *identity)
{
    bool empty = false;
    uint64_t key = hash_text(trunk, (size_t)trunk_length);
    key = hash_join(key, hash_field(message, CALL_ID_FIELD, &empty));
    key = hash_join(key, hash_field(message, FROM_TAG_FIELD, &empty));
    if (empty)
        key = hash_join(key, hash_field(message, FROM_URI_FIELD, &empty));
    identity->attempt = key;
    PyObject *cseq = PyErr_Occurred() ? NULL : get_field(message, CSEQ_FIELD);
    identity->cseq = cseq != NULL ? PyLong_AsUnsignedLongLong(cseq) : 0;
    Py_XDECREF(cseq);
    if (PyErr_Occurred())
        return false;
    key = hash_join(hash_field(message, BRANCH_FIELD, &empty), hash_field(message, SENT_BY_FIELD, &empty));
    key = hash_join(key, identity->cseq);
    identity->transaction = hash_join(key, hash_field(message, REQUEST_URI_FIELD, &empty));
    return !PyErr_Occurred();
}

static PyObject *table_observe(AttemptTable *table, PyObject *const *args, Py_ssize_t count)
{
    Identity identity;
    Py_ssize_t length;
    if (count != 3 || !PyUnicode_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "observe takes a trunk, a message and the time");
    double now = PyFloat_AsDouble(args[2]);
    const char *trunk = PyUnicode_AsUTF8AndSize(args[0], &length);
    if (trunk == NULL || (now == -1.0 && PyErr_Occurred()) || !identify(trunk, length, args[1], &identity))
        return NULL;
    return (PyObject *)attempts_observe(table, &identity, now);
}

static PyObject *table_fingerprint(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    const char *texts[2];
    Py_ssize_t lengths[2];
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "fingerprint takes two numbers");
    for (int i = 0; i < 2; i++) {
        texts[i] = PyUnicode_AsUTF8AndSize(args[i], &lengths[i]);
        if (texts[i] == NULL)
            return NULL;
    }
    uint64_t found = fingerprint_of(texts[0], (size_t)lengths[0], texts[1], (size_t)lengths[1]);
    return PyLong_FromUnsignedLongLong(found);
}

/* What the invariant of a test needs: how many keys are queued anywhere. */
static PyObject *table_queued(AttemptTable *table, PyObject *Py_UNUSED(ignored))
{
    size_t count = table->head.count + table->queue.count;
    for (size_t i = 0; i < table->closed_count; i++)
        count += table->closed[i].keys.count;
    return PyLong_FromSize_t(count);
}

/* ---- what survives a restart ------------------------------------------------------------------------------------- */

/* A transaction in what a table exports; agent/calls/attempts.py says what it means. */
typedef struct {
    uint64_t key, transaction, numbers, cseq;
    uint32_t decision; /* its place in the list beside it, from 1 */
    uint8_t age;       /* slices since its attempt was seen */
    uint8_t copies, continuations, follows;
} Kept;

_Static_assert(sizeof(Kept) == 40, "as agent/calls/attempts.py packs it");

/* The place of a decision in the list, from 1; 0 for none, -1 with an exception. Neighbours often share one. */
static Py_ssize_t place_in(PyObject *list, PyObject *decision)
{
    Py_ssize_t last = PyList_GET_SIZE(list);
    if (decision == NULL || (last > 0 && PyList_GET_ITEM(list, last - 1) == decision))
        return decision == NULL ? 0 : last;
    return PyList_Append(list, decision) < 0 ? -1 : last + 1;
}

static bool keep(const AttemptTable *table, uint64_t key, const Entry *first, PyObject *decisions, char **at)
{
    for (const Entry *entry = first; entry != NULL; entry = entry->followers) {
        Py_ssize_t decision = place_in(decisions, entry->decision);
        if (decision < 0)
            return false;
        Kept kept = {key, entry->transaction, entry->numbers, entry->cseq, (uint32_t)decision,
                     (uint8_t)(table->count - first->turn), entry->copies, entry->continuations, entry != first};
        memcpy(*at, &kept, sizeof(kept));
        *at += sizeof(kept);
    }
    return true;
}

static size_t transactions_of(const Entry *entry)
{
    size_t count = 0;
    for (; entry != NULL; entry = entry->followers)
        count++;
    return count;
}

static bool is_kept(const AttemptTable *table, const Entry *entry)
{
    return entry != NULL && table->count - entry->turn <= SLICES;
}

static PyObject *table_export(AttemptTable *table, PyObject *args)
{
    double now;
    Py_ssize_t part = 0, parts = 1;
    if (!PyArg_ParseTuple(args, "d|nn:export", &now, &part, &parts))
        return NULL;
    if (part < 0 || part >= parts || parts > (1 << 20))
        return PyErr_Format(PyExc_ValueError, "no such part");
    take_time(table, now);
    size_t slots = table->entries.mask + 1, count = 0;
    size_t from = slots * (size_t)part / (size_t)parts, to = slots * (size_t)(part + 1) / (size_t)parts;
    for (size_t i = from; i < to; i++) {
        if (is_kept(table, table->entries.slots[i].item))
            count += transactions_of(table->entries.slots[i].item);
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * sizeof(Kept)));
    PyObject *decisions = PyList_New(0);
    bool good = bytes != NULL && decisions != NULL;
    char *at = good ? PyBytes_AS_STRING(bytes) : NULL;
    for (size_t i = from; good && i < to; i++) {
        const Slot *slot = &table->entries.slots[i];
        if (is_kept(table, slot->item))
            good = keep(table, slot->key, slot->item, decisions, &at);
    }
    double phase = fmin(fmax(0.0, now - table->start), table->seconds);
    PyObject *all = good ? Py_BuildValue("(OOd)", bytes, decisions, phase) : NULL;
    Py_XDECREF(bytes);
    Py_XDECREF(decisions);
    return all;
}

/* One transaction, as it was; `first` is that of its attempt, NULL if this is it. NULL with an exception set. */
static Entry *take_back(AttemptTable *table, const Kept *kept, PyObject *decisions, Entry *first, long long turn)
{
    if (kept->decision > (size_t)PyList_GET_SIZE(decisions)) {
        PyErr_SetString(PyExc_ValueError, "a decision that is not there");
        return NULL;
    }
    if (first == NULL && !keys_room(&table->queue))
        return (Entry *)PyErr_NoMemory();
    Entry *entry = new_entry(table, SEEN_RETRANSMISSION, kept->transaction, kept->cseq);
    if (entry == NULL)
        return NULL;
    PyObject *decision = kept->decision > 0 ? PyList_GET_ITEM(decisions, kept->decision - 1) : Py_None;
    entry->decision = decision != Py_None ? Py_NewRef(decision) : NULL;
    entry->numbers = kept->numbers;
    entry->copies = kept->copies;
    entry->continuations = kept->continuations;
    entry->turn = turn;
    if (first != NULL) {
        entry->followers = first->followers;
        first->followers = entry;
    } else if (map_add(&table->entries, kept->key, entry)) {
        table->queue.items[table->queue.count++] = kept->key;
    } else {
        Py_DECREF(entry);
        return (Entry *)PyErr_NoMemory();
    }
    return entry;
}

/* Those attempts of what was exported that have this age by now. -1 with an exception set. */
static long long take_back_aged(AttemptTable *table, const Py_buffer *data, PyObject *decisions, long long older, int age)
{
    long long taken = 0;
    Entry *first = NULL;
    const char *end = (const char *)data->buf + data->len;
    for (const char *at = data->buf; at < end; at += sizeof(Kept)) {
        Kept kept;
        memcpy(&kept, at, sizeof(kept));
        if (kept.age + older != age || (kept.follows && first == NULL))
            continue;
        if (!kept.follows && map_find(&table->entries, kept.key) != NULL) {
            first = NULL;
            continue;
        }
        if (kept.follows && transactions_of(first) > FOLLOW_UPS)
            continue;
        Entry *entry = take_back(table, &kept, decisions, kept.follows ? first : NULL, table->count - age);
        if (entry == NULL)
            return -1;
        if (!kept.follows) {
            first = entry;
            taken++;
        }
    }
    return taken;
}

static PyObject *table_restore(AttemptTable *table, PyObject *args)
{
    Py_buffer data;
    PyObject *decisions;
    double now, elapsed;
    if (!PyArg_ParseTuple(args, "y*O!dd:restore", &data, &PyList_Type, &decisions, &now, &elapsed))
        return NULL;
    long long taken = 0, some = 0;
    elapsed = fmax(elapsed, 0.0);
    double older = floor(elapsed / table->seconds);
    if (data.len % (Py_ssize_t)sizeof(Kept) != 0) {
        PyErr_SetString(PyExc_ValueError, "no whole number of transactions");
        some = -1;
    }
    if (table->entries.count == 0)
        table->count += SLICES + 1;
    for (int age = SLICES; some >= 0 && age >= 0 && older <= SLICES; age--) {
        some = take_back_aged(table, &data, decisions, (long long)older, age);
        taken += some;
        close_slice(table, table->count - age);
    }
    PyBuffer_Release(&data);
    if (some < 0)
        return NULL;
    while ((long long)table->entries.count > table->capacity)
        forget_oldest(table);
    check_head(table);
    if (table->start == table->end) { /* Ticks.resume */
        table->start = now - (elapsed - older * table->seconds);
        table->end = table->start + table->seconds;
    }
    return PyLong_FromLongLong(taken);
}

static PyMethodDef table_methods[] = {
    {"export", (PyCFunction)table_export, METH_VARARGS,
     "export(now, part=0, parts=1) -> (bytes, decisions, seconds)"},
    {"restore", (PyCFunction)table_restore, METH_VARARGS, "restore(data, decisions, now, elapsed) -> how many attempts"},
    {"observe", (PyCFunction)(void (*)(void))table_observe, METH_FASTCALL, "observe(trunk, message, now) -> AttemptEntry"},
    {"fingerprint", (PyCFunction)(void (*)(void))table_fingerprint, METH_FASTCALL | METH_STATIC,
     "fingerprint(calling, called) -> int\n\nWhat is remembered of the numbers of an attempt."},
    {"queued", (PyCFunction)table_queued, METH_NOARGS, "queued() -> int: keys that wait to be forgotten"},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef table_members[] = {
    {"overflows", T_LONGLONG, offsetof(AttemptTable, overflows), READONLY, "attempts forgotten for want of room"},
    {NULL, 0, 0, 0, NULL},
};

static PySequenceMethods table_sequence = {.sq_length = (lenfunc)table_length};

PyTypeObject AttemptTableType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._gate.AttemptTable",
    .tp_basicsize = sizeof(AttemptTable),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Tells new call attempts from repeated ones; see agent.calls.attempts.AttemptTablePy.",
    .tp_new = table_new,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = table_methods,
    .tp_members = table_members,
    .tp_as_sequence = &table_sequence,
};
