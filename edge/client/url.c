/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses: "http://host[:port][/prefix]", "https://[v6]:port", "unix:/path". Characters are
 * checked here because host and prefix go into a request head unchanged.
 */
#include "edge/client/client_internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static int bad_url(shoal_client_error *error, const char *url, const char *why)
{
    return shoal_client_fail(error, SHOAL_CLIENT_E_INVALID,
                             "address \"%.200s\": %s; write http://host:port, https://host:port or "
                             "unix:/path",
                             url, why);
}

static int parse_unix(const char *url, shoal_client_url_parts *parts, shoal_client_error *error)
{
    const char *path = url + strlen("unix:");
    if (path[0] != '/') {
        return bad_url(error, url, "a unix socket needs an absolute path");
    }
    if (strlen(path) >= sizeof parts->path) {
        return bad_url(error, url, "the socket's path is longer than 107 bytes");
    }
    memcpy(parts->path, path, strlen(path) + 1);
    parts->is_unix = true;
    (void)snprintf(parts->authority, sizeof parts->authority, "localhost");
    return SHOAL_CLIENT_OK;
}

static bool port_ok(const char *port, size_t n)
{
    unsigned value = 0;
    if (n == 0 || n > 5) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (port[i] < '0' || port[i] > '9') {
            return false;
        }
        value = value * 10 + (unsigned)(port[i] - '0');
    }
    return value >= 1 && value <= 65535;
}

static bool characters_ok(const char *s, size_t n, const char *extra)
{
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && !strchr(extra, c)) {
            return false;
        }
    }
    return true;
}

/* authority = host[:port] without user information, n bytes. */
static int parse_authority(const char *url, const char *text, size_t n,
                           shoal_client_url_parts *parts, shoal_client_error *error)
{
    const char *host = text;
    size_t n_host = 0;
    const char *rest = NULL;
    bool v6 = n > 0 && text[0] == '[';
    if (v6) {
        const char *close = memchr(text, ']', n);
        if (!close) {
            return bad_url(error, url, "an IPv6 address needs its closing bracket");
        }
        host = text + 1;
        n_host = (size_t)(close - host);
        rest = close + 1;
    } else {
        const char *colon = memchr(text, ':', n);
        n_host = colon ? (size_t)(colon - text) : n;
        rest = text + n_host;
    }
    size_t n_rest = n - (size_t)(rest - text);
    if (n_host == 0 || n_host >= sizeof parts->host ||
        !characters_ok(host, n_host, v6 ? ":." : "-._")) {
        return bad_url(error, url, "the host is missing or not a host name");
    }
    if (n_rest > 0 && (rest[0] != ':' || !port_ok(rest + 1, n_rest - 1))) {
        return bad_url(error, url, "the port must be a number from 1 to 65535");
    }
    memcpy(parts->host, host, n_host);
    parts->host[n_host] = '\0';
    const char *usual = parts->is_tls ? "443" : "80";
    (void)snprintf(parts->port, sizeof parts->port, "%.*s", n_rest > 0 ? (int)n_rest - 1 : 3,
                   n_rest > 0 ? rest + 1 : usual);
    (void)snprintf(parts->authority, sizeof parts->authority, "%.*s", (int)n, text);
    return SHOAL_CLIENT_OK;
}

int shoal_client_url_parse(const char *url, shoal_client_url_parts *ret_parts,
                           shoal_client_error *error)
{
    shoal_client_url_parts parts;
    memset(&parts, 0, sizeof parts);
    if (strnlen(url, SHOAL_CLIENT_URL_MAX) == SHOAL_CLIENT_URL_MAX) {
        return bad_url(error, url, "longer than 1023 bytes");
    }
    if (strncmp(url, "unix:", 5) == 0) {
        SHOAL_CLIENT_TRY(parse_unix(url, &parts, error));
        *ret_parts = parts;
        return SHOAL_CLIENT_OK;
    }
    parts.is_tls = strncasecmp(url, "https://", 8) == 0;
    if (!parts.is_tls && strncasecmp(url, "http://", 7) != 0) {
        return bad_url(error, url, "it has no known scheme");
    }
    const char *authority = url + (parts.is_tls ? 8 : 7);
    size_t n = strcspn(authority, "/?#");
    const char *prefix = authority + n;
    size_t n_prefix = strlen(prefix);
    while (n_prefix > 0 && prefix[n_prefix - 1] == '/') {
        n_prefix--;
    }
    if (n_prefix >= sizeof parts.prefix || !characters_ok(prefix, n_prefix, "/-._~%")) {
        return bad_url(error, url, "the path has characters that do not belong there");
    }
    memcpy(parts.prefix, prefix, n_prefix);
    SHOAL_CLIENT_TRY(parse_authority(url, authority, n, &parts, error));
    *ret_parts = parts;
    return SHOAL_CLIENT_OK;
}
