/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading: hostile and odd vocabularies are taken or refused with the key's name, limits hold,
 * the hash tells vocabularies apart, and failing allocations leak nothing.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"
#include "common/tokenizer/vocab.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Loads, runs texts through, frees: the vocabulary is odd but usable. */
static void usable(const fixture *f)
{
    static const char text[] = "hello <s> world\xFF\xE2\x82 \xE4\xBD\xA0";
    shoal_tokenizer *tokenizer = fixture_load_ok(f);
    for (int parse = 0; parse < 2; parse++) {
        int32_t *ids = NULL;
        size_t n = 0;
        shoal_buf buf = {.data = NULL};
        shoal_encode_flags flags = {.add_bos = true, .parse_special = parse == 1};
        assert_int_equal(
            shoal_tokenizer_encode(tokenizer, text, strlen(text), flags, &ids, &n, NULL), 0);
        fixture_decode(tokenizer, ids, n, &buf);
        shoal_free(ids);
        shoal_buf_fini(&buf);
    }
    shoal_tokenizer_free(tokenizer);
}

static void test_load_unknown_model_is_refused_with_the_list(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    f.model = "bert";
    fixture_refused(&f, SHOAL_E_UNSUPPORTED, "\"llama\" (SPM) and \"gpt2\"");
    fixture_fini(&f);
    fixture_init_bpe(&f);
    f.pre = "tekken2";
    fixture_refused(&f, SHOAL_E_UNSUPPORTED, "tokenizer.ggml.pre \"tekken2\"");
    f.pre = "gpt";
    fixture_refused(&f, SHOAL_E_UNSUPPORTED, "known: gpt-2, phi-2, mpt, olmo, default, smollm, ");
    fixture_refused(&f, SHOAL_E_UNSUPPORTED, ", deepseek-coder, deepseek-v3 are");
    f.pre = "gpt-2 ";
    fixture_refused(&f, SHOAL_E_UNSUPPORTED, "tokenizer.ggml.pre");
    f.pre = "";
    fixture_refused(&f, SHOAL_E_UNSUPPORTED, "tokenizer.ggml.pre");
    f.pre = NULL; /* older files have no such key */
    usable(&f);
    fixture_fini(&f);
}

static void test_load_flags_of_spaces_and_ends(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    f.squeeze = 1;
    fixture_refused(&f, SHOAL_E_UNSUPPORTED, "tokenizer.ggml.remove_extra_whitespaces");
    f.squeeze = 0;
    for (f.add_eos = 0; f.add_eos < 2; f.add_eos++) {
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        assert_true(shoal_tokenizer_adds_eos(tokenizer) == (f.add_eos == 1));
        for (int wanted = 0; wanted < 2; wanted++) {
            int32_t *ids = NULL;
            size_t n = 0;
            shoal_encode_flags flags = {.add_eos = wanted == 1};
            assert_int_equal(shoal_tokenizer_encode(tokenizer, "hello", 5, flags, &ids, &n, NULL),
                             0);
            assert_int_equal(n, 1 + (wanted == 1 && f.add_eos == 1));
            assert_true(n == 1 || ids[1] == f.eos);
            shoal_free(ids);
        }
        shoal_tokenizer_free(tokenizer);
    }
    fixture_fini(&f);
}

static void test_load_no_tokens_is_refused(void **state)
{
    (void)state;
    fixture f;
    fixture_init_empty(&f, "llama");
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.tokens");
    fixture_fini(&f);
}

static void test_load_short_arrays_are_refused(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    f.n_scores = f.n_tokens - 1;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.scores");
    f.n_scores = 0;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.scores");
    f.n_scores = SIZE_MAX;
    f.n_types = 1;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.token_type");
    f.n_types = SIZE_MAX;
    f.no_scores = true;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.scores");
    fixture_fini(&f);
    fixture_init_bpe(&f);
    f.no_merges = true;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.merges");
    fixture_fini(&f);
}

static void test_load_bad_numbers_are_refused(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    f.scores[7] = NAN;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.scores[7]");
    f.scores[7] = INFINITY;
    usable(&f);
    f.scores[7] = -INFINITY;
    usable(&f);
    f.types[9] = 7;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.token_type[9]");
    f.types[9] = -1;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.token_type[9]");
    f.types[9] = INT32_MIN;
    fixture_refused(&f, SHOAL_E_INVALID, "tokenizer.ggml.token_type[9]");
    f.types[9] = 0;
    usable(&f);
    fixture_fini(&f);
}

