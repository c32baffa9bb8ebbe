/* VARS-S on a processor, from v to the filtered reconstruction, and its gradient. static_compiled.py calls it.

   Equations: ../attention.py. What is computed is the same; what differs is where it stays. No two pairs of an image and a
   channel interact, so LANES channels of one image are carried from the first transform to the last within the cache,
   channel beside channel in the lanes of a vector register. torch would write each of some hundred intermediate
   results to memory.

   Spectra are those of `numpy.fft.rfft2` with norm="ortho", each number multiplied by the root of how many numbers of
   the whole spectrum it stands for (1 in the first and, for even W, the last column, 2 elsewhere). This transform keeps
   norms, so that its transpose is its inverse, and what acts per frequency does not notice. A spectrum lies in memory
   column by column, (2, W', H) with W' = W / 2 + 1; maps (H, W) row by row.

   The discrete Fourier transform of n numbers is computed from sums x_j + x_{n-j} and differences x_j - x_{n-j}, by
   products with cosines and sines: there are n / 2 + 1 sums and (n - 1) / 2 differences. For even n each of the two
   products is halved once more, in the same way (see `waves`). */

#include "lanes.h"

/* static_compiled.py has the same structure. */
typedef struct {
    int height, width, maps, steps, images, channels;
    int next;   /* the first channel that nobody has taken up */
    int failed; /* whether there was no memory */
    float sparsity;
    /* Tables for `waves`: cosines and negative sines of a transform of H numbers; of one of W numbers with the roots
       above, for the way to frequencies and, cosines alone, for the way back. */
    const float *cos_h, *sin_h, *cos_w, *cos_w_back, *sin_w;
    const float *kernel;   /* (C, J, H, W', 2) */
    const float *filter;   /* (C, H, W', 2) */
    const float *bound;    /* (C,) */
    const float *v;        /* (B, N, C) */
    float *x;              /* (B, N, C), what is found */
    const float *gradient; /* of x */
    float *d_v, *d_kernel, *d_filter;
} Problem;

INLINE int sums(int n) { return n / 2 + 1; }
INLINE int differences(int n) { return (n - 1) / 2; }
static int tokens(const Problem *p) { return p->height * p->width; }
static int frequencies(const Problem *p) { return p->height * sums(p->width); }

/* -- Transforms ---------------------------------------------------------------------------------------------------- */

/* y_i = sum_j table_ij x_j for R values of i, each at y[i * stride]. */
INLINE void rows_of_product(const int R, const int n, const float *table, const vec *x, vec *y, int stride)
{
    vec sum[8];
    for (int i = 0; i < R; i++)
        sum[i] = table[i * n] * x[0];
    for (int j = 1; j < n; j++)
        for (int i = 0; i < R; i++)
            sum[i] += table[i * n + j] * x[j];
    for (int i = 0; i < R; i++)
        y[i * stride] = sum[i];
}

static void product_of_any_size(int n, const float *table, const vec *x, vec *y, int stride)
{
    int i = 0;
    for (; i + 8 <= n; i += 8)
        rows_of_product(8, n, table + i * n, x, y + i * stride, stride);
    for (; i + 3 <= n; i += 3)
        rows_of_product(3, n, table + i * n, x, y + i * stride, stride);
    for (; i < n; i++)
        rows_of_product(1, n, table + i * n, x, y + i * stride, stride);
}

/* y = table x, with a square table of n^2 numbers. */
INLINE void product(const int n, const float *table, const vec *x, vec *y, int stride)
{
    if (__builtin_constant_p(n) && 0 < n && n <= 8)
        rows_of_product(n, n, table, x, y, stride);
    else
        product_of_any_size(n, table, x, y, stride);
}

/* y = w x with the cosines or sines w_ij of `count` sums or differences of a transform of n numbers.

   For even n, w_{i,j} and w_{i,count-1-j} are equal for even i and opposite for odd i. The table has the first half of
   the even rows, then that of the odd rows; for odd n it has all of w. */
INLINE void waves(int n, int count, const float *table, const vec *x, vec *y, int stride)
{
    if (n % 2) {
        product(count, table, x, y, stride);
        return;
    }
    const int many = (count + 1) / 2, few = count / 2;
    vec sum[many + 1], difference[few + 1];
    for (int j = 0; j < few; j++) {
        sum[j] = x[j] + x[count - 1 - j];
        difference[j] = x[j] - x[count - 1 - j];
    }
    if (many > few)
        sum[few] = x[few];
    product(many, table, sum, y, 2 * stride);
    product(few, table + many * many, difference, y + stride, 2 * stride);
}

