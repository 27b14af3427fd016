/* SPDX-License-Identifier: Apache-2.0
 *
 * Learning a BPE vocabulary: the merges of a trainer that counts everything anew for each of them,
 * texts encode as learning ended, limits hold, failing allocations leak nothing.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"
#include "common/tokenizer/train_internal.h"

#include <stdio.h>
#include <string.h>

enum {
    SLOW_TOKENS = 320, /* of the slow trainer, without control tokens */
    SLOW_BYTES = 4096  /* of its words */
};

static shoal_str str_of(const char *text)
{
    return (shoal_str){.data = text, .length = strlen(text)};
}

static shoal_bpe_trainer *trainer_of(size_t n_vocab, size_t length_max, uint64_t count_min)
{
    shoal_bpe_settings settings = {
        .n_vocab = n_vocab, .length_max = length_max, .count_min = count_min};
    shoal_bpe_trainer *trainer = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_bpe_trainer_new(&settings, &trainer, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return trainer;
}

static void add(shoal_bpe_trainer *trainer, shoal_str text, uint64_t weight)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_bpe_trainer_add(trainer, text, weight, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static void learn(shoal_bpe_trainer *trainer)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_bpe_trainer_learn(trainer, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static shoal_bpe_trainer *learn_text(shoal_str text, size_t n_vocab)
{
    shoal_bpe_trainer *trainer = trainer_of(n_vocab, 16, 2);
    add(trainer, text, 1);
    learn(trainer);
    return trainer;
}

/* The vocabulary written, read back and made a tokenizer of. */
static shoal_tokenizer *tokenizer_of(const shoal_bpe_trainer *trainer)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_gguf_writer *writer = NULL;
    shoal_buf bytes = {.data = NULL};
    shoal_gguf *gguf = NULL;
    shoal_tokenizer *tokenizer = NULL;
    assert_int_equal(shoal_gguf_writer_new(&writer), 0);
    assert_int_equal(shoal_bpe_trainer_write(trainer, writer, &err), 0);
    assert_int_equal(shoal_gguf_writer_finish(writer, &bytes, &err), 0);
    assert_int_equal(shoal_gguf_open((const uint8_t *)bytes.data, bytes.length, &gguf, &err), 0);
    if (shoal_tokenizer_new(gguf, &tokenizer, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_gguf_close(gguf);
    shoal_gguf_writer_free(writer);
    shoal_buf_fini(&bytes);
    return tokenizer;
}

/* A text of letters, spaces and bytes of every kind, in which pairs repeat and overlap. */
static size_t random_text(uint64_t *rng, char *text, size_t n_max)
{
    static const char letters[] = "aaab bc\n\xC3\xA4\xFF ";
    size_t n = fixture_random(rng) % n_max;
    size_t n_letters = 2 + fixture_random(rng) % (sizeof(letters) - 2);
    for (size_t i = 0; i < n; i++) {
        text[i] = letters[fixture_random(rng) % n_letters];
    }
    return n;
}

/* --- the slow trainer ------------------------------------------------------------------------ */

/* All words in a row with -1 between them, and the texts of the tokens. */
typedef struct slow {
    int32_t symbols[2 * SLOW_BYTES];
    uint64_t counts[2 * SLOW_BYTES]; /* of the word that a symbol is in */
    size_t n;
    char texts[SLOW_TOKENS][64];
    size_t lengths[SLOW_TOKENS];
    int32_t n_tokens;
    uint64_t pairs[SLOW_TOKENS][SLOW_TOKENS];
} slow;

static void slow_init(slow *s, const shoal_bpe_trainer *trainer)
{
    memset(s, 0, sizeof(*s));
    for (size_t word = 0; word < trainer->words.n; word++) {
        shoal_str text = shoal_texts_at(&trainer->words, word);
        for (size_t i = 0; i <= text.length; i++) {
            assert_true(s->n < 2 * SLOW_BYTES);
            s->symbols[s->n] = i < text.length ? (uint8_t)text.data[i] : -1;
            s->counts[s->n++] = trainer->counts[word];
        }
    }
    for (s->n_tokens = 0; s->n_tokens < 256; s->n_tokens++) {
        s->texts[s->n_tokens][0] = (char)s->n_tokens;
        s->lengths[s->n_tokens] = 1;
    }
}

static bool slow_is_token(const slow *s, const char *text, size_t n)
{
    for (int32_t id = 0; id < s->n_tokens; id++) {
        if (s->lengths[id] == n && memcmp(s->texts[id], text, n) == 0) {
            return true;
        }
    }
    return false;
}

/* The text of a pair; false when it cannot be a token. */
static bool slow_join(const slow *s, int32_t left, int32_t right, size_t length_max, char *text)
{
    size_t n = s->lengths[left] + s->lengths[right];
    if (n > length_max) {
        return false;
    }
    memcpy(text, s->texts[left], s->lengths[left]);
    memcpy(text + s->lengths[left], s->texts[right], s->lengths[right]);
    return !slow_is_token(s, text, n);
}

static void slow_merge(slow *s, int32_t left, int32_t right, int32_t made)
{
    size_t to = 0;
    for (size_t from = 0; from < s->n; from++) {
        bool both = from + 1 < s->n && s->symbols[from] == left && s->symbols[from + 1] == right;
        s->counts[to] = s->counts[from];
        s->symbols[to++] = both ? made : s->symbols[from];
        from += both ? 1 : 0;
    }
    s->n = to;
}

/* One merge, by counting everything; false when none is left. */
static bool slow_step(slow *s, const shoal_bpe_settings *settings, int32_t *ret_left,
                      int32_t *ret_right)
{
    char text[128];
    uint64_t best = settings->count_min - 1;
    memset(s->pairs, 0, sizeof(s->pairs));
    for (size_t i = 0; i + 1 < s->n; i++) {
        if (s->symbols[i] >= 0 && s->symbols[i + 1] >= 0) {
            s->pairs[s->symbols[i]][s->symbols[i + 1]] += s->counts[i];
        }
    }
    for (int32_t left = 0; left < s->n_tokens; left++) {
        for (int32_t right = 0; right < s->n_tokens; right++) {
            if (s->pairs[left][right] > best &&
                slow_join(s, left, right, settings->length_max, text)) {
                best = s->pairs[left][right];
                *ret_left = left;
                *ret_right = right;
            }
        }
    }
    if (best == settings->count_min - 1) {
        return false;
    }
    int32_t made = s->n_tokens++;
    s->lengths[made] = s->lengths[*ret_left] + s->lengths[*ret_right];
    memcpy(s->texts[made], s->texts[*ret_left], s->lengths[*ret_left]);
    memcpy(s->texts[made] + s->lengths[*ret_left], s->texts[*ret_right], s->lengths[*ret_right]);
    slow_merge(s, *ret_left, *ret_right, made);
    return true;
}

/* The trainer has learnt; its words are learnt anew. */
static void check_against_slow(const shoal_bpe_trainer *trainer, slow *s)
{
    size_t n_rules_max = trainer->settings.n_vocab - SHOAL_BPE_VOCAB_MIN;
    slow_init(s, trainer);
    int32_t left = 0;
    int32_t right = 0;
    size_t n_rules = 0;
    while (n_rules < n_rules_max && slow_step(s, &trainer->settings, &left, &right)) {
        assert_true(n_rules < trainer->n_rules);
        assert_int_equal(trainer->rules[n_rules].left, left);
        assert_int_equal(trainer->rules[n_rules].right, right);
        n_rules++;
    }
    assert_int_equal(n_rules, trainer->n_rules);
    /* Both ended with the same symbols. */
    uint32_t site = 1;
    for (size_t i = 0; i < s->n; i++) {
        assert_int_equal(trainer->sites[site].id, s->symbols[i]);
        site += (uint32_t)(s->symbols[i] < 0 ? 1 : s->lengths[s->symbols[i]]);
    }
    assert_int_equal(site, trainer->n_sites);
}

/* --- what is learnt -------------------------------------------------------------------------- */

static void test_learn_random_texts_give_the_merges_of_counting_anew(void **state)
{
    (void)state;
    uint64_t seed = 20261125;
    print_message("seed %llu\n", (unsigned long long)seed);
    slow *s = shoal_calloc(1, sizeof(*s));
    assert_non_null(s);
    for (int round = 0; round < 120; round++) {
        char text[700];
        size_t n_vocab = SHOAL_BPE_VOCAB_MIN + fixture_random(&seed) % (SLOW_TOKENS - 256);
        shoal_bpe_trainer *trainer =
            trainer_of(n_vocab, 1 + fixture_random(&seed) % 12, 1 + fixture_random(&seed) % 3);
        for (size_t texts = 1 + fixture_random(&seed) % 3; texts > 0; texts--) {
            size_t n = random_text(&seed, text, sizeof(text));
            add(trainer, (shoal_str){.data = text, .length = n}, 1 + fixture_random(&seed) % 4);
        }
        learn(trainer);
        check_against_slow(trainer, s);
        shoal_bpe_trainer_free(trainer);
    }
    shoal_free(s);
}

static void test_learn_counts_words_and_picks_the_lower_pair_of_equals(void **state)
{
    (void)state;
    /* Words: "ab" 2, " ab" 1, " cd" 3. (a,b) and (c,d) occur three times each, and so do the
     * pairs of a space with c; the lowest ids win: the space is 32. */
    shoal_bpe_trainer *trainer = trainer_of(SHOAL_BPE_VOCAB_MIN + 2, 16, 2);
    add(trainer, str_of("ab ab cd cd cd"), 1);
    add(trainer, str_of("ab"), 1);
    learn(trainer);
    assert_int_equal(trainer->words.n, 3);
    assert_int_equal(trainer->counts[0], 2);
    assert_int_equal(trainer->counts[1], 1);
    assert_int_equal(trainer->counts[2], 3);
    assert_int_equal(trainer->rules[0].left, ' ');
    assert_int_equal(trainer->rules[0].right, 'c');
    assert_int_equal(trainer->rules[1].left, 'a'); /* before (256, d), which counts as much */
    assert_int_equal(trainer->rules[1].right, 'b');
    shoal_bpe_stats stats = shoal_bpe_trainer_stats(trainer);
    assert_int_equal(stats.n_vocab, SHOAL_BPE_VOCAB_MIN + 2);
    assert_int_equal(stats.n_bytes, 16);
    assert_int_equal(stats.n_tokens, 2 * 1 + 2 + 3 * 2);
    assert_int_equal(stats.last_count, 3);
    shoal_bpe_trainer_free(trainer);
}

static void test_learn_overlapping_pairs_merge_from_the_left(void **state)
{
    (void)state;
    static const char *const texts[] = {"aa", "aaa", "aaaa", "aaaaa", "aaaaaaaaa", "abababab"};
    slow *s = shoal_calloc(1, sizeof(*s));
    assert_non_null(s);
    for (size_t i = 0; i < SHOAL_COUNT(texts); i++) {
        shoal_bpe_trainer *trainer = trainer_of(SHOAL_BPE_VOCAB_MIN + 10, 16, 1);
        add(trainer, str_of(texts[i]), 1);
        learn(trainer);
        check_against_slow(trainer, s);
        assert_int_equal(shoal_bpe_trainer_stats(trainer).n_tokens, 1);
        shoal_bpe_trainer_free(trainer);
    }
    shoal_free(s);
}

static void same_rules(const shoal_bpe_trainer *a, const shoal_bpe_trainer *b)
{
    assert_int_equal(a->n_rules, b->n_rules);
    assert_true(a->n_rules > 0);
    assert_memory_equal(a->rules, b->rules, a->n_rules * sizeof(a->rules[0]));
}

static void test_learn_order_of_texts_does_not_matter(void **state)
{
    (void)state;
    static const char one[] = "the cat sat on the mat, the cat that sat there that day";
    static const char two[] = "a dog and a cat and a dog that barked at the cat";
    shoal_bpe_trainer *trainers[3];
    for (int i = 0; i < 3; i++) {
        trainers[i] = trainer_of(300, 16, 2);
        add(trainers[i], str_of(i == 1 ? two : one), 1);
        add(trainers[i], str_of(i == 1 ? one : two), 1);
        learn(trainers[i]);
    }
    same_rules(trainers[0], trainers[1]);
    same_rules(trainers[0], trainers[2]);
    for (int i = 0; i < 3; i++) {
        shoal_bpe_trainer_free(trainers[i]);
    }
}

static void test_learn_weight_is_as_often_as_that(void **state)
{
    (void)state;
    shoal_bpe_trainer *weighted = trainer_of(290, 16, 2);
    shoal_bpe_trainer *repeated = trainer_of(290, 16, 2);
    add(weighted, str_of("low lower lowest"), 3);
    add(weighted, str_of("new newer newest widest"), 1);
    for (int i = 0; i < 3; i++) {
        add(repeated, str_of("low lower lowest"), 1);
    }
    add(repeated, str_of("new newer newest widest"), 1);
    learn(weighted);
    learn(repeated);
    same_rules(weighted, repeated);
    shoal_bpe_stats a = shoal_bpe_trainer_stats(weighted);
    shoal_bpe_stats b = shoal_bpe_trainer_stats(repeated);
    assert_memory_equal(&a, &b, sizeof(a));
    shoal_bpe_trainer_free(weighted);
    shoal_bpe_trainer_free(repeated);
}

static void test_learn_stops_when_no_pair_counts_enough(void **state)
{
    (void)state;
    for (uint64_t count_min = 3; count_min <= 5; count_min++) {
        shoal_bpe_trainer *trainer = trainer_of(2048, 16, count_min);
        add(trainer, str_of("xy xy xy xy"), 1); /* (x,y) counts 4, (space, xy) 3 */
        learn(trainer);
        shoal_bpe_stats stats = shoal_bpe_trainer_stats(trainer);
        assert_int_equal(stats.n_vocab, SHOAL_BPE_VOCAB_MIN + 5 - count_min);
        assert_int_equal(stats.last_count, count_min == 5 ? 0 : count_min);
        shoal_tokenizer *tokenizer = tokenizer_of(trainer);
        assert_int_equal(shoal_tokenizer_n_vocab(tokenizer), stats.n_vocab);
        shoal_tokenizer_free(tokenizer);
        shoal_bpe_trainer_free(trainer);
    }
}

static void test_learn_tokens_are_not_longer_than_asked(void **state)
{
    (void)state;
    static const char text[] = "abcdefgh abcdefgh abcdefgh abcdefgh";
    for (size_t length_max = 1; length_max <= 9; length_max++) {
        shoal_bpe_trainer *trainer = trainer_of(400, length_max, 1);
        add(trainer, str_of(text), 1);
        learn(trainer);
        size_t longest = 0;
        for (size_t i = 0; i < trainer->tokens.n; i++) {
            longest = SHOAL_MAX(longest, shoal_texts_at(&trainer->tokens, i).length);
        }
        assert_true(longest <= length_max);
        assert_true(length_max > 2 || longest == length_max);
        assert_true(length_max < 9 || longest == 9);
        shoal_bpe_trainer_free(trainer);
    }
}

/* --- what comes of it ------------------------------------------------------------------------ */

/* A text falls into the symbols that learning ended with. */
static void check_encodes_as_learnt(const shoal_bpe_trainer *trainer, shoal_str text)
{
    shoal_tokenizer *tokenizer = tokenizer_of(trainer);
    shoal_encode_flags flags = {.add_bos = false, .parse_special = false};
    int32_t *ids = NULL;
    size_t n = 0;
    uint32_t site = 1;
    for (size_t word = 0; word < trainer->words.n; word++) {
        shoal_str bytes = shoal_texts_at(&trainer->words, word);
        assert_int_equal(
            shoal_tokenizer_encode(tokenizer, bytes.data, bytes.length, flags, &ids, &n, NULL), 0);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(ids[i], trainer->sites[site].id + SHOAL_BPE_CONTROLS);
            site +=
                (uint32_t)shoal_texts_at(&trainer->tokens, (size_t)trainer->sites[site].id).length;
        }
        assert_int_equal(trainer->sites[site++].id, -1);
        shoal_free(ids);
        ids = NULL;
    }
    assert_int_equal(
        shoal_tokenizer_encode(tokenizer, text.data, text.length, flags, &ids, &n, NULL), 0);
    assert_int_equal(n, shoal_bpe_trainer_stats(trainer).n_tokens);
    shoal_free(ids);
    fixture_round_trip(tokenizer, text.data, text.length);
    shoal_tokenizer_free(tokenizer);
}

static void test_encode_of_learnt_texts_is_as_learning_ended(void **state)
{
    (void)state;
    uint64_t seed = 7;
    static char text[30000];
    for (int round = 0; round < 40; round++) {
        size_t n = random_text(&seed, text, round == 0 ? sizeof(text) : 900);
        shoal_str all = {.data = text, .length = n};
        shoal_bpe_trainer *trainer = learn_text(all, SHOAL_BPE_VOCAB_MIN + 200);
        check_encodes_as_learnt(trainer, all);
        shoal_bpe_trainer_free(trainer);
    }
}

static void test_encode_of_a_text_longer_than_a_part_is_as_learning_ended(void **state)
{
    (void)state;
    static const char *const words[] = {" the", "\n\nOn", " a", "  wide", " sea", " \n", ",", "'s"};
    uint64_t seed = 11;
    shoal_buf text = {.data = NULL};
    while (text.length < (5 << 19)) {
        const char *word = words[fixture_random(&seed) % SHOAL_COUNT(words)];
        assert_int_equal(shoal_buf_append(&text, word, strlen(word)), 0);
    }
    shoal_str all = {.data = text.data, .length = text.length};
    shoal_bpe_trainer *trainer = learn_text(all, 400);
    check_encodes_as_learnt(trainer, all);
    shoal_bpe_trainer_free(trainer);
    shoal_buf_fini(&text);
}

static void test_write_layout_is_controls_bytes_merges(void **state)
{
    (void)state;
    static const char *const controls[] = {"<s>", "</s>", "[INST]", "[/INST]", "<unk>", "<pad>"};
    shoal_bpe_trainer *trainer = learn_text(str_of(" an an an"), 2048);
    shoal_tokenizer *tokenizer = tokenizer_of(trainer);
    for (int32_t i = 0; i < SHOAL_BPE_CONTROLS; i++) {
        shoal_str text = shoal_tokenizer_text(tokenizer, i);
        assert_int_equal(text.length, strlen(controls[i]));
        assert_memory_equal(text.data, controls[i], text.length);
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char want[3];
        fixture_byte_char(byte, want);
        shoal_str text = shoal_tokenizer_text(tokenizer, (int32_t)byte + SHOAL_BPE_CONTROLS);
        assert_int_equal(text.length, strlen(want));
        assert_memory_equal(text.data, want, text.length);
    }
    shoal_str last = shoal_tokenizer_text(tokenizer, SHOAL_BPE_VOCAB_MIN + 1);
    assert_int_equal(shoal_tokenizer_n_vocab(tokenizer), SHOAL_BPE_VOCAB_MIN + 2);
    assert_int_equal(last.length, 4);
    assert_memory_equal(last.data,
                        "\xC4\xA0"
                        "an",
                        4); /* a word with its space is one token */
    assert_int_equal(shoal_tokenizer_bos(tokenizer), 0);
    assert_int_equal(shoal_tokenizer_eos(tokenizer), 1);
    assert_true(shoal_tokenizer_adds_bos(tokenizer));
    assert_false(shoal_tokenizer_adds_eos(tokenizer));
    assert_true(shoal_tokenizer_is_end(tokenizer, 1));
    shoal_tokenizer_free(tokenizer);
    shoal_bpe_trainer_free(trainer);
}

static void test_chat_costs_three_control_tokens(void **state)
{
    (void)state;
    static const char question[] = "What does code E17 mean? [INST]";
    shoal_bpe_trainer *trainer = learn_text(str_of("What does it mean? What does code mean?"), 300);
    shoal_tokenizer *tokenizer = tokenizer_of(trainer);
    shoal_chat_message talk[] = {{"user", question}, {"assistant", "It"}, {"user", "mean"}};
    shoal_encode_flags flags = {.add_bos = false, .parse_special = false};
    int32_t *plain = NULL;
    int32_t *ids = NULL;
    size_t n_plain = 0;
    size_t n = 0;
    assert_string_equal(shoal_chat_template_name(tokenizer), "mistral-v3-tekken");
    assert_int_equal(shoal_tokenizer_encode(tokenizer, question, strlen(question), flags, &plain,
                                            &n_plain, NULL),
                     0);
    assert_int_equal(shoal_chat_encode(tokenizer, talk, 1, &ids, &n, NULL), 0);
    assert_int_equal(n, n_plain + 3);
    assert_int_equal(ids[0], 0);
    assert_int_equal(ids[1], 2);
    assert_memory_equal(ids + 2, plain, n_plain * sizeof(plain[0]));
    assert_int_equal(ids[n - 1], 3);
    shoal_free(ids);
    shoal_buf text = {.data = NULL};
    assert_int_equal(shoal_chat_render(tokenizer, talk, 3, &text, NULL), 0);
    assert_string_equal(text.data,
                        "[INST]What does code E17 mean? [INST][/INST]It</s>[INST]mean[/INST]");
    shoal_buf_fini(&text);
    shoal_free(plain);
    shoal_tokenizer_free(tokenizer);
    shoal_bpe_trainer_free(trainer);
}

/* Texts that nothing was learnt from: of all scripts, with markup in them, in pieces. */
static void test_other_texts_come_back_and_never_become_control_tokens(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "  two  spaces   three",
        "\t\ttabs\n\nand lines\r\n",
        "It's we'll they've I'd 'tis 'S",
        "3.1415 1,000,000 0x1F",
        "<s>[INST]<unk></s>[/INST]<pad>",
        "gr\xC3\xBC\xC3\x9F dich \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80\xEF\xB8\x8F e\xCC\x81",
        "\xC4\xA0 is how a space is written, \xC2\xA0 another one",
        "\xFF\xC0\xAF\xED\xA0\x80 broken \xE2\x82",
        "NUL \x01\x7F end"};
    shoal_bpe_trainer *trainer = learn_text(
        str_of("it is the tide that turns; the tide is in, it's out, the gr\xC3\xBC\xC3\x9F too"),
        400);
    shoal_tokenizer *tokenizer = tokenizer_of(trainer);
    for (size_t i = 0; i < SHOAL_COUNT(texts); i++) {
        int32_t *ids = NULL;
        size_t n = 0;
        shoal_encode_flags flags = {.add_bos = false, .parse_special = false};
        fixture_round_trip(tokenizer, texts[i], strlen(texts[i]));
        assert_int_equal(
            shoal_tokenizer_encode(tokenizer, texts[i], strlen(texts[i]), flags, &ids, &n, NULL),
            0);
        for (size_t at = 0; at < n; at++) {
            assert_true(ids[at] >= SHOAL_BPE_CONTROLS);
        }
        shoal_free(ids);
    }
    int32_t *ids = NULL;
    size_t n = 0;
    shoal_encode_flags flags = {.add_bos = true, .parse_special = true};
    assert_int_equal(
        shoal_tokenizer_encode(tokenizer, "[INST]x[/INST]</s>", 18, flags, &ids, &n, NULL), 0);
    const int32_t want[] = {0, 2, SHOAL_BPE_CONTROLS + 'x', 3, 1};
    assert_int_equal(n, SHOAL_COUNT(want));
    assert_memory_equal(ids, want, sizeof(want));
    shoal_free(ids);
    shoal_tokenizer_free(tokenizer);
    shoal_bpe_trainer_free(trainer);
}

/* --- odd input and limits -------------------------------------------------------------------- */

static void test_learn_little_or_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "a", "ab", "\xFF", "\xE2\x82", " "};
    for (size_t i = 0; i < SHOAL_COUNT(texts); i++) {
        shoal_bpe_trainer *trainer = learn_text(str_of(texts[i]), 2048);
        shoal_bpe_stats stats = shoal_bpe_trainer_stats(trainer);
        assert_int_equal(stats.n_vocab, SHOAL_BPE_VOCAB_MIN);
        assert_int_equal(stats.n_tokens, strlen(texts[i]));
        check_encodes_as_learnt(trainer, str_of(texts[i]));
        shoal_bpe_trainer_free(trainer);
    }
}

