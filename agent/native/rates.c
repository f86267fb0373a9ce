/* The compiled twin of RateTable and RateBank in agent/policy/counters.py: same results, same overflow counts.
 *
 * Knows rates and keys (str), nothing of calls. Cells are plain C structs behind a Python object, so that the two
 * generations of a table are ordinary dicts and memory is ordinary Python memory. No call back into Python code
 * happens between reading and writing a cell: keys are exact str, whose hash and comparison run no Python code.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <math.h>
#include <stdint.h>

#include "rates.h"

#define BANK_MAX 32

typedef struct {
    PyObject_HEAD
    double due;
    double start;
    long long attempts;
} Cell;

typedef struct {
    PyObject_HEAD
    PyObject *young;
    PyObject *old;
    Py_ssize_t half;
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
    long long warn[BANK_MAX];
    Cell *cells[BANK_MAX];
} Bank;

static PyTypeObject CellType, TableType, BankType;

/* -- cells ------------------------------------------------------------------------------------------------- */

static PyMemberDef cell_members[] = {
    {"due", T_DOUBLE, offsetof(Cell, due), READONLY, "when the next attempt is due, monotonic seconds"},
    {"start", T_DOUBLE, offsetof(Cell, start), READONLY, "when the running window began"},
    {"attempts", T_LONGLONG, offsetof(Cell, attempts), READONLY, "attempts in the running window"},
    {NULL},
};

static PyTypeObject CellType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "agent.native._rates.Cell",
    .tp_basicsize = sizeof(Cell),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "One key of a table.",
    .tp_members = cell_members,
};

/* -- tables ------------------------------------------------------------------------------------------------ */

static int rotate(Table *t, double now)
{
    PyObject *fresh = PyDict_New();
    if (fresh == NULL)
        return -1;
    PyObject *gone = t->old;
    t->old = t->young;
    t->young = fresh;
    t->rotate_at = now + t->horizon;
    Py_XDECREF(gone);
    return 0;
}

/* A new reference to the key's cell in the young generation, made or brought over from the old one. */
static Cell *revive(Table *t, PyObject *key, double now)
{
    Cell *cell = (Cell *)PyDict_GetItemWithError(t->old, key);
    if (cell != NULL) {
        Py_INCREF(cell);
        if (PyDict_DelItem(t->old, key) < 0)
            goto failed;
    } else {
        if (PyErr_Occurred())
            return NULL;
        cell = PyObject_New(Cell, &CellType);
        if (cell == NULL)
            return NULL;
        cell->due = cell->start = now;
        cell->attempts = 0;
    }
    if (PyDict_GET_SIZE(t->young) >= t->half) {
        t->overflows += PyDict_GET_SIZE(t->old);
        if (rotate(t, now) < 0)
            goto failed;
    }
    if (PyDict_SetItem(t->young, key, (PyObject *)cell) < 0)
        goto failed;
    return cell;
failed:
    Py_DECREF(cell);
    return NULL;
}

