/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory for a parse of JSON that comes from outside, as json_set_alloc_funcs takes it; jansson
 * itself is not seen here. A parse has a budget, since "[0,0,..." takes some eighty bytes of memory
 * for two of text.
 *
 * jansson 2.14 does not look whether the text of a token could grow, be it for lack of memory or of
 * budget: it goes on with what it has, writes past the copy that it makes of a string, and ends the
 * process in an assertion at a number. So the sizes that such a text grows by, powers of two from
 * 32 on, are always to be had while a parse goes on, in the end from a spare part that was set
 * aside before it. Once something was not to be had, everything of another size is refused until
 * the parse is over, and what it gives does not count.
 *
 * Any thread; at most one parse at a time in each.
 */
#ifndef SHOAL_BASE_JSON_MEMORY_H
#define SHOAL_BASE_JSON_MEMORY_H

#include "common/base/status.h"

#include <stddef.h>

/* For json_set_alloc_funcs. Outside of a parse they are shoal_calloc and shoal_free. */
void *shoal_json_allocate(size_t n);
void shoal_json_free(void *p);

/* Before n bytes of text are parsed, at most 2^32. SHOAL_E_NOMEM: they must not be. */
shoal_status shoal_json_memory_begin(size_t n, size_t budget_bytes) SHOAL_MUST_CHECK;

/* After it: SHOAL_OK, SHOAL_E_LIMIT (the budget) or SHOAL_E_NOMEM. If it is not SHOAL_OK, what the
 * parse gave must be released before the end. */
shoal_status shoal_json_memory_judge(void) SHOAL_MUST_CHECK;
void shoal_json_memory_end(void);

#endif
