/* The problems of VARS-D and VARS-SD, and where what belongs to them is in memory. See dynamic.c. */

#ifndef PROBLEM_H
#define PROBLEM_H

#include "products.h"

/* dynamic_compiled.py has the same structure. */
typedef struct {
    int heads, images, tokens, channels, own, fixed, steps;
    int by_factors; /* the form of the lateral connections, see lateral.h */
    int gelu;       /* whether codes are shrunk by GELU, or by the soft threshold */
    int from_zero;  /* whether w_0 is zero */
    int adaptive;   /* whether the step is `scale` over the largest row sum of |G| and 1, or `scale` itself */
    int share;      /* images of a head that are one piece of work: sums over them are one summand of a gradient */
    int next;       /* the first piece that nobody has taken up */
    int failed;     /* whether there was no memory */
    float scale, sparsity;
    const float *qv;            /* (B, N, 2, h, d) */
    const float *projection;    /* (h, d, own) */
    const float *fixed_columns; /* P_2, (h, N, fixed) */
    const float *weights;       /* K, (m, m) */
    float *y;                   /* the reconstruction, (B, N, h, d) */
    float *kept;                /* for a backward pass, `kept_size` numbers a problem; NULL where there is none */
    const float *d_y;
    float *d_qv;
    float *d_fixed_columns, *d_weights; /* by piece, (pieces, N, fixed) and (pieces, m, m) */
    float *d_scale, *d_sparsity;        /* (pieces,) */
} Dynamic;

/* N, d, and what rows are filled up to: D channels, O dynamic and S static templates, M both. T steps. How many numbers
   are a code, and those matrices of lateral.h that the form has; 0 for those of the other form. */
typedef struct {
    int N, d, D, O, S, M, T;
    long code;   /* (d, M) */
    long rows;   /* (O, M) */
    long square; /* (M, M) */
    long factor; /* (N, M) */
    long inner;  /* (T, N, D) */
} Sizes;

static int whole(int columns) { return (columns + LANES - 1) / LANES * LANES; }

static Sizes sizes_of(const Dynamic *p)
{
    Sizes s = {.N = p->tokens, .d = p->channels, .T = p->steps};
    s.D = whole(s.d), s.O = whole(p->own), s.S = whole(p->fixed), s.M = s.O + s.S;
    s.code = (long)s.d * s.M;
    if (p->by_factors) {
        s.factor = (long)s.N * s.M, s.inner = (long)s.T * s.N * s.D;
    } else {
        s.rows = (long)s.O * s.M, s.square = (long)s.M * s.M;
    }
    return s;
}

/* Where the i-th template is among those filled up. */
static int place(const Dynamic *p, Sizes s, int i) { return i < p->own ? i : s.O + i - p->own; }

/* Numbers from the front of a piece of memory that is large enough. */
static float *numbers(float **memory, long count)
{
    float *taken = *memory;
    *memory += count;
    return taken;
}

/* What a backward pass needs of a problem. */
typedef struct {
    float *templates; /* P_1, (N, O) */
    float *states;    /* the drive, and what was shrunk to w_1 .. w_T, (T + 1, d, M) */
    float *step;      /* s, and s / scale */
    /* By matrix. */
    float *gram;      /* [A B], (O, M) */
    float *half;      /* L, (M, M) */
    float *forth;     /* F, (M, M) */
    /* By factors. */
    float *left, *right; /* V and U, (N, M) */
    float *inner;        /* -s V w_t^T, (T, N, D) */
} Kept;

static Kept kept_in(Sizes s, float **memory)
{
    Kept k;
    k.templates = numbers(memory, (long)s.N * s.O);
    k.states = numbers(memory, (s.T + 1) * s.code);
    k.step = numbers(memory, LANES);
    k.gram = numbers(memory, s.rows);
    k.half = numbers(memory, s.square);
    k.forth = numbers(memory, s.square);
    k.left = numbers(memory, s.factor);
    k.right = numbers(memory, s.factor);
    k.inner = numbers(memory, s.inner);
    return k;
}

/* How many numbers these are. */
long kept_size(const Dynamic *p)
{
    float *start = NULL, *end = start;
    kept_in(sizes_of(p), &end);
    return end - start;
}

/* What is the same for all images of a head; K and R for all heads. */
typedef struct {
    float *weights, *turned_weights; /* K and R, (M, M) */
    float *projection;               /* (d, O) */
    float *fixed;                    /* P_2, (N, S) */
    float *gram;                     /* S, (S, S) */
    float *sums;                     /* of the rows of |S|, (S,) */
    float *half;                     /* by matrix: S times the last rows of R, (S, M) */
    float *left, *right;             /* by factors: P_2's part of V and U, (N, M) */
} Head;

static Head head_in(Sizes s, float **memory)
{
    Head h;
    h.weights = numbers(memory, (long)s.M * s.M);
    h.turned_weights = numbers(memory, (long)s.M * s.M);
    h.projection = numbers(memory, (long)s.d * s.O);
    h.fixed = numbers(memory, (long)s.N * s.S);
    h.gram = numbers(memory, (long)s.S * s.S);
    h.sums = numbers(memory, s.S);
    h.half = numbers(memory, (long)s.S * s.M);
    h.left = numbers(memory, s.factor);
    h.right = numbers(memory, s.factor);
    return h;
}

