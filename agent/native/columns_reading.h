/* Lines of JSON (RFC 8259) into columns, as far as they are plain; columns.c says what that is.
 *
 * Everything returns what became of it, and leaves half a row behind where that is not TAKEN: whoever began goes back
 * to the mark. Knows no object of Python. */

#ifndef SBC_EDGE_COLUMNS_READING_H
#define SBC_EDGE_COLUMNS_READING_H

#include <stddef.h>

#include "columns.h"

#define OFFSET_MAX INT32_MAX  /* of Arrow's lists and strings */
#define TIME_LENGTH 27        /* 2026-11-23T20:16:06.123456Z */
#define YEAR_FIRST 2          /* as in the reference: with any offset it is a year that Python has */
#define YEAR_LAST 9998
#define DAY_MICROSECONDS INT64_C(86400000000)

/* ---- values out of text ----------------------------------------------------------------------------------------- */

typedef enum { TAKEN, REFUSED, NO_MEMORY } Outcome;

typedef struct {
    const byte *at;
    const byte *end;
} Reader;

static inline bool is_next(const Reader *r, char wanted) { return r->at < r->end && *r->at == (byte)wanted; }

static inline bool skip(Reader *r, char wanted)
{
    if (!is_next(r, wanted)) return false;
    r->at++;
    return true;
}

static inline bool skip_word(Reader *r, const char *word, size_t length)
{
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, word, length) != 0) return false;
    r->at += length;
    return true;
}

#define EACH(byte_value) (UINT64_C(0x0101010101010101) * (byte_value))

/* Past all that stands for itself in a string: not a quote, a backslash, a control character, or beyond ASCII. */
static const byte *past_plain(const byte *at, const byte *end)
{
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        uint64_t quote = word ^ EACH('"'), slash = word ^ EACH('\\');
        uint64_t found = ((quote - EACH(1)) & ~quote) | ((slash - EACH(1)) & ~slash);
        found |= ((word - EACH(0x20)) & ~word) | word;
        if (found & EACH(0x80)) break;
        at += 8;
    }
    while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\') at++;
    return at;
}

static bool put_text(Memory *m, const byte *at, size_t length)
{
    if (!reserve(m, length)) return false;
    memcpy(m->at + m->used, at, length);
    m->used += length;
    return true;
}

/* The length of the character of UTF-8 that begins here (Unicode, table 3-7); 0 where none does. */
static int character(const byte *at, const byte *end)
{
    ptrdiff_t left = end - at;
    byte first = at[0];
    if (first >= 0xC2 && first <= 0xDF) return left >= 2 && (at[1] & 0xC0) == 0x80 ? 2 : 0;
    if ((first & 0xF0) == 0xE0) {
        if (left < 3 || (at[1] & 0xC0) != 0x80 || (at[2] & 0xC0) != 0x80) return 0;
        if ((first == 0xE0 && at[1] < 0xA0) || (first == 0xED && at[1] >= 0xA0)) return 0; /* overlong; a surrogate */
        return 3;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        if (left < 4 || (at[1] & 0xC0) != 0x80 || (at[2] & 0xC0) != 0x80 || (at[3] & 0xC0) != 0x80) return 0;
        if ((first == 0xF0 && at[1] < 0x90) || (first == 0xF4 && at[1] >= 0x90)) return 0;
        return 4;
    }
    return 0;
}

