/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions that find in a store what other nodes computed. A node here is a batch; one after the
 * other opens the same store, as a node that starts anew or another one does.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    N_PROMPT = 80, /* two whole blocks before the last token */
    N_TEXT = 84,
    N_SHARED = 64
};

static int32_t truth[RIG_TEXT_MAX];
static shoal_sampling greedy;

static shoal_store *open_store(shoal_store_kind kind, const char *folder)
{
    shoal_store_settings s = shoal_store_settings_default();
    shoal_store *store = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    s.kind = kind;
    s.folder = folder;
    if (shoal_store_open(&s, NULL, &store, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return store;
}

static shoal_store_stats stats_of(const shoal_store *store)
{
    shoal_store_stats stats;
    shoal_store_stats_get(store, &stats);
    return stats;
}

/* Steps until there is no work; while blocks may come real time passes, and the clock stands. */
static void settle(rig *r)
{
    const struct timespec pause = {.tv_nsec = 200000};
    for (size_t n = 0; n < 100000; n++) {
        shoal_status status = shoal_batch_step(r->batch, &r->clock);
        if (status == SHOAL_EOF) {
            return;
        }
        if (status == SHOAL_BUSY) {
            nanosleep(&pause, NULL);
        }
    }
    fail_msg("no rest after 100000 steps");
}

static void ask(edge *e, rig *r, const char *tenant)
{
    r->tenant = tenant;
    edge_init(e, r);
    edge_open(e, &greedy, N_TEXT);
    edge_prompt(e, truth, N_PROMPT);
    edge_continue(e, N_PROMPT, N_TEXT - N_PROMPT);
}

/* Its text is right; returns the tokens that it need not compute. */
static size_t end(edge *e)
{
    assert_int_equal(e->n_confirmed, N_TEXT);
    assert_memory_equal(e->text, truth, N_TEXT * sizeof(int32_t));
    size_t n_cached = shoal_session_stats_get(e->session)->n_cached;
    edge_fini(e);
    return n_cached;
}

/* The next node's end of the store has nothing of this one's: all that was asked is answered. */
static void drain(shoal_store *store)
{
    const struct timespec pause = {.tv_nsec = 200000};
    shoal_block_id none = {.index = 0};
    const uint64_t tag = 12345;
    assert_int_equal(shoal_store_release(store, &none, tag), SHOAL_OK);
    for (bool found = false; !found; nanosleep(&pause, NULL)) {
        shoal_store_result *result = NULL;
        while ((result = shoal_store_poll(store)) != NULL) {
            found = found || result->tag == tag;
            shoal_store_result_free(store, result);
        }
    }
}

/* One session on a node of its own. */
static size_t visit(const rig_settings *settings, const char *tenant)
{
    rig r;
    edge e;
    rig_init(&r, settings);
    ask(&e, &r, tenant);
    settle(&r);
    size_t n_cached = end(&e);
    rig_fini(&r);
    drain(settings->store);
    return n_cached;
}

static int setup(void **state)
{
    (void)state;
    rig r;
    greedy = shoal_sampling_default();
    greedy.temperature = 0.0f;
    rig_init(&r, &(rig_settings){.seed = 7});
    for (size_t i = 0; i < N_PROMPT; i++) {
        truth[i] = (int32_t)(10 + i * 7 % 200);
    }
    size_t n = rig_decode(&r, &greedy, truth, N_PROMPT, N_TEXT);
    rig_fini(&r);
    return n == N_TEXT ? 0 : -1;
}

static void test_next_node_takes_what_the_first_computed(void **state)
{
    (void)state;
    /* Sealed blocks differ in size: the first one keeps some tokens in f16. */
    static const struct {
        const char *variant;
        shoal_kv_type kv;
    } nodes[] = {{NULL, 0}, {"gemma2", 0}, {NULL, SHOAL_KV_K8V8}, {NULL, SHOAL_KV_K4V4}};
    for (size_t v = 0; v < SHOAL_COUNT(nodes); v++) {
        for (unsigned percent = 0; percent <= 50; percent += 50) {
            shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
            rig_settings settings = {.seed = 7,
                                     .variant = nodes[v].variant,
                                     .kv = nodes[v].kv,
                                     .prefix_percent = percent,
                                     .store = store};
            if (v > 0) {
                rig r;
                rig_init(&r, &settings);
                (void)rig_decode(&r, &greedy, truth, N_PROMPT, N_TEXT);
                rig_fini(&r);
            }
            assert_int_equal(visit(&settings, "a"), 0);
            assert_int_equal(stats_of(store).n_hits, 0);
            assert_int_equal(visit(&settings, "a"), N_SHARED);
            assert_int_equal(stats_of(store).n_hits, 2);
            assert_int_equal(stats_of(store).n_puts, 2);
            shoal_store_close(store);
        }
    }
    assert_int_equal(setup(state), 0);
}

static void test_tenants_and_secrets_stay_apart(void **state)
{
    (void)state;
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    rig_settings settings = {.seed = 7, .prefix_percent = 50, .store = store};
    assert_int_equal(visit(&settings, "a"), 0);
    assert_int_equal(visit(&settings, "b"), 0);
    settings.store_secret = 1;
    assert_int_equal(visit(&settings, "a"), 0);
    settings.seed = 8; /* another model */
    int32_t kept[RIG_TEXT_MAX];
    memcpy(kept, truth, sizeof(kept));
    rig r;
    rig_init(&r, &settings);
    (void)rig_decode(&r, &greedy, truth, N_PROMPT, N_TEXT);
    rig_fini(&r);
    assert_int_equal(visit(&settings, "a"), 0);
    memcpy(truth, kept, sizeof(kept));
    assert_int_equal(stats_of(store).n_hits, 0);
    settings.seed = 7;
    assert_int_equal(visit(&settings, "a"), N_SHARED);
    shoal_store_close(store);
}

static void test_public_text_is_everybodys(void **state)
{
    (void)state;
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    const char *const tenants[] = {"a", "b"};
    for (size_t i = 0; i < SHOAL_COUNT(tenants); i++) {
        rig r;
        edge e;
        rig_init(&r, &(rig_settings){.seed = 7, .prefix_percent = 50, .store = store});
        /* The first block alone: what follows it is each tenant's own. */
        assert_int_equal(shoal_batch_add_public(r.batch, truth, 40), SHOAL_OK);
        ask(&e, &r, tenants[i]);
        settle(&r);
        assert_int_equal(end(&e), i * 32);
        rig_fini(&r);
        drain(store);
    }
    shoal_store_close(store);
}

static void test_sessions_of_one_node_ask_once(void **state)
{
    (void)state;
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    rig_settings settings = {.seed = 7, .prefix_percent = 50, .store = store};
    static edge edges[8];
    for (size_t round = 0; round < 2; round++) {
        rig r;
        rig_init(&r, &settings);
        for (size_t i = 0; i < SHOAL_COUNT(edges); i++) {
            ask(&edges[i], &r, "a");
        }
        settle(&r);
        size_t n_cached = 0;
        for (size_t i = 0; i < SHOAL_COUNT(edges); i++) {
            n_cached += end(&edges[i]);
        }
        assert_int_equal(n_cached, (SHOAL_COUNT(edges) - 1 + round) * N_SHARED);
        rig_fini(&r);
        drain(store);
    }
    assert_int_equal(stats_of(store).n_misses, 2);
    assert_int_equal(stats_of(store).n_hits, 2);
    assert_int_equal(stats_of(store).n_puts, 2);
    shoal_store_close(store);
}

/* Changes a byte of every stored block. Returns how many there are. */
static size_t corrupt(const char *folder)
{
    size_t n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *d = readdir(dir); d != NULL; d = readdir(dir)) {
        char path[512];
        if (d->d_type != DT_REG) {
            continue;
        }
        assert_true(snprintf(path, sizeof(path), "%s/%s", folder, d->d_name) < (int)sizeof(path));
        FILE *file = fopen(path, "r+e");
        assert_non_null(file);
        if (fseek(file, 300, SEEK_SET) == 0) {
            int byte = fgetc(file);
            if (byte != EOF) {
                assert_int_equal(fseek(file, 300, SEEK_SET), 0);
                assert_true(fputc(byte ^ 0x40, file) != EOF);
                n++;
            }
        }
        assert_int_equal(fclose(file), 0);
    }
    closedir(dir);
    return n;
}

static void test_corrupted_block_is_refused_and_computed(void **state)
{
    (void)state;
    char folder[] = "/tmp/shoal-share-XXXXXX";
    assert_non_null(mkdtemp(folder));
    shoal_store *store = open_store(SHOAL_STORE_DISK, folder);
    rig_settings settings = {.seed = 7, .prefix_percent = 50, .store = store};
    assert_int_equal(visit(&settings, "a"), 0);
    shoal_store_close(store);
    assert_int_equal(corrupt(folder), 2);
    store = open_store(SHOAL_STORE_DISK, folder);
    settings.store = store;
    assert_int_equal(visit(&settings, "a"), 0);
    assert_int_equal(stats_of(store).n_refused, 2);
    assert_int_equal(stats_of(store).n_hits, 0);
    /* Computed anew, it is there again. */
    assert_int_equal(visit(&settings, "a"), N_SHARED);
    shoal_store_close(store);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -r %s", folder);
    assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): a folder made here */
}

