/* Products of matrices that lie in a processor's cache.

   A library would be handed one product after the other for all matrices of a batch, each of which it fetches from
   memory again; where a matrix goes from one product into the next, it need not leave the cache. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "lanes.h"

/* Rows of a product that are found together: with two registers each they leave three of 16, or eight of 32. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define TALL 12
#else
#define TALL 6
#endif

/* Keep two registers from being read from memory again for each use. */
#if defined(__x86_64__)
#define HELD(a, b) __asm__("" : "+v"(a), "+v"(b))
#elif defined(__aarch64__)
#define HELD(a, b) __asm__("" : "+w"(a), "+w"(b))
#else
#define HELD(a, b)
#endif

/* A matrix whose element (i, j) is at[i * row + j * column]. */
typedef struct {
    float *at;
    long row, column;
} Matrix;

INLINE Matrix matrix(float *at, long row) { return (Matrix){at, row, 1}; }
INLINE Matrix transposed(Matrix x) { return (Matrix){x.at, x.column, x.row}; }
INLINE Matrix from(Matrix x, int i, int j) { return (Matrix){x.at + i * x.row + j * x.column, x.row, x.column}; }

/* `rows` rows, and one or two registers of columns, of a product. */
INLINE void tile(const int rows, const int two, Matrix c, const float *a, long a_row, long a_column, const float *b,
                 long b_row, int depth, int more)
{
    vec sum[TALL][2] = {0};
    for (int k = 0; k < depth; k++) {
        vec left = load(b, LANES, 1), right = two ? load(b + LANES, LANES, 1) : left;
        HELD(left, right);
        for (int i = 0; i < rows; i++) {
            const float x = a[i * a_row];
            sum[i][0] += x * left;
            if (two)
                sum[i][1] += x * right;
        }
        a += a_column;
        b += b_row;
    }
    for (int i = 0; i < rows; i++) {
        float *to = c.at + i * c.row;
        for (int r = 0; r < 1 + two; r++)
            store(to + r * LANES, more ? sum[i][r] + load(to + r * LANES, LANES, 1) : sum[i][r], LANES, 1);
    }
}

static void tiles(int rows, int two, Matrix c, const float *a, long a_row, long a_column, const float *b, long b_row,
                  int depth, int more)
{
    switch (2 * rows + two) {
#define CASE(rows) \
    case 2 * rows: tile(rows, 0, c, a, a_row, a_column, b, b_row, depth, more); return; \
    case 2 * rows + 1: tile(rows, 1, c, a, a_row, a_column, b, b_row, depth, more); return;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if TALL == 12
    CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
    }
}

/* c = a b or, if `more`, c + a b, with a (rows, depth), b (depth, columns). The columns of b and c are next to each
   other in memory and fill whole registers. */
static void product(Matrix c, Matrix a, Matrix b, int rows, int depth, int columns, int more)
{
    const int count = (rows + TALL - 1) / TALL; /* tiles of about equally many rows */
    for (int j = 0; j < columns; j += 2 * LANES)
        for (int t = 0, i = 0; t < count; t++) {
            const int next = (int)((long)rows * (t + 1) / count);
            tiles(next - i, columns - j > LANES, from(c, i, j), a.at + i * a.row, a.row, a.column, b.at + j, b.row,
                  depth, more);
            i = next;
        }
}

/* y = x^T, with x (rows, columns), in blocks that the cache holds. */
static void transpose(Matrix y, Matrix x, int rows, int columns)
{
    const int block = 8;
    for (int i = 0; i < rows; i += block)
        for (int j = 0; j < columns; j += block)
            for (int k = i; k < rows && k < i + block; k++)
                for (int l = j; l < columns && l < j + block; l++)
                    y.at[l * y.row + k * y.column] = x.at[k * x.row + l * x.column];
}

#endif
