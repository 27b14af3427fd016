/* SPDX-License-Identifier: Apache-2.0
 *
 * A recipe's keys, one table of the fields of a rule, and the forms that its values combine to.
 */
#include "cloud/forge/recipe.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/config/yaml.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    WORD_MAX = 32, /* bytes of one value of a list */
    SOURCE_MAX = 96
};

/* --- values ---------------------------------------------------------------------------------- */

/* The values of one field; those of a kind that has words are places in a list of words. */
typedef struct values {
    double x[FORGE_RECIPE_VALUES_MAX];
    size_t n;
    size_t line;
} values;

typedef enum field_i {
    FIELD_LAYERS,
    FIELD_PASS,
    FIELD_TYPE,
    FIELD_BITS,
    FIELD_GROUP,
    FIELD_MASK,
    FIELD_DENSITY,
    FIELD_RANK,
    FIELD_RECOVER,
    FIELD_WITHIN_BITS,
    FIELD_WITHIN_BYTES,
    FIELD_SENSITIVITY,
    FIELDS
} field_i;

static const double fill_word = -1;
static const double keep_word = -1;

static bool read_number(const char *word, double low, double high, bool whole, double *ret)
{
    char *end = NULL;
    double x = strtod(word, &end);
    bool plain = strspn(word, "0123456789.eE+-") == strlen(word);
    if (end == word || *end || !plain || !(x >= low && x <= high) || (whole && x != floor(x))) {
        return false;
    }
    *ret = x;
    return true;
}

static bool read_pass(const char *word, double *ret)
{
    for (size_t i = 0; i < SHOAL_PASSES; i++) {
        if (strcmp(word, shoal_pass_name((shoal_pass)i)) == 0) {
            *ret = (double)i;
            return true;
        }
    }
    return false;
}

static bool read_type(const char *word, double *ret)
{
    const shoal_type_info *info = shoal_type_find_name(word);
    *ret = info ? (double)info->type : keep_word;
    return (info && info->type != SHOAL_TYPE_I8) || strcmp(word, "keep") == 0;
}

static bool read_bits(const char *word, double *ret)
{
    return read_number(word, 2, 8, true, ret) || read_number(word, 16, 16, true, ret);
}

static bool read_group(const char *word, double *ret)
{
    return read_number(word, 16, 128, true, ret) &&
           (*ret == 16 || *ret == 32 || *ret == 64 || *ret == 128);
}

static bool read_mask(const char *word, double *ret)
{
    static const char *const words[] = {"all", "bitmap", "2:4", "16:32", "8:32"};
    for (size_t i = 0; i < SHOAL_COUNT(words); i++) {
        if (strcmp(word, words[i]) == 0) {
            *ret = (double)i; /* as in shoal_mask */
            return true;
        }
    }
    return false;
}

static bool read_share(const char *word, double *ret)
{
    return read_number(word, 0, 1, false, ret);
}

static bool read_rank(const char *word, double *ret)
{
    *ret = fill_word;
    return strcmp(word, "fill") == 0 || read_number(word, 0, SHOAL_COMPRESS_SIDE_MAX, true, ret);
}

static bool read_half(const char *word, double *ret)
{
    return read_number(word, 0, 0.5, false, ret);
}

static bool read_within_bits(const char *word, double *ret)
{
    return read_number(word, 0.01, 64, false, ret);
}

static bool read_within_bytes(const char *word, double *ret)
{
    return read_number(word, 1, 0x1p40, true, ret);
}

static bool read_sensitivity(const char *word, double *ret)
{
    return read_number(word, 0, 1e9, false, ret);
}

