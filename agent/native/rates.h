/* What _rates lends to other compiled twins, by the capsule agent.native._rates.api. */

#ifndef SBC_EDGE_RATES_H
#define SBC_EDGE_RATES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#define RATES_API "agent.native._rates.api"

typedef struct {
    PyTypeObject *bank;
    /* RateBankPy.hit and .admit; each bank is one of that type. False with an exception set. */
    bool (*hit)(PyObject *bank, PyObject *const *keys, Py_ssize_t count, double now, uint64_t *over);
    void (*admit)(PyObject *bank, double now);
} RatesApi;

#endif