static void test_load_ids_out_of_range_are_refused(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    int64_t *const ids[] = {&f.bos, &f.eos, &f.eot, &f.unknown};
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "eot_token_id",
                                       "unknown_token_id"};
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        int64_t before = *ids[i];
        *ids[i] = (int64_t)f.n_tokens - 1;
        usable(&f);
        *ids[i] = (int64_t)f.n_tokens;
        fixture_refused(&f, SHOAL_E_INVALID, keys[i]);
        *ids[i] = INT64_C(0xFFFFFFFE);
        fixture_refused(&f, SHOAL_E_INVALID, keys[i]);
        *ids[i] = INT64_C(0xFFFFFFFF); /* converters write this for none */
        usable(&f);
        *ids[i] = before;
    }
    f.bos = INT64_C(0xFFFFFFFF);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    assert_int_equal(shoal_tokenizer_bos(tokenizer), -1);
    assert_int_equal(shoal_tokenizer_eos(tokenizer), 2);
    assert_false(shoal_tokenizer_adds_bos(tokenizer));
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_load_all_tokens_the_same(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        fixture f;
        fixture_init_empty(&f, kind == 0 ? "llama" : "gpt2");
        for (size_t i = 0; i < 3000; i++) {
            (void)fixture_add(&f, "same", 4, 0, 1);
        }
        fixture_refused(&f, SHOAL_E_INVALID, "byte 0x00");
        f.unknown = 5; /* without types that makes it the unknown token */
        f.n_types = 0;
        usable(&f);
        fixture_fini(&f);
    }
}

static void test_load_empty_and_invalid_texts(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        fixture f;
        if (kind == 0) {
            fixture_init_spm(&f);
        } else {
            fixture_init_bpe(&f);
        }
        for (int32_t type = 1; type <= 6; type++) {
            (void)fixture_add(&f, "", 0, 1, type);
            (void)fixture_add(&f, "\xFF\xFE", 2, 1, type);
            (void)fixture_add(&f, "\xE2\x82", 2, 1, type);
            (void)fixture_add(&f, "\0", 1, 1, type);
            (void)fixture_add(&f, "\0\0", 2, 1, type);
            (void)fixture_add(&f, "<0xZZ>", 6, 1, type);
            (void)fixture_add(&f, "<0x\0A>", 6, 1, type);
        }
        usable(&f);
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        shoal_buf buf = {.data = NULL};
        for (size_t id = 0; id < f.n_tokens; id++) {
            fixture_decode(tokenizer, (int32_t[]){(int32_t)id}, 1, &buf);
        }
        /* Whatever the tokens, what comes out is UTF-8. */
        shoal_buf lossy = {.data = NULL};
        fixture_lossy(buf.data, buf.length, &lossy);
        assert_int_equal(lossy.length, buf.length);
        assert_memory_equal(lossy.data, buf.data, buf.length);
        shoal_buf_fini(&buf);
        shoal_buf_fini(&lossy);
        shoal_tokenizer_free(tokenizer);
        fixture_fini(&f);
    }
}

static void test_load_token_length_limits(void **state)
{
    (void)state;
    char *text = shoal_calloc(1 << 20, 1);
    assert_non_null(text);
    memset(text, 'y', 1 << 20);
    static const struct {
        size_t length;
        int32_t type;
        bool ok;
    } cases[] = {
        {SHOAL_TOKEN_TEXT_MAX - 1, 1, true},    {SHOAL_TOKEN_TEXT_MAX, 1, true},
        {SHOAL_TOKEN_TEXT_MAX + 1, 1, false},   {1 << 20, 1, false},
        {SHOAL_SPECIAL_TEXT_MAX - 1, 3, true},  {SHOAL_SPECIAL_TEXT_MAX, 4, true},
        {SHOAL_SPECIAL_TEXT_MAX + 1, 3, false}, {SHOAL_SPECIAL_TEXT_MAX + 1, 4, false},
        {SHOAL_SPECIAL_TEXT_MAX + 1, 6, true},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        fixture f;
        fixture_init_bpe(&f);
        (void)fixture_add(&f, text, cases[i].length, 0, cases[i].type);
        if (cases[i].ok) {
            usable(&f);
        } else {
            fixture_refused(&f, SHOAL_E_LIMIT, "tokenizer.ggml.tokens[271]");
        }
        fixture_fini(&f);
    }
    shoal_free(text);
}

