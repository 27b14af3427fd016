/* SPDX-License-Identifier: Apache-2.0
 *
 * What `eval` alone is asked.
 */
#include "cloud/forge/field.h"
#include "cloud/forge/forge.h"

#define AT(field) offsetof(forge_args, eval.field)

static const forge_option options[] = {
    {0, "edge", 0, FORGE_OPTION_TEXT, AT(edge), 0, 0, "FILE",
     "a second model, which writes the drafts"},
    {0, "data", 0, FORGE_OPTION_TEXT, AT(data), 0, 0, "DATA",
     "FILE.jsonl, or field:test,para,comp,catalogue or some of them (default field)"},
    {0, "questions", 'n', FORGE_OPTION_INT, AT(questions), 1, 1 << 20, "N",
     "questions of a split (default 4000; all of a file, all of the catalogue)"},
    {0, "threshold", 0, FORGE_OPTION_REAL, AT(threshold), 0, 2, "T",
     "tokens of which the edge is less sure are the full model's"},
    {0, "pick", 0, FORGE_OPTION_FLAG, AT(pick), 0, 0, NULL,
     "choose the threshold on the split dev, for 99.5 % of the full model's exact match"},
    {0, "exit", 0, FORGE_OPTION_TEXT, AT(exit), 0, 0, "POLICY",
     "also answer with tokens leaving at exits: risk, or fixed:threshold=0.9"},
    {0, "wait", 0, FORGE_OPTION_INT, AT(wait), 1, SHOAL_DEPTH_WAITING_MAX, "N",
     "with --exit: tokens that wait for the layers above at most (default 16)"},
    {0, "report", 0, FORGE_OPTION_TEXT, AT(report), 0, 0, "FILE", "write the figures as JSON"},
    {0, "plot", 0, FORGE_OPTION_TEXT, AT(plot), 0, 0, "FILE",
     "write exact match against the cloud's share of tokens as SVG"},
};

const forge_own shoal_forge_eval_own = {
    .run = shoal_forge_eval,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2,
                 .entries = FORGE_FIELD_ENTRIES_DEFAULT,
                 .exponent = 1,
                 .eval = {.data = "field", .wait = 16, .threshold = -1}},
};
