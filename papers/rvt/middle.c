/* The middle of RVT's feed-forward network: batch norm, GELU, 3x3 depth-wise convolution, batch norm, GELU; and its
   gradient. compiled.py calls it.

   No two channels interact, so LANES channels of all images (of one image, where the norms' statistics are given) are
   taken through all five layers within the cache. The backward pass computes what it needs again from the input.

   Pixels lie whole pages apart, so that channels are fetched from, and brought to, memory WIDE at a time. */

#include "lanes.h"

#define BLOCKS 8
#define WIDE (BLOCKS * LANES)

/* compiled.py has the same structure. Tensors of images are (B, H, W, C), others (C,). */
typedef struct {
    int images, height, width, channels;
    int training; /* whether the norms' statistics are those of the batch, and found here, or given */
    int next;     /* the first channel that nobody has taken up */
    int failed;   /* whether there was no memory */
    float epsilon1, epsilon2;
    float *mean1, *variance1, *mean2, *variance2;
    const float *gamma1, *beta1, *gamma2, *beta2;
    const float *weight; /* (C, 3, 3) */
    const float *bias;
    const float *x;
    float *y;
    const float *d_y;
    float *d_x, *d_gamma1, *d_beta1, *d_gamma2, *d_beta2, *d_weight, *d_bias;
} Middle;

/* -- GELU ---------------------------------------------------------------------------------------------------------- */

INLINE vec gelu(vec x)
{
    vec distribution, slope;
    normal(x, &distribution, &slope);
    return x * distribution;
}

/* -- Layers -------------------------------------------------------------------------------------------------------- */

/* A batch norm of LANES channels. */
typedef struct {
    vec mean, inverse, scale, shift;
} Norm;

static Norm norm_of(vec mean, vec variance, float epsilon, const float *gamma, const float *beta, int lanes)
{
    Norm n;
    n.mean = mean;
    n.inverse = 1 / square_root(variance + epsilon);
    n.scale = load(gamma, lanes, 1) * n.inverse;
    n.shift = load(beta, lanes, 1) - mean * n.scale;
    return n;
}

/* Mean and variance of `images` times `pixels` values, image by image for the sake of precision. */
static void moments(const vec *x, int images, int pixels, vec *mean, vec *variance)
{
    const float share = 1.0f / ((float)images * pixels);
    vec total = {0};
    for (int b = 0; b < images; b++) {
        vec sum = {0};
        for (int i = 0; i < pixels; i++)
            sum += x[b * pixels + i];
        total += sum;
    }
    *mean = total * share;
    total -= total;
    for (int b = 0; b < images; b++) {
        vec sum = {0};
        for (int i = 0; i < pixels; i++) {
            const vec d = x[b * pixels + i] - *mean;
            sum += d * d;
        }
        total += sum;
    }
    *variance = total * share;
}

/* y = convolution of x, which has a margin of one pixel, with 3x3 weights, in any order. */
INLINE void convolve(int H, int W, const vec *x, const vec *weight, vec bias, vec *y)
{
    for (int i = 0; i < H; i++)
        for (int j = 0; j < W; j++) {
            const vec *at = x + i * (W + 2) + j;
            vec sum = bias;
            for (int k = 0; k < 9; k++)
                sum += weight[k] * at[k / 3 * (W + 2) + k % 3];
            y[i * W + j] = sum;
        }
}

/* What is at hand of LANES channels of some images. */
typedef struct {
    int lanes;
    vec weight[9], bias;
    Norm first, second;
    vec *all_x;   /* (BLOCKS, images, H, W) */
    vec *all_d;   /* (BLOCKS, images, H, W): a gradient, where there is a backward pass */
    vec *x, *d;   /* (images, H, W), of one block */
    vec *hidden;  /* (images, H + 2, W + 2), after the first GELU, with a margin of zeros */
    vec *slopes;  /* (images, H, W), of the first GELU, for a backward pass */
    vec *between; /* (images, H, W), after the convolution */
    vec *margin;  /* (H + 2, W + 2), zeros around a gradient */
} Channels;

static Channels divide(const Middle *p, vec **memory, int images, int backward)
{
    const long pixels = p->height * p->width, framed = (p->height + 2) * (p->width + 2);
    Channels c;
    c.all_x = take(memory, BLOCKS * images * pixels);
    c.all_d = take(memory, backward ? BLOCKS * images * pixels : 0);
    c.hidden = take(memory, images * framed);
    c.slopes = take(memory, backward ? images * pixels : 0);
    c.between = take(memory, images * pixels);
    c.margin = take(memory, framed);
    return c;
}

static long needed(const Middle *p, int images, int backward)
{
    vec *start = NULL, *end = start;
    divide(p, &end, images, backward);
    return end - start;
}