static const struct {
    const char *name;
    bool (*read)(const char *word, double *ret); /* NULL: text */
    bool single;
    const char *expected;
} fields[FIELDS] = {
    [FIELD_LAYERS] = {"layers", NULL, true, ""},
    [FIELD_PASS] =
        {"pass", read_pass, false,
         "rtn, awq, smoothquant, clip, codebook, gptq, refined, magnitude, wanda, sparsegpt, svd, "
         "whitened-svd, 2:4, 2:4+wrp or joint"},
    [FIELD_TYPE] = {"type", read_type, false, "keep or a tensor type but I8"},
    [FIELD_BITS] = {"bits", read_bits, false, "2 to 8, or 16"},
    [FIELD_GROUP] = {"group", read_group, false, "16, 32, 64 or 128"},
    [FIELD_MASK] = {"mask", read_mask, false, "all, bitmap, 2:4, 16:32 or 8:32"},
    [FIELD_DENSITY] = {"density", read_share, false, "a share from 0 to 1"},
    [FIELD_RANK] = {"rank", read_rank, false, "a number from 0 to 32768, or fill"},
    [FIELD_RECOVER] = {"recover", read_half, false, "a share from 0 to 0.5"},
    [FIELD_WITHIN_BITS] = {"within_bits", read_within_bits, true, "a number from 0.01 to 64"},
    [FIELD_WITHIN_BYTES] = {"within_bytes", read_within_bytes, true, "a whole number from 1 on"},
    [FIELD_SENSITIVITY] = {"sensitivity", read_sensitivity, true, "a number from 0 on"},
};

/* --- structure ------------------------------------------------------------------------------- */

typedef enum shape_i {
    SHAPE_NEURONS,
    SHAPE_GROUPS,
    SHAPE_QUERIES,
    SHAPE_BY,
    SHAPE_REFIT,
    SHAPE_MULTIPLE,
    SHAPES
} shape_i;

static bool read_some(const char *word, double *ret)
{
    return read_number(word, 0, 0.95, false, ret);
}

static bool read_either(const char *word, const char *no, const char *yes, double *ret)
{
    *ret = strcmp(word, yes) == 0 ? 1 : 0;
    return *ret > 0 || strcmp(word, no) == 0;
}

static bool read_by(const char *word, double *ret)
{
    return read_either(word, "output", "gradient", ret);
}

static bool read_flag(const char *word, double *ret)
{
    return read_either(word, "false", "true", ret);
}

static bool read_multiple(const char *word, double *ret)
{
    return read_number(word, 1, 256, true, ret);
}

static const struct {
    const char *name;
    bool (*read)(const char *word, double *ret);
    double fallback;
    const char *expected;
} shapes[SHAPES] = {
    [SHAPE_NEURONS] = {"neurons", read_some, 0, "a share from 0 to 0.95"},
    [SHAPE_GROUPS] = {"groups", read_some, 0, "a share from 0 to 0.95"},
    [SHAPE_QUERIES] = {"queries", read_some, 0, "a share from 0 to 0.95"},
    [SHAPE_BY] = {"by", read_by, 0, "output or gradient"},
    [SHAPE_REFIT] = {"refit", read_flag, 1, "true or false"},
    [SHAPE_MULTIPLE] = {"multiple", read_multiple, 32, "a whole number from 1 to 256"},
};

/* --- the walk along the file ----------------------------------------------------------------- */

/* A rule as far as it has been read. */
typedef struct draft {
    forge_recipe_rule rule;
    values fields[FIELDS];
} draft;

typedef struct parse {
    const char *source;
    forge_recipe *recipe;
    draft *drafts; /* (FORGE_RECIPE_RULES_MAX) */
    size_t outer_lines[3];
    double shapes[SHAPES];
    size_t shape_lines[SHAPES]; /* 0: not said */
} parse;

static shoal_status refuse(const parse *p, size_t line, const char *key, const char *what,
                           shoal_err *err)
{
    /* A long path keeps its end, which names the file. */
    size_t n = strlen(p->source);
    const char *source = n > SOURCE_MAX ? p->source + (n - SOURCE_MAX) : p->source;
    return shoal_err_set(err, SHOAL_E_INVALID, "%s:%zu: %.70s: %s", source, line, key, what);
}