static void test_load_token_count_limit(void **state)
{
    (void)state;
    shoal_str *texts = shoal_calloc(SHOAL_VOCAB_MAX + 1, sizeof(texts[0]));
    assert_non_null(texts);
    for (size_t i = 0; i <= SHOAL_VOCAB_MAX; i++) {
        texts[i] = (shoal_str){.data = "", .length = 0};
    }
    for (size_t more = 0; more < 2; more++) {
        fixture f;
        fixture_init_empty(&f, "gpt2");
        f.tokens = texts;
        f.n_tokens = SHOAL_VOCAB_MAX + more;
        f.n_types = 0;
        f.unknown = 0;
        if (more == 0) {
            usable(&f);
        } else {
            fixture_refused(&f, SHOAL_E_LIMIT, "tokenizer.ggml.tokens has 1048577 tokens");
        }
    }
    shoal_free(texts);
}

static void test_load_merge_count_limit(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    size_t n = (size_t)SHOAL_MERGES_MAX + 1;
    shoal_str *rules = shoal_calloc(n, sizeof(rules[0]));
    assert_non_null(rules);
    for (size_t i = 0; i < n; i++) {
        rules[i] = (shoal_str){.data = "h e", .length = 3};
    }
    shoal_str *own = f.merges;
    size_t n_own = f.n_merges;
    f.merges = rules;
    f.n_merges = n;
    fixture_refused(&f, SHOAL_E_LIMIT, "tokenizer.ggml.merges has 4194305 rules");
    f.n_merges = 100000; /* the same rule over and over is one rule */
    usable(&f);
    f.merges = own;
    f.n_merges = n_own;
    shoal_free(rules);
    fixture_fini(&f);
}

static void test_load_special_bytes_limit(void **state)
{
    (void)state;
    enum {
        N = SHOAL_SPECIAL_BYTES_MAX / SHOAL_SPECIAL_TEXT_MAX
    };
    fixture f;
    fixture_init_bpe(&f);
    f.types[f.bos] = 1; /* so that the texts below are all there are */
    for (size_t i = 0; i < N; i++) {
        char text[SHOAL_SPECIAL_TEXT_MAX];
        memset(text, 'x', sizeof(text));
        char number[9];
        (void)snprintf(number, sizeof(number), "%08zu", i);
        memcpy(text + 1, number, 8);
        (void)fixture_add(&f, text, sizeof(text), 0, 3);
    }
    usable(&f);
    (void)fixture_add(&f, "z", 1, 0, 3);
    fixture_refused(&f, SHOAL_E_LIMIT, "4194305 bytes");
    fixture_fini(&f);
}

static void test_load_malformed_merges_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *rule;
        size_t length;
        const char *names;
    } cases[] = {
        {"", 0, "merges[14]: not two texts"},       {" ", 1, "merges[14]: not two texts"},
        {"ab", 2, "merges[14]: not two texts"},     {"abc", 3, "merges[14]: not two texts"},
        {" ab", 3, "merges[14]: not two texts"},    {"ab ", 3, "merges[14]: not two texts"},
        {"x qqq", 5, "merges[14]: its right side"}, {"qqq x", 5, "merges[14]: its left side"},
        {"x y", 3, "merges[14]: what it makes"},    {"\xFF\xFF x", 4, "merges[14]: its left"},
        {"a b c", 5, "merges[14]: its right side"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        fixture f;
        fixture_init_bpe(&f);
        assert_int_equal(f.n_merges, 14);
        fixture_add_merge(&f, cases[i].rule, cases[i].length);
        fixture_refused(&f, SHOAL_E_INVALID, cases[i].names);
        fixture_fini(&f);
    }
    fixture f;
    fixture_init_bpe(&f);
    char long_rule[300];
    memset(long_rule, 'a', sizeof(long_rule));
    long_rule[100] = ' ';
    fixture_add_merge(&f, long_rule, sizeof(long_rule));
    fixture_refused(&f, SHOAL_E_INVALID, "merges[14]: what it makes");
    fixture_fini(&f);
}

/* Texts next to each other in order, as East Asian characters are, must not lie next to each other
 * in the table. A row of taken slots is at least as long as any walk in it. */