/* `width` channels of some images, from `from` on, as (BLOCKS, images, H, W). */
static void fetch(const Middle *p, const float *from, int width, int images, vec *to)
{
    const long count = (long)images * p->height * p->width, stride = p->channels;
    for (long i = 0; i < count; i++)
        for (int c = 0; c < width; c += LANES)
            to[c / LANES * count + i] = load(from + i * stride + c, filled(width, c), 1);
}

static void bring(const Middle *p, const vec *from, int width, int images, float *to)
{
    const long count = (long)images * p->height * p->width, stride = p->channels;
    for (long i = 0; i < count; i++)
        for (int c = 0; c < width; c += LANES)
            store(to + i * stride + c, from[c / LANES * count + i], filled(width, c), 1);
}

static void load_layers(const Middle *p, int channel, Channels *c)
{
    for (int k = 0; k < 9; k++)
        c->weight[k] = load(p->weight + channel * 9 + k, c->lanes, 9);
    c->bias = load(p->bias + channel, c->lanes, 1);
}

static Norm given_norm(const float *mean, const float *variance, float epsilon, const float *gamma, const float *beta,
                       int lanes)
{
    return norm_of(load(mean, lanes, 1), load(variance, lanes, 1), epsilon, gamma, beta, lanes);
}

static Norm found_norm(const vec *x, int images, int pixels, float *mean, float *variance, float epsilon,
                       const float *gamma, const float *beta, int lanes)
{
    vec m, v;
    moments(x, images, pixels, &m, &v);
    store(mean, m, lanes, 1);
    store(variance, v, lanes, 1);
    return norm_of(m, v, epsilon, gamma, beta, lanes);
}

/* The first GELU and the convolution of an image. `backward`: whether to keep the GELU's slopes. */
INLINE void first_half(const Middle *p, Channels *c, int b, const int backward)
{
    const int H = p->height, W = p->width;
    vec *hidden = c->hidden + (long)b * (H + 2) * (W + 2);
    const vec *x = c->x + (long)b * H * W;
    for (int i = 0; i < H; i++)
        for (int j = 0; j < W; j++) {
            const vec z = x[i * W + j] * c->first.scale + c->first.shift;
            vec distribution, slope;
            normal(z, &distribution, &slope);
            hidden[(i + 1) * (W + 2) + j + 1] = z * distribution;
            if (backward)
                c->slopes[((long)b * H + i) * W + j] = distribution + slope;
        }
    convolve(H, W, hidden, c->weight, c->bias, c->between + (long)b * H * W);
}

/* Sums over a channel's values of a norm's output gradient, and of it times the normalised input. */
typedef struct {
    vec beta, gamma;
} Sums;

/* The gradient of a norm's input x, of that of its output. `share`: 1 / number of values, 0 for given statistics. */
INLINE vec through_norm(vec gradient, vec x, const Norm *n, const Sums *s, float share)
{
    return n->scale * (gradient - share * (s->beta + (x - n->mean) * n->inverse * s->gamma));
}

/* From x of some images, in `c->x`, to y in the same place. */
static void block_forward(const Middle *p, int at, int images, Channels *c)
{
    const int pixels = p->height * p->width;
    if (p->training)
        c->first = found_norm(c->x, images, pixels, p->mean1 + at, p->variance1 + at, p->epsilon1, p->gamma1 + at,
                              p->beta1 + at, c->lanes);
    for (int b = 0; b < images; b++)
        first_half(p, c, b, 0);
    if (p->training)
        c->second = found_norm(c->between, images, pixels, p->mean2 + at, p->variance2 + at, p->epsilon2,
                               p->gamma2 + at, p->beta2 + at, c->lanes);
    for (long i = 0; i < (long)images * pixels; i++)
        c->x[i] = gelu(c->between[i] * c->second.scale + c->second.shift);
}

/* The gradients of one block's parameters. */
typedef struct {
    Sums first, second;
    vec weight[9], bias;
} Gradients;

