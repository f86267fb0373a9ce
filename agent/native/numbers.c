/* The extension module of agent.numbers: read_number and NumberIndex.
 *
 * The Python functions are the reference: same results, same errors. */

#include "number_index.h"
#include "number_reading.h"

static const char *const KIND_NAMES[NUMBER_KINDS] = {
    "ABSENT", "ANONYMOUS", "NOT_A_NUMBER", "SHORT", "NANP", "NANP_INVALID", "FOREIGN", "AMBIGUOUS",
};

typedef struct {
    PyTypeObject *number; /* agent.model.Number, a NamedTuple: a tuple of three without further slots */
    PyObject *kinds[NUMBER_KINDS];
    PyObject *without_digits[NUMBER_KINDS]; /* Number(kind, "", -1) for the kinds that have no digits, else NULL */
    PyObject *minus_one;
    PyTypeObject *index;
} State;

static PyObject *make_number(const State *state, const Reading *reading)
{
    if (state->without_digits[reading->kind] != NULL)
        return Py_NewRef(state->without_digits[reading->kind]);
    PyObject *text = PyUnicode_New((Py_ssize_t)reading->length, 127);
    if (text == NULL) return NULL;
    memcpy(PyUnicode_1BYTE_DATA(text), reading->digits, reading->length);
    PyObject *value = reading->national < 0 ? Py_NewRef(state->minus_one) : PyLong_FromLongLong(reading->national);
    PyObject *number = value == NULL ? NULL : state->number->tp_alloc(state->number, 3);
    if (number == NULL) {
        Py_DECREF(text);
        Py_XDECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(number, 0, Py_NewRef(state->kinds[reading->kind]));
    PyTuple_SET_ITEM(number, 1, text);
    PyTuple_SET_ITEM(number, 2, value);
    return number;
}

/* ---- the index ---- */

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

/* The same for an int; -3 with an exception set. */
static Py_ssize_t index_find(const Index *self, PyObject *argument)
{
    int overflow;
    long long national = PyLong_AsLongLongAndOverflow(argument, &overflow);
    if (national == -1 && !overflow && PyErr_Occurred()) return -3;
    if (self->released) {
        PyErr_SetString(PyExc_ValueError, "the index was released");
        return -3;
    }
    return overflow ? INDEX_ABSENT : index_search(self, national);
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

/* ---- reading ---- */

PyDoc_STRVAR(read_number_doc, "read_number(uri: bytes, default_country: str) -> Number\n\n"
                              "The twin of agent.numbers.reading.read_number_py.");

static PyObject *read_number(PyObject *module, PyObject *const *args, Py_ssize_t positional, PyObject *keywords)
{
    static const char *const names[2] = {"uri", "default_country"};
    PyObject *values[2] = {NULL, NULL};
    Py_ssize_t named = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    if (positional + named != 2) {
        PyErr_Format(PyExc_TypeError, "read_number() takes 2 arguments (%zd given)", positional + named);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < positional; i++) values[i] = args[i];
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, i);
        int slot = PyUnicode_CompareWithASCIIString(keyword, names[0]) == 0 ? 0
                 : PyUnicode_CompareWithASCIIString(keyword, names[1]) == 0 ? 1 : -1;
        if (slot < 0 || values[slot] != NULL) {
            PyErr_Format(PyExc_TypeError, "read_number() got an unexpected or repeated argument %R", keyword);
            return NULL;
        }
        values[slot] = args[positional + i];
    }
    if (!PyBytes_Check(values[0]) || !PyUnicode_Check(values[1])) {
        PyErr_SetString(PyExc_TypeError, "read_number() takes bytes and str");
        return NULL;
    }
    Span uri = {PyBytes_AS_STRING(values[0]), PyBytes_GET_SIZE(values[0])}, country;
    Py_ssize_t country_length;
    if (!PyUnicode_IS_ASCII(values[1])) {
        PyErr_Format(PyExc_ValueError, "not a country code: %R", values[1]);
        return NULL;
    }
    country.start = PyUnicode_AsUTF8AndSize(values[1], &country_length);
    country.length = country_length;
    if (country.start == NULL) return NULL;
    if (!is_country(country)) {
        PyErr_Format(PyExc_ValueError, "not a country code: %R", values[1]);
        return NULL;
    }
    Reading reading = read_uri(uri, country);
    return make_number(PyModule_GetState(module), &reading);
}

/* ---- the module ---- */

static bool load_model(State *state)
{
    PyObject *model = PyImport_ImportModule("agent.model");
    if (model == NULL) return false;
    PyObject *number = PyObject_GetAttrString(model, "Number");
    PyObject *kinds = PyObject_GetAttrString(model, "NumberKind");
    state->without_digits[ABSENT] = PyObject_GetAttrString(model, "NO_NUMBER"); /* that very object: compared by `is` */
    Py_DECREF(model);
    bool good = number != NULL && kinds != NULL && state->without_digits[ABSENT] != NULL;
    if (good && (!PyType_Check(number) || !PyType_IsSubtype((PyTypeObject *)number, &PyTuple_Type)
                 || ((PyTypeObject *)number)->tp_basicsize != PyTuple_Type.tp_basicsize)) {
        PyErr_SetString(PyExc_ImportError, "agent.model.Number is not a plain named tuple");
        good = false;
    }
    if (good) state->number = (PyTypeObject *)Py_NewRef(number);
    for (int i = 0; good && i < NUMBER_KINDS; i++) {
        state->kinds[i] = PyObject_GetAttrString(kinds, KIND_NAMES[i]);
        good = state->kinds[i] != NULL;
        if (good && PyLong_AsLong(state->kinds[i]) != i) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ImportError, "agent.model.NumberKind has changed");
            good = false;
        }
    }
    Py_XDECREF(number);
    Py_XDECREF(kinds);
    return good;
}

static int module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    if (!load_model(state)) return -1;
    state->minus_one = PyLong_FromLong(-1);
    if (state->minus_one == NULL) return -1;
    for (int i = ANONYMOUS; i <= NOT_A_NUMBER; i++) {
        Reading reading = without((enum kind)i);
        state->without_digits[i] = make_number(state, &reading);
        if (state->without_digits[i] == NULL) return -1;
    }
    state->index = (PyTypeObject *)PyType_FromModuleAndSpec(module, &index_spec, NULL);
    return state->index == NULL ? -1 : PyModule_AddType(module, state->index);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->number);
    Py_VISIT(state->index);
    for (int i = 0; i < NUMBER_KINDS; i++) {
        Py_VISIT(state->kinds[i]);
        Py_VISIT(state->without_digits[i]);
    }
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->number);
    Py_CLEAR(state->index);
    Py_CLEAR(state->minus_one);
    for (int i = 0; i < NUMBER_KINDS; i++) {
        Py_CLEAR(state->kinds[i]);
        Py_CLEAR(state->without_digits[i]);
    }
    return 0;
}

static PyMethodDef module_methods[] = {
    {"read_number", (PyCFunction)(void (*)(void))read_number, METH_FASTCALL | METH_KEYWORDS, read_number_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._numbers",
    .m_doc = "Compiled twins of agent.numbers.reading and agent.numbers.index.",
    .m_size = sizeof(State),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__numbers(void)
{
    return PyModuleDef_Init(&module_def);
}
