/* SPDX-License-Identifier: Apache-2.0
 *
 * The API on a server of its own, over a scripted generation service and a tiny model.
 */
#ifndef SHOAL_TESTS_API_FIXTURE_H
#define SHOAL_TESTS_API_FIXTURE_H

#include "fake_coop.h"
#include "fixture.h"

#include "edge/http/api.h"

typedef struct json_t json_t; /* jansson's */

#define MODEL "tiny"

typedef struct api_fixture {
    http_fixture f;
    shoal_api *api;
    shoal_coop *coop;
    shoal_wake *drain;
} api_fixture;

extern shoal_model *api_model; /* between api_make_model and api_free_model */
int api_make_model(void **state);
int api_free_model(void **state);

shoal_api_settings api_test_settings(void);
void api_start(api_fixture *a);
void api_start_with(api_fixture *a, const shoal_api_settings *settings,
                    const shoal_http_settings *http);
void api_stop(api_fixture *a);

/* One request on a connection of its own; the status. */
int api_post(api_fixture *a, const char *path, const char *body, shoal_buf *answer);
int api_get(api_fixture *a, const char *path, shoal_buf *answer);

/* JSON that must be valid; for json_decref. */
json_t *api_load(const char *text);
json_t *api_body(const shoal_buf *answer);
/* "choices.0.text"; NULL: not there. */
json_t *api_at(json_t *json, const char *path);
const char *api_text_at(json_t *json, const char *path); /* "" when it is no string */

#endif
