/* Reading SIP text in place: start lines, rows, quoted strings, addresses, parameters.
 *
 * Plain C without Python. Everything works on [at, end) of memory that the caller keeps, reads no byte outside of it,
 * allocates nothing and takes time proportional to its length. The rules are those of agent/sip/scan.py, which is the
 * reference: a change here is a change there, and tests/native/test_scan.py compares the two.
 *
 * "Space" is SP, HTAB, and the CR and LF of a fold: values are read with their folds in place (RFC 3261 25.1, LWS).
 */

#ifndef SBC_EDGE_SIP_TEXT_H
#define SBC_EDGE_SIP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef unsigned char byte;

typedef struct {
    const byte *at;
    const byte *end;
} Text;

static inline bool is_blank(byte c) { return c == ' ' || c == '\t'; }
static inline bool is_space(byte c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
static inline bool is_digit(byte c) { return c >= '0' && c <= '9'; }

/* What Python's \S does not match in bytes: a Request-URI ends there. */
static inline bool is_white(byte c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* RFC 3261 25.1: token = 1*(alphanum / "-" / "." / "!" / "%" / "*" / "_" / "+" / "`" / "'" / "~" ) */
static inline bool is_token(byte c)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c))
        return true;
    switch (c) {
    case '-': case '.': case '!': case '%': case '*': case '_': case '+': case '`': case '\'': case '~':
        return true;
    default:
        return false;
    }
}

/* Whether the `length` bytes at `at` spell `word`, which is written in lower case; ASCII letters only are folded. */
static inline bool same_word(const byte *at, const char *word, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        byte expected = (byte)word[i];
        byte c = at[i];
        if (c != expected && !(expected >= 'a' && expected <= 'z' && (byte)(c | 0x20) == expected))
            return false;
    }
    return true;
}

static inline const byte *find(const byte *at, const byte *end, byte c)
{
    return at < end ? memchr(at, c, (size_t)(end - at)) : NULL;
}

static inline Text trimmed(Text text)
{
    while (text.at < text.end && is_space(*text.at))
        text.at++;
    while (text.end > text.at && is_space(text.end[-1]))
        text.end--;
    return text;
}

/* ---- start line -------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *reason; /* NULL: the line is good */
    const byte *at;
} Fault;

static const Fault NO_FAULT = {NULL, NULL};

/* Status-Line = SIP-Version SP Status-Code SP Reason-Phrase; the last two may be missing (RFC 3261 7.2). */
static inline Fault read_status_line(const byte *at, const byte *end, unsigned *status)
{
    size_t length = (size_t)(end - at);
    if (length < 7 || memcmp(at + 4, "2.0", 3) != 0 || (length > 7 && at[7] != ' '))
        return (Fault){"version is not SIP/2.0", at + 4};
    const byte *code = length < 8 ? end : at + 8;
    bool digits = length >= 11 && is_digit(code[0]) && is_digit(code[1]) && is_digit(code[2]);
    if (!digits || (length > 11 && code[3] != ' '))
        return (Fault){"status code is not three digits", code};
    if (code[0] < '1' || code[0] > '6')
        return (Fault){"status code is not within 100..699", code};
    *status = (unsigned)((code[0] - '0') * 100 + (code[1] - '0') * 10 + (code[2] - '0'));
    return NO_FAULT;
}

/* What stands after the Request-URI is not " SIP/2.0": say why. `at` is the first byte after the URI. */
static inline Fault refused_version(const byte *at, const byte *end)
{
    if (at == end || *at != ' ')
        return (Fault){"no space and SIP version after the Request-URI", at};
    const byte *version = at + 1;
    if (end - version >= 7 && same_word(version, "sip/2.0", 7)) {
        const byte *rest = version + 7;
        while (rest < end && is_blank(*rest))
            rest++;
        if (rest == end)
            return (Fault){"whitespace after the SIP version", version + 7};
    }
    if (version == end || find(version, end, ' ') != NULL)
        return (Fault){"whitespace in the Request-URI", at};
    return (Fault){"version is not SIP/2.0", version};
}

/* Request-Line = Method SP Request-URI SP SIP-Version, each SP exactly one (RFC 3261 7.1). */
static inline Fault read_request_line(const byte *at, const byte *end, Text *method, Text *uri)
{
    method->at = at;
    while (at < end && is_token(*at))
        at++;
    method->end = at;
    if (at == method->at || at == end || *at != ' ')
        return (Fault){"method is not a token followed by one space", at};
    uri->at = ++at;
    while (at < end && !is_white(*at))
        at++;
    uri->end = at;
    if (at == uri->at)
        return (Fault){"no Request-URI after one space", at};
    if (*uri->at == '<')
        return (Fault){"Request-URI is enclosed in angle brackets", uri->at};
    if (end - at != 8 || *at != ' ' || !same_word(at + 1, "sip/2.0", 7))
        return refused_version(at, end);
    return NO_FAULT;
}