/* A server that takes connections and never answers. */
static int mute_server(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void test_store_that_does_not_answer_costs_the_wait_and_no_token(void **state)
{
    (void)state;
    char folder[] = "/tmp/shoal-share-XXXXXX";
    char path[64];
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/mute", folder);
    int fd = mute_server(path);
    shoal_store_settings s = shoal_store_settings_default();
    shoal_store *store = NULL;
    s.kind = SHOAL_STORE_REDIS;
    s.address = path;
    s.timeout_ms = 1000;
    assert_int_equal(shoal_store_open(&s, NULL, &store, NULL), SHOAL_OK);
    rig r;
    edge e;
    edge later;
    rig_init(&r, &(rig_settings){.seed = 7, .prefix_percent = 50, .store = store});
    ask(&e, &r, "a");
    assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_BUSY);
    r.now_ns += 249000000u;
    assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_BUSY);
    r.now_ns += 1000000u;
    assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
    while (shoal_batch_step(r.batch, &r.clock) == SHOAL_OK) {
        r.now_ns += 1000000u;
    }
    assert_int_equal(end(&e), 0);
    /* A session that goes while its blocks are asked for leaves nothing behind. */
    ask(&later, &r, "b");
    assert_true(shoal_batch_step(r.batch, &r.clock) >= 0);
    edge_fini(&later);
    rig_fini(&r);
    shoal_store_close(store);
    close(fd);
    unlink(path);
    rmdir(folder);
}

