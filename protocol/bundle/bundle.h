/* SPDX-License-Identifier: Apache-2.0
 *
 * A bundle: the model that a fleet of edges is to run, as a folder. `manifest` says in one
 * canonical text what the other files are (README.md has the form), `manifest.sig` is its Ed25519
 * signature (RFC 8032, through OpenSSL). Whoever takes a bundle checks, in this order: the
 * signature over the bytes, the text, whether it may be taken here, and each file's size and
 * SHA-256. Nothing of a bundle is used before all of that was right.
 *
 * Pure but for the functions that name paths; any thread.
 */
#ifndef SHOAL_BUNDLE_BUNDLE_H
#define SHOAL_BUNDLE_BUNDLE_H

#include "common/base/buf.h"
#include "common/base/hash.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_BUNDLE_MANIFEST_MAX = 64 << 10, /* bytes of a manifest */
    SHOAL_BUNDLE_SIGNATURE_BYTES = 64,
    SHOAL_BUNDLE_NAME_MAX = 64, /* bytes of a name: of a file, a family, a version */
    SHOAL_BUNDLE_FILES_MAX = 16,
    SHOAL_BUNDLE_TESTS_MAX = 8,
    SHOAL_BUNDLE_TEST_IDS_MAX = 512,    /* of a test's prompt */
    SHOAL_BUNDLE_TEST_ANSWER_MAX = 128, /* of what must follow it */
    SHOAL_BUNDLE_KEYS_MAX = 8
};
#define SHOAL_BUNDLE_SERIAL_MAX     ((uint64_t)1 << 53)
#define SHOAL_BUNDLE_FILE_BYTES_MAX ((uint64_t)1 << 40)
#define SHOAL_BUNDLE_MANIFEST       "manifest"
#define SHOAL_BUNDLE_SIGNATURE      "manifest.sig"

typedef enum shoal_bundle_role {
    SHOAL_BUNDLE_MODEL,   /* a GGUF; exactly one */
    SHOAL_BUNDLE_ADAPTER, /* a LoRA of it; at most one, all answers have it */
    SHOAL_BUNDLE_PREFIX,  /* KV of a text that prompts begin with, a blob of KVWIRE.md */
    SHOAL_BUNDLE_ROLES
} shoal_bundle_role;
const char *shoal_bundle_role_name(shoal_bundle_role role); /* "model", "adapter", "prefix" */

typedef struct shoal_bundle_file {
    shoal_bundle_role role;
    char name[SHOAL_BUNDLE_NAME_MAX + 1]; /* [A-Za-z0-9._-], not beginning with '.': no path */
    uint64_t n_bytes;                     /* 1..SHOAL_BUNDLE_FILE_BYTES_MAX */
    shoal_hash hash;                      /* SHA-256 of all of it */
} shoal_bundle_file;

/* Greedy decoding of ids gives answer, on any machine (R2). */
typedef struct shoal_bundle_test {
    int32_t ids[SHOAL_BUNDLE_TEST_IDS_MAX];
    size_t n_ids; /* at least 1 */
    int32_t answer[SHOAL_BUNDLE_TEST_ANSWER_MAX];
    size_t n_answer; /* at least 1 */
} shoal_bundle_test;

typedef struct shoal_bundle {
    char family[SHOAL_BUNDLE_NAME_MAX + 1];  /* an edge takes bundles of its own family alone */
    char version[SHOAL_BUNDLE_NAME_MAX + 1]; /* for people */
    uint64_t serial;     /* 1..SHOAL_BUNDLE_SERIAL_MAX; a newer bundle's is greater */
    uint32_t program[3]; /* the least version of shoal-edge that runs it, each 0..9999 */
    shoal_bundle_file files[SHOAL_BUNDLE_FILES_MAX]; /* models, then adapters, then prefixes */
    size_t n_files;
    shoal_bundle_test tests[SHOAL_BUNDLE_TESTS_MAX];
    size_t n_tests; /* at least 1 */
} shoal_bundle;

