/* SPDX-License-Identifier: Apache-2.0
 *
 * Checked mapping between protobuf bytes and plain messages (protocol/SPEC.md). Everything a peer
 * sends is validated here: lengths, ranges, enum values, UTF-8, ids below n_vocab; nothing past
 * this header sees protobuf. Messages are owned single blocks. Pure, any thread.
 */
#ifndef SHOAL_WIRE_WIRE_H
#define SHOAL_WIRE_WIRE_H

#include "common/base/buf.h"
#include "common/base/hash.h"
#include "common/sample/sample.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_WIRE_PROTOCOL = 1,
    SHOAL_WIRE_PROTOCOL_FORM = 2,       /* of an Open with a form: who does not know it refuses */
    SHOAL_WIRE_MESSAGE_MAX = 1 << 20,   /* encoded bytes of any message */
    SHOAL_WIRE_UNPACK_MAX = 8 << 20,    /* memory one message may unpack to */
    SHOAL_WIRE_PROMPT_MAX = 131072,     /* ids in one Tokens message */
    SHOAL_WIRE_DRAFT_MAX = 64,          /* ids in one DRAFT or Verdict */
    SHOAL_WIRE_TEXT_MAX = 256,          /* bytes of names and error texts */
    SHOAL_WIRE_POSITION_MAX = 1 << 24,  /* positions */
    SHOAL_WIRE_EPOCH_MAX = INT32_MAX,   /* so that epoch + 1 never wraps */
    SHOAL_WIRE_PRIORITY_MAX = 7,        /* the highest; 0 is the lowest */
    SHOAL_WIRE_COST_US_MAX = INT32_MAX, /* of a step, of a row */
    SHOAL_WIRE_PRICE_ONE = 1000,        /* the price of a token, and the highest of a draft */
    SHOAL_WIRE_FORM_MAX = 65536,        /* bytes of a grammar */
    SHOAL_WIRE_OPENING_MAX = 32,        /* bytes of a form's opening */
    SHOAL_WIRE_KV_BLOCK = 32,           /* a KvRequest has a multiple of so many ids */
    SHOAL_WIRE_KV_PART_MAX = 256 << 10, /* bytes of a blob in one KvPart */
    SHOAL_WIRE_KV_RECORD_MAX = 1 << 24, /* number of a record of a blob */
    SHOAL_WIRE_BUNDLE_PART_MAX = 256 << 10, /* bytes of a file in one BundlePart */
    SHOAL_WIRE_MANIFEST_MAX = 64 << 10,     /* bytes of a manifest */
    SHOAL_WIRE_SIGNATURE_MAX = 64,
    SHOAL_WIRE_BUNDLE_FILES_MAX = 16,
    SHOAL_WIRE_NAME_MAX = 64,
    SHOAL_WIRE_ADAPTERS_MAX = 64, /* of a node */
    SHOAL_WIRE_ROUND_BYTES = 200  /* budget of one verification round, each way */
};

typedef enum shoal_mode {
    SHOAL_MODE_LOCAL,
    SHOAL_MODE_ASSIST,
    SHOAL_MODE_EXACT,
    SHOAL_MODE_CLOUD
} shoal_mode;

/* Which drafts a node can judge. */
typedef enum shoal_verify {
    SHOAL_VERIFY_ALL,    /* under any sampling */
    SHOAL_VERIFY_GREEDY, /* where shoal_sampling_is_greedy says so */
    SHOAL_VERIFY_NONE    /* it continues texts, no more */
} shoal_verify;

/* What a node ships the KV of (SPEC.md, section 11). */
typedef struct shoal_edge_kv {
    shoal_hash model;
    shoal_hash form;
    uint32_t n_tokens; /* most of one prompt; 0: it ships nothing, and the rest is zero */
    uint32_t token_us; /* a token of a prompt, as measured, 0..SHOAL_WIRE_COST_US_MAX; 0: not yet */
    bool archives;     /* for edges that ask; else the rest is zero */
    shoal_hash basis;
    uint32_t archive_us; /* archiving a token, as measured, 0..SHOAL_WIRE_COST_US_MAX */
} shoal_edge_kv;