/* --- the rule --------------------------------------------------------------------------------- */

static bool no_room(void *ctx)
{
    (void)ctx;
    return false;
}

/* Asks for a session's blocks until it need not wait. False: it did not ask. */
static bool asks(shoal_share *share, rig *r, const shoal_sched_cost *cost, edge *e)
{
    shoal_share_part part;
    const shoal_share_site site = {
        .session = e->session, .cost = cost, .prefill_chunk = 32, .make_room = no_room};
    const struct timespec pause = {.tv_nsec = 200000};
    shoal_share_join(share, "a", NULL, &part);
    bool asked = shoal_share_fetch(share, &part, &site, &r->clock);
    for (bool waits = asked; waits; waits = shoal_share_fetch(share, &part, &site, &r->clock)) {
        nanosleep(&pause, NULL);
        shoal_share_poll(share);
    }
    shoal_share_leave(share, &part);
    return asked;
}

static void test_nothing_is_fetched_while_computing_is_faster(void **state)
{
    (void)state;
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    assert_int_equal(visit(&(rig_settings){.seed = 7, .store = store}, ""), 0);
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7});
    shoal_share_settings settings = {.store = store,
                                     .pool = shoal_engine_kv(r.engine),
                                     .model = r.model->hash,
                                     .n_fetches_max = 2,
                                     .wait_ms = 250};
    /* No tenant's name "a" was used above: these sessions are not the ones that gave. */
    assert_int_equal(visit(&(rig_settings){.seed = 7, .store = store}, "a"), 0);
    const shoal_sched_cost slow = {.fixed_us = 1e9, .row_us = 1e6};
    const shoal_sched_cost fast = {.fixed_us = 1e-3, .row_us = 1e-6};
    for (int always = 0; always < 2; always++) {
        shoal_share *share = NULL;
        edge edges[4];
        settings.always = always != 0;
        assert_int_equal(shoal_share_new(&settings, &r.metrics, &share), SHOAL_OK);
        for (size_t i = 0; i < SHOAL_COUNT(edges); i++) {
            r.tenant = "a";
            edge_init(&edges[i], &r);
            edge_open(&edges[i], &greedy, N_TEXT);
            edge_prompt(&edges[i], truth, N_PROMPT);
        }
        uint64_t n_hits = stats_of(store).n_hits;
        assert_true(asks(share, &r, &fast, &edges[0])); /* what it costs is not known yet */
        assert_int_equal(shoal_session_kv_length(edges[0].session), N_SHARED);
        assert_int_equal(stats_of(store).n_hits, n_hits + 2);
        assert_int_equal(asks(share, &r, &fast, &edges[1]), always != 0);
        assert_true(asks(share, &r, &slow, &edges[2]));
        r.now_ns += 10000000000u;
        assert_true(asks(share, &r, &fast, &edges[3])); /* forgotten, so measured again */
        for (size_t i = 0; i < SHOAL_COUNT(edges); i++) {
            edge_fini(&edges[i]);
        }
        shoal_share_free(share);
        drain(store);
    }
    rig_fini(&r);
    shoal_store_close(store);
}

