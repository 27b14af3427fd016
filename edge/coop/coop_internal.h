/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to edge/coop: the mailbox, links to the cloud, and one generation.
 */
#ifndef SHOAL_COOP_COOP_INTERNAL_H
#define SHOAL_COOP_COOP_INTERNAL_H

#include "common/archive/archive.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/engine/engine.h"
#include "common/form/form.h"
#include "common/transfer/transfer.h"
#include "edge/coop/breaker.h"
#include "edge/coop/coop.h"
#include "edge/coop/retry.h"
#include "edge/pace/pace.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum {
    COOP_PREFILL_CHUNK = 128, /* prompt tokens of one generation in one step */
    COOP_ROWS_MAX = 512,      /* rows of one step */
    COOP_SCORE_ROWS = 16,     /* prompt tokens of one step that are scored */
    COOP_CHECK_ROWS = 16,     /* tokens of one step that left early and are looked at again */
    COOP_RETRY_MS_MIN = 20,   /* first pause before a cut stream is opened again */
    COOP_RETRY_MS_MAX = 500,
    COOP_LINK_MAILS_MAX = 4096, /* messages of one stream the engine has not yet seen */
    COOP_GOODBYE_MS = 2000,     /* patience after Close */
    COOP_PAUSE_MS_MIN = 250,    /* first pause after mode ASSIST lost the cloud */
    COOP_PAUSE_MS_MAX = 10000,
    COOP_WINDOW_MAX = SHOAL_PACE_WINDOW_MAX,
    COOP_FRAME_BYTES = 5 /* gRPC's length prefix, counted with every message */
};

typedef struct gen gen;
typedef struct link link;
typedef struct session_job session_job;
typedef struct fetch fetch;

/* Whom the cloud's text is of: its model, and the adapter that Open asked for. */
typedef struct author {
    bool known;
    shoal_hash model;
    bool has_adapter;
    shoal_hash adapter; /* zero without one */
} author;

/* What another coop has done before. */
typedef struct carried {
    shoal_coop_totals totals;
    bool has_spend;
    shoal_spend spend;
} carried;

/* --- mailbox: the only way into the engine thread ------------------------------------------- */

typedef enum mail_kind {
    MAIL_SUBMIT,    /* gen */
    MAIL_CANCEL,    /* id */
    MAIL_MESSAGE,   /* link, message, n_bytes */
    MAIL_CLOSED,    /* link, status, text */
    MAIL_DESCRIBED, /* described or status, text */
    MAIL_SESSION,   /* session */
    MAIL_FETCHED,   /* fetched */
    MAIL_CARRY      /* carried */
} mail_kind;

typedef struct mail {
    struct mail *next;
    mail_kind kind;
    uint64_t id;
    gen *generation;
    session_job *session;
    fetch *fetched; /* holds a reference */
    carried *carried;
    link *from; /* holds a reference */
    shoal_cloud_msg *message;
    size_t n_bytes;
    shoal_rpc_status status;
    shoal_describe *described;
    char text[SHOAL_WIRE_TEXT_MAX];
} mail;

typedef struct mailbox {
    pthread_mutex_t mutex;
    pthread_cond_t ready;
    mail *head; /* oldest */
    mail *tail;
    bool woken;
} mailbox;

shoal_status shoal_mailbox_init(mailbox *box) SHOAL_MUST_CHECK;
void shoal_mailbox_fini(mailbox *box);
mail *shoal_mail_new(mail_kind kind);
void shoal_mail_free(mail *m);
void shoal_mailbox_push(mailbox *box, mail *take_mail);
/* The next take, or the one that waits, returns at once. */
void shoal_mailbox_wake(mailbox *box);
/* All mails, oldest first; waits up to timeout_ms when there are none. */
mail *shoal_mailbox_take(mailbox *box, uint64_t timeout_ms);

/* --- link: one stream to the cloud ---------------------------------------------------------- */

/* Shared by the engine thread and the rpc poller; the last reference frees it. */
struct link {
    atomic_int refs;
    atomic_uint n_mails;
    shoal_coop *coop;
    shoal_rpc_call *call; /* set once by the engine thread before any mail is read */
    size_t n_vocab;
    mail *last;         /* made with the link: that it has ended must be told without memory too */
    link *next_closing; /* engine-only: said goodbye, waiting for the cloud to end it */
    uint64_t close_by_ms; /* then it is cancelled */
};

