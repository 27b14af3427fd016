/* SPDX-License-Identifier: Apache-2.0
 *
 * The text of a manifest. One form for one content: words with one space between them, numbers
 * without leading zeros, lines in a fixed order, so that what is signed cannot be read in two ways.
 */
#include "protocol/bundle/bundle.h"

#include "common/base/mem.h"
#include "common/base/name.h"

#include <inttypes.h>
#include <string.h>

enum {
    PROGRAM_MAX = 9999,
    ID_MAX = 1 << 24
};

static const char *const role_names[SHOAL_BUNDLE_ROLES] = {"model", "adapter", "prefix"};
static const size_t role_most[SHOAL_BUNDLE_ROLES] = {1, 1, SHOAL_BUNDLE_FILES_MAX};

const char *shoal_bundle_role_name(shoal_bundle_role role)
{
    return role_names[role];
}

/* --- words ------------------------------------------------------------------------------------ */

typedef struct word {
    const char *at;
    size_t n;
} word;

/* What is left of a text, and where that is. */
typedef struct reader {
    const char *at;
    const char *end;
    size_t line; /* from 1 */
    shoal_err *err;
} reader;

static shoal_status refuse(const reader *r, const char *expected)
{
    return shoal_err_set(r->err, SHOAL_E_INVALID, "manifest line %zu: %s is expected", r->line,
                         expected);
}

/* The next word and what ends it, ' ' or '\n'. */
static bool take_word(reader *r, char ends, word *ret_word)
{
    const char *at = r->at;
    while (at<r->end && * at> ' ' && *at < 0x7f) {
        at++;
    }
    if (at == r->at || at == r->end || *at != ends) {
        return false;
    }
    *ret_word = (word){r->at, (size_t)(at - r->at)};
    r->at = at + 1;
    r->line += ends == '\n' ? 1 : 0;
    return true;
}

static bool word_is(word w, const char *text)
{
    return w.n == strlen(text) && memcmp(w.at, text, w.n) == 0;
}

/* Digits without leading zeros, at most max. */
static bool parse_number(word w, uint64_t max, uint64_t *ret_x)
{
    uint64_t x = 0;
    if (w.n == 0 || w.n > 16 || (w.n > 1 && w.at[0] == '0')) {
        return false;
    }
    for (size_t i = 0; i < w.n; i++) {
        if (w.at[i] < '0' || w.at[i] > '9') {
            return false;
        }
        x = x * 10 + (uint64_t)(w.at[i] - '0');
    }
    *ret_x = x;
    return x <= max;
}

/* A name that is a file in its folder and nothing else: no separator, not hidden, not our own. */
static bool parse_name(word w, char ret_name[SHOAL_BUNDLE_NAME_MAX + 1])
{
    if (!shoal_name_ok(w.at, w.n, SHOAL_BUNDLE_NAME_MAX) || w.at[0] == '.' || w.at[0] == '-') {
        return false;
    }
    memcpy(ret_name, w.at, w.n);
    ret_name[w.n] = '\0';
    return true;
}

static bool parse_hash(word w, shoal_hash *ret_hash)
{
    if (w.n != SHOAL_HASH_HEX - 1) {
        return false;
    }
    memset(ret_hash, 0, sizeof *ret_hash);
    for (size_t i = 0; i < w.n; i++) {
        char c = w.at[i];
        bool digit = c >= '0' && c <= '9';
        if (!digit && !(c >= 'a' && c <= 'f')) {
            return false;
        }
        int value = digit ? c - '0' : c - 'a' + 10;
        ret_hash->bytes[i / 2] = (uint8_t)(ret_hash->bytes[i / 2] << 4 | value);
    }
    return true;
}

static bool parse_program(word w, uint32_t ret_program[3])
{
    for (size_t i = 0; i < 3; i++) {
        uint64_t x = 0;
        const char *dot = i < 2 ? memchr(w.at, '.', w.n) : w.at + w.n;
        if (!dot || !parse_number((word){w.at, (size_t)(dot - w.at)}, PROGRAM_MAX, &x)) {
            return false;
        }
        size_t used = (size_t)(dot - w.at) + (i < 2 ? 1 : 0);
        w = (word){w.at + used, w.n - used};
        ret_program[i] = (uint32_t)x;
    }
    return true;
}

