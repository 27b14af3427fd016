/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a tokenizer: the token table, the map from text to id, the tree of special texts,
 * the merge engine and the two ways of cutting text. Private to this folder. Immutable after
 * shoal_tokenizer_new; everything that changes during a call lives in a shoal_encoder.
 */
#ifndef SHOAL_TOKENIZER_VOCAB_H
#define SHOAL_TOKENIZER_VOCAB_H

#include "common/tokenizer/tokenizer.h"

enum {
    SHOAL_VOCAB_BYTES_MAX = 256 << 20, /* bytes of all token texts together */
    SHOAL_MERGES_MAX = 4 << 20,        /* merge rules */
    SHOAL_PROBES_MAX = 1024,           /* steps of one hash look-up: more means unlucky keys */
    SHOAL_SPECIAL_TEXT_MAX = 256,      /* bytes of a token that is looked for in plain text */
    SHOAL_SPECIAL_BYTES_MAX = 4 << 20, /* bytes of all of those */
    SHOAL_CHAT_TEMPLATE_MAX = 1 << 20, /* bytes of the chat template */
    SHOAL_SEGMENT_MAX = 1 << 18,       /* symbols merged in one go: longer stretches are cut */
    SHOAL_END_TOKENS_MAX = 32          /* tokens that end a generation */
};

/* tokenizer.ggml.token_type */
enum {
    SHOAL_TOKEN_NORMAL = 1,
    SHOAL_TOKEN_UNKNOWN = 2,
    SHOAL_TOKEN_CONTROL = 3,
    SHOAL_TOKEN_USER = 4,
    SHOAL_TOKEN_UNUSED = 5,
    SHOAL_TOKEN_BYTE = 6,
    /* Of our own, never in a file: a user-defined token that chat templates are written with. It is
     * one everywhere but in the contents of messages, where it is plain text. */
    SHOAL_TOKEN_MARKUP = 7
};

typedef enum shoal_vocab_kind {
    SHOAL_VOCAB_SPM,
    SHOAL_VOCAB_BPE
} shoal_vocab_kind;

typedef struct shoal_token {
    uint32_t offset; /* into the texts */
    uint32_t length;
    float score;   /* SPM: higher merges first */
    uint32_t type; /* whole words: the table is hashed as it lies, so it has no padding */
} shoal_token;

/* --- text -> id (vocab_map.c) ---------------------------------------------------------------- */

/* Open addressing, sized once. The hash is keyed with random numbers of this process, so that no
 * file can be made of texts that collide. SPM has a polynomial modulo 2^61 - 1: the hash of two
 * texts joined follows from theirs in constant time, so that merging never walks over the text
 * again. BPE needs no joining and takes eight bytes at a time. */
typedef struct shoal_vocab_slot {
    uint32_t id;     /* id + 1; 0: free */
    uint32_t tag;    /* bits of the hash, compared before the text */
    uint32_t offset; /* of the text: a copy, so that a look-up need not touch the token */
    uint32_t length;
} shoal_vocab_slot;

enum {
    SHOAL_VOCAB_KEYS = 4,
    SHOAL_VOCAB_REKEYS_MAX = 8 /* tables filled anew with other keys before a file is refused */
};

typedef struct shoal_vocab_map {
    shoal_vocab_slot *slots;
    size_t mask;                     /* slots - 1 */
    uint64_t keys[SHOAL_VOCAB_KEYS]; /* odd; keys[0] is the base of the polynomial */
    uint64_t *powers;    /* SPM: powers[n]: what a hash is multiplied by to append n bytes */
    bool has_duplicates; /* some text belongs to several tokens */
} shoal_vocab_map;

/* --- special texts (special.c) --------------------------------------------------------------- */

/* A tree over the texts of control and user-defined tokens, children next to each other and
 * sorted, so that finding the longest text at a place costs its length. */
typedef struct shoal_special_node {
    uint32_t first_child;
    uint32_t n_children;
    int32_t id; /* token that ends here, or -1 */
    uint8_t byte;
} shoal_special_node;

typedef struct shoal_special {
    shoal_special_node *nodes; /* NULL: no special texts */
    size_t n_nodes;
    uint32_t roots[256]; /* index of the node for a first byte, 0: none */
    bool has_user;       /* any of them is user-defined */
} shoal_special;