/* Opens a stream. The caller owns one reference. */
shoal_status shoal_link_open(shoal_coop *coop, link **ret_link) SHOAL_MUST_CHECK;
void shoal_link_unref(link *l);
/* Sends; *inout_bytes grows by message and frame. SHOAL_E_CANCELLED when the stream is over. */
shoal_status shoal_link_send(link *l, const shoal_edge_msg *msg, uint64_t *inout_bytes,
                             size_t *ret_bytes) SHOAL_MUST_CHECK;
/* Lets the cloud end the stream, for a second or two; says Close unless it ends by itself. Takes
 * the reference. */
void shoal_link_goodbye(link *take_link, bool ends);
/* Drops links whose goodbye took too long, or all of them. */
void shoal_link_sweep(shoal_coop *coop, uint64_t now_ms, bool all);
/* The stream of a link that said goodbye has ended. */
void shoal_link_closed(shoal_coop *coop, const link *l);
/* Ends the stream from our side; mails of it are ignored from now on. Frees the reference. */
void shoal_link_drop(link *take_link);
void shoal_coop_describe_start(shoal_coop *coop);
void shoal_coop_describe_end(shoal_coop *coop); /* forgets it, cancelling what still runs */

/* --- one generation -------------------------------------------------------------------------- */

typedef enum cloud_state {
    CLOUD_NONE,    /* not wanted, or waiting for the next attempt */
    CLOUD_AHEAD,   /* an opening is drafted; Open leaves with it */
    CLOUD_OPENING, /* Open and the confirmed tokens are sent */
    CLOUD_OPEN     /* Opened has come */
} cloud_state;

/* Mode ASSIST: who is at work, and what the cloud has been told. */
typedef struct assist_state {
    bool waits;      /* the cloud makes the next tokens, up to `until`; the edge rests */
    bool asked;      /* Continue was sent on this stream */
    bool alone;      /* the cloud is of no use to this answer any more */
    size_t n_told;   /* tokens that the cloud has, on this stream */
    size_t until;    /* the hand-over ends when so many tokens are confirmed */
    size_t n_unsure; /* unsure rows in a row */
    size_t n_most;   /* tokens the cloud may make; SIZE_MAX: no limit */
    double risk;     /* 0: as configured */
    uint64_t give_up_ms;
    shoal_sampled own; /* what the edge would have said at position own_at */
    size_t own_at;
    shoal_unassisted why; /* of the edge's next token */
} assist_state;

/* tokens[0..n_confirmed) may be shown; tokens[n_confirmed..n_tokens) are drafts, of which those
 * below n_sent are with the cloud. n_prompt <= n_confirmed <= n_sent <= n_tokens <= capacity. */
struct gen {
    gen *next;
    uint64_t id;
    shoal_mode mode;
    bool degrade;
    shoal_unassisted degraded; /* since it has; of each further token */
    bool done;
    bool cancelled;
    shoal_sampling sampling;
    shoal_logit_bias *biases;
    void (*on_event)(void *ctx, const shoal_coop_event *event);
    void *ctx;
    char request_id[65];
    char session[SHOAL_SESSION_NAME_MAX + 1]; /* "": its KV goes with it */

    int32_t *tokens;
    float *confidences; /* of the tier that produced the token */
    size_t capacity;
    size_t n_prompt;
    size_t n_end; /* n_prompt + tokens to generate */
    size_t n_confirmed;
    size_t n_tokens;
    size_t n_sent;
    shoal_coop_score *scores; /* (n_end), the caller's; NULL: not wanted */
    bool score_prompt;
    shoal_coop_top *tops; /* (n_end, n_tops), the caller's */
    size_t n_tops;

    shoal_kv_seq *seq; /* NULL in cloud mode */
    size_t n_pages;    /* promised to it */