shoal_status shoal_bundle_program_parse(const char *text, uint32_t ret_program[3])
{
    return parse_program((word){text, strlen(text)}, ret_program) ? SHOAL_OK : SHOAL_E_INVALID;
}

static bool parse_ids(word w, size_t n_max, int32_t *ret_ids, size_t *ret_n)
{
    size_t n = 0;
    for (;;) {
        uint64_t id = 0;
        const char *comma = memchr(w.at, ',', w.n);
        size_t used = comma ? (size_t)(comma - w.at) : w.n;
        if (n == n_max || !parse_number((word){w.at, used}, ID_MAX - 1, &id)) {
            return false;
        }
        ret_ids[n++] = (int32_t)id;
        if (!comma) {
            break;
        }
        w = (word){comma + 1, w.n - used - 1};
    }
    *ret_n = n;
    return true;
}

/* --- lines ------------------------------------------------------------------------------------ */

/* "key value" where the value is all of the rest. */
static bool take_pair(reader *r, const char *key, word *ret_value)
{
    word name;
    return take_word(r, ' ', &name) && word_is(name, key) && take_word(r, '\n', ret_value);
}

static shoal_status take_head(reader *r, shoal_bundle *b)
{
    word w;
    if (!take_pair(r, "shoal-bundle", &w) || !word_is(w, "1")) {
        r->line = 1;
        return refuse(r, "\"shoal-bundle 1\"");
    }
    size_t line = r->line;
    if (!take_pair(r, "family", &w) || !parse_name(w, b->family)) {
        r->line = line;
        return refuse(r, "\"family\" and a name of 1 to 64 letters, digits, '.', '_' and '-'");
    }
    line = r->line;
    if (!take_pair(r, "version", &w) || !parse_name(w, b->version)) {
        r->line = line;
        return refuse(r, "\"version\" and a name of 1 to 64 letters, digits, '.', '_' and '-'");
    }
    line = r->line;
    if (!take_pair(r, "serial", &w) || !parse_number(w, SHOAL_BUNDLE_SERIAL_MAX, &b->serial) ||
        b->serial == 0) {
        r->line = line;
        return refuse(r, "\"serial\" and a number from 1 to 2^53");
    }
    line = r->line;
    if (!take_pair(r, "program", &w) || !parse_program(w, b->program)) {
        r->line = line;
        return refuse(r, "\"program\" and a version as 1.2.3");
    }
    return SHOAL_OK;
}

/* Whether a line begins so; nothing is taken. */
static bool begins(const reader *r, const char *key)
{
    size_t n = strlen(key);
    return (size_t)(r->end - r->at) > n && memcmp(r->at, key, n) == 0 && r->at[n] == ' ';
}

static bool parse_role(word w, shoal_bundle_role *ret_role)
{
    for (size_t i = 0; i < SHOAL_BUNDLE_ROLES; i++) {
        if (word_is(w, role_names[i])) {
            *ret_role = (shoal_bundle_role)i;
            return true;
        }
    }
    return false;
}

static bool is_own_name(const char *name)
{
    return strcmp(name, SHOAL_BUNDLE_MANIFEST) == 0 || strcmp(name, SHOAL_BUNDLE_SIGNATURE) == 0;
}

/* In the order of roles, and none twice. */
static const char *check_file(const shoal_bundle *b, const shoal_bundle_file *f)
{
    size_t n_role = 0;
    for (size_t i = 0; i < b->n_files; i++) {
        n_role += b->files[i].role == f->role;
        if (strcmp(b->files[i].name, f->name) == 0) {
            return "a name that no other file has";
        }
    }
    if (is_own_name(f->name)) {
        return "a name that is not the manifest's or its signature's";
    }
    if (b->n_files > 0 && b->files[b->n_files - 1].role > f->role) {
        return "the order model, adapter, prefix";
    }
    if (n_role >= role_most[f->role]) {
        return "one model, and at most one adapter,";
    }
    return NULL;
}