/* From the gradient of y of some images, in `c->d`, to that of x in the same place. */
static void block_backward(const Middle *p, int images, Channels *c, Gradients *g)
{
    const int H = p->height, W = p->width, pixels = H * W;
    const float share = p->training ? 1.0f / ((float)p->images * pixels) : 0;
    vec mirrored[9];
    for (int k = 0; k < 9; k++)
        mirrored[k] = c->weight[8 - k];
    /* To the second norm's output. */
    for (int b = 0; b < images; b++) {
        first_half(p, c, b, 1);
        Sums own = {0};
        for (long n = (long)b * pixels; n < (b + 1L) * pixels; n++) {
            const vec x = c->between[n];
            vec distribution, slope;
            normal(x * c->second.scale + c->second.shift, &distribution, &slope);
            c->d[n] *= distribution + slope;
            own.beta += c->d[n];
            own.gamma += c->d[n] * (x - c->second.mean) * c->second.inverse;
        }
        g->second.beta += own.beta;
        g->second.gamma += own.gamma;
    }
    /* Through it, the convolution and the first GELU, to the first norm's output. */
    for (int b = 0; b < images; b++) {
        const vec *hidden = c->hidden + (long)b * (H + 2) * (W + 2), *between = c->between + (long)b * pixels;
        vec *d = c->d + (long)b * pixels, own_weight[9] = {0}, own_bias = {0};
        for (int i = 0; i < H; i++)
            for (int j = 0; j < W; j++) {
                const int n = i * W + j;
                const vec d_between = through_norm(d[n], between[n], &c->second, &g->second, share);
                c->margin[(i + 1) * (W + 2) + j + 1] = d_between;
                own_bias += d_between;
                for (int k = 0; k < 9; k++)
                    own_weight[k] += d_between * hidden[(i + k / 3) * (W + 2) + j + k % 3];
            }
        g->bias += own_bias;
        for (int k = 0; k < 9; k++)
            g->weight[k] += own_weight[k];
        convolve(H, W, c->margin, mirrored, (vec){0}, d);
        Sums own = {0};
        for (int i = 0; i < pixels; i++) {
            const long n = (long)b * pixels + i;
            d[i] *= c->slopes[n];
            own.beta += d[i];
            own.gamma += d[i] * (c->x[n] - c->first.mean) * c->first.inverse;
        }
        g->first.beta += own.beta;
        g->first.gamma += own.gamma;
    }
    for (long n = 0; n < (long)images * pixels; n++)
        c->d[n] = through_norm(c->d[n], c->x[n], &c->first, &g->first, share);
}

static void store_gradients(const Middle *p, int at, int lanes, const Gradients *g)
{
    store(p->d_beta1 + at, g->first.beta, lanes, 1);
    store(p->d_gamma1 + at, g->first.gamma, lanes, 1);
    store(p->d_beta2 + at, g->second.beta, lanes, 1);
    store(p->d_gamma2 + at, g->second.gamma, lanes, 1);
    store(p->d_bias + at, g->bias, lanes, 1);
    for (int k = 0; k < 9; k++)
        store(p->d_weight + at * 9 + k, g->weight[k], lanes, 9);
}

static void run(Middle *p, const int backward)
{
    const int together = p->training ? p->images : 1;
    const long pixels = p->height * p->width, count = together * pixels, framed = (p->height + 2) * (p->width + 2);
    vec *memory = reserve(needed(p, together, backward), &p->failed), *rest = memory;
    if (!memory)
        return;
    Channels c = divide(p, &rest, together, backward);
    Gradients gradients[BLOCKS];
    int first, width = take_up(&p->next, WIDE, p->channels, &first);
    if (width) { /* and these margins, which nobody writes to, are needed */
        memset(c.hidden, 0, together * framed * sizeof(vec));
        memset(c.margin, 0, framed * sizeof(vec));
    }
    for (; width; width = take_up(&p->next, WIDE, p->channels, &first)) {
        memset(gradients, 0, sizeof gradients);
        for (int image = 0; image < p->images; image += together) {
            const long place = image * pixels * p->channels + first;
            fetch(p, p->x + place, width, together, c.all_x);
            if (backward)
                fetch(p, p->d_y + place, width, together, c.all_d);
            for (int block = 0; block * LANES < width; block++) {
                const int at = first + block * LANES;
                c.lanes = filled(width, block * LANES);
                c.x = c.all_x + block * count;
                c.d = c.all_d + block * count;
                load_layers(p, at, &c);
                if (backward || !p->training) {
                    c.first = given_norm(p->mean1 + at, p->variance1 + at, p->epsilon1, p->gamma1 + at, p->beta1 + at,
                                         c.lanes);
                    c.second = given_norm(p->mean2 + at, p->variance2 + at, p->epsilon2, p->gamma2 + at,
                                          p->beta2 + at, c.lanes);
                }
                if (backward)
                    block_backward(p, together, &c, &gradients[block]);
                else
                    block_forward(p, at, together, &c);
            }
            if (backward)
                bring(p, c.all_d, width, together, p->d_x + place);
            else
                bring(p, c.all_x, width, together, p->y + place);
        }
        for (int c = 0; backward && c < width; c += LANES)
            store_gradients(p, first + c, filled(width, c), &gradients[c / LANES]);
    }
    free(memory);
}

/* -- What compiled.py calls ---------------------------------------------------------------------------------------- */

/* Find y. Several threads may call it for one problem and share the work. */
void forward(Middle *p) { run(p, 0); }

/* From the gradient of y find those of x and of all parameters, as `forward` does. */
void backward(Middle *p) { run(p, 1); }
