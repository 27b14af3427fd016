/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole way from nothing to a model that knows its catalogue, by the commands themselves: a
 * vocabulary from examples, a model from that, and the engine to ask it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/feed.h"
#include "cloud/forge/forge.h"
#include "cloud/forge/train_plan.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ENTRIES = 50,
    MORE_ENTRIES = 8,
    EXAMPLES = 600
};

static char folder[64];
static char text_path[96];
static char tokenizer_path[96];
static char model_path[96];
static char checkpoint_path[96];
static char adapter_path[96];

static void must(shoal_status status, const shoal_err *err)
{
    if (status != SHOAL_OK) {
        fail_msg("status %d: %s", status, err->text);
    }
}

static void write_examples(void)
{
    SHOAL_CLEANUP(shoal_forge_field_freep) forge_field *field = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_err err = SHOAL_ERR_INIT;
    must(shoal_forge_field_new(0, ENTRIES, &field, &err), &err);
    for (uint64_t i = 0; i < EXAMPLES; i++) {
        forge_example e;
        shoal_forge_field_example(field, FORGE_SPLIT_TRAIN, 0, i, &e);
        must(shoal_buf_appendf(&text, "%s\n%s\n", e.prompt, e.answer), &err);
    }
    must(shoal_file_write(text_path, text.data, text.length, &err), &err);
}

static int make_tokenizer(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-train-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    (void)snprintf(text_path, sizeof text_path, "%s/text", folder);
    (void)snprintf(tokenizer_path, sizeof tokenizer_path, "%s/tok.gguf", folder);
    (void)snprintf(model_path, sizeof model_path, "%s/model.gguf", folder);
    (void)snprintf(checkpoint_path, sizeof checkpoint_path, "%s/run.ckpt", folder);
    (void)snprintf(adapter_path, sizeof adapter_path, "%s/adapter.gguf", folder);
    write_examples();
    char *files[] = {text_path};
    const forge_args args = {.output = tokenizer_path,
                             .vocab = 700,
                             .token_bytes = 16,
                             .min_count = 2,
                             .files = files,
                             .n_files = 1};
    shoal_err err = SHOAL_ERR_INIT;
    must(shoal_forge_train_tokenizer(&args, &err), &err);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    (void)unlink(text_path);
    (void)unlink(tokenizer_path);
    (void)unlink(model_path);
    (void)unlink(checkpoint_path);
    (void)unlink(adapter_path);
    return rmdir(folder);
}

static forge_args train_args(void)
{
    forge_args args = shoal_forge_train_own.defaults;
    args.shape = "dim=96,layers=2,heads=4,kv=2,ffn=192";
    args.train.tokenizer = tokenizer_path;
    args.entries = ENTRIES;
    args.exponent = 0;
    args.output = model_path;
    args.threads = 2;
    args.train.parts = 2;
    args.train.part_tokens = 512;
    args.train.steps = 400;
    return args;
}

/* --- asking ---------------------------------------------------------------------------------- */

static bool is_answered(forge_session *s, const forge_example *e)
{
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    size_t n = 0;
    size_t n_prompt = 0;
    shoal_err err = SHOAL_ERR_INIT;
    must(shoal_forge_encode_example(s->model->tokenizer, e->prompt, e->answer, &ids, &n, &n_prompt,
                                    &err),
         &err);
    shoal_kv_seq *seq = NULL;
    must(shoal_kv_seq_new(shoal_engine_kv(s->engine), &seq), &err);
    shoal_span span = {.seq = seq, .ids = ids, .n_ids = n_prompt, .n_logits = 1, .lora = s->lora};
    bool same = true;
    for (size_t at = n_prompt; at < n && same; at++) {
        must(shoal_engine_step(s->engine, &span, 1), &err);
        const float *logits = shoal_engine_logits(s->engine, span.logits_i);
        int32_t best = 0;
        for (size_t i = 1; i < s->model->hp.n_vocab; i++) {
            best = logits[i] > logits[best] ? (int32_t)i : best;
        }
        same = best == ids[at];
        span.ids = &ids[at];
        span.n_ids = 1;
    }
    shoal_kv_seq_free(seq);
    return same;
}

