/* The compiled twin of RateTable and RateBank in agent/policy/counters.py: same results, same overflow counts.
 *
 * Knows rates and keys (str, kept as 64-bit hashes), nothing of calls. The cells of a generation stand in one array, found
 * by open addressing: a look-up touches one line of memory, which `expect` can have come beforehand.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <math.h>
#include <stdint.h>

#include "rates.h"

#define BANK_MAX 32
#define FIRST_CELLS 64

const uint64_t *hash_key;

typedef struct {
    uint64_t key; /* 0: free */
    double due;
    double start;
    uint64_t attempts;
} Cell;

/* What was touched since a generation began. */
typedef struct {
    Cell *cells;
    size_t mask; /* one less than how many there are, a power of two */
    size_t count;
} Cells;

typedef struct {
    PyObject_HEAD
    Cells young, old;
    size_t half;
    double rotate_at;
    double horizon;
    double window;
    double interval;
    double tolerance;
    long long overflows;
} Table;

typedef struct {
    PyObject_HEAD
    Py_ssize_t count;
    Table *tables[BANK_MAX];
    Py_ssize_t slots[BANK_MAX];
    uint64_t warn[BANK_MAX]; /* 0: never, as every cell that was hit has an attempt */
    uint64_t keys[BANK_MAX]; /* of the last hit, 0 where a limit does not apply */
} Bank;

static PyTypeObject TableType, BankType, CellType;

/* -- generations ------------------------------------------------------------------------------------------- */

static Cell *place_of(const Cells *cells, uint64_t key)
{
    size_t at = (size_t)key & cells->mask;
    while (cells->cells[at].key != 0 && cells->cells[at].key != key)
        at = (at + 1) & cells->mask;
    return &cells->cells[at];
}

/* `places` is a power of two. */
static bool cells_begin(Cells *cells, size_t places)
{
    *cells = (Cells){PyMem_Calloc(places, sizeof(Cell)), places - 1, 0};
    return cells->cells != NULL;
}

/* Room for one more, at most half full: probes stay short. */
static bool cells_room(Cells *cells)
{
    Cells larger;
    if (2 * (cells->count + 1) <= cells->mask)
        return true;
    if (!cells_begin(&larger, 2 * (cells->mask + 1)))
        return false;
    for (size_t i = 0; i <= cells->mask; i++) {
        if (cells->cells[i].key != 0)
            *place_of(&larger, cells->cells[i].key) = cells->cells[i];
    }
    larger.count = cells->count;
    PyMem_Free(cells->cells);
    *cells = larger;
    return true;
}

/* Without tombstones: what stands behind the hole and was pushed past it moves up. */
static void cells_remove(Cells *cells, Cell *cell)
{
    size_t hole = (size_t)(cell - cells->cells);
    cells->count--;
    for (size_t at = (hole + 1) & cells->mask; cells->cells[at].key != 0; at = (at + 1) & cells->mask) {
        size_t home = (size_t)cells->cells[at].key & cells->mask;
        if (((at - home) & cells->mask) >= ((at - hole) & cells->mask)) {
            cells->cells[hole] = cells->cells[at];
            hole = at;
        }
    }
    cells->cells[hole].key = 0;
}

/* -- tables ------------------------------------------------------------------------------------------------ */

static bool rotate(Table *t, double now)
{
    Cells fresh;
    if (!cells_begin(&fresh, FIRST_CELLS)) {
        PyErr_NoMemory();
        return false;
    }
    PyMem_Free(t->old.cells);
    t->old = t->young;
    t->young = fresh;
    t->rotate_at = now + t->horizon;
    return true;
}

/* The key's cell in the young generation, made or brought over from the old one. */
static Cell *revive(Table *t, uint64_t key, double now)
{
    Cell cell = {key, now, now, 0};
    Cell *known = place_of(&t->old, key);
    if (known->key != 0) {
        cell = *known;
        cells_remove(&t->old, known);
    }
    if (t->young.count >= t->half) {
        t->overflows += (long long)t->old.count;
        if (!rotate(t, now))
            return NULL;
    }
    if (!cells_room(&t->young)) {
        PyErr_NoMemory();
        return NULL;
    }
    Cell *place = place_of(&t->young, key);
    *place = cell;
    t->young.count++;
    return place;
}

