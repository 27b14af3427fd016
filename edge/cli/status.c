/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/cli/cli.h"

#include <string.h>

static void print_json(const shoal_client_info *info, const char *url)
{
    (void)fputs("{\"url\":", stdout);
    cli_json_string(stdout, url, strlen(url));
    (void)printf(",\"healthy\":%s,\"ready\":%s,\"models\":[", info->healthy ? "true" : "false",
                 info->ready ? "true" : "false");
    for (size_t i = 0; i < info->n_models; i++) {
        (void)fputs(i > 0 ? "," : "", stdout);
        cli_json_string(stdout, info->models[i], strlen(info->models[i]));
    }
    (void)fputs("]}\n", stdout);
}

static void print_text(const shoal_client_info *info, const char *url)
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
    if (session->options->json) {
        print_json(&info, url);
    } else {
        print_text(&info, url);
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
