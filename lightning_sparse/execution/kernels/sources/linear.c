/* Products of sparse matrices with dense ones, feature-major: a row for each feature, a column for each example.
 *
 * Sparse matrices have compressed rows: the entries of row i are those from pointers[i] to pointers[i + 1], each with a
 * column and a value. Dense matrices have `examples` columns, a multiple of 16; columns beyond the batch are computed as
 * the others are. A sum is made in the order of its entries, products and sums fused where the machine can, in single
 * precision; sums over examples are made in LANES partial sums each. Results don't depend on the number of threads.
 *
 * sizes: rows, examples, threads, and whether a ReLU follows.
 */
#include "threads.h"
#include "vector.h"

enum { ROWS, EXAMPLES, THREADS, RELU };

/* Blocks of rows for each thread: enough that threads end at about the same time. */
enum { BLOCKS_A_THREAD = 4 };

typedef struct {
    const float *inputs, *values, *bias, *errors;
    const int32_t *pointers, *columns;
    float *outputs;
    const int64_t *sizes;
    long blocks;
} Product;

static long blocks_of(const int64_t *sizes) {
    long blocks = sizes[THREADS] > 1 ? sizes[THREADS] * BLOCKS_A_THREAD : 1;
    return blocks < sizes[ROWS] ? blocks : sizes[ROWS];
}

/* `width` vectors of one row of the outputs. */
INLINE void row_of_outputs(const Product *p, const int width, long row, long example) {
    const long examples = p->sizes[EXAMPLES];
    const float *inputs = p->inputs + example;
    float *outputs = p->outputs + row * examples + example;
    vec sums[REGISTERS];
    UNROLL for (int i = 0; i < width; i++) sums[i] = all(p->bias ? p->bias[row] : 0);
    for (int32_t k = p->pointers[row]; k < p->pointers[row + 1]; k++) {
        const vec value = all(p->values[k]);
        const float *input = inputs + p->columns[k] * examples;
        OPAQUE(input);
        UNROLL for (int i = 0; i < width; i++) sums[i] += value * load(input + i * LANES);
    }
    if (p->sizes[RELU]) UNROLL for (int i = 0; i < width; i++) sums[i] = positive_part(sums[i]);
    UNROLL for (int i = 0; i < width; i++) store(outputs + i * LANES, sums[i]);
}

/* Few vectors at once leave the units for products waiting: the sums of every other entry are made apart. */
INLINE void narrow_row_of_outputs(const Product *p, const int width, long row, long example) {
    const long examples = p->sizes[EXAMPLES];
    const float *inputs = p->inputs + example;
    float *outputs = p->outputs + row * examples + example;
    const int32_t end = p->pointers[row + 1];
    vec sums[4], others[4];
    UNROLL for (int i = 0; i < width; i++) sums[i] = all(p->bias ? p->bias[row] : 0), others[i] = all(0);
    int32_t k = p->pointers[row];
    for (; k + 1 < end; k += 2) {
        const vec value = all(p->values[k]), other = all(p->values[k + 1]);
        const float *input = inputs + p->columns[k] * examples, *second = inputs + p->columns[k + 1] * examples;
        UNROLL for (int i = 0; i < width; i++) sums[i] += value * load(input + i * LANES);
        UNROLL for (int i = 0; i < width; i++) others[i] += other * load(second + i * LANES);
    }
    if (k < end) {
        const vec value = all(p->values[k]);
        const float *input = inputs + p->columns[k] * examples;
        UNROLL for (int i = 0; i < width; i++) sums[i] += value * load(input + i * LANES);
    }
    UNROLL for (int i = 0; i < width; i++) sums[i] += others[i];
    if (p->sizes[RELU]) UNROLL for (int i = 0; i < width; i++) sums[i] = positive_part(sums[i]);
    UNROLL for (int i = 0; i < width; i++) store(outputs + i * LANES, sums[i]);
}

typedef void (*row_function)(const Product *, long row, long example);

#define ROW_OF_OUTPUTS(width) \
    static void outputs_##width(const Product *p, long row, long example) { row_of_outputs(p, width, row, example); }
#define NARROW_ROW_OF_OUTPUTS(width) \
    static void outputs_##width(const Product *p, long row, long example) { narrow_row_of_outputs(p, width, row, example); }

/* Gradients of the values of one row: products of a row of errors with rows of inputs, summed over `width` vectors. */
INLINE vec product_with(const int width, const vec *errors, const float *input) {
    OPAQUE(input);
    vec sums[4] = {{0}};
    UNROLL for (int i = 0; i < width; i++) sums[i & 3] += errors[i] * load(input + i * LANES);
    return sum_of(width < 4 ? width : 4, sums);
}

