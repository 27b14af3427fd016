/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded random models of every architecture, small, with everything that sets it apart in use:
 * windows shorter than the golden prompt, grouped heads, experts, latents, caps, scalings. The
 * vocabulary is that of tiny_model.h. Pure, any thread.
 */
#ifndef SHOAL_TESTS_SUPPORT_TINY_ARCH_H
#define SHOAL_TESTS_SUPPORT_TINY_ARCH_H

#include "common/base/buf.h"
#include "common/tensor/type.h"

#include <stdint.h>

/* Names of the variants, "llama-yarn" for example. */
extern const char *const shoal_tiny_archs[];
extern const size_t shoal_tiny_archs_n;

/* Appends a whole GGUF file of a variant to buf. SHOAL_E_NOTFOUND for an unknown one. */
shoal_status shoal_tiny_arch_gguf(const char *variant, uint64_t seed, shoal_type type,
                                  shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