static void test_learn_hostile_bytes(void **state)
{
    (void)state;
    uint64_t seed = 3;
    static char text[20000];
    for (size_t i = 0; i < sizeof(text); i++) {
        text[i] = (char)(fixture_random(&seed) % 2 ? fixture_random(&seed) : i % 7 * 0x21);
    }
    shoal_str all = {.data = text, .length = sizeof(text)};
    shoal_bpe_trainer *trainer = learn_text(all, 2000);
    check_encodes_as_learnt(trainer, all);
    shoal_bpe_trainer_free(trainer);
    /* One word of a quarter of a million bytes and one more than a piece holds. */
    shoal_buf long_word = {.data = NULL};
    for (size_t i = 0; i < SHOAL_SEGMENT_MAX + 1; i++) {
        assert_int_equal(shoal_buf_append(&long_word, &"abaabb"[fixture_random(&seed) % 6], 1), 0);
    }
    all = (shoal_str){.data = long_word.data, .length = long_word.length};
    trainer = learn_text(all, 1000);
    assert_int_equal(shoal_bpe_trainer_stats(trainer).n_words, 2);
    check_encodes_as_learnt(trainer, all);
    shoal_bpe_trainer_free(trainer);
    shoal_buf_fini(&long_word);
}

static void refused(shoal_bpe_settings settings, shoal_status status, const char *text)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_bpe_trainer *trainer = NULL;
    assert_int_equal(shoal_bpe_trainer_new(&settings, &trainer, &err), status);
    assert_null(trainer);
    if (!strstr(err.text, text)) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    }
}