/* Count one attempt; a new reference to the cell, NULL with an exception set. `key` is an exact str. */
static Cell *hit(Table *t, PyObject *key, double now)
{
    if (now >= t->rotate_at && rotate(t, now) < 0)
        return NULL;
    Cell *cell = (Cell *)PyDict_GetItemWithError(t->young, key);
    if (cell != NULL)
        Py_INCREF(cell);
    else if (PyErr_Occurred() || (cell = revive(t, key, now)) == NULL)
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

static int conforms(const Table *t, const Cell *cell, double now)
{
    double early = cell->due - now;
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
    t->half = capacity / 2 > 1 ? capacity / 2 : 1;
    t->rotate_at = -INFINITY;
    t->young = PyDict_New();
    t->old = PyDict_New();
    if (t->young == NULL || t->old == NULL || configure(t, window, interval, tolerance) < 0) {
        Py_DECREF(t);
        return NULL;
    }
    return (PyObject *)t;
}

static int table_traverse(Table *t, visitproc visit, void *arg)
{
    Py_VISIT(t->young);
    Py_VISIT(t->old);
    return 0;
}

static int table_clear(Table *t)
{
    Py_CLEAR(t->young);
    Py_CLEAR(t->old);
    return 0;
}

static void table_dealloc(Table *t)
{
    PyObject_GC_UnTrack(t);
    table_clear(t);
    Py_TYPE(t)->tp_free((PyObject *)t);
}

static Py_ssize_t table_length(Table *t)
{
    return PyDict_GET_SIZE(t->young) + PyDict_GET_SIZE(t->old);
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

static PyObject *table_hit(Table *t, PyObject *args)
{
    PyObject *key;
    double now;
    if (!PyArg_ParseTuple(args, "Ud:hit", &key, &now))
        return NULL;
    if (!PyUnicode_CheckExact(key)) {
        PyErr_SetString(PyExc_TypeError, "the key must be exactly a str");
        return NULL;
    }
    return (PyObject *)hit(t, key, now);
}

static PyObject *table_conforms(Table *t, PyObject *args)
{
    Cell *cell;
    double now;
    if (!PyArg_ParseTuple(args, "O!d:conforms", &CellType, &cell, &now))
        return NULL;
    return PyBool_FromLong(conforms(t, cell, now));
}

static PyObject *table_admit(Table *t, PyObject *args)
{
    Cell *cell;
    double now;
    if (!PyArg_ParseTuple(args, "O!d:admit", &CellType, &cell, &now))
        return NULL;
    admit(t, cell, now);
    Py_RETURN_NONE;
}

static PyMethodDef table_methods[] = {
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
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "The cells of one limit; see agent.policy.counters.RateTablePy.",
    .tp_new = table_new,
    .tp_traverse = (traverseproc)table_traverse,
    .tp_clear = (inquiry)table_clear,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = table_methods,
    .tp_members = table_members,
    .tp_as_sequence = &table_sequence,
};

/* -- the bank ---------------------------------------------------------------------------------------------- */

static int bank_clear(Bank *b)
{
    for (Py_ssize_t i = 0; i < b->count; i++) {
        Py_CLEAR(b->tables[i]);
        Py_CLEAR(b->cells[i]);
    }
    return 0;
}

static int bank_traverse(Bank *b, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < b->count; i++) {
        Py_VISIT(b->tables[i]);
        Py_VISIT(b->cells[i]);
    }
    return 0;
}

static void bank_dealloc(Bank *b)
{
    PyObject_GC_UnTrack(b);
    bank_clear(b);
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
        b->warn[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(warn, i));
        if (PyErr_Occurred())
            return -1;
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

/* As RateBankPy.hit, for keys that stand in an array; false with an exception set. */
static bool hit_all(PyObject *bank, PyObject *const *keys, Py_ssize_t count, double now, uint64_t *over)
{
    Bank *b = (Bank *)bank;
    *over = 0;
    for (Py_ssize_t i = 0; i < b->count; i++) {
        Py_CLEAR(b->cells[i]);
        if (b->slots[i] >= count) {
            PyErr_SetString(PyExc_IndexError, "fewer keys than the bank counts by");
            return false;
        }
        PyObject *key = keys[b->slots[i]];
        if (!PyUnicode_CheckExact(key)) {
            PyErr_SetString(PyExc_TypeError, "every key must be exactly a str");
            return false;
        }
        if (PyUnicode_GET_LENGTH(key) == 0)
            continue;
        Cell *cell = hit(b->tables[i], key, now);
        if (cell == NULL)
            return false;
        b->cells[i] = cell;
        if (!conforms(b->tables[i], cell, now))
            *over |= (uint64_t)1 << i;
        if (cell->attempts == b->warn[i])
            *over |= (uint64_t)1 << (BANK_MAX + i);
    }
    return true;
}

static void admit_all(PyObject *bank, double now)
{
    Bank *b = (Bank *)bank;
    for (Py_ssize_t i = 0; i < b->count; i++) {
        Cell *cell = b->cells[i];
        if (cell != NULL && conforms(b->tables[i], cell, now))
            admit(b->tables[i], cell, now);
        Py_CLEAR(b->cells[i]);
    }
}

static PyObject *bank_hit(Bank *b, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyTuple_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "hit takes a tuple of keys and the time");
        return NULL;
    }
    double now = PyFloat_AsDouble(args[1]);
    if (now == -1.0 && PyErr_Occurred())
        return NULL;
    uint64_t over;
    if (!hit_all((PyObject *)b, &PyTuple_GET_ITEM(args[0], 0), PyTuple_GET_SIZE(args[0]), now, &over))
        return NULL;
    return PyLong_FromUnsignedLongLong(over);
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
    return PyLong_FromLongLong(b->cells[i] == NULL ? 0 : b->cells[i]->attempts);
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
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "All rate limits of a policy; see agent.policy.counters.RateBankPy.",
    .tp_new = bank_new,
    .tp_traverse = (traverseproc)bank_traverse,
    .tp_clear = (inquiry)bank_clear,
    .tp_dealloc = (destructor)bank_dealloc,
    .tp_methods = bank_methods,
};

/* -- module ------------------------------------------------------------------------------------------------ */

static const RatesApi api = {&BankType, hit_all, admit_all};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._rates",
    .m_doc = "Compiled twin of agent.policy.counters.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__rates(void)
{
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
