/* VARS-D and VARS-SD from queries and values to the reconstruction, and its gradient. dynamic_compiled.py calls it.

   Equations: ../attention.py. The same in torch: dynamic.py, lateral.py. What differs is where things stay: each problem,
   an image of a head, is taken from its templates to its reconstruction within the cache. The gradient is written out.

   Of a problem with N tokens, d channels, `own` dynamic and `fixed` static templates and a learned K:

       P = [P_1 P_2] (N, m)      templates
       G = P^T P (m, m)          Gram matrix, [A B; B^T S]; S is the same for all images of a head
       X = K G K                 lateral connections, in either form of lateral.h
       P^T v (m, d)              drive
       w_0 .. w_T                codes in units of c (the step s for soft shrinkage, else 1), each shrunk from a state
       g_1 .. g_T                the gradients of the states
       P u, u = c w_T            reconstruction

   Codes and drive are rows here, (d, m). Rows are filled up to whole registers with zeros: the dynamic and the static
   templates each, and channels where they are columns. */

#include "lateral.h"

/* -- Templates ----------------------------------------------------------------------------------------------------- */

/* The distance of tokens in memory. */
static long apart(const Dynamic *p) { return 2L * p->heads * p->channels; }

/* Unit vectors (N, D) of q; the inverses of its lengths where they are asked for. */
static void find_units(const Dynamic *p, Sizes s, const float *q, float *units, float *inverses)
{
    fetch(q, s.N, s.d, apart(p), units, s.D);
    for (int i = 0; i < s.N; i++) {
        float *unit = units + (long)i * s.D;
        const float norm = sqrtf(dot(unit, unit, s.D)), inverse = 1 / (norm < 1e-12f ? 1e-12f : norm);
        scale(unit, inverse, unit, s.D);
        if (inverses)
            inverses[i] = inverse;
    }
}

/* P_1 of unit vectors. */
static void find_templates(const Dynamic *p, Sizes s, Head h, float *units, float *templates)
{
    product(matrix(templates, s.O), matrix(units, s.D), matrix(h.projection, s.O), s.N, s.d, s.O, 0);
    for (int j = 0; j < s.O; j += LANES) {
        vec squares = {0};
        for (int i = 0; i < s.N; i++) {
            float *at = templates + (long)i * s.O + j;
            const vec x = exponential(load(at, LANES, 1));
            store(at, x, LANES, 1);
            squares += x * x;
        }
        vec scale = 1 / square_root(squares);
        for (int c = filled(p->own, j); c < LANES; c++)
            scale[c] = 0;
        for (int i = 0; i < s.N; i++) {
            float *at = templates + (long)i * s.O + j;
            store(at, scale * load(at, LANES, 1), LANES, 1);
        }
    }
}

/* From the gradient of P_1, which is overwritten, that of q. */
static void find_d_q(const Dynamic *p, Sizes s, Head h, const float *templates, Room r, float *d_q)
{
    /* Like a softmax, a unit exponential is its own derivative's factor. */
    for (int j = 0; j < s.O; j += LANES) {
        vec sum = {0};
        for (int i = 0; i < s.N; i++)
            sum += load(r.d_templates + (long)i * s.O + j, LANES, 1) * load(templates + (long)i * s.O + j, LANES, 1);
        for (int i = 0; i < s.N; i++) {
            float *at = r.d_templates + (long)i * s.O + j;
            const vec x = load(templates + (long)i * s.O + j, LANES, 1);
            store(at, x * (load(at, LANES, 1) - x * sum), LANES, 1);
        }
    }
    const Matrix turned = matrix(r.turned, s.D);
    transpose(turned, matrix(h.projection, s.O), s.d, s.O);
    product(matrix(r.d_units, s.D), matrix(r.d_templates, s.O), turned, s.N, s.O, s.D, 0);
    for (int i = 0; i < s.N; i++) {
        const float *unit = r.units + (long)i * s.D;
        float *d_unit = r.d_units + (long)i * s.D;
        const float along = dot(unit, d_unit, s.D);
        for (int c = 0; c < s.D; c += LANES) {
            const vec across = load(d_unit + c, LANES, 1) - along * load(unit + c, LANES, 1);
            store(d_unit + c, r.inverses[i] * across, LANES, 1);
        }
    }
    bring(r.d_units, s.N, s.d, s.D, d_q, apart(p));
}

/* -- Dynamics ------------------------------------------------------------------------------------------------------ */

/* Threshold and unit of the codes, and the factor of the drive. */
typedef struct {
    int gelu;
    float threshold, unit, drive;
} Shrinkage;