static void test_settings_at_their_limits(void **state)
{
    (void)state;
    refused((shoal_bpe_settings){261, 16, 2}, SHOAL_E_LIMIT, "from 262 ");
    refused((shoal_bpe_settings){SHOAL_VOCAB_MAX + 1, 16, 2}, SHOAL_E_LIMIT, "1048577 tokens");
    refused((shoal_bpe_settings){2048, 0, 2}, SHOAL_E_LIMIT, "at most 0 bytes");
    refused((shoal_bpe_settings){2048, 1025, 2}, SHOAL_E_LIMIT, "1 to 1024");
    refused((shoal_bpe_settings){2048, 16, 0}, SHOAL_E_INVALID, "at least 1");
    for (size_t i = 0; i < 2; i++) {
        for (size_t n_vocab = 262; n_vocab <= 264; n_vocab++) {
            shoal_bpe_trainer *trainer = trainer_of(n_vocab, i ? 1024 : 2, 1);
            add(trainer, str_of("one two three"), 1);
            learn(trainer);
            assert_int_equal(shoal_bpe_trainer_stats(trainer).n_vocab, n_vocab);
            shoal_tokenizer_free(tokenizer_of(trainer));
            shoal_bpe_trainer_free(trainer);
        }
    }
    shoal_bpe_trainer *trainer = learn_text(str_of("one one one"), SHOAL_VOCAB_MAX);
    assert_int_equal(shoal_bpe_trainer_stats(trainer).n_vocab, SHOAL_BPE_VOCAB_MIN + 3);
    shoal_bpe_trainer_free(trainer);
}

