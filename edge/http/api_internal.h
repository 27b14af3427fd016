/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to edge/http: a request as parsed, a call (one generation for one client), and the
 * messages that reach the loop from the engine thread and the worker.
 */
#ifndef SHOAL_HTTP_API_INTERNAL_H
#define SHOAL_HTTP_API_INTERNAL_H

#include "common/base/queue.h"
#include "common/base/thread.h"
#include "edge/http/api.h"

#include <stdatomic.h>

enum {
    SHOAL_API_MODEL_ID_MAX = 128,
    SHOAL_API_MESSAGES_MAX = 4096,         /* chat messages of one request */
    SHOAL_API_JSON_BUDGET = 48 << 20,      /* bytes one body may take as parsed JSON */
    SHOAL_API_JOBS_MAX = 64,               /* bodies waiting for the worker */
    SHOAL_API_TOKENS_QUEUED_MAX = 1 << 15, /* token messages the loop has not yet seen */
    SHOAL_API_ANSWER_MAX = 64 << 20,       /* bytes of an answer that is not streamed */
    SHOAL_API_TOOLS_MAX = SHOAL_GRAMMAR_CHOICES_MAX,
    SHOAL_API_TOOL_NAME_MAX = 64,
    SHOAL_API_TRANSFERS_MAX = 4 /* of kept sessions, listed, saved, loaded or dropped at once */
};

/* How a text that is a call begins. */
#define SHOAL_API_CALL "<tool_call>"

typedef struct shoal_api_tool {
    char name[SHOAL_API_TOOL_NAME_MAX + 1];
    char head[SHOAL_API_TOOL_NAME_MAX + 32]; /* {"name": "...", "arguments": */
} shoal_api_tool;

typedef enum shoal_api_kind {
    SHOAL_API_COMPLETION = 1,
    SHOAL_API_CHAT = 2
} shoal_api_kind;

/* What parsing needs to know; immutable, shared with the worker. */
typedef struct shoal_api_context {
    const shoal_model *model;
    bool cancel_on_gone; /* when a request does not say */
    uint32_t priority;   /* the same */
    const shoal_redact_rules *redact;
    char model_id[SHOAL_API_MODEL_ID_MAX];
    const shoal_adapter *adapters; /* [n_adapters], coop's; other names of the model */
    size_t n_adapters;
    shoal_mode mode_default;
    size_t n_tokens_default;
    size_t n_room; /* tokens one request may hold, prompt included */
} shoal_api_context;

/* A model and what generates with it. A call stays with the one it began with, whatever came to be
 * used since. Loop-only but for what the context and coop are said to be. */
typedef struct shoal_api_deck {
    size_t refs; /* the API's own while it is used, and one of each call and transfer */
    shoal_coop *coop;
    shoal_api_context context;
} shoal_api_deck;

typedef struct shoal_api_request {
    shoal_api_kind kind;
    bool stream;
    bool include_usage;
    bool tell_tokens; /* origins also in an answer that is not streamed */
    bool degrade;
    bool echo;          /* the prompt's text, and its log-probabilities, come first */
    bool tell_logprobs; /* of each token, and of the likeliest there */
    size_t n_tops;      /* how many of the likeliest, at most SHOAL_COOP_TOPS_MAX */
    bool tell_names;    /* tokens are called "token_id:N" there, since a text may be of several */
    const shoal_adapter *adapter;             /* that the model's name chose; NULL: none */
    char session[SHOAL_SESSION_NAME_MAX + 1]; /* "": none */
    uint64_t reconnect_ms;                    /* 0: as configured */
    uint64_t deadline_ms;                     /* from now; 0, or above it: as configured */
    uint32_t priority;                        /* of its work in the cloud */
    char exit_policy[SHOAL_EXIT_TEXT_MAX];    /* "": as configured */
    float exit_threshold;                     /* with a policy; NaN: its own */
    bool cancel_on_gone; /* a client that leaves cancels; else it may come back */
    size_t n_cloud_max;  /* mode assist; SIZE_MAX: no limit */
    double risk;         /* mode assist; 0: as configured */
    shoal_mode mode;
    shoal_sampling sampling; /* biases point to the next field */
    shoal_logit_bias *biases;
    char *stops[SHOAL_STOPS_MAX];
    size_t n_stops;
    shoal_grammar *grammar; /* response_format, or a call; NULL: free text */
    shoal_api_tool *tools;  /* [n_tools] that may be called; 0: none */
    size_t n_tools;
    bool must_call;             /* else only a text that begins with SHOAL_API_CALL is a call */
    shoal_redact_map *redacted; /* words taken out of the prompt; NULL: none */
    int32_t *ids;
    size_t n_ids;
    size_t n_tokens_max;
} shoal_api_request;

