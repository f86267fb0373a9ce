/* The look-up of agent.numbers.index.NumberIndexPy: is this ten-digit number in there, and where? The type is in numbers.c.
 *
 * The arrays may lie in a mapped file, and the file may be damaged: they are checked when the index is made, and
 * no look-up reads outside them even if somebody overwrites the file later. */

#ifndef SBC_EDGE_NUMBER_INDEX_H
#define SBC_EDGE_NUMBER_INDEX_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

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

/* The position of a single number, INDEX_IN_BLOCK or INDEX_ABSENT. The index is not released. */
static inline Py_ssize_t index_search(const Index *self, long long national)
{
    if (national < 0 || national >= NUMBERS) return INDEX_ABSENT;
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

/* The same for other twins; what was released cannot say that a number is not there. */
static inline Py_ssize_t index_place(const Index *self, long long national)
{
    return self->released ? INDEX_IN_BLOCK : index_search(self, national);
}

#endif
