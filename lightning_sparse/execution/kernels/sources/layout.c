/* Changes of layout: values of sparse weights, and batches that become feature-major or lie in lanes. Exact copies. */
#include "lanes.h"

#define FIRST_OF(lane, step) ((lane) & (step) ? LANES + (lane) - (step) : (lane))
#define SECOND_OF(lane, step) ((lane) & (step) ? LANES + (lane) : (lane) + (step))
#define FIRST_1(lane) FIRST_OF(lane, 1)
#define SECOND_1(lane) SECOND_OF(lane, 1)
#define FIRST_2(lane) FIRST_OF(lane, 2)
#define SECOND_2(lane) SECOND_OF(lane, 2)
#define FIRST_4(lane) FIRST_OF(lane, 4)
#define SECOND_4(lane) SECOND_OF(lane, 4)
#define FIRST_8(lane) FIRST_OF(lane, 8)
#define SECOND_8(lane) SECOND_OF(lane, 8)

/* Exchange the blocks beside the diagonal, of `step` rows and lanes each. */
#define EXCHANGE(rows, step)                                                          \
    UNROLL for (int i = 0; i < LANES; i++) if (!(i & step)) {                         \
        const vec first = rows[i], second = rows[i + step];                           \
        rows[i] = SHUFFLE(first, second, FIRST_##step);                               \
        rows[i + step] = SHUFFLE(first, second, SECOND_##step);                       \
    }

/* Transpose LANES vectors. */
INLINE void transpose_square(vec *rows) {
    EXCHANGE(rows, 1)
    EXCHANGE(rows, 2)
#if LANES >= 8
    EXCHANGE(rows, 4)
#endif
#if LANES >= 16
    EXCHANGE(rows, 8)
#endif
}

/* Transpose [height, width] to [width, at least height]; rows lie `step` and `other_step` floats apart. */
static void transpose(const float *from, long step, float *to, long other_step, long height, long width) {
    long i = 0;
    for (; i + LANES <= height; i += LANES) {
        long j = 0;
        for (; j + LANES <= width; j += LANES) {
            vec rows[LANES];
            UNROLL for (int k = 0; k < LANES; k++) rows[k] = load(from + (i + k) * step + j);
            transpose_square(rows);
            UNROLL for (int k = 0; k < LANES; k++) store(to + (j + k) * other_step + i, rows[k]);
        }
        for (; j < width; j++)
            for (int k = 0; k < LANES; k++) to[j * other_step + i + k] = from[(i + k) * step + j];
    }
    for (; i < height; i++)
        for (long j = 0; j < width; j++) to[j * other_step + i] = from[i * step + j];
}

/* values[k] = weights[places[k]] */
void KERNEL(gather)(const float *weights, const int32_t *places, float *values, const int64_t *sizes) {
    for (int64_t k = 0; k < sizes[0]; k++) values[k] = weights[places[k]];
}

/* weights[places[k]] = values[k] */
void KERNEL(scatter)(const float *values, const int32_t *places, float *weights, const int64_t *sizes) {
    for (int64_t k = 0; k < sizes[0]; k++) weights[places[k]] = values[k];
}

/* [batch, features] to [features, examples]; columns beyond the batch are zero. sizes: batch, features, examples. */
void KERNEL(to_features)(const float *batch, float *features, const int64_t *sizes) {
    transpose(batch, sizes[1], features, sizes[2], sizes[0], sizes[1]);
    if (sizes[2] > sizes[0])
        for (long i = 0; i < sizes[1]; i++)
            memset(features + i * sizes[2] + sizes[0], 0, sizeof(float) * (sizes[2] - sizes[0]));
}

/* [features, examples] to [batch, features]. sizes: batch, features, examples. */
void KERNEL(from_features)(const float *features, float *batch, const int64_t *sizes) {
    transpose(features, sizes[2], batch, sizes[1], sizes[1], sizes[0]);
}

/* Where maps that lie in lanes are. sizes: batch, channels, height, width, halo (rows and columns around each map). */
typedef struct {
    int64_t batch, channels, height, width, row, plane, inner;
} Maps;

static Maps maps_of(const int64_t *sizes) {
    Maps m = {.batch = sizes[0], .channels = sizes[1], .height = sizes[2], .width = sizes[3]};
    m.row = (m.width + 2 * sizes[4]) * IMAGES;
    m.plane = (m.height + 2 * sizes[4]) * m.row;
    m.inner = sizes[4] * (m.row + IMAGES);
    return m;
}

/* [batch, channels, height, width] to lanes. Images beyond the batch are zero; the halo is left as it is. */
void KERNEL(to_lanes)(const float *maps, float *lanes, const int64_t *sizes) {
    const Maps m = maps_of(sizes);
    const int64_t image = m.channels * m.height * m.width;
    for (int64_t first = 0; first < m.batch; first += IMAGES) {
        const int64_t images = m.batch - first < IMAGES ? m.batch - first : IMAGES;
        for (int64_t channel = 0; channel < m.channels; channel++)
            for (int64_t i = 0; i < m.height; i++) {
                const float *from = maps + first * image + (channel * m.height + i) * m.width;
                float *to = lanes + (first / IMAGES * m.channels + channel) * m.plane + m.inner + i * m.row;
                if (images < IMAGES) memset(to, 0, sizeof(float) * m.width * IMAGES);
                transpose(from, image, to, IMAGES, images, m.width);
            }
    }
}

/* Lanes to [batch, channels, height, width]. */
void KERNEL(from_lanes)(const float *lanes, float *maps, const int64_t *sizes) {
    const Maps m = maps_of(sizes);
    const int64_t image = m.channels * m.height * m.width;
    for (int64_t first = 0; first < m.batch; first += IMAGES) {
        const int64_t images = m.batch - first < IMAGES ? m.batch - first : IMAGES;
        for (int64_t channel = 0; channel < m.channels; channel++)
            for (int64_t i = 0; i < m.height; i++) {
                const float *from = lanes + (first / IMAGES * m.channels + channel) * m.plane + m.inner + i * m.row;
                float *to = maps + first * image + (channel * m.height + i) * m.width;
                transpose(from, IMAGES, to, image, m.width, images);
            }
    }
}