/* --- merge rules of BPE (bpe.c) -------------------------------------------------------------- */

typedef struct shoal_merge_slot {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* rank + 1; 0: free */
    int32_t id;    /* what the pair becomes */
} shoal_merge_slot;

typedef struct shoal_bpe_split shoal_bpe_split;
typedef struct shoal_bpe_match shoal_bpe_match;

/* What comes with a splitting rule. */
typedef struct shoal_bpe_traits {
    shoal_str name;     /* static */
    bool ignore_merges; /* a piece that is a token as a whole becomes that token */
    bool add_bos;       /* texts begin with BOS unless the file says otherwise */
} shoal_bpe_traits;

/* A chat template of the closed set; chat.c. */
typedef struct shoal_chat_template shoal_chat_template;

/* What a model's template says. */
typedef struct shoal_chat {
    const shoal_chat_template *family; /* NULL: a template that is not in the set */
    shoal_str system;                  /* chatml: its own system message, owned; mostly empty */
    bool writes_bos;
    bool drops_thoughts; /* of earlier answers only what follows </think> is written */
    bool opens_thought;  /* deepseek-v3: the answer begins with <think> */
    bool by_lines;       /* vicuna: turns end with a new line, not with a space */
} shoal_chat;

struct shoal_tokenizer {
    shoal_vocab_kind kind;
    shoal_token *tokens;
    size_t n_vocab;
    char *texts;
    size_t texts_length;
    size_t length_max; /* longest token text */
    shoal_vocab_map map;
    shoal_special special;
    int32_t byte_ids[256]; /* -1: the unknown token stands for it */
    int32_t bos;
    int32_t eos;
    int32_t eot;
    int32_t unknown;
    bool add_bos;
    bool add_eos;
    bool add_space_prefix;
    int32_t end_ids[SHOAL_END_TOKENS_MAX];
    size_t n_end_ids;

    /* SPM: bit set of pairs of neighbouring characters that occur inside some token. */
    uint64_t *neighbours;
    uint64_t neighbours_mask; /* bits - 1 */

    /* BPE */
    shoal_merge_slot *merges;
    size_t merges_mask; /* slots - 1 */
    uint64_t merges_keys[SHOAL_VOCAB_KEYS];
    shoal_bpe_traits traits;
    shoal_bpe_split *split;

    shoal_chat chat;
    shoal_hash hash;
    shoal_hash template_hash;
};

static inline shoal_str shoal_vocab_text(const shoal_tokenizer *tokenizer, size_t id)
{
    const shoal_token *token = &tokenizer->tokens[id];
    return (shoal_str){.data = tokenizer->texts + token->offset, .length = token->length};
}

/* True for a text of characters that are written alike as they are and as bytes of BPE texts. */
bool shoal_bpe_is_as_written(shoal_str text);

/* True for tokens that plain text may become by its bytes. User-defined tokens are written as they
 * are: where a BPE text of the same characters means other bytes, it is not that token. */
static inline bool shoal_vocab_is_plain(const shoal_tokenizer *tokenizer, int32_t id)
{
    uint32_t type = tokenizer->tokens[id].type;
    return type == SHOAL_TOKEN_NORMAL ||
           (type == SHOAL_TOKEN_USER &&
            (tokenizer->kind == SHOAL_VOCAB_SPM ||
             shoal_bpe_is_as_written(shoal_vocab_text(tokenizer, (size_t)id))));
}

/* vocab.c: everything read from the file but merges and template. */
shoal_status shoal_vocab_load(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err);
/* Length of an array that may be absent (*ret_n = 0 and SHOAL_OK then). */
shoal_status shoal_vocab_array(const shoal_gguf *gguf, const char *key,
                               shoal_gguf_kind *ret_element, size_t *ret_n, bool *ret_present,
                               shoal_err *err);

/* vocab_map.c */
shoal_status shoal_vocab_map_init(shoal_tokenizer *tokenizer, shoal_err *err);
void shoal_vocab_map_fini(shoal_vocab_map *map);
uint64_t shoal_vocab_hash(const shoal_tokenizer *tokenizer, const char *data, size_t n);
/* SPM: the hash of two texts one after the other. */
uint64_t shoal_vocab_hash_join(const shoal_vocab_map *map, uint64_t left, uint64_t right,
                               size_t right_length);
