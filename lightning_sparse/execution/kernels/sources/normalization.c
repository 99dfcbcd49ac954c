/* Batch normalization of maps in lanes (lanes.h), with what follows it: a residual that is added, ReLU, 2 x 2 maximum.
 *
 * All maps have the same halo, which is neither read nor written. Lanes of images beyond the batch are left out of sums
 * and get errors of zero. Moments are sums of differences to one of the channel's values, in single precision within a
 * map and in double between maps. Results don't depend on the number of threads: a job is a channel.
 *
 * With z = scale * x + shift + residual, the outputs are max(0, z) if a ReLU follows, of each 2 x 2 square the largest if
 * it is pooled (of equal ones the first in reading order has the error; odd last rows and columns have none). NaN stays.
 */
#include "lanes.h"
#include "threads.h"

/* `sizes`, in this order: batch, channels, height and width before pooling, halo, whether a ReLU follows, whether it is
 * pooled, threads. */
enum { N_BATCH, N_CHANNELS, N_HEIGHT, N_WIDTH, N_HALO, N_RELU, N_POOL, N_THREADS };

typedef struct {
    const float *maps, *residual, *errors, *scale, *shift, *center, *factors;
    float *outputs, *of_residual;
    double *sums;
    const int64_t *sizes;
    /* Distances in floats: rows, maps, and the first position inside of the halo. */
    int64_t row, plane, inner, pooled_row, pooled_plane;
} Norm;

static Norm norm_of(const int64_t *s) {
    const int64_t halo = 2 * s[N_HALO];
    Norm n = {.sizes = s, .row = (s[N_WIDTH] + halo) * IMAGES};
    n.plane = (s[N_HEIGHT] + halo) * n.row;
    n.inner = s[N_HALO] * (n.row + IMAGES);
    n.pooled_row = (s[N_WIDTH] / 2 + halo) * IMAGES;
    n.pooled_plane = (s[N_HEIGHT] / 2 + halo) * n.pooled_row;
    return n;
}

static int64_t groups_of(const int64_t *s) { return (s[N_BATCH] + IMAGES - 1) / IMAGES; }

/* All bits of the lanes that hold an image of the batch, for one of the vectors of a position. */
INLINE ivec present(const int64_t *s, int64_t group, int vector) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = group * IMAGES + vector * LANES + i < s[N_BATCH] ? -1 : 0;
    return lane;
}