    link *up;
    cloud_state cloud;
    uint32_t epoch;
    uint32_t retry_ms;
    uint64_t retry_at_ms;  /* next attempt */
    bool busy;             /* this stream's end was announced by a Busy */
    bool retry_paid;       /* the next attempt has its place in the bucket */
    uint64_t open_by_ms;   /* while it opens: then it is lost */
    uint64_t cut_at_ms;    /* when the stream was lost, 0: it stands */
    uint64_t reconnect_ms; /* how long it is tried again */
    shoal_pace pace;       /* how far ahead to draft; from admission on */
    shoal_pace_choice choice;
    bool continuing;         /* mode EXACT: a Continue of this epoch runs in place of drafts */
    bool whole;              /* this stream's Open has brought the prompt too */
    size_t n_opening;        /* drafts that the prompt waits for; 0: it was sent */
    uint64_t opening_ns;     /* until when at most */
    uint64_t sent_ns;        /* when what the cloud has not answered was sent, 0: nothing timed */
    size_t sent_position;    /* of the drafts timed; the prompt's end while opening */
    size_t sent_rows;        /* of them in the cloud's step, 0: their answer waits for no step */
    bool sent_alone;         /* nothing else was on its way */
    bool sent_decoding;      /* a Continue ran */
    uint64_t cloud_said_ns;  /* when the last tokens of a Continue came, 0: none of it yet */
    uint64_t deadline_at_ms; /* 0: none */
    uint32_t priority;       /* told in Open */
    uint64_t started_ns;
    assist_state assist;
    uint32_t n_messages; /* of its streams, both ways, for fault_cut_at */

    fetch *fetch;            /* of its prompt's KV, under way; NULL: none */
    bool fetch_tried;        /* it was decided, once for all */
    bool lossy;              /* some of its KV was fetched archived: nobody else may have it */
    const shoal_lora *lora;  /* of all that the edge's model computes of it; NULL */
    const char *adapter;     /* what the request called it, and the cloud its own; NULL: none */
    author author;           /* of the stream that was opened last */
    bool asked_again;        /* after a node that is another than it was described as */
    bool session_lossy;      /* what was kept under its name came archived, and stays marked so */
    bool fetch_holds;        /* the edge's model waits for it */
    uint64_t fetch_until_ms; /* for so long */

    shoal_exit_rule exits[SHOAL_MODEL_EXITS_MAX];
    shoal_depth *depth;            /* NULL: every token has its full depth at once */
    shoal_exit_state *exit_states; /* (n_exits), with depth: an answer depends on no other's */
    bool *has_left;                /* (capacity), with depth: the token was said at an exit */

    shoal_form *form;      /* NULL: free text */
    shoal_form_state held; /* after tokens[n_prompt..n_confirmed); these from admission on */
    uint32_t *allowed;     /* of the next sample, with a form */
    size_t n_allowed;      /* of the last sample; SHOAL_FORM_ALL: any */
    shoal_buf form_bytes;  /* its grammar, for the cloud */

    shoal_detok detok;
    shoal_stop *stop; /* NULL: no stop strings */
    shoal_buf text;   /* everything generated */
    size_t n_shown;   /* bytes of text already handed out */
    shoal_usage usage;
    uint64_t fault_rng;
};

/* Whole blocks of a text that prompts begin with. */
typedef struct prefix {
    int32_t *ids; /* (n_ids), a multiple of 32 */
    size_t n_ids;
    shoal_kv_seq *seq;
    size_t n_pages; /* promised to it */
} prefix;

/* What was measured of moving KV; 0: not yet. */
typedef struct coop_figures {
    double here_prefill_us; /* a token of a prompt, by the edge's model */
    double peer_prefill_us; /* the same by the cloud, as it says */
    double down_bytes_s;
    double decode_us;     /* of a token's KV that came */
    double restore_us;    /* the same, archived */
    double round_trip_us; /* of a Describe */
    uint64_t rate_at_ms;  /* when down_bytes_s was measured */
} coop_figures;

/* Energy of answers under way (charge.c). */
typedef struct coop_charge {
    shoal_power *meter; /* NULL: none */
    shoal_energy energy;
    bool open; /* answers are under way; of the interval: */
    uint64_t since_ns;
    double compute_us;
    uint64_t n_ended;
    shoal_coop_totals seen; /* at its begin */
    bool up;
    char trouble[SHOAL_WIRE_TEXT_MAX];
    uint64_t until_ms; /* the budget lets nothing begin before; 0: it does */
} coop_charge;

