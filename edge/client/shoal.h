/* SPDX-License-Identifier: Apache-2.0
 *
 * libshoal: the client library of the Shoal edge. It speaks the edge's OpenAI-compatible HTTP API
 * and hands out tokens as they come, each with the tier that produced it. It links libc and
 * OpenSSL's libssl and libcrypto alone, shared, so that their security fixes are the system's; it
 * does not contain the engine and keeps nothing on disk.
 *
 * Ownership: every pointer given to a function is borrowed for the call. Every pointer given to a
 * callback is borrowed for the callback: copy what must live longer. Text is UTF-8.
 *
 * Threads: a shoal_client makes one call at a time; a second call on the same handle meanwhile
 * answers SHOAL_CLIENT_E_INVALID. Different handles are independent. shoal_client_cancel may be
 * called from any thread and from a signal handler. Calls block; callbacks run on the caller's
 * thread and may call nothing on the same handle but shoal_client_cancel.
 *
 * TLS: an https edge's certificate must end in an authority of ca_file and bear the URL's host,
 * name or address; versions 1.2 and 1.3. OpenSSL's queue of errors of the calling thread is
 * emptied, and OpenSSL is told not to take itself down at exit.
 *
 * Versions: structs that applications fill start with `size`; a library that knows more fields
 * gives those beyond `size` their defaults. Plain C99 and C++.
 */
#ifndef SHOAL_CLIENT_SHOAL_H
#define SHOAL_CLIENT_SHOAL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#    define SHOAL_CLIENT_API __attribute__((visibility("default")))
#else
#    define SHOAL_CLIENT_API
#endif

/* --- limits ---------------------------------------------------------------------------------- */

#define SHOAL_CLIENT_ERROR_TEXT_MAX   512  /* bytes of an error text, with its NUL */
#define SHOAL_CLIENT_URL_MAX          1024 /* bytes of a URL */
#define SHOAL_CLIENT_KEY_MAX          1024 /* bytes of an API key */
#define SHOAL_CLIENT_NAME_MAX         128  /* bytes of a model name or answer id, with its NUL */
#define SHOAL_CLIENT_REQUEST_MAX      (16u << 20) /* bytes of a request body */
#define SHOAL_CLIENT_MESSAGES_MAX     4096        /* chat messages of one request */
#define SHOAL_CLIENT_STOPS_MAX        16          /* stop strings of one request */
#define SHOAL_CLIENT_HEAD_MAX         (32u << 10) /* bytes of an answer's status line and headers */
#define SHOAL_CLIENT_EVENT_MAX        (1u << 20)  /* bytes of one streamed event */
#define SHOAL_CLIENT_BODY_MAX         (4u << 20)  /* bytes of an answer that is not streamed */
#define SHOAL_CLIENT_MODELS_MAX       16          /* models listed by shoal_client_probe */
#define SHOAL_CLIENT_SESSION_NAME_MAX 64          /* bytes of a session's name */

/* --- errors ---------------------------------------------------------------------------------- */

/* Zero is success, everything else is negative. */
typedef enum shoal_client_code {
    SHOAL_CLIENT_OK = 0,
    SHOAL_CLIENT_E_NOMEM = -1,     /* out of memory */
    SHOAL_CLIENT_E_INVALID = -2,   /* an argument; the text names it */
    SHOAL_CLIENT_E_CONNECT = -3,   /* nobody answers at the address */
    SHOAL_CLIENT_E_IO = -4,        /* the connection broke before the answer was complete */
    SHOAL_CLIENT_E_TIMEOUT = -5,   /* a timeout of the options or the request has passed */
    SHOAL_CLIENT_E_CANCELLED = -6, /* shoal_client_cancel, or the callback asked to stop */
    SHOAL_CLIENT_E_PROTOCOL = -7,  /* the answer is not what the edge's API promises */
    SHOAL_CLIENT_E_LIMIT = -8,     /* the answer or request is over a limit of this library */
    SHOAL_CLIENT_E_REFUSED = -9,   /* the edge answered with an error; see http_status and text */
    SHOAL_CLIENT_E_BUSY = -10,     /* the edge is full or not ready; see retry_after_s */
    SHOAL_CLIENT_E_TLS = -11       /* https: its certificate is not trusted, or no TLS answers */
} shoal_client_code;