/* The next word between commas, without blanks around it; false: it is empty or too long. */
static bool next_word(const char **at, const char *end, char ret_word[WORD_MAX])
{
    const char *begin = *at;
    const char *comma = memchr(begin, ',', (size_t)(end - begin));
    const char *stop = comma ? comma : end;
    *at = comma ? comma + 1 : NULL;
    while (begin < stop && (*begin == ' ' || *begin == '\t')) {
        begin++;
    }
    while (stop > begin && (stop[-1] == ' ' || stop[-1] == '\t')) {
        stop--;
    }
    size_t n = (size_t)(stop - begin);
    if (n == 0 || n >= WORD_MAX || memchr(begin, 0, n)) {
        return false;
    }
    memcpy(ret_word, begin, n);
    ret_word[n] = 0;
    return true;
}

static shoal_status read_values(const parse *p, const shoal_config_pair *pair, field_i field,
                                values *v, shoal_err *err)
{
    char word[WORD_MAX];
    char what[160];
    const char *at = pair->text;
    for (v->n = 0; at; v->n++) {
        if (v->n == (fields[field].single ? 1 : FORGE_RECIPE_VALUES_MAX)) {
            (void)snprintf(what, sizeof what, "more than %zu values", v->n);
            return refuse(p, pair->line, pair->key, what, err);
        }
        if (!next_word(&at, pair->text + pair->n, word) || !fields[field].read(word, &v->x[v->n])) {
            (void)snprintf(what, sizeof what, "expected %s", fields[field].expected);
            return refuse(p, pair->line, pair->key, what, err);
        }
    }
    return SHOAL_OK;
}

/* Patterns, with single spaces between them. */
static shoal_status read_patterns(const parse *p, const shoal_config_pair *pair,
                                  forge_recipe_rule *rule, shoal_err *err)
{
    size_t n = 0;
    if (pair->n >= sizeof rule->patterns) {
        return refuse(p, pair->line, pair->key, "longer than 511 bytes", err);
    }
    for (size_t i = 0; i < pair->n; i++) {
        unsigned char c = (unsigned char)pair->text[i];
        bool blank = c == ' ' || c == ',' || c == '\t' || c == '\n';
        if (!blank && (c <= 0x20 || c > 0x7E)) {
            return refuse(p, pair->line, pair->key, "patterns are printable ASCII", err);
        }
        if (!blank) {
            rule->patterns[n++] = (char)c;
        } else if (n > 0 && rule->patterns[n - 1] != ' ') {
            rule->patterns[n++] = ' ';
        }
    }
    n -= n > 0 && rule->patterns[n - 1] == ' ';
    rule->patterns[n] = 0;
    return n > 0 ? SHOAL_OK : refuse(p, pair->line, pair->key, "names no layers", err);
}

static draft *find_draft(parse *p, const char *name, size_t n)
{
    for (size_t i = 0; i < p->recipe->n_rules; i++) {
        const char *known = p->drafts[i].rule.name;
        if (strlen(known) == n && memcmp(known, name, n) == 0) {
            return &p->drafts[i];
        }
    }
    return NULL;
}

static shoal_status on_rule(parse *p, const shoal_config_pair *pair, const char *name,
                            shoal_err *err)
{
    const char *dot = strchr(name, '.');
    size_t n = dot ? (size_t)(dot - name) : 0;
    size_t field = 0;
    while (dot && field < FIELDS && strcmp(dot + 1, fields[field].name) != 0) {
        field++;
    }
    if (!dot || field == FIELDS) {
        return refuse(p, pair->line, pair->key,
                      "unknown key; a rule has layers, pass, type, bits, group, mask, density, "
                      "rank, recover, within_bits, within_bytes, sensitivity",
                      err);
    }
    if (n == 0 || n >= FORGE_RECIPE_NAME_MAX) {
        return refuse(p, pair->line, pair->key, "a rule's name has 1 to 63 bytes", err);
    }
    draft *d = find_draft(p, name, n);
    if (!d) {
        if (p->recipe->n_rules == FORGE_RECIPE_RULES_MAX) {
            return refuse(p, pair->line, pair->key, "more than 64 rules", err);
        }
        d = &p->drafts[p->recipe->n_rules++];
        memcpy(d->rule.name, name, n);
        d->rule.line = pair->line;
    }
    values *v = &d->fields[field];
    if (v->line > 0) {
        char what[64];
        (void)snprintf(what, sizeof what, "already set on line %zu", v->line);
        return refuse(p, pair->line, pair->key, what, err);
    }
    v->line = pair->line;
    return field == FIELD_LAYERS ? read_patterns(p, pair, &d->rule, err)
                                 : read_values(p, pair, (field_i)field, v, err);
}

