/* SPDX-License-Identifier: Apache-2.0
 *
 * The program from outside: what it prints where, and how it ends, against a scripted server.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "script_server.h"

static const char answer_bytes[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    "data: {\"id\":\"i\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"one two\"}}],"
    "\"shoal\":{\"tokens\":[{\"id\":1,\"text\":\"one\",\"tier\":\"exit\",\"confidence\":0.5,"
    "\"ms\":2},"
    "{\"id\":2,\"text\":\" two\",\"tier\":\"edge\",\"confidence\":0.75}]}}\n\n"
    "data: {\"choices\":[{\"delta\":{\"content\":\" \\u001bthree\"},\"finish_reason\":\"stop\"}],"
    "\"shoal\":{\"tokens\":[{\"id\":3,\"text\":\" \\u001bthree\",\"tier\":\"cloud\","
    "\"round\":2}]}}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":3,\"shoal\":"
    "{\"tiers\":{\"exit\":1,\"edge\":1,\"cloud\":1},\"bytes_up\":61,\"bytes_down\":48,"
    "\"first_token_ms\":4.1,\"tokens_per_s\":212.0}}}\n\n"
    "data: [DONE]\n\n";

typedef struct outcome {
    int status;
    char out[8192];
    char err[2048];
} outcome;

static void read_all(int fd, char *text, size_t capacity)
{
    size_t n = 0;
    while (n < capacity - 1) {
        ssize_t got = read(fd, text + n, capacity - 1 - n);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break; /* a pseudo-terminal's end is EIO */
        }
        n += (size_t)got;
    }
    text[n] = '\0';
    (void)close(fd);
}

/* Starts the program with a known environment. By posix_spawn: the server's thread may hold the
 * lock of an allocator, which a child of fork would wait for without end. */
static pid_t spawn_shoal(const char *const *argv, int in, int out, int err, const char *url)
{
    const char *bin = getenv("SHOAL_BIN_DIR");
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/shoal", bin ? bin : ".");
    assert_int_equal(setenv("SHOAL_URL", url, 1), 0);
    assert_int_equal(setenv("TERM", "xterm-256color", 1), 0);
    assert_int_equal(unsetenv("NO_COLOR"), 0);
    assert_int_equal(unsetenv("SHOAL_API_KEY"), 0);
    posix_spawn_file_actions_t actions;
    assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&actions, in, 0), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&actions, out, 1), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&actions, err, 2), 0);
    pid_t pid = -1;
    assert_int_equal(
        posix_spawn(&pid, path, &actions, NULL, (char *const *)(uintptr_t)argv, environ), 0);
    (void)posix_spawn_file_actions_destroy(&actions);
    return pid;
}

/* A terminal's two ends, 20 columns wide; output as written. */
static void open_terminal(int *ret_master, int *ret_slave)
{
    *ret_master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*ret_master < 0) {
        skip(); /* no pseudo-terminals here: a container without /dev/pts */
    }
    assert_int_equal(grantpt(*ret_master), 0);
    assert_int_equal(unlockpt(*ret_master), 0);
    *ret_slave = open(ptsname(*ret_master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(*ret_slave >= 0);
    struct winsize size = {.ws_row = 10, .ws_col = 20};
    assert_int_equal(ioctl(*ret_slave, TIOCSWINSZ, &size), 0);
}

typedef struct child {
    pid_t pid;
    int out;
    int err;
} child;

static child start(const char *const *argv, const char *input, bool terminal, const char *url)
{
    int in[2];
    int out[2];
    int err[2];
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(err, O_CLOEXEC), 0);
    if (terminal) {
        open_terminal(&out[0], &out[1]);
    } else {
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    }
    pid_t pid = spawn_shoal(argv, in[0], out[1], err[1], url);
    (void)close(in[0]);
    (void)close(out[1]);
    (void)close(err[1]);
    assert_int_equal(write(in[1], input, strlen(input)), strlen(input));
    (void)close(in[1]);
    return (child){.pid = pid, .out = out[0], .err = err[0]};
}

