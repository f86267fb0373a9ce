/* The wire form of sbcedge.screening.v1 as far as plain requests and answers go (agent/ingress/hook/wire.py). Plain C.
 *
 * Plain is: a raw message, every field once and in its own wire type, printable ASCII text. Of anything else nothing is
 * said here, and protobuf reads it: so a message has one meaning, and what is odd costs time and not correctness.
 */

#ifndef SBC_EDGE_CONTRACT_H
#define SBC_EDGE_CONTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BATCH_MAX 1024
#define NAME_MAX_BYTES 64
#define PORT_MAX 65535

/* Fields of ScreenRequest by number. */
enum { ID = 1, SIP_MESSAGE, PARSED, SOURCE_ADDRESS, SOURCE_PORT, LOCAL_ADDRESS, LOCAL_PORT, TRANSPORT, TRUNK, CUSTOMER,
       RECEIVED_AT, FIELDS };

typedef struct {
    const uint8_t *start;
    size_t length;
} Chars;

typedef struct {
    uint64_t number[FIELDS];
    Chars text[FIELDS];
} Fields;

/* Reads a varint; NULL where it ends early or has more than ten bytes or 64 bits. */
static inline const uint8_t *read_varint(const uint8_t *at, const uint8_t *end, uint64_t *value)
{
    uint64_t result = 0;
    for (int shift = 0; shift < 70 && at < end; shift += 7) {
        uint8_t byte = *at++;
        if (shift == 63 && byte > 1)
            return NULL;
        result |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            *value = result;
            return at;
        }
    }
    return NULL;
}

/* Reads the length of a length-delimited field; NULL where the field would end behind `end`. */
static inline const uint8_t *read_length(const uint8_t *at, const uint8_t *end, size_t *length)
{
    uint64_t value;
    at = read_varint(at, end, &value);
    if (at == NULL || value > (uint64_t)(end - at))
        return NULL;
    *length = (size_t)value;
    return at;
}

static inline int is_number(unsigned field)
{
    return field == ID || field == SOURCE_PORT || field == LOCAL_PORT || field == RECEIVED_AT;
}

/* Takes one request apart; 0 for anything but a plain one. */
static inline int read_fields(const uint8_t *at, const uint8_t *end, Fields *fields)
{
    unsigned seen = 0;
    memset(fields, 0, sizeof *fields);
    while (at < end) {
        uint8_t tag = *at++;
        unsigned field = tag >> 3, type = tag & 7; /* a tag of more bytes is of no field of ours */
        if (tag > 127 || field == 0 || field >= FIELDS || field == PARSED || (seen >> field & 1))
            return 0;
        seen |= 1u << field;
        if (is_number(field)) {
            if (type != 0 || (at = read_varint(at, end, &fields->number[field])) == NULL)
                return 0;
        } else {
            if (type != 2 || (at = read_length(at, end, &fields->text[field].length)) == NULL)
                return 0;
            fields->text[field].start = at;
            at += fields->text[field].length;
        }
    }
    return 1;
}

/* Whether what was read is within the bounds of the contract; what is not, Python finds the words for. */
static inline int is_plain(const Fields *fields)
{
    static const uint8_t named[] = {SOURCE_ADDRESS, LOCAL_ADDRESS, TRANSPORT, TRUNK, CUSTOMER};
    for (size_t i = 0; i < sizeof named; i++) {
        const Chars *text = &fields->text[named[i]];
        if (text->length > NAME_MAX_BYTES || (text->length > 0 && text->start[0] == '['))
            return 0;
        for (size_t n = 0; n < text->length; n++)
            if (text->start[n] < 32 || text->start[n] > 126)
                return 0;
    }
    return fields->text[SIP_MESSAGE].length > 0 && fields->number[SOURCE_PORT] <= PORT_MAX &&
           fields->number[LOCAL_PORT] <= PORT_MAX;
}

/* Which word for a transport it is, the first for none at all; -1 for one that there is not. */
static const char *const TRANSPORT_NAMES[] = {"udp", "tcp", "tls", "ws"};
#define TRANSPORTS ((int)(sizeof TRANSPORT_NAMES / sizeof *TRANSPORT_NAMES))

static inline int transport_of(const Chars *text)
{
    for (int i = 0; i < TRANSPORTS; i++)
        if (strlen(TRANSPORT_NAMES[i]) == text->length && memcmp(TRANSPORT_NAMES[i], text->start, text->length) == 0)
            return i;
    return text->length == 0 ? 0 : -1;
}

/* Takes the next request of a ScreenStreamRequest apart, *end is where it ends; NULL unless it is a plain one, else where
 * it begins. */
static inline const uint8_t *next_request(const uint8_t *at, const uint8_t *stop, const uint8_t **end, Fields *fields)
{
    size_t length;
    if (at == stop || *at++ != (1 << 3 | 2) || (at = read_length(at, stop, &length)) == NULL)
        return NULL;
    *end = at + length;
    return read_fields(at, *end, fields) && is_plain(fields) && transport_of(&fields->text[TRANSPORT]) >= 0 ? at : NULL;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static inline size_t varint_size(uint64_t value)
{
    size_t size = 1;
    while (value > 127) {
        value >>= 7;
        size++;
    }
    return size;
}

static inline uint8_t *write_varint(uint8_t *at, uint64_t value)
{
    while (value > 127) {
        *at++ = (uint8_t)(value | 128);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

static inline uint8_t *write_bytes(uint8_t *at, const void *from, size_t length)
{
    memcpy(at, from, length);
    return at + length;
}

static const char IDENTITY_NAME[] = "\x0a\x08Identity\x12";
#define IDENTITY_NAME_SIZE (sizeof IDENTITY_NAME - 1)

static inline size_t row_size(size_t value)
{
    return IDENTITY_NAME_SIZE + varint_size(value) + value;
}

#endif