static Shrinkage shrinkage_of(const Dynamic *p, float step)
{
    if (p->gelu)
        return (Shrinkage){1, p->sparsity * step, 1, step};
    return (Shrinkage){0, fmaxf(p->sparsity, 0), step, 1};
}

/* What a state is shrunk to, and the derivative, for the threshold and by `gelu` or the soft one. */
INLINE vec shrunk(vec x, const int by_gelu, float threshold, vec *derivative)
{
    if (by_gelu) {
        vec distribution, slope;
        const vec excess = magnitude(x) - threshold;
        normal(excess, &distribution, &slope);
        *derivative = distribution + slope;
        return excess * distribution * sign(x);
    }
    const vec code = soft(x, threshold), one = (vec){0} + 1;
    *derivative = (vec)((mask)one & (code != 0));
    return code;
}

/* to = unit * shrunk(x). */
INLINE void shrink_by(const int gelu, float threshold, float unit, const float *x, float *to, long count)
{
    vec derivative;
    for (long i = 0; i < count; i += LANES)
        store(to + i, unit * shrunk(load(x + i, LANES, 1), gelu, threshold, &derivative), LANES, 1);
}

static void shrink(int gelu, float threshold, float unit, const float *x, float *to, long count)
{
    if (gelu)
        shrink_by(1, threshold, unit, x, to, count);
    else
        shrink_by(0, threshold, unit, x, to, count);
}

/* w_0. */
static void begin(const Dynamic *p, Sizes s, Shrinkage by, const float *drive, float *code)
{
    if (p->from_zero)
        clear(code, s.code);
    else
        shrink(by.gelu, by.gelu ? p->sparsity : by.threshold, 1 / by.unit, drive, code, s.code);
}

/* The drive and all states, and c w_T in `code`; `turned` is memory for (M, D), whose filled columns are 0. */
static void descend(const Dynamic *p, Sizes s, Head h, Kept k, float *value, float *code, float *turned)
{
    const Matrix columns = transposed(matrix(value, s.D));
    product(matrix(k.states, s.M), columns, matrix(k.templates, s.O), s.d, s.N, s.O, 0);
    product(matrix(k.states + s.O, s.M), columns, matrix(h.fixed, s.S), s.d, s.N, s.S, 0);
    const Shrinkage by = shrinkage_of(p, k.step[0]);
    begin(p, s, by, k.states, code);
    for (int t = 1; t <= s.T; t++) {
        float *state = k.states + t * s.code;
        scale(state, by.drive, k.states, s.code);
        if (p->by_factors)
            step_by_factors(s, k.step[0], state, code, k.left, k.right, k.inner + (t - 1L) * s.N * s.D, turned);
        else
            product(matrix(state, s.M), matrix(code, s.M), matrix(k.forth, s.M), s.d, s.M, s.M, 1);
        shrink(by.gelu, by.threshold, t < s.T ? 1 : by.unit, state, code, s.code);
    }
}

/* From the gradient of a code that of its state, which is added to `source`; the code, too. */
INLINE void unshrink_by(const int gelu, float threshold, const float *gradient, const float *state, float *here,
                        float *code, float *source, long count, vec *signs)
{
    for (long i = 0; i < count; i += LANES) {
        const vec x = load(state + i, LANES, 1);
        vec derivative;
        store(code + i, shrunk(x, gelu, threshold, &derivative), LANES, 1);
        const vec d = derivative * load(gradient + i, LANES, 1);
        store(here + i, d, LANES, 1);
        store(source + i, d + load(source + i, LANES, 1), LANES, 1);
        *signs += d * sign(x);
    }
}

static float unshrink(int gelu, float threshold, const float *gradient, const float *state, float *here, float *code,
                      float *source, long count)
{
    vec signs = {0};
    if (gelu)
        unshrink_by(1, threshold, gradient, state, here, code, source, count, &signs);
    else
        unshrink_by(0, threshold, gradient, state, here, code, source, count, &signs);
    return total(signs);
}

/* Through the dynamics, from the gradient of u in `gradient` to that of the drive and of X, in its form. Those of the
   step and of the sparsity are added to. */