static void finish(const child *c, outcome *ret)
{
    read_all(c->out, ret->out, sizeof ret->out);
    read_all(c->err, ret->err, sizeof ret->err);
    int status = 0;
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    ret->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void run(const char *const *argv, const char *input, bool terminal, const char *url,
                outcome *ret)
{
    child c = start(argv, input, terminal, url);
    finish(&c, ret);
}

/* n times the same answer; the first request comes back in *ret_request when it is not NULL. */
static void run_answered(const char *const *argv, const char *input, bool terminal, size_t n,
                         const char *bytes, outcome *ret, char *ret_request, size_t capacity)
{
    script_answer answers[4];
    for (size_t i = 0; i < n; i++) {
        answers[i] = (script_answer){.bytes = bytes};
    }
    script_server *server = script_server_start(NULL, answers, n);
    run(argv, input, terminal, script_server_url(server), ret);
    script_server_join(server);
    if (ret_request) {
        (void)snprintf(ret_request, capacity, "%s", script_server_request(server, n - 1));
    }
    script_server_free(server);
}

static void test_cli_pipe_gets_text_alone(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "ask", "--mode", "exact", "--seed", "7", "two", "words", NULL};
    outcome o;
    char request[4096];
    run_answered(argv, "", false, 1, answer_bytes, &o, request, sizeof request);
    assert_int_equal(o.status, 0);
    assert_string_equal(o.out, "one two \x1bthree\n");
    assert_string_equal(o.err, "");
    assert_non_null(strstr(request, "\"content\":\"two words\""));
    assert_non_null(strstr(request, "\"shoal\":{\"mode\":\"exact\"},\"seed\":7,"));
}

static void test_cli_terminal_gets_tiers_legend_and_account(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "ask", "x", NULL};
    outcome o;
    run_answered(argv, "", true, 1, answer_bytes, &o, NULL, 0);
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(o.out, "\x1b[38;5;117m\x1b[4:3mone\x1b[0m "));
    assert_non_null(strstr(o.out, "\x1b[38;5;75m\x1b[4:5mtwo\x1b[0m "));
    /* The model's escape character does not reach the terminal. */
    assert_non_null(strstr(o.out, "\x1b[38;5;33m\x1b[4:2m\xEF\xBF\xBDthree\x1b[0m"));
    assert_non_null(strstr(o.out, "early exit"));
    assert_non_null(strstr(o.out,
                           "3 tokens: 1 early exit, 1 edge, 1 cloud (33%) · first token 4 ms · "
                           "212 tok/s · 61 bytes up, 48 down"));
}

static void test_cli_no_color_marks_tiers_below(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "ask", "--no-color", "x", NULL};
    outcome o;
    run_answered(argv, "", true, 1, answer_bytes, &o, NULL, 0);
    assert_int_equal(o.status, 0);
    assert_null(strchr(o.out, '\x1b'));
    assert_non_null(strstr(o.out, "one two \xEF\xBF\xBDthree\r\n~~~ --- ======\r\n"));
    const char *plain[] = {"shoal", "ask", "--plain", "x", NULL};
    run_answered(plain, "", true, 1, answer_bytes, &o, NULL, 0);
    assert_string_equal(o.out, "one two \xEF\xBF\xBDthree\r\n");
}

static void test_cli_json_holds_text_tokens_and_usage(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "ask", "--json", "--raw", "-", NULL};
    outcome o;
    char request[4096];
    run_answered(argv, "from \"stdin\"\n", true, 1, answer_bytes, &o, request, sizeof request);
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(o.out,
                           "{\"text\":\"one two \\u001bthree\",\"finish\":\"stop\",\"id\":\"i\","
                           "\"model\":\"m\",\"tokens\":[{\"id\":1,\"text\":\"one\",\"tier\":"
                           "\"exit\",\"confidence\":0.5,\"round\":0,\"ms\":2},"));
    assert_non_null(strstr(o.out, "\"usage\":{\"prompt_tokens\":4,"));
    assert_non_null(strstr(request, "POST /v1/completions"));
    assert_non_null(strstr(request, "\"prompt\":\"from \\\"stdin\\\"\\n\""));
}

static void test_cli_trace_lists_tokens_beside_the_text(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "--trace", "ask", "x", NULL};
    outcome o;
    run_answered(argv, "", false, 1, answer_bytes, &o, NULL, 0);
    assert_int_equal(o.status, 0);
    assert_string_equal(o.out, "one two \x1bthree\n");
    assert_non_null(strstr(o.err, "exit        0.500      0       2.0        1  \"one\"\n"));
    assert_non_null(
        strstr(o.err, "cloud           -      2         -        3  \" \\u001bthree\"\n"));
}