/* ---- rows ------------------------------------------------------------------------------------------------------ */

/* The headers that screening reads. Up to CONTENT_LENGTH the first row counts, from IDENTITY on every row does. */
typedef enum {
    VIA, CALL_ID, FROM, TO, CSEQ, CONTENT_LENGTH,
    IDENTITY, ASSERTED, DIVERSION, PRIVACY, PRIORITY, RESOURCE_PRIORITY,
    KINDS,         /* how many there are */
    OTHER = KINDS, /* a row that nobody asked for, a line without a colon, a continuation of the start line */
    NO_ROW,        /* the blank line, or the end of the message */
} Kind;

/* The colon after `name`, or NULL if the line does not start with that name. HCOLON = *( SP / HTAB ) ":" SWS */
static inline const byte *colon_after(const byte *at, const byte *end, const char *name, size_t length)
{
    if ((size_t)(end - at) <= length || !same_word(at, name, length))
        return NULL;
    at += length;
    while (at < end && is_blank(*at))
        at++;
    return at < end && *at == ':' ? at : NULL;
}

#define TRY(name, kind)                                              \
    do {                                                             \
        *colon = colon_after(at, end, "" name, sizeof(name) - 1);    \
        if (*colon != NULL)                                          \
            return (kind);                                           \
    } while (0)

/* Which header the line [at, end) starts, and where its colon is; compact forms: RFC 3261 7.3.3, RFC 8224 4. */
static inline Kind kind_of(const byte *at, const byte *end, const byte **colon)
{
    if (at == end)
        return OTHER;
    switch (*at | 0x20) {
    case 'v':
        TRY("via", VIA);
        TRY("v", VIA);
        break;
    case 'f':
        TRY("from", FROM);
        TRY("f", FROM);
        break;
    case 't':
        TRY("to", TO);
        TRY("t", TO);
        break;
    case 'i':
        TRY("identity", IDENTITY);
        TRY("i", CALL_ID);
        break;
    case 'y':
        TRY("y", IDENTITY);
        break;
    case 'c':
        TRY("call-id", CALL_ID);
        TRY("cseq", CSEQ);
        TRY("content-length", CONTENT_LENGTH);
        break;
    case 'l':
        TRY("l", CONTENT_LENGTH);
        break;
    case 'p':
        TRY("p-asserted-identity", ASSERTED);
        TRY("privacy", PRIVACY);
        TRY("priority", PRIORITY);
        break;
    case 'd':
        TRY("diversion", DIVERSION);
        break;
    case 'r':
        TRY("resource-priority", RESOURCE_PRIORITY);
        break;
    default:
        break;
    }
    return OTHER;
}

#undef TRY

/* Read the row at `*cursor`, which is the start of a line, with its folds, and move to the line after it.
 * `value` is what stands between the colon and the line feed; it is set unless the row is OTHER or NO_ROW. */
