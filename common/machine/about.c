/* SPDX-License-Identifier: Apache-2.0 */
#include "common/machine/about.h"

#include <stdio.h>
#include <string.h>

void shoal_machine_cpu_name(char ret_name[SHOAL_MACHINE_NAME_MAX])
{
    char line[SHOAL_MACHINE_NAME_MAX];
    (void)snprintf(ret_name, SHOAL_MACHINE_NAME_MAX, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) {
        return;
    }
    while (fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon && colon[1] == ' ') {
            line[strcspn(line, "\n")] = '\0';
            (void)snprintf(ret_name, SHOAL_MACHINE_NAME_MAX, "%s", colon + 2);
            break;
        }
    }
    (void)fclose(file);
    for (char *c = ret_name; *c; c++) {
        *c = *c < 0x20 || *c > 0x7E ? '?' : *c;
    }
}