static shoal_status on_shape(parse *p, const shoal_config_pair *pair, const char *name,
                             shoal_err *err)
{
    char word[WORD_MAX];
    char what[64];
    const char *at = pair->text;
    size_t i = 0;
    while (i < SHAPES && strcmp(name, shapes[i].name) != 0) {
        i++;
    }
    if (i == SHAPES) {
        return refuse(p, pair->line, pair->key,
                      "unknown key; a structure has neurons, groups, queries, by, refit, multiple",
                      err);
    }
    if (p->shape_lines[i] > 0) {
        (void)snprintf(what, sizeof what, "already set on line %zu", p->shape_lines[i]);
        return refuse(p, pair->line, pair->key, what, err);
    }
    p->shape_lines[i] = pair->line;
    if (!next_word(&at, pair->text + pair->n, word) || at || !shapes[i].read(word, &p->shapes[i])) {
        (void)snprintf(what, sizeof what, "expected %s", shapes[i].expected);
        return refuse(p, pair->line, pair->key, what, err);
    }
    return SHOAL_OK;
}

static shoal_status on_pair(void *ctx, const shoal_config_pair *pair, shoal_err *err)
{
    static const char rules[] = "rules.";
    static const char structure[] = "structure.";
    static const char *const outer[] = {"embedding", "output", "rest"};
    parse *p = ctx;
    forge_recipe_form *const targets[] = {&p->recipe->embedding, &p->recipe->output,
                                          &p->recipe->rest};
    if (strncmp(pair->key, rules, sizeof rules - 1) == 0) {
        return on_rule(p, pair, pair->key + sizeof rules - 1, err);
    }
    if (strncmp(pair->key, structure, sizeof structure - 1) == 0) {
        return on_shape(p, pair, pair->key + sizeof structure - 1, err);
    }
    for (size_t i = 0; i < SHOAL_COUNT(outer); i++) {
        values v = {0};
        if (strcmp(pair->key, outer[i]) != 0) {
            continue;
        }
        if (p->outer_lines[i] > 0) {
            return refuse(p, pair->line, pair->key, "is set twice", err);
        }
        p->outer_lines[i] = pair->line;
        SHOAL_TRY(read_values(p, pair, FIELD_TYPE, &v, err));
        if (v.n != 1) {
            return refuse(p, pair->line, pair->key, "expected one type", err);
        }
        *targets[i] = (forge_recipe_form){.keep = v.x[0] == keep_word,
                                          .typed = v.x[0] != keep_word,
                                          .type = v.x[0] != keep_word ? (shoal_type)v.x[0] : 0};
        return SHOAL_OK;
    }
    return refuse(p, pair->line, pair->key,
                  "unknown key; a recipe has embedding, output, rest, structure and rules", err);
}

/* --- forms ----------------------------------------------------------------------------------- */

