/* SPDX-License-Identifier: Apache-2.0
 *
 * What a person sees: the text as it comes, each token in its tier's look. One hue from light to
 * deep and an underline of its own shape per tier, so that neither colour vision nor a particular
 * theme is needed; without colours, a line of marks below each line. What the edge said for want of
 * the cloud has a look of its own, whichever of the edge's tiers said it.
 */
#include "edge/cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

typedef struct look {
    const char *name;
    char mark;
    const char *on; /* 256-colour, then underline: 3 curly, 5 dashed, 2 double, 4 dotted */
    const char *bar;
} look;

enum {
    UNASSISTED = SHOAL_CLIENT_TIERS, /* the look behind those of the tiers */
    LOOKS
};

static const look looks[LOOKS] = {
    {"edge, early exit", '~', "\x1b[38;5;117m\x1b[4:3m", "\x1b[38;5;117m"},
    {"edge, full depth", '-', "\x1b[38;5;75m\x1b[4:5m", "\x1b[38;5;75m"},
    {"cloud", '=', "\x1b[38;5;33m\x1b[4:2m", "\x1b[38;5;33m"},
    {"edge, unassisted", '?', "\x1b[38;5;179m\x1b[4:4m", "\x1b[38;5;179m"},
};
static const char off[] = "\x1b[0m";

/* -1: none. */
static int look_of(const shoal_client_token *token)
{
    if (token->unassisted != SHOAL_CLIENT_UNASSISTED_NOT) {
        return UNASSISTED;
    }
    return token->tier >= 0 && token->tier < SHOAL_CLIENT_TIERS ? token->tier : -1;
}

#define RATE_AFTER_S 0.01 /* seconds of tokens that a rate is told of */

static bool wants_color(const cli_options *options)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    return !options->no_color && !(no_color && no_color[0]) && term && term[0] &&
           strcmp(term, "dumb") != 0;
}

void cli_terminal_size(int fd, size_t *ret_columns, size_t *ret_rows)
{
    struct winsize size = {0};
    bool known = ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    size_t columns = size.ws_col < CLI_WIDTH_MAX ? size.ws_col : CLI_WIDTH_MAX;
    *ret_columns = known ? columns : 80;
    *ret_rows = known ? size.ws_row : 0;
}

void cli_render_init(cli_render *render, FILE *out, const cli_options *options)
{
    memset(render, 0, sizeof *render);
    render->out = out;
    render->terminal = isatty(fileno(out)) == 1;
    render->style = CLI_STYLE_PLAIN;
    if (render->terminal && !options->plain && !options->json) {
        render->style = wants_color(options) ? CLI_STYLE_COLOR : CLI_STYLE_MARKS;
    }
    render->look = -1;
    size_t n_rows = 0;
    cli_terminal_size(fileno(out), &render->width, &n_rows);
    render->at_line_start = true;
}

/* --- characters ------------------------------------------------------------------------------ */

/* The character at s (valid UTF-8, n > 0): its bytes, and its code point. */
static size_t character(const char *s, size_t n, uint32_t *ret_code)
{
    const unsigned char *b = (const unsigned char *)s;
    size_t length = b[0] < 0x80 ? 1 : b[0] >= 0xF0 ? 4 : b[0] >= 0xE0 ? 3 : 2;
    length = length < n ? length : n;
    uint32_t code = b[0] < 0x80 ? b[0] : b[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        code = code << 6 | (b[i] & 0x3Fu);
    }
    *ret_code = code;
    return length;
}

/* Control characters other than tab and line feed, C1 and the marks that turn text around: text
 * from a model must not move the cursor or disguise itself. */
static bool harmful(uint32_t code)
{
    return (code < 0x20 && code != '\t' && code != '\n') || (code >= 0x7F && code < 0xA0) ||
           (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
}

static const char replacement[] = "\xEF\xBF\xBD";

void cli_print_safe(FILE *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t code = 0;
        size_t length = character(text + i, n - i, &code);
        if (harmful(code)) {
            (void)fputs(replacement, out);
        } else {
            (void)fwrite(text + i, 1, length, out);
        }
        i += length;
    }
}

size_t cli_print_cells(FILE *out, const char *text, size_t n_cells)
{
    size_t n = strlen(text);
    size_t used = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code = 0;
        size_t length = character(text + i, n - i, &code);
        bool bad = harmful(code) || code == '\t' || code == '\n';
        int columns = bad || code < 0x80 ? 1 : wcwidth((wchar_t)code);
        size_t cells = columns < 0 ? 1 : (size_t)columns;
        if (used + cells > n_cells) {
            break;
        }
        (void)fwrite(bad ? replacement : text + i, 1, bad ? sizeof replacement - 1 : length, out);
        used += cells;
        i += length;
    }
    return used;
}

/* --- marks ----------------------------------------------------------------------------------- */