struct shoal_coop {
    const shoal_model *model;
    shoal_coop_settings settings;
    char *target;
    char *tls_paths[4];
    shoal_engine *engine;
    shoal_sampler *sampler;
    shoal_form_words *words; /* NULL until a form needs them */
    shoal_clock clock;
    mailbox box;
    shoal_thread *thread;
    atomic_uint_fast64_t next_id;
    atomic_size_t n_waiting;
    atomic_bool stopping;
    atomic_uint_fast64_t stop_at_ms;    /* when stopping: open requests are cancelled */
    atomic_bool link_cut;               /* as wanted from outside */
    bool link_is_cut;                   /* as the engine thread has acted on */
    atomic_uint_fast64_t turn_since_ms; /* the engine thread's turn began; 0: it waits for mail */

    /* Set by the engine thread, or before there is one, under the mutex; who reads them elsewhere
     * holds it. NULL while the link rests, and without a cloud. */
    pthread_mutex_t channel_mutex;
    shoal_rpc *rpc;
    shoal_rpc_channel *channel;
    bool channel_failed;        /* could not be made, or did not stand when it was let go; under the
                                 * mutex */
    cpu_set_t cpus;             /* that this process may run on */
    uint64_t channel_wanted_ms; /* engine-only: when something last had to do with the cloud */
    bool channel_was_wanted;    /* engine-only: in the turn before */
    uint64_t channel_retry_ms;  /* engine-only: not made before */
    char channel_trouble[SHOAL_WIRE_TEXT_MAX]; /* engine-only: why it could not be made */
    shoal_rpc_call *describe_call;             /* a Describe under way, else NULL; engine-only */
    atomic_size_t n_calls;                     /* streams and Describes that have not closed */
    bool described;
    uint64_t describe_at_ms; /* not before */
    shoal_describe cloud;

    link *closing; /* streams that said goodbye */
    shoal_retry_bucket retries;
    shoal_breaker breaker; /* mode ASSIST */
    shoal_route route;
    shoal_spend spend;
    coop_charge charge;
    shoal_keep *keep; /* NULL: no session is kept */
    prefix prefixes[SHOAL_COOP_PREFIXES_MAX];
    size_t n_prefixes;
    shoal_session_identity identity;
    shoal_hash form; /* of its words, as blobs say it */
    coop_figures figures;
    shoal_archive *archive; /* of sessions and what is fetched; NULL: all are exact */
    uint64_t stepped_ns;    /* end of the last step */
    shoal_breaker fetches;  /* FetchKv: failures, and peers that sent what was no KV */
    uint64_t quarantined_until_ms;
    uint64_t describe_sent_ns;
    shoal_coop_totals spent; /* of all generations, as far as spend knows them */

    gen *waiting_head;
    gen *waiting_tail;
    gen *active;
    size_t n_active;
    size_t n_pages_promised;
    double round_trip_ms;     /* 0: not yet seen */
    shoal_pace pace;          /* what all generations have measured */
    shoal_pace_choice choice; /* the last one's */
    shoal_coop_totals ended;  /* of generations whose books are closed */
    shoal_span *spans;        /* (n_active_max) */
    gen **span_gens;          /* (n_active_max) */

    pthread_mutex_t state_mutex;
    shoal_coop_state state;
    struct {
        shoal_metric *tokens[SHOAL_TIERS];
        shoal_metric *unassisted[SHOAL_UNASSISTED_KINDS]; /* NOT: NULL */
        shoal_metric *requests;
        shoal_metric *running;
        shoal_metric *waiting;
        shoal_metric *drafted;
        shoal_metric *accepted;
        shoal_metric *steps;
        shoal_metric *layers;
        shoal_metric *exit_checked;
        shoal_metric *exit_agreed;
        shoal_metric *reconnects;
        shoal_metric *bytes_up;
        shoal_metric *bytes_down;
        shoal_metric *packet_bytes_up; /* these with traffic alone */
        shoal_metric *packet_bytes_down;
        shoal_metric *kv_usage;
        shoal_metric *saved;
        shoal_metric *fed;
        shoal_metric *kept_tokens;
        shoal_metric *prefix_tokens;
        shoal_metric *sessions;
        shoal_metric *given_up;
        shoal_metric *spend[SHOAL_SPEND_KINDS][SHOAL_SPEND_PERIODS]; /* NULL without a limit */
        shoal_metric *energy;                                        /* these with a meter alone */
        shoal_metric *energy_cloud_only;
        shoal_metric *energy_up;
        shoal_metric *energy_edge_token;
        shoal_metric *energy_cloud_token;
        shoal_metric *first_token;
        shoal_metric *draft_tokens;
        shoal_metric *draft_window;
        shoal_metric *draft_acceptance;
        shoal_metric *cloud_step;
        shoal_metric *cloud_price;
        shoal_metric *fetch_taken;
        shoal_metric *fetch_lost;
        shoal_metric *fetch_failed;
        shoal_metric *fetch_bad;
        shoal_metric *fetch_resumed;
        shoal_metric *fetched_tokens;
        shoal_metric *fetched_archived;
        shoal_metric *fetch_bytes;
        shoal_metric *fetch_quarantined;
    } metrics;
};