static void ascend(const Dynamic *p, Sizes s, Kept k, Room r, float *d_step, float *d_sparsity)
{
    const float step = k.step[0];
    const Shrinkage by = shrinkage_of(p, step);
    float *d_drive = r.pair, *last = r.pair + (long)s.D * s.M, d_threshold = 0;
    if (!by.gelu) {
        shrink(0, by.threshold, 1, k.states + s.T * s.code, last, s.code);
        *d_step += dot(r.gradient, last, s.code);
    }
    scale(r.gradient, by.unit, r.gradient, s.code);
    clear(r.source, s.code);
    if (!p->by_factors)
        transpose(matrix(r.back, s.M), matrix(k.forth, s.M), s.M, s.M);
    for (int t = s.T; t > 0; t--) {
        float *here = r.gradients + (t - 1) * s.code, *code = t < s.T ? r.codes + t * s.code : last;
        d_threshold -= unshrink(by.gelu, by.threshold, r.gradient, k.states + t * s.code, here, code, r.source, s.code);
        if (p->by_factors) {
            clear(r.gradient, s.code);
            step_by_factors(s, step, r.gradient, here, k.right, k.left, r.inner + (t - 1L) * s.N * s.D, r.turned);
        } else {
            product(matrix(r.gradient, s.M), matrix(here, s.M), matrix(r.back, s.M), s.d, s.M, s.M, 0);
        }
    }
    scale(last, by.unit, last, s.code);
    begin(p, s, by, k.states, r.codes);
    *d_step += p->by_factors ? gradients_by_factors(s, k, r) : gradients_by_matrix(s, k, r);
    if (by.gelu)
        *d_step += dot(r.source, k.states, s.code) + p->sparsity * d_threshold;
    *d_sparsity += by.gelu ? step * d_threshold : d_threshold;
    scale(d_drive, by.drive, r.source, s.code);
    if (p->from_zero)
        return;
    if (!by.gelu)
        *d_step -= dot(r.gradient, r.codes, s.code) / step;
    scale(r.gradient, 1 / by.unit, r.gradient, s.code);
    *d_sparsity -= unshrink(by.gelu, by.gelu ? p->sparsity : by.threshold, r.gradient, k.states, r.source, r.codes,
                            d_drive, s.code);
}

/* -- Pieces of work ------------------------------------------------------------------------------------------------ */

/* Images first to end - 1 of a head. */
typedef struct {
    int head, first, end;
} Piece;

static int pieces_of_head(const Dynamic *p) { return (p->images + p->share - 1) / p->share; }

/* The next piece that nobody has taken up; returns its number, or -1 at the end. */
static int take_piece(Dynamic *p, Piece *piece)
{
    int number;
    if (!take_up(&p->next, 1, p->heads * pieces_of_head(p), &number))
        return -1;
    piece->head = number / pieces_of_head(p);
    piece->first = number % pieces_of_head(p) * p->share;
    piece->end = piece->first + p->share < p->images ? piece->first + p->share : p->images;
    return number;
}

/* What is kept of a problem; in `room`, where nothing is kept for a backward pass. */
static Kept kept_of(const Dynamic *p, Sizes s, int head, int image, float *room)
{
    float *memory = p->kept ? p->kept + ((long)head * p->images + image) * kept_size(p) : room;
    return kept_in(s, &memory);
}

/* Where q (0) or v (1) of a problem begin; its tokens are `apart`. */
static long part(const Dynamic *p, int which, int head, int image)
{
    return (((long)image * p->tokens * 2 + which) * p->heads + head) * p->channels;
}