/* --- leases ----------------------------------------------------------------------------------- */

/* A node that asks the store for one session of its own. */
typedef struct asker {
    rig r;
    edge e;
    shoal_share *share;
    shoal_share_part part;
    shoal_share_site site;
} asker;

static void asker_init(asker *a, shoal_store *store, const shoal_sched_cost *cost)
{
    rig_init(&a->r, &(rig_settings){.seed = 7});
    const shoal_share_settings settings = {.store = store,
                                           .pool = shoal_engine_kv(a->r.engine),
                                           .model = a->r.model->hash,
                                           .n_fetches_max = 1,
                                           .wait_ms = 250};
    assert_int_equal(shoal_share_new(&settings, &a->r.metrics, &a->share), SHOAL_OK);
    ask(&a->e, &a->r, "a");
    a->site = (shoal_share_site){
        .session = a->e.session, .cost = cost, .prefill_chunk = 32, .make_room = no_room};
    shoal_share_join(a->share, "a", NULL, &a->part);
}

static void asker_fini(asker *a, shoal_store *store)
{
    shoal_share_leave(a->share, &a->part);
    assert_int_equal(shoal_share_n_asking(a->share), 0);
    drain(store);
    shoal_share_free(a->share);
    edge_fini(&a->e);
    rig_fini(&a->r);
}

/* Until it need not wait, for at most n_ms of its clock, which moves on a ms (or not) when the
 * store has had time to answer. Returns the ms that it waited. */
static size_t waits(asker *a, size_t n_ms, bool moves)
{
    const struct timespec pause = {.tv_nsec = 500000};
    size_t n = 0;
    while (n < n_ms && shoal_share_fetch(a->share, &a->part, &a->site, &a->r.clock)) {
        nanosleep(&pause, NULL);
        shoal_share_poll(a->share);
        a->r.now_ns += moves ? 1000000u : 0;
        n++;
    }
    return n;
}

static const shoal_sched_cost dear_to_compute = {.fixed_us = 1e9, .row_us = 1e6};

static void test_block_that_another_node_makes_is_waited_for(void **state)
{
    (void)state;
    const shoal_sched_cost fast = {.fixed_us = 1e-3, .row_us = 1e-6};
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    asker maker;
    asker other;
    asker_init(&maker, store, &dear_to_compute);
    asker_init(&other, store, &dear_to_compute);
    assert_true(waits(&maker, 10000, false) < 10000); /* nothing is there: it is to make them */
    assert_int_equal(shoal_session_kv_length(maker.e.session), 0);
    assert_int_equal(waits(&other, 100, true), 100);
    rig_settle(&maker.r);
    shoal_share_give(maker.share, &maker.part, &maker.site, &maker.r.clock);
    assert_true(waits(&other, 150, true) < 150);
    assert_int_equal(shoal_session_kv_length(other.e.session), N_SHARED);
    /* How long another took to compute tells nothing of what fetching costs. */
    edge next;
    ask(&next, &other.r, "a");
    shoal_share_leave(other.share, &other.part);
    assert_true(asks(other.share, &other.r, &fast, &next));
    edge_fini(&next);
    asker_fini(&other, store);
    asker_fini(&maker, store);
    shoal_store_close(store);
}