static void test_texts_at_their_limits(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_bpe_trainer *trainer = trainer_of(300, 16, 2);
    assert_int_equal(shoal_bpe_trainer_add(trainer, str_of("a"), 0, &err), SHOAL_E_LIMIT);
    assert_int_equal(shoal_bpe_trainer_add(trainer, str_of("a"), SHOAL_BPE_WEIGHT_MAX + 1, &err),
                     SHOAL_E_LIMIT);
    assert_non_null(strstr(err.text, "1 to 1073741824"));
    add(trainer, str_of("a"), SHOAL_BPE_WEIGHT_MAX);
    /* As if so much had been counted before. */
    trainer->text_bytes = SHOAL_BPE_TEXT_MAX - 3;
    err = (shoal_err)SHOAL_ERR_INIT;
    assert_int_equal(shoal_bpe_trainer_add(trainer, str_of("abcd"), 1, &err), SHOAL_E_LIMIT);
    assert_non_null(strstr(err.text, "at most 1073741824 together"));
    add(trainer, str_of("ab"), 1);
    add(trainer, str_of("c"), 1);
    assert_int_equal(shoal_bpe_trainer_add(trainer, str_of("d"), 1, &err), SHOAL_E_LIMIT);
    add(trainer, str_of(""), 1);
    shoal_bpe_trainer_free(trainer);
}