/* Hostile bytes. SHOAL_E_INVALID names the line and what is expected there; SHOAL_E_LIMIT;
 * SHOAL_E_NOMEM. What is accepted is canonical: shoal_bundle_print gives the same bytes. */
shoal_status shoal_bundle_parse(const void *text, size_t n, shoal_bundle **ret_bundle,
                                shoal_err *err) SHOAL_MUST_CHECK;
void shoal_bundle_free(shoal_bundle *bundle);
SHOAL_DEFINE_CLEANUP(shoal_bundle, shoal_bundle_free)
/* Appends the manifest. SHOAL_E_INVALID: it is none that would be accepted. */
shoal_status shoal_bundle_print(const shoal_bundle *bundle, shoal_buf *buf,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* "1.2.3" of numbers up to 9999 each. */
shoal_status shoal_bundle_program_parse(const char *text, uint32_t ret_program[3]) SHOAL_MUST_CHECK;
/* The first file of a role behind the i-th of them; NULL: there are not so many. */
const shoal_bundle_file *shoal_bundle_find(const shoal_bundle *bundle, shoal_bundle_role role,
                                           size_t i);

/* Whether this edge may take it: its family ("" takes any), a serial above serial_have (0: none),
 * and a program that is new enough. SHOAL_E_MISMATCH names both sides and the remedy. */
shoal_status shoal_bundle_admit(const shoal_bundle *bundle, const char *family,
                                uint64_t serial_have, const uint32_t program[3],
                                shoal_err *err) SHOAL_MUST_CHECK;

/* --- signatures ------------------------------------------------------------------------------- */

/* Public keys that are trusted: several, so that one can follow another. */
typedef struct shoal_bundle_keys shoal_bundle_keys;
/* A PEM file of 1 to SHOAL_BUNDLE_KEYS_MAX Ed25519 public keys. Errors name the path. */
shoal_status shoal_bundle_keys_read(const char *path, shoal_bundle_keys **ret_keys,
                                    shoal_err *err) SHOAL_MUST_CHECK;
void shoal_bundle_keys_free(shoal_bundle_keys *keys);
SHOAL_DEFINE_CLEANUP(shoal_bundle_keys, shoal_bundle_keys_free)
/* SHOAL_E_AUTH: no key has signed these bytes. */
shoal_status shoal_bundle_verify(const shoal_bundle_keys *keys, const void *manifest, size_t n,
                                 const void *signature, size_t n_signature,
                                 shoal_err *err) SHOAL_MUST_CHECK;
/* With the private key of a PEM file, which has no password. */
shoal_status shoal_bundle_sign(const char *key_path, const void *manifest, size_t n,
                               uint8_t ret_signature[SHOAL_BUNDLE_SIGNATURE_BYTES],
                               shoal_err *err) SHOAL_MUST_CHECK;

/* --- folders ---------------------------------------------------------------------------------- */

/* folder/name, for shoal_free; NULL: no memory. */
char *shoal_bundle_path(const char *folder, const char *name);
/* Size and SHA-256 of a regular file, which may be no link. *stop (may be NULL) ends it with
 * SHOAL_E_CANCELLED. */
shoal_status shoal_bundle_measure(const char *path, const atomic_bool *stop, uint64_t *ret_n_bytes,
                                  shoal_hash *ret_hash, shoal_err *err) SHOAL_MUST_CHECK;
/* Reads the manifest of a folder, its signature by keys (NULL: it is not looked at) and its text.
 * raw and signature (may be NULL) get the bytes. */
shoal_status shoal_bundle_open(const char *folder, const shoal_bundle_keys *keys, shoal_buf *raw,
                               shoal_buf *signature, shoal_bundle **ret_bundle,
                               shoal_err *err) SHOAL_MUST_CHECK;
/* Whether each file is there with its size and content. SHOAL_E_INVALID names the one that is
 * not. */
shoal_status shoal_bundle_check_files(const shoal_bundle *bundle, const char *folder,
                                      const atomic_bool *stop, shoal_err *err) SHOAL_MUST_CHECK;

#endif
