/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char help_text[] =
    "Usage: shoal ask [options] TEXT...     one answer; TEXT - reads standard input\n"
    "       shoal chat [options]            a conversation; /help lists its commands\n"
    "       shoal status [options]          is the edge there, and which models?\n"
    "       shoal top [options]             what it does: tokens by tier, link, budgets\n"
    "       shoal bench [options] [TEXT...] how fast its answers come to an app\n"
    "       shoal session list              what the edge keeps of texts, by name\n"
    "       shoal session save NAME FILE    one of them to a file\n"
    "       shoal session load NAME FILE    and back, or to another edge\n"
    "       shoal session rm NAME           forgets one\n"
    "       shoal completion SHELL          what bash, zsh or fish may complete\n"
    "       shoal manual                    this text as a manual page, for man -l\n"
    "\n"
    "Talks to a Shoal edge, which answers with its own small model and borrows the\n"
    "cloud's large one where it must. Every token shows where it came from.\n"
    "\n"
    "Connection\n"
    "  --url URL          http://host:port, https://host:port or unix:/path\n"
    "                     (default $SHOAL_URL, else http://127.0.0.1:8088)\n"
    "  --ca-file FILE     PEM file of the authorities that an https edge's certificate\n"
    "                     may come from (default $SHOAL_CA_FILE, else the system's)\n"
    "  --timeout SECONDS  give up on an answer after so long (default: never)\n"
    "  $SHOAL_API_KEY     is sent as a bearer token when set\n"
    "\n"
    "Answer\n"
    "  --mode MODE        local   nothing leaves the device\n"
    "                     assist  the edge while it is sure, the cloud where it is not\n"
    "                     exact   the edge drafts, the cloud verifies every token\n"
    "                     cloud   the cloud writes, the edge relays\n"
    "                     (default: the edge's own setting)\n"
    "  --model NAME       an adapter of the edge's model, by its name: one of those that\n"
    "                     status lists (default: the model as it is)\n"
    "  --max-tokens N     at most N tokens\n"
    "  --temp T           temperature, 0 to 10; 0 always takes the likeliest token\n"
    "  --top-p P          only the likeliest tokens that together hold P, 0 < P <= 1\n"
    "  --top-k K          only the K likeliest tokens; 0 keeps all\n"
    "  --seed N           same seed, same answer\n"
    "  --stop TEXT        end before TEXT; up to 16 times\n"
    "  --system TEXT      a system message before the conversation\n"
    "  --priority N       0 to 7: of work in the cloud, 7 goes first (default: the edge's)\n"
    "  --session NAME     the edge keeps the text under NAME and computes only what is\n"
    "                     new of the next one (ask, chat)\n"
    "  --raw              continue TEXT itself, without a chat template (ask only)\n"
    "\n"
    "Top\n"
    "  --interval S       a view every S seconds (default 1)\n"
    "  -n, --views N      end after N views (default: go on until Ctrl-C)\n"
    "  --once             one view: averages since the edge started\n"
    "\n"
    "Bench\n"
    "  --requests N       N answers (default 16)\n"
    "  --concurrency N    N at once (default 1, at most 256)\n"
    "  --prompts FILE     ask the lines of FILE in turn, instead of TEXT\n"
    "\n"
    "Output\n"
    "  --plain            text alone, as when the output is not a terminal\n"
    "  --no-color         mark tiers by a line of ~ - =, and ? for want of the cloud,\n"
    "                     instead of colours; so does $NO_COLOR\n"
    "  --trace            afterwards list every token: tier, confidence, round, time\n"
    "  --json             one JSON object (ask, status, bench, session list)\n"
    "  -h, --help         this text\n"
    "  -V, --version      the version\n"
    "\n"
    "Ctrl-C ends an answer. Exit status: 0 done, 1 failed, 2 wrong usage.\n";

const char *cli_help_text(void)
{
    return help_text;
}

/* "shoal: --mode deep is not ...": the option or command, its value if any, what is wrong. */
static int usage_error(const char *what, const char *name, const char *value)
{
    (void)fprintf(stderr, "shoal: %s%s%s%s\n", name, value ? " " : "", value ? value : "", what);
    (void)fprintf(stderr, "Try \"shoal --help\".\n");
    return CLI_USAGE;
}