static inline Kind next_row(const byte **cursor, const byte *end, Text *value)
{
    const byte *at = *cursor;
    if (at >= end)
        return NO_ROW;
    const byte *feed = find(at, end, '\n');
    const byte *stop = feed != NULL ? feed : end;
    if (feed != NULL && (feed == at || (feed == at + 1 && *at == '\r'))) {
        *cursor = feed + 1;
        return NO_ROW;
    }
    const byte *colon = NULL;
    Kind kind = kind_of(at, stop, &colon);
    while (feed != NULL && feed + 1 < end && is_blank(feed[1])) {
        feed = find(feed + 1, end, '\n');
        stop = feed != NULL ? feed : end;
    }
    *cursor = feed != NULL ? feed + 1 : end;
    if (kind != OTHER) {
        value->at = colon + 1;
        value->end = stop;
    }
    return kind;
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

/* Past the quoted string that opens at `at`; `end` and *open if it is never closed. A quoted pair hides the quote. */
static inline const byte *after_quoted(const byte *at, const byte *end, bool *open)
{
    for (at++; at < end; at++) {
        if (*at == '"')
            return at + 1;
        if (*at == '\\' && at + 1 < end)
            at++;
    }
    *open = true;
    return end;
}

/* The next `separator` that is not within a quoted string, or `end`. An open quote hides the rest: reading on
 * inside it would let the sender choose what we see. */
static inline const byte *next_separator(const byte *at, const byte *end, byte separator)
{
    bool open = false;
    while (at < end && *at != separator)
        at = *at == '"' ? after_quoted(at, end, &open) : at + 1;
    return at;
}

/* The next comma that is neither within a quoted string nor within angle brackets, or `end`. */
static inline const byte *next_comma(const byte *at, const byte *end)
{
    bool open = false;
    while (at < end && *at != ',') {
        if (*at == '"') {
            at = after_quoted(at, end, &open);
        } else if (*at == '<') {
            const byte *close = find(at, end, '>');
            at = close != NULL ? close + 1 : end;
        } else {
            at++;
        }
    }
    return at;
}

/* A name-addr or addr-spec: the addr-spec without brackets, and what follows it from the first ";" on. Both are
 * empty where a quote or a bracket is never closed. */
static inline void read_address(Text value, Text *uri, Text *parameters)
{
    value = trimmed(value);
    const byte *at = value.at;
    bool open = false;
    uri->at = uri->end = parameters->at = parameters->end = value.end;
    while (at < value.end && *at != '<' && *at != ';')
        at = *at == '"' ? after_quoted(at, value.end, &open) : at + 1;
    if (open)
        return;
    if (at < value.end && *at == '<') {
        const byte *close = find(at, value.end, '>');
        if (close == NULL)
            return;
        *uri = trimmed((Text){at + 1, close});
        parameters->at = next_separator(close + 1, value.end, ';');
        return;
    }
    if (value.at == value.end || *value.at == '"')
        return;
    parameters->at = at;
    /* RFC 3261 20: without brackets, what follows ";" is a parameter of the header, not of the URI. */
    uri->at = uri->end = value.at;
    while (uri->end < at && !is_space(*uri->end))
        uri->end++;
}

/* The value of the first parameter of that name in ";a=1;b", empty if there is none or it has no value. */
static inline Text parameter(Text text, const char *name, size_t length)
{
    const byte *at = text.at;
    while (at < text.end) {
        const byte *stop = next_separator(at + 1, text.end, ';');
        const byte *equals = find(at + 1, stop, '=');
        Text key = trimmed((Text){at + 1, equals != NULL ? equals : stop});
        if ((size_t)(key.end - key.at) == length && same_word(key.at, name, length)) {
            if (equals == NULL)
                break;
            return trimmed((Text){equals + 1, stop});
        }
        at = stop;
    }
    return (Text){text.end, text.end};
}

/* The topmost Via value: sent-by as sent (spaces around its colon are still there) and the parameters. */
static inline void read_via(Text row, Text *sent_by, Text *parameters)
{
    const byte *end = next_separator(row.at, row.end, ',');
    const byte *stop = next_separator(row.at, end, ';');
    *parameters = (Text){stop, end};
    *sent_by = (Text){stop, stop};
    /* sent-protocol = protocol-name SLASH protocol-version SLASH transport, each SLASH = SWS "/" SWS */
    const byte *slash = find(row.at, stop, '/');
    slash = slash != NULL ? find(slash + 1, stop, '/') : NULL;
    if (slash == NULL)
        return;
    Text rest = trimmed((Text){slash + 1, stop});
    while (rest.at < rest.end && !is_space(*rest.at))
        rest.at++;
    *sent_by = trimmed(rest);
}

/* 1*DIGIT at the start of [at, end): moves `at` past it, gives the number or `most` if that is smaller. */
static inline unsigned long long read_digits(const byte **at, const byte *end, unsigned long long most)
{
    unsigned long long number = 0;
    for (; *at < end && is_digit(**at); ++*at) {
        unsigned digit = (unsigned)(**at - '0');
        number = number > (most - digit) / 10 ? most : number * 10 + digit;
    }
    return number;
}

/* CSeq = 1*DIGIT LWS Method: whether the value has that form. A greater number than `most` gives 0. */
static inline bool read_cseq(Text value, unsigned long long most, unsigned long long *number, Text *method)
{
    value = trimmed(value);
    const byte *at = value.at;
    unsigned long long read = read_digits(&at, value.end, most + 1);
    if (at == value.at || at == value.end || !is_space(*at))
        return false;
    while (at < value.end && is_space(*at))
        at++;
    *method = (Text){at, value.end};
    while (at < value.end && is_token(*at))
        at++;
    *number = read <= most ? read : 0;
    return at == value.end;
}

/* Copy `text` to `out` with each fold as one SP: *WSP [CR] LF 1*WSP. Returns the length, at most that of `text`. */
static inline size_t copy_unfolded(Text text, byte *out)
{
    size_t length = 0, floor = 0;
    while (text.at < text.end) {
        byte c = *text.at++;
        if (c != '\n') {
            out[length++] = c;
            continue;
        }
        if (length > floor && out[length - 1] == '\r')
            length--;
        while (length > floor && is_blank(out[length - 1]))
            length--;
        while (text.at < text.end && is_blank(*text.at))
            text.at++;
        out[length++] = ' ';
        floor = length;
    }
    return length;
}

#endif