/* Count one attempt; the cell until the next hit, NULL with an exception set. */
static Cell *hit(Table *t, uint64_t key, double now)
{
    if (now >= t->rotate_at && !rotate(t, now))
        return NULL;
    Cell *cell = place_of(&t->young, key);
    if (cell->key == 0 && (cell = revive(t, key, now)) == NULL)
        return NULL;
    double age = now - cell->start;
    if (age >= 0.0 && age < t->window) {
        cell->attempts++;
    } else {
        cell->start = now;
        cell->attempts = 1;
    }
    return cell;
}

/* The cell that was hit last under this key; NULL if it was forgotten since. */
static Cell *find(const Table *t, uint64_t key)
{
    Cell *cell = place_of(&t->young, key);
    if (cell->key == 0)
        cell = place_of(&t->old, key);
    return cell->key != 0 ? cell : NULL;
}

static int conforms(const Table *t, double due, double now)
{
    double early = due - now;
    return early <= t->tolerance || early > 2 * (t->tolerance + t->interval);
}

static void admit(const Table *t, Cell *cell, double now)
{
    double early = cell->due - now;
    cell->due = (0 < early && early <= t->tolerance ? cell->due : now) + t->interval;
}

static int configure(Table *t, double window, double interval, double tolerance)
{
    if (!(window > 0) || !(interval > 0) || !(tolerance >= 0) || !isfinite(window + interval + tolerance)) {
        PyErr_SetString(PyExc_ValueError, "window and interval must be above 0, all three finite");
        return -1;
    }
    t->window = window;
    t->interval = interval;
    t->tolerance = tolerance;
    t->horizon = fmax(t->horizon, fmax(tolerance + interval, window));
    return 0;
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"window", "interval", "tolerance", "capacity", NULL};
    double window, interval, tolerance;
    Py_ssize_t capacity;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "dddn:RateTable", names, &window, &interval, &tolerance, &capacity))
        return NULL;
    Table *t = (Table *)type->tp_alloc(type, 0);
    if (t == NULL)
        return NULL;
    t->half = capacity / 2 > 1 ? (size_t)capacity / 2 : 1;
    t->rotate_at = -INFINITY;
    if (!cells_begin(&t->young, FIRST_CELLS) || !cells_begin(&t->old, FIRST_CELLS)) {
        Py_DECREF(t);
        return PyErr_NoMemory();
    }
    if (configure(t, window, interval, tolerance) < 0) {
        Py_DECREF(t);
        return NULL;
    }
    return (PyObject *)t;
}

static void table_dealloc(Table *t)
{
    PyMem_Free(t->young.cells);
    PyMem_Free(t->old.cells);
    Py_TYPE(t)->tp_free((PyObject *)t);
}

static Py_ssize_t table_length(Table *t) { return (Py_ssize_t)(t->young.count + t->old.count); }

/* The key as it is counted by, 0 for no text or with an exception set. */
static uint64_t read_key(PyObject *text)
{
    Py_ssize_t length;
    if (!PyUnicode_CheckExact(text)) {
        PyErr_SetString(PyExc_TypeError, "every key must be exactly a str");
        return 0;
    }
    const char *at = PyUnicode_AsUTF8AndSize(text, &length);
    return at != NULL ? rate_key(at, (size_t)length) : 0;
}