/* Sums and differences of n numbers. */
INLINE void fold(int n, const vec *x, vec *sum, vec *difference)
{
    sum[0] = x[0];
    for (int j = 1; 2 * j < n; j++) {
        sum[j] = x[j] + x[n - j];
        difference[j - 1] = x[j] - x[n - j];
    }
    if (n % 2 == 0)
        sum[n / 2] = x[n / 2];
}

/* x_j = even_j + sign odd_j and x_{n-j} = even_j - sign odd_j, each at x[j * stride]; the sign is 1 or -1. */
INLINE void unfold(int n, const vec *even, const int sign, const vec *odd, vec *x, int stride)
{
    x[0] = even[0];
    for (int j = 1; 2 * j < n; j++) {
        vec more = even[j] + odd[j - 1], less = even[j] - odd[j - 1];
        x[j * stride] = sign > 0 ? more : less;
        x[(n - j) * stride] = sign > 0 ? less : more;
    }
    if (n % 2 == 0)
        x[n / 2 * stride] = even[n / 2];
}

/* Whether frequencies f and -f of a column of the spectrum are conjugates: the transform over rows is real there. */
INLINE int is_edge(int width, int column) { return column == 0 || 2 * column == width; }

/* Where the two transforms below put what is between them. */
typedef struct {
    vec *real, *imag; /* (W', H) or (H, W') */
    vec *real_sum, *real_difference, *imag_sum, *imag_difference; /* of one row or column */
    vec *even, *odd;
} Room;

static Room make_room(const Problem *p, vec **memory)
{
    const int F = frequencies(p), longest = sums(p->height > p->width ? p->height : p->width);
    Room r;
    r.real = take(memory, F);
    r.imag = take(memory, F);
    r.real_sum = take(memory, longest);
    r.real_difference = take(memory, longest);
    r.imag_sum = take(memory, longest);
    r.imag_difference = take(memory, longest);
    r.even = take(memory, longest);
    r.odd = take(memory, longest);
    return r;
}

INLINE void spectrum_of(const Problem *p, const int H, const int W, const vec *map, vec *spectrum, Room r)
{
    const int F = H * sums(W);
    for (int y = 0; y < H; y++) {
        fold(W, map + y * W, r.real_sum, r.real_difference);
        waves(W, sums(W), p->cos_w, r.real_sum, r.real + y, H);
        waves(W, differences(W), p->sin_w, r.real_difference, r.imag + H + y, H);
    }
    for (int k = 0; k < sums(W); k++) {
        vec *to = spectrum + k * H;
        fold(H, r.real + k * H, r.real_sum, r.real_difference);
        waves(H, sums(H), p->cos_h, r.real_sum, r.even, 1);
        waves(H, differences(H), p->sin_h, r.real_difference, r.odd, 1);
        if (is_edge(W, k)) {
            const vec zero = {0};
            for (int j = 0; j < sums(H); j++)
                to[j] = to[(H - j) % H] = r.even[j];
            to[F] = zero;
            if (H % 2 == 0)
                to[F + H / 2] = zero;
            for (int j = 1; 2 * j < H; j++) {
                to[F + j] = r.odd[j - 1];
                to[F + H - j] = -r.odd[j - 1];
            }
            continue;
        }
        fold(H, r.imag + k * H, r.imag_sum, r.imag_difference);
        /* Four products, of two arrays in turn: the transform of the imaginary part follows in the arrays that the
           real part's sums and differences have left. */
        waves(H, differences(H), p->sin_h, r.imag_difference, r.real_difference, 1);
        unfold(H, r.even, -1, r.real_difference, to, 1);
        waves(H, sums(H), p->cos_h, r.imag_sum, r.even, 1);
        unfold(H, r.even, 1, r.odd, to + F, 1);
    }
}

INLINE void map_of(const Problem *p, const int H, const int W, const vec *spectrum, vec *map, Room r)
{
    const int half = sums(W), F = H * half;
    for (int k = 0; k < half; k++) {
        fold(H, spectrum + k * H, r.real_sum, r.real_difference);
        fold(H, spectrum + F + k * H, r.imag_sum, r.imag_difference);
        waves(H, sums(H), p->cos_h, r.real_sum, r.even, 1);
        waves(H, differences(H), p->sin_h, r.imag_difference, r.odd, 1);
        unfold(H, r.even, 1, r.odd, r.real + k, half);
        if (is_edge(W, k))
            continue;
        waves(H, sums(H), p->cos_h, r.imag_sum, r.even, 1);
        waves(H, differences(H), p->sin_h, r.real_difference, r.odd, 1);
        unfold(H, r.even, -1, r.odd, r.imag + k, half);
    }
    for (int y = 0; y < H; y++) {
        waves(W, half, p->cos_w_back, r.real + y * half, r.even, 1);
        waves(W, differences(W), p->sin_w, r.imag + y * half + 1, r.odd, 1);
        unfold(W, r.even, 1, r.odd, map + y * W, 1);
    }
}

