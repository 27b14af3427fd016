/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-cloud as a process: what it prints, how it exits, what signals do.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "protocol/rpc/rpc.h"
#include "tests/support/tiny_model.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "shoal-cloud-test-XXXXXX";
static char model_set[128];

typedef struct process {
    pid_t pid;
    int out;
    int err;
} process;

static process start(const char *const *args)
{
    const char *bin = getenv("SHOAL_BIN_DIR");
    char path[1024];
    snprintf(path, sizeof(path), "%s/shoal-cloud", bin == NULL ? "bin" : bin);
    const char *argv[16] = {path};
    for (size_t i = 0; args[i] != NULL; i++) {
        argv[i + 1] = args[i];
    }
    int out[2];
    int err[2];
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(err, O_CLOEXEC), 0);
    process p = {.pid = fork(), .out = out[0], .err = err[0]};
    assert_true(p.pid >= 0);
    if (p.pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    return p;
}

/* Everything until the end of file, as a string. */
static void read_all(int fd, char *text, size_t n)
{
    size_t length = 0;
    ssize_t got = 0;
    while (length + 1 < n && (got = read(fd, text + length, n - 1 - length)) > 0) {
        length += (size_t)got;
    }
    text[length] = '\0';
}

/* The exit status; what it still printed is in out and err. */
static int finish(process *p, char *out, char *err, size_t n)
{
    int status = 0;
    read_all(p->out, out, n);
    read_all(p->err, err, n);
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    close(p->out);
    close(p->err);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static size_t count_lines(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++) {
        n += *text == '\n' ? 1 : 0;
    }
    return n;
}

static void test_bad_arguments_exit_2_and_bad_settings_1(void **state)
{
    (void)state;
    static char out[65536];
    static char err[65536];
    const struct {
        const char *args[5];
        int status;
        const char *says;
    } cases[] = {
        {{"--nonsense", NULL}, 2, "--nonsense"},
        {{"--set", NULL}, 2, "--set"},
        {{"--config", NULL}, 2, "--config"},
        {{NULL}, 1, "model.path"},
        {{"--set", "no.such=1", NULL}, 1, "no.such"},
        {{"--set", "kv.max_mib=0", "--check-config", NULL}, 1, "kv.max_mib"},
        {{"--config", "/nonexistent.yaml", NULL}, 1, "/nonexistent.yaml"},
        {{"--set", "model.path=/nonexistent.gguf", NULL}, 1, "/nonexistent.gguf"},
        {{"--set", model_set, "--set", "listen.address=0.0.0.0:0", NULL}, 1, "loopback"},
        {{"--set", model_set, "--set", "listen.address=nonsense", NULL}, 1, "nonsense"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        process p = start(cases[i].args);
        int status = finish(&p, out, err, sizeof(out));
        if (status != cases[i].status || strstr(err, cases[i].says) == NULL) {
            fail_msg("case %zu: exit %d, \"%s\"", i, status, err);
        }
        assert_string_equal(out, "");
        assert_int_equal(count_lines(err), 1);
    }
}

static void test_help_version_and_dump_go_to_stdout(void **state)
{
    (void)state;
    static char out[65536];
    static char err[65536];
    const struct {
        const char *args[3];
        const char *says;
    } cases[] = {
        {{"--help", NULL}, "listen.address"},
        {{"--version", NULL}, "shoal-cloud "},
        {{"--dump-config", NULL}, "127.0.0.1:7443"},
        {{"--check-config", NULL}, ""},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        process p = start(cases[i].args);
        assert_int_equal(finish(&p, out, err, sizeof(out)), 0);
        assert_non_null(strstr(out, cases[i].says));
        assert_string_equal(err, "");
    }
}

static process serve(int *ret_port)
{
    const char *const args[] = {"--set", model_set, "--set", "listen.address=127.0.0.1:0", NULL};
    process p = start(args);
    char line[64] = "";
    size_t n = 0;
    while (n + 1 < sizeof(line) && read(p.out, line + n, 1) == 1 && line[n] != '\n') {
        n++;
    }
    line[n] = '\0';
    if (sscanf(line, "grpc: 127.0.0.1:%d", ret_port) != 1) {
        fail_msg("the ready line is \"%s\"", line);
    }
    return p;
}

static void ignore_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    (void)user;
    (void)data;
    (void)n;
}