static PyObject *table_configure(Table *t, PyObject *args)
{
    double window, interval, tolerance;
    if (!PyArg_ParseTuple(args, "ddd:configure", &window, &interval, &tolerance))
        return NULL;
    if (configure(t, window, interval, tolerance) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* A cell as it was when it was hit. */
typedef struct {
    PyObject_HEAD
    uint64_t key;
    double due;
    double start;
    unsigned long long attempts;
} CellObject;

static PyMemberDef cell_members[] = {
    {"due", T_DOUBLE, offsetof(CellObject, due), READONLY, "when the next attempt is due, monotonic seconds"},
    {"start", T_DOUBLE, offsetof(CellObject, start), READONLY, "when the running window began"},
    {"attempts", T_ULONGLONG, offsetof(CellObject, attempts), READONLY, "attempts in the running window"},
    {NULL},
};

static PyTypeObject CellType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._rates.Cell",
    .tp_basicsize = sizeof(CellObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "One key of a table, as it was when it was hit.",
    .tp_members = cell_members,
};

static PyObject *table_hit(Table *t, PyObject *args)
{
    PyObject *text;
    double now;
    if (!PyArg_ParseTuple(args, "Od:hit", &text, &now))
        return NULL;
    uint64_t key = read_key(text);
    if (key == 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "an empty key is not counted by");
    Cell *cell = key != 0 ? hit(t, key, now) : NULL;
    CellObject *object = cell != NULL ? PyObject_New(CellObject, &CellType) : NULL;
    if (object != NULL) {
        object->key = key;
        object->due = cell->due;
        object->start = cell->start;
        object->attempts = cell->attempts;
    }
    return (PyObject *)object;
}

static PyObject *table_conforms(Table *t, PyObject *args)
{
    CellObject *cell;
    double now;
    if (!PyArg_ParseTuple(args, "O!d:conforms", &CellType, &cell, &now))
        return NULL;
    return PyBool_FromLong(conforms(t, cell->due, now));
}

static PyObject *table_admit(Table *t, PyObject *args)
{
    CellObject *object;
    double now;
    if (!PyArg_ParseTuple(args, "O!d:admit", &CellType, &object, &now))
        return NULL;
    Cell *cell = find(t, object->key);
    if (cell != NULL)
        admit(t, cell, now);
    Py_RETURN_NONE;
}

/* A cell in what a table exports; agent/policy/counters.py says what it means. */
typedef struct {
    uint64_t key;
    double due; /* seconds from the time of the export */
    float age;  /* of the running window, seconds */
    uint32_t attempts;
} Kept;

_Static_assert(sizeof(Kept) == 24, "as agent/policy/counters.py packs it");

static void keep(const Table *t, const Cells *cells, double now, char **at)
{
    for (size_t i = 0; i <= cells->mask; i++) {
        const Cell *cell = &cells->cells[i];
        double age = now - cell->start;
        bool counts = age >= 0.0 && age < t->window;
        if (cell->key == 0 || !(counts || cell->due > now))
            continue;
        Kept kept = {cell->key, cell->due - now, counts ? (float)age : (float)(2.0 * t->window),
                     counts ? (uint32_t)(cell->attempts < UINT32_MAX ? cell->attempts : UINT32_MAX) : 0};
        memcpy(*at, &kept, sizeof(kept));
        *at += sizeof(kept);
    }
}

static PyObject *table_export(Table *t, PyObject *arg)
{
    double now = PyFloat_AsDouble(arg);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (t->old.count + t->young.count) * sizeof(Kept));
    if (bytes == NULL)
        return NULL;
    char *at = PyBytes_AS_STRING(bytes);
    keep(t, &t->old, now, &at);
    keep(t, &t->young, now, &at);
    _PyBytes_Resize(&bytes, at - PyBytes_AS_STRING(bytes));
    return bytes;
}

/* Put a cell where it is not yet: into the old generation while that has room, then into the young one. 0: no room. */
static int take_back(Table *t, const Cell *cell)
{
    if (place_of(&t->old, cell->key)->key != 0 || place_of(&t->young, cell->key)->key != 0)
        return 0;
    Cells *cells = t->old.count < t->half ? &t->old : &t->young;
    if (cells->count >= t->half)
        return 0;
    if (!cells_room(cells)) {
        PyErr_NoMemory();
        return -1;
    }
    *place_of(cells, cell->key) = *cell;
    cells->count++;
    return 1;
}

static PyObject *table_restore(Table *t, PyObject *args)
{
    Py_buffer data;
    double now, elapsed;
    if (!PyArg_ParseTuple(args, "y*dd:restore", &data, &now, &elapsed))
        return NULL;
    long long taken = 0;
    int put = 0;
    /* Room at once for what will come, where nothing is yet. */
    size_t cells = (size_t)data.len / sizeof(Kept), places = FIRST_CELLS;
    while (places < 2 * (cells < t->half ? cells : t->half) + 2)
        places *= 2;
    Cells fresh;
    if (t->old.count == 0 && places > t->old.mask + 1 && cells_begin(&fresh, places)) {
        PyMem_Free(t->old.cells);
        t->old = fresh;
    }
    if (data.len % (Py_ssize_t)sizeof(Kept) != 0) {
        PyErr_SetString(PyExc_ValueError, "no whole number of cells");
        put = -1;
    }
    for (const char *at = data.buf, *end = at + data.len; put >= 0 && at < end; at += sizeof(Kept)) {
        Kept kept;
        memcpy(&kept, at, sizeof(kept));
        Cell cell = {kept.key, now + (kept.due - elapsed), now - ((double)kept.age + elapsed), kept.attempts};
        if (cell.key == 0 || !isfinite(cell.due) || !isfinite(cell.start) ||
            !(cell.due > now || now - cell.start < t->window))
            continue;
        put = take_back(t, &cell);
        taken += put > 0;
    }
    PyBuffer_Release(&data);
    if (taken > 0)
        t->rotate_at = now + t->horizon;
    return put < 0 ? NULL : PyLong_FromLongLong(taken);
}

static PyMethodDef table_methods[] = {
    {"export", (PyCFunction)table_export, METH_O, "export(now) -> bytes: the cells that matter"},
    {"restore", (PyCFunction)table_restore, METH_VARARGS, "restore(data, now, elapsed) -> how many cells"},
    {"configure", (PyCFunction)table_configure, METH_VARARGS, "configure(window, interval, tolerance)"},
    {"hit", (PyCFunction)table_hit, METH_VARARGS, "hit(key, now) -> Cell"},
    {"conforms", (PyCFunction)table_conforms, METH_VARARGS, "conforms(cell, now) -> bool"},
    {"admit", (PyCFunction)table_admit, METH_VARARGS, "admit(cell, now)"},
    {NULL},
};

static PyMemberDef table_members[] = {
    {"overflows", T_LONGLONG, offsetof(Table, overflows), READONLY, "cells forgotten early"},
    {"window", T_DOUBLE, offsetof(Table, window), READONLY, "seconds"},
    {"interval", T_DOUBLE, offsetof(Table, interval), READONLY, "seconds"},
    {"tolerance", T_DOUBLE, offsetof(Table, tolerance), READONLY, "seconds"},
    {NULL},
};

static PySequenceMethods table_sequence = {.sq_length = (lenfunc)table_length};

static PyTypeObject TableType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._rates.RateTable",
    .tp_basicsize = sizeof(Table),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "The cells of one limit; see agent.policy.counters.RateTablePy.",
    .tp_new = table_new,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = table_methods,
    .tp_members = table_members,
    .tp_as_sequence = &table_sequence,
};

