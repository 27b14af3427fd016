/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes a bundle for a fleet (protocol/bundle): copies of its files, what the model answers, the
 * manifest that says so, and its signature.
 */
#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/engine/probe.h"
#include "protocol/bundle/bundle.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    PIECE_BYTES = 1 << 20
};

#define AT(field) offsetof(forge_args, bundle.field)

static const forge_option options[] = {
    {0, "output", 'o', FORGE_OPTION_TEXT, offsetof(forge_args, output), 0, 0, "FOLDER",
     "folder to make (required)"},
    {0, "serial", 0, FORGE_OPTION_INT, AT(serial), 1, 0x1p53, "N",
     "greater than that of every bundle of the family before (required)"},
    {0, "family", 0, FORGE_OPTION_TEXT, AT(family), 0, 0, "NAME",
     "edges take bundles of their family alone (default: edge)"},
    {0, "version", 0, FORGE_OPTION_TEXT, AT(version), 0, 0, "NAME",
     "of the model, for people (default: the serial)"},
    {0, "program", 0, FORGE_OPTION_TEXT, AT(program), 0, 0, "X.Y.Z",
     "least version of shoal-edge that runs it (default: this program's)"},
    {0, "adapter", 0, FORGE_OPTION_TEXT, AT(adapter), 0, 0, "FILE",
     "LoRA that all answers have (default: none)"},
    {0, "prefix", 0, FORGE_OPTION_TEXT, AT(prefix), 0, 0, "FILE",
     "KV of a text that prompts begin with, as shoal session save writes it (default: none)"},
    {0, "test", 0, FORGE_OPTION_TEXT, AT(test), 0, 0, "TEXT",
     "what an edge has the model continue before it is used (default: The quick brown fox)"},
    {0, "answer", 0, FORGE_OPTION_INT, AT(answer), 1, SHOAL_BUNDLE_TEST_ANSWER_MAX, "N",
     "tokens of that continuation (default 16)"},
    {0, "key", 0, FORGE_OPTION_TEXT, AT(key), 0, 0, "FILE",
     "PEM file of an Ed25519 private key (default: the bundle is not signed yet)"},
};

const forge_own shoal_forge_bundle_own = {
    .run = shoal_forge_bundle,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2,
                 .bundle = {.family = "edge",
                            .program = SHOAL_VERSION,
                            .test = "The quick brown fox",
                            .answer = 16}},
};

static shoal_status copy_bytes(const char *from, const char *to, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    SHOAL_TRY(shoal_map_open(from, &map, err));
    SHOAL_TRY(shoal_file_out_open(to, &out, err));
    for (size_t at = 0; at < map.size; at += PIECE_BYTES) {
        size_t n = SHOAL_MIN((size_t)PIECE_BYTES, map.size - at);
        SHOAL_TRY(shoal_file_out_write(out, map.data + at, n, err));
    }
    return shoal_file_out_commit(out, err);
}

static shoal_status add_file(shoal_bundle *b, const char *folder, shoal_bundle_role role,
                             const char *from, shoal_err *err)
{
    const char *slash = strrchr(from, '/');
    const char *name = slash ? slash + 1 : from;
    shoal_bundle_file *f = &b->files[b->n_files];
    SHOAL_CLEANUP(shoal_free_cleanup) char *to = shoal_bundle_path(folder, name);
    if (!to) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the path of %s", name);
    }
    if (strlen(name) > SHOAL_BUNDLE_NAME_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%.100s: a name in a bundle has at most %d bytes",
                             name, (int)SHOAL_BUNDLE_NAME_MAX);
    }
    SHOAL_TRY(copy_bytes(from, to, err));
    f->role = role;
    memcpy(f->name, name, strlen(name));
    SHOAL_TRY(shoal_bundle_measure(to, NULL, &f->n_bytes, &f->hash, err));
    b->n_files++;
    return SHOAL_OK;
}

/* What the model answers, as an edge will compare it. */
static shoal_status add_test(const forge_args *args, shoal_bundle *b, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_lora_freep) shoal_lora *lora = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    shoal_bundle_test *t = &b->tests[0];
    shoal_encode_flags flags = {.add_bos = true, .parse_special = true};
    SHOAL_TRY(shoal_model_load(args->model, &model, err));
    if (args->bundle.adapter) {
        SHOAL_TRY(shoal_lora_load(model, args->bundle.adapter, 1, &lora, err));
    }
    SHOAL_TRY(shoal_tokenizer_encode(model->tokenizer, args->bundle.test, strlen(args->bundle.test),
                                     flags, &ids, &t->n_ids, err));
    if (t->n_ids > SHOAL_BUNDLE_TEST_IDS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "--test has %zu tokens, at most %d are taken",
                             t->n_ids, (int)SHOAL_BUNDLE_TEST_IDS_MAX);
    }
    memcpy(t->ids, ids, t->n_ids * sizeof *ids);
    t->n_answer = (size_t)args->bundle.answer;
    b->n_tests = 1;
    return shoal_probe_greedy(model, lora, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512, t->ids, t->n_ids,
                              t->answer, t->n_answer, err);
}