/* The fields that a pass looks at. */
static bool takes(shoal_pass pass, field_i field)
{
    bool svd = pass == SHOAL_PASS_SVD || pass == SHOAL_PASS_WHITENED_SVD;
    bool prunes =
        pass == SHOAL_PASS_MAGNITUDE || pass == SHOAL_PASS_WANDA || pass == SHOAL_PASS_SPARSEGPT;
    switch (field) {
    case FIELD_BITS:
    case FIELD_GROUP:
        return !svd;
    case FIELD_MASK:
    case FIELD_DENSITY:
        return prunes || pass == SHOAL_PASS_JOINT;
    case FIELD_RANK:
        return svd || pass == SHOAL_PASS_JOINT;
    case FIELD_RECOVER:
        return pass == SHOAL_PASS_WRP;
    case FIELD_LAYERS:
    case FIELD_PASS:
    case FIELD_TYPE:
    case FIELD_WITHIN_BITS:
    case FIELD_WITHIN_BYTES:
    case FIELD_SENSITIVITY:
    case FIELDS:
        break;
    }
    return true;
}

static shoal_status refuse_rule(const parse *p, const draft *d, field_i field, const char *what,
                                shoal_err *err)
{
    char key[FORGE_RECIPE_NAME_MAX + 32];
    size_t line = d->fields[field].line > 0 ? d->fields[field].line : d->rule.line;
    (void)snprintf(key, sizeof key, "rules.%s.%s", d->rule.name, fields[field].name);
    return refuse(p, line, key, what, err);
}

/* A field that is set must be of use to a pass of the rule. */
static shoal_status check_use(const parse *p, const draft *d, shoal_err *err)
{
    for (size_t f = FIELD_BITS; f <= FIELD_RECOVER; f++) {
        bool used = d->fields[f].n == 0;
        for (size_t i = 0; i < d->fields[FIELD_PASS].n; i++) {
            used = used || takes((shoal_pass)d->fields[FIELD_PASS].x[i], (field_i)f);
        }
        if (!used) {
            return refuse_rule(p, d, (field_i)f, "no pass of this rule looks at it", err);
        }
    }
    return SHOAL_OK;
}

static shoal_status add_form(const parse *p, draft *d, const forge_recipe_form *form,
                             shoal_err *err)
{
    if (d->rule.n_forms == FORGE_RECIPE_FORMS_MAX) {
        return refuse_rule(p, d, FIELD_PASS, "more than 256 forms: give fewer values", err);
    }
    d->rule.forms[d->rule.n_forms++] = *form;
    return SHOAL_OK;
}

/* What a pass does not take has one value, and what does not matter to a form only its first. */
static values values_for(const draft *d, shoal_pass pass, field_i field, double fallback)
{
    values one = {.x = {fallback}, .n = 1};
    return takes(pass, field) && d->fields[field].n > 0 ? d->fields[field] : one;
}

static shoal_status add_ranks(const parse *p, draft *d, const forge_recipe_form *base,
                              shoal_err *err)
{
    values densities = values_for(d, base->pass, FIELD_DENSITY, 1);
    values recovers = values_for(d, base->pass, FIELD_RECOVER, 0.05);
    values ranks = values_for(d, base->pass, FIELD_RANK, 0);
    size_t n_densities = base->form.mask == SHOAL_MASK_BITMAP ? densities.n : 1;
    for (size_t i = 0; i < n_densities * recovers.n * ranks.n; i++) {
        forge_recipe_form form = *base;
        double rank = ranks.x[i % ranks.n];
        form.fill = rank == fill_word;
        form.form.rank = form.fill ? 0 : (size_t)rank;
        form.form.recover = base->pass == SHOAL_PASS_WRP ? recovers.x[i / ranks.n % recovers.n] : 0;
        form.form.density =
            base->form.mask == SHOAL_MASK_BITMAP ? densities.x[i / ranks.n / recovers.n] : 1;
        SHOAL_TRY(add_form(p, d, &form, err));
    }
    return SHOAL_OK;
}