static void ignore_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                         const char *details)
{
    (void)call;
    (void)status;
    (void)details;
    atomic_bool *closed = user;
    atomic_store(closed, true);
}

static const shoal_rpc_handlers ignore_handlers = {.on_message = ignore_message,
                                                   .on_close = ignore_close};

static void test_term_drains_and_exits_0(void **state)
{
    (void)state;
    static char out[65536];
    static char err[65536];
    int port = 0;
    process p = serve(&port);
    kill(p.pid, SIGHUP);
    kill(p.pid, SIGPIPE);
    kill(p.pid, SIGTERM);
    assert_int_equal(finish(&p, out, err, sizeof(out)), 0);
    assert_string_equal(out, ""); /* one line was all */
    assert_non_null(strstr(err, "draining signal=15"));
}

/* Reads the log until it says text. */
static void wait_log(const process *p, const char *text)
{
    char log[8192] = "";
    size_t n = 0;
    while (strstr(log, text) == NULL) {
        assert_true(n + 1 < sizeof(log));
        assert_int_equal(read(p->err, log + n, 1), 1);
        log[++n] = '\0';
    }
}

static void test_second_term_does_not_wait_for_open_calls(void **state)
{
    (void)state;
    static char out[65536];
    static char err[65536];
    int port = 0;
    process p = serve(&port);
    char target[32];
    snprintf(target, sizeof(target), "127.0.0.1:%d", port);
    shoal_rpc *rpc = NULL;
    shoal_rpc_channel *channel = NULL;
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    assert_int_equal(shoal_rpc_new(&limits, &rpc, NULL), SHOAL_OK);
    assert_int_equal(shoal_rpc_channel_new(rpc, target, NULL, NULL, NULL, &channel, NULL),
                     SHOAL_OK);
    /* Calls of one connection reach the server in order: once the second has its answer, the first,
     * which says nothing, is open there. */
    atomic_bool closed[2] = {false, false};
    shoal_rpc_call *calls[2] = {NULL, NULL};
    const char *const paths[2] = {"/shoal.v1.Cloud/Generate", "/shoal.v1.Cloud/Describe"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(shoal_rpc_call_open(channel, paths[i], &ignore_handlers, &closed[i], 0,
                                             true, &calls[i]),
                         SHOAL_OK);
    }
    shoal_rpc_call_half_close(calls[1]);
    while (!atomic_load(&closed[1])) {
    }
    shoal_clock clock = shoal_clock_real();
    uint64_t start_ms = shoal_clock_now_ms(&clock);
    kill(p.pid, SIGTERM);
    wait_log(&p, "draining");
    kill(p.pid, SIGTERM);
    assert_int_equal(finish(&p, out, err, sizeof(out)), 0);
    assert_true(shoal_clock_now_ms(&clock) - start_ms < 20000);
    assert_non_null(strstr(err, "second signal"));
    for (size_t i = 0; i < 2; i++) {
        shoal_rpc_call_cancel(calls[i]);
        while (!atomic_load(&closed[i])) {
        }
        shoal_rpc_call_unref(calls[i]);
    }
    shoal_rpc_channel_free(channel);
    shoal_rpc_free(rpc);
}

static int setup(void **state)
{
    (void)state;
    shoal_buf buf = {0};
    if (mkdtemp(directory) == NULL || shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &buf) != SHOAL_OK) {
        return -1;
    }
    snprintf(model_set, sizeof(model_set), "model.path=%s/tiny.gguf", directory);
    shoal_status status = shoal_file_write(strchr(model_set, '=') + 1, buf.data, buf.length, NULL);
    shoal_buf_fini(&buf);
    return status;
}

static int teardown(void **state)
{
    (void)state;
    unlink(strchr(model_set, '=') + 1);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_arguments_exit_2_and_bad_settings_1),
        cmocka_unit_test(test_help_version_and_dump_go_to_stdout),
        cmocka_unit_test(test_term_drains_and_exits_0),
        cmocka_unit_test(test_second_term_does_not_wait_for_open_calls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
