/* SPDX-License-Identifier: Apache-2.0
 *
 * Status codes: the one list of everything a function can answer. Zero is success; negative is a
 * failure to be propagated unchanged; positive is an outcome documented on the function that
 * returns it and handled by its caller. Threading: none, plain values.
 */
#ifndef SHOAL_BASE_STATUS_H
#define SHOAL_BASE_STATUS_H

#define SHOAL_STATUS_LIST(X)                                                                       \
    X(SHOAL_OK, 0, "ok")                                                                           \
    X(SHOAL_MORE, 1, "more to come")                                                               \
    X(SHOAL_EOF, 2, "end of input")                                                                \
    X(SHOAL_BUSY, 3, "full, try again later")                                                      \
    X(SHOAL_E_NOMEM, -1, "out of memory")                                                          \
    X(SHOAL_E_INVALID, -2, "invalid input")                                                        \
    X(SHOAL_E_LIMIT, -3, "over a limit")                                                           \
    X(SHOAL_E_IO, -4, "input/output error")                                                        \
    X(SHOAL_E_NOTFOUND, -5, "not found")                                                           \
    X(SHOAL_E_MISMATCH, -6, "identity mismatch")                                                   \
    X(SHOAL_E_UNSUPPORTED, -7, "not supported")                                                    \
    X(SHOAL_E_UNAVAILABLE, -8, "unavailable")                                                      \
    X(SHOAL_E_DEADLINE, -9, "deadline exceeded")                                                   \
    X(SHOAL_E_CANCELLED, -10, "cancelled")                                                         \
    X(SHOAL_E_EXHAUSTED, -11, "resource exhausted")                                                \
    X(SHOAL_E_AUTH, -12, "not authorised")                                                         \
    X(SHOAL_E_PROTOCOL, -13, "protocol violation")                                                 \
    X(SHOAL_E_INTERNAL, -14, "internal error")

typedef enum shoal_status_code {
#define X(name, value, text) name = (value),
    SHOAL_STATUS_LIST(X)
#undef X
} shoal_status_code;

/* Unused results are a compile error. */
#define SHOAL_MUST_CHECK __attribute__((warn_unused_result))
typedef int shoal_status;

/* The short text of a code, static; "unknown status" for a value outside the list. */
const char *shoal_status_text(shoal_status status);

#endif