/* Tokens said for want of the cloud have a look of their own, in every form that tells tokens. */
static void test_cli_unassisted_tokens_look_otherwise(void **state)
{
    (void)state;
    static const char bytes[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        "data: {\"id\":\"i\",\"model\":\"m\",\"choices\":[{\"delta\":{"
        "\"content\":\"one two six\"}}],"
        "\"shoal\":{\"tokens\":[{\"id\":1,\"text\":\"one\",\"tier\":\"exit\","
        "\"unassisted\":\"budget\"},{\"id\":2,\"text\":\" two\",\"tier\":\"edge\","
        "\"confidence\":0.25,\"unassisted\":\"away\"},{\"id\":3,\"text\":\" six\","
        "\"tier\":\"edge\"}]}}\n\n"
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":3,\"shoal\":"
        "{\"tiers\":{\"exit\":1,\"edge\":2,\"cloud\":0},\"unassisted\":2}}}\n\n"
        "data: [DONE]\n\n";
    const char *colors[] = {"shoal", "ask", "x", NULL};
    const char *marks[] = {"shoal", "ask", "--no-color", "x", NULL};
    const char *plain[] = {"shoal", "ask", "--trace", "x", NULL};
    const char *json[] = {"shoal", "ask", "--json", "x", NULL};
    outcome o;
    run_answered(colors, "", true, 1, bytes, &o, NULL, 0);
    assert_non_null(strstr(o.out, "\x1b[38;5;179m\x1b[4:4mone\x1b[0m "));
    assert_non_null(strstr(o.out, "\x1b[38;5;75m\x1b[4:5msix\x1b[0m"));
    assert_non_null(strstr(o.out, "edge, unassisted"));
    assert_non_null(strstr(o.out, "1 early exit, 2 edge · 2 for want of the cloud"));
    run_answered(marks, "", true, 1, bytes, &o, NULL, 0);
    assert_non_null(strstr(o.out, "one two six\r\n??? ??? ---\r\n"));
    run_answered(plain, "", false, 1, bytes, &o, NULL, 0);
    assert_string_equal(o.out, "one two six\n");
    assert_non_null(strstr(o.err, "\"one\"  unassisted: budget\n"));
    assert_non_null(strstr(o.err, "\" two\"  unassisted: away\n"));
    assert_non_null(strstr(o.err, "\" six\"\n"));
    run_answered(json, "", false, 1, bytes, &o, NULL, 0);
    assert_non_null(strstr(o.out, "\"confidence\":0.25,\"round\":0,\"unassisted\":\"away\"}"));
    assert_non_null(strstr(o.out, "\"cloud\":0},\"unassisted\":2,"));
}

static void test_cli_chat_sends_history_and_obeys_commands(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "chat", "--system", "be brief", NULL};
    outcome o;
    char request[4096];
    run_answered(argv, "first\n/mode cloud\n\nsecond\n/quit\nnever\n", false, 2, answer_bytes, &o,
                 request, sizeof request);
    assert_int_equal(o.status, 0);
    assert_string_equal(o.out, "one two \x1bthree\nmode: cloud\none two \x1bthree\n");
    assert_non_null(strstr(
        request,
        "{\"messages\":[{\"role\":\"system\",\"content\":\"be brief\"},{\"role\":\"user\","
        "\"content\":\"first\"},{\"role\":\"assistant\",\"content\":\"one two \\u001bthree\"},"
        "{\"role\":\"user\",\"content\":\"second\"}],\"shoal\":{\"mode\":\"cloud\"},"));
}

static void test_cli_failure_is_one_line_and_status_1(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "ask", "x", NULL};
    outcome o;
    run_answered(argv, "", false, 1,
                 "HTTP/1.1 429 Full\r\nRetry-After: 3\r\nContent-Length: 33\r\n\r\n"
                 "{\"error\":{\"message\":\"too busy\"}}  ",
                 &o, NULL, 0);
    assert_int_equal(o.status, 1);
    assert_string_equal(o.out, "");
    assert_string_equal(o.err, "shoal: too busy (try again in 3 s)\n");
    run(argv, "", false, "http://127.0.0.1:1", &o);
    assert_int_equal(o.status, 1);
    assert_string_equal(
        o.err, "shoal: http://127.0.0.1:1: Connection refused; is shoal-edge running there?\n");
    run(argv, "", false, "gopher://x", &o);
    assert_int_equal(o.status, 1);
}