static void differentiate_piece(const Dynamic *p, Sizes s, Head h, Room r, Piece piece, int number)
{
    const Matrix both = matrix(r.both, 2 * s.D), g = from(both, 0, s.D), pair = matrix(r.pair, s.M);
    const Matrix turned = matrix(r.turned, s.D), fixed = matrix(h.fixed, s.S), gradient = matrix(r.gradient, s.M);
    float d_scale = 0, d_sparsity = 0;
    clear(r.d_weights, (long)s.M * s.M);
    clear(r.d_fixed, (long)s.N * s.S);
    clear(r.outer_sum, (long)s.M * s.S);
    clear(r.left_sum, s.factor);
    clear(r.right_sum, s.factor);
    for (int image = piece.first; image < piece.end; image++) {
        const Kept k = kept_of(p, s, piece.head, image, NULL);
        const Matrix own = matrix(k.templates, s.O);
        const long q = part(p, 0, piece.head, image), v = part(p, 1, piece.head, image);
        const float *d_y = p->d_y + ((long)image * s.N * p->heads + piece.head) * s.d;
        for (int i = 0; i < s.N; i++) {
            fetch(p->qv + v + i * apart(p), 1, s.d, 0, r.both + 2L * i * s.D, s.D);
            fetch(d_y + (long)i * p->heads * s.d, 1, s.d, 0, r.both + (2L * i + 1) * s.D, s.D);
        }
        product(gradient, transposed(g), own, s.d, s.N, s.O, 0);
        product(from(gradient, 0, s.O), transposed(g), fixed, s.d, s.N, s.S, 0);
        float d_step = 0;
        ascend(p, s, k, r, &d_step, &d_sparsity);
        d_scale += d_step * k.step[1];
        /* Of the two products in which P stands alone, P^T v and P u, the gradients of P are one product. */
        product(matrix(r.d_templates, s.O), both, pair, s.N, 2 * s.D, s.O, 0);
        product(matrix(r.d_fixed, s.S), both, from(pair, 0, s.O), s.N, 2 * s.D, s.S, 1);
        (p->by_factors ? disconnect_by_factors : disconnect_by_matrix)(s, h, k, r);
        transpose(turned, pair, s.d, s.M);
        product(matrix(r.d_units, s.D), own, turned, s.N, s.O, s.D, 0);
        product(matrix(r.d_units, s.D), fixed, from(turned, s.O, 0), s.N, s.S, s.D, 1);
        bring(r.d_units, s.N, s.d, s.D, p->d_qv + v, apart(p));
        find_units(p, s, p->qv + q, r.units, r.inverses);
        find_d_q(p, s, h, k.templates, r, p->d_qv + q);
    }
    p->d_scale[number] = d_scale, p->d_sparsity[number] = d_sparsity;
    if (s.S) {
        (p->by_factors ? finish_by_factors : finish_by_matrix)(s, h, r);
        bring(r.d_fixed, s.N, p->fixed, s.S, p->d_fixed_columns + (long)number * s.N * p->fixed, p->fixed);
    }
    const int m = p->own + p->fixed;
    for (int i = 0; i < m; i++) {
        const float *row = r.d_weights + (long)place(p, s, i) * s.M;
        float *to = p->d_weights + ((long)number * m + i) * m;
        copy(to, row, p->own);
        copy(to + p->own, row + s.O, p->fixed);
    }
}

/* -- What dynamic_compiled.py calls -------------------------------------------------------------------------------- */

/* Find y, and what is to be kept. Several threads may call it for one batch and share the work. */
void reconstruct(Dynamic *p)
{
    const Sizes s = sizes_of(p);
    const long tokens = (long)s.N * s.D, columns = (long)s.M * s.D, crossed = (long)s.O * s.S;
    const long all = head_size(s) + 3 * tokens + columns + s.code + crossed + (p->kept ? 0 : kept_size(p));
    vec *memory = reserve(all / LANES, &p->failed);
    float *rest = (float *)memory;
    if (!memory)
        return;
    const Head h = head_in(s, &rest);
    float *units = numbers(&rest, tokens), *value = numbers(&rest, tokens), *found = numbers(&rest, tokens);
    float *turned = numbers(&rest, columns), *code = numbers(&rest, s.code), *room = numbers(&rest, crossed);
    clear(turned, columns);
    learn(p, s, h);
    for (Piece piece; take_piece(p, &piece) >= 0;) {
        settle(p, s, h, piece.head);
        for (int image = piece.first; image < piece.end; image++) {
            const Kept k = kept_of(p, s, piece.head, image, rest);
            const Matrix reconstruction = matrix(found, s.D), u = matrix(turned, s.D);
            find_units(p, s, p->qv + part(p, 0, piece.head, image), units, NULL);
            find_templates(p, s, h, units, k.templates);
            if (p->by_factors)
                connect_by_factors(p, s, h, k, room);
            else
                connect_by_matrix(p, s, h, k);
            fetch(p->qv + part(p, 1, piece.head, image), s.N, s.d, apart(p), value, s.D);
            descend(p, s, h, k, value, code, turned);
            transpose(u, matrix(code, s.M), s.d, s.M);
            product(reconstruction, matrix(k.templates, s.O), u, s.N, s.O, s.D, 0);
            product(reconstruction, matrix(h.fixed, s.S), from(u, s.O, 0), s.N, s.S, s.D, 1);
            bring(found, s.N, s.d, s.D, p->y + ((long)image * s.N * p->heads + piece.head) * s.d, apart(p) / 2);
        }
    }
    free(memory);
}

/* From the gradient of y find all others, as `reconstruct` does. */
void differentiate(Dynamic *p)
{
    const Sizes s = sizes_of(p);
    vec *memory = reserve((head_size(s) + room_size(s)) / LANES, &p->failed);
    float *rest = (float *)memory;
    if (!memory)
        return;
    const Head h = head_in(s, &rest);
    const Room r = room_in(s, &rest);
    clear(r.turned, (long)s.M * s.D);
    clear(r.pair, 2L * s.D * s.M);
    learn(p, s, h);
    Piece piece;
    for (int number; (number = take_piece(p, &piece)) >= 0;) {
        settle(p, s, h, piece.head);
        differentiate_piece(p, s, h, r, piece, number);
    }
    free(memory);
}