static void test_text_table_stays_far_from_its_limit_under_any_keys(void **state)
{
    (void)state;
    enum {
        TABLES = 40
    };
    for (int kind = 0; kind < 2; kind++) {
        fixture f;
        if (kind == 0) {
            fixture_init_spm(&f);
        } else {
            fixture_init_bpe(&f);
        }
        for (unsigned c = 0x4E00; c < 0x9E00; c++) {
            char text[] = {(char)(0xE0 | c >> 12), (char)(0x80 | (c >> 6 & 63)),
                           (char)(0x80 | (c & 63))};
            (void)fixture_add(&f, text, sizeof(text), 0, 1);
        }
        shoal_buf bytes = {.data = NULL};
        shoal_gguf *gguf = fixture_open(&f, &bytes);
        for (size_t i = 0; i < TABLES; i++) {
            shoal_tokenizer *tokenizer = NULL;
            assert_int_equal(shoal_tokenizer_new(gguf, &tokenizer, NULL), 0);
            size_t longest = 0;
            size_t row = 0;
            for (size_t slot = 0; slot <= tokenizer->map.mask; slot++) {
                row = tokenizer->map.slots[slot].id != 0 ? row + 1 : 0;
                longest = SHOAL_MAX(longest, row);
            }
            if (longest > SHOAL_PROBES_MAX / 2) {
                fail_msg("kind %d: a row of %zu", kind, longest);
            }
            shoal_tokenizer_free(tokenizer);
        }
        shoal_gguf_close(gguf);
        shoal_buf_fini(&bytes);
        fixture_fini(&f);
    }
}

static void test_load_missing_byte_characters(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    f.types[0xFF] = 5; /* unused: as good as not there */
    fixture_refused(&f, SHOAL_E_INVALID, "byte 0xFF");
    f.unknown = fixture_add(&f, "<unk>", 5, 0, 2);
    usable(&f);
    fixture_fini(&f);
}

