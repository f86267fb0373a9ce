/* The extension module of agent.checksums: CRC-32C.
 *
 * The Python function is the reference. Uses the processor's instruction where there is one (SSE 4.2), else eight
 * tables, which take eight bytes a step. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u /* RFC 3720 B.4, bits reversed */
#define WITHOUT_GIL 65536      /* bytes from which on others may run meanwhile */

static uint32_t tables[8][256];

static void make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        tables[0][i] = crc;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++) tables[t][i] = tables[t - 1][i] >> 8 ^ tables[0][tables[t - 1][i] & 0xFF];
}

static uint32_t by_tables(uint32_t crc, const uint8_t *data, size_t length)
{
    for (; length >= 8; data += 8, length -= 8) {
        uint32_t low = crc ^ (data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24);
        crc = tables[7][low & 0xFF] ^ tables[6][low >> 8 & 0xFF] ^ tables[5][low >> 16 & 0xFF] ^ tables[4][low >> 24]
            ^ tables[3][data[4]] ^ tables[2][data[5]] ^ tables[1][data[6]] ^ tables[0][data[7]];
    }
    for (; length; data++, length--) crc = crc >> 8 ^ tables[0][(crc ^ *data) & 0xFF];
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_INSTRUCTION __builtin_cpu_supports("sse4.2")

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *data, size_t length)
{
    uint64_t wide = crc;
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; length; data++, length--) crc = __builtin_ia32_crc32qi(crc, *data);
    return crc;
}
#else
#define HAS_INSTRUCTION false
#define by_instruction by_tables
#endif

static bool has_instruction;

static uint32_t update(uint32_t crc, const Py_buffer *data, bool portable)
{
    crc = ~crc;
    crc = has_instruction && !portable ? by_instruction(crc, data->buf, (size_t)data->len)
                                       : by_tables(crc, data->buf, (size_t)data->len);
    return ~crc;
}

PyDoc_STRVAR(crc32c_doc, "crc32c(data, value=0, portable=False) -> int\n\nThe twin of agent.checksums.crc32c_py. "
                         "`portable` does without the processor's instruction.");

static PyObject *crc32c(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data;
    unsigned int value = 0;
    int portable = 0;
    if (!PyArg_ParseTuple(args, "y*|Ip:crc32c", &data, &value, &portable)) return NULL;
    uint32_t crc;
    if (data.len >= WITHOUT_GIL) {
        Py_BEGIN_ALLOW_THREADS
        crc = update(value, &data, portable);
        Py_END_ALLOW_THREADS
    } else {
        crc = update(value, &data, portable);
    }
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(crc);
}

static int module_exec(PyObject *Py_UNUSED(module))
{
    make_tables();
    has_instruction = HAS_INSTRUCTION;
    return 0;
}

static PyMethodDef module_methods[] = {
    {"crc32c", crc32c, METH_VARARGS, crc32c_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent.native._crc32c",
    .m_doc = "Compiled twin of agent.checksums.",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__crc32c(void)
{
    return PyModuleDef_Init(&module_def);
}