INLINE void row_of_gradients(const Product *p, const int width, long row, long example) {
    const long examples = p->sizes[EXAMPLES];
    const float *inputs = p->inputs + example;
    const int32_t end = p->pointers[row + 1];
    vec errors[REGISTERS];
    UNROLL for (int i = 0; i < width; i++) errors[i] = load(p->errors + row * examples + example + i * LANES);
    int32_t k = p->pointers[row];
    for (; k + 4 <= end; k += 4) {
        vec terms[4];
        UNROLL for (int i = 0; i < 4; i++)
            terms[i] = product_with(width, errors, inputs + p->columns[k + i] * examples);
        *(vec4 *)(p->outputs + k) += four_sums(terms[0], terms[1], terms[2], terms[3]);
    }
    for (; k < end; k++) p->outputs[k] += sum(product_with(width, errors, inputs + p->columns[k] * examples));
}

#define ROW_OF_GRADIENTS(width) \
    static void gradients_##width(const Product *p, long row, long example) { row_of_gradients(p, width, row, example); }

#if REGISTERS == 16
ROW_OF_OUTPUTS(16)
ROW_OF_GRADIENTS(16)
#endif
ROW_OF_OUTPUTS(8)
NARROW_ROW_OF_OUTPUTS(4)
NARROW_ROW_OF_OUTPUTS(2)
NARROW_ROW_OF_OUTPUTS(1)
ROW_OF_GRADIENTS(8)
ROW_OF_GRADIENTS(4)
ROW_OF_GRADIENTS(2)
ROW_OF_GRADIENTS(1)

/* Functions by the logarithm of their width. */
#if REGISTERS == 16
enum { LARGEST = 4 };
static const row_function outputs_by_width[] = {outputs_1, outputs_2, outputs_4, outputs_8, outputs_16};
static const row_function gradients_by_width[] = {gradients_1, gradients_2, gradients_4, gradients_8, gradients_16};
#else
enum { LARGEST = 3 };
static const row_function outputs_by_width[] = {outputs_1, outputs_2, outputs_4, outputs_8};
static const row_function gradients_by_width[] = {gradients_1, gradients_2, gradients_4, gradients_8};
#endif

/* Rows of a block, for one strip of examples after the other, so that the inputs of a strip stay in the cache. */
INLINE void by_strips(const Product *p, long block, const row_function *by_width) {
    const long first = p->sizes[ROWS] * block / p->blocks, end = p->sizes[ROWS] * (block + 1) / p->blocks;
    long example = 0;
    for (int width = LARGEST; example < p->sizes[EXAMPLES]; width -= width > 0)
        for (; example + (LANES << width) <= p->sizes[EXAMPLES]; example += LANES << width)
            for (long row = first; row < end; row++) by_width[width](p, row, example);
}

static void product_job(long block, const void *context) { by_strips(context, block, outputs_by_width); }

static void gradients_job(long block, const void *context) {
    const Product *p = context;
    const long first = p->sizes[ROWS] * block / p->blocks, end = p->sizes[ROWS] * (block + 1) / p->blocks;
    const int32_t begin = p->pointers[first];
    if (p->pointers[end] > begin) memset(p->outputs + begin, 0, sizeof(float) * (p->pointers[end] - begin));
    by_strips(p, block, gradients_by_width);
}

/* outputs[rows, examples] = sparse * inputs + bias, then max(0, .) if a ReLU follows (NaN stays NaN). No bias: null. */
void KERNEL(sparse_product)(const int32_t *pointers, const int32_t *columns, const float *values, const float *inputs,
                            const float *bias, float *outputs, const int64_t *sizes) {
    const Product p = {.inputs = inputs, .values = values, .bias = bias, .pointers = pointers, .columns = columns,
                       .outputs = outputs, .sizes = sizes, .blocks = blocks_of(sizes)};
    run_jobs(p.blocks, sizes[THREADS], product_job, &p);
}

/* gradients[k] = sum over examples of errors[row of k] * inputs[column of k], of the sparse matrix's entries only. */
void KERNEL(sampled_product)(const int32_t *pointers, const int32_t *columns, const float *errors, const float *inputs,
                             float *gradients, const int64_t *sizes) {
    const Product p = {.inputs = inputs, .errors = errors, .pointers = pointers, .columns = columns,
                       .outputs = gradients, .sizes = sizes, .blocks = blocks_of(sizes)};
    run_jobs(p.blocks, sizes[THREADS], gradients_job, &p);
}

/* Errors before a ReLU, in place: those after it where its outputs are above 0 (or NaN), else 0. If `sums` is given, it
 * gets the sum of each row: the gradient of a bias. Without `outputs` there was no ReLU. */
void KERNEL(relu_errors)(float *errors, const float *outputs, float *sums, const int64_t *sizes) {
    const long examples = sizes[EXAMPLES];
    for (long row = 0; row < sizes[ROWS]; row++) {
        float *of_row = errors + row * examples;
        vec sum_of_row = all(0);
        for (long i = 0; i < examples; i += LANES) {
            vec error = load(of_row + i);
            if (outputs) {
                error = kept(~(load(outputs + row * examples + i) <= all(0)), error);
                store(of_row + i, error);
            }
            sum_of_row += error;
        }
        if (sums) sums[row] = sum(sum_of_row);
    }
}
