/* The twin of agent.numbers.index.NumberIndexPy: is this ten-digit number in there, and where?
 *
 * The arrays may lie in a mapped file, and the file may be damaged: they are checked when the index is made, and
 * no look-up reads outside them even if somebody overwrites the file later. */

#ifndef SBC_EDGE_NUMBER_INDEX_H
#define SBC_EDGE_NUMBER_INDEX_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1000
#define BITMAP_BYTES 1250000
#define GROUP 10000
#define GROUPS 1000000
#define NUMBERS 10000000000LL
#define INDEX_ABSENT (-1)
#define INDEX_IN_BLOCK (-2)

typedef struct {
    PyObject_HEAD
    Py_buffer bitmap, offsets, suffixes; /* `obj` is NULL while nothing is held */
    bool released;
} Index;

static void index_drop(Index *self)
{
    PyBuffer_Release(&self->bitmap);
    PyBuffer_Release(&self->offsets);
    PyBuffer_Release(&self->suffixes);
    self->released = true;
}

static void index_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    index_drop((Index *)object);
    type->tp_free(object);
    Py_DECREF(type);
}

/* True when the arrays fit each other, so that no look-up can leave them; else an exception is set. */
static bool index_check(const Index *self)
{
    const Py_ssize_t offsets_bytes = 4 * (GROUPS + 1);
    Py_ssize_t count = self->suffixes.len / 2;
    if (self->bitmap.len != 0 && self->bitmap.len != BITMAP_BYTES) {
        PyErr_Format(PyExc_ValueError, "the bitmap has %zd bytes, not %d", self->bitmap.len, BITMAP_BYTES);
        return false;
    }
    if (self->offsets.len != 0 && self->offsets.len != offsets_bytes) {
        PyErr_Format(PyExc_ValueError, "the offsets have %zd bytes, not %zd", self->offsets.len, offsets_bytes);
        return false;
    }
    if (self->suffixes.len % 2) {
        PyErr_SetString(PyExc_ValueError, "the suffixes are not whole u16");
        return false;
    }
    if (self->suffixes.len && !self->offsets.len) {
        PyErr_SetString(PyExc_ValueError, "there are suffixes without offsets");
        return false;
    }
    if ((self->offsets.len && (uintptr_t)self->offsets.buf % sizeof(uint32_t))
        || (self->suffixes.len && (uintptr_t)self->suffixes.buf % sizeof(uint16_t))) {
        PyErr_SetString(PyExc_ValueError, "the arrays are not aligned");
        return false;
    }
    if (self->offsets.len) {
        const uint32_t *offsets = self->offsets.buf;
        bool ascending = offsets[0] == 0 && (Py_ssize_t)offsets[GROUPS] == count;
        for (Py_ssize_t i = 0; i < GROUPS; i++) ascending &= offsets[i] <= offsets[i + 1];
        if (!ascending) {
            PyErr_SetString(PyExc_ValueError, "the offsets do not ascend from 0 to the number of suffixes");
            return false;
        }
    }
    return true;
}

static PyObject *index_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *bitmap, *offsets, *suffixes;
    if (keywords != NULL && PyDict_GET_SIZE(keywords)) {
        PyErr_SetString(PyExc_TypeError, "NumberIndex() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOO:NumberIndex", &bitmap, &offsets, &suffixes)) return NULL;
    Index *self = (Index *)type->tp_alloc(type, 0); /* zeroed: releasing a buffer that was never got is harmless */
    if (self == NULL) return NULL;
    if (PyObject_GetBuffer(bitmap, &self->bitmap, PyBUF_SIMPLE) < 0
        || PyObject_GetBuffer(offsets, &self->offsets, PyBUF_SIMPLE) < 0
        || PyObject_GetBuffer(suffixes, &self->suffixes, PyBUF_SIMPLE) < 0 || !index_check(self)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

/* The position of a single number, INDEX_IN_BLOCK or INDEX_ABSENT; -3 with an exception set. */
static Py_ssize_t index_find(const Index *self, PyObject *argument)
{
    int overflow;
    long long national = PyLong_AsLongLongAndOverflow(argument, &overflow);
    if (national == -1 && !overflow && PyErr_Occurred()) return -3;
    if (self->released) {
        PyErr_SetString(PyExc_ValueError, "the index was released");
        return -3;
    }
    if (overflow || national < 0 || national >= NUMBERS) return INDEX_ABSENT;
    if (self->offsets.len) {
        const uint32_t *offsets = self->offsets.buf;
        const uint16_t *suffixes = self->suffixes.buf;
        uint32_t suffix = (uint32_t)(national % GROUP), group = (uint32_t)(national / GROUP);
        uint32_t low = offsets[group], end = offsets[group + 1], high = end;
        /* Checked when it was built; a file that somebody overwrites in place must not become a wild read. */
        if (end > (size_t)self->suffixes.len / 2) return INDEX_ABSENT;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (suffixes[middle] < suffix) low = middle + 1;
            else high = middle;
        }
        if (low < end && suffixes[low] == suffix) return (Py_ssize_t)low;
    }
    if (self->bitmap.len) {
        const uint8_t *bitmap = self->bitmap.buf;
        uint32_t block = (uint32_t)(national / BLOCK);
        if (bitmap[block >> 3] >> (block & 7) & 1) return INDEX_IN_BLOCK;
    }
    return INDEX_ABSENT;
}

PyDoc_STRVAR(locate_doc, "locate(national: int) -> int\n\n"
                         "The position of a single number, -2 for a number of a listed block, -1 for neither.");

static PyObject *index_locate(PyObject *self, PyObject *national)
{
    Py_ssize_t position = index_find((Index *)self, national);
    return position == -3 ? NULL : PyLong_FromSsize_t(position);
}

PyDoc_STRVAR(contains_doc, "contains(national: int) -> bool");

static PyObject *index_contains(PyObject *self, PyObject *national)
{
    Py_ssize_t position = index_find((Index *)self, national);
    return position == -3 ? NULL : PyBool_FromLong(position != INDEX_ABSENT);
}

PyDoc_STRVAR(release_doc, "release() -> None\n\nLet go of the memory; every later look-up raises ValueError.");

static PyObject *index_release(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    index_drop((Index *)self);
    Py_RETURN_NONE;
}

static PyMethodDef index_methods[] = {
    {"locate", index_locate, METH_O, locate_doc},
    {"contains", index_contains, METH_O, contains_doc},
    {"release", index_release, METH_NOARGS, release_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(index_doc, "NumberIndex(bitmap, offsets, suffixes)\n\nThe twin of agent.numbers.index.NumberIndexPy.");

static PyType_Slot index_slots[] = {
    {Py_tp_doc, (void *)index_doc},
    {Py_tp_new, index_new},
    {Py_tp_dealloc, index_dealloc},
    {Py_tp_methods, index_methods},
    {0, NULL},
};

static PyType_Spec index_spec = {
    .name = "agent.native._numbers.NumberIndex",
    .basicsize = sizeof(Index),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = index_slots,
};

#endif
