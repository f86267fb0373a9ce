/* The twin of agent.numbers.reading.read_number_py: a number out of the address of a SIP message. Plain C.
 *
 * The same order of questions as in Python, stage by stage, so that the two can be read side by side. Addresses come
 * off the wire: nothing is trusted, nothing is copied beyond a fixed buffer, and nothing raises for bad input.
 *
 * Knows the kinds of agent.model.NumberKind; knows no lists and no rules. */

#ifndef SBC_EDGE_NUMBER_READING_H
#define SBC_EDGE_NUMBER_READING_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "sip_text.h"

/* agent.numbers.reading: MAX_DIALLED, MAX_E164, LONG_WITHOUT_PLUS, MIN_AFTER_PREFIX, MAX_SHORT */
#define MAX_DIALLED 32
#define MAX_E164 15
#define LONG_WITHOUT_PLUS 12
#define MIN_AFTER_PREFIX 7
#define MAX_SHORT 6
#define MAX_NAME 11 /* "unavailable", the longest anonymous user */

/* In the order of agent.model.NumberKind; numbers.c checks that it is. */
enum kind { ABSENT, ANONYMOUS, NOT_A_NUMBER, SHORT, NANP, NANP_INVALID, FOREIGN, AMBIGUOUS, NUMBER_KINDS };

typedef struct {
    const char *start;
    ptrdiff_t length;
} Span;

/* agent.model.Number: `national` is -1 where the number is not +1 and ten digits. */
typedef struct {
    enum kind kind;
    size_t length;
    long long national;
    char digits[MAX_DIALLED];
} Reading;

/* Digits that were dialled: an optional leading "+" and up to MAX_DIALLED of 0-9 * #, without separators. */
typedef struct {
    char text[MAX_DIALLED];
    ptrdiff_t length;
    bool plus;
    bool star; /* holds "*" or "#" */
} Dialled;

/* ---- the numbering plan (agent.numbers.plan) ---- */

static inline bool valid_npa(int npa)
{
    return npa >= 200 && npa % 100 != 11 && npa / 10 % 10 != 9 && npa / 10 != 37 && npa / 10 != 96;
}

static inline bool valid_nxx(int nxx)
{
    return nxx >= 200 && nxx % 100 != 11;
}

/* ---- text ---- */

static inline char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static inline bool is_separator(char c)
{
    return c == '-' || c == '.' || c == '(' || c == ')' || c == ' ';
}

