/* SPDX-License-Identifier: Apache-2.0
 *
 * The manual page and what shells complete, made from the text of --help, so that the three cannot
 * differ: its first lines are the synopsis, a line that begins at the margin and is no sentence is
 * a title, and a line with two blanks before a word describes an option.
 */
#include "edge/cli/cli.h"

#include <ctype.h>
#include <string.h>

enum {
    NAME_MAX_BYTES = 32,
    TEXT_AT = 21 /* column of descriptions */
};

/* The line at *inout_text without its end; false behind the last. */
static bool next_line(const char **inout_text, const char **ret_line, size_t *ret_n)
{
    const char *line = *inout_text;
    size_t n = strcspn(line, "\n");
    if (!*line) {
        return false;
    }
    *inout_text = line + n + (line[n] == '\n');
    *ret_line = line;
    *ret_n = n;
    return true;
}

/* --- manual ----------------------------------------------------------------------------------- */

/* Text of a page: a backslash, a dash of an option, and a dot or quote at the start mean more. */
static void put_text(FILE *out, const char *text, size_t n)
{
    if (n > 0 && (text[0] == '.' || text[0] == '\'')) {
        (void)fputs("\\&", out);
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\\' || text[i] == '-' || text[i] == '~') {
            (void)fputs(text[i] == '\\' ? "\\e" : text[i] == '-' ? "\\-" : "\\(ti", out);
        } else {
            (void)fputc(text[i], out);
        }
    }
}

static size_t trimmed(const char *text, size_t n)
{
    while (n > 0 && text[n - 1] == ' ') {
        n--;
    }
    return n;
}

static void put_usage(FILE *out, const char *line, size_t n)
{
    const char *at = memmem(line, n, "shoal ", 6);
    if (!at) {
        return;
    }
    size_t n_left = n - (size_t)(at - line);
    const char *gap = memmem(at, n_left, "   ", 3);
    size_t n_use = gap ? (size_t)(gap - at) : n_left;
    (void)fputs(".TP\n\\fB", out);
    put_text(out, at, trimmed(at, n_use));
    (void)fputs("\\fR\n", out);
    if (gap) {
        const char *what = gap + strspn(gap, " ");
        put_text(out, what, n - (size_t)(what - line));
        (void)fputc('\n', out);
    }
}

static void put_option(FILE *out, const char *line, size_t n)
{
    size_t n_name = n < TEXT_AT ? n : TEXT_AT;
    (void)fputs(".TP\n\\fB", out);
    put_text(out, line + 2, trimmed(line + 2, n_name - 2));
    (void)fputs("\\fR\n", out);
    if (n > TEXT_AT) {
        put_text(out, line + TEXT_AT, n - TEXT_AT);
        (void)fputc('\n', out);
    }
}

/* More of an option's description. A value of its own, "local   nothing leaves", gets its line. */
static void put_more(FILE *out, const char *line, size_t n)
{
    const char *text = line + strspn(line, " ");
    size_t n_text = n - (size_t)(text - line);
    if (memmem(text, n_text, "  ", 2)) {
        (void)fputs(".br\n", out);
    }
    put_text(out, text, n_text);
    (void)fputc('\n', out);
}

void cli_print_manual(FILE *out)
{
    const char *rest = cli_help_text();
    const char *line = NULL;
    size_t n = 0;
    bool described = false;
    (void)fprintf(
        out,
        ".TH SHOAL 1 2026-11-29 \"Shoal %s\" \"User Commands\"\n.SH NAME\nshoal \\- ask a Shoal "
        "edge, talk with it, see whether it is there\n.SH SYNOPSIS\n",
        SHOAL_CLI_VERSION);
    while (next_line(&rest, &line, &n)) {
        if (n == 0) {
            (void)fputs(described ? "" : ".SH DESCRIPTION\n", out);
            described = true;
        } else if (!described) {
            put_usage(out, line, n);
        } else if (line[0] != ' ' && !memchr(line, ' ', n)) {
            (void)fputs(".SH ", out);
            for (size_t i = 0; i < n; i++) {
                (void)fputc(toupper((unsigned char)line[i]), out);
            }
            (void)fputc('\n', out);
        } else if (strncmp(line, "  ", 2) == 0 && line[2] != ' ') {
            put_option(out, line, n);
        } else if (line[0] == ' ') {
            put_more(out, line, n);
        } else {
            const char *notes = strncmp(line, "Ctrl-C", 6) == 0 ? ".SH EXIT STATUS\n" : "";
            (void)fputs(notes, out);
            put_text(out, line, n);
            (void)fputc('\n', out);
        }
    }
}

