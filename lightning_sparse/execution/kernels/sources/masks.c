/* Masks of one bit a weight. */
#include "vector.h"

#define BIT(lane) (1 << (lane))

/* Set weights to zero (NaN and infinity, too) whose bit isn't set.
 *
 * Bit i % 8 of byte i / 8, the lowest first, is that of weight i: the order of topology.packing. sizes: weights.
 */
void KERNEL(apply_mask)(float *weights, const uint8_t *bits, const int64_t *sizes) {
    const ivec each = {EACH_LANE(BIT)};
    int64_t i = 0;
    for (; i + 16 <= sizes[0]; i += 16) {
        uint16_t word;
        memcpy(&word, bits + i / 8, 2);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap16(word);
#endif
        UNROLL for (int j = 0; j < 16; j += LANES) {
            const ivec here = ((ivec){0} + (word >> j)) & each;
            store(weights + i + j, kept(here != 0, load(weights + i + j)));
        }
    }
    for (; i < sizes[0]; i++)
        if (!(bits[i / 8] >> (i % 8) & 1)) weights[i] = 0;
}