static void test_cli_interrupt_ends_the_answer_cleanly(void **state)
{
    (void)state;
    static const char half[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                               "data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n";
    const script_answer answer = {.bytes = half, .hang = true};
    script_server *server = script_server_start(NULL, &answer, 1);
    const char *argv[] = {"shoal", "ask", "x", NULL};
    child c = start(argv, "", false, script_server_url(server));
    char first[5] = {0};
    assert_int_equal(read(c.out, first, 4), 4);
    assert_string_equal(first, "half");
    assert_int_equal(kill(c.pid, SIGINT), 0);
    outcome o;
    finish(&c, &o);
    assert_int_equal(o.status, 1);
    assert_string_equal(o.out, "\n");
    assert_string_equal(o.err, "shoal: cancelled\n");
    script_server_join(server); /* the connection was closed */
    script_server_free(server);
}

static void test_cli_status_tells_ready_and_models(void **state)
{
    (void)state;
    const script_answer answers[] = {
        {.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
        {.bytes = "HTTP/1.1 503 No\r\nContent-Length: 14\r\n\r\nloading model\n"},
        {.bytes = "HTTP/1.1 200 OK\r\n\r\n{\"data\":[{\"id\":\"minnow\"}]}"},
        {.bytes = "HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"}};
    script_server *server = script_server_start(NULL, answers, 4);
    const char *argv[] = {"shoal", "status", NULL};
    outcome o;
    run(argv, "", false, script_server_url(server), &o);
    script_server_join(server);
    assert_int_equal(o.status, 1);
    assert_non_null(strstr(o.out, "not ready\nmodel  minnow\n"));
    assert_null(strstr(o.out, "bundle"));
    assert_non_null(strstr(o.err, "is not ready: loading model\n"));
    script_server_free(server);
}

#define BUNDLE(serial, trial, phase, trouble)                                                      \
    "HTTP/1.1 200 OK\r\n\r\n{\"totals\":{},\"bundle\":{\"serial\":" serial ",\"trial\":" trial     \
    ",\"phase\":\"" phase "\",\"family\":\"g\\u001bw\",\"trouble\":" trouble "}}"

static void check_bundle(const char *page, const char *said, const char *json)
{
    const script_answer answers[] = {{.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
                                     {.bytes = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
                                     {.bytes = "HTTP/1.1 200 OK\r\n\r\n{\"data\":[]}"},
                                     {.bytes = page}};
    const char *const commands[][4] = {
        {"shoal", "status"}, {"shoal", "status", "--json"}, {"shoal", "top", "--once"}};
    for (size_t i = 0; i < 3; i++) {
        size_t n = i < 2 ? 4 : 1;
        script_server *server = script_server_start(NULL, answers + 4 - n, n);
        outcome o;
        run(commands[i], "", false, script_server_url(server), &o);
        script_server_join(server);
        script_server_free(server);
        assert_int_equal(o.status, 0);
        assert_string_equal(o.err, "");
        assert_null(strchr(o.out, '\x1b'));
        const char *shown = strstr(o.out, "bundle");
        assert_non_null(shown);
        shown += strlen(i == 0 ? "bundle " : i == 1 ? "bundle\":" : "bundle    ");
        const char *wanted = i == 1 ? json : said;
        assert_int_equal(strncmp(shown, wanted, strlen(wanted)), 0);
    }
}

/* An edge of a fleet tells which model runs. */
static void test_cli_status_and_top_tell_the_bundle(void **state)
{
    (void)state;
    check_bundle(BUNDLE("0", "false", "idle", "null"), "g\xEF\xBF\xBDw none yet\n",
                 "{\"family\":\"g\\u001bw\",\"serial\":0,\"trial\":false,\"phase\":\"idle\","
                 "\"trouble\":null}}\n");
    check_bundle(BUNDLE("1", "false", "fetching", "\"not \\nsigned\""),
                 "g\xEF\xBF\xBDw 1, fetching another\n       ",
                 "{\"family\":\"g\\u001bw\",\"serial\":1,\"trial\":false,\"phase\":\"fetching\","
                 "\"trouble\":\"not \\u000asigned\"}}\n");
    check_bundle(BUNDLE("9007199254740992", "true", "trying", "null"),
                 "g\xEF\xBF\xBDw 9007199254740992, on trial, trying another\n",
                 "{\"family\":\"g\\u001bw\",\"serial\":9007199254740992,\"trial\":true,");
}

/* Two looks at a status: between them 20 tokens of the edge and 10 of the cloud. */
#define STATUS(up_s, edge, cloud)                                                                  \
    "HTTP/1.1 200 OK\r\n\r\n{\"version\":\"1\",\"uptime_s\":" up_s                                 \
    ",\"status\":\"ready\",\"mode\":\"assist\",\"model\":{\"id\":\"min\\u001bnow\"},"              \
    "\"requests\":{\"active\":2,\"waiting\":1,\"open\":3},"                                        \
    "\"kv\":{\"pages_used\":5,\"pages\":10},\"cloud\":{\"link\":\"ready\",\"cut\":false,"          \
    "\"round_trip_ms\":52.1,\"given_up\":false,\"trouble\":null},\"speculation\":{"                \
    "\"draft_tokens\":4,\"window_tokens\":8,\"acceptance\":0.8,\"edge_token_ms\":0.5,"             \
    "\"cloud_step_ms\":null},\"assist\":{\"budget_level\":1,\"budgets\":[{"                        \
    "\"what\":\"cloud_tokens\",\"per\":\"hour\",\"limit\":100,\"used\":25,"                        \
    "\"ends_in_s\":1800}]},\"totals\":{\"requests\":9,\"tokens\":{\"exit\":0,\"edge\":" edge       \
    ",\"cloud\":" cloud "},\"unassisted\":7,\"drafted\":50,\"accepted\":40,\"saved\":30,"          \
    "\"bytes_up\":5000,\"bytes_down\":200}}"

static void test_cli_top_tells_rates_link_and_budgets(void **state)
{
    (void)state;
    const script_answer answers[] = {{.bytes = STATUS("10", "100", "0")},
                                     {.bytes = STATUS("11", "120", "10")}};
    script_server *server = script_server_start(NULL, answers, 2);
    const char *argv[] = {"shoal", "top", "-n", "2", "--interval", "0.1", NULL};
    outcome o;
    run(argv, "", false, script_server_url(server), &o);
    script_server_join(server);
    script_server_free(server);
    assert_int_equal(o.status, 0);
    assert_string_equal(o.err, "");
    assert_null(strchr(o.out, '\x1b'));
    /* At first the average of 10 s; then what came since, at most 20 in 0.1 s. */
    assert_non_null(strstr(o.out, "          edge       10.0  ----"));
    assert_non_null(strstr(o.out, "drafts    80% accepted"));
    assert_non_null(strstr(o.out, "alone     7 of them said here for want of the cloud"));
    const char *second = strstr(o.out, "\n\n");
    assert_non_null(second);
    const char *rate = strstr(second, "          edge");
    assert_non_null(rate);
    double edge = strtod(rate + strlen("          edge"), NULL);
    assert_true(edge > 0.0 && edge <= 200.0);
    assert_non_null(strstr(second, "          cloud"));
    assert_non_null(strstr(second, "  ===="));
    const char *const told[] = {"min\xEF\xBF\xBDnow · mode assist · up 11 s\n",
                                "2 active · 1 waiting · 3 open · 9 since start\n",
                                "5 of 10 pages",
                                "link      ready · round trip 52 ms",
                                "4 a span, 8 ahead · edge 0.50 ms a token · cloud - a step\n",
                                "since start 5.0 kB up, 200 B down\n",
                                "23% of 130 tokens",
                                "budgets   cloud_tokens a hour: 25 of 100, ends in 30 min"};
    for (size_t i = 0; i < sizeof told / sizeof told[0]; i++) {
        assert_non_null(strstr(second, told[i]));
    }
}

/* What the network carries takes the place of messages where the edge tells it. */
static void test_cli_top_tells_packets_and_quarantine(void **state)
{
    (void)state;
    static const char status[] =
        "HTTP/1.1 200 OK\r\n\r\n{\"uptime_s\":10,\"cloud\":{\"link\":\"ready\"},"
        "\"fetch\":{\"quarantined\":true},\"totals\":{\"bytes_up\":5000,\"bytes_down\":200,"
        "\"packet_bytes_up\":30000,\"packet_bytes_down\":20000}}";
    const char *argv[] = {"shoal", "top", "--once", NULL};
    outcome o;
    run_answered(argv, "", false, 1, status, &o, NULL, 0);
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(o.out, "packets   3.0 kB/s up, 2.0 kB/s down · since start 30.0 kB up, "
                                  "20.0 kB down\n"));
    assert_non_null(strstr(o.out, "          no KV is fetched for now: what came was none\n"));
}

/* An operator may limit three things, each for three periods. */
static void test_cli_top_tells_every_budget(void **state)
{
    (void)state;
    const char *const what[] = {"cloud_tokens", "uplink_bytes", "energy_uj"};
    const char *const per[] = {"hour", "day", "month"};
    char answer[2048];
    size_t n =
        (size_t)snprintf(answer, sizeof answer,
                         "HTTP/1.1 200 OK\r\n\r\n{\"version\":\"1\",\"assist\":{\"budgets\":[");
    for (size_t i = 0; i < 9; i++) {
        n += (size_t)snprintf(answer + n, sizeof answer - n,
                              "%s{\"what\":\"%s\",\"per\":\"%s\",\"limit\":%zu,\"used\":7,"
                              "\"ends_in_s\":60}",
                              i > 0 ? "," : "", what[i / 3], per[i % 3], 100 + i);
    }
    (void)snprintf(answer + n, sizeof answer - n, "]},\"totals\":{}}");
    const char *argv[] = {"shoal", "top", "--once", NULL};
    outcome o;
    run_answered(argv, "", false, 1, answer, &o, NULL, 0);
    assert_int_equal(o.status, 0);
    for (size_t i = 0; i < 9; i++) {
        char line[128];
        (void)snprintf(line, sizeof line, "%s a %s: 7 of %zu,", what[i / 3], per[i % 3], 100 + i);
        assert_non_null(strstr(o.out, line));
    }
}

static void test_cli_top_keeps_to_the_window(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "top", "--once", "--no-color", NULL};
    outcome o;
    run_answered(argv, "", true, 1, STATUS("10", "100", "0"), &o, NULL, 0);
    assert_int_equal(o.status, 0);
    assert_null(strstr(o.out, "38;5"));
    /* 20 columns and 10 rows, the last of which stays empty. */
    size_t n_lines = 0;
    const char *line = strstr(o.out, "\x1b[H");
    assert_non_null(line);
    line += 3;
    for (const char *end = NULL; (end = strstr(line, "\x1b[K\r\n")) != NULL; line = end + 5) {
        size_t cells = 0;
        for (const char *at = line; at < end; at++) {
            cells += ((unsigned char)*at & 0xC0) != 0x80;
        }
        assert_in_range(cells, 1, 20);
        n_lines++;
    }
    assert_int_equal(n_lines, 9);
    assert_non_null(strstr(line, "\x1b[?25h\x1b[?1049l"));
}

static void test_cli_top_of_something_else_fails(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "top", "--once", NULL};
    outcome o;
    run_answered(argv, "", false, 1, "HTTP/1.1 200 OK\r\n\r\n{\"totals\":", &o, NULL, 0);
    assert_int_equal(o.status, 1);
    assert_string_equal(o.out, "");
    assert_string_equal(o.err, "shoal: the status is not that of a Shoal edge\n");
    run_answered(argv, "", false, 1, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", &o, NULL, 0);
    assert_int_equal(o.status, 1);
    assert_string_equal(o.err, "shoal: the status was refused with HTTP 404\n");
}

static void test_cli_bench_counts_tokens_by_tier(void **state)
{
    (void)state;
    const char *argv[] = {"shoal",      "bench",
                          "--requests", "4",
                          "--json",     "--concurrency",
                          "3",          "--max-tokens",
                          "9",          "--priority",
                          "7",          "--model",
                          "heron",      "x",
                          NULL};
    outcome o;
    char request[4096];
    run_answered(argv, "", false, 4, answer_bytes, &o, request, sizeof request);
    assert_int_equal(o.status, 0);
    assert_string_equal(o.err, "");
    assert_non_null(strstr(request, "\"max_tokens\":9"));
    assert_non_null(strstr(request, "\"shoal\":{\"priority\":7}"));
    assert_non_null(strstr(request, "\"model\":\"heron\""));
    assert_non_null(strstr(o.out, "{\"answered\":4,\"refused\":0,\"failed\":0,\"concurrency\":3,"));
    assert_non_null(strstr(o.out, "\"tokens\":12,"));
    /* The first of an answer has no token before it. */
    assert_non_null(strstr(o.out, "\"exit\":{\"tokens\":4,\"token_ms\":null}"));
    assert_non_null(strstr(o.out, "\"cloud\":{\"tokens\":4,\"token_ms\":{\"n\":4,"));
    assert_non_null(strstr(o.out, "\"first_token_ms\":{\"n\":4,"));
    assert_non_null(strstr(o.out, "\"bytes_up\":244,\"bytes_down\":192}\n"));
}

/* By nearest rank: of four samples the 90th and 99th percentile are the greatest. */
static void test_cli_bench_quantiles_are_by_nearest_rank(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "bench", "--requests", "4", "--json", "x", NULL};
    outcome o;
    run_answered(argv, "", false, 4, answer_bytes, &o, NULL, 0);
    assert_int_equal(o.status, 0);
    const char *first = strstr(o.out, "\"first_token_ms\":{\"n\":4,");
    assert_non_null(first);
    double p50 = 0;
    double p90 = 0;
    double p99 = 0;
    double most = 0;
    assert_int_equal(sscanf(first,
                            "\"first_token_ms\":{\"n\":4,\"p50\":%lf,\"p90\":%lf,\"p99\":%lf,"
                            "\"max\":%lf",
                            &p50, &p90, &p99, &most),
                     4);
    assert_true(p50 > 0 && p50 <= p90);
    assert_true(!(p90 < most) && !(p90 > most));
    assert_true(!(p99 < most) && !(p99 > most));
}

static void test_cli_bench_tells_refusals_and_fails(void **state)
{
    (void)state;
    const script_answer answers[] = {
        {.bytes = answer_bytes},
        {.bytes = "HTTP/1.1 429 Full\r\nContent-Type: application/json\r\n\r\n"
                  "{\"error\":{\"message\":\"all places are taken\"}}"}};
    script_server *server = script_server_start(NULL, answers, 2);
    const char *argv[] = {"shoal", "bench", "--requests", "2", NULL};
    outcome o;
    run(argv, "", false, script_server_url(server), &o);
    script_server_join(server);
    script_server_free(server);
    assert_int_equal(o.status, 1);
    assert_non_null(strstr(o.out, "1 answered, 1 refused, 0 failed; 1 at once, "));
    assert_non_null(strstr(o.out, "before one of cloud"));
    assert_non_null(strstr(o.out, "; exit 1 (33%); edge 1 (33%); cloud 1 (33%)\n"));
    assert_non_null(strstr(o.err, "all places are taken"));
}

static void test_cli_bench_interrupt_ends_every_answer(void **state)
{
    (void)state;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(listener >= 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof address;
    assert_int_equal(bind(listener, (const struct sockaddr *)&address, n), 0);
    assert_int_equal(listen(listener, 4), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
    char url[64];
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(address.sin_port));
    const char *argv[] = {"shoal", "bench", "--requests", "5", "--concurrency", "2", NULL};
    child c = start(argv, "", false, url);
    /* Who asks has its handlers; nobody answers. */
    int first = accept(listener, NULL, NULL);
    int second = accept(listener, NULL, NULL);
    assert_true(first >= 0 && second >= 0);
    assert_int_equal(kill(c.pid, SIGINT), 0);
    outcome o;
    finish(&c, &o);
    (void)close(first);
    (void)close(second);
    (void)close(listener);
    assert_int_equal(o.status, 1);
    assert_non_null(strstr(o.out, "0 answered, 0 refused, 0 failed; 2 at once, "));
}

static void test_cli_session_file_appears_whole_or_not(void **state)
{
    (void)state;
    char folder[] = "/tmp/shoal-cli-XXXXXX";
    char path[64];
    char part[80];
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/s", folder);
    (void)snprintf(part, sizeof part, "%s.part", path);
    const char *save[] = {"shoal", "session", "save", "a", path, NULL};
    const char *load[] = {"shoal", "session", "load", "a", path, NULL};
    outcome o;
    char request[4096];
    run_answered(save, "", false, 1, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", &o, NULL,
                 0);
    assert_int_equal(o.status, 1);
    assert_true(o.err[0] != '\0');
    assert_true(access(path, F_OK) != 0 && access(part, F_OK) != 0);
    run_answered(save, "", false, 1, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole", &o,
                 request, sizeof request);
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(request, "GET /v1/shoal/sessions/a HTTP/1.1\r\n"));
    assert_true(access(path, R_OK) == 0 && access(part, F_OK) != 0);
    run_answered(load, "", false, 1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", &o, request,
                 sizeof request);
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(request, "PUT /v1/shoal/sessions/a HTTP/1.1\r\n"));
    assert_non_null(strstr(request, "\r\n\r\nwhole"));
    assert_int_equal(unlink(path), 0);
    run(load, "", false, "http://127.0.0.1:1", &o);
    assert_int_equal(o.status, 1);
    assert_non_null(strstr(o.err, path));
    const char *list[] = {"shoal", "session", "list", NULL};
    run_answered(list, "", false, 1,
                 "HTTP/1.1 200 OK\r\n\r\n"
                 "{\"sessions\":[{\"name\":\"a\",\"tokens\":7,\"kv_bytes\":4096}]}",
                 &o, NULL, 0);
    assert_string_equal(o.out, "a   7 tokens   4 KiB\n");
    assert_int_equal(rmdir(folder), 0);
}

