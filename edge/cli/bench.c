/* SPDX-License-Identifier: Apache-2.0
 *
 * What an app sees of a running edge: n answers, so many at once, each on a connection of its own;
 * how long to the first token, between tokens, and how many a second. Times are taken where an app
 * takes them, in the callback. Tokens that come together have nothing between them.
 */
#include "edge/cli/cli.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    SAMPLES_MAX = 1 << 24,
    PROMPTS_MAX = 65536,
    TIERS = SHOAL_CLIENT_TIERS + 1 /* unknown is the last */
};

/* Times in ms. */
typedef struct samples {
    double *ms;
    size_t n;
    size_t capacity;
} samples;

typedef struct figures {
    samples first;
    samples answer;
    samples gaps[TIERS]; /* before a token of that tier; not before an answer's first */
    uint64_t n_tokens[TIERS];
    uint64_t n_done;
    uint64_t n_busy;
    uint64_t n_failed;
    uint64_t n_drafted;
    uint64_t n_accepted;
    uint64_t bytes_up;
    uint64_t bytes_down;
    bool out_of_memory;
} figures;

typedef struct bench {
    const cli_session *session;
    char **prompts;
    size_t n_prompts;
    atomic_int next;
    atomic_bool stop;
    int ended_fd; /* an eventfd: counts workers that have ended */
} bench;

typedef struct worker {
    bench *of;
    shoal_client *client;
    pthread_t thread;
    bool running;
    figures f;
    double asked_ms;
    double last_ms;                          /* of the last event with tokens; 0: none yet */
    char error[SHOAL_CLIENT_ERROR_TEXT_MAX]; /* the first */
} worker;

/* --- samples ---------------------------------------------------------------------------------- */

static bool samples_add(samples *s, double ms)
{
    if (s->n == s->capacity) {
        size_t capacity = s->capacity ? 2 * s->capacity : 256;
        double *grown = capacity <= SAMPLES_MAX ? realloc(s->ms, capacity * sizeof *grown) : NULL;
        if (!grown) {
            return false;
        }
        s->ms = grown;
        s->capacity = capacity;
    }
    s->ms[s->n++] = ms;
    return true;
}

static bool samples_join(samples *to, const samples *from)
{
    bool ok = true;
    for (size_t i = 0; ok && i < from->n; i++) {
        ok = samples_add(to, from->ms[i]);
    }
    return ok;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Of sorted samples, by nearest rank; negative when there are none. */
static double quantile(const samples *s, double share)
{
    if (s->n == 0) {
        return -1.0;
    }
    size_t rank = (size_t)(share * (double)s->n);
    rank += (double)rank < share * (double)s->n ? 1 : 0;
    return s->ms[rank > 0 ? rank - 1 : 0];
}

static void figures_fini(figures *f)
{
    free(f->first.ms);
    free(f->answer.ms);
    for (int t = 0; t < TIERS; t++) {
        free(f->gaps[t].ms);
    }
}

static bool figures_join(figures *to, const figures *from)
{
    bool ok = samples_join(&to->first, &from->first) && samples_join(&to->answer, &from->answer);
    for (int t = 0; t < TIERS; t++) {
        ok = ok && samples_join(&to->gaps[t], &from->gaps[t]);
        to->n_tokens[t] += from->n_tokens[t];
    }
    to->n_done += from->n_done;
    to->n_busy += from->n_busy;
    to->n_failed += from->n_failed;
    to->n_drafted += from->n_drafted;
    to->n_accepted += from->n_accepted;
    to->bytes_up += from->bytes_up;
    to->bytes_down += from->bytes_down;
    return ok && !from->out_of_memory;
}

static void figures_sort(figures *f)
{
    samples *all[TIERS + 2] = {&f->first, &f->answer};
    for (int t = 0; t < TIERS; t++) {
        all[t + 2] = &f->gaps[t];
    }
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i]->n > 1) {
            qsort(all[i]->ms, all[i]->n, sizeof all[i]->ms[0], compare);
        }
    }
}

/* --- workers ---------------------------------------------------------------------------------- */

static bool take_token(worker *w, int tier, double gap_ms)
{
    int t = tier >= 0 && tier < TIERS ? tier : TIERS - 1;
    w->f.n_tokens[t]++;
    return gap_ms < 0.0 ? samples_add(&w->f.first, cli_now_ms() - w->asked_ms)
                        : samples_add(&w->f.gaps[t], gap_ms);
}