/* Call a transform, as one of known sizes for a vision transformer's grids of images of 224 pixels. */
#define WITH_SIZES(transform, p, ...)                \
    if (p->height == 14 && p->width == 14)           \
        transform(p, 14, 14, __VA_ARGS__);           \
    else if (p->height == 7 && p->width == 7)        \
        transform(p, 7, 7, __VA_ARGS__);             \
    else                                             \
        transform(p, p->height, p->width, __VA_ARGS__)

/* The spectrum (2, W', H) of a map (H, W). */
static void to_spectrum(const Problem *p, const vec *map, vec *spectrum, Room r)
{
    WITH_SIZES(spectrum_of, p, map, spectrum, r);
}

/* The inverse, which is the transpose, too. The spectrum may be any: what no real map has is left out. */
static void to_map(const Problem *p, const vec *spectrum, vec *map, Room r)
{
    WITH_SIZES(map_of, p, spectrum, map, r);
}

/* In place, of any spectrum what a real map has. */
static void keep_real_part(const Problem *p, vec *spectrum)
{
    const int H = p->height, W = p->width, F = frequencies(p);
    const vec zero = {0};
    for (int k = 0; k < sums(W); k++) {
        if (!is_edge(W, k))
            continue;
        vec *real = spectrum + k * H, *imag = real + F;
        imag[0] = zero;
        for (int j = 1; 2 * j < H; j++) {
            real[j] = real[H - j] = 0.5f * (real[j] + real[H - j]);
            imag[j] = 0.5f * (imag[j] - imag[H - j]);
            imag[H - j] = -imag[j];
        }
        if (H % 2 == 0)
            imag[H / 2] = zero;
    }
}

/* -- Products per frequency ---------------------------------------------------------------------------------------- */

/* y = base + k x, or k x without a base. */
INLINE void multiply(int F, const vec *k, const vec *x, const vec *base, vec *y)
{
    for (int f = 0; f < F; f++) {
        vec real = k[f] * x[f] - k[F + f] * x[F + f], imag = k[f] * x[F + f] + k[F + f] * x[f];
        y[f] = base ? base[f] + real : real;
        y[F + f] = base ? base[F + f] + imag : imag;
    }
}

/* y = base + conj(k) x, or conj(k) x without a base. */
INLINE void multiply_conjugate(int F, const vec *k, const vec *x, const vec *base, vec *y)
{
    for (int f = 0; f < F; f++) {
        vec real = k[f] * x[f] + k[F + f] * x[F + f], imag = k[f] * x[F + f] - k[F + f] * x[f];
        y[f] = base ? base[f] + real : real;
        y[F + f] = base ? base[F + f] + imag : imag;
    }
}

/* -- Parameters and shrinkage -------------------------------------------------------------------------------------- */

/* A spectrum (2, W', H) of the parameters' layout (H, W', 2). */
static void load_spectrum(const Problem *p, const float *from, int lanes, long apart, vec *spectrum)
{
    const int H = p->height, half = sums(p->width), F = frequencies(p);
    for (int y = 0; y < H; y++)
        for (int k = 0; k < half; k++)
            for (int part = 0; part < 2; part++)
                spectrum[part * F + k * H + y] = load(from + (y * half + k) * 2 + part, lanes, apart);
}

static void store_spectrum(const Problem *p, const vec *spectrum, int lanes, long apart, float *to)
{
    const int H = p->height, half = sums(p->width), F = frequencies(p);
    for (int y = 0; y < H; y++)
        for (int k = 0; k < half; k++)
            for (int part = 0; part < 2; part++)
                store(to + (y * half + k) * 2 + part, spectrum[part * F + k * H + y], lanes, apart);
}

static int any(mask m)
{
    int32_t found = 0;
    for (int c = 0; c < LANES; c++)
        found |= m[c];
    return found != 0;
}

/* -- The dynamics -------------------------------------------------------------------------------------------------- */