static int hex_digit(byte c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* What a backslash stands before (RFC 8259, 7). Halves of surrogate pairs are left to the reference. */
static Outcome put_escaped(Memory *m, Reader *r)
{
    static const char NAMES[] = "\"\\/bfnrt", VALUES[] = "\"\\/\b\f\n\r\t";
    if (r->at == r->end) return REFUSED;
    byte name = *r->at++;
    const char *found = name ? strchr(NAMES, name) : NULL;
    if (found != NULL) return put_text(m, (const byte *)&VALUES[found - NAMES], 1) ? TAKEN : NO_MEMORY;
    if (name != 'u' || r->end - r->at < 4) return REFUSED;
    uint32_t code = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(*r->at++);
        if (digit < 0) return REFUSED;
        code = code << 4 | (uint32_t)digit;
    }
    if (code >= 0xD800 && code <= 0xDFFF) return REFUSED;
    byte text[3];
    size_t length = 1;
    if (code < 0x80) {
        text[0] = (byte)code;
    } else if (code < 0x800) {
        text[0] = (byte)(0xC0 | code >> 6);
        text[1] = (byte)(0x80 | (code & 0x3F));
        length = 2;
    } else {
        text[0] = (byte)(0xE0 | code >> 12);
        text[1] = (byte)(0x80 | (code >> 6 & 0x3F));
        text[2] = (byte)(0x80 | (code & 0x3F));
        length = 3;
    }
    return put_text(m, text, length) ? TAKEN : NO_MEMORY;
}

static Outcome read_string(Column *c, Reader *r)
{
    if (!skip(r, '"')) return REFUSED;
    if (!note(c, true)) return NO_MEMORY;
    for (;;) {
        const byte *plain = past_plain(r->at, r->end);
        if (!put_text(&c->text, r->at, (size_t)(plain - r->at))) return NO_MEMORY;
        r->at = plain;
        if (plain == r->end || *plain < 0x20) return REFUSED;
        if (*plain == '"') break;
        if (*plain == '\\') {
            r->at++;
            Outcome outcome = put_escaped(&c->text, r);
            if (outcome != TAKEN) return outcome;
        } else {
            int length = character(plain, r->end);
            if (length == 0) return REFUSED;
            if (!put_text(&c->text, plain, (size_t)length)) return NO_MEMORY;
            r->at += length;
        }
    }
    r->at++;
    if (c->text.used > OFFSET_MAX) return REFUSED;
    c->length++;
    return put_offset(c, (int64_t)c->text.used) ? TAKEN : NO_MEMORY;
}

static Outcome read_boolean(Column *c, Reader *r)
{
    bool value = skip_word(r, "true", 4);
    if (!value && !skip_word(r, "false", 5)) return REFUSED;
    if (!note(c, true) || !put_bit(&c->values, c->length, value)) return NO_MEMORY;
    c->length++;
    return TAKEN;
}

static Outcome read_unsigned(Column *c, Reader *r)
{
    const byte *start = r->at;
    uint64_t value = 0;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++) {
        unsigned digit = *r->at - '0';
        if (value > (UINT64_MAX - digit) / 10) return REFUSED;
        value = value * 10 + digit;
    }
    /* A fraction or an exponent is met by whoever looks for what follows the value. */
    if (r->at == start || (*start == '0' && r->at - start > 1)) return REFUSED;
    if (!note(c, true) || !put_word(c, value)) return NO_MEMORY;
    c->length++;
    return TAKEN;
}

/* `count` digits as a number; -1 where they are none. */
static int digits(const byte *at, int count)
{
    int value = 0;
    for (int i = 0; i < count; i++) {
        if (at[i] < '0' || at[i] > '9') return -1;
        value = value * 10 + (at[i] - '0');
    }
    return value;
}

static bool is_leap(int year) { return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0); }

