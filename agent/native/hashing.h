/* Hashes of what comes off the wire: texts are remembered by them, at a third of the memory. */

#ifndef SBC_EDGE_HASHING_H
#define SBC_EDGE_HASHING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define HASHING_KEY "agent.native._hashing.key"

/* The key of this agent, which _hashing owns; each extension module that hashes has its own pointer to it. Nobody outside
 * knows it, so nobody can construct two texts that collide; and unlike the interpreter's it survives a restart. */
extern const uint64_t *hash_key;

/* Call it once, when the module is made. False with an exception set. */
static inline bool hashing_prepare(void)
{
    PyObject *module = PyImport_ImportModule("agent.native._hashing");
    PyObject *capsule = module != NULL ? PyObject_GetAttrString(module, "key") : NULL;
    hash_key = capsule != NULL ? PyCapsule_GetPointer(capsule, HASHING_KEY) : NULL; /* static there: it stays */
    Py_XDECREF(capsule);
    Py_XDECREF(module);
    return hash_key != NULL;
}

static inline uint64_t rotated(uint64_t value, int by) { return value << by | value >> (64 - by); }

#define SIP_ROUND(a, b, c, d) \
    do { \
        a += b; c += d; \
        b = rotated(b, 13) ^ a; d = rotated(d, 16) ^ c; \
        a = rotated(a, 32); \
        c += b; a += d; \
        b = rotated(b, 17) ^ c; d = rotated(d, 21) ^ a; \
        c = rotated(c, 32); \
    } while (0)

/* SipHash-1-3 (Aumasson and Bernstein), as the interpreter has it, under our key; of a little-endian machine. */
static inline uint64_t hash_text(const void *text, size_t length)
{
    const unsigned char *at = text;
    uint64_t a = hash_key[0] ^ 0x736F6D6570736575u, b = hash_key[1] ^ 0x646F72616E646F6Du;
    uint64_t c = hash_key[0] ^ 0x6C7967656E657261u, d = hash_key[1] ^ 0x7465646279746573u;
    uint64_t word, last = (uint64_t)length << 56;
    for (size_t left = length / 8; left > 0; left--, at += 8) {
        memcpy(&word, at, 8);
        d ^= word;
        SIP_ROUND(a, b, c, d);
        a ^= word;
    }
    size_t rest = length & 7;
    if (length > 7 && rest > 0) { /* the last eight bytes at once, without those that were taken: no loop to mispredict */
        memcpy(&word, at + rest - 8, 8);
        last |= word >> (64 - 8 * rest);
    } else {
        for (size_t i = 0; i < rest; i++)
            last |= (uint64_t)at[i] << (8 * i);
    }
    d ^= last;
    SIP_ROUND(a, b, c, d);
    a ^= last;
    c ^= 0xFF;
    SIP_ROUND(a, b, c, d);
    SIP_ROUND(a, b, c, d);
    SIP_ROUND(a, b, c, d);
    return a ^ b ^ c ^ d;
}

/* Ordered: (a, b) and (b, a) differ, and so do ("ab", "") and ("a", "b"), as each text is hashed for itself. */
static inline uint64_t hash_join(uint64_t seed, uint64_t next)
{
    uint64_t mixed = ((seed << 31 | seed >> 33) ^ next) * 0x9E3779B97F4A7C15u;
    return mixed ^ mixed >> 29;
}

#endif
