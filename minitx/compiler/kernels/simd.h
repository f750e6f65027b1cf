/* Vectors of float and int32 of whatever width the instruction set has: the only file that knows instruction sets.
 *
 * A translation unit is compiled once for each set, which its flags choose. A panel is 16 columns everywhere, so
 * VECTORS vectors of LANES lanes.
 */
#ifndef MINITX_SIMD_H
#define MINITX_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)

#include <immintrin.h>
typedef __m512 vf;
typedef __m512i vi;
enum { LANES = 16 };
INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
INLINE vf vf_all(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vf_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE vf vf_brain(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void vi_store(int32_t *p, vi v) { _mm512_storeu_si512(p, v); }
INLINE vi vi_all(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
INLINE vi vi_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
#define vi_left(v, bits) _mm512_slli_epi32(v, bits)
#define vi_right(v, bits) _mm512_srai_epi32(v, bits)
INLINE vi vi_bytes(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
INLINE vf vi_float(vi v) { return _mm512_cvtepi32_ps(v); }
INLINE vi vf_round(vf v) { return _mm512_cvtps_epi32(v); } /* half to even */
INLINE vf vf_power(vi n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, vi_all(127)), 23)); }

/* The signed operand of a dot product is x; what has to be made of it once for all columns. */
typedef struct { vi x; } Dotted;
INLINE Dotted dotted(int32_t x) { return (Dotted){vi_all(x ^ (int32_t)0x80808080)}; } /* x + 128, unsigned */
/* acc + the dot product, in each lane, of four int8 weights with four int8 of x; `offset` has to be taken off. */
INLINE vi dot_int8(vi acc, vi w, Dotted d) { return _mm512_dpbusd_epi32(acc, d.x, w); }
enum { DOT_OFFSET = 128 }; /* dot_int8 gives this times the sum of the weights too much */
/* The same for four weights of 0 to 15. */
INLINE vi dot_int4(vi acc, vi w, int32_t x) { return _mm512_dpbusd_epi32(acc, w, vi_all(x)); }
enum { ROWS_MAX = 6, PANELS = 4, FLOAT_ROWS_MAX = 6 };

#elif defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>
typedef __m256 vf;
typedef __m256i vi;
enum { LANES = 8 };
INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
INLINE vf vf_all(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf vf_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE vf vf_brain(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
INLINE vi vi_load(const void *p) { return _mm256_loadu_si256((const vi *)p); }
INLINE void vi_store(int32_t *p, vi v) { _mm256_storeu_si256((vi *)p, v); }
INLINE vi vi_all(int32_t x) { return _mm256_set1_epi32(x); }
INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
INLINE vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
INLINE vi vi_mul(vi a, vi b) { return _mm256_mullo_epi32(a, b); }
INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
#define vi_left(v, bits) _mm256_slli_epi32(v, bits)
#define vi_right(v, bits) _mm256_srai_epi32(v, bits)
INLINE vi vi_bytes(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }
INLINE vf vi_float(vi v) { return _mm256_cvtepi32_ps(v); }
INLINE vi vf_round(vf v) { return _mm256_cvtps_epi32(v); }
INLINE vf vf_power(vi n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, vi_all(127)), 23)); }

typedef struct { vi x, magnitude; } Dotted;
INLINE Dotted dotted(int32_t x) { return (Dotted){vi_all(x), _mm256_abs_epi8(vi_all(x))}; }
/* |x| with the sign of x moved to the weight: two products are at most 2 * 127 * 127, which an int16 holds. */
INLINE vi dot_int8(vi acc, vi w, Dotted d) {
    vi pairs = _mm256_maddubs_epi16(d.magnitude, _mm256_sign_epi8(w, d.x));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
enum { DOT_OFFSET = 0 };
INLINE vi dot_int4(vi acc, vi w, int32_t x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, vi_all(x)), _mm256_set1_epi16(1)));
}
enum { ROWS_MAX = 4, PANELS = 1, FLOAT_ROWS_MAX = 6 };

#else /* the vectors of gcc and clang, which are SSE2, NEON, WebAssembly SIMD, RISC-V or plain registers */

