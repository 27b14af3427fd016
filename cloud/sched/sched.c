/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/sched/sched_internal.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

static const size_t NO_TENANT = SIZE_MAX;
/* What drafts of a stranger are like, what a tenant's earlier ones are worth in a new session, and
 * how many of them are remembered. */
static const double ACCEPTANCE = 0.8;
static const double USUAL_DRAFTS = 5.0;
static const double JUDGED_MAX = 256.0;

shoal_sched_settings shoal_sched_settings_default(void)
{
    return (shoal_sched_settings){.n_items_max = 256, .catch_up_rows = 32, .age_ms = 1000};
}

shoal_status shoal_sched_new(const shoal_sched_settings *settings, shoal_sched **ret_sched)
{
    size_t n = settings->n_items_max;
    if (n < 1 || n > SHOAL_SCHED_ITEMS_MAX || settings->age_ms < 1) {
        return SHOAL_E_INVALID;
    }
    SHOAL_CLEANUP(shoal_sched_freep) shoal_sched *sched = shoal_calloc(1, sizeof(*sched));
    if (sched == NULL) {
        return SHOAL_E_NOMEM;
    }
    sched->settings = *settings;
    sched->tenants = shoal_calloc(2 * n, sizeof(*sched->tenants));
    sched->working = shoal_calloc(2 * n, sizeof(*sched->working));
    sched->order = shoal_calloc(n, sizeof(*sched->order));
    sched->arrivals = shoal_calloc(n, sizeof(*sched->arrivals));
    sched->seats = shoal_calloc(n, sizeof(*sched->seats));
    sched->marks = shoal_calloc(n, sizeof(*sched->marks));
    sched->picks = shoal_calloc(n, sizeof(*sched->picks));
    sched->preempted = shoal_calloc(n, sizeof(*sched->preempted));
    if (sched->tenants == NULL || sched->working == NULL || sched->order == NULL ||
        sched->arrivals == NULL || sched->seats == NULL || sched->marks == NULL ||
        sched->picks == NULL || sched->preempted == NULL) {
        return SHOAL_E_NOMEM;
    }
    *ret_sched = SHOAL_STEAL(sched);
    return SHOAL_OK;
}

void shoal_sched_free(shoal_sched *sched)
{
    if (sched == NULL) {
        return;
    }
    shoal_free(sched->tenants);
    shoal_free(sched->working);
    shoal_free(sched->order);
    shoal_free(sched->arrivals);
    shoal_free(sched->seats);
    shoal_free(sched->marks);
    shoal_free(sched->picks);
    shoal_free(sched->preempted);
    shoal_free(sched);
}

/* A slot for a new tenant: an unused one, else that of the tenant without sessions that was served
 * least. At or below the floor its counter says nothing that a new one would not. */
static size_t find_slot(const shoal_sched *sched)
{
    size_t least = NO_TENANT;
    if (sched->n_tenants < 2 * sched->settings.n_items_max) {
        return sched->n_tenants;
    }
    for (size_t i = 0; i < sched->n_tenants; i++) {
        if (sched->tenants[i].n_sessions == 0 &&
            (least == NO_TENANT || sched->tenants[i].served < sched->tenants[least].served)) {
            least = i;
        }
    }
    return least;
}

shoal_status shoal_sched_join(shoal_sched *sched, const char *name, size_t *ret_tenant)
{
    char cut[SHOAL_SCHED_TENANT_BYTES];
    size_t n_sessions = 0;
    size_t at = NO_TENANT;
    snprintf(cut, sizeof(cut), "%s", name);
    for (size_t i = 0; i < sched->n_tenants; i++) {
        n_sessions += sched->tenants[i].n_sessions;
        if (strcmp(sched->tenants[i].name, cut) == 0) {
            at = i;
        }
    }
    if (n_sessions == sched->settings.n_items_max) {
        return SHOAL_BUSY;
    }
    if (at == NO_TENANT) {
        at = find_slot(sched); /* twice as many slots as sessions: there is one */
        sched->n_tenants = SHOAL_MAX(sched->n_tenants, at + 1);
        sched->tenants[at] = (sched_tenant){.served = sched->floor};
        memcpy(sched->tenants[at].name, cut, sizeof(cut));
    }
    sched->tenants[at].n_sessions++;
    *ret_tenant = at;
    return SHOAL_OK;
}

void shoal_sched_leave(shoal_sched *sched, size_t tenant)
{
    SHOAL_ASSERT(tenant < sched->n_tenants && sched->tenants[tenant].n_sessions > 0);
    sched->tenants[tenant].n_sessions--;
}

void shoal_sched_charge(shoal_sched *sched, size_t tenant, uint64_t n)
{
    SHOAL_ASSERT(tenant < sched->n_tenants);
    sched->tenants[tenant].served += n;
}

void shoal_sched_judged(shoal_sched *sched, size_t tenant, size_t n_judged, size_t n_right)
{
    SHOAL_ASSERT(tenant < sched->n_tenants && n_right <= n_judged);
    sched_tenant *t = &sched->tenants[tenant];
    t->n_judged += (double)n_judged;
    t->n_right += (double)n_right;
    if (t->n_judged > JUDGED_MAX) {
        t->n_right *= JUDGED_MAX / t->n_judged;
        t->n_judged = JUDGED_MAX;
    }
}

double shoal_sched_acceptance(const shoal_sched *sched, size_t tenant, size_t n_judged,
                              size_t n_right)
{
    SHOAL_ASSERT(tenant < sched->n_tenants && n_right <= n_judged);
    const sched_tenant *t = &sched->tenants[tenant];
    double usual = (t->n_right + ACCEPTANCE * USUAL_DRAFTS) / (t->n_judged + USUAL_DRAFTS);
    return ((double)n_right + usual * USUAL_DRAFTS) / ((double)n_judged + USUAL_DRAFTS);
}

uint64_t shoal_sched_served(const shoal_sched *sched, size_t tenant)
{
    SHOAL_ASSERT(tenant < sched->n_tenants);
    return sched->tenants[tenant].served;
}
