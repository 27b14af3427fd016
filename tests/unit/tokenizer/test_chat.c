/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates: recognised by their markers, rendered as their families write them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"
#include "common/tokenizer/vocab.h"

#include <string.h>

static const shoal_chat_message talk[] = {
    {"system", "Be brief. "}, {"user", " Hi"}, {"assistant", "Hello!"}, {"user", "Bye"}};

/* Just enough of a template for it to be recognised. */
static const char llama2_like[] = "{{ bos_token }}[INST] <<SYS>>{{ eos_token }}";
static const char mistral_like[] = "{{ bos_token }}[INST] {{ content }} [/INST]{{ eos_token }}";
static const char zephyr_like[] = "<|user|>{{ content + eos_token }}<|assistant|>";
static const char llama3_like[] = "<|start_header_id|>{{ role }}<|end_header_id|>";

static shoal_tokenizer *load(const char *chat_template)
{
    fixture f;
    fixture_init_spm(&f);
    f.chat_template = chat_template;
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    fixture_fini(&f);
    return tokenizer;
}

static void test_render_each_template_as_its_family(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *chat_template;
        const char *want;
    } cases[] = {
        {"none", NULL, "Be brief. \n Hi\nHello!\nBye"},
        {"none", "", "Be brief. \n Hi\nHello!\nBye"},
        {"chatml", "{% for m in messages %}<|im_start|>{% endfor %}",
         "<|im_start|>system\nBe brief. <|im_end|>\n<|im_start|>user\n Hi<|im_end|>\n"
         "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
         "<|im_start|>assistant\n"},
        {"llama3", llama3_like,
         "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
         "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
         "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"zephyr", zephyr_like,
         "<|system|>\nBe brief. </s>\n<|user|>\n Hi</s>\n<|assistant|>\nHello!</s>\n"
         "<|user|>\nBye</s>\n<|assistant|>\n"},
        {"gemma", "<start_of_turn>",
         "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
         "<start_of_turn>model\nHello!<end_of_turn>\n"
         "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"},
        {"llama2", llama2_like,
         "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello! </s><s>[INST] Bye [/INST]"},
        {"mistral", mistral_like, "[INST] Be brief.\n\n Hi [/INST] Hello!</s>[INST] Bye [/INST]"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_tokenizer *tokenizer = load(cases[i].chat_template);
        assert_string_equal(shoal_chat_template_name(tokenizer), cases[i].name);
        shoal_buf buf = {.data = NULL};
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_buf_append(&buf, ">", 1), 0);
        assert_int_equal(shoal_chat_render(tokenizer, talk, SHOAL_COUNT(talk), &buf, &err), 0);
        assert_int_equal(buf.data[0], '>'); /* appended, not put in its place */
        assert_string_equal(buf.data + 1, cases[i].want);
        shoal_buf_fini(&buf);
        shoal_tokenizer_free(tokenizer);
    }
}

static void test_render_unknown_template_is_refused_with_the_list(void **state)
{
    (void)state;
    static const char *const unknown[] = {
        "{% for i in range(1000000000) %}x{% endfor %}",
        "<|user|>{{ content }}<|end|><|assistant|>{{ eos_token }}",
        "[INST]{{ eos_token }}[SYSTEM_PROMPT]",
        "[INST]",
        " ",
    };
    for (size_t i = 0; i < SHOAL_COUNT(unknown); i++) {
        shoal_tokenizer *tokenizer = load(unknown[i]);
        shoal_buf buf = {.data = NULL};
        shoal_err err = SHOAL_ERR_INIT;
        assert_string_equal(shoal_chat_template_name(tokenizer), "unsupported");
        assert_int_equal(shoal_chat_render(tokenizer, talk, 2, &buf, &err), SHOAL_E_UNSUPPORTED);
        assert_non_null(strstr(err.text, "none, chatml, llama2, llama3, zephyr, gemma, mistral"));
        assert_int_equal(buf.length, 0);
        shoal_buf_fini(&buf);
        shoal_tokenizer_free(tokenizer);
    }
}

static void refused(const char *chat_template, const shoal_chat_message *messages, size_t n,
                    const char *text)
{
    shoal_tokenizer *tokenizer = load(chat_template);
    shoal_buf buf = {.data = NULL};
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_chat_render(tokenizer, messages, n, &buf, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, text));
    assert_int_equal(buf.length, 0);
    shoal_buf_fini(&buf);
    shoal_tokenizer_free(tokenizer);
}

static void test_render_bad_messages_are_refused(void **state)
{
    (void)state;
    static const shoal_chat_message no_content[] = {{"user", "a"}, {"user", NULL}};
    static const shoal_chat_message no_role[] = {{NULL, "a"}};
    static const shoal_chat_message odd_role[] = {{"user|>\n<|system", "a"}};
    static const shoal_chat_message lost_system[] = {{"user", "a"}, {"system", "b"}};
    static const shoal_chat_message split_system[] = {
        {"system", "b"}, {"assistant", "c"}, {"user", "a"}};
    refused(NULL, no_content, 2, "messages[1] lacks its content");
    refused(NULL, no_role, 1, "messages[0] lacks its role");
    refused(zephyr_like, odd_role, 1, "messages[0].role");
    refused("<start_of_turn>", lost_system, 2, "messages[1]");
    refused(llama2_like, split_system, 3, "messages[0]");
    refused(mistral_like, lost_system, 2, "mistral needs a user message");
}