/* What a pass cannot do without. */
static shoal_status check_pass(const parse *p, const draft *d, shoal_pass pass, shoal_err *err)
{
    bool bitmap =
        pass == SHOAL_PASS_MAGNITUDE || pass == SHOAL_PASS_WANDA || pass == SHOAL_PASS_SPARSEGPT;
    for (size_t i = 0; i < d->fields[FIELD_MASK].n; i++) {
        if (bitmap && d->fields[FIELD_MASK].x[i] == SHOAL_MASK_ALL) {
            return refuse_rule(p, d, FIELD_MASK, "a pass that prunes has a bitmap or 2:4", err);
        }
    }
    if (takes(pass, FIELD_BITS) && d->fields[FIELD_BITS].n == 0) {
        return refuse_rule(p, d, FIELD_BITS, "this pass needs it", err);
    }
    if (!takes(pass, FIELD_BITS) && d->fields[FIELD_RANK].n == 0) {
        return refuse_rule(p, d, FIELD_RANK, "this pass needs it", err);
    }
    return SHOAL_OK;
}

static shoal_status add_pass(const parse *p, draft *d, shoal_pass pass, shoal_err *err)
{
    bool prunes =
        pass == SHOAL_PASS_MAGNITUDE || pass == SHOAL_PASS_WANDA || pass == SHOAL_PASS_SPARSEGPT;
    bool fours = pass == SHOAL_PASS_TWO_FOUR || pass == SHOAL_PASS_WRP;
    bool rounds = pass == SHOAL_PASS_RTN || pass == SHOAL_PASS_AWQ || pass == SHOAL_PASS_SMOOTH ||
                  pass == SHOAL_PASS_CLIP || pass == SHOAL_PASS_GPTQ ||
                  pass == SHOAL_PASS_REFINED || pass == SHOAL_PASS_CODEBOOK;
    double mask = prunes ? SHOAL_MASK_BITMAP : fours ? SHOAL_MASK_TWO_FOUR : SHOAL_MASK_ALL;
    values bits = values_for(d, pass, FIELD_BITS, 0);
    values groups = values_for(d, pass, FIELD_GROUP, 32);
    values masks = values_for(d, pass, FIELD_MASK, mask);
    SHOAL_TRY(check_pass(p, d, pass, err));
    for (size_t b = 0; b < bits.n; b++) {
        if (rounds && bits.x[b] > 8) {
            continue; /* there is nothing to round in f16 */
        }
        size_t n_groups = bits.x[b] > 8 || bits.x[b] < 2 ? 1 : groups.n;
        for (size_t i = 0; i < n_groups * masks.n; i++) {
            const forge_recipe_form base = {.pass = pass,
                                            .form = {.bits = (size_t)bits.x[b],
                                                     .group = (size_t)groups.x[i / masks.n],
                                                     .mask = (shoal_mask)masks.x[i % masks.n]}};
            bool bitmap = base.form.mask == SHOAL_MASK_BITMAP;
            if (bitmap && d->fields[FIELD_DENSITY].n == 0) {
                return refuse_rule(p, d, FIELD_DENSITY, "a bitmap needs it", err);
            }
            SHOAL_TRY(add_ranks(p, d, &base, err));
        }
    }
    return SHOAL_OK;
}

