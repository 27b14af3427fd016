/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-sim: runs worlds from seeds until an invariant is broken; then it names the seed.
 *   shoal-sim [--seeds A..B] [--world NAME]
 */
#include "tests/sim/sim.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    EXIT_USAGE = 2
};

typedef struct world {
    const char *name;
    bool (*run)(const sim_base *base, uint64_t seed, sim_report *report);
} world;

static const world worlds[] = {
    {"sched", sim_sched_run},
    {"nodes", sim_world_run},
};

typedef struct options {
    uint64_t first;
    uint64_t last;
    const char *world; /* NULL: all */
} options;

static bool parse_seeds(const char *text, options *o)
{
    char *end = NULL;
    errno = 0;
    o->first = strtoull(text, &end, 10);
    o->last = o->first;
    if (end != text && strncmp(end, "..", 2) == 0) {
        text = end + 2;
        o->last = strtoull(text, &end, 10);
    }
    return errno == 0 && end != text && *end == '\0' && o->first <= o->last;
}

static bool known(const char *name)
{
    for (size_t i = 0; i < SHOAL_COUNT(worlds); i++) {
        if (strcmp(worlds[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool parse(int argc, char **argv, options *o)
{
    static const struct option longs[] = {{"seeds", required_argument, NULL, 's'},
                                          {"world", required_argument, NULL, 'w'},
                                          {NULL, 0, NULL, 0}};
    for (;;) {
        switch (getopt_long(argc, argv, "", longs, NULL)) {
        case 's':
            if (!parse_seeds(optarg, o)) {
                return false;
            }
            break;
        case 'w':
            o->world = optarg;
            break;
        case -1:
            return optind == argc && (!o->world || known(o->world));
        default:
            return false;
        }
    }
}

/* False at the first seed that breaks something. */
static bool run_world(const world *w, const sim_base *base, const options *o, const char *program)
{
    sim_report report = {0};
    for (uint64_t seed = o->first; seed <= o->last; seed++) {
        if (!w->run(base, seed, &report)) {
            (void)printf("%s: seed %" PRIu64 " is broken: %s\nagain: %s --world %s --seeds %" PRIu64
                         "\n",
                         w->name, seed, report.why, program, w->name, seed);
            return false;
        }
    }
    (void)printf("%s: seeds %" PRIu64 "..%" PRIu64
                 " hold: %zu sessions, %zu tokens, %zu steps, %zu streams cut, %zu restarts, %zu "
                 "times KV dropped\n",
                 w->name, o->first, o->last, report.n_sessions, report.n_tokens, report.n_steps,
                 report.n_cuts, report.n_restarts, report.n_preempted);
    return true;
}

int main(int argc, char **argv)
{
    options o = {.first = 1, .last = 100};
    if (!parse(argc, argv, &o)) {
        (void)fprintf(stderr, "usage: %s [--seeds A..B] [--world NAME]; worlds:", argv[0]);
        for (size_t i = 0; i < SHOAL_COUNT(worlds); i++) {
            (void)fprintf(stderr, " %s", worlds[i].name);
        }
        (void)fputc('\n', stderr);
        return EXIT_USAGE;
    }
    sim_base base;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = sim_base_init(&base, &err);
    if (status != SHOAL_OK) {
        (void)fprintf(stderr, "shoal-sim: %s\n",
                      err.text[0] != '\0' ? err.text : shoal_status_text(status));
    }
    bool good = status == SHOAL_OK;
    for (size_t i = 0; i < SHOAL_COUNT(worlds) && good; i++) {
        if (!o.world || strcmp(o.world, worlds[i].name) == 0) {
            good = run_world(&worlds[i], &base, &o, argv[0]);
        }
    }
    sim_base_fini(&base);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