static bool read_int(const char *text, long long low, long long high, long long *ret_value)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool ok = end != text && *end == '\0' && errno == 0 && value >= low && value <= high;
    if (ok) {
        *ret_value = value;
    }
    return ok;
}

static bool read_double(const char *text, double low, double high, double *ret_value)
{
    char *end = NULL;
    double value = strtod(text, &end);
    bool ok = end != text && *end == '\0' && value >= low && value <= high;
    if (ok) {
        *ret_value = value;
    }
    return ok;
}

const char *const cli_modes[CLI_MODES] = {"local", "assist", "exact", "cloud"};

bool cli_mode_ok(const char *mode)
{
    for (size_t i = 0; i < CLI_MODES; i++) {
        if (strcmp(mode, cli_modes[i]) == 0) {
            return true;
        }
    }
    return false;
}

enum {
    OPT_URL = 256,
    OPT_CA_FILE,
    OPT_TIMEOUT,
    OPT_MODE,
    OPT_MAX_TOKENS,
    OPT_TEMP,
    OPT_TOP_P,
    OPT_TOP_K,
    OPT_SEED,
    OPT_STOP,
    OPT_SYSTEM,
    OPT_RAW,
    OPT_PLAIN,
    OPT_NO_COLOR,
    OPT_TRACE,
    OPT_JSON,
    OPT_INTERVAL,
    OPT_ONCE,
    OPT_REQUESTS,
    OPT_CONCURRENCY,
    OPT_PROMPTS,
    OPT_SESSION,
    OPT_MODEL,
    OPT_PRIORITY
};

static const struct option long_options[] = {
    {"url", required_argument, NULL, OPT_URL},
    {"ca-file", required_argument, NULL, OPT_CA_FILE},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"mode", required_argument, NULL, OPT_MODE},
    {"max-tokens", required_argument, NULL, OPT_MAX_TOKENS},
    {"temp", required_argument, NULL, OPT_TEMP},
    {"top-p", required_argument, NULL, OPT_TOP_P},
    {"top-k", required_argument, NULL, OPT_TOP_K},
    {"seed", required_argument, NULL, OPT_SEED},
    {"stop", required_argument, NULL, OPT_STOP},
    {"system", required_argument, NULL, OPT_SYSTEM},
    {"raw", no_argument, NULL, OPT_RAW},
    {"plain", no_argument, NULL, OPT_PLAIN},
    {"no-color", no_argument, NULL, OPT_NO_COLOR},
    {"trace", no_argument, NULL, OPT_TRACE},
    {"json", no_argument, NULL, OPT_JSON},
    {"interval", required_argument, NULL, OPT_INTERVAL},
    {"views", required_argument, NULL, 'n'},
    {"once", no_argument, NULL, OPT_ONCE},
    {"requests", required_argument, NULL, OPT_REQUESTS},
    {"concurrency", required_argument, NULL, OPT_CONCURRENCY},
    {"prompts", required_argument, NULL, OPT_PROMPTS},
    {"session", required_argument, NULL, OPT_SESSION},
    {"model", required_argument, NULL, OPT_MODEL},
    {"priority", required_argument, NULL, OPT_PRIORITY},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

/* The numbers of top and bench. */
static int take_measure(cli_options *o, int option, const char *value)
{
    long long n = 0;
    double x = 0.0;
    switch (option) {
    case OPT_INTERVAL:
        if (!read_double(value, 0.1, 3600.0, &x)) {
            return usage_error(" is not a number of seconds from 0.1 to 3600", "--interval", value);
        }
        o->interval_ms = (uint32_t)(x * 1000.0 + 0.5);
        return CLI_GO_ON;
    case 'n':
        if (!read_int(value, 1, INT32_MAX, &n)) {
            return usage_error(" is not a number from 1 to 2147483647", "--views", value);
        }
        o->n_views = (int32_t)n;
        return CLI_GO_ON;
    case OPT_REQUESTS:
        if (!read_int(value, 1, 1000000, &n)) {
            return usage_error(" is not a number from 1 to 1000000", "--requests", value);
        }
        o->n_requests = (int32_t)n;
        return CLI_GO_ON;
    default:
        if (!read_int(value, 1, 256, &n)) {
            return usage_error(" is not a number from 1 to 256", "--concurrency", value);
        }
        o->n_concurrent = (int32_t)n;
        return CLI_GO_ON;
    }
}