INLINE double sum_in_double(vec x) {
    double total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

static void moments_job(long channel, const void *context) {
    const Norm *n = context;
    const int64_t *s = n->sizes;
    const float first = n->maps[channel * n->plane + n->inner];
    double sum = 0, squares = 0;
    for (int64_t group = 0; group < groups_of(s); group++) {
        const float *maps = n->maps + (group * s[N_CHANNELS] + channel) * n->plane + n->inner;
        for (int v = 0; v < VECTORS; v++) {
            const ivec here = present(s, group, v);
            vec of_map = all(0), of_squares = all(0);
            for (int64_t i = 0; i < s[N_HEIGHT]; i++) {
                const float *row = maps + i * n->row + v * LANES;
                vec of_row = all(0), row_squares = all(0);
                for (int64_t j = 0; j < s[N_WIDTH]; j++) {
                    const vec x = load(row + j * IMAGES) - all(first);
                    of_row += x, row_squares += x * x;
                }
                of_map += of_row, of_squares += row_squares;
            }
            sum += sum_in_double(kept(here, of_map)), squares += sum_in_double(kept(here, of_squares));
        }
    }
    const double count = (double)s[N_BATCH] * s[N_HEIGHT] * s[N_WIDTH], mean = sum / count;
    n->sums[2 * channel] = first + mean;
    n->sums[2 * channel + 1] = squares / count - mean * mean;
}

/* The mean and the variance (divided by the number) of each channel, in double precision, after each other. */
void KERNEL(moments)(const float *maps, double *moments, const int64_t *sizes) {
    Norm n = norm_of(sizes);
    n.maps = maps, n.sums = moments;
    run_jobs(sizes[N_CHANNELS], sizes[N_THREADS], moments_job, &n);
}

INLINE vec normalized(const Norm *n, const int has_residual, int64_t at, vec scale, vec shift) {
    vec z = load(n->maps + at) * scale + shift;
    if (has_residual) z += load(n->residual + at);
    return z;
}

INLINE void outputs_of(const Norm *n, const int relu, const int pool, const int has_residual, int64_t channel) {
    const int64_t *s = n->sizes;
    const vec scale = all(n->scale[channel]), shift = all(n->shift[channel]);
    const int64_t height = pool ? s[N_HEIGHT] / 2 : s[N_HEIGHT], width = pool ? s[N_WIDTH] / 2 : s[N_WIDTH];
    const int64_t below = n->row, out_row = pool ? n->pooled_row : n->row, out_plane = pool ? n->pooled_plane : n->plane;
    for (int64_t group = 0; group < groups_of(s); group++) {
        const int64_t map = group * s[N_CHANNELS] + channel;
        float *outputs = n->outputs + map * out_plane + s[N_HALO] * (out_row + IMAGES);
        for (int64_t i = 0; i < height; i++) {
            const int64_t from = map * n->plane + n->inner + i * (pool ? 2 : 1) * n->row;
            for (int64_t j = 0; j < width * IMAGES; j += LANES) {
                /* Squares lie two positions apart; the images of a position stay together. */
                const int64_t at = from + (pool ? j / IMAGES * 2 * IMAGES + j % IMAGES : j);
                vec z = normalized(n, has_residual, at, scale, shift);
                if (pool) {
                    z = larger(z, normalized(n, has_residual, at + IMAGES, scale, shift));
                    z = larger(z, normalized(n, has_residual, at + below, scale, shift));
                    z = larger(z, normalized(n, has_residual, at + below + IMAGES, scale, shift));
                }
                store(outputs + i * out_row + j, relu ? positive_part(z) : z);
            }
        }
    }
}

/* Call `function` with its flags known to the compiler. */
#define WITH_FLAGS(function, n, ...)                                     \
    switch (((n)->sizes[N_RELU] ? 1 : 0) + ((n)->sizes[N_POOL] ? 2 : 0) + ((n)->residual ? 4 : 0)) { \
        case 0: function(n, 0, 0, 0, __VA_ARGS__); break;                \
        case 1: function(n, 1, 0, 0, __VA_ARGS__); break;                \
        case 2: function(n, 0, 1, 0, __VA_ARGS__); break;                \
        case 3: function(n, 1, 1, 0, __VA_ARGS__); break;                \
        case 4: function(n, 0, 0, 1, __VA_ARGS__); break;                \
        case 5: function(n, 1, 0, 1, __VA_ARGS__); break;                \
        case 6: function(n, 0, 1, 1, __VA_ARGS__); break;                \
        default: function(n, 1, 1, 1, __VA_ARGS__);                      \
    }

static void outputs_job(long channel, const void *context) {
    const Norm *n = context;
    WITH_FLAGS(outputs_of, n, channel)
}

/* The outputs, with the scale and shift of each channel. No residual: null. */
void KERNEL(normalize)(const float *maps, const float *residual, const float *scale, const float *shift, float *outputs,
                       const int64_t *sizes) {
    Norm n = norm_of(sizes);
    n.maps = maps, n.residual = residual, n.scale = scale, n.shift = shift, n.outputs = outputs;
    run_jobs(sizes[N_CHANNELS], sizes[N_THREADS], outputs_job, &n);
}

/* Where errors go: sums of them and of their products with x - center, or the errors of x and of the residual. */
typedef struct {
    const Norm *n;
    vec sums, products, center, factor, slope, offset;
    int writes;
} Sink;

INLINE void sink(Sink *to, const int has_residual, int64_t at, vec error, ivec here) {
    const vec x = load(to->n->maps + at) - to->center;
    if (!to->writes) {
        error = kept(here, error);
        to->sums += error, to->products += error * kept(here, x);
        return;
    }
    store(to->n->outputs + at, kept(here, error * to->factor + x * to->slope + to->offset));
    if (has_residual) store(to->n->of_residual + at, kept(here, error));
}

INLINE void errors_of(const Norm *n, const int relu, const int pool, const int has_residual, int64_t channel, Sink *to,
                      int64_t group) {
    const int64_t *s = n->sizes;
    const vec scale = all(n->scale[channel]), shift = all(n->shift[channel]), zero = all(0);
    const int64_t map = group * s[N_CHANNELS] + channel, below = n->row;
    const int64_t out_row = pool ? n->pooled_row : n->row;
    const float *errors = n->errors + map * (pool ? n->pooled_plane : n->plane) + s[N_HALO] * (out_row + IMAGES);
    for (int v = 0; v < VECTORS; v++) {
        const ivec here = present(s, group, v);
        const int64_t first = map * n->plane + n->inner + v * LANES;
        for (int64_t i = 0; i < s[N_HEIGHT]; i += pool ? 2 : 1)
            for (int64_t j = 0; j < s[N_WIDTH]; j += pool ? 2 : 1) {
                const int64_t at = first + i * n->row + j * IMAGES;
                if (!pool) {
                    vec error = load(errors + i * n->row + j * IMAGES + v * LANES);
                    if (relu) error = kept(~(normalized(n, has_residual, at, scale, shift) <= zero), error);
                    sink(to, has_residual, at, error, here);
                    continue;
                }
                const int right = j + 1 < s[N_WIDTH], down = i + 1 < s[N_HEIGHT];
                if (!right || !down) { /* in no square */
                    sink(to, has_residual, at, zero, here);
                    if (right) sink(to, has_residual, at + IMAGES, zero, here);
                    if (down) sink(to, has_residual, at + below, zero, here);
                    continue;
                }
                const vec a = normalized(n, has_residual, at, scale, shift);
                const vec b = normalized(n, has_residual, at + IMAGES, scale, shift);
                const vec c = normalized(n, has_residual, at + below, scale, shift);
                const vec d = normalized(n, has_residual, at + below + IMAGES, scale, shift);
                const vec most = larger(larger(larger(a, b), c), d);
                vec error = load(errors + i / 2 * n->pooled_row + j / 2 * IMAGES + v * LANES);
                if (relu) error = kept(~(most <= zero), error);
                const ivec is_a = a == most, is_b = ~is_a & (b == most), is_c = ~(is_a | is_b) & (c == most);
                sink(to, has_residual, at, kept(is_a, error), here);
                sink(to, has_residual, at + IMAGES, kept(is_b, error), here);
                sink(to, has_residual, at + below, kept(is_c, error), here);
                sink(to, has_residual, at + below + IMAGES, kept(~(is_a | is_b | is_c), error), here);
            }
    }
}

static void error_sums_job(long channel, const void *context) {
    const Norm *n = context;
    double sums = 0, products = 0;
    for (int64_t group = 0; group < groups_of(n->sizes); group++) {
        Sink to = {.n = n, .center = all(n->center[channel]), .writes = 0};
        WITH_FLAGS(errors_of, n, channel, &to, group)
        sums += sum_in_double(to.sums), products += sum_in_double(to.products);
    }
    n->sums[2 * channel] = sums, n->sums[2 * channel + 1] = products;
}

/* For each channel, after each other in double precision: the sum of the errors of z, and of their products with
 * x - center. From these follow the gradients of scale and shift, and the factors of `normalize_errors`. */
void KERNEL(error_sums)(const float *maps, const float *residual, const float *errors, const float *scale,
                        const float *shift, const float *center, double *sums, const int64_t *sizes) {
    Norm n = norm_of(sizes);
    n.maps = maps, n.residual = residual, n.errors = errors, n.scale = scale, n.shift = shift, n.center = center;
    n.sums = sums;
    run_jobs(sizes[N_CHANNELS], sizes[N_THREADS], error_sums_job, &n);
}

static void errors_job(long channel, const void *context) {
    const Norm *n = context;
    const float *factors = n->factors + 3 * channel;
    for (int64_t group = 0; group < groups_of(n->sizes); group++) {
        Sink to = {.n = n, .center = all(n->center[channel]), .factor = all(factors[0]), .slope = all(factors[1]),
                   .offset = all(factors[2]), .writes = 1};
        WITH_FLAGS(errors_of, n, channel, &to, group)
    }
}

/* Errors of x: factors[0] * (those of z) + factors[1] * (x - center) + factors[2], with three factors for each channel;
 * and the errors of the residual, which are those of z. */
void KERNEL(normalize_errors)(const float *maps, const float *residual, const float *errors, const float *scale,
                              const float *shift, const float *center, const float *factors, float *of_maps,
                              float *of_residual, const int64_t *sizes) {
    Norm n = norm_of(sizes);
    n.maps = maps, n.residual = residual, n.errors = errors, n.scale = scale, n.shift = shift, n.center = center;
    n.factors = factors, n.outputs = of_maps, n.of_residual = of_residual;
    run_jobs(sizes[N_CHANNELS], sizes[N_THREADS], errors_job, &n);
}