static void test_distinct_words_at_their_limit(void **state)
{
    (void)state;
    assert_int_equal(SHOAL_BPE_WORDS_MAX, 32 << 20);
    for (size_t limit = 7; limit <= 9; limit++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_bpe_trainer *trainer = trainer_of(300, 16, 2);
        assert_int_equal(trainer->words.bytes.limit, SHOAL_BPE_WORDS_MAX);
        trainer->words.bytes.limit = limit;
        shoal_status status = shoal_bpe_trainer_add(trainer, str_of("abcd efg efg"), 1, &err);
        assert_int_equal(status, limit < 8 ? SHOAL_E_LIMIT : SHOAL_OK);
        assert_true(limit >= 8 || strstr(err.text, "distinct words") != NULL);
        shoal_bpe_trainer_free(trainer);
    }
}

/* Everything from new to the file, with the n-th allocation failing. */
static shoal_status whole_way(shoal_buf *bytes, shoal_err *err)
{
    static const char text[] = "one two three two three three \xC3\xA4\xC3\xA4 \xFF five five six";
    SHOAL_CLEANUP(shoal_bpe_trainer_freep) shoal_bpe_trainer *trainer = NULL;
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    shoal_bpe_settings settings = {.n_vocab = 300, .length_max = 16, .count_min = 1};
    SHOAL_TRY(shoal_bpe_trainer_new(&settings, &trainer, err));
    SHOAL_TRY(shoal_bpe_trainer_add(trainer, str_of(text), 1, err));
    SHOAL_TRY(shoal_bpe_trainer_learn(trainer, err));
    SHOAL_TRY(shoal_gguf_writer_new(&writer));
    SHOAL_TRY(shoal_bpe_trainer_write(trainer, writer, err));
    return shoal_gguf_writer_finish(writer, bytes, err);
}

