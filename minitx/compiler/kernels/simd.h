/* Vectors of float and int32 as wide as the instruction set has them: the only file that knows instruction sets.
 *
 * A translation unit is compiled once for each set, which its flags choose. Vectors are those of gcc and clang, so
 * + - * / & | ^ << >> and comparisons are operators; what has none is a function, generic unless the set has better.
 * A panel is 16 columns everywhere: VECTORS vectors of LANES lanes.
 */
#ifndef MINITX_SIMD_H
#define MINITX_SIMD_H

#include <stddef.h>
#include <stdint.h>
#if __has_include(<string.h>)
#include <string.h>
#else /* WebAssembly without a C library: the compiler's own, which it makes instructions of where the size is constant */
#define memcpy __builtin_memcpy
#define memset __builtin_memset
#endif

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define MINITX_SANITIZED
#endif
#endif
#define INLINE static inline __attribute__((always_inline))
#if defined(__SANITIZE_ADDRESS__) || defined(MINITX_SANITIZED)
#define UNROLL /* with a check at every access, unrolled loops take minutes to compile */
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* LANES, and how many vectors of sums the innermost loops keep in registers (INT4 needs two for each). */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define SIMD_AVX512
enum { LANES = 16, FLOAT_SUMS = 24, INT8W_SUMS = 16, INT8_SUMS = 24, INT4_SUMS = 12 };
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define SIMD_AVX2
enum { LANES = 8, FLOAT_SUMS = 12, INT8W_SUMS = 8, INT4_SUMS = 4 };
#ifdef __AVXVNNI__
enum { INT8_SUMS = 12 };
#else
enum { INT8_SUMS = 8 }; /* dot_int8 needs registers of its own */
#endif
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#define SIMD_NEON
enum { LANES = 4, FLOAT_SUMS = 24, INT8W_SUMS = 16, INT8_SUMS = 16, INT4_SUMS = 12 };
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#define SIMD_WASM
enum { LANES = 4, FLOAT_SUMS = 8, INT8W_SUMS = 4, INT8_SUMS = 12, INT4_SUMS = 4 };
#else /* SSE2, RISC-V, ... */
enum { LANES = 4, FLOAT_SUMS = 8, INT8W_SUMS = 4, INT8_SUMS = 4, INT4_SUMS = 4 };
#endif
enum { PANEL = 16, VECTORS = PANEL / LANES };

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint16_t v16 __attribute__((vector_size(2 * LANES)));
typedef int8_t v8 __attribute__((vector_size(LANES)));
typedef uint8_t vu8 __attribute__((vector_size(LANES)));

/* ---- memory and bits ---- */