/* What is at hand of LANES channels of an image. A code is counted in units of 1 / L. */
typedef struct {
    vec bound, inverse_bound;
    vec *kernels;   /* (J, spectrum) */
    vec *filter;    /* spectrum */
    vec *target;    /* spectrum of v */
    vec *analysis;  /* sum_j conj(k_j) u_j at last */
    Room room;
    vec *map;       /* v, then other maps */
    vec *codes;     /* (T + 1 or 1, J, map): kept where there is a backward pass */
    vec *spectra;   /* (T + 1 or 1, J, spectrum) of codes */
    vec *residuals; /* (T or 1, spectrum) of v less its reconstruction */
} Lanes;

static Lanes divide(const Problem *p, vec **memory, int steps)
{
    const long N = tokens(p), S = 2 * frequencies(p), J = p->maps;
    Lanes l;
    l.kernels = take(memory, J * S);
    l.filter = take(memory, S);
    l.target = take(memory, S);
    l.analysis = take(memory, S);
    l.room = make_room(p, memory);
    l.map = take(memory, N);
    l.codes = take(memory, (steps + 1) * J * N);
    l.spectra = take(memory, (steps + 1) * J * S);
    l.residuals = take(memory, (steps > 0 ? steps : 1) * S);
    return l;
}

static long needed(const Problem *p, int steps)
{
    vec *start = NULL, *end = start;
    divide(p, &end, steps);
    return end - start;
}

static void load_parameters(const Problem *p, int channel, int lanes, Lanes *l)
{
    const long S = 2 * frequencies(p), J = p->maps;
    for (int j = 0; j < J; j++)
        load_spectrum(p, p->kernel + (channel * J + j) * S, lanes, J * S, l->kernels + j * S);
    load_spectrum(p, p->filter + channel * S, lanes, S, l->filter);
    l->bound = load(p->bound + channel, lanes, 1);
    for (int c = lanes; c < LANES; c++)
        l->bound[c] = 1;
    l->inverse_bound = 1 / l->bound;
}

static void load_map(const Problem *p, const float *x, int lanes, vec *map)
{
    for (int n = 0; n < tokens(p); n++)
        map[n] = load(x + (long)n * p->channels, lanes, 1);
}

static void store_map(const Problem *p, const vec *map, int lanes, float *x)
{
    for (int n = 0; n < tokens(p); n++)
        store(x + (long)n * p->channels, map[n], lanes, 1);
}

/* From v in `map` to `analysis`; false where every code is zero at every step, as no drive exceeds the threshold.
   `kept`: whether codes, their spectra and residuals of all steps are kept, or overwrite one another. */
static int iterate(const Problem *p, Lanes *l, int kept)
{
    const int F = frequencies(p), J = p->maps, T = p->steps;
    const long N = tokens(p), S = 2 * F;
    vec *change = l->residuals; /* not in use yet, or any more, where it is used */
    mask active = {0};
    to_spectrum(p, l->map, l->target, l->room);
    for (int j = 0; j < J; j++) {
        vec *drive = l->codes + j * N;
        multiply(F, l->kernels + j * S, l->target, NULL, change);
        to_map(p, change, drive, l->room);
        for (int n = 0; n < N; n++) {
            drive[n] = l->bound * soft(drive[n], p->sparsity);
            active |= drive[n] != 0;
        }
    }
    if (!any(active))
        return 0;
    for (int t = 0; t <= T; t++) {
        vec *codes = l->codes + (kept ? t * J * N : 0), *next = kept ? codes + J * N : codes;
        vec *spectra = l->spectra + (kept ? t * J * S : 0), *residual = l->residuals + (kept ? t * S : 0);
        for (int j = 0; j < J; j++) {
            to_spectrum(p, codes + j * N, spectra + j * S, l->room);
            multiply_conjugate(F, l->kernels + j * S, spectra + j * S, j ? l->analysis : NULL, l->analysis);
        }
        for (int f = 0; f < S; f++)
            l->analysis[f] *= l->inverse_bound;
        if (t == T)
            break;
        for (int f = 0; f < S; f++)
            residual[f] = l->target[f] - l->analysis[f];
        for (int j = 0; j < J; j++) {
            change = l->analysis; /* written anew by the next step */
            multiply(F, l->kernels + j * S, residual, spectra + j * S, change);
            to_map(p, change, next + j * N, l->room);
            for (int n = 0; n < N; n++)
                next[j * N + n] = soft(next[j * N + n], p->sparsity);
        }
    }
    keep_real_part(p, l->analysis);
    return 1;
}

/* -- What static_compiled.py calls --------------------------------------------------------------------------------- */

