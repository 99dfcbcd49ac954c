/* What each kernel computes, one number after the other, in double precision: to test against, and to read.
 *
 * Arguments are those of the kernels of the same names, which have their contracts.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

void sparse_product_reference(const int32_t *pointers, const int32_t *columns, const float *values, const float *inputs,
                              const float *bias, float *outputs, const int64_t *sizes) {
    const int64_t rows = sizes[0], examples = sizes[1], relu = sizes[3];
    for (int64_t row = 0; row < rows; row++)
        for (int64_t example = 0; example < examples; example++) {
            double total = bias ? bias[row] : 0;
            for (int32_t k = pointers[row]; k < pointers[row + 1]; k++)
                total += (double)values[k] * inputs[columns[k] * examples + example];
            outputs[row * examples + example] = relu && total <= 0 ? 0 : total;
        }
}

void sampled_product_reference(const int32_t *pointers, const int32_t *columns, const float *errors, const float *inputs,
                               float *gradients, const int64_t *sizes) {
    const int64_t rows = sizes[0], examples = sizes[1];
    for (int64_t row = 0; row < rows; row++)
        for (int32_t k = pointers[row]; k < pointers[row + 1]; k++) {
            double total = 0;
            for (int64_t example = 0; example < examples; example++)
                total += (double)errors[row * examples + example] * inputs[columns[k] * examples + example];
            gradients[k] = total;
        }
}

void relu_errors_reference(float *errors, const float *outputs, float *sums, const int64_t *sizes) {
    const int64_t rows = sizes[0], examples = sizes[1];
    for (int64_t row = 0; row < rows; row++) {
        double total = 0;
        for (int64_t i = row * examples; i < (row + 1) * examples; i++) {
            if (outputs && outputs[i] <= 0) errors[i] = 0;
            total += errors[i];
        }
        if (sums) sums[row] = total;
    }
}

void gather_reference(const float *weights, const int32_t *places, float *values, const int64_t *sizes) {
    for (int64_t k = 0; k < sizes[0]; k++) values[k] = weights[places[k]];
}

void scatter_reference(const float *values, const int32_t *places, float *weights, const int64_t *sizes) {
    for (int64_t k = 0; k < sizes[0]; k++) weights[places[k]] = values[k];
}

void to_features_reference(const float *batch, float *features, const int64_t *sizes) {
    for (int64_t i = 0; i < sizes[1]; i++)
        for (int64_t j = 0; j < sizes[2]; j++) features[i * sizes[2] + j] = j < sizes[0] ? batch[j * sizes[1] + i] : 0;
}

void from_features_reference(const float *features, float *batch, const int64_t *sizes) {
    for (int64_t i = 0; i < sizes[1]; i++)
        for (int64_t j = 0; j < sizes[0]; j++) batch[j * sizes[1] + i] = features[i * sizes[2] + j];
}

void apply_mask_reference(float *weights, const uint8_t *bits, const int64_t *sizes) {
    for (int64_t i = 0; i < sizes[0]; i++)
        if (!(bits[i / 8] >> (i % 8) & 1)) weights[i] = 0;
}

/* Position of an element in maps that lie in lanes of 16 images. sizes: batch, channels, height, width, halo. */
static int64_t lane_of(const int64_t *sizes, int64_t image, int64_t channel, int64_t i, int64_t j) {
    const int64_t rows = sizes[2] + 2 * sizes[4], columns = sizes[3] + 2 * sizes[4];
    return ((((image / 16) * sizes[1] + channel) * rows + i + sizes[4]) * columns + j + sizes[4]) * 16 + image % 16;
}

void to_lanes_reference(const float *maps, float *lanes, const int64_t *sizes) {
    for (int64_t image = 0; image < (sizes[0] + 15) / 16 * 16; image++)
        for (int64_t channel = 0; channel < sizes[1]; channel++)
            for (int64_t i = 0; i < sizes[2]; i++)
                for (int64_t j = 0; j < sizes[3]; j++)
                    lanes[lane_of(sizes, image, channel, i, j)] =
                        image < sizes[0] ? maps[((image * sizes[1] + channel) * sizes[2] + i) * sizes[3] + j] : 0;
}

