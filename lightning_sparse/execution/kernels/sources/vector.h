/* Vectors of floats, as wide as the instruction set that a file is compiled for: GCC's and clang's extensions of C.
 *
 * Every kernel is compiled once for each instruction set; KERNEL(name) gives its functions names of their own. Floating
 * point is ordinary: no flags that change rounding, NaN or denormals, but products and sums may be fused.
 */
#ifndef LIGHTNING_SPARSE_VECTOR_H
#define LIGHTNING_SPARSE_VECTOR_H

#include <stdint.h>
#include <string.h>

/* LANES: floats in a vector. REGISTERS: vectors that a kernel accumulates in at once, half of those there are. */
#if defined(__AVX512F__)
#define LANES 16
#define REGISTERS 16
#define VARIANT avx512
#elif defined(__AVX2__)
#define LANES 8
#define REGISTERS 8
#define VARIANT avx2
#else
#define LANES 4
#define VARIANT baseline
#if defined(__aarch64__)
#define REGISTERS 16
#else
#define REGISTERS 8
#endif
#endif

#define JOIN_EXPANDED(name, variant) name##_##variant
#define JOIN(name, variant) JOIN_EXPANDED(name, variant)
#define KERNEL(name) JOIN(name, VARIANT)

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Memory needs no alignment beyond that of floats. */
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float vec4 __attribute__((vector_size(16), aligned(4), may_alias));

/* The compiler can't see where a pointer comes from: it then keeps the address in one register, instead of one for each
 * distance from it. */
#define OPAQUE(pointer) __asm__("" : "+r"(pointer))

#if LANES == 16
#define EACH_LANE(of) \
    of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7), of(8), of(9), of(10), of(11), of(12), of(13), of(14), of(15)
#elif LANES == 8
#define EACH_LANE(of) of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7)
#else
#define EACH_LANE(of) of(0), of(1), of(2), of(3)
#endif

/* Lanes of two vectors: those of the second are counted from LANES on. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, of) __builtin_shufflevector(a, b, EACH_LANE(of))
#else
#define SHUFFLE(a, b, of) __builtin_shuffle(a, b, (ivec){EACH_LANE(of)})
#endif

INLINE vec load(const float *from) { return *(const vec *)from; }

INLINE void store(float *to, vec x) { *(vec *)to = x; }

/* All lanes x; the difference to zero keeps the sign of a zero. */
INLINE vec all(float x) { return x - (vec){0}; }

/* Lanes of `a` where `where` has all bits set, zero where it has none. */
INLINE vec kept(ivec where, vec a) { return (vec)(where & (ivec)a); }

INLINE vec choose(ivec where, vec a, vec b) { return (vec)((where & (ivec)a) | (~where & (ivec)b)); }

/* max(a, b), NaN where either is. */
INLINE vec larger(vec a, vec b) { return choose((a > b) | (a != a), a, b); }

/* max(a, 0), NaN where a is. */
INLINE vec positive_part(vec a) { return kept(~(a <= (vec){0}), a); }

#define LOW_PAIRS(lane) (((lane) & ~3) + (((lane) & 3) >> 1) + ((lane) & 1) * LANES)
#define HIGH_PAIRS(lane) (LOW_PAIRS(lane) + 2)
#define LOW_DOUBLES(lane) (((lane) & ~3) + ((lane) & 1) + (((lane) & 3) >> 1) * LANES)
#define HIGH_DOUBLES(lane) (LOW_DOUBLES(lane) + 2)

/* The sum of each four lanes' counterparts, four lanes. */
INLINE vec4 folded(vec a) {
    union {
        vec whole;
        vec4 parts[LANES / 4];
    } all_lanes = {a};
#if LANES == 16
    return (all_lanes.parts[0] + all_lanes.parts[2]) + (all_lanes.parts[1] + all_lanes.parts[3]);
#elif LANES == 8
    return all_lanes.parts[0] + all_lanes.parts[1];
#else
    return all_lanes.parts[0];
#endif
}

/* The sums of all lanes of four vectors. */
INLINE vec4 four_sums(vec a, vec b, vec c, vec d) {
    vec first = SHUFFLE(a, b, LOW_PAIRS) + SHUFFLE(a, b, HIGH_PAIRS);
    vec second = SHUFFLE(c, d, LOW_PAIRS) + SHUFFLE(c, d, HIGH_PAIRS);
    return folded(SHUFFLE(first, second, LOW_DOUBLES) + SHUFFLE(first, second, HIGH_DOUBLES));
}

/* The sum of all lanes, in the order of four_sums. */
INLINE float sum(vec a) {
    vec4 four = folded(a);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* The sum of `count` vectors, a power of two up to REGISTERS, in pairs. `terms` is overwritten. */
INLINE vec sum_of(int count, vec *terms) {
    UNROLL for (int half = count / 2; half >= 1; half /= 2)
        UNROLL for (int i = 0; i < half; i++) terms[i] += terms[i + half];
    return terms[0];
}

#endif