/* api_parse.c: body to request, any thread. On SHOAL_E_INVALID error says what to answer. */
/* The adapter of that name; NULL: there is none. */
const shoal_adapter *shoal_api_find_adapter(const shoal_api_context *context, const char *name);
/* The error of a name that neither the model nor an adapter has. */
shoal_status shoal_api_no_model(const shoal_api_context *context, const char *name,
                                shoal_http_error *error);
shoal_status shoal_api_parse(const shoal_api_context *context, shoal_api_kind kind,
                             const char *body, size_t n, shoal_api_request **ret_request,
                             shoal_http_error *error) SHOAL_MUST_CHECK;
void shoal_api_request_free(shoal_api_request *request);
/* Makes JSON memory ours and bounded; once, before any thread parses. */
void shoal_api_json_init(void);

typedef struct shoal_api_call shoal_api_call;

typedef enum shoal_api_message_kind {
    SHOAL_API_PARSED,
    SHOAL_API_TOKEN,
    SHOAL_API_END,
    SHOAL_API_TRANSFER /* shoal_api_transfer's */
} shoal_api_message_kind;

/* TOKEN messages are on the heap, the others lie in their call: what must not fail needs no
 * memory. */
typedef struct shoal_api_message {
    shoal_api_message_kind kind;
    shoal_api_call *call;
    struct shoal_api_message *next; /* of those kept */
    int32_t id;
    shoal_tier tier;
    shoal_unassisted unassisted;
    float confidence;
    uint32_t round;
    double ms; /* since the request's first byte */
    size_t n_text;
    char text[];
} shoal_api_message;

typedef struct shoal_api_fixed_message {
    shoal_api_message_kind kind;
    shoal_api_call *call;
} shoal_api_fixed_message;

/* How far a stream has come in telling tokens with their logprobs. */
typedef struct shoal_api_told {
    size_t n_tokens;
    size_t n_characters; /* of their texts */
    shoal_detok detok;
} shoal_api_told;

typedef enum shoal_api_tool_phase {
    SHOAL_API_TEXT,      /* content, to the end */
    SHOAL_API_OPENING,   /* may become a call */
    SHOAL_API_HEAD,      /* before the arguments */
    SHOAL_API_ARGUMENTS, /* inside them */
    SHOAL_API_CALLED     /* behind them */
} shoal_api_tool_phase;

/* What the text of an answer means where there are tools. push and end set the last three. */
typedef struct shoal_api_tool_reader {
    shoal_api_tool_phase phase;
    size_t tool_i; /* of the request, from ARGUMENTS on */
    size_t depth;  /* braces and brackets open in the arguments */
    bool in_string;
    bool escaped;
    shoal_buf held;    /* not yet known to be content or call */
    bool began;        /* the call of tool_i has begun */
    shoal_buf content; /* new content */
    shoal_buf arguments;
} shoal_api_tool_reader;

struct shoal_api_call {
    shoal_api *api;
    shoal_api_deck *deck; /* holds a reference */
    shoal_api_call *next;
    shoal_api_call *prev;
    shoal_http_exchange *exchange; /* NULL: the client is gone */
    shoal_api_kind kind;
    uint64_t started_ns;
    char request_id[SHOAL_HTTP_REQUEST_ID_MAX + 1];
    shoal_buf body;             /* while it waits for the worker */
    shoal_api_request *request; /* once parsed */
    shoal_http_error error;     /* of parsing */
    bool submitted;
    uint64_t generation;
    atomic_bool lost; /* the loop did not keep up */
    shoal_api_fixed_message parsed;
    shoal_api_fixed_message end;
    /* written before the end message is pushed */
    bool failed;
    shoal_err failure;
    shoal_finish finish;
    shoal_usage usage;
    /* the answer */
    shoal_buf envelope;       /* id, created, model: the same in every chunk */
    shoal_buf text;           /* not streamed: all of it */
    shoal_buf tokens;         /* origins, comma-separated objects */
    shoal_coop_score *scores; /* the engine thread's until the message of the token, or of the end;
                               * NULL: not asked for */
    shoal_coop_top *tops;     /* likewise */
    shoal_api_told told;
    shoal_api_tool_reader tools;
    shoal_redact_restorer restorer;
    shoal_buf restored; /* the piece of text being told, with the words put back */
    /* events of a stream */
    size_t event_first; /* number of the first one */
    size_t event_i;     /* of the next one */
    size_t event_at;    /* where it begins in the buffer it is being written to */
    size_t n_seen;      /* events below this number are not written: the client has them */
    /* coming back */
    bool resumable;
    bool ended;          /* nothing comes any more; kept to be read again */
    bool deleted;        /* by its client */
    uint64_t expires_ms; /* nobody waits for it: when it is given up; 0: somebody does */
    shoal_api_message *kept;
    shoal_api_message *kept_last;
    shoal_http_error end_error; /* status 0: it ended well */
    char random[25];            /* hexadecimal: what makes its ids differ from others */
};