static void test_block_whose_maker_left_is_made_by_who_waits(void **state)
{
    (void)state;
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    asker maker;
    asker other;
    asker_init(&maker, store, &dear_to_compute);
    asker_init(&other, store, &dear_to_compute);
    assert_true(waits(&maker, 10000, false) < 10000);
    assert_int_equal(waits(&other, 100, true), 100);
    shoal_share_leave(maker.share, &maker.part);
    assert_true(waits(&other, 150, true) < 150);
    assert_int_equal(shoal_session_kv_length(other.e.session), 0);
    asker_fini(&other, store);
    asker_fini(&maker, store);
    shoal_store_close(store);
}

/* Who leaves while the store still thinks does not keep what it is told later. */
static void test_lease_that_comes_too_late_is_given_back(void **state)
{
    (void)state;
    const struct timespec pause = {.tv_nsec = 500000};
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    asker gone;
    asker other;
    asker_init(&gone, store, &dear_to_compute);
    asker_init(&other, store, &dear_to_compute);
    assert_true(shoal_share_fetch(gone.share, &gone.part, &gone.site, &gone.r.clock));
    shoal_share_leave(gone.share, &gone.part);
    for (size_t i = 0; i < 20 || stats_of(store).n_misses < 2; i++) {
        nanosleep(&pause, NULL);
        shoal_share_poll(gone.share);
    }
    assert_true(waits(&other, 2000, false) < 2000);
    asker_fini(&other, store);
    asker_fini(&gone, store);
    shoal_store_close(store);
}

/* Computing both blocks takes 100 ms: for that long it is worth to wait for somebody else's. */
static void test_who_computes_faster_waits_no_longer_for_a_lease(void **state)
{
    (void)state;
    const shoal_sched_cost cost = {.fixed_us = 50000.0};
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    asker maker;
    asker other;
    asker_init(&maker, store, &cost);
    asker_init(&other, store, &cost);
    assert_true(waits(&maker, 10000, false) < 10000);
    assert_int_equal(waits(&other, 1000, true), 100);
    asker_fini(&other, store);
    asker_fini(&maker, store);
    shoal_store_close(store);
}

/* KV that was dropped may be asked for again, what was found or missed once is not. */
static void test_text_is_asked_for_once_until_its_kv_is_dropped(void **state)
{
    (void)state;
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    assert_int_equal(visit(&(rig_settings){.seed = 7, .store = store}, "a"), 0);
    asker a;
    asker_init(&a, store, &dear_to_compute);
    assert_true(waits(&a, 10000, false) < 10000);
    assert_int_equal(shoal_session_kv_length(a.e.session), N_SHARED);
    shoal_session_evict(a.e.session);
    assert_false(shoal_share_fetch(a.share, &a.part, &a.site, &a.r.clock));
    shoal_share_dropped(&a.part);
    assert_true(shoal_share_fetch(a.share, &a.part, &a.site, &a.r.clock));
    assert_true(waits(&a, 10000, false) < 10000);
    assert_int_equal(shoal_session_kv_length(a.e.session), N_SHARED);
    assert_int_equal(stats_of(store).n_hits, 4);
    asker_fini(&a, store);
    shoal_store_close(store);
}

