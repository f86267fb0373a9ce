/* The rows of one SIP message that screening and answers need, found in one pass. Plain C without Python.
 *
 * Knows where things stand, not what they say: reading a value is for sip_text.h. Everything points into the message,
 * which the caller keeps.
 */

#ifndef SBC_EDGE_ROWS_H
#define SBC_EDGE_ROWS_H

#include "sip_text.h"

typedef struct {
    const byte *end;       /* of the message */
    const byte *body;      /* behind the blank line */
    unsigned count[KINDS]; /* of rows of each kind; where it is 0, the others say nothing */
    Text line[KINDS];      /* the first row with its name, without its last line feed */
    Text value[KINDS];     /* its value, behind the colon */
} Rows;

/* `at` is where the first header row starts. */
static inline void read_all_rows(const byte *at, const byte *end, Rows *rows)
{
    Text value = {at, at};
    memset(rows->count, 0, sizeof(rows->count));
    for (;;) {
        const byte *line = at;
        Kind kind = next_row(&at, end, &value);
        if (kind == NO_ROW)
            break;
        if (kind == OTHER)
            continue;
        if (rows->count[kind]++ == 0) {
            rows->line[kind] = (Text){line, value.end};
            rows->value[kind] = value;
        }
    }
    rows->end = end;
    rows->body = at;
}

/* The next row of this kind behind the one that ends at `row->end`; false if there is none. `row` has its name. */
static inline bool next_of_kind(const Rows *rows, Kind wanted, Text *row, Text *value)
{
    const byte *at = row->end < rows->end ? row->end + 1 : rows->end;
    for (;;) {
        const byte *line = at;
        Kind kind = next_row(&at, rows->end, value);
        if (kind == NO_ROW)
            return false;
        if (kind == wanted) {
            *row = (Text){line, value->end};
            return true;
        }
    }
}

#endif
