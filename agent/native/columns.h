/* Columns as Arrow lays them out, growing value by value, with a mark to go back to. Knows no text and no Python. */

#ifndef SBC_EDGE_COLUMNS_H
#define SBC_EDGE_COLUMNS_H

#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define MEMORY_LEAST 256 /* Arrow wants a place even for nothing */

typedef unsigned char byte;

/* ---- memory ----------------------------------------------------------------------------------------------------- */

typedef struct {
    byte *at;
    size_t used;
    size_t room;
} Memory;

static bool reserve(Memory *m, size_t more)
{
    if (m->room - m->used >= more) return true;
    size_t room = m->room ? m->room : MEMORY_LEAST;
    while (room - m->used < more) {
        if (room > SIZE_MAX / 2) return false;
        room *= 2;
    }
    byte *at = PyMem_RawRealloc(m->at, room);
    if (at == NULL) return false;
    m->at = at;
    m->room = room;
    return true;
}

static void release(Memory *m)
{
    PyMem_RawFree(m->at);
    *m = (Memory){0};
}

/* ---- columns ---------------------------------------------------------------------------------------------------- */

typedef enum { STRING, BOOLEAN, UNSIGNED, TIME, LIST, OBJECT } Kind;

static const char *const KINDS[] = {"string", "bool", "uint64", "time", "list", "struct"};
#define KIND_COUNT (sizeof(KINDS) / sizeof(KINDS[0]))

typedef struct Column {
    Kind kind;
    int64_t length;
    int64_t nulls;
    Memory valid;          /* a bit for each value; not there as long as there is no null */
    Memory values;         /* offsets of strings and lists (one more than values), bits, or numbers */
    Memory text;           /* of strings */
    struct Column *fields; /* of an object; of a list the only one */
    int count;
    byte *key;             /* "name": with its quotes and colon */
    size_t key_length;
    struct {
        int64_t length;
        int64_t nulls;
        size_t text;
    } mark; /* where the text that is being read began */
} Column;

static void column_release(Column *c)
{
    for (int i = 0; i < c->count; i++) column_release(&c->fields[i]);
    PyMem_RawFree(c->fields);
    PyMem_RawFree(c->key);
    release(&c->valid);
    release(&c->values);
    release(&c->text);
    *c = (Column){0};
}

static void column_mark(Column *c)
{
    c->mark.length = c->length;
    c->mark.nulls = c->nulls;
    c->mark.text = c->text.used;
    for (int i = 0; i < c->count; i++) column_mark(&c->fields[i]);
}

static size_t width(const Column *c)
{
    switch (c->kind) {
    case STRING:
    case LIST: return sizeof(int32_t);
    case UNSIGNED:
    case TIME: return sizeof(int64_t);
    default: return 0;
    }
}

/* The bytes of `values` for so many values. */
static size_t values_size(const Column *c, int64_t length)
{
    if (c->kind == BOOLEAN) return (size_t)(length + 7) / 8;
    bool offsets = c->kind == STRING || c->kind == LIST;
    return ((size_t)length + offsets) * width(c);
}

/* Forget what came after the mark. */
static void column_back(Column *c)
{
    c->length = c->mark.length;
    c->nulls = c->mark.nulls;
    c->text.used = c->mark.text;
    c->values.used = values_size(c, c->length);
    if (c->nulls)
        c->valid.used = (size_t)(c->length + 7) / 8;
    else
        release(&c->valid);
    for (int i = 0; i < c->count; i++) column_back(&c->fields[i]);
}

static void set_bit(byte *bits, int64_t i, bool value)
{
    byte *at = &bits[i / 8];
    byte bit = (byte)(1 << i % 8);
    if (i % 8 == 0) *at = value;
    else if (value) *at |= bit;
    else *at &= (byte)~bit;
}

static bool put_bit(Memory *m, int64_t i, bool value)
{
    size_t size = (size_t)i / 8 + 1;
    if (size > m->used) {
        if (!reserve(m, size - m->used)) return false;
        m->used = size;
    }
    set_bit(m->at, i, value);
    return true;
}

/* Say of the value that comes next whether it is one. */
static bool note(Column *c, bool valid)
{
    if (valid && c->valid.used == 0) return true;
    if (c->valid.used == 0 && c->length > 0) { /* the first null: all before it were values */
        size_t size = (size_t)(c->length + 7) / 8;
        if (!reserve(&c->valid, size)) return false;
        memset(c->valid.at, 0xFF, size);
        c->valid.used = size;
    }
    c->nulls += !valid;
    return put_bit(&c->valid, c->length, valid);
}

static bool put_offset(Column *c, int64_t offset)
{
    int32_t value = (int32_t)offset;
    if (!reserve(&c->values, sizeof value)) return false;
    memcpy(c->values.at + c->values.used, &value, sizeof value);
    c->values.used += sizeof value;
    return true;
}

static bool put_word(Column *c, uint64_t value)
{
    if (!reserve(&c->values, sizeof value)) return false;
    memcpy(c->values.at + c->values.used, &value, sizeof value);
    c->values.used += sizeof value;
    return true;
}

static bool put_null(Column *c)
{
    if (!note(c, false)) return false;
    bool put = true;
    switch (c->kind) {
    case STRING: put = put_offset(c, (int64_t)c->text.used); break;
    case LIST: put = put_offset(c, c->fields[0].length); break;
    case BOOLEAN: put = put_bit(&c->values, c->length, false); break;
    case UNSIGNED:
    case TIME: put = put_word(c, 0); break;
    case OBJECT:
        for (int i = 0; put && i < c->count; i++) put = put_null(&c->fields[i]);
        break;
    }
    c->length++;
    return put;
}

/* Empty: every buffer has a place, and offsets begin with 0. */
static bool column_begin(Column *c)
{
    c->length = c->nulls = 0;
    c->values.used = c->text.used = 0;
    release(&c->valid);
    if (c->kind != OBJECT && !reserve(&c->values, 1)) return false;
    if (c->kind == STRING && !reserve(&c->text, 1)) return false;
    if ((c->kind == STRING || c->kind == LIST) && !put_offset(c, 0)) return false;
    for (int i = 0; i < c->count; i++)
        if (!column_begin(&c->fields[i])) return false;
    return true;
}

#endif
