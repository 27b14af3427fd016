/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks the edge one question and prints the answer as it comes:
 *     cc ask.c $(pkg-config --cflags --libs shoal) -o ask && ./ask "What does H40 mean?"
 */
#include <shoal.h>
#include <stdio.h>

static int show(void *ctx, const shoal_client_event *event)
{
    (void)ctx;
    fwrite(event->text, 1, event->n_text, stdout);
    return fflush(stdout);
}

int main(int argc, char **argv)
{
    shoal_client *client;
    shoal_client_error error;
    shoal_client_message message = {"user", argc > 1 ? argv[1] : "What can you do?"};
    shoal_client_request request;
    int code = shoal_client_new(NULL, &client, &error); /* $SHOAL_URL, or this machine */
    if (code == SHOAL_CLIENT_OK) {
        shoal_client_request_init(&request, sizeof request);
        request.messages = &message;
        request.n_messages = 1;
        request.temperature = 0;
        code = shoal_client_chat(client, &request, show, NULL, NULL, &error);
        shoal_client_free(client);
    }
    if (code != SHOAL_CLIENT_OK) {
        fprintf(stderr, "%s\n", error.text);
    }
    return code == SHOAL_CLIENT_OK ? 0 : 1;
}
