/* The lateral connections X = K G K, G = P^T P, of VARS-D and VARS-SD, in the form that takes fewer operations; as in
   lateral.py. See dynamic.c for the letters.

   By matrix, with R = K^T:

       L = G R,  Y = R L = X^T,  F = I - s Y,  and w goes to w F;
       with Z = dY^T = -s dF^T, E = Z R:  dK = L Z + E G,  H = dG^T = R E,  dP = P (H + H^T).

   By factors, where there are few tokens:

       V = P K,  U = P R,  X^T = V^T U,  and w goes to w - s (w V^T) U;
       dK = P^T dV + dU^T P,  dP = dV R + dU K. */

#ifndef LATERAL_H
#define LATERAL_H

#include "problem.h"

/* x + x^T for a square matrix, in its place, but for rows and columns from `end` on among themselves. */
static void symmetrize(float *x, int size, int end)
{
    for (int i = 0; i < size; i++)
        for (int j = 0; j < end && j <= i; j++) {
            float *here = x + (long)i * size + j, *there = x + (long)j * size + i;
            *here = *there = *here + *there;
        }
}

/* -- Both forms ---------------------------------------------------------------------------------------------------- */

/* K and R. */
static void learn(const Dynamic *p, Sizes s, Head h)
{
    const int m = p->own + p->fixed;
    clear(h.weights, (long)s.M * s.M);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++)
            h.weights[(long)place(p, s, i) * s.M + place(p, s, j)] = p->weights[(long)i * m + j];
    transpose(matrix(h.turned_weights, s.M), matrix(h.weights, s.M), s.M, s.M);
}

/* What the static templates of a head contribute. */
static void settle(const Dynamic *p, Sizes s, Head h, int head)
{
    fetch(p->projection + (long)head * s.d * p->own, s.d, p->own, p->own, h.projection, s.O);
    if (!p->fixed)
        return;
    fetch(p->fixed_columns + (long)head * s.N * p->fixed, s.N, p->fixed, p->fixed, h.fixed, s.S);
    const Matrix fixed = matrix(h.fixed, s.S), gram = matrix(h.gram, s.S);
    const Matrix last = from(matrix(h.turned_weights, s.M), s.O, 0);
    product(gram, transposed(fixed), fixed, s.S, s.N, s.S, 0);
    for (int i = 0; i < s.S; i++) {
        vec sum = {0};
        for (int j = 0; j < s.S; j += LANES)
            sum += magnitude(load(h.gram + i * s.S + j, LANES, 1));
        h.sums[i] = total(sum);
    }
    if (p->by_factors) {
        product(matrix(h.left, s.M), fixed, from(matrix(h.weights, s.M), s.O, 0), s.N, s.S, s.M, 0);
        product(matrix(h.right, s.M), fixed, last, s.N, s.S, s.M, 0);
    } else {
        product(matrix(h.half, s.M), gram, last, s.S, s.S, s.M, 0);
    }
}

/* The largest of `count` numbers, and `most`. */
static float largest(const float *x, int count, float most)
{
    for (int i = 0; i < count; i++)
        most = fmaxf(most, x[i]);
    return most;
}

/* s and s / scale, from P_1 and B (O, S). A is positive, so that the sums of its rows are P_1^T (P_1 1). */
static void find_step(const Dynamic *p, Sizes s, Head h, const float *templates, Matrix crossed, float *step)
{
    step[0] = p->scale, step[1] = 1;
    if (!p->adaptive)
        return;
    float own[s.O], fixed[s.S + 1];
    clear(own, s.O);
    copy(fixed, h.sums, s.S);
    for (int i = 0; i < s.N; i++) {
        const float *token = templates + (long)i * s.O;
        vec sum = {0};
        for (int j = 0; j < s.O; j += LANES)
            sum += load(token + j, LANES, 1);
        const float weight = total(sum);
        for (int j = 0; j < s.O; j += LANES)
            store(own + j, load(own + j, LANES, 1) + weight * load(token + j, LANES, 1), LANES, 1);
    }
    for (int i = 0; i < s.O; i++) {
        vec sum = {0};
        for (int j = 0; j < s.S; j += LANES) {
            const vec x = magnitude(load(crossed.at + i * crossed.row + j, LANES, 1));
            store(fixed + j, x + load(fixed + j, LANES, 1), LANES, 1);
            sum += x;
        }
        own[i] += total(sum);
    }
    step[1] = 1 / (largest(fixed, s.S, largest(own, s.O, 0)) + 1);
    step[0] *= step[1];
}

