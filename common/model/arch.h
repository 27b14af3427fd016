/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of architectures: what sets one family of models apart from the next, as flags and
 * numbers. A row is data; the one forward pass reads it (forward.c). Constant, any thread.
 */
#ifndef SHOAL_MODEL_ARCH_H
#define SHOAL_MODEL_ARCH_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

/* What an architecture has. */
enum {
    SHOAL_ARCH_ROPE_HALVES =
        1 << 0,                     /* a rotation's pairs lie half a head apart, not side by side */
    SHOAL_ARCH_GELU = 1 << 1,       /* gate by gelu (tanh form), not by silu */
    SHOAL_ARCH_BIAS = 1 << 2,       /* q, k and v have biases */
    SHOAL_ARCH_BIAS_MAYBE = 1 << 3, /* q, k, v and o may have biases */
    SHOAL_ARCH_QK_NORM = 1 << 4,    /* every head of q and k is normed before its rotation */
    SHOAL_ARCH_POST_NORMS = 1 << 5, /* a block's output is normed before it joins the stream */
    SHOAL_ARCH_FUSED = 1 << 6,      /* one tensor holds q, k and v; one holds gate and up */
    SHOAL_ARCH_EMBED_SCALE = 1 << 7,     /* embeddings are multiplied by sqrt(dim) */
    SHOAL_ARCH_SOFTCAP = 1 << 8,         /* scores and logits may be capped */
    SHOAL_ARCH_WINDOW = 1 << 9,          /* attention may be limited to a sliding window */
    SHOAL_ARCH_LONGROPE = 1 << 10,       /* rotation factors for short and for long contexts */
    SHOAL_ARCH_MLA = 1 << 11,            /* keys and values come from one cached latent */
    SHOAL_ARCH_EXPERTS = 1 << 12,        /* feed-forward by experts */
    SHOAL_ARCH_EXPERTS_MAYBE = 1 << 13,  /* the same when the file says so */
    SHOAL_ARCH_SHARED = 1 << 14,         /* an expert that every token visits */
    SHOAL_ARCH_SHARED_SIGMOID = 1 << 15, /* and whose share is a sigmoid of the token */
    SHOAL_ARCH_EXPERTS_NORM = 1 << 16 /* the weights of a token's experts are made to sum to one */
};

typedef struct shoal_arch {
    const char *name; /* general.architecture */
    uint32_t flags;
    float attn_softcap;  /* unless the file says otherwise; 0: none */
    float final_softcap; /* likewise, of the logits */
    size_t window;       /* unless the file says otherwise; 0: the file says, or there is none */
    size_t
        window_period;  /* of every so many layers the last sees all; 0: all layers are windowed */
    float window_base;  /* rotation base of windowed layers; 0: the same as the others */
    size_t wide_layers; /* a model of so many layers scales its scores by dim / heads instead of
                         * the head's width: the largest of the family, known by nothing else */
} shoal_arch;

/* NULL when not known. */
const shoal_arch *shoal_arch_find(const char *name, size_t length);
/* All names, separated by ", ". */
void shoal_arch_names(char *ret_text, size_t capacity);
/* Whether "<arch>.<suffix>" is a key of this architecture that is computed with or known to change
 * no result. */
bool shoal_arch_knows_key(const shoal_arch *arch, const char *suffix, size_t length);

#endif