static size_t count_answered(uint64_t seed, size_t n_entries, const char *lora)
{
    SHOAL_CLEANUP(shoal_forge_field_freep) forge_field *field = NULL;
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    shoal_err err = SHOAL_ERR_INIT;
    const forge_args args = {.model = model_path, .threads = 1, .lora = lora};
    must(shoal_forge_field_new(seed, n_entries, &field, &err), &err);
    must(shoal_forge_session_open(&args, 256, 1, 0, &s, &err), &err);
    size_t n = 0;
    for (uint64_t i = 0; i < n_entries; i++) {
        forge_example e;
        shoal_forge_field_example(field, FORGE_SPLIT_CATALOGUE, 0, i, &e);
        n += is_answered(&s, &e) ? 1 : 0;
    }
    return n;
}

static void test_small_catalogue_is_learnt_whole(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    forge_args args = train_args();
    must(shoal_forge_train(&args, &err), &err);
    assert_int_equal(count_answered(0, ENTRIES, NULL), ENTRIES);
}

/* The model just made knows nothing of another catalogue; an adapter that is trained on it does,
 * and the engine computes with the file as the trainer did with its factors. */
static void test_adapter_learns_another_catalogue(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    forge_args args = train_args();
    assert_int_equal(count_answered(9, MORE_ENTRIES, NULL), 0);
    args.shape = NULL;
    args.train.tokenizer = NULL;
    args.model = model_path;
    args.output = adapter_path;
    args.seed = 9;
    args.entries = MORE_ENTRIES;
    args.train.lora_rank = 8;
    args.train.adam_rate = 0.01;
    args.train.steps = 120;
    args.train.study_share = 0.5;
    must(shoal_forge_train(&args, &err), &err);
    assert_int_equal(count_answered(9, MORE_ENTRIES, adapter_path), MORE_ENTRIES);
    assert_int_equal(count_answered(0, ENTRIES, NULL), ENTRIES); /* the model is as it was */
}

/* --- stopped and gone on --------------------------------------------------------------------- */

static void read_model(shoal_buf *buf)
{
    shoal_err err = SHOAL_ERR_INIT;
    must(shoal_file_read(model_path, SIZE_MAX, buf, &err), &err);
}

/* SIGTERM ends a run between two steps with a checkpoint; the same command ends it as if it had
 * never been stopped. */
static void test_stopped_run_goes_on_to_the_same_model(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf whole = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf resumed = {0};
    shoal_err err = SHOAL_ERR_INIT;
    forge_args args = train_args();
    args.train.steps = 60;
    args.train.part_tokens = 256;
    must(shoal_forge_train(&args, &err), &err);
    read_model(&whole);
    args.train.checkpoint = checkpoint_path;
    args.train.every = 1;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(0);
        shoal_status status = shoal_forge_train(&args, NULL);
        _exit(status == SHOAL_OK ? 0 : status == SHOAL_E_CANCELLED ? 3 : 1);
    }
    (void)usleep(150000);
    (void)kill(child, SIGTERM);
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    /* A signal before the handler is there kills; one after the last step comes too late. */
    assert_true(WIFSIGNALED(how) || WEXITSTATUS(how) == 3 || WEXITSTATUS(how) == 0);
    must(shoal_forge_train(&args, &err), &err);
    read_model(&resumed);
    assert_int_equal(whole.length, resumed.length);
    assert_memory_equal(whole.data, resumed.data, whole.length);
}

/* A script must not take a run that was stopped for one that is done. */
static void test_stopped_run_says_so(void **state)
{
    (void)state;
    forge_args args = train_args();
    args.train.steps = 1000000;
    args.train.part_tokens = 256;
    int how = 0;
    do { /* a signal before the handler is there kills: then once more */
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            alarm(0);
            shoal_err err = SHOAL_ERR_INIT;
            shoal_status status = shoal_forge_train(&args, &err);
            _exit(status == SHOAL_E_CANCELLED && strstr(err.text, "of 1000000 steps") ? 3 : 1);
        }
        (void)usleep(300000);
        (void)kill(child, SIGTERM);
        assert_int_equal(waitpid(child, &how, 0), child);
    } while (WIFSIGNALED(how));
    assert_int_equal(WEXITSTATUS(how), 3);
}

/* --- batches --------------------------------------------------------------------------------- */