/* Where a transfer is, when its message comes to the loop. */
typedef enum shoal_api_transfer_phase {
    SHOAL_API_READ,  /* LOAD: the body is a session, or is none */
    SHOAL_API_DONE,  /* coop has answered */
    SHOAL_API_WRITES /* SAVE: the next piece of the blob has been made */
} shoal_api_transfer_phase;

/* A request about kept sessions. Its message is with one thread at a time, and so is the rest. */
typedef struct shoal_api_transfer {
    shoal_api_message_kind kind; /* TRANSFER: what the queues hold */
    shoal_api *api;
    shoal_api_deck *deck; /* holds a reference */
    struct shoal_api_transfer *next;
    shoal_http_exchange *exchange; /* NULL: the client is gone */
    shoal_api_transfer_phase phase;
    bool under_way; /* loop-only: the worker or coop has the rest, and the message comes */
    shoal_session_act act;
    char name[SHOAL_SESSION_NAME_MAX + 1];
    shoal_buf body; /* LOAD, until it is read */
    shoal_session_copy *copy;
    shoal_err failure;
    shoal_session_info *list; /* [n_list] */
    size_t n_list;
    shoal_session_writer *writer; /* SAVE, once it is written */
    uint8_t *piece;               /* likewise: what the worker has made of it, */
    size_t n_piece;               /* so many bytes, */
    shoal_status made;            /* or why not */
} shoal_api_transfer;

struct shoal_api {
    shoal_loop *loop;
    shoal_api_deck *deck; /* of calls that begin now */
    shoal_metrics *registry;
    shoal_api_settings settings;
    char *api_key;
    uint64_t started_ns;
    int64_t created; /* unix time of the start */
    bool draining;
    void (*on_drained)(void *ctx);
    void *on_drained_ctx;
    shoal_api_watch watch;
    shoal_wake *wake;
    shoal_queue *inbox; /* messages to the loop: has room for every fixed one */
    atomic_size_t n_tokens_queued;
    shoal_queue *jobs; /* to the worker: fixed messages of calls, and of transfers */
    shoal_thread *worker;
    shoal_api_call *calls;
    size_t n_calls; /* that have not ended */
    shoal_api_transfer *transfers;
    size_t n_transfers;
    size_t n_ended;
    size_t kept_bytes;
    shoal_timer *expiry;
    shoal_buf scratch;   /* the chunk being written */
    uint64_t n_requests; /* taken by coop */
    shoal_metric *duration;
    shoal_metric *per_token;
    shoal_metric *prompt_tokens;
    shoal_metric *link_up;
};

/* api.c */
shoal_api_deck *shoal_api_deck_ref(shoal_api_deck *deck);
void shoal_api_deck_unref(shoal_api *api, shoal_api_deck *deck);

/* api_call.c */
void shoal_api_call_begin(shoal_api *api, shoal_http_exchange *exchange, shoal_api_kind kind);
void shoal_api_call_gone(shoal_api_call *call);
void shoal_api_call_free(shoal_api_call *call);
/* Writes scratch; begins the stream when this is the first of it. */
void shoal_api_write_stream(shoal_api_call *call);
/* Its last message has come: tells its client, with the error or the last chunks. */
void shoal_api_end_exchange(shoal_api_call *call);
void shoal_api_drain_inbox(void *ctx); /* a shoal_api: wake-up on the loop */
void shoal_api_work(void *ctx);        /* a shoal_api: the worker's thread */

/* api_answer.c: appends JSON, or "data: {...}\n\n". */
shoal_status shoal_api_put_envelope(shoal_api_call *call) SHOAL_MUST_CHECK;
/* The events of the stream are written from the start again, those from n_seen on. */
void shoal_api_rewind(shoal_api_call *call, size_t n_seen);
/* An event of its own: begins, and ends what was appended since. */
shoal_status shoal_api_begin_event(shoal_buf *buf, shoal_api_call *call) SHOAL_MUST_CHECK;
shoal_status shoal_api_end_event(shoal_buf *buf, shoal_api_call *call) SHOAL_MUST_CHECK;
shoal_status shoal_api_put_role(shoal_buf *buf, shoal_api_call *call) SHOAL_MUST_CHECK;
/* The text of a token as it is told, in order; valid until the next one. */
shoal_status shoal_api_restore(const shoal_api_message *message,
                               shoal_str *ret_text) SHOAL_MUST_CHECK;
