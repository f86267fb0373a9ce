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