/* Days from 1970-01-01, in the calendar that Python has, too. */
static int64_t days(int year, int month, int day)
{
    static const int BEFORE[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t past = year - 1;
    int64_t whole = past * 365 + past / 4 - past / 100 + past / 400;
    return whole + BEFORE[month - 1] + (month > 2 && is_leap(year)) + day - 1 - 719162;
}

static Outcome read_time(Column *c, Reader *r)
{
    static const int LENGTH[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (r->end - r->at < TIME_LENGTH + 2 || r->at[0] != '"' || r->at[TIME_LENGTH + 1] != '"') return REFUSED;
    const byte *t = r->at + 1;
    if (t[4] != '-' || t[7] != '-' || t[10] != 'T' || t[13] != ':' || t[16] != ':' || t[19] != '.' || t[26] != 'Z')
        return REFUSED;
    int year = digits(t, 4), month = digits(t + 5, 2), day = digits(t + 8, 2);
    int hour = digits(t + 11, 2), minute = digits(t + 14, 2), second = digits(t + 17, 2), micro = digits(t + 20, 6);
    if (year < YEAR_FIRST || year > YEAR_LAST || month < 1 || month > 12 || day < 1) return REFUSED;
    if (day > LENGTH[month - 1] + (month == 2 && is_leap(year))) return REFUSED;
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 || micro < 0) return REFUSED;
    int64_t seconds = (hour * 60 + minute) * 60 + second;
    int64_t value = days(year, month, day) * DAY_MICROSECONDS + seconds * INT64_C(1000000) + micro;
    r->at += TIME_LENGTH + 2;
    if (!note(c, true) || !put_word(c, (uint64_t)value)) return NO_MEMORY;
    c->length++;
    return TAKEN;
}

static Outcome read_value(Column *c, Reader *r, bool nullable);

static Outcome read_list(Column *c, Reader *r)
{
    if (!skip(r, '[')) return REFUSED;
    if (!note(c, true)) return NO_MEMORY;
    if (!skip(r, ']')) {
        do {
            Outcome outcome = read_value(&c->fields[0], r, false);
            if (outcome != TAKEN) return outcome;
        } while (skip(r, ','));
        if (!skip(r, ']')) return REFUSED;
    }
    if (c->fields[0].length > OFFSET_MAX) return REFUSED;
    c->length++;
    return put_offset(c, c->fields[0].length) ? TAKEN : NO_MEMORY;
}

/* The field whose key comes next; mostly that is the one behind the last. -1: none. */
static int read_key(const Column *c, Reader *r, int likely)
{
    for (int n = 0; n < c->count; n++) {
        int i = likely + n < c->count ? likely + n : likely + n - c->count;
        if (skip_word(r, (const char *)c->fields[i].key, c->fields[i].key_length)) return i;
    }
    return -1;
}

static Outcome read_object(Column *c, Reader *r)
{
    if (!skip(r, '{')) return REFUSED;
    if (!note(c, true)) return NO_MEMORY;
    uint64_t there = 0;
    if (!skip(r, '}')) {
        int i = -1;
        do {
            i = read_key(c, r, i + 1 < c->count ? i + 1 : 0);
            if (i < 0 || there & UINT64_C(1) << i) return REFUSED;
            there |= UINT64_C(1) << i;
            Outcome outcome = read_value(&c->fields[i], r, true);
            if (outcome != TAKEN) return outcome;
        } while (skip(r, ','));
        if (!skip(r, '}')) return REFUSED;
    }
    for (int i = 0; i < c->count; i++)
        if (!(there & UINT64_C(1) << i) && !put_null(&c->fields[i])) return NO_MEMORY;
    c->length++;
    return TAKEN;
}

static Outcome read_value(Column *c, Reader *r, bool nullable)
{
    if (is_next(r, 'n')) {
        if (!nullable || !skip_word(r, "null", 4)) return REFUSED;
        return put_null(c) ? TAKEN : NO_MEMORY;
    }
    switch (c->kind) {
    case STRING: return read_string(c, r);
    case BOOLEAN: return read_boolean(c, r);
    case UNSIGNED: return read_unsigned(c, r);
    case TIME: return read_time(c, r);
    case LIST: return read_list(c, r);
    case OBJECT: return read_object(c, r);
    }
    return REFUSED;
}

/* `count` lines, each one object whose first field has a value: a row without a time is for the reference to date. */
static Outcome read_lines(Column *root, const byte *text, size_t length, int64_t count)
{
    Reader r = {text, text + length};
    for (int64_t n = 0; n < count; n++) {
        if (n > 0 && !skip(&r, '\n')) return REFUSED;
        int64_t nulls = root->fields[0].nulls;
        Outcome outcome = read_object(root, &r);
        if (outcome != TAKEN) return outcome;
        if (root->fields[0].nulls != nulls) return REFUSED;
    }
    return r.at == r.end ? TAKEN : REFUSED;
}

#endif
