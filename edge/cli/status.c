/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/cli/cli.h"

#include <inttypes.h>
#include <string.h>

const char *cli_bundle_text(const shoal_client_stats *stats, char ret_text[CLI_BUNDLE_BYTES])
{
    char serial[32] = "none yet";
    if (stats->bundle_serial > 0) {
        (void)snprintf(serial, sizeof serial, "%" PRIu64, stats->bundle_serial);
    }
    const char *under_way = strcmp(stats->bundle_phase, "fetching") == 0 ? ", fetching another"
                            : strcmp(stats->bundle_phase, "trying") == 0 ? ", trying another"
                                                                         : "";
    (void)snprintf(ret_text, CLI_BUNDLE_BYTES, "%s %s%s%s", stats->bundle, serial,
                   stats->bundle_trial ? ", on trial" : "", under_way);
    return ret_text;
}

static void print_json_bundle(const shoal_client_stats *stats)
{
    (void)fputs(",\"bundle\":{\"family\":", stdout);
    cli_json_string(stdout, stats->bundle, strlen(stats->bundle));
    (void)printf(",\"serial\":%" PRIu64 ",\"trial\":%s,\"phase\":", stats->bundle_serial,
                 stats->bundle_trial ? "true" : "false");
    cli_json_string(stdout, stats->bundle_phase, strlen(stats->bundle_phase));
    (void)fputs(",\"trouble\":", stdout);
    if (stats->bundle_trouble[0]) {
        cli_json_string(stdout, stats->bundle_trouble, strlen(stats->bundle_trouble));
    } else {
        (void)fputs("null", stdout);
    }
    (void)fputc('}', stdout);
}

static void print_json(const shoal_client_info *info, const shoal_client_stats *stats,
                       const char *url)
{
    (void)fputs("{\"url\":", stdout);
    cli_json_string(stdout, url, strlen(url));
    (void)printf(",\"healthy\":%s,\"ready\":%s,\"models\":[", info->healthy ? "true" : "false",
                 info->ready ? "true" : "false");
    for (size_t i = 0; i < info->n_models; i++) {
        (void)fputs(i > 0 ? "," : "", stdout);
        cli_json_string(stdout, info->models[i], strlen(info->models[i]));
    }
    (void)fputc(']', stdout);
    if (stats->bundle[0]) {
        print_json_bundle(stats);
    }
    (void)fputs("}\n", stdout);
}

static void print_text(const shoal_client_info *info, const shoal_client_stats *stats,
                       const char *url)
{
    (void)printf("edge   %s   %s\n", url,
                 info->ready     ? "ready"
                 : info->healthy ? "not ready"
                                 : "not healthy");
    for (size_t i = 0; i < info->n_models; i++) {
        (void)fputs(i == 0 ? "model  " : "       ", stdout);
        cli_print_safe(stdout, info->models[i], strlen(info->models[i]));
        (void)fputc('\n', stdout);
    }
    if (stats->bundle[0]) {
        char text[CLI_BUNDLE_BYTES];
        (void)cli_bundle_text(stats, text);
        (void)fputs("bundle ", stdout);
        (void)cli_print_cells(stdout, text, SIZE_MAX);
        (void)fputs(stats->bundle_trouble[0] ? "\n       " : "", stdout);
        (void)cli_print_cells(stdout, stats->bundle_trouble, SIZE_MAX);
        (void)fputc('\n', stdout);
    }
}

int cli_status(cli_session *session)
{
    shoal_client_info info;
    shoal_client_info_init(&info, sizeof info);
    shoal_client_error error;
    const char *url = shoal_client_url(session->client);
    if (shoal_client_probe(session->client, &info, &error) != SHOAL_CLIENT_OK) {
        (void)fprintf(stderr, "shoal: %s\n", error.text);
        return CLI_FAILED;
    }
    /* Of a fleet's bundle it says what it is told; an edge that tells nothing may be well. */
    shoal_client_stats stats;
    shoal_client_stats_init(&stats, sizeof stats);
    if (shoal_client_stats_get(session->client, &stats, &error) == SHOAL_CLIENT_E_CANCELLED) {
        (void)fprintf(stderr, "shoal: %s\n", error.text);
        return CLI_FAILED;
    }
    if (session->options->json) {
        print_json(&info, &stats, url);
    } else {
        print_text(&info, &stats, url);
    }
    (void)fflush(stdout);
    if (info.healthy && info.ready) {
        return CLI_OK;
    }
    (void)fprintf(stderr, "shoal: %s is not ready", url);
    if (info.why[0]) {
        (void)fputs(": ", stderr);
        cli_print_safe(stderr, info.why, strlen(info.why));
    }
    (void)fputc('\n', stderr);
    return CLI_FAILED;
}
