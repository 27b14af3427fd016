/* SPDX-License-Identifier: Apache-2.0
 *
 * The few macros of the house: propagate, own, hand over, assert.
 */
#ifndef SHOAL_BASE_MACROS_H
#define SHOAL_BASE_MACROS_H

#include "common/base/err.h"
#include "common/base/status.h"

#include <stddef.h>

/* Returns from the function when expr is not SHOAL_OK: the only macro that hides a return. Safe
 * because locals own through SHOAL_CLEANUP. Positive outcomes propagate too. */
#define SHOAL_TRY(expr)                                                                            \
    do {                                                                                           \
        shoal_status shoal_try_ = (expr);                                                          \
        if (shoal_try_ != SHOAL_OK) {                                                              \
            return shoal_try_;                                                                     \
        }                                                                                          \
    } while (0)

/* `SHOAL_CLEANUP(shoal_x_freep) shoal_x *x = NULL;` calls shoal_x_freep(&x) at scope end. */
#define SHOAL_CLEANUP(fn) __attribute__((cleanup(fn)))

/* Defines fn##p(T **) for use with SHOAL_CLEANUP, from a `void fn(T *)` that accepts NULL. */
#define SHOAL_DEFINE_CLEANUP(T, fn)                                                                \
    static inline void fn##p(T **p)                                                                \
    {                                                                                              \
        fn(*p);                                                                                    \
    }

/* Takes the pointer out of an owning local: the visible word for a transfer. */
#define SHOAL_STEAL(p)                                                                             \
    __extension__({                                                                                \
        __typeof__(p) shoal_steal_ = (p);                                                          \
        (p) = NULL;                                                                                \
        shoal_steal_;                                                                              \
    })

/* Always on. For our own mistakes only, never for input. */
#define SHOAL_ASSERT(cond)                                                                         \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0)) {                                                        \
            shoal_assert_fail(#cond, __FILE__, __LINE__);                                          \
        }                                                                                          \
    } while (0)
_Noreturn void shoal_assert_fail(const char *cond, const char *file, int line);

#define SHOAL_COUNT(array)   (sizeof(array) / sizeof((array)[0]))
#define SHOAL_MIN(a, b)      ((a) < (b) ? (a) : (b))
#define SHOAL_MAX(a, b)      ((a) > (b) ? (a) : (b))

#endif
