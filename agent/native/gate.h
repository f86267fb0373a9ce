/* What the files of the extension module _gate share: the tables that the compiled hot path and Python both work on. */

#ifndef SBC_EDGE_GATE_H
#define SBC_EDGE_GATE_H

#define PY_SSIZE_T_CLEAN
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#include "blake2b.h"
#include "hashing.h"
#include "number_reading.h"
#include "rates.h"
#include "rows.h"

/* ---- keys to things (table.c) ------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t key;
    void *item; /* NULL: the slot is free */
} Slot;

/* Open addressing with linear probing. Does not own its items. */
typedef struct {
    Slot *slots;
    size_t mask; /* one less than the number of slots, a power of two */
    size_t count;
} Map;

bool map_begin(Map *map);
void map_end(Map *map);
void *map_find(const Map *map, uint64_t key);
/* Have the memory that a later look-up of this key reads first on its way here: large tables are never in a cache. */
static inline void map_expect(const Map *map, uint64_t key) { __builtin_prefetch(&map->slots[key & map->mask], 1); }
/* False, and nothing changed, if there is no memory. The key must not be there. */
bool map_add(Map *map, uint64_t key, void *item);
void map_remove(Map *map, uint64_t key);

/* ---- call attempts (attempts.c): the twin of agent/calls/attempts.py ------------------------------------------- */

enum seen { SEEN_NEW, SEEN_RETRANSMISSION, SEEN_CONTINUATION, SEEN_MERGED, SEEN_EXCESS, SEEN_KINDS };

typedef struct Entry {
    PyObject_HEAD
    PyObject *decision; /* NULL: None */
    struct Entry *followers; /* owned; each by the one before it */
    PyObject *const *seen_words; /* borrowed: members of an enumeration live as long as the process */
    uint64_t transaction;
    uint64_t numbers;
    long long turn;
    unsigned long long cseq;
    unsigned char seen;
    unsigned char copies;
    unsigned char continuations;
} Entry;

typedef struct AttemptTable AttemptTable;
extern PyTypeObject EntryType, AttemptTableType;

/* The identifiers of RFC 3261 17.2.3, hashed. */
typedef struct {
    uint64_t attempt;
    uint64_t transaction;
    unsigned long long cseq;
} Identity;

void attempts_expect(const AttemptTable *table, uint64_t key);
/* Whether an INVITE with this key would be looked at as one of a known attempt. Changes nothing but the time. */
bool attempts_known(AttemptTable *table, uint64_t key, double now);
/* A new reference, NULL with MemoryError. */
Entry *attempts_observe(AttemptTable *table, const Identity *identity, double now);

static inline uint64_t fingerprint_of(const void *calling, size_t calling_length, const void *called,
                                      size_t called_length)
{
    return hash_join(hash_join(1, hash_text(calling, calling_length)), hash_text(called, called_length));
}

/* ---- server transactions (transactions.c): the twin of agent/sip/transactions.py ------------------------------- */

#define TAG_DIGITS 16 /* of a To tag that names a transaction, agent/sip/tags.py */
#define ADDRESS_MAX 28 /* struct sockaddr_in6 */

typedef struct Transactions Transactions;
extern PyTypeObject TransactionsType;

void transactions_expect(const Transactions *table, uint64_t key);
/* What the slot of the key says is expected next; to be called some time after it was expected itself. */
void transactions_expect_more(const Transactions *table, uint64_t key);
/* Remember the answer that is sent now; false without memory. */
bool transactions_answer(Transactions *table, uint64_t key, const void *payload, size_t length, const void *address,
                         size_t address_length, double now);
/* False if the ACK is of nothing known. */
bool transactions_ack(Transactions *table, uint64_t key, double now);

/* ---- calls (call.c) ---------------------------------------------------------------------------------------------- */

/* One INVITE as it was read: everything points into the message. */
typedef struct {
    Rows rows;
    Text message, uri, call_id, from_uri, from_tag, branch, sent_by;
    unsigned long long cseq;
    Reading calling, other, called; /* other.kind is ABSENT where From's number is the one that is shown */
} Call;

/* Read an INVITE without To tag; false for whatever is not plain, which Python then reads. `country` and `trusted` are
 * the trunk's. Plain is: no folds in what identifies a call, no leading line breaks, each such header there. */
bool read_call(Text message, const char *country, bool trusted, Call *call);

/* ---- the gate (gate.c) ----------------------------------------------------------------------------------------- */