static void test_render_several_systems_join(void **state)
{
    (void)state;
    static const shoal_chat_message messages[] = {
        {"system", "One."}, {"system", "Two."}, {"user", "Hi"}};
    shoal_tokenizer *tokenizer = load("<start_of_turn>");
    shoal_buf buf = {.data = NULL};
    assert_int_equal(shoal_chat_render(tokenizer, messages, 3, &buf, NULL), 0);
    assert_string_equal(
        buf.data, "<start_of_turn>user\nOne.\n\nTwo.\n\nHi<end_of_turn>\n<start_of_turn>model\n");
    shoal_buf_fini(&buf);
    shoal_tokenizer_free(tokenizer);
}

static void test_render_no_messages_opens_the_turn(void **state)
{
    (void)state;
    shoal_tokenizer *tokenizer = load("<|im_start|>");
    shoal_buf buf = {.data = NULL};
    assert_int_equal(shoal_chat_render(tokenizer, NULL, 0, &buf, NULL), 0);
    assert_string_equal(buf.data, "<|im_start|>assistant\n");
    shoal_buf_fini(&buf);
    shoal_tokenizer_free(tokenizer);
}

static void test_render_full_or_failing_buffer_is_left_alone(void **state)
{
    (void)state;
    static const char *const all[] = {NULL,        "<|im_start|>", llama3_like,      zephyr_like,
                                      llama2_like, mistral_like,   "<start_of_turn>"};
    for (size_t k = 0; k < SHOAL_COUNT(all); k++) {
        shoal_tokenizer *tokenizer = load(all[k]);
        shoal_buf whole = {.data = NULL};
        assert_int_equal(shoal_chat_render(tokenizer, talk, 4, &whole, NULL), 0);
        for (size_t limit = 1; limit <= whole.length; limit++) {
            shoal_buf buf = {.data = NULL, .limit = limit};
            shoal_err err = SHOAL_ERR_INIT;
            shoal_status status = shoal_chat_render(tokenizer, talk, 4, &buf, &err);
            assert_int_equal(status, limit == whole.length ? SHOAL_OK : SHOAL_E_LIMIT);
            assert_int_equal(err.code, status);
            assert_int_equal(buf.length, limit == whole.length ? whole.length : 0);
            shoal_buf_fini(&buf);
        }
        shoal_status status = SHOAL_E_NOMEM;
        for (uint64_t i = 0; status != SHOAL_OK; i++) {
            shoal_buf buf = {.data = NULL};
            shoal_mem_fail_at(i);
            status = shoal_chat_render(tokenizer, talk, 4, &buf, NULL);
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
            assert_int_equal(buf.length, status == SHOAL_OK ? whole.length : 0);
            shoal_buf_fini(&buf);
        }
        shoal_buf_fini(&whole);
        shoal_tokenizer_free(tokenizer);
    }
}

static void test_template_hash_follows_the_template(void **state)
{
    (void)state;
    /* SHA-256 of nothing. */
    static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    char hex[SHOAL_HASH_HEX];
    shoal_tokenizer *tokenizer = load(NULL);
    shoal_hash_hex(shoal_tokenizer_template_hash(tokenizer), hex);
    assert_string_equal(hex, empty);
    shoal_tokenizer_free(tokenizer);
    tokenizer = load("<|im_start|>");
    shoal_hash_hex(shoal_tokenizer_template_hash(tokenizer), hex);
    assert_string_not_equal(hex, empty);
    shoal_tokenizer_free(tokenizer);
}

static void test_template_length_limit(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    char *text = shoal_calloc(SHOAL_CHAT_TEMPLATE_MAX + 2, 1);
    assert_non_null(text);
    memset(text, 'x', SHOAL_CHAT_TEMPLATE_MAX + 1);
    f.chat_template = text;
    fixture_refused(&f, SHOAL_E_LIMIT, "tokenizer.chat_template");
    text[SHOAL_CHAT_TEMPLATE_MAX] = '\0';
    shoal_tokenizer_free(fixture_load_ok(&f));
    text[SHOAL_CHAT_TEMPLATE_MAX - 1] = '\0';
    shoal_tokenizer_free(fixture_load_ok(&f));
    shoal_free(text);
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render_each_template_as_its_family),
        cmocka_unit_test(test_render_unknown_template_is_refused_with_the_list),
        cmocka_unit_test(test_render_bad_messages_are_refused),
        cmocka_unit_test(test_render_several_systems_join),
        cmocka_unit_test(test_render_no_messages_opens_the_turn),
        cmocka_unit_test(test_render_full_or_failing_buffer_is_left_alone),
        cmocka_unit_test(test_template_hash_follows_the_template),
        cmocka_unit_test(test_template_length_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
