/* The templates of VARS-D and VARS-SD from queries, and the gradient: see compiled.py, which calls it.

   For each head and image, with tokens' unit vectors q_i of d channels and a projection W (d, own),

       P_ij = exp(q_i^T w_j) / sqrt(sum_i exp(q_i^T w_j)^2)

   and static columns beside them. torch would take P through memory some six times, where here each head and image
   stays within the cache. Rows of P and of W are divided into registers of LANES columns; the last may be filled in
   part, and what fills it is 0. */

#include "lanes.h"

#define ROWS 4 /* tokens of a product that share what is read of the other factor */

/* compiled.py has the same structure. */
typedef struct {
    int heads, images, tokens, channels, own, fixed; /* d, and how many columns depend on the input and do not */
    int next;   /* the first problem that nobody has taken up */
    int failed; /* whether there was no memory */
    long q_image, q_token, q_head; /* strides of q (B, N, h, d) */
    const float *q, *projection;   /* (h, d, own) */
    const float *fixed_columns;    /* (h, N, fixed) */
    float *templates;              /* P, (h, B, N, own + fixed) */
    float *unit, *inverse;         /* (h, B, N, d) and (h, B, N): what the backward pass needs of q; NULL for neither */
    const float *gradient;         /* of P */
    float *d_q, *d_fixed_columns;  /* (B, N, h, d), (h, N, fixed) */
} Templates;

static int registers(int columns) { return (columns + LANES - 1) / LANES; }

INLINE float sum(vec x)
{
    float parts[LANES];
    memcpy(parts, &x, sizeof parts);
    for (int half = LANES / 2; half; half /= 2) /* in pairs, which need not wait for each other */
        for (int c = 0; c < half; c++)
            parts[c] += parts[c + half];
    return parts[0];
}

/* A matrix (rows, columns) in registers. */
static void fetch(const float *from, int rows, int columns, long row, long column, vec *to)
{
    const int count = registers(columns);
    for (int i = 0; i < rows; i++)
        for (int r = 0; r < count; r++)
            to[i * count + r] = load(from + i * row + r * LANES * column, filled(columns, r * LANES), column);
}

/* R rows of y = a b, registers r and r + 1 (if `two`) of them, with b (depth, count registers). */
INLINE void tile(const int R, const int two, int depth, const float *a, long row, const vec *b, int count, vec *y)
{
    vec total[R][2];
    memset(total, 0, sizeof total);
    for (int k = 0; k < depth; k++)
        for (int i = 0; i < R; i++) {
            total[i][0] += a[i * row + k] * b[k * count];
            if (two)
                total[i][1] += a[i * row + k] * b[k * count + 1];
        }
    for (int i = 0; i < R; i++) {
        y[i * count] = total[i][0];
        if (two)
            y[i * count + 1] = total[i][1];
    }
}

/* y (rows, count registers) = a (rows, depth; `row` apart) b (depth, count registers). */
static void product(int rows, int depth, int count, const float *a, long row, const vec *b, vec *y)
{
    for (int i = 0; i < rows; i++) {
        const int several = i + ROWS <= rows;
        for (int r = 0; r < count; r += 2) {
            const float *from = a + i * row;
            vec *to = y + i * count + r;
            if (several && r + 1 < count)
                tile(ROWS, 1, depth, from, row, b + r, count, to);
            else if (several)
                tile(ROWS, 0, depth, from, row, b + r, count, to);
            else if (r + 1 < count)
                tile(1, 1, depth, from, row, b + r, count, to);
            else
                tile(1, 0, depth, from, row, b + r, count, to);
        }
        i += several ? ROWS - 1 : 0;
    }
}

/* -- What compiled.py calls ---------------------------------------------------------------------------------------- */

