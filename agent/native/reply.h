/* The bytes of an answer: what build_reply_py in agent/sip/answers.py makes, for the plain forms. Plain C.
 *
 * Plain is: every copied header is there, the first Via has no quote, angle bracket or fold, To has no fold. Whatever
 * is not is refused here, for the Python reference to answer.
 */

#ifndef SBC_EDGE_REPLY_H
#define SBC_EDGE_REPLY_H

#include "rows.h"

#define DEFAULT_PORT 5060 /* RFC 3261 18.2.2: where sent-by names no port */

typedef struct {
    byte *at;
} Out;

static inline void put(Out *out, const void *data, size_t length)
{
    memcpy(out->at, data, length);
    out->at += length;
}

static inline void put_text(Out *out, Text text) { put(out, text.at, (size_t)(text.end - text.at)); }

#define PUT(out, literal) put((out), "" literal, sizeof(literal) - 1)

static inline void put_number(Out *out, unsigned number)
{
    byte digits[10];
    size_t count = 0;
    do {
        digits[sizeof(digits) - ++count] = (byte)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    put(out, digits + sizeof(digits) - count, count);
}

/* A row as received, ending in CRLF; the line feeds of its folds become CRLF too. At most twice its length plus 2. */
static inline void put_row(Out *out, Text row)
{
    if (row.end > row.at && row.end[-1] == '\r')
        row.end--;
    const byte *feed;
    while ((feed = find(row.at, row.end, '\n')) != NULL) {
        bool bare = feed == row.at || feed[-1] != '\r';
        put_text(out, (Text){row.at, feed});
        if (bare)
            PUT(out, "\r\n");
        else
            PUT(out, "\n");
        row.at = feed + 1;
    }
    put_text(out, row);
    PUT(out, "\r\n");
}

/* ---- Via ------------------------------------------------------------------------------------------------------- */

/* What is before "=" in a parameter, without space around it. */
static inline Text parameter_name(Text piece)
{
    const byte *equals = find(piece.at, piece.end, '=');
    return trimmed((Text){piece.at, equals != NULL ? equals : piece.end});
}

static inline bool is_named(Text name, const char *word, size_t length)
{
    return (size_t)(name.end - name.at) == length && same_word(name.at, word, length);
}

/* The port that sent-by names, DEFAULT_PORT where it names none that can be. */
static inline unsigned sent_by_port(Text value)
{
    Text sent_by, parameters;
    read_via(value, &sent_by, &parameters);
    const byte *at = sent_by.end;
    while (at > sent_by.at && at[-1] != ':' && at[-1] != ']')
        at--;
    if (at == sent_by.at || at[-1] == ']')
        return DEFAULT_PORT;
    for (const byte *other = at - 1; other > sent_by.at && other[-1] != ']'; other--) {
        if (other[-1] == ':') /* IPv6 without brackets names no port that can be told */
            return DEFAULT_PORT;
    }
    Text digits = trimmed((Text){at, sent_by.end});
    const byte *cursor = digits.at;
    unsigned long long port = read_digits(&cursor, digits.end, 65536);
    return cursor == digits.at || cursor != digits.end || port == 0 || port > 65535 ? DEFAULT_PORT : (unsigned)port;
}

/* The first Via row with `received` and, if it asks for one, a value for `rport` (RFC 3261 18.2.1, RFC 3581 4).
 * `value` begins behind the colon. The port that the answer goes to, or 0 if the row is not plain. */
static inline unsigned put_first_via(Out *out, Text row, Text value, Text host, unsigned port)
{
    for (const byte *at = value.at; at < value.end; at++) {
        if (*at == '"' || *at == '<' || *at == '\n')
            return 0;
    }
    const byte *comma = find(value.at, value.end, ',');
    Text element = {value.at, comma != NULL ? comma : value.end};
    while (element.end > element.at && is_space(element.end[-1]))
        element.end--;
    put_text(out, (Text){row.at, value.at});
    PUT(out, " ");
    bool asked = false, first = true;
    const byte *at = element.at;
    for (;;) {
        const byte *stop = find(at, element.end, ';');
        Text piece = trimmed((Text){at, stop != NULL ? stop : element.end});
        Text name = parameter_name(piece);
        bool rport = !first && is_named(name, "rport", 5);
        asked = asked || rport;
        if (first) {
            put_text(out, piece);
        } else if (!rport && !is_named(name, "received", 8)) {
            PUT(out, ";");
            put_text(out, piece);
        }
        first = false;
        if (stop == NULL)
            break;
        at = stop + 1;
    }
    PUT(out, ";received=");
    put_text(out, host);
    if (asked) {
        PUT(out, ";rport=");
        put_number(out, port);
    }
    if (comma != NULL)
        put_row(out, (Text){comma, value.end});
    else
        PUT(out, "\r\n");
    return asked ? port : sent_by_port(value);
}

/* ---- To -------------------------------------------------------------------------------------------------------- */

static inline bool has_tag(Text value)
{
    Text uri, parameters;
    read_address(value, &uri, &parameters);
    const byte *at = parameters.at;
    while (at < parameters.end) {
        const byte *stop = next_separator(at + 1, parameters.end, ';');
        if (is_named(parameter_name((Text){at + 1, stop}), "tag", 3))
            return true;
        at = stop;
    }
    return false;
}

static inline void put_to(Out *out, Text row, Text value, Text tag)
{
    if (has_tag(value)) {
        put_row(out, row);
        return;
    }
    while (row.end > row.at && is_space(row.end[-1]))
        row.end--;
    put_text(out, row);
    PUT(out, ";tag=");
    put_text(out, tag);
    PUT(out, "\r\n");
}

/* ---- the answer ------------------------------------------------------------------------------------------------ */

typedef struct {
    Text status_line, rows, tag, host; /* host.at == NULL: the source is not known */
    unsigned port;
} Wanted;

/* Bytes that an answer has at most. Rows are copied once each, and at worst every byte of them is a line feed that
 * becomes two. */
static inline size_t reply_room(size_t request, const Wanted *it)
{
    return 2 * request + (size_t)(it->status_line.end - it->status_line.at) + (size_t)(it->rows.end - it->rows.at) +
           (size_t)(it->tag.end - it->tag.at) + (size_t)(it->host.end - it->host.at) + 128;
}

/* Every Via row; the port that the answer goes to, or 0 if the first is not plain. */
static inline unsigned put_vias(Out *out, const Rows *rows, const Wanted *it)
{
    unsigned port = DEFAULT_PORT;
    Text row = rows->line[VIA], value = rows->value[VIA];
    if (it->host.at == NULL)
        put_row(out, row);
    else if ((port = put_first_via(out, row, value, it->host, it->port)) == 0)
        return 0;
    for (unsigned left = rows->count[VIA] - 1; left > 0 && next_of_kind(rows, VIA, &row, &value); left--)
        put_row(out, row);
    return port;
}

/* Write the answer to `out`, which has reply_room; the port that it goes to, or 0 if the request is not plain. */
static inline unsigned write_answer(Out *out, const Rows *rows, const Wanted *it)
{
    for (int kind = VIA; kind <= CSEQ; kind++) {
        if (rows->count[kind] == 0)
            return 0;
    }
    if (find(rows->line[TO].at, rows->line[TO].end, '\n') != NULL)
        return 0;
    put_text(out, it->status_line);
    unsigned port = put_vias(out, rows, it);
    if (port == 0)
        return 0;
    put_row(out, rows->line[FROM]);
    put_to(out, rows->line[TO], rows->value[TO], it->tag);
    put_row(out, rows->line[CALL_ID]);
    put_row(out, rows->line[CSEQ]);
    put_text(out, it->rows);
    PUT(out, "Content-Length: 0\r\n\r\n");
    return port;
}

#endif
