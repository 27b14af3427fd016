/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: what training reads. Examples of the catalogue and windows of a plain
 * text become tokens, packed one behind the other until a batch is full. A batch is a pure function
 * of the feed, the step and the part, so a run that was interrupted reads on where it was; it is
 * made on the thread that trains on it, for a small share of the time that takes.
 */
#ifndef SHOAL_FORGE_FEED_H
#define SHOAL_FORGE_FEED_H

#include "cloud/forge/field.h"

#include "common/tokenizer/tokenizer.h"
#include "common/train/trainer.h"

typedef struct shoal_forge_feed shoal_forge_feed;

typedef struct shoal_forge_feed_settings {
    const shoal_tokenizer *tokenizer;
    const forge_field *field; /* NULL: text alone */
    double exponent;
    double study_share; /* of the examples, from the split for study */
    double study_exponent;
    const char *text;  /* a file; NULL: none */
    double text_share; /* of a batch's tokens */
    uint64_t seed;
    size_t n_parts;
    size_t n_tokens; /* of a batch */
    size_t n_ctx;    /* tokens of a window of text, at most */
} shoal_forge_feed_settings;

shoal_status shoal_forge_feed_new(const shoal_forge_feed_settings *settings,
                                  shoal_forge_feed **ret_feed, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_feed_free(shoal_forge_feed *feed);
SHOAL_DEFINE_CLEANUP(shoal_forge_feed, shoal_forge_feed_free)

/* Names what the feed draws from: differs when any setting but the paths does, or the text. */
uint64_t shoal_forge_feed_id(const shoal_forge_feed *feed);

/* A shoal_train_source; ctx is the feed. */
shoal_status shoal_forge_feed_batch(void *ctx, uint64_t step, size_t part,
                                    shoal_train_batch *ret_batch);

#endif
