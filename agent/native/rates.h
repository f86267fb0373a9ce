/* What _rates lends to other compiled twins, by the capsule agent.native._rates.api. */

#ifndef SBC_EDGE_RATES_H
#define SBC_EDGE_RATES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#include "hashing.h"

#define RATES_API "agent.native._rates.api"

/* What a key is counted by: a hash of its text, 0 for no text, for which a limit does not apply. */
static inline uint64_t rate_key(const void *text, size_t length)
{
    uint64_t hash = length > 0 ? hash_text(text, length) : 0;
    return hash == 0 && length > 0 ? 1 : hash;
}

typedef struct {
    PyTypeObject *bank;
    /* Have the memory come that a later hit will read. */
    void (*expect)(PyObject *bank, const uint64_t *keys, Py_ssize_t count);
    /* RateBankPy.hit and .admit; each bank is one of that type. False with an exception set. */
    bool (*hit)(PyObject *bank, const uint64_t *keys, Py_ssize_t count, double now, uint64_t *over);
    void (*admit)(PyObject *bank, double now);
} RatesApi;

#endif