static void test_cli_wrong_usage_is_status_2(void **state)
{
    (void)state;
    static const char *const cases[][6] = {
        {"shoal", NULL},
        {"shoal", "dance", NULL},
        {"shoal", "ask", NULL},
        {"shoal", "status", "extra", NULL},
        {"shoal", "chat", "--raw", NULL},
        {"shoal", "chat", "--json", NULL},
        {"shoal", "ask", "--mode", "deep", "x", NULL},
        {"shoal", "ask", "--max-tokens", "0", "x", NULL},
        {"shoal", "ask", "--max-tokens", "2147483648", "x", NULL},
        {"shoal", "ask", "--temp", "10.1", "x", NULL},
        {"shoal", "ask", "--temp", "nan", "x", NULL},
        {"shoal", "ask", "--top-p", "0", "x", NULL},
        {"shoal", "ask", "--top-k", "-1", "x", NULL},
        {"shoal", "ask", "--seed", "1x", "x", NULL},
        {"shoal", "ask", "--priority", "-1", "x", NULL},
        {"shoal", "ask", "--priority", "8", "x", NULL},
        {"shoal", "ask", "--priority", "high", "x", NULL},
        {"shoal", "ask", "--stop", "", "x", NULL},
        {"shoal", "ask", "--timeout", "0", "x", NULL},
        {"shoal", "ask", "--url", "ftp://x", "x", NULL},
        {"shoal", "ask", "--ca-file", "/dev/null", "x", NULL},
        {"shoal", "ask", "--unknown", "x", NULL},
        {"shoal", "ask", "x", "--seed", NULL},
        {"shoal", "top", "extra", NULL},
        {"shoal", "top", "--json", NULL},
        {"shoal", "top", "-n", "0", NULL},
        {"shoal", "top", "--interval", "0.09", NULL},
        {"shoal", "bench", "--requests", "1000001", NULL},
        {"shoal", "bench", "--concurrency", "257", NULL},
        {"shoal", "bench", "--prompts", "file", "x", NULL},
        {"shoal", "ask", "--prompts", "file", "x", NULL},
        {"shoal", "session", NULL},
        {"shoal", "session", "keep", NULL},
        {"shoal", "session", "list", "x", NULL},
        {"shoal", "session", "save", "x", NULL},
        {"shoal", "session", "rm", NULL},
        {"shoal", "session", "--raw", "list", NULL},
        {"shoal", "status", "--session", "s", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        outcome o;
        run(cases[i], "", false, "http://127.0.0.1:1", &o);
        assert_int_equal(o.status, 2);
        assert_string_equal(o.out, "");
        assert_true(o.err[0] != '\0');
    }
}

static void test_cli_help_names_every_option(void **state)
{
    (void)state;
    const char *argv[] = {"shoal", "--help", NULL};
    outcome o;
    run(argv, "", false, "http://127.0.0.1:1", &o);
    assert_int_equal(o.status, 0);
    const char *const names[] = {
        "--url",         "--timeout",  "--mode",  "--max-tokens", "--temp",     "--top-p",
        "--top-k",       "--seed",     "--stop",  "--system",     "--raw",      "--plain",
        "--no-color",    "--trace",    "--json",  "--help",       "--version",  "SHOAL_URL",
        "SHOAL_API_KEY", "--interval", "--views", "--once",       "--requests", "--concurrency",
        "--prompts",     "--priority", "--model"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_non_null(strstr(o.out, names[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cli_pipe_gets_text_alone),
        cmocka_unit_test(test_cli_terminal_gets_tiers_legend_and_account),
        cmocka_unit_test(test_cli_no_color_marks_tiers_below),
        cmocka_unit_test(test_cli_json_holds_text_tokens_and_usage),
        cmocka_unit_test(test_cli_trace_lists_tokens_beside_the_text),
        cmocka_unit_test(test_cli_unassisted_tokens_look_otherwise),
        cmocka_unit_test(test_cli_chat_sends_history_and_obeys_commands),
        cmocka_unit_test(test_cli_failure_is_one_line_and_status_1),
        cmocka_unit_test(test_cli_interrupt_ends_the_answer_cleanly),
        cmocka_unit_test(test_cli_status_tells_ready_and_models),
        cmocka_unit_test(test_cli_status_and_top_tell_the_bundle),
        cmocka_unit_test(test_cli_top_tells_rates_link_and_budgets),
        cmocka_unit_test(test_cli_top_tells_packets_and_quarantine),
        cmocka_unit_test(test_cli_top_tells_every_budget),
        cmocka_unit_test(test_cli_top_keeps_to_the_window),
        cmocka_unit_test(test_cli_top_of_something_else_fails),
        cmocka_unit_test(test_cli_bench_counts_tokens_by_tier),
        cmocka_unit_test(test_cli_bench_quantiles_are_by_nearest_rank),
        cmocka_unit_test(test_cli_bench_tells_refusals_and_fails),
        cmocka_unit_test(test_cli_bench_interrupt_ends_every_answer),
        cmocka_unit_test(test_cli_session_file_appears_whole_or_not),
        cmocka_unit_test(test_cli_wrong_usage_is_status_2),
        cmocka_unit_test(test_cli_help_names_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
