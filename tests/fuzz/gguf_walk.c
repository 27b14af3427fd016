/* SPDX-License-Identifier: Apache-2.0 */
#include "gguf_walk.h"

#include "common/base/mem.h"
#include "common/base/utf8.h"

#include <string.h>

enum {
    RENDER_MAX = 1 << 20
};

static void touch(shoal_str s)
{
    static volatile uint8_t sink;
    for (size_t i = 0; i < s.length; i++) {
        sink = (uint8_t)(sink ^ (uint8_t)s.data[i]);
    }
}

static void copy_name(shoal_str s, char *ret_name, size_t size)
{
    SHOAL_ASSERT(s.length > 0 && s.length < size && memchr(s.data, 0, s.length) == NULL);
    memcpy(ret_name, s.data, s.length);
    ret_name[s.length] = '\0';
}

static void walk_array(const shoal_gguf *gguf, const char *key, shoal_gguf_kind element, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (element == SHOAL_GGUF_STRING) {
            touch(shoal_gguf_array_str(gguf, key, i));
        } else if (element == SHOAL_GGUF_F32 || element == SHOAL_GGUF_F64) {
            (void)shoal_gguf_array_f64(gguf, key, i);
        } else {
            (void)shoal_gguf_array_i64(gguf, key, i);
        }
    }
}

/* Every typed look-up answers, and exactly the fitting ones succeed. */
static void walk_look_ups(const shoal_gguf *gguf, const char *key, shoal_gguf_kind kind)
{
    uint64_t u = 0;
    double d = 0.0;
    bool b = false;
    shoal_str s = {NULL, 0};
    shoal_gguf_kind element = SHOAL_GGUF_U8;
    size_t n = 0;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status as_u64 = shoal_gguf_get_u64(gguf, key, &u, &err);
    shoal_status as_f64 = shoal_gguf_get_f64(gguf, key, &d, &err);
    shoal_status as_bool = shoal_gguf_get_bool(gguf, key, &b, &err);
    shoal_status as_str = shoal_gguf_get_str(gguf, key, &s, &err);
    shoal_status as_array = shoal_gguf_get_array(gguf, key, &element, &n, &err);
    bool text = kind == SHOAL_GGUF_STRING || kind == SHOAL_GGUF_ARRAY || kind == SHOAL_GGUF_BOOL;
    SHOAL_ASSERT((as_f64 == SHOAL_OK) == !text);
    SHOAL_ASSERT(as_u64 != SHOAL_OK || as_f64 == SHOAL_OK);
    SHOAL_ASSERT((as_bool == SHOAL_OK) == (kind == SHOAL_GGUF_BOOL));
    SHOAL_ASSERT((as_str == SHOAL_OK) == (kind == SHOAL_GGUF_STRING));
    SHOAL_ASSERT((as_array == SHOAL_OK) == (kind == SHOAL_GGUF_ARRAY));
    SHOAL_ASSERT(err.code == SHOAL_E_INVALID && err.text[0] != '\0');
    touch(s);
    if (as_array == SHOAL_OK) {
        walk_array(gguf, key, element, n);
    }
}

static void walk_pair(const shoal_gguf *gguf, size_t i)
{
    char key[SHOAL_GGUF_KEY_MAX + 1];
    shoal_str raw = shoal_gguf_raw_at(gguf, i);
    shoal_gguf_kind element = SHOAL_GGUF_U8;
    size_t n = 0;
    copy_name(shoal_gguf_key_at(gguf, i), key, sizeof(key));
    touch(raw);
    walk_look_ups(gguf, key, shoal_gguf_kind_at(gguf, i, &element, &n));
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = RENDER_MAX};
    if (shoal_gguf_render_at(gguf, i, &buf) == SHOAL_OK) {
        SHOAL_ASSERT(buf.length > 0 && shoal_utf8_valid(buf.data, buf.length));
    }
}

static void walk_tensor(const shoal_gguf *gguf, size_t i)
{
    const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
    char name[SHOAL_GGUF_NAME_MAX + 1];
    copy_name(t->name, name, sizeof(name));
    SHOAL_ASSERT(shoal_gguf_find_tensor(gguf, name) == t);
    SHOAL_ASSERT(shoal_type_find((uint32_t)t->type) != NULL && t->n_dims >= 1 &&
                 t->n_dims <= SHOAL_GGUF_DIMS_MAX && t->size_bytes > 0);
    touch((shoal_str){(const char *)t->data, (size_t)t->size_bytes});
}

/* All of gguf in a new writer. Both sides have the same limits, so nothing but memory may fail. */
static shoal_status copy_all(const shoal_gguf *gguf, shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_TRY(shoal_gguf_writer_new(&writer));
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        SHOAL_TRY(
            shoal_gguf_put_raw(writer, shoal_gguf_key_at(gguf, i), shoal_gguf_raw_at(gguf, i)));
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        copy_name(t->name, name, sizeof(name));
        SHOAL_TRY(shoal_gguf_put_tensor(writer, name, t->type, t->dims, t->n_dims, t->data));
    }
    return shoal_gguf_writer_finish(writer, buf, NULL);
}

static bool same_tensor(const shoal_gguf_tensor *a, const shoal_gguf_tensor *b)
{
    return a->type == b->type && a->n_dims == b->n_dims &&
           memcmp(a->dims, b->dims, sizeof(a->dims)) == 0 && a->size_bytes == b->size_bytes &&
           memcmp(a->data, b->data, (size_t)a->size_bytes) == 0;
}

static void check_copy(const shoal_gguf *gguf)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *copy = NULL;
    shoal_status status = copy_all(gguf, &buf);
    if (status == SHOAL_OK) {
        status = shoal_gguf_open((const uint8_t *)buf.data, buf.length, &copy, NULL);
    }
    SHOAL_ASSERT(status == SHOAL_OK || status == SHOAL_E_NOMEM);
    if (status != SHOAL_OK) {
        return;
    }
    SHOAL_ASSERT(shoal_gguf_n_tensors(copy) == shoal_gguf_n_tensors(gguf));
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        SHOAL_ASSERT(same_tensor(shoal_gguf_tensor_at(gguf, i), shoal_gguf_tensor_at(copy, i)));
    }
    /* The alignment is the writer's own affair. */
    uint64_t alignment = 0;
    size_t dropped = shoal_gguf_get_u64(gguf, "general.alignment", &alignment, NULL) == SHOAL_OK;
    SHOAL_ASSERT(shoal_gguf_n_kv(copy) + dropped == shoal_gguf_n_kv(gguf));
}

shoal_status gguf_walk(const uint8_t *data, size_t size, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_err_clear(err);
    shoal_status status = shoal_gguf_open(data, size, &gguf, err);
    if (status != SHOAL_OK) {
        SHOAL_ASSERT(status < 0 && gguf == NULL && err->code == status && err->text[0] != '\0');
        return status;
    }
    SHOAL_ASSERT(err->code == SHOAL_OK);
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        walk_pair(gguf, i);
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        walk_tensor(gguf, i);
    }
    check_copy(gguf);
    return SHOAL_OK;
}
