/* SPDX-License-Identifier: Apache-2.0
 *
 * A live view of a running edge, from its status: one view after another, or in place on a
 * terminal. A frame is made whole and written at once, so nothing flickers. Counts become rates by
 * the difference of two looks; the first view tells the averages since the edge started.
 */
#include "edge/cli/cli.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    LINE_BYTES = 1024,
    LABEL_CELLS = 10
};

typedef struct look_at {
    shoal_client_stats stats;
    double at_s; /* monotonic */
} look_at;

typedef struct view {
    FILE *out; /* memory: the frame */
    const cli_render *render;
    bool in_place;
    size_t n_rows; /* left of the window; counted only when in place */
} view;

/* --- lines ------------------------------------------------------------------------------------ */

static void end_line(view *v)
{
    (void)fputs(v->in_place ? "\x1b[K\n" : "\n", v->out);
    if (v->in_place) {
        v->n_rows--;
    }
}

/* A line, cut at the window's edge; a bar of n cells of a tier's mark behind it, if there is
 * room. The window's last row stays empty: a line feed there would move everything. */
static void put_line(view *v, int tier, double bar, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void put_line(view *v, int tier, double bar, const char *format, ...)
{
    if (v->in_place && v->n_rows <= 1) {
        return;
    }
    char text[LINE_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t used = cli_print_cells(v->out, text, v->render->width);
    if (bar > 0.0 && used + 3 < v->render->width) {
        double room = (double)(v->render->width - used - 2);
        (void)fputs("  ", v->out);
        cli_render_bar(v->render, v->out, tier, (size_t)(room * (bar < 1.0 ? bar : 1.0) + 0.5));
    }
    end_line(v);
}

/* "512 B", "1.2 kB". */
static const char *bytes_text(double n, char ret_text[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t unit = 0;
    while (n >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        n /= 1000.0;
        unit++;
    }
    (void)snprintf(ret_text, 32, unit == 0 || n >= 99.5 ? "%.0f %s" : "%.1f %s", n, units[unit]);
    return ret_text;
}

/* "3 d 4 h", "12 min", "8 s". */
static const char *time_text(uint64_t s, char ret_text[48])
{
    if (s >= 86400) {
        (void)snprintf(ret_text, 48, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s % 86400 / 3600);
    } else if (s >= 3600) {
        (void)snprintf(ret_text, 48, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s % 3600 / 60);
    } else if (s >= 60) {
        (void)snprintf(ret_text, 48, "%" PRIu64 " min", s / 60);
    } else {
        (void)snprintf(ret_text, 48, "%" PRIu64 " s", s);
    }
    return ret_text;
}

/* A measured time, or a dash. */
static const char *ms_text(double ms, char ret_text[32])
{
    (void)snprintf(ret_text, 32, ms < 0.0 ? "-" : ms < 10.0 ? "%.2f ms" : "%.0f ms", ms);
    return ret_text;
}

/* --- the parts of a view ---------------------------------------------------------------------- */

static void put_rates(view *v, const look_at *now, const look_at *before, double seconds)
{
    double rates[SHOAL_CLIENT_TIERS];
    double most = 0.0;
    for (int t = 0; t < SHOAL_CLIENT_TIERS; t++) {
        rates[t] = (double)(now->stats.n_by_tier[t] - before->stats.n_by_tier[t]) / seconds;
        most = rates[t] > most ? rates[t] : most;
    }
    for (int t = 0; t < SHOAL_CLIENT_TIERS; t++) {
        put_line(v, t, most > 0.0 ? rates[t] / most : 0.0, "%-*s%-6s%9.1f", LABEL_CELLS,
                 t == 0 ? "tokens/s" : "", shoal_client_tier_name(t), rates[t]);
    }
}

static void put_work(view *v, const shoal_client_stats *s)
{
    put_line(v, 0, 0.0,
             "%-*s%" PRIu64 " active · %" PRIu64 " waiting · %" PRIu64 " open · %" PRIu64
             " since start",
             LABEL_CELLS, "answers", s->n_active, s->n_waiting, s->n_open, s->n_requests);
    put_line(v, SHOAL_CLIENT_TIER_EDGE,
             s->kv_pages > 0 ? (double)s->kv_pages_used / (double)s->kv_pages : 0.0,
             "%-*s%" PRIu64 " of %" PRIu64 " pages", LABEL_CELLS, "kv", s->kv_pages_used,
             s->kv_pages);
}

static void put_link(view *v, const shoal_client_stats *s)
{
    char trip[32];
    const char *state = !s->link[0]                    ? "no cloud configured"
                        : s->link_cut                  ? "cut by the switch"
                        : s->given_up                  ? "given up for now"
                        : strcmp(s->link, "idle") == 0 ? "at rest, connects when asked"
                                                       : s->link;
    bool told = s->link[0] && s->round_trip_ms >= 0.0;
    put_line(v, 0, 0.0, "%-*s%s%s%s%s%s · %" PRIu64 " reconnects", LABEL_CELLS, "link", state,
             s->cloud[0] ? " · " : "", s->cloud, told ? " · round trip " : "",
             told ? ms_text(s->round_trip_ms, trip) : "", s->n_reconnects);
    if (s->trouble[0]) {
        put_line(v, 0, 0.0, "%-*s%s", LABEL_CELLS, "", s->trouble);
    }
    if (s->fetch_quarantined) {
        put_line(v, 0, 0.0, "%-*sno KV is fetched for now: what came was none", LABEL_CELLS, "");
    }
}

/* Of an edge of a fleet: which model runs, and why it may not be the newest. */
static void put_bundle(view *v, const shoal_client_stats *s)
{
    char text[CLI_BUNDLE_BYTES];
    if (s->bundle[0]) {
        put_line(v, 0, 0.0, "%-*s%s", LABEL_CELLS, "bundle", cli_bundle_text(s, text));
        if (s->bundle_trouble[0]) {
            put_line(v, 0, 0.0, "%-*s%s", LABEL_CELLS, "", s->bundle_trouble);
        }
    }
}

static void put_drafts(view *v, const shoal_client_stats *s, const shoal_client_stats *before)
{
    char edge[32];
    char cloud[32];
    char share[32] = "-";
    uint64_t n_drafted = s->n_drafted - before->n_drafted;
    if (n_drafted > 0) {
        (void)snprintf(share, sizeof share, "%.0f%%",
                       100.0 * (double)(s->n_accepted - before->n_accepted) / (double)n_drafted);
    }
    put_line(v, 0, 0.0,
             "%-*s%s accepted · %" PRIu64 " a span, %" PRIu64
             " ahead · edge %s a token · cloud %s a step",
             LABEL_CELLS, "drafts", share, s->n_draft, s->n_window, ms_text(s->edge_token_ms, edge),
             ms_text(s->cloud_step_ms, cloud));
}

/* What the network carries, where the edge can tell, else its messages. */
static void put_bytes(view *v, const shoal_client_stats *s, const shoal_client_stats *before,
                      double seconds)
{
    bool packets = s->packet_bytes_up > 0;
    uint64_t up = packets ? s->packet_bytes_up : s->bytes_up;
    uint64_t down = packets ? s->packet_bytes_down : s->bytes_down;
    uint64_t up_before = packets ? before->packet_bytes_up : before->bytes_up;
    uint64_t down_before = packets ? before->packet_bytes_down : before->bytes_down;
    char texts[4][32];
    put_line(v, 0, 0.0, "%-*s%s/s up, %s/s down · since start %s up, %s down", LABEL_CELLS,
             packets ? "packets" : "bytes",
             bytes_text((double)(up - up_before) / seconds, texts[0]),
             bytes_text((double)(down - down_before) / seconds, texts[1]),
             bytes_text((double)up, texts[2]), bytes_text((double)down, texts[3]));
    uint64_t n_tokens = s->n_by_tier[0] + s->n_by_tier[1] + s->n_by_tier[2];
    if (n_tokens > 0) {
        put_line(v, 0, 0.0,
                 "%-*s%.0f%% of %" PRIu64 " tokens without waiting for a step of the cloud",
                 LABEL_CELLS, "saved", 100.0 * (double)s->n_saved / (double)n_tokens, n_tokens);
    }
    if (s->n_unassisted > 0) {
        put_line(v, 0, 0.0, "%-*s%" PRIu64 " of them said here for want of the cloud", LABEL_CELLS,
                 "alone", s->n_unassisted);
    }
}

static void put_budgets(view *v, const shoal_client_stats *s)
{
    char ends[48];
    for (size_t i = 0; i < s->n_budgets && i < SHOAL_CLIENT_BUDGETS_MAX; i++) {
        const shoal_client_budget *b = &s->budgets[i];
        double used = b->limit > 0 ? (double)b->used / (double)b->limit : 0.0;
        put_line(v, SHOAL_CLIENT_TIER_CLOUD, used,
                 "%-*s%s a %s: %" PRIu64 " of %" PRIu64 ", ends in %s", LABEL_CELLS,
                 i == 0 ? "budgets" : "", b->what, b->per, b->used, b->limit,
                 time_text(b->ends_in_s, ends));
    }
}

static void put_view(view *v, const char *url, const look_at *now, const look_at *before)
{
    const shoal_client_stats *s = &now->stats;
    char text[48];
    double seconds = now->at_s - before->at_s;
    seconds = seconds > 1e-3 ? seconds : 1e-3;
    put_line(v, 0, 0.0, "%-*s%s · %s · %s · mode %s · up %s", LABEL_CELLS, "edge",
             s->status[0] ? s->status : "unknown", url, s->model, s->mode,
             time_text(s->uptime_s, text));
    put_rates(v, now, before, seconds);
    put_work(v, s);
    put_link(v, s);
    put_bundle(v, s);
    put_drafts(v, s, &before->stats);
    put_bytes(v, s, &before->stats, seconds);
    put_budgets(v, s);
}

/* --- looking again and again ------------------------------------------------------------------ */

/* An edge that was started again counts from nothing. */
static void start_over(look_at *before, const look_at *now)
{
    shoal_client_stats_init(&before->stats, sizeof before->stats);
    before->at_s = now->at_s - (double)now->stats.uptime_s;
}

/* One view, written at once. False: out of memory, or the output is gone. */
static bool show(const cli_render *render, const char *url, const look_at *now,
                 const look_at *before, const char *trouble)
{
    char *text = NULL;
    size_t n = 0;
    view v = {.out = open_memstream(&text, &n), .render = render};
    if (!v.out) {
        return false;
    }
    v.in_place = render->style != CLI_STYLE_PLAIN;
    cli_render at = *render;
    if (v.in_place) {
        cli_terminal_size(fileno(render->out), &at.width, &v.n_rows);
        v.render = &at;
        v.n_rows = v.n_rows > 0 ? v.n_rows : 24;
        (void)fputs("\x1b[H", v.out);
    }
    if (trouble) {
        put_line(&v, 0, 0.0, "%-*s%s", LABEL_CELLS, "edge", trouble);
    } else {
        put_view(&v, url, now, before);
    }
    (void)fputs(v.in_place ? "\x1b[J" : "\n", v.out);
    bool ok = fclose(v.out) == 0 && fwrite(text, 1, n, render->out) == n;
    free(text);
    return fflush(render->out) == 0 && ok;
}

/* Until n_views were shown (0: for ever), the output is gone or somebody interrupts. */
static int look_on(cli_session *session)
{
    const cli_options *o = session->options;
    const char *url = shoal_client_url(session->client);
    look_at before = {.at_s = 0.0};
    look_at now = {.at_s = 0.0};
    bool seen = false;
    for (int32_t i = 0; o->n_views == 0 || i < o->n_views; i++) {
        if (i > 0) {
            (void)cli_wait(-1, o->interval_ms);
        }
        if (cli_interrupted()) {
            return CLI_OK;
        }
        shoal_client_error error;
        shoal_client_stats_init(&now.stats, sizeof now.stats);
        int code = shoal_client_stats_get(session->client, &now.stats, &error);
        now.at_s = cli_now_ms() * 1e-3;
        if (code == SHOAL_CLIENT_E_CANCELLED) {
            return CLI_OK;
        }
        if (code != SHOAL_CLIENT_OK && !seen) {
            (void)fprintf(stderr, "shoal: %s\n", error.text);
            return CLI_FAILED;
        }
        bool again = now.stats.uptime_s < before.stats.uptime_s ||
                     now.stats.n_requests < before.stats.n_requests;
        if (code == SHOAL_CLIENT_OK && (!seen || again)) {
            start_over(&before, &now);
        }
        if (!show(&session->render, url, &now, &before,
                  code == SHOAL_CLIENT_OK ? NULL : error.text)) {
            return CLI_FAILED;
        }
        if (code == SHOAL_CLIENT_OK) {
            before = now;
            seen = true;
        }
    }
    return CLI_OK;
}

int cli_top(cli_session *session)
{
    bool in_place = session->render.style != CLI_STYLE_PLAIN;
    /* The terminal's other screen, without a cursor; what stood there comes back afterwards. */
    (void)fputs(in_place ? "\x1b[?1049h\x1b[?25l" : "", stdout);
    int status = look_on(session);
    (void)fputs(in_place ? "\x1b[?25h\x1b[?1049l" : "", stdout);
    (void)fflush(stdout);
    return status;
}
