/* SPDX-License-Identifier: Apache-2.0
 *
 * The real program with a model made in memory: what it prints, how it answers, how it ends.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/file.h"
#include "tests/support/tiny_model.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PATIENCE_MS = 30000 /* sanitizers and a loaded machine */
};

static char program[512];
static char model_set[512];
static char model_path[64];

typedef struct child {
    pid_t pid;
    int out;
    int err;
    int port;
} child;

static uint64_t now_ms(void)
{
    shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ms(&clock);
}

static int make_model(void **state)
{
    (void)state;
    const char *bin = getenv("SHOAL_BIN_DIR");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf gguf = {0};
    shoal_err err = SHOAL_ERR_INIT;
    (void)snprintf(program, sizeof program, "%s/shoal-edge", bin ? bin : "bin");
    (void)snprintf(model_path, sizeof model_path, "tiny-%ld.gguf", (long)getpid());
    (void)snprintf(model_set, sizeof model_set, "model.path=%s", model_path);
    if (shoal_tiny_model_gguf(11, SHOAL_TYPE_F32, &gguf) != SHOAL_OK ||
        shoal_file_write(model_path, gguf.data, gguf.length, &err) != SHOAL_OK) {
        return -1;
    }
    return 0;
}

static int drop_model(void **state)
{
    (void)state;
    (void)unlink(model_path);
    return 0;
}

static child spawn(const char *const *args)
{
    int out[2];
    int err[2];
    const char *argv[24] = {program};
    size_t n = 1;
    for (; args[n - 1] && n < 23; n++) {
        argv[n] = args[n - 1];
    }
    assert_int_equal(pipe(out) + pipe(err), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)dup2(out[1], STDOUT_FILENO);
        (void)dup2(err[1], STDERR_FILENO);
        for (int fd = 3; fd < 64; fd++) {
            (void)close(fd);
        }
        (void)execv(program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    (void)close(out[1]);
    (void)close(err[1]);
    return (child){.pid = pid, .out = out[0], .err = err[0]};
}

/* Reads fd until text is there, or to its end when text is NULL. */
static void read_for(int fd, const char *text, shoal_buf *buf)
{
    uint64_t until = now_ms() + PATIENCE_MS;
    while (!text || !buf->data || !strstr(buf->data, text)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint64_t now = now_ms();
        if (poll(&p, 1, now < until ? (int)(until - now) : 0) <= 0) {
            fail_msg("in vain for \"%s\": %s", text ? text : "the end", buf->data ? buf->data : "");
        }
        char chunk[4096];
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n <= 0) {
            if (text) {
                fail_msg("it ended before \"%s\": %s", text, buf->data ? buf->data : "");
            }
            break;
        }
        assert_int_equal(shoal_buf_append(buf, chunk, (size_t)n), SHOAL_OK);
    }
    assert_int_equal(shoal_buf_append(buf, "", 0), SHOAL_OK);
}

/* Exit status; 128 + signal. */
static int wait_child(child *c)
{
    int status = 0;
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    (void)close(c->out);
    (void)close(c->err);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static child start(const char *extra)
{
    const char *args[] = {"--set", model_set, "--set", "listen.address=127.0.0.1:0",
                          "--set", extra,     NULL};
    child c = spawn(args);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    read_for(c.out, "\n", &out);
    assert_true(strncmp(out.data, "http: http://127.0.0.1:", 23) == 0);
    c.port = (int)strtol(out.data + 23, NULL, 10);
    return c;
}

static int dial(const child *c, const char *request)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)c->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (const struct sockaddr *)&a, sizeof a), 0);
    assert_true(send(fd, request, strlen(request), MSG_NOSIGNAL) > 0);
    return fd;
}

static int post(const child *c, const char *body)
{
    char request[1024];
    (void)snprintf(request, sizeof request,
                   "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                   "Content-Length: %zu\r\n\r\n%s",
                   strlen(body), body);
    return dial(c, request);
}

#define LONG                                                                                       \
    "{\"prompt\":\"a\",\"max_tokens\":900,\"stream\":true,\"temperature\":0,"                      \
    "\"logit_bias\":{\"2\":-100}}"

static void test_program_answers_and_drains_on_term(void **state)
{
    (void)state;
    child c = start("drain.grace_ms=60000");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf b = {0};
    int fd = post(&c, "{\"prompt\":\"ab\",\"max_tokens\":4,\"logit_bias\":{\"2\":-100}}");
    read_for(fd, NULL, &a);
    (void)close(fd);
    assert_non_null(strstr(a.data, "\"completion_tokens\":4,"));
    fd = post(&c, LONG);
    read_for(fd, "data: ", &b);
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    read_for(fd, NULL, &b); /* the open answer still comes whole */
    assert_non_null(strstr(b.data, "data: [DONE]"));
    (void)close(fd);
    assert_int_equal(wait_child(&c), 0);
}