static int on_event(void *ctx, const shoal_client_event *event)
{
    worker *w = ctx;
    if (event->n_tokens == 0 && event->n_text == 0) {
        return 0;
    }
    double now = cli_now_ms();
    double gap = w->last_ms > 0.0 ? now - w->last_ms : -1.0;
    bool ok = true;
    /* An edge that tells no origins: what came counts as one token of unknown tier. */
    for (size_t i = 0; ok && (i < event->n_tokens || i == 0); i++) {
        int tier = event->n_tokens > 0 ? event->tokens[i].tier : SHOAL_CLIENT_TIER_UNKNOWN;
        ok = take_token(w, tier, i == 0 ? gap : 0.0);
    }
    w->last_ms = now;
    w->f.out_of_memory |= !ok;
    return ok && !atomic_load(&w->of->stop) ? 0 : 1;
}

static void ask(worker *w, size_t i)
{
    const bench *b = w->of;
    const cli_options *o = b->session->options;
    shoal_client_request request = cli_request(b->session);
    const char *text = b->prompts[i % b->n_prompts];
    const shoal_client_message messages[2] = {
        {.role = "system", .content = o->system ? o->system : ""},
        {.role = "user", .content = text}};
    size_t skip = o->system ? 0 : 1;
    request.prompt = text;
    request.messages = messages + skip;
    request.n_messages = 2 - skip;
    shoal_client_result result;
    shoal_client_result_init(&result, sizeof result);
    shoal_client_error error = {0};
    w->last_ms = 0.0;
    w->asked_ms = cli_now_ms();
    int code = (o->raw ? shoal_client_complete : shoal_client_chat)(w->client, &request, on_event,
                                                                    w, &result, &error);
    w->f.n_drafted += result.n_drafted;
    w->f.n_accepted += result.n_accepted;
    w->f.bytes_up += result.bytes_up;
    w->f.bytes_down += result.bytes_down;
    if (code == SHOAL_CLIENT_OK) {
        w->f.n_done++;
        w->f.out_of_memory |= !samples_add(&w->f.answer, cli_now_ms() - w->asked_ms);
        return;
    }
    if (atomic_load(&b->stop) || w->f.out_of_memory) {
        return;
    }
    w->f.n_busy += code == SHOAL_CLIENT_E_BUSY;
    w->f.n_failed += code != SHOAL_CLIENT_E_BUSY;
    if (!w->error[0]) {
        (void)snprintf(w->error, sizeof w->error, "%s", error.text);
    }
}

static void *work(void *ctx)
{
    worker *w = ctx;
    bench *b = w->of;
    while (!atomic_load(&b->stop) && !w->f.out_of_memory) {
        int i = atomic_fetch_add(&b->next, 1);
        if (i >= b->session->options->n_requests) {
            break;
        }
        ask(w, (size_t)i);
    }
    uint64_t one = 1;
    ssize_t written = write(b->ended_fd, &one, sizeof one);
    (void)written; /* so small a counter is never full */
    return NULL;
}

/* Starts them; interrupts stay with this thread. False: not all could be started. */
static bool start_workers(bench *b, worker *workers, size_t n)
{
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, &before);
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        workers[i].of = b;
        shoal_client_error error;
        if (shoal_client_new(b->session->connection, &workers[i].client, &error) !=
            SHOAL_CLIENT_OK) {
            (void)fprintf(stderr, "shoal: %s\n", error.text);
            ok = false;
        } else if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            (void)fprintf(stderr, "shoal: no thread left for %zu at once\n", n);
            ok = false;
        } else {
            workers[i].running = true;
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}

/* Until all have ended; true when somebody interrupted. */
static bool wait_for(bench *b, worker *workers, size_t n)
{
    bool interrupted = false;
    uint64_t n_ended = 0;
    size_t n_running = 0;
    for (size_t i = 0; i < n; i++) {
        n_running += workers[i].running;
    }
    while (n_ended < n_running) {
        uint64_t more = 0;
        if (cli_wait(b->ended_fd, -1) && read(b->ended_fd, &more, sizeof more) == sizeof more) {
            n_ended += more;
        }
        if (cli_interrupted()) {
            interrupted = true;
            atomic_store(&b->stop, true);
        }
        for (size_t i = 0; interrupted && i < n; i++) {
            if (workers[i].running) {
                shoal_client_cancel(workers[i].client);
            }
        }
    }
    return interrupted;
}

/* --- the account ------------------------------------------------------------------------------ */

