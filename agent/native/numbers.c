/* The compiled twins of agent.numbers.reading.read_number and agent.numbers.index.NumberIndexPy.
 *
 * The Python functions are the reference: same results, same errors, and the same order of questions, stage by
 * stage, so that the two can be read side by side. Nothing here trusts its input: addresses come off the wire, and
 * the arrays of an index may come out of a damaged file.
 *
 * Knows agent.model.Number and NumberKind (made here directly); knows no lists and no rules. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* agent.numbers.reading: MAX_DIALLED, MAX_E164, LONG_WITHOUT_PLUS, MIN_AFTER_PREFIX, MAX_SHORT */
#define MAX_DIALLED 32
#define MAX_E164 15
#define LONG_WITHOUT_PLUS 12
#define MIN_AFTER_PREFIX 7
#define MAX_SHORT 6
#define MAX_NAME 11 /* "unavailable", the longest anonymous user */

/* In the order of agent.model.NumberKind; module_exec checks that it is. */
enum kind { ABSENT, ANONYMOUS, NOT_A_NUMBER, SHORT, NANP, NANP_INVALID, FOREIGN, AMBIGUOUS, KINDS };

static const char *const KIND_NAMES[KINDS] = {
    "ABSENT", "ANONYMOUS", "NOT_A_NUMBER", "SHORT", "NANP", "NANP_INVALID", "FOREIGN", "AMBIGUOUS",
};

typedef struct {
    PyTypeObject *number;       /* agent.model.Number, a NamedTuple: a tuple of three without further slots */
    PyObject *kinds[KINDS];
    PyObject *without_digits[KINDS]; /* Number(kind, "", -1) for the kinds that have no digits, else NULL */
    PyObject *minus_one;
    PyTypeObject *index;
} State;

typedef struct {
    const char *start;
    Py_ssize_t length;
} Span;

/* Digits that were dialled: an optional leading "+" and up to MAX_DIALLED of 0-9 * #, without separators. */
typedef struct {
    char text[MAX_DIALLED];
    Py_ssize_t length;
    bool plus;
    bool star; /* holds "*" or "#" */
} Dialled;

/* ---- the numbering plan (agent.numbers.plan) ---- */

static bool valid_npa(int npa)
{
    return npa >= 200 && npa % 100 != 11 && npa / 10 % 10 != 9 && npa / 10 != 37 && npa / 10 != 96;
}

static bool valid_nxx(int nxx)
{
    return nxx >= 200 && nxx % 100 != 11;
}

/* ---- text ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool is_separator(char c)
{
    return c == '-' || c == '.' || c == '(' || c == ')' || c == ' ';
}

static int hex_value(char c)
{
    if (is_digit(c)) return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Whether `span` is `word` (lower case) in any case. */
static bool is_word(Span span, const char *word)
{
    if (span.length != (Py_ssize_t)strlen(word)) return false;
    for (Py_ssize_t i = 0; i < span.length; i++)
        if (lower(span.start[i]) != word[i]) return false;
    return true;
}

/* The part before the first `c` (all of it without one); `*rest` becomes what follows. */
static Span cut(Span span, char c, Span *rest)
{
    const char *at = span.length ? memchr(span.start, c, (size_t)span.length) : NULL;
    if (at == NULL) {
        *rest = (Span){span.start + span.length, 0};
        return span;
    }
    *rest = (Span){at + 1, span.start + span.length - at - 1};
    return (Span){span.start, at - span.start};
}

/* One character of an escaped text. Returns 0 at a broken escape, a control character, or outside ASCII. */
static char next_decoded(Span span, Py_ssize_t *i)
{
    unsigned char c = (unsigned char)span.start[(*i)++];
    if (c == '%') {
        if (*i + 2 > span.length) return 0;
        int high = hex_value(span.start[*i]), low = hex_value(span.start[*i + 1]);
        if (high < 0 || low < 0) return 0;
        *i += 2;
        c = (unsigned char)(high * 16 + low);
    }
    return c >= 0x20 && c <= 0x7e ? (char)c : 0;
}