/* What went wrong, for a person. Every function that takes one accepts NULL. Always written: on
 * success code is SHOAL_CLIENT_OK and text is empty. */
typedef struct shoal_client_error {
    int code;          /* a shoal_client_code */
    int http_status;   /* 0 when no answer came */
    int retry_after_s; /* from the edge, or -1 */
    char text[SHOAL_CLIENT_ERROR_TEXT_MAX];
} shoal_client_error;

/* A short static text for a code; never NULL. Any thread. */
SHOAL_CLIENT_API const char *shoal_client_code_text(int code);

/* --- connection ------------------------------------------------------------------------------ */

typedef struct shoal_client shoal_client;

typedef struct shoal_client_options {
    size_t size;
    const char *url;             /* "http://host:port[/prefix]", https:// likewise, "unix:/path";
                                    NULL: $SHOAL_URL, else http://127.0.0.1:8088 */
    const char *api_key;         /* sent as a bearer token; NULL: none. Printable ASCII */
    uint32_t connect_timeout_ms; /* resolving, connecting, TLS handshake; default 5000; 0: none */
    uint32_t idle_timeout_ms;    /* longest silence of the edge; default 120000; 0: none */
    uint32_t resume_ms;          /* how long a streamed answer whose connection broke is asked for
                                    again, from where it broke; default 10000; 0: not at all */
    const char *ca_file; /* https alone: PEM file of the authorities, or of the edge's certificate;
                            NULL: $SHOAL_CA_FILE, else the system's (SHOAL_1.2) */
} shoal_client_options;

/* Fills the first `size` bytes with the defaults; call as shoal_client_options_init(&o, sizeof o).
 */
SHOAL_CLIENT_API void shoal_client_options_init(shoal_client_options *options, size_t size);

/* Makes a handle: options, which may be NULL, are checked and copied, no connection is made yet.
 * The handle goes to *ret_client, which is NULL on failure. Errors: NOMEM, INVALID (url, api_key,
 * ca_file), IO (no file descriptor left). */
SHOAL_CLIENT_API int shoal_client_new(const shoal_client_options *options,
                                      shoal_client **ret_client, shoal_client_error *ret_error);

/* Ends a handle; no call may be in progress. NULL is allowed. */
SHOAL_CLIENT_API void shoal_client_free(shoal_client *client);

/* The address in use, for messages; lives as long as the handle. Any thread. */
SHOAL_CLIENT_API const char *shoal_client_url(const shoal_client *client);

/* Ends the call in progress within 20 ms, with SHOAL_CLIENT_E_CANCELLED; the edge is told, and
 * where it cannot be reached so soon it stops generating after its api.replay_ms. Does nothing when
 * no call is in progress: a later call is not affected. Any thread; async-signal-safe; never
 * blocks. */
SHOAL_CLIENT_API void shoal_client_cancel(shoal_client *client);

/* --- requests -------------------------------------------------------------------------------- */

typedef struct shoal_client_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
} shoal_client_message;

typedef struct shoal_client_request {
    size_t size;
    const char *prompt;                   /* for shoal_client_complete */
    const shoal_client_message *messages; /* for shoal_client_chat */
    size_t n_messages;                    /* 1..SHOAL_CLIENT_MESSAGES_MAX */
    const char *model;                    /* NULL: the edge's own */
    const char *mode;         /* "local", "assist", "exact", "cloud"; NULL: the edge's */
    int32_t max_tokens;       /* negative: the edge's default */
    double temperature;       /* negative: the edge's default */
    double top_p;             /* negative: the edge's default */
    double min_p;             /* negative: the edge's default */
    int32_t top_k;            /* negative: the edge's default */
    int64_t seed;             /* negative: the edge's choice */
    const char *const *stop;  /* n_stop strings */
    size_t n_stop;            /* 0..SHOAL_CLIENT_STOPS_MAX */
    uint32_t timeout_ms;      /* whole call; 0: none */
    int32_t max_cloud_tokens; /* mode "assist": the cloud's; negative: no limit */
    double risk; /* mode "assist": share of tokens that may differ from the cloud's; negative: the
                  * edge's default */
    const char *session; /* the edge keeps what it computed of this text under the name, and
                          * computes of the next one only what is new; NULL: none */
    int32_t priority;    /* of its work in the cloud, 0..7, 7 first; negative: the edge's default */
} shoal_client_request;

