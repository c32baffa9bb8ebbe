/* Vectors as wide as the processor's registers, whose lanes are neighbouring channels of a tensor, channels last.

   Vector types are those of gcc and clang, so that code is the same for every processor. native.py compiles what
   includes this file. */

#ifndef LANES_H
#define LANES_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

/* What is to be compiled anew for sizes that are known where it is called. */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));

/* The value of up to `lanes` channels, each `apart` numbers from the next; the others are 0. */
static inline vec load(const float *x, int lanes, long apart)
{
    vec found = {0};
    if (apart == 1 && lanes == LANES)
        memcpy(&found, x, sizeof found);
    else
        for (int c = 0; c < lanes; c++)
            found[c] = x[c * apart];
    return found;
}

static inline void store(float *x, vec value, int lanes, long apart)
{
    if (apart == 1 && lanes == LANES)
        memcpy(x, &value, sizeof value);
    else
        for (int c = 0; c < lanes; c++)
            x[c * apart] = value[c];
}

/* exp(x), to 2e-7 of it, for x between -87 and 88, and for others what it is at the nearer end. */
INLINE vec exponential(vec x)
{
    typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
    const float whole = 12582912.0f; /* adding 1.5 * 2^23 leaves an integer in a number's last bits */
    const mask low = x < -87.0f, high = x > 88.0f;
    const vec zero = {0};
    x = (vec)(((mask)x & ~(low | high)) | ((mask)(zero - 87.0f) & low) | ((mask)(zero + 88.0f) & high));
    const vec shifted = x * 1.44269504f + whole, n = shifted - whole;
    const vec r = x - n * 0.693359375f + n * 2.12194440e-4f, r2 = r * r; /* ln 2 in two parts */
    const vec series = (1 + r) + r2 * ((1.0f / 2 + r * (1.0f / 6)) + r2 * ((1.0f / 24 + r * (1.0f / 120)) +
                       r2 * (1.0f / 720 + r * (1.0f / 5040)))); /* in pairs, which need not wait for each other */
    return series * (vec)(((bits)shifted + 127) << 23);
}

INLINE vec square_root(vec x)
{
    for (int c = 0; c < LANES; c++)
        x[c] = sqrtf(x[c]);
    return x;
}

INLINE vec magnitude(vec x) { return (vec)((mask)x & 0x7fffffff); }

/* Phi(x), the standard normal distribution, and x times its density. Phi by formula 7.1.26 of Abramowitz and Stegun's
   handbook, to 8e-8. */
INLINE void normal(vec x, vec *distribution, vec *slope)
{
    const mask negative = x < 0;
    const vec size = magnitude(x), density = exponential(-0.5f * x * x);
    const vec t = 1 / (1 + 0.2316418882f * size), t2 = t * t;
    const vec tail = density * t * ((0.127414796f - t * 0.142248368f) + t2 * ((0.710706871f - t * 0.726576014f) +
                     t2 * 0.530702715f));
    *distribution = (vec)(((mask)tail & negative) | ((mask)(1 - tail) & ~negative));
    *slope = x * density * 0.398942280f;
}

/* sign(x) max(|x| - threshold, 0); what is not a number stays so. */
INLINE vec soft(vec x, float threshold)
{
    const vec zero = {0};
    const mask sign = (mask)x & INT32_MIN, inside = (x <= threshold) & (x >= -threshold);
    return (vec)((mask)(x - (vec)((mask)(zero + threshold) | sign)) & ~inside);
}

/* Up to `most` channels that nobody has taken up yet: the first, and how many there are, 0 at the end. `next` is what
   the threads that share the work have in common. */
static inline int take_up(int *next, int most, int channels, int *channel)
{
    *channel = __atomic_fetch_add(next, most, __ATOMIC_RELAXED);
    const int left = channels - *channel;
    return left < 0 ? 0 : left < most ? left : most;
}

/* How many of `count` values the register that begins with value `at` holds. */
INLINE int filled(int count, int at) { return count - at < LANES ? count - at : LANES; }

/* Memory for `count` registers; NULL, and `failed`, where there is none. */
static inline vec *reserve(long count, int *failed)
{
    vec *memory = aligned_alloc(sizeof(vec), count * sizeof(vec));
    if (!memory)
        *failed = 1;
    return memory;
}

/* Memory from the front of a piece that is large enough. */
static inline vec *take(vec **memory, long count)
{
    vec *taken = *memory;
    *memory += count;
    return taken;
}

#endif
