/* MD5 (RFC 1321) of which only the first eight bytes are wanted, big-endian: a position on the ring.
 * Not for secrets. An own one because a call into hashlib costs several times the hash itself. */
#ifndef HELIOS_MD5_H
#define HELIOS_MD5_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MD5_ROL(x, n) (((x) << (n)) | ((x) >> (32 - (n))))
#define MD5_F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MD5_G(x, y, z) ((y) ^ ((z) & ((x) ^ (y))))
#define MD5_H(x, y, z) ((x) ^ (y) ^ (z))
#define MD5_I(x, y, z) ((y) ^ ((x) | ~(z)))
#define MD5_STEP(f, a, b, c, d, word, constant, turn) \
    (a) += f((b), (c), (d)) + (word) + (constant);    \
    (a) = MD5_ROL((a), (turn)) + (b)
/* Four steps, after which the registers are where they were. */
#define MD5_FOUR(f, i, j, k, l, p, q, r, s, t, u, v, w) \
    MD5_STEP(f, a, b, c, d, x[i], p, t);                \
    MD5_STEP(f, d, a, b, c, x[j], q, u);                \
    MD5_STEP(f, c, d, a, b, x[k], r, v);                \
    MD5_STEP(f, b, c, d, a, x[l], s, w)

static inline uint32_t md5_word(const unsigned char *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static void md5_block(uint32_t state[4], const unsigned char *block) {
    uint32_t x[16], a = state[0], b = state[1], c = state[2], d = state[3];
    for (int i = 0; i < 16; i++) x[i] = md5_word(block + 4 * i);
    MD5_FOUR(MD5_F, 0, 1, 2, 3, 0xd76aa478u, 0xe8c7b756u, 0x242070dbu, 0xc1bdceeeu, 7, 12, 17, 22);
    MD5_FOUR(MD5_F, 4, 5, 6, 7, 0xf57c0fafu, 0x4787c62au, 0xa8304613u, 0xfd469501u, 7, 12, 17, 22);
    MD5_FOUR(MD5_F, 8, 9, 10, 11, 0x698098d8u, 0x8b44f7afu, 0xffff5bb1u, 0x895cd7beu, 7, 12, 17, 22);
    MD5_FOUR(MD5_F, 12, 13, 14, 15, 0x6b901122u, 0xfd987193u, 0xa679438eu, 0x49b40821u, 7, 12, 17, 22);
    MD5_FOUR(MD5_G, 1, 6, 11, 0, 0xf61e2562u, 0xc040b340u, 0x265e5a51u, 0xe9b6c7aau, 5, 9, 14, 20);
    MD5_FOUR(MD5_G, 5, 10, 15, 4, 0xd62f105du, 0x02441453u, 0xd8a1e681u, 0xe7d3fbc8u, 5, 9, 14, 20);
    MD5_FOUR(MD5_G, 9, 14, 3, 8, 0x21e1cde6u, 0xc33707d6u, 0xf4d50d87u, 0x455a14edu, 5, 9, 14, 20);
    MD5_FOUR(MD5_G, 13, 2, 7, 12, 0xa9e3e905u, 0xfcefa3f8u, 0x676f02d9u, 0x8d2a4c8au, 5, 9, 14, 20);
    MD5_FOUR(MD5_H, 5, 8, 11, 14, 0xfffa3942u, 0x8771f681u, 0x6d9d6122u, 0xfde5380cu, 4, 11, 16, 23);
    MD5_FOUR(MD5_H, 1, 4, 7, 10, 0xa4beea44u, 0x4bdecfa9u, 0xf6bb4b60u, 0xbebfbc70u, 4, 11, 16, 23);
    MD5_FOUR(MD5_H, 13, 0, 3, 6, 0x289b7ec6u, 0xeaa127fau, 0xd4ef3085u, 0x04881d05u, 4, 11, 16, 23);
    MD5_FOUR(MD5_H, 9, 12, 15, 2, 0xd9d4d039u, 0xe6db99e5u, 0x1fa27cf8u, 0xc4ac5665u, 4, 11, 16, 23);
    MD5_FOUR(MD5_I, 0, 7, 14, 5, 0xf4292244u, 0x432aff97u, 0xab9423a7u, 0xfc93a039u, 6, 10, 15, 21);
    MD5_FOUR(MD5_I, 12, 3, 10, 1, 0x655b59c3u, 0x8f0ccc92u, 0xffeff47du, 0x85845dd1u, 6, 10, 15, 21);
    MD5_FOUR(MD5_I, 8, 15, 6, 13, 0x6fa87e4fu, 0xfe2ce6e0u, 0xa3014314u, 0x4e0811a1u, 6, 10, 15, 21);
    MD5_FOUR(MD5_I, 4, 11, 2, 9, 0xf7537e82u, 0xbd3af235u, 0x2ad7d2bbu, 0xeb86d391u, 6, 10, 15, 21);
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
}

static inline uint32_t md5_swapped(uint32_t value) {
    return value >> 24 | (value >> 8 & 0xff00u) | (value << 8 & 0xff0000u) | value << 24;
}

static uint64_t md5_position(const char *data, size_t size) {
    uint32_t state[4] = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u};
    unsigned char last[128] = {0};
    size_t left = size % 64, blocks = left < 56 ? 1 : 2;
    uint64_t bits = (uint64_t)size * 8;
    for (size_t at = 0; at + 64 <= size; at += 64) md5_block(state, (const unsigned char *)data + at);
    if (left) memcpy(last, data + size - left, left);
    last[left] = 0x80;
    for (int i = 0; i < 8; i++) last[blocks * 64 - 8 + i] = (unsigned char)(bits >> (8 * i));
    for (size_t at = 0; at < blocks; at++) md5_block(state, last + 64 * at);
    return (uint64_t)md5_swapped(state[0]) << 32 | md5_swapped(state[1]);
}

#endif