static void test_load_spm_without_types_knows_its_bytes(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    f.n_types = 0;
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    fixture_round_trip(tokenizer, "hello \xE2\x82\xAC <0x41>", 16);
    assert_true(shoal_tokenizer_is_end(tokenizer, 2));
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_end_tokens_are_found_by_text(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    int32_t turn = fixture_add(&f, "<|im_end|>", 10, 0, 3);
    int32_t text = fixture_add(&f, "<|eot_id|>", 10, 0, 1); /* a plain token ends nothing */
    f.eot = fixture_add(&f, "<stop>", 6, 0, 3);
    for (size_t i = 0; i < 2 * SHOAL_END_TOKENS_MAX; i++) {
        (void)fixture_add(&f, "<|eom_id|>", 10, 0, 3);
    }
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    assert_true(shoal_tokenizer_is_end(tokenizer, (int32_t)f.eos));
    assert_true(shoal_tokenizer_is_end(tokenizer, (int32_t)f.eot));
    assert_true(shoal_tokenizer_is_end(tokenizer, turn));
    assert_false(shoal_tokenizer_is_end(tokenizer, text));
    assert_false(shoal_tokenizer_is_end(tokenizer, -1));
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static shoal_hash hash_of(const fixture *f)
{
    shoal_tokenizer *tokenizer = fixture_load_ok(f);
    shoal_hash hash = *shoal_tokenizer_hash(tokenizer);
    shoal_tokenizer_free(tokenizer);
    return hash;
}

static void differs(const fixture *f, const shoal_hash *from)
{
    shoal_hash hash = hash_of(f);
    assert_memory_not_equal(&hash, from, sizeof(hash));
}

/* A user-defined token is written as it is, so the character that stands for another byte is not
 * that byte. */
static void test_user_token_stands_for_no_other_byte(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    f.types['A'] = 4;
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    fixture_round_trip(tokenizer, "A A", 3);
    shoal_tokenizer_free(tokenizer);
    f.types[' '] = 4;
    fixture_refused(&f, SHOAL_E_INVALID, "0x20");
    fixture_fini(&f);
}

static void test_hash_tells_vocabularies_apart(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    shoal_hash first = hash_of(&f);
    shoal_hash again = hash_of(&f);
    assert_memory_equal(&first, &again, sizeof(first));
    f.chat_template = "<|im_start|>"; /* has a hash of its own */
    again = hash_of(&f);
    assert_memory_equal(&first, &again, sizeof(first));
    f.pre = "qwen2";
    differs(&f, &first);
    f.pre = "gpt-2";
    f.eos = 0;
    differs(&f, &first);
    f.eos = f.bos;
    f.add_bos = 1;
    differs(&f, &first);
    f.add_bos = -1;
    shoal_str swap = f.merges[0];
    f.merges[0] = f.merges[1];
    f.merges[1] = swap;
    differs(&f, &first);
    f.merges[1] = f.merges[0];
    f.merges[0] = swap;
    f.types['A'] = 4;
    differs(&f, &first);
    f.types['A'] = 1;
    again = hash_of(&f);
    assert_memory_equal(&first, &again, sizeof(first));
    fixture_fini(&f);
}

static void test_load_failing_allocation_gives_nomem(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        fixture f;
        if (kind == 0) {
            fixture_init_spm(&f);
        } else {
            fixture_init_bpe(&f);
        }
        f.chat_template = "<|im_start|>";
        shoal_buf bytes = {.data = NULL};
        shoal_gguf *gguf = fixture_open(&f, &bytes);
        shoal_status status = SHOAL_E_NOMEM;
        for (uint64_t i = 0; status != SHOAL_OK; i++) {
            assert_true(i < 200);
            shoal_tokenizer *tokenizer = NULL;
            shoal_err err = SHOAL_ERR_INIT;
            shoal_mem_fail_at(i);
            status = shoal_tokenizer_new(gguf, &tokenizer, &err);
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
            assert_true((status == SHOAL_OK) == (tokenizer != NULL));
            assert_int_equal(err.code, status);
            shoal_tokenizer_free(tokenizer);
        }
        shoal_gguf_close(gguf);
        shoal_buf_fini(&bytes);
        fixture_fini(&f);
    }
    shoal_tokenizer_free(NULL);
}

/* Rules name ids that follow each other, on both sides: the pairs are a lattice, which a hash that
 * is one product maps to runs lying on each other. */
static size_t longest_walk(const uint64_t *keys, uint64_t *slots, size_t n_slots, size_t n_pairs)
{
    size_t longest = 0;
    memset(slots, 0, n_slots * sizeof(*slots));
    for (uint64_t i = 0; i < n_pairs; i++) {
        uint64_t left = i / 2 / 26;
        uint64_t right = i / 2 % 26;
        uint64_t pair = i % 2 == 0 ? left << 32 | right : right << 32 | (left + 26);
        size_t at = (size_t)shoal_vocab_hash_u64(keys, pair) & (n_slots - 1);
        size_t walk = 1;
        for (; slots[at] != 0; walk++) {
            at = (at + 1) & (n_slots - 1);
        }
        slots[at] = 1;
        longest = SHOAL_MAX(longest, walk);
    }
    return longest;
}

static void test_merge_table_stays_far_from_its_limit_under_any_keys(void **state)
{
    (void)state;
    enum {
        SLOTS = 1 << 16,
        TABLES = 200
    };
    uint64_t *slots = shoal_calloc(SLOTS, sizeof(*slots));
    assert_non_null(slots);
    for (size_t i = 0; i < TABLES; i++) {
        uint64_t keys[SHOAL_VOCAB_KEYS];
        shoal_vocab_keys_choose(keys);
        /* As full as a table gets. */
        size_t walk = longest_walk(keys, slots, SLOTS, SLOTS / 3 * 2);
        if (walk > SHOAL_PROBES_MAX / 2) {
            fail_msg("keys %llx %llx %llx %llx: a walk of %zu", (unsigned long long)keys[0],
                     (unsigned long long)keys[1], (unsigned long long)keys[2],
                     (unsigned long long)keys[3], walk);
        }
    }
    shoal_free(slots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_unknown_model_is_refused_with_the_list),
        cmocka_unit_test(test_load_flags_of_spaces_and_ends),
        cmocka_unit_test(test_load_no_tokens_is_refused),
        cmocka_unit_test(test_load_short_arrays_are_refused),
        cmocka_unit_test(test_load_bad_numbers_are_refused),
        cmocka_unit_test(test_load_ids_out_of_range_are_refused),
        cmocka_unit_test(test_load_all_tokens_the_same),
        cmocka_unit_test(test_load_empty_and_invalid_texts),
        cmocka_unit_test(test_load_token_length_limits),
        cmocka_unit_test(test_load_token_count_limit),
        cmocka_unit_test(test_load_merge_count_limit),
        cmocka_unit_test(test_load_special_bytes_limit),
        cmocka_unit_test(test_load_malformed_merges_are_refused),
        cmocka_unit_test(test_text_table_stays_far_from_its_limit_under_any_keys),
        cmocka_unit_test(test_load_missing_byte_characters),
        cmocka_unit_test(test_load_spm_without_types_knows_its_bytes),
        cmocka_unit_test(test_end_tokens_are_found_by_text),
        cmocka_unit_test(test_user_token_stands_for_no_other_byte),
        cmocka_unit_test(test_hash_tells_vocabularies_apart),
        cmocka_unit_test(test_load_failing_allocation_gives_nomem),
        cmocka_unit_test(test_merge_table_stays_far_from_its_limit_under_any_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
