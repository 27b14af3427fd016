/* SPDX-License-Identifier: Apache-2.0 */
#include "common/exit/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_MAX = SHOAL_EXIT_PREFIX_MAX + 16
};

void shoal_exit_prefix(size_t layers, char ret_prefix[SHOAL_EXIT_PREFIX_MAX])
{
    (void)snprintf(ret_prefix, SHOAL_EXIT_PREFIX_MAX, "shoal.exit.policy.%zu", layers);
}

static void key_of(const char *prefix, const char *name, char key[KEY_MAX])
{
    (void)snprintf(key, KEY_MAX, "%s.%s", prefix, name);
}

shoal_status shoal_exit_set_read(const shoal_gguf *gguf, const char *prefix,
                                 shoal_exit_set *ret_set, shoal_err *err)
{
    shoal_exit_set set = {0};
    for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
        char key[KEY_MAX];
        char text[SHOAL_EXIT_TEXT_MAX] = {0};
        shoal_str value = {0};
        key_of(prefix, shoal_exit_kind_name((shoal_exit_kind)kind), key);
        shoal_status status = shoal_gguf_get_str(gguf, key, &value, NULL);
        if (status == SHOAL_E_NOTFOUND) {
            continue;
        }
        if (status != SHOAL_OK || value.length >= sizeof text) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "%s: a policy's text of 1 to %d bytes is "
                                 "expected",
                                 key, (int)SHOAL_EXIT_TEXT_MAX - 1);
        }
        memcpy(text, value.data, value.length);
        shoal_exit_policy *p = &set.policies[kind];
        status = shoal_exit_policy_parse(text, p, err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "%s", key);
            return status;
        }
        if (p->kind != (shoal_exit_kind)kind || strlen(text) != value.length) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "%s: holds \"%.40s\", a policy of its own "
                                 "kind is expected",
                                 key, text);
        }
        set.has[kind] = true;
    }
    *ret_set = set;
    return SHOAL_OK;
}

shoal_status shoal_exit_set_put(shoal_gguf_writer *writer, const char *prefix,
                                const shoal_exit_set *set)
{
    for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
        char key[KEY_MAX];
        char text[SHOAL_EXIT_TEXT_MAX];
        if (set->has[kind]) {
            key_of(prefix, shoal_exit_kind_name((shoal_exit_kind)kind), key);
            shoal_exit_policy_print(&set->policies[kind], text);
            SHOAL_TRY(shoal_gguf_put_str(writer, key, text));
        }
    }
    return SHOAL_OK;
}

/* --- thresholds of several risks -------------------------------------------------------------- */

enum {
    RISKS_TEXT_MAX = 32 * SHOAL_EXIT_RISKS_MAX
};

static bool read_number(const char **at, char mark, float *ret)
{
    char *end = NULL;
    *ret = strtof(*at, &end);
    if (end == *at || *end != mark) {
        return false;
    }
    *at = end + (mark != '\0');
    return true;
}

static bool read_risk(const char **at, shoal_exit_risks *r)
{
    size_t i = r->n;
    if (i == SHOAL_EXIT_RISKS_MAX || !read_number(at, '=', &r->risk[i]) ||
        !(read_number(at, ',', &r->threshold[i]) || read_number(at, '\0', &r->threshold[i]))) {
        return false;
    }
    r->n++;
    bool sound = r->risk[i] > 0 && r->risk[i] < 1 && r->threshold[i] >= 0 &&
                 r->threshold[i] <= SHOAL_EXIT_NEVER;
    return sound &&
           (i == 0 || (r->risk[i] > r->risk[i - 1] && r->threshold[i] <= r->threshold[i - 1]));
}

shoal_status shoal_exit_risks_read(const shoal_gguf *gguf, const char *prefix,
                                   shoal_exit_risks *ret_risks, shoal_err *err)
{
    char key[KEY_MAX];
    char text[RISKS_TEXT_MAX] = {0};
    shoal_str value = {0};
    shoal_exit_risks risks = {0};
    key_of(prefix, "risks", key);
    shoal_status status = shoal_gguf_get_str(gguf, key, &value, NULL);
    if (status == SHOAL_E_NOTFOUND) {
        *ret_risks = risks;
        return SHOAL_OK;
    }
    bool sound = status == SHOAL_OK && value.length > 0 && value.length < sizeof text &&
                 value.data[value.length - 1] != ',';
    if (sound) {
        memcpy(text, value.data, value.length);
    }
    const char *at = text;
    while (sound && *at != '\0') {
        sound = read_risk(&at, &risks);
    }
    if (!sound || (size_t)(at - text) != value.length) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: 1 to %d pairs risk=threshold, risks rising and thresholds not, "
                             "are expected",
                             key, (int)SHOAL_EXIT_RISKS_MAX);
    }
    *ret_risks = risks;
    return SHOAL_OK;
}

shoal_status shoal_exit_risks_put(shoal_gguf_writer *writer, const char *prefix,
                                  const shoal_exit_risks *risks)
{
    char key[KEY_MAX];
    char text[RISKS_TEXT_MAX];
    size_t n = 0;
    for (size_t i = 0; i < risks->n; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%.9g=%.9g", i > 0 ? "," : "",
                              (double)risks->risk[i], (double)risks->threshold[i]);
    }
    key_of(prefix, "risks", key);
    return risks->n > 0 ? shoal_gguf_put_str(writer, key, text) : SHOAL_OK;
}