/* -- the bank ---------------------------------------------------------------------------------------------- */

static void bank_dealloc(Bank *b)
{
    for (Py_ssize_t i = 0; i < b->count; i++)
        Py_XDECREF(b->tables[i]);
    Py_TYPE(b)->tp_free((PyObject *)b);
}

static int bank_fill(Bank *b, PyObject *tables, PyObject *slots, PyObject *warn)
{
    Py_ssize_t count = PyTuple_GET_SIZE(tables);
    if (count > BANK_MAX || count != PyTuple_GET_SIZE(slots) || count != PyTuple_GET_SIZE(warn)) {
        PyErr_Format(PyExc_ValueError, "a bank takes one slot and one warning per table, and at most %d tables",
                     BANK_MAX);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *table = PyTuple_GET_ITEM(tables, i);
        Py_ssize_t slot = PyLong_AsSsize_t(PyTuple_GET_ITEM(slots, i));
        long long warn_at = PyLong_AsLongLong(PyTuple_GET_ITEM(warn, i));
        if (PyErr_Occurred())
            return -1;
        b->warn[i] = warn_at > 0 ? (uint64_t)warn_at : 0;
        if (!PyObject_TypeCheck(table, &TableType) || slot < 0) {
            PyErr_SetString(PyExc_TypeError, "a bank is made of RateTables and indexes from 0");
            return -1;
        }
        Py_INCREF(table);
        b->tables[i] = (Table *)table;
        b->slots[i] = slot;
        b->count = i + 1;
    }
    return 0;
}

static PyObject *bank_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"tables", "slots", "warn", NULL};
    PyObject *tables, *slots, *warn;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O!:RateBank", names, &PyTuple_Type, &tables, &PyTuple_Type,
                                     &slots, &PyTuple_Type, &warn))
        return NULL;
    Bank *b = (Bank *)type->tp_alloc(type, 0);
    if (b != NULL && bank_fill(b, tables, slots, warn) < 0)
        Py_CLEAR(b);
    return (PyObject *)b;
}

static void expect_all(PyObject *bank, const uint64_t *keys, Py_ssize_t count)
{
    const Bank *b = (const Bank *)bank;
    for (Py_ssize_t i = 0; i < b->count; i++) {
        const Table *t = b->tables[i];
        uint64_t key = b->slots[i] < count ? keys[b->slots[i]] : 0;
        if (key == 0)
            continue;
        __builtin_prefetch(&t->young.cells[key & t->young.mask], 1);
        if (t->old.count > 0)
            __builtin_prefetch(&t->old.cells[key & t->old.mask], 1);
    }
}