static inline int hex_value(char c)
{
    if (is_digit((byte)c)) return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Whether `span` is `word` (lower case) in any case. */
static inline bool is_word(Span span, const char *word)
{
    if (span.length != (ptrdiff_t)strlen(word)) return false;
    for (ptrdiff_t i = 0; i < span.length; i++)
        if (lower(span.start[i]) != word[i]) return false;
    return true;
}

/* The part before the first `c` (all of it without one); `*rest` becomes what follows. */
static inline Span cut(Span span, char c, Span *rest)
{
    const char *at = span.length ? memchr(span.start, c, (size_t)span.length) : NULL;
    if (at == NULL) {
        *rest = (Span){span.start + span.length, 0};
        return span;
    }
    *rest = (Span){at + 1, span.start + span.length - at - 1};
    return (Span){span.start, at - span.start};
}

/* One character of an escaped text. Returns 0 at a broken escape, a control character, or outside ASCII. */
static inline char next_decoded(Span span, ptrdiff_t *i)
{
    unsigned char c = (unsigned char)span.start[(*i)++];
    if (c == '%') {
        if (*i + 2 > span.length) return 0;
        int high = hex_value(span.start[*i]), low = hex_value(span.start[*i + 1]);
        if (high < 0 || low < 0) return 0;
        *i += 2;
        c = (unsigned char)(high * 16 + low);
    }
    return c >= 0x20 && c <= 0x7e ? (char)c : 0;
}

/* ---- the address (take_apart, decode, dialled_digits, phone_context) ---- */

typedef struct {
    Span user, parameters, host;
} Address;

static inline bool is_user_without_host(Span span)
{
    if (span.length && span.start[0] == '+') span.start++, span.length--;
    if (span.length < 1 || span.length > MAX_DIALLED) return false;
    for (ptrdiff_t i = 0; i < span.length; i++)
        if (!is_digit((byte)span.start[i])) return false;
    return true;
}

/* False when the scheme is none of sip, sips and tel. */
static inline bool take_apart(Span uri, Address *address)
{
    Span rest, tail, ignored;
    Span scheme = cut(uri, ':', &rest);
    *address = (Address){0};
    if (is_word(scheme, "tel")) {
        address->user = cut(rest, ';', &address->parameters);
        return true;
    }
    if (!is_word(scheme, "sip") && !is_word(scheme, "sips")) return false;
    Span userinfo = cut(rest, '@', &tail);
    if (userinfo.length == rest.length) { /* no "@" */
        Span user = cut(rest, ';', &address->parameters);
        if (is_user_without_host(user)) {
            address->user = user;
            return true;
        }
        address->parameters = (Span){0};
        tail = rest;
    } else {
        address->user = cut(cut(userinfo, ':', &ignored), ';', &address->parameters);
    }
    ptrdiff_t end = 0;
    while (end < tail.length && tail.start[end] != ':' && tail.start[end] != ';' && tail.start[end] != '?') end++;
    address->host = (Span){tail.start, end};
    return true;
}

enum user { USER_BROKEN, USER_TEXT, USER_DIALLED };

/* Decodes the user part; fills `dialled` when it is a dialled number, else `name` with what a short text says. */
static inline enum user read_user(Span user, Dialled *dialled, char *name, ptrdiff_t *name_length)
{
    bool is_dialled = true;
    dialled->length = 0;
    dialled->plus = dialled->star = false;
    *name_length = 0;
    for (ptrdiff_t i = 0; i < user.length;) {
        char c = next_decoded(user, &i);
        if (c == 0) return USER_BROKEN;
        if (*name_length <= MAX_NAME) name[(*name_length)++] = c; /* one more than fits: then it is no such name */
        if (!is_dialled || is_separator(c)) continue;
        if (c == '+' && dialled->length == 0 && !dialled->plus) {
            dialled->plus = true;
        } else if ((is_digit((byte)c) || c == '*' || c == '#') && dialled->length < MAX_DIALLED) {
            dialled->star |= !is_digit((byte)c);
            dialled->text[dialled->length++] = c;
        } else {
            is_dialled = false;
        }
    }
    return is_dialled && dialled->length > 0 ? USER_DIALLED : USER_TEXT;
}

/* The digits of ;phone-context=+..., at most MAX_E164 of them; 0 when there is none, or it is a domain. */
static inline ptrdiff_t phone_context(Span parameters, char *digits)
{
    while (parameters.length > 0) {
        Span rest, value, parameter = cut(parameters, ';', &rest);
        if (!is_word(cut(parameter, '=', &value), "phone-context")) {
            parameters = rest;
            continue;
        }
        ptrdiff_t length = 0;
        bool plus = false;
        for (ptrdiff_t i = 0; i < value.length;) {
            char c = next_decoded(value, &i);
            if (c == 0) return 0;
            if (is_separator(c)) continue;
            if (c == '+' && !plus) plus = true;
            else if (plus && is_digit((byte)c) && length < MAX_E164 && (length || c != '0')) digits[length++] = c;
            else return 0;
        }
        return length;
    }
    return 0;
}

/* ---- numbers ---- */

static inline Reading without(enum kind kind)
{
    return (Reading){kind, 0, -1, {0}};
}

/* `length` is at most MAX_DIALLED. */
static inline Reading make_reading(enum kind kind, const char *digits, ptrdiff_t length)
{
    Reading reading;
    reading.kind = kind;
    reading.length = (size_t)length;
    reading.national = -1;
    memcpy(reading.digits, digits, (size_t)length);
    return reading;
}

static inline Reading nanp(const char *ten_digits)
{
    char digits[11] = "1";
    long long national = 0;
    memcpy(digits + 1, ten_digits, 10);
    for (int i = 0; i < 10; i++) national = national * 10 + (ten_digits[i] - '0');
    bool valid = valid_npa((int)(national / 10000000)) && valid_nxx((int)(national / 10000 % 1000));
    Reading reading = make_reading(valid ? NANP : NANP_INVALID, digits, 11);
    reading.national = national;
    return reading;
}

/* 211, ..., 911, 933, 988 */
static inline bool is_service_code(const char *digits, ptrdiff_t length)
{
    if (length != 3) return false;
    if (digits[1] == '1' && digits[2] == '1') return digits[0] >= '2';
    return memcmp(digits, "933", 3) == 0 || memcmp(digits, "988", 3) == 0;
}

/* Digits that follow a "+" or an international prefix. */
static inline Reading international(const char *digits, ptrdiff_t length)
{
    if (digits[0] == '1') {
        if (length == 11) return nanp(digits + 1);
        if (is_service_code(digits + 1, length - 1)) return make_reading(SHORT, digits + 1, length - 1);
        return make_reading(NANP_INVALID, digits, length);
    }
    if (digits[0] == '0') return make_reading(AMBIGUOUS, digits, length);
    if (length == 3) return make_reading(SHORT, digits, length);
    return make_reading(length > MAX_E164 ? AMBIGUOUS : FOREIGN, digits, length);
}

static inline bool has_prefix(const char *digits, ptrdiff_t length, const char *prefix)
{
    ptrdiff_t size = (ptrdiff_t)strlen(prefix);
    return length >= size + MIN_AFTER_PREFIX && memcmp(digits, prefix, (size_t)size) == 0 && digits[size] != '0';
}

/* Countries whose national numbers keep their leading zero (agent.numbers.reading.ZERO_IS_PART). */
static inline bool zero_is_part(Span country)
{
    static const char *const countries[] = {"39", "225", "229", "241", "242"};
    for (size_t i = 0; i < sizeof countries / sizeof *countries; i++)
        if (is_word(country, countries[i])) return true;
    return false;
}

static inline Reading in_other_country(const char *digits, ptrdiff_t length, Span country)
{
    char whole[3 + LONG_WITHOUT_PLUS];
    if (has_prefix(digits, length, "00")) return international(digits + 2, length - 2);
    if (length >= LONG_WITHOUT_PLUS) return make_reading(AMBIGUOUS, digits, length);
    if (digits[0] == '0' && !zero_is_part(country)) digits++, length--;
    memcpy(whole, country.start, (size_t)country.length);
    memcpy(whole + country.length, digits, (size_t)length);
    return make_reading(FOREIGN, whole, country.length + length);
}

static inline Reading classify(const Dialled *dialled, Span country)
{
    const char *digits = dialled->text;
    ptrdiff_t length = dialled->length;
    if (dialled->star)
        return dialled->plus ? without(NOT_A_NUMBER) : make_reading(SHORT, digits, length);
    if (dialled->plus) return international(digits, length);
    if (length <= MAX_SHORT) {
        bool service = digits[0] == '1' && is_service_code(digits + 1, length - 1);
        return make_reading(SHORT, digits + service, length - service);
    }
    bool is_nanp = country.length == 1 && country.start[0] == '1';
    if (country.length > 0 && !is_nanp) return in_other_country(digits, length, country);
    if (is_nanp && has_prefix(digits, length, "011")) return international(digits + 3, length - 3);
    if (is_nanp && length == 10) return nanp(digits);
    if (length == 11 && digits[0] == '1') return nanp(digits + 1);
    return make_reading(AMBIGUOUS, digits, length);
}

/* Local digits and their phone-context (settle_context): may put the context before the digits and change *country. */
static inline void settle_context(Dialled *dialled, const char *context, ptrdiff_t length, Span *country)
{
    ptrdiff_t whole = length + dialled->length;
    bool combine;
    if (length == 0 || dialled->plus) return;
    if (context[0] == '1') {
        *country = (Span){"1", 1};
        combine = length > 1 && whole == 11;
    } else if (length <= 3) {
        *country = (Span){context, length};
        return;
    } else {
        *country = (Span){"", 0};
        combine = dialled->length > 3 && whole <= MAX_E164;
    }
    if (!combine) return;
    memmove(dialled->text + length, dialled->text, (size_t)dialled->length);
    memcpy(dialled->text, context, (size_t)length);
    dialled->length = whole;
    dialled->plus = true;
}

static inline Reading without_digits(const Address *address, Span name)
{
    static const char *const users[] = {"anonymous", "private", "restricted", "unavailable", "unknown"};
    for (size_t i = 0; i < sizeof users / sizeof *users; i++)
        if (is_word(name, users[i])) return without(ANONYMOUS);
    if (is_word(address->host, "anonymous.invalid") || is_word(address->host, "unknown.invalid"))
        return without(ANONYMOUS);
    return without(address->user.length ? NOT_A_NUMBER : ABSENT);
}

/* What nearly every call of a NANP trunk has: sip:+12015550123@..., with or without "+" and 1. The ten digits, or NULL. */
static inline const char *plain_nanp(Span uri)
{
    const char *at = uri.start, *end = uri.start + uri.length;
    if (uri.length < 15 || memcmp(at, "sip", 3) != 0) return NULL;
    at += at[3] == 's' ? 4 : 3;
    if (*at++ != ':') return NULL;
    if (*at == '+' && at[1] != '1') return NULL; /* another country's */
    at += *at == '+';
    at += *at == '1';
    if (end - at < 11 || *at < '2' || at[10] != '@') return NULL;
    for (int i = 0; i < 10; i++)
        if (!is_digit((byte)at[i])) return NULL;
    return at;
}

static inline Reading read_uri(Span uri, Span country)
{
    if (country.length == 1 && country.start[0] == '1') {
        const char *digits = plain_nanp(uri);
        if (digits != NULL) return nanp(digits);
    }
    Address address;
    Dialled dialled;
    char name[MAX_NAME + 1], context[MAX_E164];
    ptrdiff_t name_length;
    if (uri.length == 0) return without(ABSENT);
    if (!take_apart(uri, &address)) return without(NOT_A_NUMBER);
    switch (read_user(address.user, &dialled, name, &name_length)) {
    case USER_BROKEN:
        return without(NOT_A_NUMBER);
    case USER_TEXT:
        return without_digits(&address, (Span){name, name_length});
    case USER_DIALLED:
        break;
    }
    settle_context(&dialled, context, phone_context(address.parameters, context), &country);
    return classify(&dialled, country);
}

static inline bool is_country(Span country)
{
    if (country.length == 0) return true;
    if (country.length > 3 || country.start[0] == '0') return false;
    for (ptrdiff_t i = 0; i < country.length; i++)
        if (!is_digit((byte)country.start[i])) return false;
    return true;
}

#endif