/* --- what they were fitted to ---------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static shoal_status read_hash(const shoal_gguf *gguf, const char *prefix, const char *name,
                              shoal_hash *ret_hash, shoal_err *err)
{
    char key[KEY_MAX];
    shoal_str hex = {0};
    key_of(prefix, name, key);
    shoal_status status = shoal_gguf_get_str(gguf, key, &hex, NULL);
    bool sound = status == SHOAL_OK && hex.length == SHOAL_HASH_HEX - 1;
    for (size_t i = 0; sound && i < SHOAL_HASH_BYTES; i++) {
        int high = hex_digit(hex.data[2 * i]);
        int low = hex_digit(hex.data[2 * i + 1]);
        sound = high >= 0 && low >= 0;
        ret_hash->bytes[i] = (uint8_t)(sound ? high * 16 + low : 0);
    }
    if (!sound) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: 64 hexadecimal digits are expected", key);
    }
    return SHOAL_OK;
}

static shoal_status read_count(const shoal_gguf *gguf, const char *prefix, const char *name,
                               uint32_t *ret_count, shoal_err *err)
{
    char key[KEY_MAX];
    uint64_t value = 0;
    key_of(prefix, name, key);
    if (shoal_gguf_get_u64(gguf, key, &value, NULL) != SHOAL_OK || value < 1 ||
        value > UINT32_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: an integer from 1 to %u is expected", key,
                             UINT32_MAX);
    }
    *ret_count = (uint32_t)value;
    return SHOAL_OK;
}

static shoal_status read_share(const shoal_gguf *gguf, const char *prefix, const char *name,
                               float *ret_share, shoal_err *err)
{
    char key[KEY_MAX];
    double value = 0;
    key_of(prefix, name, key);
    if (shoal_gguf_get_f64(gguf, key, &value, NULL) != SHOAL_OK || !(value > 0 && value < 1)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: a number between 0 and 1 is expected", key);
    }
    *ret_share = (float)value;
    return SHOAL_OK;
}

shoal_status shoal_exit_calibration_read(const shoal_gguf *gguf, const char *prefix,
                                         shoal_exit_calibration *ret_calibration, shoal_err *err)
{
    shoal_exit_calibration c = {0};
    char key[KEY_MAX];
    shoal_str any = {0};
    key_of(prefix, "hash", key);
    if (shoal_gguf_get_str(gguf, key, &any, NULL) == SHOAL_E_NOTFOUND) {
        return SHOAL_E_NOTFOUND;
    }
    SHOAL_TRY(read_hash(gguf, prefix, "hash", &c.data, err));
    SHOAL_TRY(read_hash(gguf, prefix, "model", &c.subject, err));
    SHOAL_TRY(read_count(gguf, prefix, "n", &c.n, err));
    SHOAL_TRY(read_count(gguf, prefix, "tokens", &c.n_tokens, err));
    SHOAL_TRY(read_share(gguf, prefix, "risk", &c.risk, err));
    SHOAL_TRY(read_share(gguf, prefix, "delta", &c.delta, err));
    *ret_calibration = c;
    return SHOAL_OK;
}

static shoal_status put_hash(shoal_gguf_writer *writer, const char *prefix, const char *name,
                             const shoal_hash *hash)
{
    char key[KEY_MAX];
    char hex[SHOAL_HASH_HEX];
    key_of(prefix, name, key);
    shoal_hash_hex(hash, hex);
    return shoal_gguf_put_str(writer, key, hex);
}

shoal_status shoal_exit_calibration_put(shoal_gguf_writer *writer, const char *prefix,
                                        const shoal_exit_calibration *c)
{
    char key[KEY_MAX];
    SHOAL_TRY(put_hash(writer, prefix, "hash", &c->data));
    SHOAL_TRY(put_hash(writer, prefix, "model", &c->subject));
    key_of(prefix, "n", key);
    SHOAL_TRY(shoal_gguf_put_u32(writer, key, c->n));
    key_of(prefix, "tokens", key);
    SHOAL_TRY(shoal_gguf_put_u32(writer, key, c->n_tokens));
    key_of(prefix, "risk", key);
    SHOAL_TRY(shoal_gguf_put_f32(writer, key, c->risk));
    key_of(prefix, "delta", key);
    return shoal_gguf_put_f32(writer, key, c->delta);
}

shoal_status shoal_exit_subject(const shoal_gguf *gguf, const shoal_hash *model,
                                shoal_hash *ret_subject, shoal_err *err)
{
    static const char *const heads[] = {"shoal.exit.layers", "shoal.exit.norm"};
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    if (shoal_hasher_new(&hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to hash the exits");
    }
    shoal_hasher_update_field(hasher, model, sizeof *model);
    for (size_t i = 0; i < SHOAL_COUNT(heads); i++) {
        shoal_gguf_kind element = SHOAL_GGUF_F32;
        size_t n = 0;
        shoal_str bytes = {.data = "", .length = 0};
        if (shoal_gguf_get_array(gguf, heads[i], &element, &n, NULL) == SHOAL_OK) {
            bytes = shoal_gguf_array_bytes(gguf, heads[i]);
        }
        shoal_hasher_update_field(hasher, bytes.data, bytes.length);
    }
    shoal_hasher_finish(hasher, ret_subject);
    return SHOAL_OK;
}

shoal_status shoal_exit_calibration_fits(const shoal_exit_calibration *calibration,
                                         const shoal_hash *subject, shoal_err *err)
{
    if (memcmp(&calibration->subject, subject, sizeof *subject) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "the exit policies were fitted to other weights than the model's: "
                             "their risk says nothing here; run shoal-forge calibrate on this "
                             "model");
    }
    return SHOAL_OK;
}
