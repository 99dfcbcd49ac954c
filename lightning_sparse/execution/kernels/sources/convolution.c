/* Sparse convolutions of maps in lanes (lanes.h), and the gradients of their weights.
 *
 * Weights have compressed rows, one for each output channel: the entries of channel n are those from pointers[n] to
 * pointers[n + 1], each with a value, and with the distance in floats of the input that it is multiplied by from the
 * first one of a position. So a kernel knows nothing of kernel sizes, strides, padding or dilation: whoever makes the
 * offsets does, and the gradient of the inputs is a convolution with offsets of its own.
 *
 * A sum is made in the order of its entries, products and sums fused where the machine can, in single precision; sums
 * over positions and images in LANES partial sums each, tile by tile. Results don't depend on the number of threads.
 */
#include "lanes.h"
#include "threads.h"

typedef struct {
    const float *inputs, *values, *bias, *errors;
    const int32_t *pointers, *offsets;
    float *outputs;
    const int64_t *sizes;
    long parts; /* jobs of a group, or of all channels */
} Convolution;

typedef struct {
    const Convolution *c;
    const float *inputs, *errors; /* of the group */
    float *outputs;
    int64_t channel;
} Place;

/* A tile of rows x columns positions of one channel. */
INLINE void tile_of_outputs(const Place *at, const int rows, const int columns, long row, long column) {
    const int64_t *s = at->c->sizes;
    const int64_t channel = at->channel, across = s[INPUT_STEP], down = s[INPUT_ROW], out = s[OUTPUT_STEP];
    const float *inputs = at->inputs + row * down + column * across;
    float *outputs = at->outputs + channel * s[OUTPUT_PLANE] + row * s[OUTPUT_ROW] + column * out;
    const float *values = at->c->values;
    const int32_t *offsets = at->c->offsets, end = at->c->pointers[channel + 1];
    vec sums[REGISTERS];
    UNROLL for (int i = 0; i < rows * columns * VECTORS; i++) sums[i] = all(at->c->bias ? at->c->bias[channel] : 0);
    for (int32_t k = at->c->pointers[channel]; k < end; k++) {
        const vec value = all(values[k]);
        const float *input = inputs + offsets[k];
        OPAQUE(input);
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int j = 0; j < columns; j++)
                UNROLL for (int v = 0; v < VECTORS; v++)
                    sums[(i * columns + j) * VECTORS + v] += value * load(input + i * down + j * across + v * LANES);
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                store(outputs + i * s[OUTPUT_ROW] + j * out + v * LANES, sums[(i * columns + j) * VECTORS + v]);
}

/* Products of the errors of a tile with the inputs at one offset, summed. */
INLINE vec product_with(const int64_t *s, const int rows, const int columns, const vec *errors, const float *input) {
    OPAQUE(input);
    vec sums[4] = {{0}};
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++)
            UNROLL for (int v = 0; v < VECTORS; v++) {
                const int n = (i * columns + j) * VECTORS + v;
                sums[n & 3] += errors[n] * load(input + i * s[INPUT_ROW] + j * s[INPUT_STEP] + v * LANES);
            }
    const int terms = rows * columns * VECTORS;
    return sum_of(terms < 3 ? terms : 4, sums);
}

/* Add what a tile contributes to the gradients of one channel's weights. */
INLINE void tile_of_gradients(const Place *at, const int rows, const int columns, long row, long column) {
    const int64_t *s = at->c->sizes;
    const float *inputs = at->inputs + row * s[INPUT_ROW] + column * s[INPUT_STEP];
    const float *from = at->errors + at->channel * s[OUTPUT_PLANE] + row * s[OUTPUT_ROW] + column * s[OUTPUT_STEP];
    const int32_t *offsets = at->c->offsets, end = at->c->pointers[at->channel + 1];
    float *gradients = at->outputs;
    vec errors[REGISTERS];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                errors[(i * columns + j) * VECTORS + v] =
                    load(from + i * s[OUTPUT_ROW] + j * s[OUTPUT_STEP] + v * LANES);
    int32_t k = at->c->pointers[at->channel];
    for (; k + 4 <= end; k += 4) {
        vec terms[4];
        UNROLL for (int i = 0; i < 4; i++)
            terms[i] = product_with(s, rows, columns, errors, inputs + offsets[k + i]);
        *(vec4 *)(gradients + k) += four_sums(terms[0], terms[1], terms[2], terms[3]);
    }
    for (; k < end; k++) gradients[k] += sum(product_with(s, rows, columns, errors, inputs + offsets[k]));
}

typedef void (*tile_function)(const Place *, long row, long column);

/* Tiles that there are a function for, by their columns: one row, and as many rows as fill the registers. */
#define TILES_OF(columns)                                                                                           \
    static void outputs_1_##columns(const Place *at, long i, long j) { tile_of_outputs(at, 1, columns, i, j); }     \
    static void gradients_1_##columns(const Place *at, long i, long j) { tile_of_gradients(at, 1, columns, i, j); } \
    static void outputs_n_##columns(const Place *at, long i, long j) {                                              \
        tile_of_outputs(at, POSITIONS / columns, columns, i, j);                                                    \
    }                                                                                                               \
    static void gradients_n_##columns(const Place *at, long i, long j) {                                            \
        tile_of_gradients(at, POSITIONS / columns, columns, i, j);                                                  \
    }
