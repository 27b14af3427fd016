/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/macros.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void shoal_assert_fail(const char *cond, const char *file, int line)
{
    (void)fprintf(stderr, "shoal: this is a bug of ours: %s does not hold (%s:%d)\n", cond, file,
                  line);
    abort();
}