static shoal_status finish_rule(const parse *p, draft *d, shoal_err *err)
{
    forge_recipe_rule *r = &d->rule;
    const values *f = d->fields;
    r->forms = shoal_calloc(FORGE_RECIPE_FORMS_MAX, sizeof *r->forms);
    if (!r->forms) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory", p->source);
    }
    if (f[FIELD_LAYERS].line == 0) {
        return refuse_rule(p, d, FIELD_LAYERS, "is missing", err);
    }
    if (f[FIELD_PASS].n == 0 && f[FIELD_TYPE].n == 0) {
        return refuse_rule(p, d, FIELD_PASS, "is missing, and there is no type", err);
    }
    SHOAL_TRY(check_use(p, d, err));
    for (size_t i = 0; i < f[FIELD_PASS].n; i++) {
        SHOAL_TRY(add_pass(p, d, (shoal_pass)f[FIELD_PASS].x[i], err));
    }
    if (f[FIELD_PASS].n > 0 && r->n_forms == 0) {
        return refuse_rule(p, d, FIELD_BITS, "its passes make 2 to 8", err);
    }
    for (size_t i = 0; i < f[FIELD_TYPE].n; i++) {
        bool keep = f[FIELD_TYPE].x[i] == keep_word;
        const forge_recipe_form form = {
            .keep = keep, .typed = !keep, .type = keep ? 0 : (shoal_type)f[FIELD_TYPE].x[i]};
        SHOAL_TRY(add_form(p, d, &form, err));
    }
    r->within_bits = f[FIELD_WITHIN_BITS].n ? f[FIELD_WITHIN_BITS].x[0] : 0;
    r->within_bytes = f[FIELD_WITHIN_BYTES].n ? (uint64_t)f[FIELD_WITHIN_BYTES].x[0] : 0;
    r->sensitivity = f[FIELD_SENSITIVITY].n ? f[FIELD_SENSITIVITY].x[0] : 1;
    if (r->within_bits > 0 && r->within_bytes > 0) {
        return refuse_rule(p, d, FIELD_WITHIN_BYTES, "within_bits is set too: one of them", err);
    }
    for (size_t i = 0; i < r->n_forms; i++) {
        if (r->forms[i].fill && r->within_bits <= 0 && r->within_bytes == 0) {
            return refuse_rule(p, d, FIELD_RANK, "fill needs within_bits or within_bytes", err);
        }
    }
    return SHOAL_OK;
}

static double shape_of(const parse *p, shape_i i)
{
    return p->shape_lines[i] > 0 ? p->shapes[i] : shapes[i].fallback;
}

static shoal_status finish_structure(const parse *p, shoal_err *err)
{
    size_t line = 0;
    p->recipe->structure =
        (forge_recipe_structure){.neurons = shape_of(p, SHAPE_NEURONS),
                                 .groups = shape_of(p, SHAPE_GROUPS),
                                 .queries = shape_of(p, SHAPE_QUERIES),
                                 .gradient = shape_of(p, SHAPE_BY) > 0,
                                 .refit = shape_of(p, SHAPE_REFIT) > 0,
                                 .multiple = (size_t)shape_of(p, SHAPE_MULTIPLE)};
    for (size_t i = 0; i < SHAPES; i++) {
        line = SHOAL_MAX(line, p->shape_lines[i]);
    }
    if (line > 0 && !shoal_forge_recipe_prunes(p->recipe)) {
        return refuse(p, line, "structure", "nothing goes: set neurons, groups or queries", err);
    }
    if (p->recipe->structure.groups > 0 && p->recipe->structure.queries > 0) {
        return refuse(p, p->shape_lines[SHAPE_QUERIES], "structure.queries",
                      "groups is set too: one of them", err);
    }
    return SHOAL_OK;
}

/* --- the object ------------------------------------------------------------------------------ */

static void parse_fini(parse *p)
{
    for (size_t i = 0; p->drafts && p->recipe && i < p->recipe->n_rules; i++) {
        shoal_free(p->drafts[i].rule.forms);
    }
    shoal_free(p->drafts);
    shoal_free(p->recipe);
}

shoal_status shoal_forge_recipe_parse(const char *source, const char *text, size_t n,
                                      forge_recipe **ret_recipe, shoal_err *err)
{
    const forge_recipe_form keep = {.keep = true};
    SHOAL_CLEANUP(parse_fini) parse p = {.source = source};
    p.recipe = shoal_calloc(1, sizeof *p.recipe);
    p.drafts = shoal_calloc(FORGE_RECIPE_RULES_MAX, sizeof *p.drafts);
    forge_recipe_rule *rules = NULL;
    if (!p.recipe || !p.drafts || shoal_hash_of(text, n, &p.recipe->hash) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory", source);
    }
    p.recipe->embedding = p.recipe->output = p.recipe->rest = keep;
    SHOAL_TRY(shoal_config_parse_yaml(source, text, n, on_pair, &p, err));
    SHOAL_TRY(finish_structure(&p, err));
    for (size_t i = 0; i < p.recipe->n_rules; i++) {
        SHOAL_TRY(finish_rule(&p, &p.drafts[i], err));
    }
    rules = shoal_calloc(p.recipe->n_rules, sizeof *rules);
    if (!rules) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory", source);
    }
    for (size_t i = 0; i < p.recipe->n_rules; i++) {
        rules[i] = p.drafts[i].rule;
    }
    p.recipe->rules = rules;
    *ret_recipe = SHOAL_STEAL(p.recipe);
    return SHOAL_OK;
}