/* An adapter of a node's model, which an Open may choose (SPEC.md, section 15). */
typedef struct shoal_wire_adapter {
    char name[SHOAL_WIRE_NAME_MAX + 1]; /* 1 to 64 of [A-Za-z0-9._-] */
    shoal_hash hash;
} shoal_wire_adapter;

typedef struct shoal_describe {
    char name[SHOAL_WIRE_TEXT_MAX];
    shoal_hash model;
    shoal_hash tokenizer;
    shoal_hash chat_template;
    char kv_form[16];
    uint32_t n_vocab;
    uint32_t n_ctx;
    uint32_t protocol;
    char backend[16]; /* "native", "upstream" (SPEC.md section 9); "" is sent by older nodes */
    shoal_verify verify;
    shoal_edge_kv edge_kv;
    bool forms;       /* answers are held to the form that Open gives */
    bool opens_whole; /* what Open brings beside itself is read */
    size_t n_adapters;
    shoal_wire_adapter adapters[SHOAL_WIRE_ADAPTERS_MAX]; /* [n_adapters], no name twice */
} shoal_describe;

/* The adapter of that name; NULL: the node has none. */
const shoal_wire_adapter *shoal_describe_adapter(const shoal_describe *describe, const char *name);

/* What an answer must be (SPEC.md, section 13). */
typedef struct shoal_msg_form {
    const uint8_t *grammar; /* in the message; shoal_grammar_decode */
    size_t n_grammar;       /* 1..SHOAL_WIRE_FORM_MAX; 0: free text, and the rest is zero */
    char opening[SHOAL_WIRE_OPENING_MAX + 1];
    uint32_t position; /* of the answer's first token */
} shoal_msg_form;

typedef struct shoal_msg_open {
    uint32_t protocol;
    shoal_hash model;
    shoal_hash tokenizer;
    shoal_hash chat_template;
    shoal_sampling sampling; /* biases point into the message */
    shoal_mode mode;         /* never LOCAL */
    uint32_t deadline_ms;
    uint32_t priority; /* 0..SHOAL_WIRE_PRIORITY_MAX */
    uint32_t n_tokens_max;
    char request_id[65];
    bool has_adapter; /* else the model alone */
    shoal_hash adapter;
    shoal_msg_form form;
    /* What would follow it (SPEC.md, section 14); without a prompt there is nothing of it. */
    const int32_t *prompt;      /* in the message; at position 0 */
    size_t n_prompt;            /* 0..SHOAL_WIRE_PROMPT_MAX */
    const int32_t *drafts;      /* in the message; behind the prompt */
    size_t n_drafts;            /* 0..SHOAL_WIRE_DRAFT_MAX */
    const uint8_t *confidences; /* n_drafts, in the message: the edge's in its drafts, 255ths;
                                 * NULL: it does not say */
    uint32_t n_continue;        /* 0..SHOAL_WIRE_POSITION_MAX, with the prompt; 0: no Continue */
    bool ends;                  /* the node ends the stream with the text */
} shoal_msg_open;

typedef enum shoal_token_kind {
    SHOAL_TOKENS_PROMPT = 1,
    SHOAL_TOKENS_TRUSTED,
    SHOAL_TOKENS_DRAFT
} shoal_token_kind;

typedef struct shoal_msg_tokens {
    uint32_t epoch;
    uint32_t position;
    shoal_token_kind kind; /* edge to cloud; the cloud's own tokens decode as TRUSTED */
    const int32_t *ids;    /* in the message */
    size_t n_ids;
    const uint8_t *confidences; /* n_ids, in 255ths; cloud to edge alone, else NULL */
} shoal_msg_tokens;

typedef struct shoal_msg_continue {
    uint32_t epoch;
    uint32_t position;
    uint32_t n_max;
} shoal_msg_continue;

typedef struct shoal_msg_verdict {
    uint32_t epoch;
    uint32_t accepted_to;
    const int32_t *ids;
    size_t n_ids; /* 0..SHOAL_WIRE_DRAFT_MAX */
    const uint8_t *confidences;
    size_t n_confidences;
} shoal_msg_verdict;

