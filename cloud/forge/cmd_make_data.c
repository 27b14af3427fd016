/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes examples of the field-service assistant: JSON lines, plain text for a tokenizer to be
 * trained on, or the catalogue itself as a table.
 */
#include "cloud/forge/field.h"
#include "cloud/forge/forge.h"

#include "common/base/file.h"

#include <stdio.h>
#include <string.h>

enum {
    FLUSH_BYTES = 1 << 20
};

/* Where lines go: a file that appears when whole, or stdout. */
typedef struct sink {
    shoal_file_out *file; /* NULL: stdout */
    shoal_buf buf;
} sink;

static void sink_fini(sink *s)
{
    shoal_file_out_close(s->file);
    shoal_buf_fini(&s->buf);
}

static shoal_status sink_flush(sink *s, size_t above, shoal_err *err)
{
    if (s->buf.length <= above) {
        return SHOAL_OK;
    }
    SHOAL_TRY(s->file ? shoal_file_out_write(s->file, s->buf.data, s->buf.length, err)
                      : shoal_forge_print(&s->buf, err));
    shoal_buf_reset(&s->buf);
    return SHOAL_OK;
}

static shoal_status put_json(shoal_buf *buf, const forge_example *example)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"kind\": \"%s\", ", shoal_forge_kind_name(example->kind)));
    if (example->entry == SIZE_MAX) {
        SHOAL_TRY(shoal_buf_appendf(buf, "\"entry\": null, \"prompt\": "));
    } else {
        SHOAL_TRY(shoal_buf_appendf(buf, "\"entry\": %zu, \"prompt\": ", example->entry));
    }
    SHOAL_TRY(shoal_forge_json_string(buf, example->prompt, strlen(example->prompt)));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"answer\": "));
    SHOAL_TRY(shoal_forge_json_string(buf, example->answer, strlen(example->answer)));
    return shoal_buf_appendf(buf, "}\n");
}

static shoal_status put_examples(const forge_args *args, const forge_field *field,
                                 forge_split split, sink *to, shoal_err *err)
{
    bool whole = split == FORGE_SPLIT_CATALOGUE && args->n_examples == 0;
    uint64_t n = whole ? shoal_forge_field_n_entries(field)
                       : (uint64_t)(args->n_examples ? args->n_examples : 10);
    for (uint64_t i = 0; i < n; i++) {
        forge_example example;
        shoal_forge_field_example(field, split, args->exponent, i, &example);
        shoal_status status =
            args->text ? shoal_buf_appendf(&to->buf, "%s\n%s\n", example.prompt, example.answer)
                       : put_json(&to->buf, &example);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "no memory for examples");
        }
        SHOAL_TRY(sink_flush(to, FLUSH_BYTES, err));
    }
    return SHOAL_OK;
}

static shoal_status put_catalogue(const forge_args *args, const forge_field *field, sink *to,
                                  shoal_err *err)
{
    SHOAL_TRY(shoal_buf_appendf(&to->buf, "%6s %9s  %-10s %-5s %-9s %-10s %-8s %s\n", "rank",
                                "share", "device", "code", "part", "component", "failure",
                                "remedy"));
    for (size_t i = 0; i < shoal_forge_field_n_entries(field); i++) {
        forge_entry e;
        shoal_forge_field_entry(field, i, &e);
        shoal_status status =
            shoal_buf_appendf(&to->buf, "%6zu %8.4f%%  %-10s %-5s %-9s %-10s %-8s %s\n", i,
                              100 * shoal_forge_field_share(field, args->exponent, i), e.device,
                              e.code, e.part, e.component, e.failure, e.remedy);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "no memory for the catalogue");
        }
        SHOAL_TRY(sink_flush(to, FLUSH_BYTES, err));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_make_data(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_field_freep) forge_field *field = NULL;
    SHOAL_CLEANUP(sink_fini) sink to = {0};
    forge_split split = FORGE_SPLIT_TRAIN;
    if (args->split && !shoal_forge_split_find(args->split, &split)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--split %s: known are train, dev, test, para, comp, catalogue, study",
                             args->split);
    }
    if (!shoal_forge_exponent_valid(args->exponent)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--exponent %g: quarters from 0 to 2 have a table, as 0.5 or 1",
                             args->exponent);
    }
    SHOAL_TRY(shoal_forge_field_new((uint64_t)args->seed, (size_t)args->entries, &field, err));
    if (args->output) {
        SHOAL_TRY(shoal_file_out_open(args->output, &to.file, err));
    }
    SHOAL_TRY(args->catalogue ? put_catalogue(args, field, &to, err)
                              : put_examples(args, field, split, &to, err));
    SHOAL_TRY(sink_flush(&to, 0, err));
    return to.file ? shoal_file_out_commit(to.file, err) : SHOAL_OK;
}