/* ---- the address (take_apart, decode, dialled_digits, phone_context) ---- */

typedef struct {
    Span user, parameters, host;
} Address;

static bool is_user_without_host(Span span)
{
    if (span.length && span.start[0] == '+') span.start++, span.length--;
    if (span.length < 1 || span.length > MAX_DIALLED) return false;
    for (Py_ssize_t i = 0; i < span.length; i++)
        if (!is_digit(span.start[i])) return false;
    return true;
}

/* False when the scheme is none of sip, sips and tel. */
static bool take_apart(Span uri, Address *address)
{
    Span rest, tail, ignored;
    Span scheme = cut(uri, ':', &rest);
    *address = (Address){0};
    if (is_word(scheme, "tel")) {
        address->user = cut(rest, ';', &address->parameters);
        return true;
    }
    if (!is_word(scheme, "sip") && !is_word(scheme, "sips")) return false;
    Span userinfo = cut(rest, '@', &tail);
    if (userinfo.length == rest.length) { /* no "@" */
        Span user = cut(rest, ';', &address->parameters);
        if (is_user_without_host(user)) {
            address->user = user;
            return true;
        }
        address->parameters = (Span){0};
        tail = rest;
    } else {
        address->user = cut(cut(userinfo, ':', &ignored), ';', &address->parameters);
    }
    Py_ssize_t end = 0;
    while (end < tail.length && tail.start[end] != ':' && tail.start[end] != ';' && tail.start[end] != '?') end++;
    address->host = (Span){tail.start, end};
    return true;
}

enum user { USER_BROKEN, USER_TEXT, USER_DIALLED };

/* Decodes the user part; fills `dialled` when it is a dialled number, else `name` with what a short text says. */
static enum user read_user(Span user, Dialled *dialled, char *name, Py_ssize_t *name_length)
{
    bool is_dialled = true;
    dialled->length = 0;
    dialled->plus = dialled->star = false;
    *name_length = 0;
    for (Py_ssize_t i = 0; i < user.length;) {
        char c = next_decoded(user, &i);
        if (c == 0) return USER_BROKEN;
        if (*name_length <= MAX_NAME) name[(*name_length)++] = c; /* one more than fits: then it is no such name */
        if (!is_dialled || is_separator(c)) continue;
        if (c == '+' && dialled->length == 0 && !dialled->plus) {
            dialled->plus = true;
        } else if ((is_digit(c) || c == '*' || c == '#') && dialled->length < MAX_DIALLED) {
            dialled->star |= !is_digit(c);
            dialled->text[dialled->length++] = c;
        } else {
            is_dialled = false;
        }
    }
    return is_dialled && dialled->length > 0 ? USER_DIALLED : USER_TEXT;
}

/* The digits of ;phone-context=+..., at most MAX_E164 of them; 0 when there is none, or it is a domain. */
static Py_ssize_t phone_context(Span parameters, char *digits)
{
    while (parameters.length > 0) {
        Span rest, value, parameter = cut(parameters, ';', &rest);
        if (!is_word(cut(parameter, '=', &value), "phone-context")) {
            parameters = rest;
            continue;
        }
        Py_ssize_t length = 0;
        bool plus = false;
        for (Py_ssize_t i = 0; i < value.length;) {
            char c = next_decoded(value, &i);
            if (c == 0) return 0;
            if (is_separator(c)) continue;
            if (c == '+' && !plus) plus = true;
            else if (plus && is_digit(c) && length < MAX_E164 && (length || c != '0')) digits[length++] = c;
            else return 0;
        }
        return length;
    }
    return 0;
}

/* ---- numbers ---- */