static shoal_status copy_name(const char *text, const char *option, char *ret_name, shoal_err *err)
{
    size_t n = strlen(text);
    if (n > SHOAL_BUNDLE_NAME_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: at most %d bytes", option,
                             (int)SHOAL_BUNDLE_NAME_MAX);
    }
    memcpy(ret_name, text, n + 1);
    return SHOAL_OK;
}

static shoal_status fill(const forge_args *args, shoal_bundle *b, shoal_err *err)
{
    const forge_bundle_args *a = &args->bundle;
    char serial[24];
    (void)snprintf(serial, sizeof serial, "%ld", a->serial);
    b->serial = (uint64_t)a->serial;
    SHOAL_TRY(copy_name(a->family, "--family", b->family, err));
    SHOAL_TRY(copy_name(a->version ? a->version : serial, "--version", b->version, err));
    if (shoal_bundle_program_parse(a->program, b->program) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--program: a version as 1.2.3 is expected");
    }
    SHOAL_TRY(add_test(args, b, err));
    SHOAL_TRY(add_file(b, args->output, SHOAL_BUNDLE_MODEL, args->model, err));
    if (a->adapter) {
        SHOAL_TRY(add_file(b, args->output, SHOAL_BUNDLE_ADAPTER, a->adapter, err));
    }
    return a->prefix ? add_file(b, args->output, SHOAL_BUNDLE_PREFIX, a->prefix, err) : SHOAL_OK;
}

static shoal_status write_part(const char *folder, const char *name, const void *data, size_t n,
                               shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(folder, name);
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the path of %s", name);
    }
    return shoal_file_write(path, data, n, err);
}

static shoal_status write_manifest(const forge_args *args, const shoal_bundle *b, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    uint8_t signature[SHOAL_BUNDLE_SIGNATURE_BYTES];
    SHOAL_TRY(shoal_bundle_print(b, &text, err));
    if (args->bundle.key) {
        SHOAL_TRY(shoal_bundle_sign(args->bundle.key, text.data, text.length, signature, err));
    }
    SHOAL_TRY(write_part(args->output, SHOAL_BUNDLE_MANIFEST, text.data, text.length, err));
    return args->bundle.key
               ? write_part(args->output, SHOAL_BUNDLE_SIGNATURE, signature, sizeof signature, err)
               : SHOAL_OK;
}

static void report(const forge_args *args, const shoal_bundle *b)
{
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < b->n_files; i++) {
        n_bytes += b->files[i].n_bytes;
    }
    if (args->json) {
        (void)printf("{\"family\": \"%s\", \"version\": \"%s\", \"serial\": %llu, \"files\": %zu, "
                     "\"bytes\": %llu, \"signed\": %s}\n",
                     b->family, b->version, (unsigned long long)b->serial, b->n_files,
                     (unsigned long long)n_bytes, args->bundle.key ? "true" : "false");
        return;
    }
    (void)printf("%s: %s %s, serial %llu, %zu files, %.1f MiB, %s\n", args->output, b->family,
                 b->version, (unsigned long long)b->serial, b->n_files, (double)n_bytes / 1048576.0,
                 args->bundle.key ? "signed" : "not signed");
}

shoal_status shoal_forge_bundle(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->output, "-o FOLDER", err));
    SHOAL_TRY(shoal_forge_need(args->bundle.serial > 0 ? "" : NULL, "--serial N", err));
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *b = shoal_calloc(1, sizeof *b);
    if (!b) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a manifest");
    }
    if (mkdir(args->output, 0777) != 0) {
        return shoal_err_set(err, SHOAL_E_IO, "%s: cannot make this folder: %s", args->output,
                             errno == EEXIST ? "it is there already" : "see its parent folder");
    }
    SHOAL_TRY(fill(args, b, err));
    SHOAL_TRY(write_manifest(args, b, err));
    report(args, b);
    return SHOAL_OK;
}