INLINE vf vf_load(const void *p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE vi vi_load(const void *p) { vi v; memcpy(&v, p, sizeof v); return v; }
INLINE void vf_store(void *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE void vi_store(void *p, vi v) { memcpy(p, &v, sizeof v); }
INLINE int32_t load_int32(const void *p) { int32_t x; memcpy(&x, p, sizeof x); return x; }
INLINE float load_float(const void *p) { float x; memcpy(&x, p, sizeof x); return x; }
/* Asks for a line of memory that is needed soon, in the second cache: it may lie anywhere, also where nothing is. */
INLINE void prefetch(const void *p) { __builtin_prefetch(p, 0, 2); }

/* The first `count` of LANES floats, and zeros. */
INLINE vf vf_load_part(const float *p, int count) {
    float lane[LANES] = {0};
    memcpy(lane, p, sizeof(float) * (size_t)count);
    return vf_load(lane);
}

INLINE vf vf_all(float x) { return x - (vf){0}; } /* a scalar and a vector: it is broadcast */
INLINE vi vi_all(int32_t x) { return x - (vi){0}; }
INLINE vi vf_bits(vf v) { return (vi)v; }
INLINE vf vi_bits(vi v) { return (vf)v; }
INLINE vf vi_float(vi v) { return __builtin_convertvector(v, vf); }
INLINE vf vf_magnitude(vf v) { return vi_bits(vf_bits(v) & 0x7fffffff); }
INLINE vf vf_select(vi mask, vf a, vf b) { return vi_bits((vf_bits(a) & mask) | (vf_bits(b) & ~mask)); }
INLINE vi vi_max(vi a, vi b) { vi more = a > b; return (a & more) | (b & ~more); }
INLINE vi vi_load_bytes(const uint8_t *p) { vu8 v; memcpy(&v, p, sizeof v); return __builtin_convertvector(v, vi); }
/* The low byte of each lane. */
INLINE void vi_store_bytes(int8_t *p, vi v) { v8 bytes = __builtin_convertvector(v, v8); memcpy(p, &bytes, sizeof bytes); }

/* v, in a way that the compiler does not see through: sums of it stay in the order they are written in, although the
 * flags let it reorder all others. */
INLINE vf vf_opaque(vf v) {
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#elif defined(SIMD_NEON)
    __asm__("" : "+w"(v));
#elif defined(SIMD_WASM)
    __asm__("" : "+r"(v));
#else
    __asm__("" : "+m"(v));
#endif
    return v;
}

/* ---- arithmetic ----
 * vf_max and vf_min give the second operand where one is NaN. vf_round rounds half to even, for |v| < 2^22. vf_exceeds:
 * whether any lane is above x. */

#if defined(SIMD_AVX512)
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vi vf_round(vf v) { return (vi)_mm512_cvtps_epi32(v); }
INLINE float vf_sum(vf v) { return _mm512_reduce_add_ps(v); }
INLINE float vf_largest(vf v) { return _mm512_reduce_max_ps(v); }
INLINE int vf_exceeds(vf v, float x) { return _mm512_cmp_ps_mask(v, _mm512_set1_ps(x), _CMP_GT_OQ) != 0; }
#elif defined(SIMD_AVX2)
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vi vf_round(vf v) { return (vi)_mm256_cvtps_epi32(v); }
INLINE float vf_sum(vf v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
INLINE float vf_largest(vf v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
INLINE int vf_exceeds(vf v, float x) { return _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(x), _CMP_GT_OQ)) != 0; }
#else
#ifdef SIMD_NEON
INLINE vf vf_fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vi vf_round(vf v) { return (vi)vcvtnq_s32_f32((float32x4_t)v); }
#else
INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
/* Adding 1.5 * 2^23 leaves the rounded integer in the low bits. */
INLINE vi vf_round(vf v) { return vf_bits(vf_opaque(v + 12582912.0f)) - 0x4b400000; }
#endif
INLINE vf vf_max(vf a, vf b) { return vf_select(a > b, a, b); }
INLINE vf vf_min(vf a, vf b) { return vf_select(a < b, a, b); }
INLINE float vf_sum(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
INLINE float vf_largest(vf v) {
    float even = v[0] > v[2] ? v[0] : v[2], odd = v[1] > v[3] ? v[1] : v[3];
    return even > odd ? even : odd;
}
INLINE int vf_exceeds(vf v, float x) { return vf_largest(v) > x; }
#endif

/* v times x, both of 16 bits. */
INLINE vi vi_times_short(vi v, int32_t x) {
#if defined(SIMD_AVX512)
    return (vi)_mm512_madd_epi16((__m512i)v, _mm512_set1_epi32(x));
#elif defined(SIMD_AVX2)
    return (vi)_mm256_madd_epi16((__m256i)v, _mm256_set1_epi32(x));
#else
    return v * x;
#endif
}

/* ---- half precision ---- */

INLINE vf vf_load_bfloat(const void *p) {
    v16 v;
    memcpy(&v, p, sizeof v);
    return vi_bits(__builtin_convertvector(v, vi) << 16);
}

INLINE vf vf_load_half(const void *p) {
#if defined(SIMD_AVX512)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(SIMD_AVX2)
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    v16 v;
    memcpy(&v, p, sizeof v);
#ifdef SIMD_NEON
    return (vf)vcvt_f32_f16((float16x4_t)v);
#else
    vi bits = __builtin_convertvector(v, vi), rest = (bits & 0x7fff) << 13;
    vf value = vi_bits(rest) * 0x1p112f; /* the bias of the exponent: 127 in place of 15 */
    vi special = (rest >= 0x0f800000) & 0x7f800000; /* infinity and NaN */
    return vi_bits(vf_bits(value) | special | ((bits & 0x8000) << 16));
#endif
#endif
}

/* ---- dot products of bytes: a lane of the weights is four of one column, of x the same four of a row ----
 * x is -127 to 127. Weights of int8 are stored with 128 added, which VNNI and i8mm take as they are: dot_int8 then
 * gives DOT_OFFSET times the sum of x too much, to be taken off at the end. Elsewhere they are made -128 to 127.
 * dot_int4 takes weights of 0 to 15. */

INLINE vi int8_weights(vi stored) { return stored ^ (int32_t)0x80808080; }

#if defined(SIMD_AVX512) || defined(SIMD_AVX2)
/* An unsigned operand times a signed one. Without VNNI pairs are summed in int16: at most 2 * 128 * 127, which it holds. */
INLINE vi dot_unsigned(vi sum, vi u, vi s) {
#if defined(SIMD_AVX512)
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)u, (__m512i)s);
#elif defined(__AVXVNNI__)
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)u, (__m256i)s);
#else
    return sum + (vi)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)u, (__m256i)s), _mm256_set1_epi16(1));