/* Find P. Several threads may call it for one problem and share the work. */
void templates(Templates *p)
{
    const int N = p->tokens, d = p->channels, own = registers(p->own), m = p->own + p->fixed, deep = registers(d);
    vec *memory = reserve((long)d * own + N * (long)own + own + (long)N * deep, &p->failed), *rest = memory;
    if (!memory)
        return;
    vec *projection = take(&rest, d * own), *found = take(&rest, (long)N * own), *norms = take(&rest, own);
    float *room = (float *)take(&rest, (long)N * deep);
    for (int n, taken; (taken = take_up(&p->next, 1, p->heads * p->images, &n));) {
        const int head = n / p->images, image = n % p->images;
        const float *q = p->q + image * p->q_image + head * p->q_head;
        float *unit = p->unit ? p->unit + (long)n * N * d : room, *to = p->templates + (long)n * N * m;
        fetch(p->projection + (long)head * d * p->own, d, p->own, p->own, 1, projection);
        for (int i = 0; i < N; i++) {
            vec squares = {0};
            for (int c = 0; c < d; c += LANES) {
                __builtin_prefetch(q + (i + 16) * p->q_token + c);
                const vec x = load(q + i * p->q_token + c, filled(d, c), 1);
                squares += x * x;
            }
            const float norm = sqrtf(sum(squares)), inverse = 1 / (norm < 1e-12f ? 1e-12f : norm);
            for (int c = 0; c < d; c += LANES)
                store(unit + i * d + c, inverse * load(q + i * p->q_token + c, filled(d, c), 1),
                      filled(d, c), 1);
            if (p->inverse)
                p->inverse[(long)n * N + i] = inverse;
        }
        product(N, d, own, unit, d, projection, found);
        memset(norms, 0, own * sizeof(vec));
        for (int i = 0; i < N; i++)
            for (int r = 0; r < own; r++) {
                const vec x = exponential(found[i * own + r]);
                found[i * own + r] = x;
                norms[r] += x * x;
            }
        for (int r = 0; r < own; r++)
            norms[r] = 1 / square_root(norms[r]);
        for (int i = 0; i < N; i++) {
            for (int r = 0; r < own; r++)
                store(to + (long)i * m + r * LANES, found[i * own + r] * norms[r], filled(p->own, r * LANES), 1);
            if (p->fixed)
                memcpy(to + (long)i * m + p->own, p->fixed_columns + ((long)head * N + i) * p->fixed,
                       p->fixed * sizeof(float));
        }
    }
    free(memory);
}

/* From the gradient of P find those of q and of the static columns, as `templates` does; a head at a time. */
void templates_backward(Templates *p)
{
    const int N = p->tokens, d = p->channels, own = registers(p->own), m = p->own + p->fixed, deep = registers(d);
    vec *memory = reserve((long)p->own * deep + N * (long)own + own + (long)N * deep, &p->failed), *rest = memory;
    if (!memory)
        return;
    vec *transposed = take(&rest, (long)p->own * deep), *inner = take(&rest, (long)N * own);
    vec *sums = take(&rest, own), *d_unit = take(&rest, (long)N * deep);
    for (int head, taken; (taken = take_up(&p->next, 1, p->heads, &head));) {
        fetch(p->projection + (long)head * d * p->own, p->own, d, 1, p->own, transposed);
        float *d_fixed = p->fixed ? p->d_fixed_columns + (long)head * N * p->fixed : NULL;
        for (int image = 0; image < p->images; image++) {
            const long n = (long)head * p->images + image;
            const float *g = p->gradient + n * N * m, *x = p->templates + n * N * m;
            /* Like a softmax, a unit exponential is its own derivative's factor. */
            memset(sums, 0, own * sizeof(vec));
            for (int i = 0; i < N; i++)
                for (int r = 0; r < own; r++)
                    sums[r] += load(g + (long)i * m + r * LANES, filled(p->own, r * LANES), 1) *
                               load(x + (long)i * m + r * LANES, filled(p->own, r * LANES), 1);
            for (int i = 0; i < N; i++)
                for (int r = 0; r < own; r++) {
                    const vec own_x = load(x + (long)i * m + r * LANES, filled(p->own, r * LANES), 1);
                    inner[i * own + r] =
                        own_x * (load(g + (long)i * m + r * LANES, filled(p->own, r * LANES), 1) - own_x * sums[r]);
                }
            product(N, p->own, deep, (float *)inner, own * LANES, transposed, d_unit);
            for (int i = 0; i < N; i++) {
                const float *unit = p->unit + (n * N + i) * d, inverse = p->inverse[n * N + i];
                float *to = p->d_q + (((long)image * N + i) * p->heads + head) * d;
                vec along = {0};
                for (int r = 0; r < deep; r++)
                    along += d_unit[i * deep + r] * load(unit + r * LANES, filled(d, r * LANES), 1);
                const float component = sum(along);
                for (int c = 0; c < d; c += LANES) {
                    const vec across = d_unit[i * deep + c / LANES] - component * load(unit + c, filled(d, c), 1);
                    store(to + c, inverse * across, filled(d, c), 1);
                }
            }
            for (long i = 0; i < N && p->fixed; i++)
                for (int r = 0; r < registers(p->fixed); r++) {
                    float *to = d_fixed + i * p->fixed + r * LANES;
                    vec total = load(g + i * m + p->own + r * LANES, filled(p->fixed, r * LANES), 1);
                    if (image)
                        total += load(to, filled(p->fixed, r * LANES), 1);
                    store(to, total, filled(p->fixed, r * LANES), 1);
                }
        }
    }
    free(memory);
}