static void test_program_cuts_with_an_error_when_grace_is_over(void **state)
{
    (void)state;
    child c = start("drain.grace_ms=0");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf b = {0};
    int fd = post(&c, LONG);
    read_for(fd, "data: ", &b);
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    read_for(fd, NULL, &b);
    bool whole = strstr(b.data, "[DONE]") != NULL; /* a fast machine may have been done */
    assert_true(whole || strstr(b.data, "event: error\ndata: {\"error\":") != NULL);
    (void)close(fd);
    assert_int_equal(wait_child(&c), 0);
}

static void test_program_second_term_ends_at_once(void **state)
{
    (void)state;
    child c = start("drain.grace_ms=600000");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf e = {0};
    /* A request whose body never ends keeps the drain waiting. */
    int fd =
        dial(&c, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf h = {0};
    int probe = dial(&c, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    read_for(probe, NULL, &h);
    (void)close(probe);
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    read_for(c.err, "draining", &e);
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_int_equal(wait_child(&c), 0);
    (void)close(fd);
}

static void test_program_outlives_hangups_and_pipes(void **state)
{
    (void)state;
    child c = start("log.level=warn");
    for (int i = 0; i < 100; i++) {
        assert_int_equal(kill(c.pid, i % 2 ? SIGHUP : SIGPIPE), 0);
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    int fd = dial(&c, "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    read_for(fd, NULL, &a);
    assert_true(strncmp(a.data, "HTTP/1.1 200 ", 13) == 0);
    (void)close(fd);
    assert_int_equal(kill(c.pid, SIGTERM), 0);
    assert_int_equal(wait_child(&c), 0);
}

static int run_for(const char *const *args, shoal_buf *out, shoal_buf *err)
{
    child c = spawn(args);
    shoal_buf_reset(out);
    shoal_buf_reset(err);
    read_for(c.out, NULL, out);
    read_for(c.err, NULL, err);
    return wait_child(&c);
}

static void test_program_exit_statuses_tell_what_went_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *args[5];
        int status;
        const char *out;
        const char *err; /* refusals: exactly one line that has this */
    } rows[] = {
        {{"--version", NULL}, 0, "shoal-edge ", NULL},
        {{"--help", NULL}, 0, "listen.address", NULL},
        {{"--dump-config", NULL}, 0, "max_mib: 64", NULL},
        {{"--check-config", NULL}, 0, NULL, NULL},
        {{"--nonsense", NULL}, 2, NULL, NULL},
        {{"--config", NULL}, 2, NULL, NULL},
        {{"--check-config", "--set", "kv.max_mib=0", NULL}, 1, NULL, "kv.max_mib"},
        {{"--check-config", "--set", "no.such=1", NULL}, 1, NULL, "no.such"},
        {{"--check-config", "--set", "listen.address=0.0.0.0:1", NULL}, 1, NULL, "api.key"},
        {{"--config", "no-such-file.yaml", NULL}, 1, NULL, "no-such-file.yaml"},
        {{"--set", "log.level=info", NULL}, 1, NULL, "model.path"},
        {{"--set", "model.path=no-such-model.gguf", NULL}, 1, NULL, "no-such-model.gguf"},

    };
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf err = {0};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        int status = run_for(rows[i].args, &out, &err);
        if (status != rows[i].status) {
            fail_msg("row %zu gave %d: %s%s", i, status, out.data, err.data);
        }
        if (rows[i].out) {
            assert_non_null(strstr(out.data, rows[i].out));
        }
        if (rows[i].err) {
            const char *line = strchr(err.data, '\n');
            assert_non_null(strstr(err.data, rows[i].err));
            assert_true(strncmp(err.data, "shoal-edge: ", 12) == 0);
            assert_true(line && line[1] == '\0');
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_program_answers_and_drains_on_term),
        cmocka_unit_test(test_program_cuts_with_an_error_when_grace_is_over),
        cmocka_unit_test(test_program_second_term_ends_at_once),
        cmocka_unit_test(test_program_outlives_hangups_and_pipes),
        cmocka_unit_test(test_program_exit_statuses_tell_what_went_wrong),
    };
    return cmocka_run_group_tests(tests, make_model, drop_model);
}