shoal_status shoal_gen_new(shoal_coop *coop, const shoal_coop_request *request, gen **ret_gen,
                           shoal_err *err) SHOAL_MUST_CHECK;
void shoal_gen_free(gen *g);

/* Appends an own sample: a draft in exact mode, a confirmed token otherwise. */
void shoal_gen_take_sample(shoal_coop *coop, gen *g, const shoal_sampled *sampled);
/* Confirms tokens[n_confirmed] as it stands and tells the app. */
void shoal_gen_confirm(shoal_coop *coop, gen *g, shoal_tier tier, uint32_t round);
/* Puts the cloud's token at position n_confirmed, rolling drafts back where they differ. True when
 * a draft already stood there and was right. */
bool shoal_gen_take_cloud(shoal_coop *coop, gen *g, int32_t id, float confidence, uint32_t round);
void shoal_gen_finish(shoal_coop *coop, gen *g, shoal_finish finish);
void shoal_gen_fail(shoal_coop *coop, gen *g, shoal_status code, const char *text);

/* Adds what the link has carried since the last look, of whatever it was. */
void shoal_coop_look_at_link(shoal_coop *coop);
/* The sum of all usages. */
void shoal_coop_sum_totals(const shoal_coop *coop, shoal_coop_totals *ret_totals);
/* Bytes sent and received as budgets and energy count them: those of packets where the kernel is
 * asked, else those of messages. */
uint64_t shoal_coop_billed_up(const shoal_coop *coop, const shoal_coop_totals *totals);
uint64_t shoal_coop_billed_down(const shoal_coop *coop, const shoal_coop_totals *totals);
/* Copies it to the state others read. */
void shoal_coop_publish_totals(shoal_coop *coop);

/* The logits after tokens[position - 1] say what the token at that position, id, is worth. */
void shoal_gen_score(gen *g, size_t position, int32_t id, const float *logits, size_t n_vocab);
/* The n likeliest tokens in order; n at most SHOAL_COOP_TOPS_MAX and n_vocab. best: the logprob of
 * the first. */
void shoal_gen_top(const float *logits, size_t n_vocab, double best, shoal_coop_top *ret_tops,
                   size_t n);

/* Forms (constrain.c). */
/* What the cloud has to be told of the form, nothing in mode LOCAL. */
shoal_status shoal_gen_form_bytes(const shoal_coop_request *request, shoal_buf *bytes,
                                  shoal_err *err) SHOAL_MUST_CHECK;
/* Before the first token, on the engine thread. */
shoal_status shoal_gen_form_begin(shoal_coop *coop, gen *g) SHOAL_MUST_CHECK;
/* What may come next, before a sample is drawn behind all tokens; without a form, or before its
 * opening, everything may. On failure the generation has ended. */
shoal_status shoal_gen_constrain(shoal_coop *coop, gen *g) SHOAL_MUST_CHECK;
/* Whether id may be the next that is confirmed. */
bool shoal_gen_keeps_form(const shoal_coop *coop, const gen *g, int32_t id);
/* Drafts from the first on that breaks the form are gone. */
void shoal_gen_drop_formless(const shoal_coop *coop, gen *g);

/* Whether the edge model should compute for it now, and the span to run. */
bool shoal_gen_span(const shoal_coop *coop, const gen *g, shoal_span *ret_span);
/* True when another draft or token may be sampled at position n_tokens. */
bool shoal_gen_may_draft(const shoal_coop *coop, const gen *g);

/* Prefixes (prefix.c). */
shoal_status shoal_prefix_load(shoal_coop *coop, const shoal_coop_prefix *blob,
                               shoal_err *err) SHOAL_MUST_CHECK;
/* A sequence with the blocks that its prompt begins with, of the longest; NULL: none. */
shoal_kv_seq *shoal_prefix_fork(shoal_coop *coop, const gen *g);
/* Gives its pages to requests; false: there is none. */
bool shoal_prefix_drop(shoal_coop *coop);