static uint64_t tokens_of(const figures *f)
{
    uint64_t n = 0;
    for (int t = 0; t < TIERS; t++) {
        n += f->n_tokens[t];
    }
    return n;
}

static void print_row(const char *name, const samples *s)
{
    if (s->n > 0) {
        (void)printf("%-24s %9.2f %9.2f %9.2f %9.2f %9zu\n", name, quantile(s, 0.5),
                     quantile(s, 0.9), quantile(s, 0.99), quantile(s, 1.0), s->n);
    }
}

static void print_text(const figures *f, const samples *between, int n_concurrent, double seconds)
{
    uint64_t n_tokens = tokens_of(f);
    (void)printf("%llu answered, %llu refused, %llu failed; %d at once, %.2f s\n\n",
                 (unsigned long long)f->n_done, (unsigned long long)f->n_busy,
                 (unsigned long long)f->n_failed, n_concurrent, seconds);
    (void)printf("%-24s %9s %9s %9s %9s %9s\n", "ms", "p50", "p90", "p99", "most", "of");
    print_row("to the first token", &f->first);
    print_row("between tokens", between);
    for (int t = 0; t < TIERS; t++) {
        char name[32];
        (void)snprintf(name, sizeof name, "  before one of %s", shoal_client_tier_name(t));
        print_row(name, &f->gaps[t]);
    }
    print_row("whole answer", &f->answer);
    (void)printf("\n%llu tokens, %.1f a second", (unsigned long long)n_tokens,
                 (double)n_tokens / seconds);
    for (int t = 0; t < TIERS; t++) {
        if (f->n_tokens[t] > 0) {
            (void)printf("; %s %llu (%.0f%%)", shoal_client_tier_name(t),
                         (unsigned long long)f->n_tokens[t],
                         100.0 * (double)f->n_tokens[t] / (double)n_tokens);
        }
    }
    (void)printf("\n%llu bytes up, %llu down", (unsigned long long)f->bytes_up,
                 (unsigned long long)f->bytes_down);
    if (f->n_drafted > 0) {
        (void)printf("; %.0f%% of drafts accepted",
                     100.0 * (double)f->n_accepted / (double)f->n_drafted);
    }
    (void)fputc('\n', stdout);
}

static void print_samples(const char *name, const samples *s)
{
    (void)printf(",\"%s\":", name);
    if (s->n == 0) {
        (void)fputs("null", stdout);
        return;
    }
    (void)printf("{\"n\":%zu,\"p50\":%.6g,\"p90\":%.6g,\"p99\":%.6g,\"max\":%.6g}", s->n,
                 quantile(s, 0.5), quantile(s, 0.9), quantile(s, 0.99), quantile(s, 1.0));
}

static void print_json(const figures *f, const samples *between, int n_concurrent, double seconds,
                       const char *error)
{
    uint64_t n_tokens = tokens_of(f);
    (void)printf("{\"answered\":%llu,\"refused\":%llu,\"failed\":%llu,\"concurrency\":%d,"
                 "\"seconds\":%.6g,\"tokens\":%llu,\"tokens_per_s\":%.6g,\"tiers\":{",
                 (unsigned long long)f->n_done, (unsigned long long)f->n_busy,
                 (unsigned long long)f->n_failed, n_concurrent, seconds,
                 (unsigned long long)n_tokens, (double)n_tokens / seconds);
    for (int t = 0; t < TIERS; t++) {
        (void)printf("%s\"%s\":{\"tokens\":%llu", t > 0 ? "," : "", shoal_client_tier_name(t),
                     (unsigned long long)f->n_tokens[t]);
        print_samples("token_ms", &f->gaps[t]);
        (void)fputc('}', stdout);
    }
    (void)fputc('}', stdout);
    print_samples("first_token_ms", &f->first);
    print_samples("token_ms", between);
    print_samples("answer_ms", &f->answer);
    (void)printf(",\"drafted\":%llu,\"accepted\":%llu,\"bytes_up\":%llu,\"bytes_down\":%llu",
                 (unsigned long long)f->n_drafted, (unsigned long long)f->n_accepted,
                 (unsigned long long)f->bytes_up, (unsigned long long)f->bytes_down);
    if (error[0]) {
        (void)fputs(",\"error\":", stdout);
        cli_json_string(stdout, error, strlen(error));
    }
    (void)fputs("}\n", stdout);
}