/* --- completion ------------------------------------------------------------------------------- */

typedef struct words {
    char text[1024]; /* separated by blanks */
    size_t n;
} words;

/* What stands last is not added again. */
static void add_word(words *w, const char *word, size_t n)
{
    if (w->n > n && memcmp(w->text + w->n - n, word, n) == 0 && w->text[w->n - n - 1] == ' ') {
        return;
    }
    if (w->n + n + 2 <= sizeof w->text) {
        w->text[w->n] = ' ';
        memcpy(w->text + w->n + 1, word, n);
        w->n += n + 1;
        w->text[w->n] = '\0';
    }
}

/* Commands, long options, and the values that --mode takes; each list begins with a blank. */
static void gather(words *commands, words *options, words *modes)
{
    const char *rest = cli_help_text();
    const char *line = NULL;
    size_t n = 0;
    while (next_line(&rest, &line, &n)) {
        const char *use = memmem(line, n, " shoal ", 7);
        const char *option = memmem(line, n, "--", 2);
        if (use && (line[0] == 'U' || line[0] == ' ')) {
            add_word(commands, use + 7, strcspn(use + 7, " "));
        } else if (option && option - line < TEXT_AT && line[0] == ' ') {
            add_word(options, option, strcspn(option, " ,\n"));
        }
    }
    for (size_t i = 0; i < CLI_MODES; i++) {
        add_word(modes, cli_modes[i], strlen(cli_modes[i]));
    }
}

static void print_fish(FILE *out, const words *commands, const words *options, const words *modes)
{
    (void)fprintf(out, "complete -c shoal -f -n __fish_use_subcommand -a '%s'\n",
                  commands->text + 1);
    for (const char *at = options->text; *at;) {
        size_t n = strcspn(at + 1, " ");
        bool mode = n == 6 && strncmp(at + 1, "--mode", 6) == 0;
        bool file = n == 9 &&
                    (strncmp(at + 1, "--ca-file", 9) == 0 || strncmp(at + 1, "--prompts", 9) == 0);
        const char *value = mode ? " -x -a '" : file ? " -r -F" : "";
        (void)fprintf(out, "complete -c shoal -l %.*s%s%s%s\n", (int)(n - 2), at + 3, value,
                      mode ? modes->text + 1 : "", mode ? "'" : "");
        at += 1 + n;
    }
    (void)fputs(
        "complete -c shoal -f -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n"
        "complete -c shoal -f -n '__fish_seen_subcommand_from session' -a 'list save load rm'\n",
        out);
}

int cli_print_completion(const char *shell, FILE *out)
{
    words commands = {.n = 0};
    words options = {.n = 0};
    words modes = {.n = 0};
    gather(&commands, &options, &modes);
    if (strcmp(shell, "fish") == 0) {
        print_fish(out, &commands, &options, &modes);
        return CLI_OK;
    }
    bool zsh = strcmp(shell, "zsh") == 0;
    if (!zsh && strcmp(shell, "bash") != 0) {
        return CLI_USAGE;
    }
    /* zsh reads bash's form after bashcompinit. */
    (void)fprintf(
        out,
        "%s_shoal() {\n"
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} choices\n"
        "    case $before in\n"
        "    --ca-file | --prompts) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n"
        "    --mode) choices='%s' ;;\n"
        "    completion) choices='bash zsh fish' ;;\n"
        "    session) choices='list save load rm' ;;\n"
        "    *) choices='%s'; [[ $word == -* ]] && choices='%s' ;;\n"
        "    esac\n"
        "    COMPREPLY=($(compgen -W \"$choices\" -- \"$word\"))\n"
        "}\n"
        "complete -F _shoal shoal\n",
        zsh ? "#compdef shoal\nautoload -U +X bashcompinit && bashcompinit\n" : "", modes.text + 1,
        commands.text + 1, options.text + 1);
    return CLI_OK;
}
