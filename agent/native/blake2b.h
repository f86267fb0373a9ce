/* BLAKE2b with a digest of 8 bytes and an optional key (RFC 7693), for short inputs. Plain C without Python. */

#ifndef SBC_EDGE_BLAKE2B_H
#define SBC_EDGE_BLAKE2B_H

#include <stdint.h>
#include <string.h>

#define BLAKE2B_BLOCK 128
#define BLAKE2B_KEY_MAX 64
#define BLAKE2B_DIGEST 8

static const uint64_t BLAKE2B_IV[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

/* RFC 7693 2.7; rounds 10 and 11 repeat the first two. */
static const uint8_t BLAKE2B_SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

typedef struct {
    uint64_t state[8];
    uint64_t counted; /* bytes compressed so far */
    uint8_t block[BLAKE2B_BLOCK];
    size_t filled;
} Blake2b;

static inline uint64_t blake2b_load(const uint8_t *at)
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | at[i];
    return word;
}

static inline uint64_t blake2b_rotated(uint64_t word, int by) { return word >> by | word << (64 - by); }

#define BLAKE2B_MIX(a, b, c, d, x, y)             \
    do {                                          \
        v[a] += v[b] + (x);                       \
        v[d] = blake2b_rotated(v[d] ^ v[a], 32);  \
        v[c] += v[d];                             \
        v[b] = blake2b_rotated(v[b] ^ v[c], 24);  \
        v[a] += v[b] + (y);                       \
        v[d] = blake2b_rotated(v[d] ^ v[a], 16);  \
        v[c] += v[d];                             \
        v[b] = blake2b_rotated(v[b] ^ v[c], 63);  \
    } while (0)

static inline void blake2b_compress(Blake2b *it, int last)
{
    uint64_t v[16], m[16];
    memcpy(v, it->state, sizeof(it->state));
    memcpy(v + 8, BLAKE2B_IV, sizeof(BLAKE2B_IV));
    v[12] ^= it->counted; /* the high half of the counter stays 0: nobody has 2^64 bytes */
    if (last)
        v[14] = ~v[14];
    for (int i = 0; i < 16; i++)
        m[i] = blake2b_load(it->block + 8 * i);
#pragma GCC unroll 12 /* then the schedule is constants: a fifth less time */
    for (int round = 0; round < 12; round++) {
        const uint8_t *s = BLAKE2B_SIGMA[round % 10];
        BLAKE2B_MIX(0, 4, 8, 12, m[s[0]], m[s[1]]);
        BLAKE2B_MIX(1, 5, 9, 13, m[s[2]], m[s[3]]);
        BLAKE2B_MIX(2, 6, 10, 14, m[s[4]], m[s[5]]);
        BLAKE2B_MIX(3, 7, 11, 15, m[s[6]], m[s[7]]);
        BLAKE2B_MIX(0, 5, 10, 15, m[s[8]], m[s[9]]);
        BLAKE2B_MIX(1, 6, 11, 12, m[s[10]], m[s[11]]);
        BLAKE2B_MIX(2, 7, 8, 13, m[s[12]], m[s[13]]);
        BLAKE2B_MIX(3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++)
        it->state[i] ^= v[i] ^ v[i + 8];
}

#undef BLAKE2B_MIX

static inline void blake2b_add(Blake2b *it, const uint8_t *data, size_t length)
{
    while (length > 0) {
        if (it->filled == BLAKE2B_BLOCK) { /* only once more bytes follow: the last block is for blake2b_end */
            it->counted += BLAKE2B_BLOCK;
            blake2b_compress(it, 0);
            it->filled = 0;
        }
        size_t part = BLAKE2B_BLOCK - it->filled < length ? BLAKE2B_BLOCK - it->filled : length;
        memcpy(it->block + it->filled, data, part);
        it->filled += part;
        data += part;
        length -= part;
    }
}

/* `length` of the key: 0 to BLAKE2B_KEY_MAX. */
static inline void blake2b_begin(Blake2b *it, const uint8_t *key, size_t length)
{
    memcpy(it->state, BLAKE2B_IV, sizeof(it->state));
    it->state[0] ^= 0x01010000 ^ (uint64_t)length << 8 ^ BLAKE2B_DIGEST;
    it->counted = 0;
    it->filled = 0;
    if (length > 0) {
        memset(it->block, 0, sizeof(it->block));
        memcpy(it->block, key, length);
        it->filled = BLAKE2B_BLOCK;
    }
}

/* Take the key in at once, for a state that is copied for many inputs, none of them empty. */
static inline void blake2b_settle_key(Blake2b *it)
{
    if (it->filled == BLAKE2B_BLOCK) {
        it->counted = BLAKE2B_BLOCK;
        blake2b_compress(it, 0);
        it->filled = 0;
    }
}

static inline void blake2b_end(Blake2b *it, uint8_t digest[BLAKE2B_DIGEST])
{
    it->counted += it->filled;
    memset(it->block + it->filled, 0, BLAKE2B_BLOCK - it->filled);
    blake2b_compress(it, 1);
    for (int i = 0; i < BLAKE2B_DIGEST; i++)
        digest[i] = (uint8_t)(it->state[0] >> 8 * i);
}

#endif
