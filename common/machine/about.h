/* SPDX-License-Identifier: Apache-2.0
 *
 * What a machine is called. Any thread.
 */
#ifndef SHOAL_MACHINE_ABOUT_H
#define SHOAL_MACHINE_ABOUT_H

enum {
    SHOAL_MACHINE_NAME_MAX = 256
};

/* The processor's name as Linux knows it, "unknown" elsewhere; printable ASCII. */
void shoal_machine_cpu_name(char ret_name[SHOAL_MACHINE_NAME_MAX]);

#endif