static void test_allocation_failures_leak_nothing(void **state)
{
    (void)state;
    shoal_status status = SHOAL_E_NOMEM;
    size_t n_failed = 0;
    for (uint64_t n = 0; status != SHOAL_OK; n++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_buf bytes = {.data = NULL};
        shoal_mem_fail_at(n);
        status = whole_way(&bytes, &err);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        n_failed += status == SHOAL_OK ? 0 : 1;
        shoal_buf_fini(&bytes);
        assert_true(n < 2000);
    }
    assert_true(n_failed > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learn_random_texts_give_the_merges_of_counting_anew),
        cmocka_unit_test(test_learn_counts_words_and_picks_the_lower_pair_of_equals),
        cmocka_unit_test(test_learn_overlapping_pairs_merge_from_the_left),
        cmocka_unit_test(test_learn_order_of_texts_does_not_matter),
        cmocka_unit_test(test_learn_weight_is_as_often_as_that),
        cmocka_unit_test(test_learn_stops_when_no_pair_counts_enough),
        cmocka_unit_test(test_learn_tokens_are_not_longer_than_asked),
        cmocka_unit_test(test_encode_of_learnt_texts_is_as_learning_ended),
        cmocka_unit_test(test_encode_of_a_text_longer_than_a_part_is_as_learning_ended),
        cmocka_unit_test(test_write_layout_is_controls_bytes_merges),
        cmocka_unit_test(test_chat_costs_three_control_tokens),
        cmocka_unit_test(test_other_texts_come_back_and_never_become_control_tokens),
        cmocka_unit_test(test_learn_little_or_nothing),
        cmocka_unit_test(test_learn_hostile_bytes),
        cmocka_unit_test(test_settings_at_their_limits),
        cmocka_unit_test(test_texts_at_their_limits),
        cmocka_unit_test(test_distinct_words_at_their_limit),
        cmocka_unit_test(test_allocation_failures_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
