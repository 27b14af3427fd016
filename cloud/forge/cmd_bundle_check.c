/* SPDX-License-Identifier: Apache-2.0
 *
 * What an edge does with a bundle before it uses it, by hand: signature, sizes, contents, answers.
 */
#include "cloud/forge/forge.h"

#include "common/base/mem.h"
#include "common/engine/probe.h"
#include "protocol/bundle/bundle.h"

#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(forge_args, bundle.field)

static const forge_option options[] = {
    {0, "bundle", 'b', FORGE_OPTION_TEXT, AT(folder), 0, 0, "FOLDER", "the bundle (required)"},
    {0, "trust", 0, FORGE_OPTION_TEXT, AT(trust), 0, 0, "FILE",
     "PEM file of public keys (default: the signature is not looked at)"},
};

const forge_own shoal_forge_bundle_check_own = {
    .run = shoal_forge_bundle_check,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2},
};

static shoal_status load(const shoal_bundle *b, const char *folder, shoal_model **ret_model,
                         shoal_lora **ret_lora, shoal_err *err)
{
    const shoal_bundle_file *model = shoal_bundle_find(b, SHOAL_BUNDLE_MODEL, 0);
    const shoal_bundle_file *adapter = shoal_bundle_find(b, SHOAL_BUNDLE_ADAPTER, 0);
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(folder, model->name);
    SHOAL_CLEANUP(shoal_free_cleanup)
    char *second = adapter ? shoal_bundle_path(folder, adapter->name) : NULL;
    if (!path || (adapter && !second)) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the paths of a bundle");
    }
    SHOAL_TRY(shoal_model_load(path, ret_model, err));
    return adapter ? shoal_lora_load(*ret_model, second, 1, ret_lora, err) : SHOAL_OK;
}

static shoal_status run_tests(const shoal_bundle *b, const char *folder, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_lora_freep) shoal_lora *lora = NULL;
    SHOAL_TRY(load(b, folder, &model, &lora, err));
    for (size_t i = 0; i < b->n_tests; i++) {
        int32_t answer[SHOAL_BUNDLE_TEST_ANSWER_MAX];
        const shoal_bundle_test *t = &b->tests[i];
        SHOAL_TRY(shoal_probe_greedy(model, lora, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512, t->ids,
                                     t->n_ids, answer, t->n_answer, err));
        if (memcmp(answer, t->answer, t->n_answer * sizeof *answer) != 0) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "test %zu: the model answers otherwise than the manifest says",
                                 i + 1);
        }
    }
    return SHOAL_OK;
}

static shoal_status print_json(const shoal_bundle *b, bool trusted, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_TRY(shoal_buf_appendf(&out,
                                "{\"family\": \"%s\", \"version\": \"%s\", \"serial\": %llu, "
                                "\"program\": \"%u.%u.%u\", \"signature\": \"%s\", \"tests\": %zu, "
                                "\"files\": [",
                                b->family, b->version, (unsigned long long)b->serial, b->program[0],
                                b->program[1], b->program[2], trusted ? "trusted" : "not checked",
                                b->n_tests));
    for (size_t i = 0; i < b->n_files; i++) {
        char hex[SHOAL_HASH_HEX];
        const shoal_bundle_file *f = &b->files[i];
        shoal_hash_hex(&f->hash, hex);
        SHOAL_TRY(shoal_buf_appendf(
            &out, "%s{\"role\": \"%s\", \"name\": \"%s\", \"bytes\": %llu, \"sha256\": \"%s\"}",
            i > 0 ? ", " : "", shoal_bundle_role_name(f->role), f->name,
            (unsigned long long)f->n_bytes, hex));
    }
    SHOAL_TRY(shoal_buf_appendf(&out, "]}\n"));
    return shoal_forge_print(&out, err);
}

static shoal_status print_text(const shoal_bundle *b, bool trusted, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_TRY(shoal_buf_appendf(&out, "%s %s, serial %llu, for shoal-edge %u.%u.%u or later\n",
                                b->family, b->version, (unsigned long long)b->serial, b->program[0],
                                b->program[1], b->program[2]));
    for (size_t i = 0; i < b->n_files; i++) {
        const shoal_bundle_file *f = &b->files[i];
        SHOAL_TRY(shoal_buf_appendf(&out, "  %-8s %-32s %12llu bytes\n",
                                    shoal_bundle_role_name(f->role), f->name,
                                    (unsigned long long)f->n_bytes));
    }
    SHOAL_TRY(shoal_buf_appendf(&out, "signature %s, files whole, %zu of %zu tests answered\n",
                                trusted ? "trusted" : "not checked", b->n_tests, b->n_tests));
    return shoal_forge_print(&out, err);
}

shoal_status shoal_forge_bundle_check(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_bundle_keys_freep) shoal_bundle_keys *keys = NULL;
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *b = NULL;
    const char *folder = args->bundle.folder;
    SHOAL_TRY(shoal_forge_need(folder, "-b FOLDER", err));
    if (args->bundle.trust) {
        SHOAL_TRY(shoal_bundle_keys_read(args->bundle.trust, &keys, err));
    }
    SHOAL_TRY(shoal_bundle_open(folder, keys, NULL, NULL, &b, err));
    SHOAL_TRY(shoal_bundle_check_files(b, folder, NULL, err));
    SHOAL_TRY(run_tests(b, folder, err));
    return args->json ? print_json(b, keys != NULL, err) : print_text(b, keys != NULL, err);
}
