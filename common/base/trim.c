/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/trim.h"

#include "common/base/macros.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

/* Resident and of no file, by proc(5); 0 when the system does not say. */
static size_t anonymous_bytes(void)
{
    char text[128] = "";
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    (void)close(fd);
    char *at = text;
    unsigned long pages[3] = {0}; /* of addresses, resident, of files */
    for (size_t i = 0; n > 0 && i < SHOAL_COUNT(pages); i++) {
        pages[i] = strtoul(at, &at, 10);
    }
    long page = sysconf(_SC_PAGESIZE);
    return pages[1] > pages[2] && page > 0 ? (pages[1] - pages[2]) * (size_t)page : 0;
}

size_t shoal_trim_used_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

size_t shoal_trim_memory(shoal_trim *trim, size_t spare_bytes)
{
    size_t resident = anonymous_bytes();
    size_t free = mallinfo2().fordblks;
    if (trim->resident == 0) {
        *trim = (shoal_trim){.resident = resident, .free = free};
    }
    trim->resident = SHOAL_MIN(trim->resident, resident);
    trim->free = SHOAL_MIN(trim->free, free);
    size_t grown = SHOAL_MAX(resident - trim->resident, free - trim->free);
    if (free < spare_bytes || grown < spare_bytes) {
        return 0;
    }
    (void)malloc_trim(0);
    *trim = (shoal_trim){.resident = anonymous_bytes(), .free = free};
    return resident > trim->resident ? resident - trim->resident : 0;
}