/* All workers' figures in one, told. CLI_OK when every answer came. */
static int tell(const cli_options *o, const worker *workers, size_t n, double seconds)
{
    figures all = {.n_done = 0};
    samples between = {.ms = NULL};
    const char *error = "";
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        ok = figures_join(&all, &workers[i].f) && ok;
        error = error[0] ? error : workers[i].error;
    }
    for (int t = 0; t < TIERS; t++) {
        ok = samples_join(&between, &all.gaps[t]) && ok;
    }
    if (ok) {
        figures_sort(&all);
        if (between.n > 1) {
            qsort(between.ms, between.n, sizeof between.ms[0], compare);
        }
        if (o->json) {
            print_json(&all, &between, o->n_concurrent, seconds, error);
        } else {
            print_text(&all, &between, o->n_concurrent, seconds);
        }
        if (error[0]) {
            (void)fprintf(stderr, "shoal: %s\n", error);
        }
    } else {
        (void)fprintf(stderr,
                      "shoal: the times do not fit into memory; ask for fewer --requests\n");
    }
    ok = ok && all.n_done == (uint64_t)o->n_requests;
    free(between.ms);
    figures_fini(&all);
    return ok ? CLI_OK : CLI_FAILED;
}

/* --- prompts ---------------------------------------------------------------------------------- */

static void free_prompts(bench *b)
{
    for (size_t i = 0; i < b->n_prompts; i++) {
        free(b->prompts[i]);
    }
    free(b->prompts);
}

/* Takes text. False: out of memory, or too many. */
static bool add_prompt(bench *b, char *text)
{
    bool room = text && b->n_prompts < PROMPTS_MAX;
    char **grown = room ? realloc(b->prompts, (b->n_prompts + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(text);
        return false;
    }
    b->prompts = grown;
    b->prompts[b->n_prompts++] = text;
    return true;
}

/* One prompt a line; empty lines are none. */
static bool read_prompts(bench *b, const char *path)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        (void)fprintf(stderr, "shoal: %s: %s\n", path, strerror(errno));
        return false;
    }
    char *line = NULL;
    size_t capacity = 0;
    bool ok = true;
    while (ok && getline(&line, &capacity, file) >= 0) {
        line[strcspn(line, "\r\n")] = '\0';
        ok = line[0] == '\0' || add_prompt(b, strdup(line));
    }
    free(line);
    (void)fclose(file);
    if (!ok) {
        (void)fprintf(stderr,
                      "shoal: %s has more than %d prompts, or they do not fit into memory\n", path,
                      PROMPTS_MAX);
    } else if (b->n_prompts == 0) {
        (void)fprintf(stderr, "shoal: %s has no prompt; one a line is wanted\n", path);
        ok = false;
    }
    return ok;
}

static bool gather_prompts(bench *b, const cli_options *o)
{
    if (o->prompts) {
        return read_prompts(b, o->prompts);
    }
    if (o->n_words == 0) {
        return add_prompt(b, strdup("What can you do?"));
    }
    cli_bytes text = {.data = NULL};
    if (!cli_read_text(o, &text)) {
        free(text.data);
        return false;
    }
    return add_prompt(b, text.data);
}

int cli_bench(cli_session *session)
{
    const cli_options *o = session->options;
    size_t n = (size_t)(o->n_concurrent < o->n_requests ? o->n_concurrent : o->n_requests);
    bench b = {.session = session, .ended_fd = eventfd(0, EFD_CLOEXEC)};
    worker *workers = calloc(n, sizeof *workers);
    int status = CLI_FAILED;
    if (!workers || b.ended_fd < 0) {
        (void)fprintf(stderr, "shoal: no memory or file descriptor left\n");
    } else if (gather_prompts(&b, o)) {
        double started = cli_now_ms();
        bool ok = start_workers(&b, workers, n);
        atomic_store(&b.stop, !ok);
        bool interrupted = wait_for(&b, workers, n);
        double seconds = (cli_now_ms() - started) * 1e-3;
        for (size_t i = 0; i < n; i++) {
            if (workers[i].running) {
                (void)pthread_join(workers[i].thread, NULL);
            }
        }
        if (ok) {
            status = tell(o, workers, n, seconds);
        }
        status = interrupted ? CLI_FAILED : status;
    }
    for (size_t i = 0; workers && i < n; i++) {
        shoal_client_free(workers[i].client);
        figures_fini(&workers[i].f);
    }
    free(workers);
    free_prompts(&b);
    if (b.ended_fd >= 0) {
        (void)close(b.ended_fd);
    }
    return status;
}
