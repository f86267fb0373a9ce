/* The compiled way from lines of JSON to columns of a table, as Arrow lays them out.
 *
 * Columns(fields).add(text, count) reads `count` lines, one object to a line, and adds a row for each; or nothing, when
 * one of them is not what agents write: no white space, every key known and there once, every value of its column's
 * type, times in one form. What is refused here is read by controller/archive/rows.py, which is the reference: it takes
 * anything, and makes the same rows of what this takes. take() hands the columns over without a copy.
 *
 * The parser runs without the interpreter's lock and makes no object. Nothing in a text can make it read beyond the
 * text, recurse deeper than the fields do, or allocate more than a small multiple of the text. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "columns_reading.h"

#define FIELDS_MAX 64 /* of one object: a bit of a word says which are there */
#define DEPTH_MAX 8   /* of fields in fields */

/* ---- what is given away ---------------------------------------------------------------------------------------- */

/* What take() gives away: its memory lives as long as anybody looks at it. */
typedef struct {
    PyObject_HEAD
    Memory memory;
} Piece;

static void piece_dealloc(Piece *self)
{
    release(&self->memory);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int piece_getbuffer(Piece *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)self, self->memory.at, (Py_ssize_t)self->memory.used, 1, flags);
}

static PyType_Slot piece_slots[] = {
    {Py_tp_dealloc, piece_dealloc},
    {Py_bf_getbuffer, piece_getbuffer},
    {Py_tp_doc, "Bytes of a column."},
    {0, NULL},
};

static PyType_Spec piece_spec = {
    .name = "agent.native._columns.Piece",
    .basicsize = sizeof(Piece),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = piece_slots,
};

/* ---- the type --------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Column root;
    PyTypeObject *piece;
    bool busy; /* a thread reads into it without the lock */
} Columns;

static int column_init(Column *c, PyObject *field, int depth);