/* Options with a number. */
static int take_number(cli_options *o, int option, const char *value)
{
    long long n = 0;
    double x = 0.0;
    switch (option) {
    case OPT_TIMEOUT:
        if (!read_double(value, 0.001, 86400.0, &x)) {
            return usage_error(" is not a number of seconds from 0.001 to 86400", "--timeout",
                               value);
        }
        o->timeout_ms = (uint32_t)(x * 1000.0 + 0.5);
        return CLI_GO_ON;
    case OPT_MAX_TOKENS:
        if (!read_int(value, 1, INT32_MAX, &n)) {
            return usage_error(" is not a number from 1 to 2147483647", "--max-tokens", value);
        }
        o->max_tokens = (int32_t)n;
        return CLI_GO_ON;
    case OPT_TEMP:
        return read_double(value, 0.0, 10.0, &o->temperature)
                   ? CLI_GO_ON
                   : usage_error(" is not a number from 0 to 10", "--temp", value);
    case OPT_TOP_P:
        return read_double(value, 1e-9, 1.0, &o->top_p)
                   ? CLI_GO_ON
                   : usage_error(" is not a number above 0 and up to 1", "--top-p", value);
    case OPT_TOP_K:
        if (!read_int(value, 0, INT32_MAX, &n)) {
            return usage_error(" is not a number from 0 to 2147483647", "--top-k", value);
        }
        o->top_k = (int32_t)n;
        return CLI_GO_ON;
    case OPT_PRIORITY:
        if (!read_int(value, 0, 7, &n)) {
            return usage_error(" is not a number from 0 to 7", "--priority", value);
        }
        o->priority = (int32_t)n;
        return CLI_GO_ON;
    default:
        if (!read_int(value, 0, INT64_MAX, &n)) {
            return usage_error(" is not a number from 0 to 9223372036854775807", "--seed", value);
        }
        o->seed = n;
        return CLI_GO_ON;
    }
}

static int take_stop(cli_options *o, const char *value)
{
    if (o->n_stops == SHOAL_CLIENT_STOPS_MAX) {
        return usage_error(" is one stop text too many; at most 16", "--stop", value);
    }
    if (!value[0]) {
        return usage_error(" needs a text that is not empty", "--stop", NULL);
    }
    o->stops[o->n_stops++] = value;
    return CLI_GO_ON;
}

static int take_option(cli_options *o, int option, const char *value)
{
    switch (option) {
    case OPT_URL:
        o->url = value;
        return CLI_GO_ON;
    case OPT_CA_FILE:
        o->ca_file = value;
        return CLI_GO_ON;
    case OPT_MODE:
        o->mode = value;
        return cli_mode_ok(value)
                   ? CLI_GO_ON
                   : usage_error(" is not local, assist, exact or cloud", "--mode", value);
    case OPT_STOP:
        return take_stop(o, value);
    case OPT_SYSTEM:
        o->system = value;
        return CLI_GO_ON;
    case OPT_RAW:
        o->raw = true;
        return CLI_GO_ON;
    case OPT_PLAIN:
        o->plain = true;
        return CLI_GO_ON;
    case OPT_NO_COLOR:
        o->no_color = true;
        return CLI_GO_ON;
    case OPT_TRACE:
        o->trace = true;
        return CLI_GO_ON;
    case OPT_JSON:
        o->json = true;
        return CLI_GO_ON;
    case OPT_ONCE:
        o->n_views = 1;
        return CLI_GO_ON;
    case OPT_SESSION:
        o->session = value;
        return CLI_GO_ON;
    case OPT_MODEL:
        o->model = value;
        return CLI_GO_ON;
    case OPT_PROMPTS:
        o->prompts = value;
        return CLI_GO_ON;
    case OPT_INTERVAL:
    case 'n':
    case OPT_REQUESTS:
    case OPT_CONCURRENCY:
        return take_measure(o, option, value);
    case 'h':
        (void)fputs(help_text, stdout);
        return CLI_OK;
    case 'V':
        (void)puts("shoal " SHOAL_CLI_VERSION);
        return CLI_OK;
    case '?':
        (void)fprintf(stderr, "Try \"shoal --help\".\n");
        return CLI_USAGE; /* getopt has said which */
    default:
        return take_number(o, option, value);
    }
}