static void end_marked_line(cli_render *render)
{
    size_t n = render->column;
    while (n > 0 && render->marks[n - 1] == ' ') {
        n--;
    }
    (void)fputc('\n', render->out);
    if (n > 0) {
        (void)fprintf(render->out, "%.*s\n", (int)n, render->marks);
    }
    render->column = 0;
}

static void put_marked(cli_render *render, const char *text, size_t n, int look_i)
{
    char mark = look_i >= 0 ? looks[look_i].mark : ' ';
    for (size_t i = 0; i < n;) {
        uint32_t code = 0;
        size_t length = character(text + i, n - i, &code);
        if (code == '\n') {
            end_marked_line(render);
            i += length;
            continue;
        }
        int columns = code < 0x80 ? 1 : wcwidth((wchar_t)code);
        size_t cells = columns < 0 ? 1 : (size_t)columns;
        if (render->column + cells > render->width) {
            end_marked_line(render);
        }
        if (code == '\t' || harmful(code)) {
            (void)fputs(code == '\t' ? " " : replacement, render->out);
        } else {
            (void)fwrite(text + i, 1, length, render->out);
        }
        memset(render->marks + render->column, code == ' ' || code == '\t' ? ' ' : mark, cells);
        render->column += cells;
        i += length;
    }
}

/* --- colours --------------------------------------------------------------------------------- */

static void set_look(cli_render *render, int look_i)
{
    if (look_i == render->look) {
        return;
    }
    if (render->look >= 0) {
        (void)fputs(off, render->out);
    }
    if (look_i >= 0) {
        (void)fputs(looks[look_i].on, render->out);
    }
    render->look = look_i;
}

/* Spaces between words stay bare, so that token borders can be seen and lines end clean. */
static void put_colored(cli_render *render, const char *text, size_t n, int look_i)
{
    for (size_t i = 0; i < n;) {
        size_t blank = 0;
        while (i + blank < n && strchr(" \t\n", text[i + blank]) && text[i + blank]) {
            blank++;
        }
        if (blank > 0) {
            set_look(render, -1);
            (void)fwrite(text + i, 1, blank, render->out);
        }
        i += blank;
        size_t word = 0;
        while (i + word < n && !(strchr(" \t\n", text[i + word]) && text[i + word])) {
            word++;
        }
        if (word > 0) {
            set_look(render, look_i);
            cli_print_safe(render->out, text + i, word);
        }
        i += word;
    }
}

void cli_render_bar(const cli_render *render, FILE *out, int tier, size_t n)
{
    bool color = render->style == CLI_STYLE_COLOR && n > 0;
    (void)fputs(color ? looks[tier].bar : "", out);
    for (size_t i = 0; i < n; i++) {
        (void)fputc(looks[tier].mark, out);
    }
    (void)fputs(color ? off : "", out);
}

/* --- events ---------------------------------------------------------------------------------- */

static void put(cli_render *render, const char *text, size_t n, int look_i)
{
    if (n == 0) {
        return;
    }
    render->at_line_start = text[n - 1] == '\n';
    if (render->style == CLI_STYLE_COLOR) {
        put_colored(render, text, n, look_i);
    } else if (render->style == CLI_STYLE_MARKS) {
        put_marked(render, text, n, look_i);
    } else if (render->terminal) {
        cli_print_safe(render->out, text, n);
    } else {
        (void)fwrite(text, 1, n, render->out);
    }
}

void cli_render_event(cli_render *render, const shoal_client_event *event)
{
    /* The event's text is what to show. As long as the tokens' texts spell it, each part gets its
     * token's look; the rest, if any, that of the last token. */
    size_t at = 0;
    int last = event->n_tokens > 0 ? look_of(&event->tokens[event->n_tokens - 1]) : -1;
    for (size_t i = 0; i < event->n_tokens; i++) {
        const shoal_client_token *t = &event->tokens[i];
        if (t->n_text > event->n_text - at || memcmp(event->text + at, t->text, t->n_text) != 0) {
            break;
        }
        put(render, event->text + at, t->n_text, look_of(t));
        at += t->n_text;
    }
    put(render, event->text + at, event->n_text - at, last);
    (void)fflush(render->out);
}

void cli_render_end(cli_render *render)
{
    if (render->style == CLI_STYLE_COLOR) {
        set_look(render, -1);
    }
    if (render->style == CLI_STYLE_MARKS && render->column > 0) {
        end_marked_line(render);
    } else if (!render->at_line_start) {
        (void)fputc('\n', render->out);
    }
    render->at_line_start = true;
    (void)fflush(render->out);
}

/* --- account --------------------------------------------------------------------------------- */

static void print_legend(cli_render *render, int n_looks)
{
    bool color = render->style == CLI_STYLE_COLOR;
    (void)fputs("(", render->out);
    for (int i = 0; i < n_looks; i++) {
        (void)fputs(i > 0 ? "   " : "", render->out);
        if (color) {
            (void)fprintf(render->out, "%s%s%s", looks[i].on, looks[i].name, off);
        } else {
            (void)fprintf(render->out, "%c %s", looks[i].mark, looks[i].name);
        }
    }
    (void)fputs(")\n", render->out);
}

