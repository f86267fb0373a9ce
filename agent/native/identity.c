/* The compiled twins of take_apart_py in agent/identity/plain.py and of der_signature_py in agent/identity/jws.py.
 *
 * take_apart(value) -> (header, payload, signature, signed, parameters, attest, dest, iat, orig, origid) | None
 * der_signature(signature) -> bytes
 *
 * None says "not plain": the caller then reads the row the long way, which also finds the words for what is wrong. So
 * this file may refuse whatever is easier to refuse, and must give what the reference gives where it does not.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#include "sip_text.h"

#define MAX_ROW 16384     /* agent/identity/rows.py */
#define MAX_PAYLOAD 480   /* decoded; the plain form has at most 280 bytes */
#define MAX_TN 32         /* agent/identity/claims.py */
#define MAX_ORIGID 128
#define MAX_IAT_DIGITS 15
#define NUMBER_BYTES 32   /* of r and of s: P-256 */
#define SIGNATURE_BYTES 64
#define SIGNATURE_CHARS 86

/* ---- base64url (RFC 4648 5) without padding, as JWS has it (RFC 7515 2) ---------------------------------------- */

static int sextet(byte c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (is_digit(c))
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

static int8_t SEXTETS[256];

static void fill_sextets(void)
{
    for (int c = 0; c < 256; c++)
        SEXTETS[c] = (int8_t)sextet((byte)c);
}

/* The number of bytes that `text` decodes to, written to `out`, which has room for three quarters of it; -1 if it is
 * not base64url, or has bits after its end that are not zero. */
static Py_ssize_t decode(Text text, byte *out)
{
    byte *start = out;
    const byte *at = text.at;
    int seen = 0; /* negative as soon as one character is none */
    for (; text.end - at >= 4; at += 4) {
        int a = SEXTETS[at[0]], b = SEXTETS[at[1]], c = SEXTETS[at[2]], d = SEXTETS[at[3]];
        seen |= a | b | c | d;
        uint32_t bits = (uint32_t)(a & 63) << 18 | (uint32_t)(b & 63) << 12 | (uint32_t)(c & 63) << 6 | (uint32_t)(d & 63);
        *out++ = (byte)(bits >> 16);
        *out++ = (byte)(bits >> 8);
        *out++ = (byte)bits;
    }
    Py_ssize_t left = text.end - at;
    if (left == 1)
        return -1;
    if (left > 1) {
        int a = SEXTETS[at[0]], b = SEXTETS[at[1]], c = left == 3 ? SEXTETS[at[2]] : 0;
        seen |= a | b | c;
        uint32_t bits = (uint32_t)(a & 63) << 18 | (uint32_t)(b & 63) << 12 | (uint32_t)(c & 63) << 6;
        *out++ = (byte)(bits >> 16);
        if (left == 3)
            *out++ = (byte)(bits >> 8);
        if (bits & (left == 3 ? 0xff : 0xffff))
            return -1;
    }
    return seen < 0 ? -1 : out - start;
}

/* ---- the claims, in the deterministic JSON of RFC 8225 9 -------------------------------------------------------- */

typedef struct {
    Text attest, dest, iat, orig, origid;
} Claims;

static bool take(Text *json, const char *literal, size_t length)
{
    if ((size_t)(json->end - json->at) < length || memcmp(json->at, literal, length) != 0)
        return false;
    json->at += length;
    return true;
}

#define TAKE(json, literal) take((json), "" literal, sizeof(literal) - 1)

typedef bool (*Class)(byte);

static bool is_tn(byte c) { return is_digit(c) || c == '*' || c == '#'; }
static bool is_attestation(byte c) { return c >= 'A' && c <= 'C'; }
static bool is_iat(byte c) { return is_digit(c); }
static bool is_plain(byte c) { return c > ' ' && c < 0x7f && c != '"' && c != '\\'; }

/* A run of one to `most` characters of a class. */
static bool take_run(Text *json, Class belongs, Py_ssize_t most, Text *run)
{
    run->at = json->at;
    while (json->at < json->end && belongs(*json->at))
        json->at++;
    run->end = json->at;
    return run->end > run->at && run->end - run->at <= most;
}

static bool read_claims(Text json, Claims *claims)
{
    return TAKE(&json, "{\"attest\":\"") && take_run(&json, is_attestation, 1, &claims->attest)
        && TAKE(&json, "\",\"dest\":{\"tn\":[\"") && take_run(&json, is_tn, MAX_TN, &claims->dest)
        && TAKE(&json, "\"]},\"iat\":") && take_run(&json, is_iat, MAX_IAT_DIGITS, &claims->iat)
        && (claims->iat.at[0] != '0' || claims->iat.end - claims->iat.at == 1)
        && TAKE(&json, ",\"orig\":{\"tn\":\"") && take_run(&json, is_tn, MAX_TN, &claims->orig)
        && TAKE(&json, "\"},\"origid\":\"") && take_run(&json, is_plain, MAX_ORIGID, &claims->origid)
        && TAKE(&json, "\"}") && json.at == json.end;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

static PyObject *bytes_of(Text text) { return PyBytes_FromStringAndSize((const char *)text.at, text.end - text.at); }
static PyObject *str_of(Text text) { return PyUnicode_FromStringAndSize((const char *)text.at, text.end - text.at); }

static PyObject *iat_of(Text digits)
{
    long long seconds = 0;
    for (const byte *at = digits.at; at < digits.end; at++)
        seconds = seconds * 10 + (*at - '0');
    return PyLong_FromLongLong(seconds);
}

PyDoc_STRVAR(take_apart_doc, "take_apart(value, /)\n--\n\nSee agent.identity.plain.take_apart_py.");

static PyObject *take_apart(PyObject *Py_UNUSED(module), PyObject *value)
{
    if (!PyBytes_CheckExact(value)) {
        PyErr_Format(PyExc_TypeError, "a header value is bytes, not %.100s", Py_TYPE(value)->tp_name);
        return NULL;
    }
    const byte *at = (const byte *)PyBytes_AS_STRING(value);
    const byte *end = at + PyBytes_GET_SIZE(value);
    const byte *semicolon = end - at <= MAX_ROW ? find(at, end, ';') : NULL;
    if (semicolon == NULL)
        Py_RETURN_NONE;
    Text token = {at, semicolon};
    while (token.at < token.end && is_space(*token.at))
        token.at++;
    while (token.end > token.at && is_space(token.end[-1]))
        token.end--;

    const byte *first_dot = find(token.at, token.end, '.');
    const byte *second_dot = first_dot != NULL ? find(first_dot + 1, token.end, '.') : NULL;
    if (second_dot == NULL || first_dot == token.at || token.end - second_dot - 1 != SIGNATURE_CHARS
        || (second_dot - first_dot - 1) / 4 * 3 + 3 > MAX_PAYLOAD)
        Py_RETURN_NONE;

    byte payload[MAX_PAYLOAD], signature[SIGNATURE_BYTES];
    Py_ssize_t length = decode((Text){first_dot + 1, second_dot}, payload);
    Claims claims;
    if (length < 0 || !read_claims((Text){payload, payload + length}, &claims)
        || decode((Text){second_dot + 1, token.end}, signature) != SIGNATURE_BYTES)
        Py_RETURN_NONE;

    PyObject *parts[] = {
        bytes_of((Text){token.at, first_dot}),
        bytes_of((Text){payload, payload + length}),
        bytes_of((Text){signature, signature + SIGNATURE_BYTES}),
        bytes_of((Text){token.at, second_dot}),
        bytes_of((Text){semicolon + 1, end}),
        str_of(claims.attest),
        str_of(claims.dest),
        iat_of(claims.iat),
        str_of(claims.orig),
        str_of(claims.origid),
    };
    enum { PARTS = sizeof(parts) / sizeof(*parts) };
    PyObject *result = PyTuple_New(PARTS);
    for (int i = 0; i < PARTS; i++) {
        if (result != NULL && parts[i] != NULL) {
            PyTuple_SET_ITEM(result, i, parts[i]);
        } else {
            Py_XDECREF(parts[i]);
            Py_CLEAR(result);
        }
    }
    return result;
}

/* ---- signatures ------------------------------------------------------------------------------------------------ */

/* A DER INTEGER: shortest form, sign bit clear (X.690 8.3). Where it ends. */
static byte *put_integer(byte *out, const byte *number)
{
    const byte *end = number + NUMBER_BYTES;
    while (number < end - 1 && *number == 0)
        number++;
    bool padded = *number > 127;
    *out++ = 2;
    *out++ = (byte)(end - number + padded);
    if (padded)
        *out++ = 0;
    memcpy(out, number, (size_t)(end - number));
    return out + (end - number);
}

PyDoc_STRVAR(der_signature_doc, "der_signature(signature, /)\n--\n\nSee agent.identity.jws.der_signature_py.");

static PyObject *der_signature(PyObject *Py_UNUSED(module), PyObject *signature)
{
    if (!PyBytes_CheckExact(signature) || PyBytes_GET_SIZE(signature) != SIGNATURE_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a signature is 64 bytes");
        return NULL;
    }
    const byte *r = (const byte *)PyBytes_AS_STRING(signature);
    byte der[2 + 2 * (2 + 1 + NUMBER_BYTES)];
    byte *end = put_integer(put_integer(der + 2, r), r + NUMBER_BYTES);
    der[0] = 0x30;
    der[1] = (byte)(end - der - 2);
    return bytes_of((Text){der, end});
}

static PyMethodDef METHODS[] = {
    {"take_apart", take_apart, METH_O, take_apart_doc},
    {"der_signature", der_signature, METH_O, der_signature_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_identity",
    .m_doc = "Compiled twins of the hot path of caller-ID verification.",
    .m_size = 0,
    .m_methods = METHODS,
};

PyMODINIT_FUNC PyInit__identity(void)
{
    fill_sextets();
    return PyModuleDef_Init(&MODULE);
}