/* What needs no edge is done here. */
static int print_own(const char *name, char **words, int n_words)
{
    if (strcmp(name, "manual") == 0) {
        if (n_words > 0) {
            return usage_error(" is one argument too many", name, words[0]);
        }
        cli_print_manual(stdout);
        return CLI_OK;
    }
    if (n_words != 1 || cli_print_completion(words[0], stdout) != CLI_OK) {
        return usage_error(": one shell is needed: bash, zsh or fish", name, NULL);
    }
    return CLI_OK;
}

static const struct {
    const char *name;
    cli_command command;
} commands[] = {
    {"ask", CLI_ASK}, {"chat", CLI_CHAT},   {"status", CLI_STATUS},
    {"top", CLI_TOP}, {"bench", CLI_BENCH}, {"session", CLI_SESSION},
};

#define COMMANDS "ask, chat, status, top, bench, session, completion and manual"

/* "session" and what to do with which. */
static int check_orders(const cli_options *o)
{
    static const struct {
        const char *name;
        int n_words;
    } orders[] = {{"list", 1}, {"save", 3}, {"load", 3}, {"rm", 2}};
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        if (o->n_words > 0 && strcmp(o->words[0], orders[i].name) == 0) {
            return o->n_words == orders[i].n_words
                       ? CLI_GO_ON
                       : usage_error(": there are list, save NAME FILE, load NAME FILE and rm NAME",
                                     "session", o->words[0]);
        }
    }
    return usage_error(": there are list, save NAME FILE, load NAME FILE and rm NAME", "session",
                       o->n_words > 0 ? o->words[0] : NULL);
}

/* What goes with one command and not with another. */
static int check_command(const cli_options *o)
{
    bool asks = o->command == CLI_ASK || o->command == CLI_BENCH;
    if (o->command == CLI_ASK && o->n_words == 0) {
        return usage_error(": the text is missing; - reads it from standard input", "ask", NULL);
    }
    if (o->command == CLI_SESSION) {
        return o->session || o->raw || o->prompts
                   ? usage_error(" takes no option of an answer", "session", NULL)
                   : check_orders(o);
    }
    if (o->session && o->command != CLI_ASK && o->command != CLI_CHAT) {
        return usage_error(" goes with ask and chat only", "--session", o->session);
    }
    if (!asks && o->n_words > 0) {
        return usage_error(" is one argument too many", commands[o->command].name, o->words[0]);
    }
    if (o->raw && !asks) {
        return usage_error(" goes with ask and bench only", "--raw", NULL);
    }
    if (o->json && (o->command == CLI_CHAT || o->command == CLI_TOP)) {
        return usage_error(" goes with ask, status and bench only", "--json", NULL);
    }
    if (o->prompts && (o->command != CLI_BENCH || o->n_words > 0)) {
        return usage_error(" goes with bench only, and takes the place of TEXT", "--prompts",
                           o->prompts);
    }
    return CLI_GO_ON;
}

static int take_command(cli_options *o, char **words, int n_words)
{
    if (n_words == 0) {
        return usage_error("a command is missing; there are " COMMANDS, "", NULL);
    }
    const char *name = words[0];
    o->words = words + 1;
    o->n_words = n_words - 1;
    if (strcmp(name, "manual") == 0 || strcmp(name, "completion") == 0) {
        return print_own(name, o->words, o->n_words);
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(name, commands[i].name) == 0) {
            o->command = commands[i].command;
            return check_command(o);
        }
    }
    return usage_error(": no such command; there are " COMMANDS, name, NULL);
}

int cli_options_parse(int argc, char **argv, cli_options *ret_options)
{
    *ret_options = (cli_options){.max_tokens = -1,
                                 .temperature = -1.0,
                                 .top_p = -1.0,
                                 .top_k = -1,
                                 .seed = -1,
                                 .priority = -1,
                                 .interval_ms = 1000,
                                 .n_requests = 16,
                                 .n_concurrent = 1};
    for (;;) {
        int option = getopt_long(argc, argv, "hVn:", long_options, NULL);
        if (option == -1) {
            break;
        }
        int status = take_option(ret_options, option, optarg);
        if (status != CLI_GO_ON) {
            return status;
        }
    }
    if (ret_options->raw && ret_options->system) {
        return usage_error(" has no place for --system", "--raw", NULL);
    }
    return take_command(ret_options, argv + optind, argc - optind);
}