static shoal_status take_file(reader *r, shoal_bundle *b)
{
    word key;
    word role;
    word name;
    word size;
    word hash;
    shoal_bundle_file f = {0};
    size_t line = r->line;
    bool fine = take_word(r, ' ', &key) && take_word(r, ' ', &role) && take_word(r, ' ', &name) &&
                take_word(r, ' ', &size) && take_word(r, '\n', &hash);
    fine = fine && parse_role(role, &f.role) && parse_name(name, f.name) &&
           parse_number(size, SHOAL_BUNDLE_FILE_BYTES_MAX, &f.n_bytes) && f.n_bytes > 0 &&
           parse_hash(hash, &f.hash);
    size_t next = r->line;
    r->line = line;
    if (!fine) {
        return refuse(r, "\"file\", model, adapter or prefix, a name of 1 to 64 letters, digits, "
                         "'.', '_' and '-', 1 to 2^40 bytes, and a SHA-256");
    }
    const char *wrong = check_file(b, &f);
    if (wrong) {
        return refuse(r, wrong);
    }
    if (b->n_files == SHOAL_BUNDLE_FILES_MAX) {
        return shoal_err_set(r->err, SHOAL_E_LIMIT,
                             "manifest line %zu: a bundle has at most %d files", line,
                             (int)SHOAL_BUNDLE_FILES_MAX);
    }
    r->line = next;
    b->files[b->n_files++] = f;
    return SHOAL_OK;
}

static shoal_status take_test(reader *r, shoal_bundle *b)
{
    word key;
    word ids;
    word answer;
    size_t line = r->line;
    if (b->n_tests == SHOAL_BUNDLE_TESTS_MAX) {
        return shoal_err_set(r->err, SHOAL_E_LIMIT,
                             "manifest line %zu: a bundle has at most %d tests", line,
                             (int)SHOAL_BUNDLE_TESTS_MAX);
    }
    shoal_bundle_test *t = &b->tests[b->n_tests];
    bool fine = take_word(r, ' ', &key) && take_word(r, ' ', &ids) && take_word(r, '\n', &answer) &&
                parse_ids(ids, SHOAL_BUNDLE_TEST_IDS_MAX, t->ids, &t->n_ids) &&
                parse_ids(answer, SHOAL_BUNDLE_TEST_ANSWER_MAX, t->answer, &t->n_answer);
    if (!fine) {
        r->line = line;
        return refuse(r, "\"test\", 1 to 512 token ids as 1,2,3 and 1 to 128 that follow them");
    }
    b->n_tests++;
    return SHOAL_OK;
}

static shoal_status take_all(reader *r, shoal_bundle *b)
{
    SHOAL_TRY(take_head(r, b));
    while (begins(r, "file")) {
        SHOAL_TRY(take_file(r, b));
    }
    if (b->n_files == 0 || b->files[0].role != SHOAL_BUNDLE_MODEL) {
        return refuse(r, "\"file model\"");
    }
    while (begins(r, "test")) {
        SHOAL_TRY(take_test(r, b));
    }
    if (b->n_tests == 0) {
        return refuse(r, "\"test\"");
    }
    return r->at == r->end ? SHOAL_OK : refuse(r, "the end");
}

shoal_status shoal_bundle_parse(const void *text, size_t n, shoal_bundle **ret_bundle,
                                shoal_err *err)
{
    if (n == 0 || n > SHOAL_BUNDLE_MANIFEST_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "a manifest has 1 to %d bytes, this one has %zu",
                             (int)SHOAL_BUNDLE_MANIFEST_MAX, n);
    }
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *b = shoal_calloc(1, sizeof *b);
    if (!b) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a manifest");
    }
    reader r = {.at = text, .end = (const char *)text + n, .line = 1, .err = err};
    SHOAL_TRY(take_all(&r, b));
    *ret_bundle = SHOAL_STEAL(b);
    return SHOAL_OK;
}

