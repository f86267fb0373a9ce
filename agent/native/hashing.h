/* Hashes of what comes off the wire: texts are remembered by them, at a third of the memory. */

#ifndef SBC_EDGE_HASHING_H
#define SBC_EDGE_HASHING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#if PY_VERSION_HEX >= 0x030E0000
#define HASH_BYTES Py_HashBuffer
#else
#define HASH_BYTES _Py_HashBytes
#endif

/* SipHash of the interpreter, with the key of this process: nobody outside can construct two texts that collide. */
static inline uint64_t hash_text(const void *at, size_t length) { return (uint64_t)HASH_BYTES(at, (Py_ssize_t)length); }

/* Ordered: (a, b) and (b, a) differ, and so do ("ab", "") and ("a", "b"), as each text is hashed for itself. */
static inline uint64_t hash_join(uint64_t seed, uint64_t next)
{
    uint64_t mixed = ((seed << 31 | seed >> 33) ^ next) * 0x9E3779B97F4A7C15u;
    return mixed ^ mixed >> 29;
}

#endif