/* Sessions (session.c). */
/* Gives it a sequence, with what was kept of its session, and promises it pages: n_pages are free
 * but for kept sessions. SHOAL_E_NOMEM: nothing was promised. */
shoal_status shoal_session_begin(shoal_coop *coop, gen *g, size_t n_pages) SHOAL_MUST_CHECK;
/* Its pages are nobody's any more, but for what is kept of it. */
void shoal_session_end(shoal_coop *coop, gen *g);
void shoal_session_job_free(session_job *job);
/* What was asked of kept sessions from outside. */
void shoal_session_serve(shoal_coop *coop, session_job *job);
shoal_status shoal_session_identify(shoal_coop *coop) SHOAL_MUST_CHECK;
shoal_status shoal_session_open_archive(shoal_coop *coop, shoal_err *err) SHOAL_MUST_CHECK;

/* --- the connection to the cloud (channel.c) -------------------------------------------------- */

/* Before there is an engine thread: takes target and certificates, and connects. */
shoal_status shoal_channel_init(shoal_coop *coop, shoal_err *err) SHOAL_MUST_CHECK;
/* After it, when no call is left. */
void shoal_channel_fini(shoal_coop *coop);
/* Each turn: connects for a generation that may need the cloud, and lets the connection go when
 * nothing has had to do with it for settings.rest_ms. */
void shoal_channel_mind(shoal_coop *coop, uint64_t now_ms);
/* When it is to be let go; UINT64_MAX: not yet told. */
uint64_t shoal_channel_wakes_ms(const shoal_coop *coop);
/* Any thread. IDLE while it rests. */
shoal_rpc_link shoal_channel_link(shoal_coop *coop, bool *ret_rests);

/* KV of a prompt from the cloud (fetch.c). */
/* Before each step: decides for a prompt that is not computed yet, and whether its generation is
 * to wait for what comes. */
void shoal_coop_fetch_pump(shoal_coop *coop, gen *g, uint64_t now_ms);
/* A step of so many rows took so long. */
void shoal_coop_fetch_step(shoal_coop *coop, size_t n_rows, double step_us);
/* The call has ended, and what came of it is taken up. */
void shoal_coop_fetch_ended(shoal_coop *coop, fetch *f);
/* Cancels what is under way. */
void shoal_coop_fetch_drop(gen *g);
/* When the pump has something to do with it, without news; UINT64_MAX: never. */
uint64_t shoal_coop_fetch_wakes_ms(const gen *g);
void shoal_coop_fetch_unref(fetch *f);
/* Copies what others read into coop->state, under its lock. */
void shoal_coop_fetch_publish(shoal_coop *coop, uint64_t now_ms);

/* Early exits (leave.c). */
shoal_status shoal_leave_init(const shoal_coop *coop, gen *g, const char *policy, float threshold,
                              shoal_err *err) SHOAL_MUST_CHECK;
void shoal_leave_fini(gen *g);
/* Makes the span one that may leave. n_checks_free: rows of logits left for a second look. */
void shoal_leave_span(const gen *g, size_t n_checks_free, shoal_span *span);
/* After the step, before its token is taken. */
void shoal_leave_count(shoal_coop *coop, gen *g, const shoal_span *span);
/* Where the token at a position was produced, when it is confirmed as of this tier. */
shoal_tier shoal_leave_tier(gen *g, size_t position, shoal_tier tier);

/* --- the cloud's side of a generation (uplink.c) --------------------------------------------- */

/* Opens the stream when one is wanted and due; sends what is ready. */
void shoal_uplink_pump(shoal_coop *coop, gen *g, uint64_t now_ms);
void shoal_uplink_message(shoal_coop *coop, gen *g, const shoal_cloud_msg *msg, size_t n_bytes);
/* The stream is gone: retry later, degrade or fail. */
void shoal_uplink_lost(shoal_coop *coop, gen *g, shoal_rpc_status status, const char *text);
/* Loses every stream when the link has been cut since the last call. */
void shoal_uplink_check_cut(shoal_coop *coop);
/* The stream is gone and another attempt is of no use: degrade or fail. */
void shoal_uplink_refused(shoal_coop *coop, gen *g, shoal_rpc_status status, const char *text);
/* Says goodbye and forgets the stream. */
void shoal_uplink_close(gen *g);
/* Opens a stream and sends everything confirmed. */
shoal_status shoal_uplink_open(shoal_coop *coop, gen *g) SHOAL_MUST_CHECK;
/* Tells the cloud the confirmed tokens from position from on, and hands over: it makes up to n_max
 * more. */
