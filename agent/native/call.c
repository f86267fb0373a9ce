/* Reading one plain INVITE: who calls whom, and what identifies the attempt. Knows no policy and makes no objects.
 *
 * The same rules as agent/screening.py (attempt_of) over the fields of agent/sip/scan.py. Whatever is not plain is left to
 * Python, before anything was counted.
 */

#include "gate.h"

#define MAX_MESSAGE 65535 /* agent/sip/scan.py */
#define MAX_CSEQ 4294967295ULL

static bool folded(Text text) { return find(text.at, text.end, '\n') != NULL; }

static bool read_start(Text message, Text *uri, const byte **headers)
{
    const byte *feed = find(message.at, message.end, '\n');
    if (message.end - message.at > MAX_MESSAGE || feed == NULL)
        return false;
    const byte *stop = feed > message.at && feed[-1] == '\r' ? feed - 1 : feed;
    Text method;
    *headers = feed + 1;
    if (stop == message.at || read_request_line(message.at, stop, &method, uri).reason != NULL)
        return false;
    return method.end - method.at == 6 && memcmp(method.at, "INVITE", 6) == 0;
}

/* Call-ID, From tag, topmost Via and CSeq (RFC 3261 17.2.3), and that there is no To tag. */
static bool read_identifiers(Call *call)
{
    const Rows *rows = &call->rows;
    Text uri, parameters;
    for (int kind = VIA; kind <= CSEQ; kind++) {
        if (rows->count[kind] == 0 || folded(rows->line[kind]))
            return false;
    }
    read_address(rows->value[TO], &uri, &parameters);
    Text tag = parameter(parameters, "tag", 3);
    if (tag.at != tag.end)
        return false;
    call->call_id = trimmed(rows->value[CALL_ID]);
    read_address(rows->value[FROM], &call->from_uri, &parameters);
    call->from_tag = parameter(parameters, "tag", 3);
    read_via(rows->value[VIA], &call->sent_by, &parameters);
    call->branch = parameter(parameters, "branch", 6);
    for (const byte *at = call->sent_by.at; at < call->sent_by.end; at++) {
        if (is_space(*at))
            return false;
    }
    Text method;
    return read_cseq(rows->value[CSEQ], MAX_CSEQ, &call->cseq, &method);
}

static Reading read_number(Text uri, Span country)
{
    return read_uri((Span){(const char *)uri.at, uri.end - uri.at}, country);
}

static bool same_number(const Reading *one, const Reading *other)
{
    return one->kind == other->kind && one->length == other->length && one->national == other->national &&
           memcmp(one->digits, other->digits, one->length) == 0;
}

static bool same_text(Text one, Text other)
{
    return one.end - one.at == other.end - other.at && memcmp(one.at, other.at, (size_t)(one.end - one.at)) == 0;
}

/* The calling number of a trunk that is trusted to assert it: the first number of at most two asserted identities, one
 * per row (RFC 3325 9.1: one sip, one tel). False where they are not plain. */
static bool read_asserted(Call *call, Span country)
{
    const Rows *rows = &call->rows;
    Text row = rows->line[ASSERTED], value = rows->value[ASSERTED], uri, parameters;
    bool first = true;
    if (rows->count[ASSERTED] > 2)
        return false;
    for (unsigned left = rows->count[ASSERTED]; left > 0; left--) {
        if (folded(value) || next_comma(value.at, value.end) != value.end)
            return false;
        read_address(value, &uri, &parameters);
        if (uri.at < uri.end) {
            if (first && same_text(uri, call->from_uri))
                return true;
            first = false;
            Reading number = read_number(uri, country);
            if (number.length > 0) {
                if (!same_number(&number, &call->calling)) {
                    call->other = call->calling;
                    call->calling = number;
                }
                return true;
            }
        }
        if (left > 1 && !next_of_kind(rows, ASSERTED, &row, &value))
            return false;
    }
    return true;
}

bool read_call(Text message, const char *country, bool trusted, Call *call)
{
    const byte *headers;
    if (!read_start(message, &call->uri, &headers))
        return false;
    call->message = message;
    read_all_rows(headers, message.end, &call->rows);
    if (!read_identifiers(call))
        return false;
    Span default_country = {country, (ptrdiff_t)strlen(country)};
    call->calling = read_number(call->from_uri, default_country);
    call->called = read_number(call->uri, default_country);
    call->other = without(ABSENT);
    return !trusted || call->rows.count[ASSERTED] == 0 || read_asserted(call, default_country);
}