/* Find x, the filtered reconstruction of v. Several threads may call it for one problem and share the work. */
void reconstruct(Problem *p)
{
    const int F = frequencies(p);
    const long image = (long)tokens(p) * p->channels;
    vec *memory = reserve(needed(p, 0), &p->failed), *rest = memory;
    if (!memory)
        return;
    Lanes l = divide(p, &rest, 0);
    for (int channel, width; (width = take_up(&p->next, LANES, p->channels, &channel));) {
        load_parameters(p, channel, width, &l);
        for (int b = 0; b < p->images; b++) {
            load_map(p, p->v + b * image + channel, width, l.map);
            if (iterate(p, &l, 0)) {
                multiply(F, l.filter, l.analysis, NULL, l.target);
                to_map(p, l.target, l.map, l.room);
            } else
                memset(l.map, 0, tokens(p) * sizeof(vec));
            store_map(p, l.map, width, p->x + b * image + channel);
        }
    }
    free(memory);
}

/* From the gradient of x find those of v, of the kernels and of the filter, as `reconstruct` does. The dynamics are
   computed again, which takes less time than to write them to memory and read them. */
void differentiate(Problem *p)
{
    const int F = frequencies(p), J = p->maps, T = p->steps;
    const long N = tokens(p), S = 2 * F, image = N * p->channels;
    vec *memory = reserve(needed(p, T) + N + (2 * J + 4) * S, &p->failed), *rest = memory;
    if (!memory)
        return;
    Lanes l = divide(p, &rest, T);
    vec *incoming = take(&rest, N), *d_kernels = take(&rest, J * S), *d_filters = take(&rest, S);
    vec *g = take(&rest, S), *d_target = take(&rest, S), *d_analysis = take(&rest, S), *d_spectra = take(&rest, J * S);
    for (int channel, width; (width = take_up(&p->next, LANES, p->channels, &channel));) {
        load_parameters(p, channel, width, &l);
        memset(d_kernels, 0, J * S * sizeof(vec));
        memset(d_filters, 0, S * sizeof(vec));
        for (int b = 0; b < p->images; b++) {
            load_map(p, p->v + b * image + channel, width, l.map);
            if (!iterate(p, &l, 1)) {
                memset(l.map, 0, N * sizeof(vec));
                store_map(p, l.map, width, p->d_v + b * image + channel);
                continue;
            }
            load_map(p, p->gradient + b * image + channel, width, incoming);
            to_spectrum(p, incoming, g, l.room);
            multiply_conjugate(F, l.analysis, g, d_filters, d_filters);
            multiply_conjugate(F, l.filter, g, NULL, d_analysis);
            keep_real_part(p, d_analysis);
            for (int t = T; t >= 0; t--) {
                const vec *codes = l.codes + t * J * N, *spectra = l.spectra + t * J * S;
                const vec *residual = t ? l.residuals + (t - 1) * S : l.target;
                for (int f = 0; f < S; f++)
                    g[f] = d_analysis[f] * l.inverse_bound;
                for (int j = 0; j < J; j++) {
                    vec *d = d_spectra + j * S, *d_code = l.map;
                    /* sum_j conj(k_j) s_j, of which g is the gradient */
                    multiply_conjugate(F, g, spectra + j * S, d_kernels + j * S, d_kernels + j * S);
                    multiply(F, l.kernels + j * S, g, t == T ? NULL : d, d);
                    to_map(p, d, d_code, l.room);
                    for (int n = 0; n < N; n++)
                        d_code[n] = (vec)((mask)d_code[n] & (codes[j * N + n] != 0));
                    if (t == 0) /* the first code is L S(d) rather than S(...) */
                        for (int n = 0; n < N; n++)
                            d_code[n] *= l.bound;
                    to_spectrum(p, d_code, d, l.room);
                    /* k_j r, and what it was added to */
                    multiply_conjugate(F, residual, d, d_kernels + j * S, d_kernels + j * S);
                    multiply_conjugate(F, l.kernels + j * S, d, j ? d_analysis : NULL, d_analysis);
                }
                for (int f = 0; f < S; f++) {
                    d_target[f] = t == T ? d_analysis[f] : d_target[f] + d_analysis[f];
                    d_analysis[f] = -d_analysis[f];
                }
            }
            to_map(p, d_target, l.map, l.room);
            store_map(p, l.map, width, p->d_v + b * image + channel);
        }
        for (int j = 0; j < J; j++)
            store_spectrum(p, d_kernels + j * S, width, J * S, p->d_kernel + (channel * (long)J + j) * S);
        store_spectrum(p, d_filters, width, S, p->d_filter + channel * S);
    }
    free(memory);
}