typedef float vf __attribute__((vector_size(16), aligned(16)));
typedef int32_t vi __attribute__((vector_size(16), aligned(16)));
enum { LANES = 4 };
INLINE vf vf_load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf vf_all(float x) { return (vf){x, x, x, x}; }
INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
INLINE vf vf_pick(vi mask, vf a, vf b) {
    vi x, y; memcpy(&x, &a, sizeof x); memcpy(&y, &b, sizeof y);
    vi v = (mask & x) | (~mask & y); vf f; memcpy(&f, &v, sizeof f); return f;
}
INLINE vf vf_max(vf a, vf b) { return vf_pick((vi)(a > b), a, b); }
INLINE vf vf_min(vf a, vf b) { return vf_pick((vi)(a < b), a, b); }
INLINE float float_of(uint32_t bits) { float f; memcpy(&f, &bits, sizeof f); return f; }
/* IEEE half to float: the exponent is moved, and multiplied right for numbers below 2^-14. */
INLINE float half_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    float f = rest >= 0x0f800000u ? float_of(rest | 0x7f800000u) : float_of(rest) * 0x1p112f;
    uint32_t bits; memcpy(&bits, &f, sizeof bits);
    return float_of(bits | sign);
}
INLINE vf vf_half(const uint16_t *p) {
    return (vf){half_float(p[0]), half_float(p[1]), half_float(p[2]), half_float(p[3])};
}
INLINE vf vf_brain(const uint16_t *p) {
    return (vf){float_of((uint32_t)p[0] << 16), float_of((uint32_t)p[1] << 16),
                float_of((uint32_t)p[2] << 16), float_of((uint32_t)p[3] << 16)};
}
INLINE vi vi_load(const void *p) { vi v; memcpy(&v, p, sizeof v); return v; }
INLINE void vi_store(int32_t *p, vi v) { memcpy(p, &v, sizeof v); }
INLINE vi vi_all(int32_t x) { return (vi){x, x, x, x}; }
INLINE vi vi_add(vi a, vi b) { return a + b; }
INLINE vi vi_sub(vi a, vi b) { return a - b; }
INLINE vi vi_mul(vi a, vi b) { return a * b; }
INLINE vi vi_and(vi a, vi b) { return a & b; }
#define vi_left(v, bits) ((v) << (bits))
#define vi_right(v, bits) ((v) >> (bits))
INLINE vi vi_bytes(const uint8_t *p) { return (vi){p[0], p[1], p[2], p[3]}; }
INLINE vf vi_float(vi v) { return (vf){(float)v[0], (float)v[1], (float)v[2], (float)v[3]}; }
/* Adding 1.5 * 2^23 leaves the integer in the low bits, rounded half to even; for |v| < 2^22. In memory in between,
 * or a compiler that may reassociate would take it off again. */
INLINE vi vf_round(vf v) {
    vf moved = v + vf_all(12582912.0f);
    vi bits;
    __asm__ volatile("" : "+m"(moved));
    memcpy(&bits, &moved, sizeof bits);
    return bits - 0x4b400000;
}
INLINE vf vf_power(vi n) { vi bits = (n + 127) << 23; vf f; memcpy(&f, &bits, sizeof f); return f; }

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
typedef struct { vi x; } Dotted;
INLINE Dotted dotted(int32_t x) { return (Dotted){vi_all(x)}; }
INLINE vi dot_int8(vi acc, vi w, Dotted d) { return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)d.x); }
INLINE vi dot_int4(vi acc, vi w, int32_t x) { return dot_int8(acc, w, dotted(x)); }
#else
typedef struct { vi x[4]; } Dotted; /* each of the four, in all lanes */
INLINE Dotted dotted(int32_t x) {
    return (Dotted){{vi_all((int8_t)x), vi_all((int8_t)(x >> 8)), vi_all((int8_t)(x >> 16)), vi_all(x >> 24)}};
}
INLINE vi dot_int8(vi acc, vi w, Dotted d) {
    return acc + ((w << 24) >> 24) * d.x[0] + ((w << 16) >> 24) * d.x[1] + ((w << 8) >> 24) * d.x[2] + (w >> 24) * d.x[3];
}
INLINE vi dot_int4(vi acc, vi w, int32_t x) { return dot_int8(acc, w, dotted(x)); }
#endif
enum { DOT_OFFSET = 0, ROWS_MAX = 4, PANELS = 1, FLOAT_ROWS_MAX = 6 };

#endif

enum { PANEL = 16, VECTORS = PANEL / LANES };

INLINE float vf_sum(vf v) {
    float lane[LANES], sum = 0;
    vf_store(lane, v);
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

INLINE float vf_largest(vf v) {
    float lane[LANES], best;
    vf_store(lane, v);
    best = lane[0];
    for (int i = 1; i < LANES; i++) best = lane[i] > best ? lane[i] : best;
    return best;
}

/* e^x for x <= 88: 2^n times a polynomial of degree 6 in the rest, within 2 ulp; e^-87 below -87. NaN stays NaN. */
INLINE vf vf_exp(vf x) {
    vf low = vf_max(vf_all(-87.0f), x); /* the second operand is what a comparison with NaN gives */
    vf high = vf_min(vf_all(88.0f), low);
    vi n = vf_round(high * vf_all(1.44269504f));
    vf f = vf_fma(vi_float(n), vf_all(-0.693359375f), high);
    f = vf_fma(vi_float(n), vf_all(2.12194440e-4f), f);
    vf p = vf_all(1.0f / 720);
    p = vf_fma(p, f, vf_all(1.0f / 120));
    p = vf_fma(p, f, vf_all(1.0f / 24));
    p = vf_fma(p, f, vf_all(1.0f / 6));
    p = vf_fma(p, f, vf_all(0.5f));
    p = vf_fma(p, f, vf_all(1.0f));
    p = vf_fma(p, f, vf_all(1.0f));
    return p * vf_power(n);
}

INLINE int32_t load_int32(const void *p) { int32_t x; memcpy(&x, p, sizeof x); return x; }
INLINE float load_float(const void *p) { float x; memcpy(&x, p, sizeof x); return x; }

#endif