static void print_tiers(FILE *out, const shoal_client_result *r)
{
    static const char *const names[] = {"early exit", "edge", "cloud"};
    const char *before = ": ";
    for (int i = 0; i < SHOAL_CLIENT_TIERS; i++) {
        if (r->n_by_tier[i] > 0) {
            (void)fprintf(out, "%s%llu %s", before, (unsigned long long)r->n_by_tier[i], names[i]);
            before = ", ";
        }
    }
    uint64_t cloud = r->n_by_tier[SHOAL_CLIENT_TIER_CLOUD];
    if (cloud > 0 && r->n_generated > 0) {
        (void)fprintf(out, " (%.0f%%)", 100.0 * (double)cloud / (double)r->n_generated);
    }
    if (r->n_unassisted > 0) {
        (void)fprintf(out, " · %llu for want of the cloud", (unsigned long long)r->n_unassisted);
    }
}

void cli_render_summary(cli_render *render, const cli_answer *answer)
{
    const shoal_client_result *r = &answer->result;
    if (render->style == CLI_STYLE_PLAIN || r->n_generated == 0) {
        return;
    }
    FILE *out = render->out;
    bool told = r->n_by_tier[0] + r->n_by_tier[1] + r->n_by_tier[2] > 0;
    int n_looks = r->n_unassisted > 0 ? LOOKS : SHOAL_CLIENT_TIERS;
    if (told && render->n_looks_told < n_looks) {
        print_legend(render, n_looks);
        render->n_looks_told = n_looks;
    }
    (void)fprintf(out, "\n%llu token%s", (unsigned long long)r->n_generated,
                  r->n_generated == 1 ? "" : "s");
    print_tiers(out, r);
    if (r->first_token_ms >= 0.0) {
        (void)fprintf(out, " · first token %.0f ms", r->first_token_ms);
    }
    /* A rate over some milliseconds is that of one burst and says nothing. */
    if (r->tokens_per_s >= 0.0 && (double)r->n_generated > RATE_AFTER_S * r->tokens_per_s) {
        (void)fprintf(out, " · %.0f tok/s", r->tokens_per_s);
    }
    if (r->n_drafted > 0) {
        (void)fprintf(out, " · %.0f%% of drafts accepted",
                      100.0 * (double)r->n_accepted / (double)r->n_drafted);
    }
    if (r->bytes_up + r->bytes_down > 0) {
        (void)fprintf(out, " · %llu bytes up, %llu down", (unsigned long long)r->bytes_up,
                      (unsigned long long)r->bytes_down);
    } else if (told) {
        (void)fputs(" · nothing left the device", out);
    }
    if (r->finish == SHOAL_CLIENT_FINISH_LENGTH) {
        (void)fputs(" · cut at the token limit", out);
    }
    (void)fputc('\n', out);
    (void)fflush(out);
}

/* Quoted, a line feed as in JSON: spaces and line feeds of a token are what one looks for. */
static void print_quoted(FILE *out, const char *text, size_t n)
{
    (void)fputc('"', out);
    for (size_t i = 0; i < n;) {
        size_t line = 0;
        while (i + line < n && text[i + line] != '\n') {
            line++;
        }
        cli_print_safe(out, text + i, line);
        i += line;
        if (i < n) {
            (void)fputs("\\n", out);
            i++;
        }
    }
    (void)fputc('"', out);
}

void cli_render_trace(const cli_answer *answer, FILE *out, bool terminal)
{
    (void)fprintf(out, "%6s  %-6s %10s %6s %9s %8s  %s\n", "token", "tier", "confidence", "round",
                  "ms", "id", "text");
    for (size_t i = 0; i < answer->n_tokens; i++) {
        const cli_token *t = &answer->tokens[i];
        const char *text = answer->token_text.data + t->text_at;
        (void)fprintf(out, "%6zu  %-6s", i + 1, shoal_client_tier_name(t->tier));
        (void)(t->confidence >= 0.0 ? fprintf(out, " %10.3f", t->confidence)
                                    : fprintf(out, " %10s", "-"));
        (void)fprintf(out, " %6u", t->round);
        (void)(t->ms >= 0.0 ? fprintf(out, " %9.1f", t->ms) : fprintf(out, " %9s", "-"));
        (void)fprintf(out, " %8d  ", t->id);
        if (terminal) {
            print_quoted(out, text, t->n_text);
        } else {
            cli_json_string(out, text, t->n_text);
        }
        if (t->unassisted != SHOAL_CLIENT_UNASSISTED_NOT) {
            (void)fprintf(out, "  unassisted: %s", shoal_client_unassisted_name(t->unassisted));
        }
        (void)fputc('\n', out);
    }
}