shoal_status shoal_api_put_token(shoal_buf *buf, const shoal_api_message *message,
                                 shoal_str text) SHOAL_MUST_CHECK;
/* Once for each token, in order. */
shoal_status shoal_api_put_chunk(shoal_buf *buf, const shoal_api_message *message) SHOAL_MUST_CHECK;
/* The last chunks and [DONE]; once. */
shoal_status shoal_api_put_finish(shoal_buf *buf, shoal_api_call *call) SHOAL_MUST_CHECK;
shoal_status shoal_api_put_answer(shoal_buf *buf, shoal_api_call *call) SHOAL_MUST_CHECK;

/* api_tool_answer.c: the text of a chat, in order. */
void shoal_api_tools_start(shoal_api_tool_reader *t, const shoal_api_request *q);
void shoal_api_tools_fini(shoal_api_tool_reader *t);
shoal_status shoal_api_tools_push(shoal_api_tool_reader *t, const shoal_api_request *q,
                                  const char *text, size_t n) SHOAL_MUST_CHECK;
shoal_status shoal_api_tools_end(shoal_api_tool_reader *t,
                                 const shoal_api_request *q) SHOAL_MUST_CHECK;
/* The members of the delta that this piece of text is; and of what was held at the end. */
shoal_status shoal_api_put_delta(shoal_buf *buf, shoal_api_call *call, const char *text,
                                 size_t n) SHOAL_MUST_CHECK;
shoal_status shoal_api_put_last_delta(shoal_buf *buf, shoal_api_call *call) SHOAL_MUST_CHECK;
/* The message that the whole text is. */
shoal_status shoal_api_put_message(shoal_buf *buf, shoal_api_call *call,
                                   const shoal_buf *text) SHOAL_MUST_CHECK;

/* api_logprobs.c: the text of the prompt; and the object that OpenAI calls logprobs, of the whole
 * answer, or of the next token of a stream. */
shoal_status shoal_api_put_prompt_text(shoal_buf *buf, const shoal_api_call *call) SHOAL_MUST_CHECK;
shoal_status shoal_api_put_logprobs(shoal_buf *buf, const shoal_api_call *call) SHOAL_MUST_CHECK;
shoal_status shoal_api_put_next_logprobs(shoal_buf *buf, shoal_api_call *call) SHOAL_MUST_CHECK;

/* api_resume.c */
/* Takes a token's message to be replayed; false: it is the caller's. */
bool shoal_api_keep(shoal_api_message *message);
/* Drops what is kept: the stream cannot be resumed any more. */
void shoal_api_forget(shoal_api_call *call);
/* Its client is gone: true when the generation goes on, waiting for it to come back. */
bool shoal_api_detach(shoal_api_call *call);
/* It has ended: true when it is held to be read again. */
bool shoal_api_keep_ended(shoal_api_call *call);
/* A request with Last-Event-ID is answered here; false: it has none. */
bool shoal_api_resume(shoal_api *api, shoal_http_exchange *exchange);
void shoal_api_expire(void *ctx); /* a shoal_api: timer on the loop */
void shoal_api_answer_stream(shoal_api *api, shoal_http_exchange *exchange);

/* api_status.c */
void shoal_api_answer_health(shoal_api *api, shoal_http_exchange *exchange);
void shoal_api_answer_ready(shoal_api *api, shoal_http_exchange *exchange);
void shoal_api_answer_metrics(shoal_api *api, shoal_http_exchange *exchange);
void shoal_api_answer_models(shoal_api *api, shoal_http_exchange *exchange);
void shoal_api_answer_model(shoal_api *api, shoal_http_exchange *exchange);
void shoal_api_answer_status(shoal_api *api, shoal_http_exchange *exchange);

/* api_session.c */
void shoal_api_answer_sessions(shoal_api *api, shoal_http_exchange *exchange);
void shoal_api_answer_session(shoal_api *api, shoal_http_exchange *exchange);
/* Worker: the body to a session, or the next piece of a blob. */
void shoal_api_transfer_work(shoal_api_transfer *transfer);
/* Loop: its message has come. */
void shoal_api_transfer_on_message(shoal_api_transfer *transfer);
/* Loop: more of the blobs that are on their way. */
void shoal_api_transfers_turn(shoal_api *api);
/* False: the exchange is none of a transfer. */
bool shoal_api_transfer_gone(shoal_api *api, const shoal_http_exchange *exchange);
void shoal_api_transfers_free(shoal_api *api);

/* api_page.c */
void shoal_api_answer_page(shoal_api *api, shoal_http_exchange *exchange);
void shoal_api_answer_link(shoal_api *api, shoal_http_exchange *exchange);

#endif
