/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"

#include <time.h>

shoal_status shoal_mailbox_init(mailbox *box)
{
    box->head = NULL;
    box->tail = NULL;
    box->woken = false;
    pthread_condattr_t attr;
    if (pthread_mutex_init(&box->mutex, NULL) != 0) {
        return SHOAL_E_NOMEM;
    }
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&box->ready, &attr);
    (void)pthread_condattr_destroy(&attr);
    return SHOAL_OK;
}

void shoal_mailbox_fini(mailbox *box)
{
    while (box->head) {
        mail *m = box->head;
        box->head = m->next;
        shoal_mail_free(m);
    }
    (void)pthread_cond_destroy(&box->ready);
    (void)pthread_mutex_destroy(&box->mutex);
}

mail *shoal_mail_new(mail_kind kind)
{
    mail *m = shoal_calloc(1, sizeof *m);
    if (m) {
        m->kind = kind;
    }
    return m;
}

void shoal_mail_free(mail *m)
{
    if (!m) {
        return;
    }
    if (m->from) {
        atomic_fetch_sub(&m->from->n_mails, 1);
        shoal_link_unref(m->from);
    }
    shoal_coop_fetch_unref(m->fetched);
    shoal_gen_free(m->generation);
    shoal_session_job_free(m->session);
    shoal_cloud_msg_free(m->message);
    shoal_free(m->carried);
    shoal_free(m->described);
    shoal_free(m);
}

void shoal_mailbox_push(mailbox *box, mail *take_mail)
{
    (void)pthread_mutex_lock(&box->mutex);
    take_mail->next = NULL;
    if (box->tail) {
        box->tail->next = take_mail;
    } else {
        box->head = take_mail;
    }
    box->tail = take_mail;
    (void)pthread_cond_signal(&box->ready);
    (void)pthread_mutex_unlock(&box->mutex);
}

void shoal_mailbox_wake(mailbox *box)
{
    (void)pthread_mutex_lock(&box->mutex);
    box->woken = true;
    (void)pthread_cond_signal(&box->ready);
    (void)pthread_mutex_unlock(&box->mutex);
}

mail *shoal_mailbox_take(mailbox *box, uint64_t timeout_ms)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(timeout_ms / 1000);
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    (void)pthread_mutex_lock(&box->mutex);
    while (!box->head && !box->woken && timeout_ms > 0) {
        if (pthread_cond_timedwait(&box->ready, &box->mutex, &until) != 0) {
            break;
        }
    }
    mail *all = box->head;
    box->woken = false;
    box->head = NULL;
    box->tail = NULL;
    (void)pthread_mutex_unlock(&box->mutex);
    return all;
}