/* A keyed hash of bytes, and of one number. */
uint64_t shoal_vocab_hash_bytes(const uint64_t keys[SHOAL_VOCAB_KEYS], const char *data, size_t n);
uint64_t shoal_vocab_hash_u64(const uint64_t keys[SHOAL_VOCAB_KEYS], uint64_t x);
/* Odd random numbers. */
void shoal_vocab_keys_choose(uint64_t ret_keys[SHOAL_VOCAB_KEYS]);
/* The id of the text with this hash, or -1. */
int32_t shoal_vocab_find(const shoal_tokenizer *tokenizer, uint64_t hash, shoal_str text);
/* The id of the text, which plain text may become, or -1. */
int32_t shoal_vocab_find_plain(const shoal_tokenizer *tokenizer, const char *data, size_t n);

/* Brings what looking up a hash will read into the cache: first the slot, then, when that has come,
 * the text it names. Many are asked for in between. */
void shoal_vocab_prefetch_slot(const shoal_tokenizer *tokenizer, uint64_t hash);
void shoal_vocab_prefetch_text(const shoal_tokenizer *tokenizer, uint64_t hash);

/* special.c */
shoal_status shoal_special_init(shoal_tokenizer *tokenizer, shoal_err *err);
void shoal_special_fini(shoal_special *special);
/* Which special texts are looked for. */
typedef struct shoal_special_want {
    bool control;
    bool markup;
} shoal_special_want;

/* The longest special text at p, -1 when there is none. */
int32_t shoal_special_match(const shoal_tokenizer *tokenizer, const char *p, size_t n,
                            shoal_special_want want, size_t *ret_length);

/* --- the merge engine (merge.c) -------------------------------------------------------------- */

typedef struct shoal_symbol {
    uint64_t hash;   /* SPM: hash of its text */
    uint32_t begin;  /* SPM: into the segment's text */
    uint32_t length; /* bytes; 0: swallowed by its left neighbour */
    uint32_t prev;
    uint32_t next;
    int32_t id; /* -1: no token has this text */
} shoal_symbol;

/* A merge that is possible: key orders by priority, then from left to right. */
typedef struct shoal_pair {
    uint64_t key; /* priority << 32 | left symbol; lowest first; UINT64_MAX: cannot merge */
    uint32_t length;
    int32_t id;
} shoal_pair;

/* State of one shoal_tokenizer_encode call. */
typedef struct shoal_encoder {
    const shoal_tokenizer *tokenizer;
    int32_t *ids;
    size_t n_ids;
    size_t ids_capacity;
    shoal_symbol *symbols;
    size_t n_symbols;
    size_t symbols_capacity;
    shoal_pair *heap;
    size_t n_heap;
    size_t heap_capacity;
    char *text; /* SPM: the escaped segment the symbols lie in */
    size_t text_length;
    size_t text_capacity;
    uint32_t last_char;            /* SPM: bytes of the last character appended */
    struct shoal_bpe_match *match; /* BPE: where the splitter is */
} shoal_encoder;

shoal_status shoal_encoder_push_id(shoal_encoder *encoder, int32_t id);
shoal_status shoal_encoder_push_symbol(shoal_encoder *encoder, shoal_symbol symbol);
/* Merges encoder->symbols as far as the vocabulary allows; what is left stands at the front. */
shoal_status shoal_encoder_merge(shoal_encoder *encoder);
/* The token for one byte, or the unknown token. */
int32_t shoal_vocab_byte(const shoal_tokenizer *tokenizer, uint8_t byte);

/* Whether two neighbouring symbols merge, how urgently (lowest first) and into what. */
bool shoal_spm_pair(const shoal_encoder *encoder, const shoal_symbol *left,
                    const shoal_symbol *right, uint32_t *ret_priority, int32_t *ret_id);
bool shoal_bpe_pair(const shoal_tokenizer *tokenizer, int32_t left, int32_t right,
                    uint32_t *ret_priority, int32_t *ret_id);

/* spm.c */
/* The byte of "<0xAB>", or -1. */
int shoal_spm_byte_of_text(shoal_str text);
shoal_status shoal_spm_init(shoal_tokenizer *tokenizer, shoal_err *err);
shoal_status shoal_spm_encode(shoal_encoder *encoder, const char *text, size_t n,
                              bool space_prefix);