#define KEYS_MAX 40 /* what an attempt is counted by: five keys that all have, and one for each of 32 limits */
#define SENDER_KEY_MAX 256 /* bytes that name a sender: a sockaddr, or an address, a trunk and a customer */

/* How a key of an attempt is made. */
enum key { KEY_CONSTANT, KEY_CALLING, KEY_CALLED };

/* Who sends calls, and what the policy says about all of them. */
typedef struct {
    PyObject_HEAD
    PyObject *trunk, *source, *policy; /* for records */
    PyObject *status_line, *rows, *next_hop; /* bytes; how its calls pass: next_hop is b"" unless it is a 302 */
    uint64_t keys[KEYS_MAX]; /* rate_key of those that are constant */
    unsigned char made_of[KEYS_MAX];
    Py_ssize_t key_count;
    uint64_t trunk_hash;
    char country[4];
    char trusted, plain, known;
    long long passed; /* calls that were let pass and are not yet taken */
} Sender;

#define SENDERS_MAX 256 /* between two times that passed calls are taken: more than there are messages */

typedef struct {
    PyObject_HEAD
    AttemptTable *attempts;
    PyObject *bank; /* NULL: no limits */
    const RatesApi *rates;
    PyObject *indexes; /* a tuple of (NumberIndex, whether the list has numbers outside +1) */
    PyObject *watched; /* bytes: pairs of uint64, E.164 numbers whose calls only Python decides */
    PyObject *unwanted; /* NULL or a dict: called numbers that have a list of their own */
    PyObject *judged; /* what an entry of a passed call holds */
    PyObject *refusal; /* NULL or (number, when) -> Verdict | None: of a listed calling number of +1 */
    PyObject *sender_of; /* (key: bytes) -> Sender | None */
    PyObject *clock;
    PyObject *senders; /* dict, bytes -> Sender | None */
    Sender *last; /* borrowed from `senders`; NULL: the latest key has none */
    unsigned char last_key[SENDER_KEY_MAX];
    size_t last_length;
    Blake2b keyed;
    char refuse_invalid, asks;
    char sends_singly; /* segments were refused once */
    PyObject *passed; /* list of (raw, sender, when) */
    Sender *touched[SENDERS_MAX]; /* owned */
    int touched_count;
    unsigned char *out; /* what a batch writes */
    size_t out_room;
} Gate;

enum outcome { FAILED = -1, PASSES, ASKS };

#define NOT_HIT UINT64_MAX /* instead of the signs of limits: they were not asked */

/* Borrowed; NULL for one whose messages are for Python, or with an exception. */
Sender *gate_sender(Gate *gate, const void *key, size_t length);
/* What identifies this INVITE among all of the sender's trunk. */
Identity gate_identity(const Sender *sender, const Call *call);
/* Have the memory come that deciding about this call will read. */
void gate_expect(const Gate *gate, const Sender *sender, const Call *call, const Identity *identity);
/* What Python is asked with: a new attempt. `entry` and `verdict` are owned. */
typedef struct {
    Entry *entry;
    PyObject *verdict; /* NULL, or how a list alone has it refused */
    uint64_t signs;    /* of the limits */
} Asked;

/* Take a new attempt into account. ASKS: Python is to decide. */
enum outcome gate_decide(Gate *gate, const Sender *sender, const Call *call, const Identity *identity, double now,
                         PyObject *when, Asked *asked);
void asked_end(Asked *asked);
/* What `signs` are to Python: -1 for NOT_HIT. */
PyObject *asked_signs(const Asked *asked);
/* Remember a call that passed, for the record and the counts. */
bool gate_passed(Gate *gate, Sender *sender, Text message, PyObject *when);
/* The To tag of every answer to this call: TAG_DIGITS digits, and the same as a number. */
uint64_t gate_tag(const Gate *gate, const Call *call, byte *digits);
bool gate_now(Gate *gate, double *now);
/* Have room for so many bytes at `used` of gate->out. */
bool gate_room(Gate *gate, size_t used, size_t more);

extern PyTypeObject GateType, SenderType;
bool gate_prepare(void);

/* What the ways in add (gate_redirect.c, gate_hook.c). */
PyObject *gate_serve(Gate *gate, PyObject *args);
bool redirect_prepare(void);
PyObject *gate_plain(PyObject *gate, PyObject *data);
PyObject *gate_answer(Gate *gate, PyObject *args);
bool hook_prepare(void);

#endif
