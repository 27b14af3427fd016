/* SPDX-License-Identifier: Apache-2.0
 *
 * A generation service without a model, linked in place of edge/coop: it says the words it is told
 * to, at the pace it is told, from threads of its own.
 */
#ifndef SHOAL_TESTS_HTTP_FAKE_COOP_H
#define SHOAL_TESTS_HTTP_FAKE_COOP_H

#include "edge/coop/coop.h"

#include <stdatomic.h>

typedef struct fake_script {
    const char *text;            /* of each token; NULL: "w" */
    shoal_unassisted unassisted; /* of each token but the first */
    size_t n_tokens;             /* at most n_tokens_max of the request */
    unsigned pause_us;           /* before each token */
    size_t fail_at;              /* ERROR before this token; SIZE_MAX: never */
    shoal_status fail_code;
    shoal_status submit_code; /* what submit answers */
    bool inside;              /* all events within submit */
    size_t n_ctx;             /* 0: 1000 */
} fake_script;

extern fake_script fake_next;          /* of the next submits */
extern atomic_size_t fake_n_cancelled; /* generations that ended by cancel */
extern atomic_size_t fake_n_submitted;
extern atomic_size_t fake_n_grammars;      /* requests that had one */
extern const shoal_adapter *fake_adapters; /* [fake_n_adapters], of coops made from then on */
extern size_t fake_n_adapters;
extern atomic_bool fake_link_cut; /* as the last shoal_coop_cut_link said */
/* What the last submit was given. */
extern shoal_coop_request fake_last;
extern int32_t fake_last_ids[64];
extern char fake_last_stops[4][64];
extern shoal_logit_bias fake_last_bias;
extern char fake_last_session[SHOAL_SESSION_NAME_MAX + 1];

/* The fake keeps one session, the last loaded; it answers within the call. */
extern const shoal_session_identity fake_identity;
extern shoal_status fake_session_code; /* what shoal_coop_session answers */
shoal_session_copy *fake_copy(size_t n_ids);

shoal_coop *fake_coop_new(void);
void fake_coop_free(shoal_coop *coop); /* waits for its threads */

#endif
