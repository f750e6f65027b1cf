/* What stands in the place of a C library: the powers of the length penalty, square roots, and an end that frees nothing.
 *
 * A power is computed in whole numbers, so that neither the compiler's flags nor the processor's floating point change
 * it, to 80 bits and more, and then rounded once: it is the double that is nearest to the true value, unless that lies
 * within 2^-26 of a last place from the middle of two. A C library's pow is within little more than half of a last place;
 * so where the two differ it is by the last bit of a score, and hypotheses change places only where their scores are that
 * near. Powers that are doubles themselves, as all with the exponents 0 and 1, are exact here and there.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "model.h"

/* A number from 0 to 2^32, with 96 bits behind the point: the lowest 32 bits first. */
enum { WORDS = 4, WHOLE = WORDS - 1, BITS = 96 };
typedef struct {
    uint32_t word[WORDS];
} Fixed;

static Fixed add(Fixed a, Fixed b) {
    uint64_t carry = 0;
    for (int i = 0; i < WORDS; i++) {
        carry += (uint64_t)a.word[i] + b.word[i];
        a.word[i] = (uint32_t)carry;
        carry >>= 32;
    }
    return a;
}

static Fixed multiply(Fixed a, Fixed b) {
    uint32_t product[2 * WORDS] = {0};
    for (int i = 0; i < WORDS; i++) {
        uint64_t carry = 0;
        for (int j = 0; j < WORDS; j++) {
            carry += (uint64_t)a.word[i] * b.word[j] + product[i + j];
            product[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
        product[i + WORDS] = (uint32_t)carry;
    }
    Fixed high;
    memcpy(high.word, product + WHOLE, sizeof high.word);
    return high;
}

static Fixed divide(Fixed a, uint32_t by) {
    uint64_t rest = 0;
    for (int i = WHOLE; i >= 0; i--) {
        rest = rest << 32 | a.word[i];
        a.word[i] = (uint32_t)(rest / by);
        rest %= by;
    }
    return a;
}

/* a times 2^places, of -128 < places < 32. */
static Fixed shift(Fixed a, int places) {
    for (; places <= -32; places += 32) a = (Fixed){{a.word[1], a.word[2], a.word[3], 0}};
    uint64_t carry = 0;
    if (places >= 0) {
        for (int i = 0; i < WORDS; i++) {
            carry |= (uint64_t)a.word[i] << places;
            a.word[i] = (uint32_t)carry;
            carry >>= 32;
        }
        return a;
    }
    for (int i = WHOLE; i >= 0; i--) {
        const uint32_t word = a.word[i];
        a.word[i] = (uint32_t)(carry | word >> -places);
        carry = (uint32_t)((uint64_t)word << (32 + places));
    }
    return a;
}

/* The fraction of a normal x >= 0, 1 <= m < 2, and its exponent: x = m * 2^exponent. */
static Fixed split(double x, int *exponent) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    *exponent = (int)(bits >> 52) - 1023;
    return (Fixed){{0, (uint32_t)bits << 12, (uint32_t)(bits >> 20), 1}};
}

/* The binary logarithm of 1 <= m < 2: a square doubles it, and what of it is 1 or more is its next bit. */
static Fixed logarithm(Fixed m) {
    Fixed found = {{0}};
    for (int bit = BITS - 1; bit >= 0; bit--) {
        m = multiply(m, m);
        if (m.word[WHOLE] < 2) continue;
        m = shift(m, -1);
        found.word[bit / 32] |= (uint32_t)1 << bit % 32;
    }
    return found;
}

/* 2^x of 0 <= x < 1: the series of e^(x ln 2). */
static Fixed raise(Fixed x) {
    const Fixed ln2 = {{0xC9E3B398, 0xD1CF79AB, 0xB17217F7, 0}};
    Fixed term = {{0, 0, 0, 1}}, sum = term;
    const Fixed step = multiply(x, ln2);
    for (uint32_t i = 1; i < 32; i++) {
        term = divide(multiply(term, step), i);
        sum = add(sum, term);
    }
    return sum;
}

double minitx_bare_power(double x, double a) {
    int exponent, scale;
    double power;
    if (a == 0) return 1;
    Fixed log = logarithm(split(x, &exponent));
    log.word[WHOLE] += (uint32_t)exponent;
    const Fixed factor = split(a, &scale);
    if (scale <= -64) return 1;
    Fixed total = multiply(shift(log, scale), factor);
    const uint32_t whole = total.word[WHOLE];
    total.word[WHOLE] = 0;
    const Fixed half = {{0, 1u << 11, 0, 0}}; /* of the last place of a double */
    const Fixed m = add(raise(total), half);
    const uint64_t fraction = (uint64_t)m.word[2] << 20 | m.word[1] >> 12;
    const uint64_t bits = ((uint64_t)whole + 1022 + m.word[WHOLE]) << 52 | (fraction & ((1ull << 52) - 1));
    memcpy(&power, &bits, sizeof power);
    return power;
}

float minitx_bare_root(float x) {
    uint32_t bits, root = 0;
    memcpy(&bits, &x, sizeof bits);
    if (!(x > 0) || bits >= 0x7f800000) return x; /* 0, NaN, infinity; nothing else comes here */
    int exponent = (int)(bits >> 23) - 127;
    uint64_t rest = (uint64_t)((bits & 0x7fffff) | 0x800000) << (exponent & 1 ? 26 : 25), square = 0;
    for (uint32_t bit = 1u << 24; bit; bit >>= 1) {
        const uint64_t next = square + 2ull * root * bit + (uint64_t)bit * bit;
        if (next > rest) continue;
        square = next;
        root |= bit;
    }
    root = (root + (root & 1)) >> 1; /* 25 bits to 24; no root lies in the middle of two floats */
    bits = ((uint32_t)((exponent - (exponent & 1)) / 2 + 126) << 23) + root;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void minitx_close(minitx_model *model) {
    if (model) team_stop(model->team);
}