/* What work costs the cloud now (SPEC.md, section 10). */
typedef struct shoal_msg_cost {
    uint32_t step_us; /* a step in which each session runs one row; 0: not told */
    uint32_t row_us;  /* each row more */
    uint32_t price;   /* of a row of a draft, 0..SHOAL_WIRE_PRICE_ONE */
} shoal_msg_cost;

typedef struct shoal_msg_finished {
    uint32_t n_prompt;
    uint32_t n_generated;
    uint32_t n_verified;
    uint64_t compute_us;
} shoal_msg_finished;

typedef enum shoal_edge_msg_kind {
    SHOAL_EDGE_OPEN = 1,
    SHOAL_EDGE_TOKENS,
    SHOAL_EDGE_CONTINUE,
    SHOAL_EDGE_CANCEL,
    SHOAL_EDGE_CLOSE
} shoal_edge_msg_kind;

typedef struct shoal_edge_msg {
    shoal_edge_msg_kind kind;
    union {
        shoal_msg_open open;
        shoal_msg_tokens tokens;
        shoal_msg_continue cont;
    } body;
} shoal_edge_msg;

typedef enum shoal_cloud_msg_kind {
    SHOAL_CLOUD_OPENED = 1,
    SHOAL_CLOUD_VERDICT,
    SHOAL_CLOUD_TOKENS,
    SHOAL_CLOUD_BUSY,
    SHOAL_CLOUD_FINISHED,
    SHOAL_CLOUD_ERROR
} shoal_cloud_msg_kind;

typedef struct shoal_cloud_msg {
    shoal_cloud_msg_kind kind;
    shoal_msg_cost cost; /* with OPENED, VERDICT and TOKENS, else not told */
    uint32_t n_cached;   /* with VERDICT and TOKENS: tokens of the text whose KV was found, not
                          * computed, 0..SHOAL_WIRE_POSITION_MAX; 0: as told last */
    union {
        struct {
            char node[SHOAL_WIRE_TEXT_MAX];
            bool whole; /* all of Open was read */
        } opened;
        shoal_msg_verdict verdict;
        shoal_msg_tokens tokens;
        uint32_t busy_retry_after_ms;
        shoal_msg_finished finished;
        struct {
            int32_t code;
            char text[SHOAL_WIRE_TEXT_MAX];
        } error;
    } body;
} shoal_cloud_msg;

typedef struct shoal_msg_kv_request {
    shoal_hash model;
    shoal_hash tokenizer;
    shoal_hash form;
    const int32_t *ids; /* in the message */
    size_t n_ids;       /* SHOAL_WIRE_KV_BLOCK..SHOAL_WIRE_PROMPT_MAX, a multiple of the former */
    uint32_t record;    /* 0..SHOAL_WIRE_KV_RECORD_MAX: of the blob, the first that is to come */
    bool archived;      /* blocks may come archived, by this basis; else it is zero */
    shoal_hash basis;
    char request_id[65];
} shoal_msg_kv_request;

typedef struct shoal_msg_kv_part {
    const uint8_t *bytes; /* in the message; the next of a blob */
    size_t n_bytes;       /* 0..SHOAL_WIRE_KV_PART_MAX */
    uint32_t n_cached;    /* 0..SHOAL_WIRE_POSITION_MAX */
    uint32_t token_us;    /* 0..SHOAL_WIRE_COST_US_MAX */
    uint32_t record;      /* with a call's first part: which of the blob it begins with */
} shoal_msg_kv_part;

#define SHOAL_WIRE_BUNDLE_BYTES_MAX  ((uint64_t)1 << 40) /* of a file */
#define SHOAL_WIRE_BUNDLE_SERIAL_MAX ((uint64_t)1 << 53)

typedef struct shoal_msg_bundle_request {
    char family[SHOAL_WIRE_NAME_MAX + 1]; /* "": any */
    uint64_t serial;                      /* 0: which is for this edge; else: */
    uint32_t file;                        /* below SHOAL_WIRE_BUNDLE_FILES_MAX */
    uint64_t offset;                      /* 0..SHOAL_WIRE_BUNDLE_BYTES_MAX */
} shoal_msg_bundle_request;