/* Fills the first `size` bytes with the defaults: nothing set, everything the edge's choice. */
SHOAL_CLIENT_API void shoal_client_request_init(shoal_client_request *request, size_t size);

/* How deep a token was confirmed. */
typedef enum shoal_client_tier {
    SHOAL_CLIENT_TIER_EXIT = 0,   /* the edge model left early */
    SHOAL_CLIENT_TIER_EDGE = 1,   /* the edge model's full depth */
    SHOAL_CLIENT_TIER_CLOUD = 2,  /* the cloud model */
    SHOAL_CLIENT_TIER_UNKNOWN = 3 /* the answer did not say */
} shoal_client_tier;
#define SHOAL_CLIENT_TIERS 3

/* The name of a tier: "exit", "edge", "cloud", "unknown"; never NULL. Any thread. */
SHOAL_CLIENT_API const char *shoal_client_tier_name(int tier);

/* Why a token is the edge's although it was the cloud's to say: mode "assist" would have asked, or
 * the request degraded (SHOAL_1.5). */
typedef enum shoal_client_unassisted {
    SHOAL_CLIENT_UNASSISTED_NOT = 0,    /* the edge was sure, or the cloud said or confirmed it */
    SHOAL_CLIENT_UNASSISTED_AWAY = 1,   /* the cloud was out of reach, too slow or of no use */
    SHOAL_CLIENT_UNASSISTED_BUDGET = 2, /* a budget of the edge or of the request was spent */
    SHOAL_CLIENT_UNASSISTED_OTHER = 3   /* for a reason this library has no name for */
} shoal_client_unassisted;

/* The name of a reason: "" for none, "away", "budget", "other"; never NULL. Any thread. A program
 * that reads `unassisted` of a token calls it, so that it asks for a library that tells it. */
SHOAL_CLIENT_API const char *shoal_client_unassisted_name(int unassisted);

typedef struct shoal_client_token {
    const char *text;   /* NUL-terminated; n_text bytes; empty while a character is incomplete */
    size_t n_text;      /* text may contain NUL bytes */
    int32_t id;         /* in the model's vocabulary, -1 unknown */
    int tier;           /* a shoal_client_tier */
    double confidence;  /* [0, 1]; negative: unknown */
    uint32_t round;     /* verification round, 0: none */
    int32_t unassisted; /* a shoal_client_unassisted; stands where padding stood (SHOAL_1.5) */
    double ms; /* since the previous token or the request, as the edge says; negative: unknown */
} shoal_client_token;

/* One streamed piece. text is what to show; tokens are where it came from. Either may be empty,
 * and an edge that tells no origins sends text alone. */
typedef struct shoal_client_event {
    const char *text; /* NUL-terminated, n_text bytes */
    size_t n_text;
    const shoal_client_token *tokens;
    size_t n_tokens;
} shoal_client_event;

/* Return 0 to go on; anything else ends the call with SHOAL_CLIENT_E_CANCELLED. */
typedef int (*shoal_client_event_fn)(void *ctx, const shoal_client_event *event);

typedef enum shoal_client_finish {
    SHOAL_CLIENT_FINISH_UNKNOWN = 0,
    SHOAL_CLIENT_FINISH_STOP = 1,  /* the model ended, or a stop string came */
    SHOAL_CLIENT_FINISH_LENGTH = 2 /* max_tokens, or the context is full */
} shoal_client_finish;

/* The account of one answer. Counts are 0 and times negative where the edge did not say. */
typedef struct shoal_client_result {
    size_t size;
    int finish; /* a shoal_client_finish */
    char id[SHOAL_CLIENT_NAME_MAX];
    char model[SHOAL_CLIENT_NAME_MAX];
    uint64_t n_prompt;
    uint64_t n_generated;
    uint64_t n_by_tier[SHOAL_CLIENT_TIERS];
    uint64_t n_drafted;
    uint64_t n_accepted;
    uint64_t n_rounds;
    uint64_t bytes_up;
    uint64_t bytes_down;
    uint64_t round_up_max;
    uint64_t round_down_max;
    double first_token_ms;
    double tokens_per_s;
    uint64_t n_kept;       /* prompt tokens that the edge had kept of the session */
    uint64_t n_unassisted; /* tokens that were the cloud's to say, and the edge's in the end */
} shoal_client_result;