shoal_status shoal_forge_recipe_load(const char *path, forge_recipe **ret_recipe, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_file_read(path, SHOAL_CONFIG_FILE_MAX, &text, err));
    return shoal_forge_recipe_parse(path, text.data ? text.data : "", text.length, ret_recipe, err);
}

void shoal_forge_recipe_free(forge_recipe *recipe)
{
    if (recipe) {
        for (size_t i = 0; i < recipe->n_rules; i++) {
            shoal_free(recipe->rules[i].forms);
        }
        shoal_free(recipe->rules);
        shoal_free(recipe);
    }
}

/* * is any run of characters, ? any one. The last * that was passed is the only one to go back to.
 */
static bool fits(const char *pattern, size_t n_pattern, shoal_str name)
{
    size_t p = 0;
    size_t star = SIZE_MAX;
    size_t resume = 0;
    for (size_t i = 0; i < name.length;) {
        if (p < n_pattern && pattern[p] == '*') {
            star = p++;
            resume = i;
        } else if (p < n_pattern && (pattern[p] == '?' || pattern[p] == name.data[i])) {
            p++;
            i++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            i = ++resume;
        } else {
            return false;
        }
    }
    while (p < n_pattern && pattern[p] == '*') {
        p++;
    }
    return p == n_pattern;
}

const forge_recipe_rule *shoal_forge_recipe_find(const forge_recipe *recipe, shoal_str name)
{
    for (size_t i = 0; i < recipe->n_rules; i++) {
        for (const char *at = recipe->rules[i].patterns; *at;) {
            size_t n = strcspn(at, " ");
            if (fits(at, n, name)) {
                return &recipe->rules[i];
            }
            at += n + (at[n] == ' ');
        }
    }
    return NULL;
}

void shoal_forge_recipe_describe(const forge_recipe_form *f, char *ret_text, size_t n_text)
{
    static const char *const masks[] = {"", " bitmap", " 2:4", " 16:32", " 8:32"};
    char bits[32] = "";
    char density[32] = "";
    char rank[32] = "";
    char recover[32] = "";
    if (f->keep || f->typed) {
        const shoal_type_info *info = f->keep ? NULL : shoal_type_find((uint32_t)f->type);
        (void)snprintf(ret_text, n_text, "%s", info ? info->name : "keep");
        return;
    }
    if (f->form.bits == SHOAL_COMPRESS_BITS_F16) {
        (void)snprintf(bits, sizeof bits, " f16");
    } else if (f->form.bits > 0) {
        (void)snprintf(bits, sizeof bits, " %zu bits/%zu", f->form.bits, f->form.group);
    }
    if (f->form.bits > 0 && f->form.mask == SHOAL_MASK_BITMAP) {
        (void)snprintf(density, sizeof density, " %g", f->form.density);
    }
    if (f->form.rank > 0) {
        (void)snprintf(rank, sizeof rank, " rank %zu", f->form.rank);
    }
    if (f->form.recover > 0) {
        (void)snprintf(recover, sizeof recover, " recover %g", f->form.recover);
    }
    (void)snprintf(ret_text, n_text, "%s%s%s%s%s%s", shoal_pass_name(f->pass), bits,
                   f->form.bits > 0 ? masks[f->form.mask] : "", density, rank, recover);
}