/* The fields of an object or a list: a tuple of (name, kind, fields). */
static int fields_init(Column *c, PyObject *fields, int depth)
{
    if (!PyTuple_CheckExact(fields) || PyTuple_GET_SIZE(fields) < 1 || PyTuple_GET_SIZE(fields) > FIELDS_MAX ||
        depth > DEPTH_MAX) {
        PyErr_SetString(PyExc_ValueError, "fields: a tuple of 1 to 64, and not too deep");
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(fields);
    c->fields = PyMem_RawCalloc((size_t)count, sizeof(Column));
    if (c->fields == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    c->count = (int)count;
    for (Py_ssize_t i = 0; i < count; i++)
        if (column_init(&c->fields[i], PyTuple_GET_ITEM(fields, i), depth) < 0) return -1;
    return 0;
}

static int column_init(Column *c, PyObject *field, int depth)
{
    const char *name, *kind;
    Py_ssize_t length;
    PyObject *fields;
    if (!PyTuple_CheckExact(field) || !PyArg_ParseTuple(field, "s#sO:field", &name, &length, &kind, &fields)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "field: a tuple of name, kind, fields");
        return -1;
    }
    size_t found = 0;
    while (found < KIND_COUNT && strcmp(KINDS[found], kind) != 0) found++;
    if (found == KIND_COUNT) {
        PyErr_Format(PyExc_ValueError, "%s: unknown kind %s", name, kind);
        return -1;
    }
    c->kind = (Kind)found;
    c->key_length = (size_t)length + 3;
    c->key = PyMem_RawMalloc(c->key_length);
    if (c->key == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    c->key[0] = '"';
    memcpy(c->key + 1, name, (size_t)length);
    memcpy(c->key + 1 + length, "\":", 2);
    if (c->kind != LIST && c->kind != OBJECT) return 0;
    if (fields_init(c, fields, depth + 1) < 0) return -1;
    if (c->kind == LIST && c->count != 1) {
        PyErr_Format(PyExc_ValueError, "%s: a list has one field", name);
        return -1;
    }
    return 0;
}

static PyObject *columns_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fields", NULL};
    PyObject *fields;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Columns", names, &fields)) return NULL;
    Columns *self = (Columns *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->root.kind = OBJECT;
    self->piece = *(PyTypeObject **)PyType_GetModuleState(type);
    Py_INCREF(self->piece);
    if (fields_init(&self->root, fields, 0) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    if (!column_begin(&self->root)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void columns_dealloc(Columns *self)
{
    column_release(&self->root);
    Py_XDECREF(self->piece);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static bool is_busy(const Columns *self)
{
    if (self->busy) PyErr_SetString(PyExc_RuntimeError, "another thread is reading into these columns");
    return self->busy;
}

static PyObject *columns_add(Columns *self, PyObject *args)
{
    PyObject *text;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "Sn:add", &text, &count) || is_busy(self)) return NULL;
    if (count < 1) {
        PyErr_SetString(PyExc_ValueError, "count: at least 1");
        return NULL;
    }
    Outcome outcome;
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    column_mark(&self->root);
    outcome = read_lines(&self->root, (const byte *)PyBytes_AS_STRING(text), (size_t)PyBytes_GET_SIZE(text), count);
    if (outcome != TAKEN) column_back(&self->root);
    Py_END_ALLOW_THREADS
    self->busy = false;
    if (outcome == NO_MEMORY) return PyErr_NoMemory();
    return PyBool_FromLong(outcome == TAKEN);
}

/* The memory becomes an object of its own; None where there is none. */
static PyObject *piece_of(PyTypeObject *type, Memory *memory)
{
    if (memory->at == NULL) Py_RETURN_NONE;
    Piece *piece = (Piece *)type->tp_alloc(type, 0);
    if (piece == NULL) return NULL;
    piece->memory = *memory;
    *memory = (Memory){0};
    return (PyObject *)piece;
}

static PyObject *taken(Column *c, PyTypeObject *piece)
{
    PyObject *fields = PyTuple_New(c->count);
    if (fields == NULL) return NULL;
    for (int i = 0; i < c->count; i++) {
        PyObject *field = taken(&c->fields[i], piece);
        if (field == NULL) {
            Py_DECREF(fields);
            return NULL;
        }
        PyTuple_SET_ITEM(fields, i, field);
    }
    return Py_BuildValue("(LLNNNN)", (long long)c->length, (long long)c->nulls, piece_of(piece, &c->valid),
                         piece_of(piece, &c->values), piece_of(piece, &c->text), fields);
}

static PyObject *columns_take(Columns *self, PyObject *Py_UNUSED(ignored))
{
    if (is_busy(self)) return NULL;
    PyObject *result = taken(&self->root, self->piece);
    bool begun = column_begin(&self->root);
    if (!begun) PyErr_NoMemory();
    if (!begun || result == NULL) {
        Py_XDECREF(result);
        return NULL;
    }
    return result;
}

static PyMethodDef columns_methods[] = {
    {"add", (PyCFunction)columns_add, METH_VARARGS,
     "add(text, count) -> bool\n\nRows of so many lines; False, and nothing added, where one is not plain."},
    {"take", (PyCFunction)columns_take, METH_NOARGS,
     "take() -> (length, nulls, validity, values, text, fields)\n\nAll rows, and begin anew."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot columns_slots[] = {
    {Py_tp_new, columns_new},
    {Py_tp_dealloc, columns_dealloc},
    {Py_tp_methods, columns_methods},
    {Py_tp_doc, "Columns(fields): each a tuple (name, kind, fields); see controller/archive/columns.py."},
    {0, NULL},
};

static PyType_Spec columns_spec = {
    .name = "agent.native._columns.Columns",
    .basicsize = sizeof(Columns),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = columns_slots,
};

/* ---- the module ------------------------------------------------------------------------------------------------- */

static int module_exec(PyObject *module)
{
    PyTypeObject **piece = PyModule_GetState(module);
    *piece = (PyTypeObject *)PyType_FromModuleAndSpec(module, &piece_spec, NULL);
    if (*piece == NULL) return -1;
    PyObject *columns = PyType_FromModuleAndSpec(module, &columns_spec, NULL);
    if (columns == NULL) return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)columns);
    Py_DECREF(columns);
    return failed;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(*(PyObject **)PyModule_GetState(module));
    return 0;
}

static int module_clear(PyObject *module)
{
    Py_CLEAR(*(PyObject **)PyModule_GetState(module));
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._columns",
    .m_doc = "Lines of JSON to columns; see controller/archive/columns.py.",
    .m_size = sizeof(PyTypeObject *),
    .m_methods = NULL,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__columns(void) { return PyModuleDef_Init(&module_def); }