/* Sets size and empties the rest; call as shoal_client_result_init(&r, sizeof r). */
SHOAL_CLIENT_API void shoal_client_result_init(shoal_client_result *result, size_t size);

/* Streams the continuation of request->prompt (POST /v1/completions). A connection that breaks in
 * the middle is made again for up to resume_ms, and the stream goes on behind the last event: no
 * token is lost or comes twice. on_event may be NULL.
 * ret_result may be NULL; it is written also on failure, with what had come by then. Returns a
 * shoal_client_code, any of the list above. */
SHOAL_CLIENT_API int shoal_client_complete(shoal_client *client,
                                           const shoal_client_request *request,
                                           shoal_client_event_fn on_event, void *ctx,
                                           shoal_client_result *ret_result,
                                           shoal_client_error *ret_error);

/* Streams the next message behind request->messages (POST /v1/chat/completions), as
 * shoal_client_complete streams a continuation. */
SHOAL_CLIENT_API int shoal_client_chat(shoal_client *client, const shoal_client_request *request,
                                       shoal_client_event_fn on_event, void *ctx,
                                       shoal_client_result *ret_result,
                                       shoal_client_error *ret_error);

/* --- status ---------------------------------------------------------------------------------- */

typedef struct shoal_client_info {
    size_t size;
    int healthy;                     /* GET /health answered 200 */
    int ready;                       /* GET /ready answered 200 */
    char why[SHOAL_CLIENT_NAME_MAX]; /* when not ready: what the edge said, cut to fit */
    size_t n_models;
    char models[SHOAL_CLIENT_MODELS_MAX][SHOAL_CLIENT_NAME_MAX];
} shoal_client_info;

/* Sets size and empties the rest; call as shoal_client_info_init(&i, sizeof i). */
SHOAL_CLIENT_API void shoal_client_info_init(shoal_client_info *info, size_t size);

/* Asks /health, /ready and /v1/models. OK when the edge answers at all, ready or not. */
SHOAL_CLIENT_API int shoal_client_probe(shoal_client *client, shoal_client_info *ret_info,
                                        shoal_client_error *ret_error);

#define SHOAL_CLIENT_BUDGETS_MAX 9 /* budgets told by shoal_client_stats_get */

/* What the operator allows in a period, and what of it is used. */
typedef struct shoal_client_budget {
    char what[SHOAL_CLIENT_NAME_MAX]; /* "cloud_tokens", "uplink_bytes", "energy_uj" */
    char per[SHOAL_CLIENT_NAME_MAX];  /* "hour", "day", "month" */
    uint64_t limit;
    uint64_t used;
    uint64_t ends_in_s;
} shoal_client_budget;

/* What an edge is doing. Counts are since it started. What it did not say is 0 or empty, a time
 * or share negative. */
typedef struct shoal_client_stats {
    size_t size;
    char version[SHOAL_CLIENT_NAME_MAX];
    char status[SHOAL_CLIENT_NAME_MAX]; /* "ready", "full", "draining" */
    char mode[SHOAL_CLIENT_NAME_MAX];   /* of requests that name none */
    char model[SHOAL_CLIENT_NAME_MAX];
    uint64_t uptime_s;
    uint64_t n_active; /* answers being made; those that wait; clients that are connected to one */
    uint64_t n_waiting;
    uint64_t n_open;
    uint64_t kv_pages_used;
    uint64_t kv_pages;
    char cloud[SHOAL_CLIENT_NAME_MAX];   /* its name */
    char link[SHOAL_CLIENT_NAME_MAX];    /* "idle", "connecting", "ready", "down"; "": no cloud */
    int link_cut;                        /* by the switch of the page */
    int given_up;                        /* the cloud failed and is not asked for the time being */
    char trouble[SHOAL_CLIENT_NAME_MAX]; /* why, cut to fit */
    double round_trip_ms;
    double acceptance; /* recent share of drafts that the cloud let stand */
    uint64_t n_draft;  /* tokens of a draft, and on their way at most */
    uint64_t n_window;
    double edge_token_ms;
    double cloud_step_ms;
    double budget_level; /* [0, 1]: how much of its share mode "assist" may still ask for */
    size_t n_budgets;
    shoal_client_budget budgets[SHOAL_CLIENT_BUDGETS_MAX];
    uint64_t n_requests;
    uint64_t n_prompt;
    uint64_t n_by_tier[SHOAL_CLIENT_TIERS];
    uint64_t n_drafted;
    uint64_t n_accepted;
    uint64_t n_rounds;
    uint64_t n_saved; /* tokens for which no step of the cloud was waited for */
    uint64_t n_reconnects;
    uint64_t bytes_up;
    uint64_t bytes_down;
    char bundle[SHOAL_CLIENT_NAME_MAX]; /* family of a fleet's bundles that it takes; "": none */
    uint64_t bundle_serial; /* of the one that runs; 0: the model it was installed with */
    int bundle_trial;       /* answers have yet to show that the bundle is good */
    char bundle_phase[SHOAL_CLIENT_NAME_MAX];   /* "idle", "fetching", "trying" */
    char bundle_trouble[SHOAL_CLIENT_NAME_MAX]; /* what went wrong last, cut to fit */
    uint64_t n_unassisted;                      /* as in shoal_client_result */
    /* Since SHOAL_1.6. Of the link's IP packets: messages, TLS, headers, pings, what was sent
     * again; 0 where the edge's kernel does not tell. */
    uint64_t packet_bytes_up;
    uint64_t packet_bytes_down;
    int fetch_quarantined; /* KV that came was none: nothing is fetched for the time being */
} shoal_client_stats;