void from_lanes_reference(const float *lanes, float *maps, const int64_t *sizes) {
    for (int64_t image = 0; image < sizes[0]; image++)
        for (int64_t channel = 0; channel < sizes[1]; channel++)
            for (int64_t i = 0; i < sizes[2]; i++)
                for (int64_t j = 0; j < sizes[3]; j++)
                    maps[((image * sizes[1] + channel) * sizes[2] + i) * sizes[3] + j] =
                        lanes[lane_of(sizes, image, channel, i, j)];
}

/* Indices into `sizes` of the convolutions, as in lanes.h. */
enum { GROUPS, INPUT_CHANNELS, CHANNELS, HEIGHT, WIDTH, INPUT_GROUP, INPUT_ROW, INPUT_STEP, OUTPUT_GROUP, OUTPUT_PLANE,
       OUTPUT_ROW, OUTPUT_STEP };

void convolve_reference(const int32_t *pointers, const int32_t *offsets, const float *values, const float *inputs,
                        const float *bias, float *outputs, const int64_t *s) {
    for (int64_t group = 0; group < s[GROUPS]; group++)
        for (int64_t channel = 0; channel < s[CHANNELS]; channel++)
            for (int64_t i = 0; i < s[HEIGHT]; i++)
                for (int64_t j = 0; j < s[WIDTH]; j++)
                    for (int64_t lane = 0; lane < 16; lane++) {
                        const float *input = inputs + group * s[INPUT_GROUP] + i * s[INPUT_ROW] + j * s[INPUT_STEP] + lane;
                        double total = bias ? bias[channel] : 0;
                        for (int32_t k = pointers[channel]; k < pointers[channel + 1]; k++)
                            total += (double)values[k] * input[offsets[k]];
                        outputs[group * s[OUTPUT_GROUP] + channel * s[OUTPUT_PLANE] + i * s[OUTPUT_ROW] +
                                j * s[OUTPUT_STEP] + lane] = total;
                    }
}

void correlate_reference(const int32_t *pointers, const int32_t *offsets, const float *errors, const float *inputs,
                         float *gradients, const int64_t *s) {
    for (int64_t channel = 0; channel < s[CHANNELS]; channel++)
        for (int32_t k = pointers[channel]; k < pointers[channel + 1]; k++) {
            double total = 0;
            for (int64_t group = 0; group < s[GROUPS]; group++)
                for (int64_t i = 0; i < s[HEIGHT]; i++)
                    for (int64_t j = 0; j < s[WIDTH]; j++)
                        for (int64_t lane = 0; lane < 16; lane++)
                            total += (double)errors[group * s[OUTPUT_GROUP] + channel * s[OUTPUT_PLANE] +
                                                    i * s[OUTPUT_ROW] + j * s[OUTPUT_STEP] + lane] *
                                     inputs[group * s[INPUT_GROUP] + i * s[INPUT_ROW] + j * s[INPUT_STEP] + lane +
                                            offsets[k]];
            gradients[k] = total;
        }
}

/* Indices into `sizes` of the normalization. */
enum { N_BATCH, N_CHANNELS, N_HEIGHT, N_WIDTH, N_HALO, N_RELU, N_POOL };

/* Position of an element of maps with half the rows and columns, if they are pooled. */
static int64_t pooled_of(const int64_t *s, int64_t image, int64_t channel, int64_t i, int64_t j) {
    const int64_t half[] = {s[N_BATCH], s[N_CHANNELS], s[N_HEIGHT] / 2, s[N_WIDTH] / 2, s[N_HALO]};
    return lane_of(s[N_POOL] ? half : s, image, channel, i, j);
}

void moments_reference(const float *maps, double *moments, const int64_t *s) {
    const double count = (double)s[N_BATCH] * s[N_HEIGHT] * s[N_WIDTH];
    for (int64_t channel = 0; channel < s[N_CHANNELS]; channel++) {
        double mean = 0, variance = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t image = 0; image < s[N_BATCH]; image++)
                for (int64_t i = 0; i < s[N_HEIGHT]; i++)
                    for (int64_t j = 0; j < s[N_WIDTH]; j++) {
                        const double x = maps[lane_of(s, image, channel, i, j)];
                        if (pass == 0) mean += x / count;
                        else variance += (x - mean) * (x - mean) / count;
                    }
        moments[2 * channel] = mean, moments[2 * channel + 1] = variance;
    }
}