/* A block that finds the store full is given with a later step, not dropped. */
static void test_blocks_that_find_no_place_are_given_later(void **state)
{
    (void)state;
    shoal_store_settings s = shoal_store_settings_default();
    shoal_store *store = NULL;
    const struct timespec pause = {.tv_nsec = 500000};
    s.kind = SHOAL_STORE_MEMORY;
    s.n_inflight_max = 1;
    assert_int_equal(shoal_store_open(&s, NULL, &store, NULL), SHOAL_OK);
    asker a;
    asker_init(&a, store, &dear_to_compute);
    rig_settle(&a.r);
    for (size_t n = 0; n < 2; n++) { /* so soon after it was full it is not asked again */
        shoal_share_give(a.share, &a.part, &a.site, &a.r.clock);
        assert_int_equal(stats_of(store).n_dropped, 1);
    }
    for (size_t n = 0; n < 20000 && stats_of(store).n_puts < 2; n++) {
        nanosleep(&pause, NULL);
        shoal_share_poll(a.share); /* makes place */
        a.r.now_ns += 100000000u;
        shoal_share_give(a.share, &a.part, &a.site, &a.r.clock);
    }
    assert_int_equal(stats_of(store).n_puts, 2);
    shoal_share_leave(a.share, &a.part);
    shoal_store_close(store);
    shoal_share_free(a.share);
    edge_fini(&a.e);
    rig_fini(&a.r);
}

/* --- limits ----------------------------------------------------------------------------------- */

static void test_pool_without_pages_leaves_the_rest_to_computing(void **state)
{
    (void)state;
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    assert_int_equal(visit(&(rig_settings){.seed = 7, .store = store}, "a"), 0);
    /* One session takes all pages; the other's blocks come and find none. */
    rig r;
    edge first;
    edge second;
    rig_init(&r, &(rig_settings){.seed = 7, .n_pages = 3, .prefix_percent = 50, .store = store});
    ask(&first, &r, "x");
    settle(&r);
    ask(&second, &r, "a");
    for (size_t i = 0; i < 2000 && second.n_confirmed < N_TEXT; i++) {
        const struct timespec pause = {.tv_nsec = 200000};
        if (shoal_batch_step(r.batch, &r.clock) == SHOAL_BUSY) {
            nanosleep(&pause, NULL);
            r.now_ns += 1000000u;
        }
    }
    (void)end(&first);
    (void)end(&second);
    rig_fini(&r);
    shoal_store_close(store);
}

static void test_failing_allocations_change_no_token(void **state)
{
    (void)state;
    shoal_store *store = open_store(SHOAL_STORE_MEMORY, NULL);
    rig_settings settings = {.seed = 7, .prefix_percent = 50, .store = store};
    assert_int_equal(visit(&settings, "a"), 0);
    for (uint64_t i = 0; i < 40; i++) {
        rig r;
        edge e;
        rig_init(&r, &settings);
        ask(&e, &r, i % 2 == 0 ? "a" : "b");
        shoal_mem_fail_at(i);
        settle(&r);
        shoal_mem_fail_at(UINT64_MAX);
        size_t n_cached = end(&e);
        assert_true(n_cached == 0 || n_cached == 32 || n_cached == N_SHARED);
        rig_fini(&r);
        drain(store);
    }
    assert_int_equal(visit(&settings, "a"), N_SHARED);
    shoal_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_node_takes_what_the_first_computed),
        cmocka_unit_test(test_tenants_and_secrets_stay_apart),
        cmocka_unit_test(test_public_text_is_everybodys),
        cmocka_unit_test(test_sessions_of_one_node_ask_once),
        cmocka_unit_test(test_corrupted_block_is_refused_and_computed),
        cmocka_unit_test(test_store_that_does_not_answer_costs_the_wait_and_no_token),
        cmocka_unit_test(test_nothing_is_fetched_while_computing_is_faster),
        cmocka_unit_test(test_block_that_another_node_makes_is_waited_for),
        cmocka_unit_test(test_block_whose_maker_left_is_made_by_who_waits),
        cmocka_unit_test(test_lease_that_comes_too_late_is_given_back),
        cmocka_unit_test(test_who_computes_faster_waits_no_longer_for_a_lease),
        cmocka_unit_test(test_text_is_asked_for_once_until_its_kv_is_dropped),
        cmocka_unit_test(test_blocks_that_find_no_place_are_given_later),
        cmocka_unit_test(test_pool_without_pages_leaves_the_rest_to_computing),
        cmocka_unit_test(test_failing_allocations_change_no_token),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