/* Sets size and empties the rest; call as shoal_client_stats_init(&s, sizeof s). */
SHOAL_CLIENT_API void shoal_client_stats_init(shoal_client_stats *stats, size_t size);

/* Asks what the edge is doing (/v1/shoal/status). Written on success only. Errors: any of the list;
 * REFUSED when the answer is an error, PROTOCOL when it is no edge's. */
SHOAL_CLIENT_API int shoal_client_stats_get(shoal_client *client, shoal_client_stats *ret_stats,
                                            shoal_client_error *ret_error);

/* GET of any path ("/metrics"), not streamed: the body, NUL-terminated, to be freed with
 * shoal_client_text_free, and the HTTP status, which may be an error's. Written on success only;
 * ret_length may be NULL. Errors: any of the list but REFUSED and BUSY. */
SHOAL_CLIENT_API int shoal_client_get(shoal_client *client, const char *path, char **ret_body,
                                      size_t *ret_length, int *ret_http_status,
                                      shoal_client_error *ret_error);

/* Frees a text of shoal_client_get; NULL is allowed. Any thread. */
SHOAL_CLIENT_API void shoal_client_text_free(char *text);

/* --- sessions: what an edge keeps of a text (since SHOAL_1.1) ------------------------------------
 */

/* What an edge keeps under a name. */
typedef struct shoal_client_session {
    size_t size; /* as the library knows it */
    char name[SHOAL_CLIENT_NAME_MAX];
    uint64_t n_tokens;
    uint64_t kv_bytes; /* of the edge's memory */
} shoal_client_session;

/* Return 0 to go on; anything else ends the call with SHOAL_CLIENT_E_CANCELLED. */
typedef int (*shoal_client_session_fn)(void *ctx, const shoal_client_session *session);
typedef int (*shoal_client_bytes_fn)(void *ctx, const void *bytes, size_t n);

/* Tells all sessions, the last used first; on_session may be NULL. */
SHOAL_CLIENT_API int shoal_client_session_list(shoal_client *client,
                                               shoal_client_session_fn on_session, void *ctx,
                                               shoal_client_error *ret_error);

/* The bytes of a session in pieces, for a file or another edge. They are whole with
 * SHOAL_CLIENT_OK alone. Errors: INVALID (name), REFUSED (http_status 404: there is none). */
SHOAL_CLIENT_API int shoal_client_session_save(shoal_client *client, const char *name,
                                               shoal_client_bytes_fn on_bytes, void *ctx,
                                               shoal_client_error *ret_error);

/* Makes saved bytes a session of this edge, in place of what has the name. Errors: REFUSED when
 * they are damaged (http_status 400), of another model or KV (409) or too many (413). */
SHOAL_CLIENT_API int shoal_client_session_load(shoal_client *client, const char *name,
                                               const void *bytes, size_t n,
                                               shoal_client_error *ret_error);

/* Forgets a session. Errors: INVALID (name), REFUSED (http_status 404: there is none). */
SHOAL_CLIENT_API int shoal_client_session_drop(shoal_client *client, const char *name,
                                               shoal_client_error *ret_error);

#ifdef __cplusplus
}
#endif

#endif