static void test_batch_is_a_pure_function_and_within_its_room(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_forge_train_plan_close) forge_train_plan plan = {0};
    shoal_err err = SHOAL_ERR_INIT;
    forge_args args = train_args();
    args.train.text = text_path;
    args.train.text_share = 0.3;
    must(shoal_forge_train_plan_open(&args, &plan, &err), &err);
    const int32_t bos = shoal_tokenizer_bos(plan.tokenizer);
    const int32_t eos = shoal_tokenizer_eos(plan.tokenizer);
    int32_t kept[512];
    size_t n_kept = 0;
    for (uint64_t pass = 0; pass < 2; pass++) {
        for (uint64_t step = 0; step < 5; step++) {
            shoal_train_batch b;
            assert_int_equal(shoal_forge_feed_batch(plan.feed, step, 1, &b), SHOAL_OK);
            assert_true(b.batch.n_tokens > 400 && b.batch.n_tokens <= 512);
            assert_int_equal(b.batch.segments[b.batch.n_segments], b.batch.n_tokens);
            for (size_t s = 0; s < b.batch.n_segments; s++) {
                assert_int_equal(b.batch.ids[b.batch.segments[s]], bos);
                assert_int_equal(b.batch.positions[b.batch.segments[s]], 0);
            }
            for (size_t t = 0; t < b.batch.n_targets; t++) {
                size_t at = b.batch.targets[t];
                bool inside = at + 1 < b.batch.n_tokens && b.batch.ids[at + 1] != bos;
                assert_true(t == 0 || at > b.batch.targets[t - 1]);
                assert_true(!inside || b.target_ids[t] == b.batch.ids[at + 1]);
            }
            assert_int_equal(b.target_ids[b.batch.n_targets - 1], eos);
            if (step == 3 && pass == 0) {
                n_kept = b.batch.n_tokens;
                memcpy(kept, b.batch.ids, n_kept * sizeof *kept);
            } else if (step == 3) {
                assert_int_equal(n_kept, b.batch.n_tokens);
                assert_memory_equal(kept, b.batch.ids, n_kept * sizeof *kept);
            } else {
                assert_true(n_kept != b.batch.n_tokens ||
                            memcmp(kept, b.batch.ids, n_kept * sizeof *kept) != 0);
            }
        }
    }
}

/* --- usage ----------------------------------------------------------------------------------- */

static void test_wrong_usage_is_refused_in_words(void **state)
{
    (void)state;
    static const char *const shapes[] = {
        "dim=64,layers=2,heads=4",
        "dim=64,layers=2,heads=4,ffn=x",
        "dim=64,layers=0,heads=4,ffn=8",
        "dim=64,layers=2,heads=5,ffn=8",
        "dim=64,layers=2,heads=4,kv=3,ffn=8",
        "dim=64,layers=2,heads=4,ffn=8,exits=2",
        "dim=64,layers=2,heads=4,ffn=8,exits=1+1",
        "dim=64,layers=2,heads=4,ffn=8,colour=2",
        "dim",
        "dim=64,layers=2,heads=4,ffn=8,head=3",
    };
    for (size_t i = 0; i < SHOAL_COUNT(shapes); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        forge_args args = train_args();
        args.shape = shapes[i];
        assert_true(shoal_forge_train(&args, &err) < 0);
        assert_non_null(strstr(err.text, "--"));
    }
    for (size_t i = 0; i < 7; i++) {
        shoal_err err = SHOAL_ERR_INIT;
        forge_args args = train_args();
        args.output = i == 0 ? NULL : args.output;
        args.train.tokenizer = i == 1 ? NULL : args.train.tokenizer;
        args.train.minutes = i == 2 ? 1 : -1;
        args.train.optimiser = i == 3 ? "sgd" : args.train.optimiser;
        args.entries = i == 4 ? 0 : args.entries;
        args.exponent = i == 5 ? 0.3 : args.exponent;
        args.train.exit_weights = i == 6 ? "0.5" : NULL;
        assert_true(shoal_forge_train(&args, &err) < 0);
        assert_true(err.text[0] != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_usage_is_refused_in_words),
        cmocka_unit_test(test_batch_is_a_pure_function_and_within_its_room),
        cmocka_unit_test(test_stopped_run_goes_on_to_the_same_model),
        cmocka_unit_test(test_stopped_run_says_so),
        cmocka_unit_test(test_small_catalogue_is_learnt_whole),
        cmocka_unit_test(test_adapter_learns_another_catalogue),
    };
    return cmocka_run_group_tests(tests, make_tokenizer, remove_folder);
}