static long head_size(Sizes s)
{
    float *start = NULL, *end = start;
    head_in(s, &end);
    return end - start;
}

/* Memory of the backward pass. */
typedef struct {
    float *units, *d_units;   /* (N, D) */
    float *inverses;          /* of the lengths of q, (N,) */
    float *both;              /* v and the gradient g of y beside each other, (N, 2 D) */
    float *turned;            /* (M, D) */
    float *codes, *gradients; /* w_0 .. w_{T-1}, and those of the states 1 .. T, (T, d, M) */
    float *pair;              /* the gradient of the drive, and u, (2 D, M) */
    float *gradient, *source; /* of a code, and of what the drive adds to the states, (d, M) */
    float *d_templates;       /* of P_1, (N, O) */
    /* By matrix. */
    float *back;              /* F^T, (M, M) */
    float *d_turned;          /* Z, (M, M) */
    float *outer;             /* E, (M, M) */
    float *d_gram;            /* H, and then H + H^T but for the static templates' block, (M, M) */
    float *crossed;           /* B^T, (S, O) */
    /* By factors. */
    float *inner;            /* -s U g_t^T, (T, N, D) */
    float *d_left, *d_right; /* (N, M) */
    /* Sums over images. */
    float *d_weights;            /* (M, M) */
    float *d_fixed;              /* (N, S) */
    float *outer_sum;            /* by matrix: the last columns of E, (M, S) */
    float *left_sum, *right_sum; /* by factors: of d_left and d_right, (N, M) */
} Room;

static Room room_in(Sizes s, float **memory)
{
    const long tokens = (long)s.N * s.D;
    Room r;
    r.units = numbers(memory, tokens);
    r.d_units = numbers(memory, tokens);
    r.inverses = numbers(memory, whole(s.N));
    r.both = numbers(memory, 2 * tokens);
    r.turned = numbers(memory, (long)s.M * s.D);
    r.codes = numbers(memory, s.T * s.code);
    r.gradients = numbers(memory, s.T * s.code);
    r.pair = numbers(memory, 2L * s.D * s.M);
    r.gradient = numbers(memory, s.code);
    r.source = numbers(memory, s.code);
    r.d_templates = numbers(memory, (long)s.N * s.O);
    r.back = numbers(memory, s.square);
    r.d_turned = numbers(memory, s.square);
    r.outer = numbers(memory, s.square);
    r.d_gram = numbers(memory, s.square);
    r.crossed = numbers(memory, (long)s.S * s.O);
    r.inner = numbers(memory, s.inner);
    r.d_left = numbers(memory, s.factor);
    r.d_right = numbers(memory, s.factor);
    r.d_weights = numbers(memory, (long)s.M * s.M);
    r.d_fixed = numbers(memory, (long)s.N * s.S);
    r.outer_sum = numbers(memory, (long)s.M * s.S);
    r.left_sum = numbers(memory, s.factor);
    r.right_sum = numbers(memory, s.factor);
    return r;
}

static long room_size(Sizes s)
{
    float *start = NULL, *end = start;
    room_in(s, &end);
    return end - start;
}

/* -- Numbers ------------------------------------------------------------------------------------------------------- */

INLINE float total(vec x)
{
    float parts[LANES];
    memcpy(parts, &x, sizeof parts);
    for (int half = LANES / 2; half; half /= 2) /* in pairs, which need not wait for each other */
        for (int c = 0; c < half; c++)
            parts[c] += parts[c + half];
    return parts[0];
}

INLINE vec sign(vec x)
{
    const vec one = (vec){0} + 1;
    return (vec)((mask)one & (x > 0)) - (vec)((mask)one & (x < 0));
}

/* The numbers that these are given fill whole registers. */
static float dot(const float *a, const float *b, long count)
{
    vec sum = {0};
    for (long i = 0; i < count; i += LANES)
        sum += load(a + i, LANES, 1) * load(b + i, LANES, 1);
    return total(sum);
}

static void scale(float *to, float by, const float *x, long count)
{
    for (long i = 0; i < count; i += LANES)
        store(to + i, by * load(x + i, LANES, 1), LANES, 1);
}

static void add(float *to, const float *x, long count)
{
    for (long i = 0; i < count; i += LANES)
        store(to + i, load(to + i, LANES, 1) + load(x + i, LANES, 1), LANES, 1);
}

static void clear(float *to, long count) { memset(to, 0, count * sizeof(float)); }

static void copy(float *to, const float *x, long count) { memcpy(to, x, count * sizeof(float)); }

/* Rows of a matrix in memory, filled up with zeros to `wide` columns. */
static void fetch(const float *x, int rows, int columns, long row, float *to, int wide)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < wide; j += LANES) {
            const vec found = j < columns ? load(x + i * row + j, filled(columns, j), 1) : (vec){0};
            store(to + (long)i * wide + j, found, LANES, 1);
        }
}

/* The first columns of the rows of a matrix, `wide` apart, to memory. */
static void bring(const float *x, int rows, int columns, int wide, float *to, long row)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += LANES)
            store(to + i * row + j, load(x + (long)i * wide + j, LANES, 1), filled(columns, j), 1);
}

#endif