/* -- By matrix ----------------------------------------------------------------------------------------------------- */

static void connect_by_matrix(const Dynamic *p, Sizes s, Head h, Kept k)
{
    const Matrix gram = matrix(k.gram, s.M), right = matrix(h.turned_weights, s.M), half = matrix(k.half, s.M);
    const Matrix own = matrix(k.templates, s.O), crossed = from(gram, 0, s.O);
    product(gram, transposed(own), own, s.O, s.N, s.O, 0);
    product(crossed, transposed(own), matrix(h.fixed, s.S), s.O, s.N, s.S, 0);
    product(half, gram, right, s.O, s.M, s.M, 0);
    copy(from(half, s.O, 0).at, h.half, (long)s.S * s.M);
    product(from(half, s.O, 0), transposed(crossed), right, s.S, s.O, s.M, 1);
    product(matrix(k.forth, s.M), right, half, s.M, s.M, s.M, 0);
    find_step(p, s, h, k.templates, crossed, k.step);
    scale(k.forth, -k.step[0], k.forth, s.square);
    for (int i = 0; i < s.M; i++)
        k.forth[(long)i * s.M + i] += 1;
}

/* Z, from all w_t and g_t; returns the gradient of s. */
static float gradients_by_matrix(Sizes s, Kept k, Room r)
{
    const float step = k.step[0];
    const Matrix gradients = matrix(r.gradients, s.M), codes = matrix(r.codes, s.M);
    product(matrix(r.d_turned, s.M), transposed(gradients), codes, s.M, s.T * s.d, s.M, 0);
    float trace = 0;
    for (int i = 0; i < s.M; i++)
        trace += r.d_turned[(long)i * s.M + i];
    const float d_step = (dot(r.d_turned, r.back, s.square) - trace) / step;
    scale(r.d_turned, -step, r.d_turned, s.square);
    return d_step;
}

/* From Z the gradients of P_1 (added to it), and of K and P_2 (added to the sums over images). */
static void disconnect_by_matrix(Sizes s, Head h, Kept k, Room r)
{
    const Matrix right = matrix(h.turned_weights, s.M), d_turned = matrix(r.d_turned, s.M);
    const Matrix outer = matrix(r.outer, s.M), last = from(outer, 0, s.O), d_gram = matrix(r.d_gram, s.M);
    const Matrix d_weights = matrix(r.d_weights, s.M), d_templates = matrix(r.d_templates, s.O);
    const Matrix own = matrix(k.templates, s.O), crossed = matrix(r.crossed, s.O);
    product(d_weights, matrix(k.half, s.M), d_turned, s.M, s.M, s.M, 1);
    product(outer, d_turned, right, s.M, s.M, s.M, 0);
    product(d_weights, outer, matrix(k.gram, s.M), s.M, s.O, s.M, 1);
    transpose(crossed, matrix(k.gram + s.O, s.M), s.O, s.S);
    product(d_weights, last, crossed, s.M, s.S, s.O, 1);
    for (int i = 0; i < s.M && s.S; i++)
        add(r.outer_sum + (long)i * s.S, last.at + (long)i * s.M, s.S);
    product(d_gram, right, outer, s.M, s.M, s.O, 0);
    product(from(d_gram, 0, s.O), right, last, s.O, s.M, s.S, 0);
    symmetrize(r.d_gram, s.M, s.O);
    product(d_templates, own, d_gram, s.N, s.O, s.O, 1);
    product(d_templates, matrix(h.fixed, s.S), from(d_gram, s.O, 0), s.N, s.S, s.O, 1);
    product(matrix(r.d_fixed, s.S), own, from(d_gram, 0, s.O), s.N, s.O, s.S, 1);
}

/* What the sums over images add to the gradients of K and P_2. */
static void finish_by_matrix(Sizes s, Head h, Room r)
{
    const Matrix sum = matrix(r.outer_sum, s.S), d_gram = matrix(r.d_gram, s.S);
    product(from(matrix(r.d_weights, s.M), 0, s.O), sum, matrix(h.gram, s.S), s.M, s.S, s.S, 1);
    product(d_gram, from(matrix(h.turned_weights, s.M), s.O, 0), sum, s.S, s.M, s.S, 0);
    symmetrize(r.d_gram, s.S, s.S);
    product(matrix(r.d_fixed, s.S), matrix(h.fixed, s.S), d_gram, s.N, s.S, s.S, 1);
}