/* z of one position. Rounded to single precision, in which the kernels compare. */
static float z_of(const float *maps, const float *residual, const float *scale, const float *shift, int64_t channel,
                  int64_t at) {
    const float z = fmaf(maps[at], scale[channel], shift[channel]);
    return residual ? z + residual[at] : z;
}

void normalize_reference(const float *maps, const float *residual, const float *scale, const float *shift,
                         float *outputs, const int64_t *s) {
    const int64_t step = s[N_POOL] ? 2 : 1;
    for (int64_t image = 0; image < s[N_BATCH]; image++)
        for (int64_t channel = 0; channel < s[N_CHANNELS]; channel++)
            for (int64_t i = 0; i < s[N_HEIGHT] / step; i++)
                for (int64_t j = 0; j < s[N_WIDTH] / step; j++) {
                    float most = z_of(maps, residual, scale, shift, channel, lane_of(s, image, channel, i * step, j * step));
                    for (int64_t k = 1; k < step * step; k++) {
                        const int64_t at = lane_of(s, image, channel, i * step + k / 2, j * step + k % 2);
                        const float z = z_of(maps, residual, scale, shift, channel, at);
                        if (z > most || isnan(z)) most = z;
                    }
                    outputs[pooled_of(s, image, channel, i, j)] = s[N_RELU] && most <= 0 ? 0 : most;
                }
}

/* The error of z at one position. */
static double error_of(const float *maps, const float *residual, const float *errors, const float *scale,
                       const float *shift, const int64_t *s, int64_t image, int64_t channel, int64_t i, int64_t j) {
    const int64_t step = s[N_POOL] ? 2 : 1;
    if (i / step >= s[N_HEIGHT] / step || j / step >= s[N_WIDTH] / step) return 0;
    int64_t best_i = i / step * step, best_j = j / step * step;
    float most = z_of(maps, residual, scale, shift, channel, lane_of(s, image, channel, best_i, best_j));
    for (int64_t k = 1; k < step * step; k++) {
        const int64_t row = i / step * step + k / 2, column = j / step * step + k % 2;
        const float z = z_of(maps, residual, scale, shift, channel, lane_of(s, image, channel, row, column));
        if (z > most) most = z, best_i = row, best_j = column;
    }
    const int has_error = best_i == i && best_j == j && !(s[N_RELU] && most <= 0);
    return has_error ? errors[pooled_of(s, image, channel, i / step, j / step)] : 0;
}

void error_sums_reference(const float *maps, const float *residual, const float *errors, const float *scale,
                          const float *shift, const float *center, double *sums, const int64_t *s) {
    for (int64_t channel = 0; channel < s[N_CHANNELS]; channel++) {
        sums[2 * channel] = sums[2 * channel + 1] = 0;
        for (int64_t image = 0; image < s[N_BATCH]; image++)
            for (int64_t i = 0; i < s[N_HEIGHT]; i++)
                for (int64_t j = 0; j < s[N_WIDTH]; j++) {
                    const double error = error_of(maps, residual, errors, scale, shift, s, image, channel, i, j);
                    sums[2 * channel] += error;
                    sums[2 * channel + 1] += error * ((double)maps[lane_of(s, image, channel, i, j)] - center[channel]);
                }
    }
}

void normalize_errors_reference(const float *maps, const float *residual, const float *errors, const float *scale,
                                const float *shift, const float *center, const float *factors, float *of_maps,
                                float *of_residual, const int64_t *s) {
    for (int64_t image = 0; image < (s[N_BATCH] + 15) / 16 * 16; image++)
        for (int64_t channel = 0; channel < s[N_CHANNELS]; channel++)
            for (int64_t i = 0; i < s[N_HEIGHT]; i++)
                for (int64_t j = 0; j < s[N_WIDTH]; j++) {
                    const int64_t at = lane_of(s, image, channel, i, j);
                    const float *factor = factors + 3 * channel;
                    const int is_present = image < s[N_BATCH];
                    const double error = is_present ? error_of(maps, residual, errors, scale, shift, s, image, channel, i, j) : 0;
                    of_maps[at] = is_present ? factor[0] * error + factor[1] * ((double)maps[at] - center[channel]) + factor[2] : 0;
                    if (residual) of_residual[at] = error;
                }
}
