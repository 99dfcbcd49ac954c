/* Maps of images in lanes: [groups of 16 images, channels, rows, columns, 16], with a border of zeros where it is needed.
 *
 * The 16 numbers of a position are those of 16 images, so that every kernel size, stride and map size fills vectors, and
 * a weight is one number for all of them.
 */
#ifndef LIGHTNING_SPARSE_LANES_H
#define LIGHTNING_SPARSE_LANES_H

#include "vector.h"

enum { IMAGES = 16 };

/* Vectors in which the images of a position lie, and positions that fill the registers of a kernel. */
enum { VECTORS = IMAGES / LANES, POSITIONS = REGISTERS / VECTORS };

/* `sizes` of a convolution, in this order. Distances are in floats.
 *
 * groups: groups of 16 images. channels, height, width: those that are computed (or whose errors are given), at the
 * distances output_*. input_row and input_step are the distances in the inputs of two outputs below and beside each
 * other, the strides included. */
enum { GROUPS, INPUT_CHANNELS, CHANNELS, HEIGHT, WIDTH, INPUT_GROUP, INPUT_ROW, INPUT_STEP, OUTPUT_GROUP, OUTPUT_PLANE,
       OUTPUT_ROW, OUTPUT_STEP, THREADS, SIZES };

/* Bytes of inputs that stay in the second-level cache while all channels are computed from them. */
enum { CACHED_BYTES = 600 * 1024 };

/* Rows of outputs whose inputs stay in the cache, a multiple of 4, as far as there are as many. */
INLINE long rows_in_cache(const int64_t *sizes) {
    const int64_t bytes = sizes[INPUT_CHANNELS] * sizes[INPUT_ROW] * (int64_t)sizeof(float);
    long rows = (CACHED_BYTES / (bytes ? bytes : 1) - 2) / 4 * 4;
    rows = rows < 4 ? 4 : rows;
    return rows < sizes[HEIGHT] ? rows : sizes[HEIGHT];
}

#endif