/* -- By factors ---------------------------------------------------------------------------------------------------- */

/* `room` is memory for (O, S). */
static void connect_by_factors(const Dynamic *p, Sizes s, Head h, Kept k, float *room)
{
    const Matrix own = matrix(k.templates, s.O), crossed = matrix(room, s.S);
    if (p->adaptive)
        product(crossed, transposed(own), matrix(h.fixed, s.S), s.O, s.N, s.S, 0);
    find_step(p, s, h, k.templates, crossed, k.step);
    if (s.S) {
        copy(k.left, h.left, s.factor);
        copy(k.right, h.right, s.factor);
    }
    product(matrix(k.left, s.M), own, matrix(h.weights, s.M), s.N, s.O, s.M, s.S > 0);
    product(matrix(k.right, s.M), own, matrix(h.turned_weights, s.M), s.N, s.O, s.M, s.S > 0);
}

/* to += code - s (code first^T) second, with `inner` = -s first code^T (N, D); `turned` is memory for (M, D), whose
   filled columns are 0. */
static void step_by_factors(Sizes s, float step, float *to, float *code, float *first, float *second, float *inner,
                            float *turned)
{
    const Matrix within = matrix(inner, s.D), columns = matrix(turned, s.D);
    transpose(columns, matrix(code, s.M), s.d, s.M);
    product(within, matrix(first, s.M), columns, s.N, s.M, s.D, 0);
    scale(inner, -step, inner, (long)s.N * s.D);
    add(to, code, s.code);
    product(matrix(to, s.M), transposed(within), matrix(second, s.M), s.d, s.N, s.M, 1);
}

/* dV and dU, from all w_t and g_t; returns the gradient of s. */
static float gradients_by_factors(Sizes s, Kept k, Room r)
{
    for (int t = 0; t < s.T; t++) {
        const long at = (long)t * s.N * s.D;
        const Matrix code = matrix(r.codes + t * s.code, s.M), gradient = matrix(r.gradients + t * s.code, s.M);
        product(matrix(r.d_left, s.M), matrix(r.inner + at, s.D), code, s.N, s.d, s.M, t > 0);
        product(matrix(r.d_right, s.M), matrix(k.inner + at, s.D), gradient, s.N, s.d, s.M, t > 0);
    }
    return -dot(k.inner, r.inner, s.inner) / (k.step[0] * k.step[0]);
}

static void disconnect_by_factors(Sizes s, Head h, Kept k, Room r)
{
    const Matrix own = matrix(k.templates, s.O), d_templates = matrix(r.d_templates, s.O);
    const Matrix d_left = matrix(r.d_left, s.M), d_right = matrix(r.d_right, s.M), d_weights = matrix(r.d_weights, s.M);
    product(d_templates, d_left, matrix(h.turned_weights, s.M), s.N, s.M, s.O, 1);
    product(d_templates, d_right, matrix(h.weights, s.M), s.N, s.M, s.O, 1);
    product(d_weights, transposed(own), d_left, s.O, s.N, s.M, 1);
    product(d_weights, transposed(d_right), own, s.M, s.N, s.O, 1);
    if (s.S) {
        add(r.left_sum, r.d_left, s.factor);
        add(r.right_sum, r.d_right, s.factor);
    }
}

static void finish_by_factors(Sizes s, Head h, Room r)
{
    const Matrix left = matrix(r.left_sum, s.M), right = matrix(r.right_sum, s.M), fixed = matrix(h.fixed, s.S);
    const Matrix d_fixed = matrix(r.d_fixed, s.S), d_weights = matrix(r.d_weights, s.M);
    product(d_fixed, left, from(matrix(h.turned_weights, s.M), 0, s.O), s.N, s.M, s.S, 1);
    product(d_fixed, right, from(matrix(h.weights, s.M), 0, s.O), s.N, s.M, s.S, 1);
    product(from(d_weights, s.O, 0), transposed(fixed), left, s.S, s.N, s.M, 1);
    product(from(d_weights, 0, s.O), transposed(right), fixed, s.M, s.N, s.S, 1);
}

#endif
