/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory as the allocator has it: gives what is free back to the system when a burst has left much
 * of it. The allocator keeps what lies below a block that is still used: after 20000 streams of
 * gRPC that were opened and reset at once, 250 MiB behind 5 MiB in use. For one thread of a
 * program, about once a second.
 */
#ifndef SHOAL_BASE_TRIM_H
#define SHOAL_BASE_TRIM_H

#include <stddef.h>

/* The lowest since the last time memory was given back; zeroed at first. */
typedef struct shoal_trim {
    size_t resident; /* bytes in memory that are of no file */
    size_t free;     /* bytes that the allocator keeps, in memory or not */
} shoal_trim;

/* Gives back when spare_bytes are free and either count has grown by so many. The bytes given back;
 * 0: it was not worth it. */
size_t shoal_trim_memory(shoal_trim *trim, size_t spare_bytes);

/* Bytes that the allocator has handed out, some of which it may have handed back to itself: small
 * blocks that a thread keeps for its next one. What grows here and never falls is lost, however
 * much is free around it; what is mapped without the allocator, as KV is, does not count. */
size_t shoal_trim_used_bytes(void);

#endif