#define TILE(columns) \
    {columns, POSITIONS / columns, {outputs_1_##columns, gradients_1_##columns}, {outputs_n_##columns, gradients_n_##columns}}

TILES_OF(1)
TILES_OF(2)
#if REGISTERS / (16 / LANES) >= 4
TILES_OF(3)
TILES_OF(4)
#endif
#if REGISTERS / (16 / LANES) >= 8
TILES_OF(5)
TILES_OF(6)
TILES_OF(7)
TILES_OF(8)
#endif
#if REGISTERS / (16 / LANES) >= 16
TILES_OF(10)
TILES_OF(12)
TILES_OF(14)
TILES_OF(16)
#endif

enum { OUTPUTS, GRADIENTS };

/* The widest first. */
static const struct {
    int columns, rows;
    tile_function one_row[2], full[2];
} tiles[] = {
#if REGISTERS / (16 / LANES) >= 16
    TILE(16), TILE(14), TILE(12), TILE(10),
#endif
#if REGISTERS / (16 / LANES) >= 8
    TILE(8), TILE(7), TILE(6), TILE(5),
#endif
#if REGISTERS / (16 / LANES) >= 4
    TILE(4), TILE(3),
#endif
    TILE(2), TILE(1),
};

/* The widest tile of which a row of this width is made, or the widest that fits into it. */
static int tile_for(long width) {
    int fits = 0;
    while (tiles[fits].columns > width) fits++;
    for (int i = fits; 2 * tiles[i].columns > tiles[fits].columns; i++)
        if (width % tiles[i].columns == 0) return i;
    return fits;
}

/* Call the functions of tiles for all positions of rows `first` to `end`. */
static void each_tile(const Place *at, int kind, long first, long end) {
    const long width = at->c->sizes[WIDTH];
    for (long column = 0; column < width;) {
        const int i = tile_for(width - column);
        const long stop = column + (width - column) / tiles[i].columns * tiles[i].columns;
        for (long row = first; row < end;) {
            const int is_full = tiles[i].rows > 1 && row + tiles[i].rows <= end;
            const tile_function call = is_full ? tiles[i].full[kind] : tiles[i].one_row[kind];
            for (long j = column; j < stop; j += tiles[i].columns) call(at, row, j);
            row += is_full ? tiles[i].rows : 1;
        }
        column = stop;
    }
}

/* A share of the channels, for one strip of rows after the other, so that a strip's inputs stay in the cache. */
static void channels_of(const Convolution *c, Place at, int kind, long part) {
    const int64_t *s = c->sizes;
    const int64_t first = s[CHANNELS] * part / c->parts, last = s[CHANNELS] * (part + 1) / c->parts;
    const long rows = rows_in_cache(s);
    for (long row = 0; row < s[HEIGHT]; row += rows)
        for (at.channel = first; at.channel < last; at.channel++)
            each_tile(&at, kind, row, row + rows < s[HEIGHT] ? row + rows : s[HEIGHT]);
}

static void outputs_job(long job, const void *context) {
    const Convolution *c = context;
    const int64_t group = job / c->parts;
    const Place at = {.c = c, .inputs = c->inputs + group * c->sizes[INPUT_GROUP],
                      .outputs = c->outputs + group * c->sizes[OUTPUT_GROUP]};
    channels_of(c, at, OUTPUTS, job % c->parts);
}

static void gradients_job(long part, const void *context) {
    const Convolution *c = context;
    const int64_t *s = c->sizes;
    const int32_t begin = c->pointers[s[CHANNELS] * part / c->parts];
    const int32_t end = c->pointers[s[CHANNELS] * (part + 1) / c->parts];
    if (end > begin) memset(c->outputs + begin, 0, sizeof(float) * (end - begin));
    for (int64_t group = 0; group < s[GROUPS]; group++) {
        const Place at = {.c = c, .inputs = c->inputs + group * s[INPUT_GROUP],
                          .errors = c->errors + group * s[OUTPUT_GROUP], .outputs = c->outputs};
        channels_of(c, at, GRADIENTS, part);
    }
}

/* Parts of the channels, so that there are some jobs for each thread. */
static long parts_for(const int64_t *s, int64_t jobs_apiece) {
    long parts = s[THREADS] > 1 && jobs_apiece ? (4 * s[THREADS] + jobs_apiece - 1) / jobs_apiece : 1;
    parts = parts < s[CHANNELS] ? parts : s[CHANNELS];
    return parts > 1 ? parts : 1;
}

/* outputs[n] = bias[n] + sum over the entries k of channel n of values[k] * inputs at offsets[k]. No bias: null. */
void KERNEL(convolve)(const int32_t *pointers, const int32_t *offsets, const float *values, const float *inputs,
                      const float *bias, float *outputs, const int64_t *sizes) {
    Convolution c = {.inputs = inputs, .values = values, .bias = bias, .pointers = pointers, .offsets = offsets,
                     .outputs = outputs, .sizes = sizes};
    c.parts = parts_for(sizes, sizes[GROUPS]);
    run_jobs(sizes[GROUPS] * c.parts, sizes[THREADS], outputs_job, &c);
}

/* gradients[k] = sum over positions and images of errors[n] * inputs at offsets[k], for the entries k of channel n. */
void KERNEL(correlate)(const int32_t *pointers, const int32_t *offsets, const float *errors, const float *inputs,
                       float *gradients, const int64_t *sizes) {
    Convolution c = {.inputs = inputs, .errors = errors, .pointers = pointers, .offsets = offsets,
                     .outputs = gradients, .sizes = sizes};
    c.parts = parts_for(sizes, 1);
    run_jobs(c.parts, sizes[THREADS], gradients_job, &c);
}
