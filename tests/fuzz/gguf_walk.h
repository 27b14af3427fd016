/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything a caller can do with bytes that may be a GGUF, with the invariants that must hold for
 * any bytes: shared by the fuzz target and the unit tests. A broken invariant aborts.
 */
#ifndef SHOAL_TESTS_FUZZ_GGUF_WALK_H
#define SHOAL_TESTS_FUZZ_GGUF_WALK_H

#include "common/tensor/gguf.h"

/* Opens; on success reads every key, value, element and tensor byte, renders, writes the file anew
 * and opens that too. A refusal must come with a code and words. Returns the status of the open;
 * running out of memory on the way is not a failure. */
shoal_status gguf_walk(const uint8_t *data, size_t size, shoal_err *err);

#endif