void shoal_bundle_free(shoal_bundle *bundle)
{
    shoal_free(bundle);
}

/* --- the same as text ------------------------------------------------------------------------- */

static shoal_status put_ids(shoal_buf *buf, const int32_t *ids, size_t n, char ends)
{
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%" PRId32 "%c", ids[i], i + 1 < n ? ',' : ends));
    }
    return SHOAL_OK;
}

static shoal_status put_all(const shoal_bundle *b, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "shoal-bundle 1\nfamily %s\nversion %s\nserial %" PRIu64 "\n",
                                b->family, b->version, b->serial));
    SHOAL_TRY(shoal_buf_appendf(buf, "program %" PRIu32 ".%" PRIu32 ".%" PRIu32 "\n", b->program[0],
                                b->program[1], b->program[2]));
    for (size_t i = 0; i < b->n_files; i++) {
        char hex[SHOAL_HASH_HEX];
        const shoal_bundle_file *f = &b->files[i];
        shoal_hash_hex(&f->hash, hex);
        SHOAL_TRY(shoal_buf_appendf(buf, "file %s %s %" PRIu64 " %s\n", role_names[f->role],
                                    f->name, f->n_bytes, hex));
    }
    for (size_t i = 0; i < b->n_tests; i++) {
        SHOAL_TRY(shoal_buf_append(buf, "test ", 5));
        SHOAL_TRY(put_ids(buf, b->tests[i].ids, b->tests[i].n_ids, ' '));
        SHOAL_TRY(put_ids(buf, b->tests[i].answer, b->tests[i].n_answer, '\n'));
    }
    return SHOAL_OK;
}

shoal_status shoal_bundle_print(const shoal_bundle *bundle, shoal_buf *buf, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {.limit = SHOAL_BUNDLE_MANIFEST_MAX};
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *again = NULL;
    shoal_status status = put_all(bundle, &text);
    if (status == SHOAL_OK) {
        status = shoal_bundle_parse(text.data, text.length, &again, err);
    }
    if (status == SHOAL_OK) {
        status = shoal_buf_append(buf, text.data, text.length);
    }
    return status == SHOAL_OK
               ? status
               : shoal_err_set(err, status, "the manifest would be longer than %d bytes",
                               (int)SHOAL_BUNDLE_MANIFEST_MAX);
}

const shoal_bundle_file *shoal_bundle_find(const shoal_bundle *bundle, shoal_bundle_role role,
                                           size_t i)
{
    for (size_t f = 0; f < bundle->n_files; f++) {
        if (bundle->files[f].role == role && i-- == 0) {
            return &bundle->files[f];
        }
    }
    return NULL;
}

/* --- whether it may be taken ------------------------------------------------------------------ */

shoal_status shoal_bundle_admit(const shoal_bundle *bundle, const char *family,
                                uint64_t serial_have, const uint32_t program[3], shoal_err *err)
{
    if (family[0] && strcmp(family, bundle->family) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "the bundle is of family %s and this edge takes %s (bundle.family)",
                             bundle->family, family);
    }
    if (bundle->serial <= serial_have) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "the bundle has serial %" PRIu64 " and this edge has had %" PRIu64
                             ": to go back, sign the older model under a higher serial",
                             bundle->serial, serial_have);
    }
    for (size_t i = 0; i < 3 && program[i] <= bundle->program[i]; i++) {
        if (program[i] < bundle->program[i]) {
            return shoal_err_set(err, SHOAL_E_MISMATCH,
                                 "the bundle needs shoal-edge %" PRIu32 ".%" PRIu32 ".%" PRIu32
                                 " and this is %" PRIu32 ".%" PRIu32 ".%" PRIu32
                                 ": install the newer program first",
                                 bundle->program[0], bundle->program[1], bundle->program[2],
                                 program[0], program[1], program[2]);
        }
    }
    return SHOAL_OK;
}
