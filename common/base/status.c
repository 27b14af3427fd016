/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/status.h"

const char *shoal_status_text(shoal_status status)
{
    switch (status) {
#define X(name, value, text)                                                                       \
    case name:                                                                                     \
        return text;
        SHOAL_STATUS_LIST(X)
#undef X
    default:
        return "unknown status";
    }
}