#endif
}
typedef vi Four;
INLINE Four four(const void *x) { return vi_all(load_int32(x)); }
#if defined(SIMD_AVX512) || defined(__AVXVNNI__)
enum { DOT_OFFSET = 128 };
INLINE vi dot_operand(vi stored) { return stored; }
INLINE vi dot_int8(vi sum, vi w, Four x) { return dot_unsigned(sum, w, x); }
#else
enum { DOT_OFFSET = 0 };
INLINE vi dot_operand(vi stored) { return int8_weights(stored); }
/* |w| as the unsigned operand, and its sign moved to x, where -128 does not occur. */
INLINE vi dot_int8(vi sum, vi w, Four x) {
    return dot_unsigned(sum, (vi)_mm256_abs_epi8((__m256i)w), (vi)_mm256_sign_epi8((__m256i)x, (__m256i)w));
}
#endif
INLINE vi dot_int4(vi sum, vi w, const void *x) { return dot_unsigned(sum, w, four(x)); }

#elif defined(SIMD_NEON)
typedef int8x16_t Four;
INLINE Four four(const void *x) { return vreinterpretq_s8_s32(vdupq_n_s32(load_int32(x))); }
#ifdef __ARM_FEATURE_MATMUL_INT8
enum { DOT_OFFSET = 128 };
INLINE vi dot_operand(vi stored) { return stored; }
#else
enum { DOT_OFFSET = 0 };
INLINE vi dot_operand(vi stored) { return int8_weights(stored); }
#endif
INLINE vi dot_int8(vi sum, vi w, Four x) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return (vi)vusdotq_s32((int32x4_t)sum, (uint8x16_t)w, x);
#elif defined(__ARM_FEATURE_DOTPROD)
    return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)w, x);
#else /* pairs are summed in int16: at most 2 * 128 * 127, which it holds */
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8(x)), high = vmull_high_s8((int8x16_t)w, x);
    return (vi)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
#endif
}
INLINE vi dot_int4(vi sum, vi w, const void *x) { return dot_int8(sum, w, four(x)); }

#elif defined(SIMD_WASM)
enum { DOT_OFFSET = 128 };
INLINE vi dot_operand(vi stored) { return stored; }
typedef struct { v128_t even, odd; } Four; /* the first and third, the second and fourth, as int16, in all lanes */
INLINE Four four(const void *x) {
    const v128_t all = wasm_v128_load32_splat(x);
    return (Four){wasm_i16x8_shr(wasm_i16x8_shl(all, 8), 8), wasm_i16x8_shr(all, 8)};
}
INLINE vi dot_int8(vi sum, vi w, Four x) {
    const v128_t even = wasm_v128_and((v128_t)w, wasm_i16x8_splat(0xff)), odd = wasm_u16x8_shr((v128_t)w, 8);
    return sum + (vi)wasm_i32x4_dot_i16x8(even, x.even) + (vi)wasm_i32x4_dot_i16x8(odd, x.odd);
}
INLINE vi dot_int4(vi sum, vi w, const void *x) { return dot_int8(sum, w, four(x)); }

#else
enum { DOT_OFFSET = 0 };
INLINE vi dot_operand(vi stored) { return int8_weights(stored); }
typedef struct { vi x[4]; } Four; /* each of the four, in all lanes */
INLINE Four four(const void *x) {
    const int8_t *byte = x;
    return (Four){{vi_all(byte[0]), vi_all(byte[1]), vi_all(byte[2]), vi_all(byte[3])}};
}
INLINE vi dot_int8(vi sum, vi w, Four x) {
    return sum + ((w << 24) >> 24) * x.x[0] + ((w << 16) >> 24) * x.x[1] + ((w << 8) >> 24) * x.x[2] + (w >> 24) * x.x[3];
}
INLINE vi dot_int4(vi sum, vi w, const void *x) { return dot_int8(sum, w, four(x)); }
#endif

/* ---- functions ---- */

/* e^x for x <= 88, within 2 ulp: 2^n times the series of e^f, |f| <= ln(2) / 2, to the power 7. 0 where e^x is below the
 * normal numbers, so for minus infinity; NaN stays NaN. */
INLINE vf vf_exp(vf x) {
    vf limited = vf_min(vf_all(88.0f), vf_max(vf_all(-88.0f), x));
    vi n = vf_round(limited * 1.44269504f);
    vf f = vf_opaque(vf_fma(vi_float(n), vf_all(-0.693359375f), limited)); /* ln 2 in two parts: the first is exact */
    f = vf_fma(vi_float(n), vf_all(2.12194440e-4f), f);
    vf p = vf_fma(vf_all(1.0f / 5040), f, vf_all(1.0f / 720));
    p = vf_fma(p, f, vf_all(1.0f / 120));
    p = vf_fma(p, f, vf_all(1.0f / 24));
    p = vf_fma(p, f, vf_all(1.0f / 6));
    p = vf_fma(p, f, vf_all(0.5f));
    p = vf_fma(p, f, vf_all(1.0f));
    p = vf_fma(p, f, vf_all(1.0f));
    return p * vi_bits((n + 127) << 23); /* n = -127 gives 0 */
}

INLINE float exponential(float x) { return vf_exp(vf_all(x))[0]; }

#endif
