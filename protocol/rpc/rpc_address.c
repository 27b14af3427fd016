/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses, checked before gRPC sees them: it would take a typing error for the name of a
 * resolver and fail every call later.
 */
#include "protocol/rpc/rpc_internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum {
    HOST_MAX = 256,
    PORT_MAX = 65535
};

typedef enum host_kind {
    HOST_NAME,
    HOST_IPV4,
    HOST_IPV6
} host_kind;

typedef struct rpc_endpoint {
    host_kind kind;
    char host[HOST_MAX]; /* without brackets */
    unsigned port;
} rpc_endpoint;

static bool is_host_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
}

static bool parse_port(const char *text, size_t n, unsigned *ret_port)
{
    unsigned port = 0;
    if (n == 0 || n > 5) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        port = port * 10 + (unsigned)(text[i] - '0');
    }
    *ret_port = port;
    return port <= PORT_MAX;
}

static bool parse_host(const char *text, size_t n, rpc_endpoint *ret_endpoint)
{
    struct in6_addr binary;
    bool bracketed = n > 2 && text[0] == '[' && text[n - 1] == ']';
    const char *host = bracketed ? text + 1 : text;
    size_t length = bracketed ? n - 2 : n;
    if (length == 0 || length >= HOST_MAX) {
        return false;
    }
    memcpy(ret_endpoint->host, host, length);
    ret_endpoint->host[length] = '\0';
    if (bracketed) {
        ret_endpoint->kind = HOST_IPV6;
        return inet_pton(AF_INET6, ret_endpoint->host, &binary) == 1;
    }
    for (size_t i = 0; i < length; i++) {
        if (!is_host_byte(host[i])) {
            return false;
        }
    }
    bool numeric = inet_pton(AF_INET, ret_endpoint->host, &binary) == 1;
    ret_endpoint->kind = numeric ? HOST_IPV4 : HOST_NAME;
    return true;
}

/* n bytes of "host:port", "a.b.c.d:port" or "[v6]:port". */
static shoal_status parse(const char *text, size_t n, rpc_endpoint *ret_endpoint, shoal_err *err)
{
    const char *colon = memrchr(text, ':', n);
    if (colon && parse_host(text, (size_t)(colon - text), ret_endpoint) &&
        parse_port(colon + 1, n - (size_t)(colon - text) - 1, &ret_endpoint->port)) {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "address '%.*s' must be host:port, 1.2.3.4:port or [v6]:port with a port "
                         "up to %d",
                         (int)SHOAL_MIN(n, (size_t)100), text, (int)PORT_MAX);
}

static bool is_loopback(const rpc_endpoint *endpoint)
{
    struct in6_addr six;
    switch (endpoint->kind) {
    case HOST_IPV4:
        return strncmp(endpoint->host, "127.", 4) == 0;
    case HOST_IPV6:
        return inet_pton(AF_INET6, endpoint->host, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
    case HOST_NAME:
        return strcmp(endpoint->host, "localhost") == 0;
    }
    return false;
}

static shoal_status check_plaintext(const rpc_endpoint *endpoint, bool plaintext, shoal_err *err)
{
    if (!plaintext || is_loopback(endpoint)) {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_AUTH,
                         "'%.100s' is not a loopback address: give ca, cert and key, since "
                         "plaintext may not leave this machine",
                         endpoint->host);
}

shoal_status shoal_rpc_address_listen(const char *address, bool plaintext, shoal_err *err)
{
    rpc_endpoint endpoint;
    SHOAL_TRY(parse(address, strlen(address), &endpoint, err));
    return check_plaintext(&endpoint, plaintext, err);
}

/* All endpoints of a list must be numeric and of one family: gRPC has one resolver for each. */
static shoal_status check_list(const rpc_endpoint *one, const rpc_endpoint *first, size_t i,
                               shoal_err *err)
{
    if (one->port == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "'%.100s': a target needs a port above 0",
                             one->host);
    }
    if (i > 0 && (one->kind != first->kind || one->kind == HOST_NAME)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "'%.100s': a list of addresses must be all IPv4 or all IPv6; for "
                             "names give one name with several address records",
                             one->host);
    }
    if (i >= SHOAL_RPC_ADDRESSES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "a target has more than %d addresses",
                             (int)SHOAL_RPC_ADDRESSES_MAX);
    }
    return SHOAL_OK;
}

static const char *scheme(host_kind kind)
{
    switch (kind) {
    case HOST_IPV4:
        return "ipv4:";
    case HOST_IPV6:
        return "ipv6:";
    case HOST_NAME:
        break;
    }
    return "dns:///";
}

/* All addresses of a target: their number, the first, and where ret_ports is given their ports. */
static shoal_status parse_target(const char *target, rpc_endpoint *ret_first, size_t *ret_n,
                                 const bool *plaintext, uint16_t *ret_ports, shoal_err *err)
{
    const char *p = target;
    for (*ret_n = 0;; p++) {
        size_t n = strcspn(p, ",");
        rpc_endpoint one;
        SHOAL_TRY(parse(p, n, &one, err));
        if (*ret_n == 0) {
            *ret_first = one;
        }
        SHOAL_TRY(check_list(&one, ret_first, *ret_n, err));
        if (plaintext) {
            SHOAL_TRY(check_plaintext(&one, *plaintext, err));
        }
        if (ret_ports) {
            ret_ports[*ret_n] = (uint16_t)one.port;
        }
        ++*ret_n;
        p += n;
        if (*p == '\0') {
            return SHOAL_OK;
        }
    }
}

shoal_status shoal_rpc_target_ports(const char *target, uint16_t ret_ports[SHOAL_RPC_ADDRESSES_MAX],
                                    size_t *ret_n, shoal_err *err)
{
    rpc_endpoint first;
    return parse_target(target, &first, ret_n, NULL, ret_ports, err);
}

shoal_status shoal_rpc_address_target(const char *target, const shoal_rpc_tls *tls, bool plaintext,
                                      char ret_target[SHOAL_RPC_TARGET_MAX], shoal_err *err)
{
    rpc_endpoint first = {.kind = HOST_NAME};
    size_t n_addresses = 0;
    SHOAL_TRY(parse_target(target, &first, &n_addresses, &plaintext, NULL, err));
    if (n_addresses > 1 && !plaintext && !tls->name_override) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a list of addresses with TLS needs the name in the certificates "
                             "(name_override)");
    }
    int n = snprintf(ret_target, SHOAL_RPC_TARGET_MAX, "%s%s", scheme(first.kind), target);
    if (n < 0 || n >= SHOAL_RPC_TARGET_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "a target has more than %d bytes",
                             (int)SHOAL_RPC_TARGET_MAX);
    }
    return SHOAL_OK;
}