/* As RateBankPy.hit, for keys that stand in an array; false with an exception set. */
static bool hit_all(PyObject *bank, const uint64_t *keys, Py_ssize_t count, double now, uint64_t *over)
{
    Bank *b = (Bank *)bank;
    *over = 0;
    for (Py_ssize_t i = 0; i < b->count; i++) {
        b->keys[i] = 0;
        if (b->slots[i] >= count) {
            PyErr_SetString(PyExc_IndexError, "fewer keys than the bank counts by");
            return false;
        }
        uint64_t key = keys[b->slots[i]];
        if (key == 0)
            continue;
        Cell *cell = hit(b->tables[i], key, now);
        if (cell == NULL)
            return false;
        b->keys[i] = key;
        if (!conforms(b->tables[i], cell->due, now))
            *over |= (uint64_t)1 << i;
        if (cell->attempts == b->warn[i])
            *over |= (uint64_t)1 << (BANK_MAX + i);
    }
    return true;
}

/* The cell of table i that the last hit was about, NULL if there was none. */
static Cell *cell_of(const Bank *b, Py_ssize_t i) { return b->keys[i] != 0 ? find(b->tables[i], b->keys[i]) : NULL; }

static void admit_all(PyObject *bank, double now)
{
    Bank *b = (Bank *)bank;
    for (Py_ssize_t i = 0; i < b->count; i++) {
        Cell *cell = cell_of(b, i);
        if (cell != NULL && conforms(b->tables[i], cell->due, now))
            admit(b->tables[i], cell, now);
        b->keys[i] = 0;
    }
}

#define KEYS_MAX 64 /* that a Python caller may give: five, and one for each limit */

static PyObject *bank_hit(Bank *b, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyTuple_CheckExact(args[0]) || PyTuple_GET_SIZE(args[0]) > KEYS_MAX) {
        PyErr_SetString(PyExc_TypeError, "hit takes a tuple of keys and the time");
        return NULL;
    }
    double now = PyFloat_AsDouble(args[1]);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    uint64_t keys[KEYS_MAX], over;
    Py_ssize_t count = PyTuple_GET_SIZE(args[0]);
    for (Py_ssize_t i = 0; i < count; i++) {
        keys[i] = read_key(PyTuple_GET_ITEM(args[0], i));
        if (keys[i] == 0 && PyErr_Occurred())
            return NULL;
    }
    return hit_all((PyObject *)b, keys, count, now, &over) ? PyLong_FromUnsignedLongLong(over) : NULL;
}

static PyObject *bank_attempts(Bank *b, PyObject *arg)
{
    Py_ssize_t i = PyLong_AsSsize_t(arg);
    if (i == -1 && PyErr_Occurred())
        return NULL;
    if (i < 0 || i >= b->count) {
        PyErr_SetString(PyExc_IndexError, "no such limit");
        return NULL;
    }
    const Cell *cell = cell_of(b, i);
    return PyLong_FromUnsignedLongLong(cell == NULL ? 0 : cell->attempts);
}

static PyObject *bank_admit(Bank *b, PyObject *arg)
{
    double now = PyFloat_AsDouble(arg);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    admit_all((PyObject *)b, now);
    Py_RETURN_NONE;
}

static PyMethodDef bank_methods[] = {
    {"hit", (PyCFunction)(void (*)(void))bank_hit, METH_FASTCALL, "hit(keys, now) -> mask of limits it breaks"},
    {"attempts", (PyCFunction)bank_attempts, METH_O, "attempts(i) of the last hit"},
    {"admit", (PyCFunction)bank_admit, METH_O, "admit(now): consume of every limit that the last hit conforms to"},
    {NULL},
};

static PyTypeObject BankType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._rates.RateBank",
    .tp_basicsize = sizeof(Bank),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "All rate limits of a policy; see agent.policy.counters.RateBankPy.",
    .tp_new = bank_new,
    .tp_dealloc = (destructor)bank_dealloc,
    .tp_methods = bank_methods,
};

/* -- module ------------------------------------------------------------------------------------------------ */

static const RatesApi api = {&BankType, expect_all, hit_all, admit_all};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._rates",
    .m_doc = "Compiled twin of agent.policy.counters.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__rates(void)
{
    if (!hashing_prepare())
        return NULL;
    PyObject *m = PyModule_Create(&module);
    if (m == NULL)
        return NULL;
    if (PyType_Ready(&CellType) < 0 || PyModule_AddType(m, &TableType) < 0 || PyModule_AddType(m, &BankType) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    PyObject *capsule = PyCapsule_New((void *)&api, RATES_API, NULL);
    int failed = PyModule_AddObjectRef(m, "api", capsule);
    Py_XDECREF(capsule);
    if (failed < 0)
        Py_CLEAR(m);
    return m;
}