static PyObject *make_number(State *state, enum kind kind, const char *digits, Py_ssize_t length, long long national)
{
    PyObject *text = PyUnicode_New(length, 127);
    if (text == NULL) return NULL;
    memcpy(PyUnicode_1BYTE_DATA(text), digits, (size_t)length);
    PyObject *value = national < 0 ? Py_NewRef(state->minus_one) : PyLong_FromLongLong(national);
    PyObject *number = value == NULL ? NULL : state->number->tp_alloc(state->number, 3);
    if (number == NULL) {
        Py_DECREF(text);
        Py_XDECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(number, 0, Py_NewRef(state->kinds[kind]));
    PyTuple_SET_ITEM(number, 1, text);
    PyTuple_SET_ITEM(number, 2, value);
    return number;
}

static PyObject *nanp(State *state, const char *ten_digits)
{
    char digits[11] = "1";
    long long national = 0;
    memcpy(digits + 1, ten_digits, 10);
    for (int i = 0; i < 10; i++) national = national * 10 + (ten_digits[i] - '0');
    bool valid = valid_npa((int)(national / 10000000)) && valid_nxx((int)(national / 10000 % 1000));
    return make_number(state, valid ? NANP : NANP_INVALID, digits, 11, national);
}

/* 211, ..., 911, 933, 988 */
static bool is_service_code(const char *digits, Py_ssize_t length)
{
    if (length != 3) return false;
    if (digits[1] == '1' && digits[2] == '1') return digits[0] >= '2';
    return memcmp(digits, "933", 3) == 0 || memcmp(digits, "988", 3) == 0;
}

/* Digits that follow a "+" or an international prefix. */
static PyObject *international(State *state, const char *digits, Py_ssize_t length)
{
    if (digits[0] == '1') {
        if (length == 11) return nanp(state, digits + 1);
        if (is_service_code(digits + 1, length - 1)) return make_number(state, SHORT, digits + 1, length - 1, -1);
        return make_number(state, NANP_INVALID, digits, length, -1);
    }
    if (digits[0] == '0') return make_number(state, AMBIGUOUS, digits, length, -1);
    if (length == 3) return make_number(state, SHORT, digits, length, -1);
    return make_number(state, length > MAX_E164 ? AMBIGUOUS : FOREIGN, digits, length, -1);
}

static bool has_prefix(const char *digits, Py_ssize_t length, const char *prefix)
{
    Py_ssize_t size = (Py_ssize_t)strlen(prefix);
    return length >= size + MIN_AFTER_PREFIX && memcmp(digits, prefix, (size_t)size) == 0 && digits[size] != '0';
}

/* Countries whose national numbers keep their leading zero (agent.numbers.reading.ZERO_IS_PART). */
static bool zero_is_part(Span country)
{
    static const char *const countries[] = {"39", "225", "229", "241", "242"};
    for (size_t i = 0; i < sizeof countries / sizeof *countries; i++)
        if (is_word(country, countries[i])) return true;
    return false;
}

static PyObject *in_other_country(State *state, const char *digits, Py_ssize_t length, Span country)
{
    char whole[3 + LONG_WITHOUT_PLUS];
    if (has_prefix(digits, length, "00")) return international(state, digits + 2, length - 2);
    if (length >= LONG_WITHOUT_PLUS) return make_number(state, AMBIGUOUS, digits, length, -1);
    if (digits[0] == '0' && !zero_is_part(country)) digits++, length--;
    memcpy(whole, country.start, (size_t)country.length);
    memcpy(whole + country.length, digits, (size_t)length);
    return make_number(state, FOREIGN, whole, country.length + length, -1);
}

static PyObject *classify(State *state, const Dialled *dialled, Span country)
{
    const char *digits = dialled->text;
    Py_ssize_t length = dialled->length;
    if (dialled->star)
        return dialled->plus ? Py_NewRef(state->without_digits[NOT_A_NUMBER])
                             : make_number(state, SHORT, digits, length, -1);
    if (dialled->plus) return international(state, digits, length);
    if (length <= MAX_SHORT) {
        bool service = digits[0] == '1' && is_service_code(digits + 1, length - 1);
        return make_number(state, SHORT, digits + service, length - service, -1);
    }
    bool is_nanp = country.length == 1 && country.start[0] == '1';
    if (country.length > 0 && !is_nanp) return in_other_country(state, digits, length, country);
    if (is_nanp && has_prefix(digits, length, "011")) return international(state, digits + 3, length - 3);
    if (is_nanp && length == 10) return nanp(state, digits);
    if (length == 11 && digits[0] == '1') return nanp(state, digits + 1);
    return make_number(state, AMBIGUOUS, digits, length, -1);
}

/* Local digits and their phone-context (settle_context): may put the context before the digits and change *country. */
static void settle_context(Dialled *dialled, const char *context, Py_ssize_t length, Span *country)
{
    Py_ssize_t whole = length + dialled->length;
    bool combine;
    if (length == 0 || dialled->plus) return;
    if (context[0] == '1') {
        *country = (Span){"1", 1};
        combine = length > 1 && whole == 11;
    } else if (length <= 3) {
        *country = (Span){context, length};
        return;
    } else {
        *country = (Span){"", 0};
        combine = dialled->length > 3 && whole <= MAX_E164;
    }
    if (!combine) return;
    memmove(dialled->text + length, dialled->text, (size_t)dialled->length);
    memcpy(dialled->text, context, (size_t)length);
    dialled->length = whole;
    dialled->plus = true;
}

static PyObject *without_digits(State *state, const Address *address, Span name)
{
    static const char *const users[] = {"anonymous", "private", "restricted", "unavailable", "unknown"};
    for (size_t i = 0; i < sizeof users / sizeof *users; i++)
        if (is_word(name, users[i])) return Py_NewRef(state->without_digits[ANONYMOUS]);
    if (is_word(address->host, "anonymous.invalid") || is_word(address->host, "unknown.invalid"))
        return Py_NewRef(state->without_digits[ANONYMOUS]);
    return Py_NewRef(state->without_digits[address->user.length ? NOT_A_NUMBER : ABSENT]);
}

static PyObject *read_uri(State *state, Span uri, Span country)
{
    Address address;
    Dialled dialled;
    char name[MAX_NAME + 1], context[MAX_E164];
    Py_ssize_t name_length;
    if (uri.length == 0) return Py_NewRef(state->without_digits[ABSENT]);
    if (!take_apart(uri, &address)) return Py_NewRef(state->without_digits[NOT_A_NUMBER]);
    switch (read_user(address.user, &dialled, name, &name_length)) {
    case USER_BROKEN:
        return Py_NewRef(state->without_digits[NOT_A_NUMBER]);
    case USER_TEXT:
        return without_digits(state, &address, (Span){name, name_length});
    case USER_DIALLED:
        break;
    }
    settle_context(&dialled, context, phone_context(address.parameters, context), &country);
    return classify(state, &dialled, country);
}

static bool is_country(Span country)
{
    if (country.length == 0) return true;
    if (country.length > 3 || country.start[0] == '0') return false;
    for (Py_ssize_t i = 0; i < country.length; i++)
        if (!is_digit(country.start[i])) return false;
    return true;
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
    if (!PyUnicode_IS_ASCII(values[1])) {
        PyErr_Format(PyExc_ValueError, "not a country code: %R", values[1]);
        return NULL;
    }
    country.start = PyUnicode_AsUTF8AndSize(values[1], &country.length);
    if (country.start == NULL) return NULL;
    if (!is_country(country)) {
        PyErr_Format(PyExc_ValueError, "not a country code: %R", values[1]);
        return NULL;
    }
    return read_uri(PyModule_GetState(module), uri, country);
}

/* ---- NumberIndex (agent.numbers.index) ---- */

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
    if ((uintptr_t)self->offsets.buf % sizeof(uint32_t) || (uintptr_t)self->suffixes.buf % sizeof(uint16_t)) {
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
    for (int i = 0; good && i < KINDS; i++) {
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
        state->without_digits[i] = make_number(state, (enum kind)i, "", 0, -1);
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
    for (int i = 0; i < KINDS; i++) {
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
    for (int i = 0; i < KINDS; i++) {
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
