/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/client/client_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *shoal_client_code_text(int code)
{
    switch (code) {
    case SHOAL_CLIENT_OK:
        return "ok";
    case SHOAL_CLIENT_E_NOMEM:
        return "out of memory";
    case SHOAL_CLIENT_E_INVALID:
        return "invalid argument";
    case SHOAL_CLIENT_E_CONNECT:
        return "cannot connect";
    case SHOAL_CLIENT_E_IO:
        return "connection broke";
    case SHOAL_CLIENT_E_TIMEOUT:
        return "timed out";
    case SHOAL_CLIENT_E_CANCELLED:
        return "cancelled";
    case SHOAL_CLIENT_E_PROTOCOL:
        return "unexpected answer";
    case SHOAL_CLIENT_E_LIMIT:
        return "over a limit";
    case SHOAL_CLIENT_E_REFUSED:
        return "refused";
    case SHOAL_CLIENT_E_BUSY:
        return "busy";
    case SHOAL_CLIENT_E_TLS:
        return "no TLS that can be trusted";
    default:
        return "unknown code";
    }
}

const char *shoal_client_tier_name(int tier)
{
    static const char *const names[] = {"exit", "edge", "cloud"};
    return tier >= 0 && tier < SHOAL_CLIENT_TIERS ? names[tier] : "unknown";
}

const char *shoal_client_unassisted_name(int unassisted)
{
    static const char *const names[] = {"", "away", "budget"};
    bool known = unassisted >= 0 && unassisted < SHOAL_CLIENT_UNASSISTED_OTHER;
    return known ? names[unassisted] : "other";
}

/* In parentheses: to clang-tidy it is a macro as well. */
int(shoal_client_fail)(shoal_client_error *error, int code, const char *format, ...)
{
    error->code = code;
    va_list args;
    va_start(args, format);
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start is two lines above */
    int n = vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    if (n < 0) {
        error->text[0] = '\0';
    }
    /* Parts of the text may come from the peer: it must not move a terminal's cursor. */
    for (unsigned char *p = (unsigned char *)error->text; *p; p++) {
        bool c1 = p[0] == 0xC2 && p[1] >= 0x80 && p[1] < 0xA0;
        if (*p < 0x20 || *p == 0x7F || c1) {
            *p = '?';
            p[1] = c1 ? '?' : p[1];
        }
    }
    return code;
}

void shoal_client_copy_name(char ret_name[SHOAL_CLIENT_NAME_MAX], const char *text)
{
    size_t n = strlen(text);
    if (n >= SHOAL_CLIENT_NAME_MAX) {
        n = SHOAL_CLIENT_NAME_MAX - 1;
        while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) {
            n--;
        }
    }
    memcpy(ret_name, text, n);
    ret_name[n] = '\0';
}