shoal_status shoal_uplink_hand_over(shoal_coop *coop, gen *g, size_t from,
                                    size_t n_max) SHOAL_MUST_CHECK;
/* Whether what the cloud describes is enough for this request: that it holds answers to a form, has
 * the adapter, is what the text was begun with. Else text says what is wrong with it. */
shoal_rpc_status shoal_uplink_can_serve(const shoal_coop *coop, const gen *g, char *text,
                                        size_t n_text);
/* R9 on our side: what the cloud describes must fit our tokenizer and the operator's pin. */
bool shoal_uplink_identity_ok(const shoal_coop *coop, char *text, size_t n_text);

/* --- mode ASSIST (assist.c) ------------------------------------------------------------------- */

/* An answer begins: where energy is short and the cloud's tokens cost less of it, all of it is the
 * cloud's, and its prompt is not computed here. */
void shoal_assist_begin(shoal_coop *coop, gen *g, uint64_t now_ms);
/* A row of the edge model, and what was sampled from it. True: the cloud makes this token, the
 * sample is not to be taken. */
bool shoal_assist_asks(shoal_coop *coop, gen *g, const float *logits, const shoal_sampled *sampled);
/* Logits wanted of the last n_ids of the prompt, 1 unless prompts are judged. */
size_t shoal_assist_prompt_rows(const shoal_coop *coop, const gen *g, size_t n_ids);
/* The rows of the prompt's end: hands the whole answer over where they are too hard. */
void shoal_assist_judge_prompt(shoal_coop *coop, gen *g, const shoal_span *span);
/* Opens, tells and hands over, where the cloud is wanted; gives up when its time is over. */
void shoal_assist_pump(shoal_coop *coop, gen *g, uint64_t now_ms);
/* Tokens of the cloud were confirmed. */
void shoal_assist_progress(shoal_coop *coop, gen *g);
/* The stream is gone: the edge goes on. again: another attempt may end otherwise. */
void shoal_assist_lost(shoal_coop *coop, gen *g, bool again, const char *text);
/* Whether a lost cloud answers again, when it is time to ask; for all generations. */
void shoal_assist_probe(shoal_coop *coop, uint64_t now_ms);
/* Describe has been answered, or has failed with a text. */
void shoal_assist_described(shoal_coop *coop, const char *failure, uint64_t now_ms);
/* What was spent since the last call, by all modes. */
void shoal_assist_spend(shoal_coop *coop, const shoal_coop_totals *totals, uint64_t now_ms);
/* False: a budget is used up, and the text says which. */
bool shoal_assist_may_spend(const shoal_coop *coop, char *text, size_t n_text);
/* Copies what others read into coop->state, under its lock. */
void shoal_assist_publish(shoal_coop *coop, uint64_t now_ms);

/* --- energy (charge.c); all of it without effect where there is no meter ------------------------
 */

/* Answers are under way. */
void shoal_charge_begin(shoal_coop *coop);
/* Charges what was drawn up to now. */
void shoal_charge_take(shoal_coop *coop);
/* Once a turn: charges when it is time, or when no answer is under way any more. */
void shoal_charge_turn(shoal_coop *coop);
/* When it is time; UINT64_MAX: never. */
uint64_t shoal_charge_look_ms(const shoal_coop *coop);
/* A step took so long. n_tokens: it was for; 0 where it fed more than one row of any answer. */
void shoal_charge_step(shoal_coop *coop, double step_us, size_t n_tokens);
/* Tokens of a Continue have come. */
void shoal_charge_cloud_tokens(shoal_coop *coop, gen *g, size_t n_tokens);
/* Of the energy budget, 0..1; 1 without one. */
double shoal_charge_level(const shoal_coop *coop, uint64_t now_ms);
/* How long the next answer has to wait for the energy budget, 0: it may begin. text says which. */
uint64_t shoal_charge_wait_ms(const shoal_coop *coop, uint64_t now_ms, char *text, size_t n_text);
/* Copies what others read into coop->state, under its lock. */
void shoal_charge_publish(shoal_coop *coop, uint64_t now_ms);

#endif