/* bpe.c */
/* The splitting rule, which also says what the file may leave out. */
shoal_status shoal_bpe_load_rule(shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                                 shoal_err *err);
/* The merge rules go into hasher. */
shoal_status shoal_bpe_init(shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                            shoal_hasher *hasher, shoal_err *err);
shoal_status shoal_bpe_encode(shoal_encoder *encoder, const char *text, size_t n, shoal_err *err);
/* Merging happens within a piece and nowhere else. A loose piece is bytes that are no UTF-8: each
 * of them is a token by itself. */
typedef shoal_status (*shoal_bpe_piece_fn)(void *ctx, shoal_str piece, bool loose);
typedef struct shoal_bpe_walk {
    const shoal_bpe_split *split;
    shoal_bpe_match *match;
    shoal_bpe_piece_fn piece;
    void *ctx;
} shoal_bpe_walk;
/* Shows the pieces of a text in order, at most SHOAL_SEGMENT_MAX bytes each: one walk for what
 * encodes and what learns, so that both see the same. */
shoal_status shoal_bpe_walk_text(const shoal_bpe_walk *walk, shoal_str text, shoal_err *err);
/* The character that stands for a byte in BPE texts: 1 or 2 bytes of UTF-8. */
size_t shoal_bpe_char_of_byte(uint8_t byte, char ret_char[2]);
/* The byte a code point of BPE texts stands for, or -1. */
int shoal_bpe_byte_of_char(uint32_t code_point);
/* The byte that a text of one character stands for, or -1; the text is not empty. */
int shoal_bpe_byte_of_text(shoal_str text);

/* bpe_split.c: the adapter to PCRE2 */

/* The splitting rules, and name i that files have for one of them: 0 is the canonical one, past the
 * last they are empty. */
size_t shoal_bpe_n_rules(void);
shoal_str shoal_bpe_rule_name(size_t rule_i, size_t i);
shoal_status shoal_bpe_split_new(shoal_str pre, shoal_bpe_split **ret_split,
                                 shoal_bpe_traits *ret_traits, shoal_err *err);
void shoal_bpe_split_free(shoal_bpe_split *split);
SHOAL_DEFINE_CLEANUP(shoal_bpe_split, shoal_bpe_split_free)
shoal_status shoal_bpe_match_new(const shoal_bpe_split *split, shoal_bpe_match **ret_match);
void shoal_bpe_match_free(shoal_bpe_match *match);
SHOAL_DEFINE_CLEANUP(shoal_bpe_match, shoal_bpe_match_free)
/* Length of the piece that begins at offset of the valid UTF-8 text, at least 1 before its end. A
 * text is asked for from offset 0 on, each piece from where the one before it ends. */
shoal_status shoal_bpe_split_next(const shoal_bpe_split *split, shoal_bpe_match *match,
                                  shoal_str text, size_t offset, size_t *ret_length,
                                  shoal_err *err);

/* tokenizer.c */

/* Bytes [begin, end) of a text: quoted from a message, so no part of them is markup. */
typedef struct shoal_quote {
    size_t begin;
    size_t end;
} shoal_quote;

typedef struct shoal_quoted_text {
    shoal_str text;
    const shoal_quote *quotes; /* in order, apart from each other */
    size_t n_quotes;
    bool bos; /* put BOS first */
} shoal_quoted_text;

/* Encodes as if it were one text, so that tokens of plain text cross the seams as the models have
 * learnt, but control and markup tokens are recognised outside quotes only, and nothing special
 * reaches over a seam. */
shoal_status shoal_encode_quoted(const shoal_tokenizer *tokenizer, const shoal_quoted_text *text,
                                 int32_t **ret_ids, size_t *ret_n, shoal_err *err);

/* chat.c */
/* What template i of the closed set must contain, in an order that is recognised with anything in
 * between, NULL at the end; NULL past the last. */
const char *const *shoal_chat_markers(size_t i);
/* User-defined tokens with the texts of chat markup, and those that end a generation, become
 * SHOAL_TOKEN_MARKUP. */
void shoal_chat_guard(shoal_tokenizer *tokenizer);
void shoal_chat_fini(shoal_chat *chat);
shoal_status shoal_chat_load(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err);

#endif