/* Either bytes of a file, or a manifest with its signature; all of them in the message. */
typedef struct shoal_msg_bundle_part {
    const uint8_t *bytes;
    size_t n_bytes; /* 0..SHOAL_WIRE_BUNDLE_PART_MAX */
    const uint8_t *manifest;
    size_t n_manifest; /* 0..SHOAL_WIRE_MANIFEST_MAX */
    const uint8_t *signature;
    size_t n_signature; /* 0..SHOAL_WIRE_SIGNATURE_MAX */
} shoal_msg_bundle_part;

/* A probability in 255ths, as messages carry them; NaN becomes 0. */
uint8_t shoal_wire_share(float probability);

/* Appends the encoded message to buf. The message is ours: SHOAL_E_INVALID is a bug or an over-long
 * list, never a peer's doing. */
shoal_status shoal_edge_msg_encode(const shoal_edge_msg *msg, shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_cloud_msg_encode(const shoal_cloud_msg *msg, shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_describe_encode(const shoal_describe *describe, shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_msg_kv_request_encode(const shoal_msg_kv_request *request,
                                         shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_msg_kv_part_encode(const shoal_msg_kv_part *part,
                                      shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_msg_bundle_request_encode(const shoal_msg_bundle_request *request,
                                             shoal_buf *buf) SHOAL_MUST_CHECK;
shoal_status shoal_msg_bundle_part_encode(const shoal_msg_bundle_part *part,
                                          shoal_buf *buf) SHOAL_MUST_CHECK;

/* Peer bytes to an owned message (shoal_edge_msg_free / shoal_cloud_msg_free). SHOAL_E_PROTOCOL
 * names the field, the value and the limit. n_vocab bounds ids. */
shoal_status shoal_edge_msg_decode(const uint8_t *data, size_t n, size_t n_vocab,
                                   shoal_edge_msg **ret_msg, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_cloud_msg_decode(const uint8_t *data, size_t n, size_t n_vocab,
                                    shoal_cloud_msg **ret_msg, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_describe_decode(const uint8_t *data, size_t n, shoal_describe *ret_describe,
                                   shoal_err *err) SHOAL_MUST_CHECK;
/* Owned as the others: shoal_msg_kv_request_free, shoal_msg_kv_part_free. */
shoal_status shoal_msg_kv_request_decode(const uint8_t *data, size_t n, size_t n_vocab,
                                         shoal_msg_kv_request **ret_request,
                                         shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_msg_kv_part_decode(const uint8_t *data, size_t n, shoal_msg_kv_part **ret_part,
                                      shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_msg_bundle_request_decode(const uint8_t *data, size_t n,
                                             shoal_msg_bundle_request *ret_request,
                                             shoal_err *err) SHOAL_MUST_CHECK;
/* Owned: shoal_msg_bundle_part_free. */
shoal_status shoal_msg_bundle_part_decode(const uint8_t *data, size_t n,
                                          shoal_msg_bundle_part **ret_part,
                                          shoal_err *err) SHOAL_MUST_CHECK;
void shoal_msg_bundle_part_free(shoal_msg_bundle_part *part);
SHOAL_DEFINE_CLEANUP(shoal_msg_bundle_part, shoal_msg_bundle_part_free)
void shoal_msg_kv_request_free(shoal_msg_kv_request *request);
SHOAL_DEFINE_CLEANUP(shoal_msg_kv_request, shoal_msg_kv_request_free)
void shoal_msg_kv_part_free(shoal_msg_kv_part *part);
SHOAL_DEFINE_CLEANUP(shoal_msg_kv_part, shoal_msg_kv_part_free)
/* Ids of a text that it brings. */
size_t shoal_edge_msg_n_ids(const shoal_edge_msg *msg);
void shoal_edge_msg_free(shoal_edge_msg *msg);
void shoal_cloud_msg_free(shoal_cloud_msg *msg);

/* "all", "greedy", "none". */
const char *shoal_verify_name(shoal_verify verify);
/* "local", "assist", "exact", "cloud". */
const char *shoal_mode_name(shoal_mode mode);
shoal_status shoal_mode_parse(const char *name, shoal_mode *ret_mode) SHOAL_MUST_CHECK;

#endif
