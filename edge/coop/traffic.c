/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/traffic.h"

#include "common/base/mem.h"
#include "protocol/rpc/rpc.h"

#include <dirent.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TCP_HEADER = 20,
    TCP_TIMESTAMPS = 12, /* with the padding before them */
    IPV4_HEADER = 20,
    IPV6_HEADER = 40
};

/* A socket is known by its cookie, which no other ever has: its descriptor may have become
 * another's. */
typedef struct connection {
    uint64_t cookie;
    int fd;
    uint64_t up; /* bytes that were taken */
    uint64_t down;
} connection;

struct shoal_traffic {
    uint16_t ports[SHOAL_RPC_ADDRESSES_MAX];
    size_t n_ports;
    pthread_mutex_t lock; /* everything below */
    connection connections[SHOAL_TRAFFIC_CONNECTIONS_MAX];
    size_t n_connections;
    bool searched;
    uint64_t searched_ms;
};

static bool cookie_of(int fd, uint64_t *ret_cookie)
{
    socklen_t n = sizeof *ret_cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret_cookie, &n) == 0 && n == sizeof *ret_cookie;
}

static bool info_of(int fd, struct tcp_info *ret_info)
{
    socklen_t n = sizeof *ret_info;
    size_t needed = offsetof(struct tcp_info, tcpi_bytes_retrans);
    *ret_info = (struct tcp_info){0};
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, ret_info, &n) == 0 && n >= needed;
}

/* The port that is connected to, and the bytes of an IP header; 0: no connection of TCP. */
static uint16_t peer_port(int fd, uint64_t *ret_ip_header)
{
    union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } address;
    socklen_t n = sizeof address;
    memset(&address, 0, sizeof address);
    if (getpeername(fd, &address.any, &n) != 0) {
        return 0;
    }
    if (address.any.sa_family == AF_INET) {
        *ret_ip_header = IPV4_HEADER;
        return ntohs(address.four.sin_port);
    }
    if (address.any.sa_family == AF_INET6) {
        *ret_ip_header = IN6_IS_ADDR_V4MAPPED(&address.six.sin6_addr) ? IPV4_HEADER : IPV6_HEADER;
        return ntohs(address.six.sin6_port);
    }
    return 0;
}

static bool is_known(const shoal_traffic *traffic, uint64_t cookie)
{
    for (size_t i = 0; i < traffic->n_connections; i++) {
        if (traffic->connections[i].cookie == cookie) {
            return true;
        }
    }
    return false;
}

static void look_for(shoal_traffic *traffic, int fd)
{
    uint64_t cookie = 0;
    uint64_t ip_header = 0;
    if (traffic->n_connections == SHOAL_TRAFFIC_CONNECTIONS_MAX || !cookie_of(fd, &cookie) ||
        is_known(traffic, cookie)) {
        return;
    }
    uint16_t port = peer_port(fd, &ip_header);
    for (size_t i = 0; i < traffic->n_ports && port != 0; i++) {
        if (traffic->ports[i] == port) {
            traffic->connections[traffic->n_connections++] =
                (connection){.cookie = cookie, .fd = fd};
            return;
        }
    }
}

static void search(shoal_traffic *traffic)
{
    DIR *dir = opendir("/proc/self/fd");
    if (!dir) {
        return;
    }
    const struct dirent *entry = NULL;
    while ((entry = readdir(dir)) != NULL) {
        char *end = NULL;
        long fd = strtol(entry->d_name, &end, 10);
        if (end != entry->d_name && *end == '\0') {
            look_for(traffic, (int)fd);
        }
    }
    (void)closedir(dir);
}

/* False: it is there no more. */
static bool take(connection *c, uint64_t *inout_up, uint64_t *inout_down)
{
    struct tcp_info info;
    uint64_t cookie = 0;
    uint64_t header = 0;
    if (!cookie_of(c->fd, &cookie) || cookie != c->cookie || peer_port(c->fd, &header) == 0 ||
        !info_of(c->fd, &info)) {
        return false;
    }
    header += info.tcpi_options & TCPI_OPT_TIMESTAMPS ? TCP_HEADER + TCP_TIMESTAMPS : TCP_HEADER;
    uint64_t up = info.tcpi_bytes_sent + info.tcpi_segs_out * header;
    uint64_t down = info.tcpi_bytes_received + info.tcpi_segs_in * header;
    *inout_up += up - SHOAL_MIN(up, c->up);
    *inout_down += down - SHOAL_MIN(down, c->down);
    c->up = SHOAL_MAX(up, c->up);
    c->down = SHOAL_MAX(down, c->down);
    return true;
}

void shoal_traffic_take(shoal_traffic *traffic, uint64_t now_ms, uint64_t *ret_up,
                        uint64_t *ret_down)
{
    *ret_up = 0;
    *ret_down = 0;
    (void)pthread_mutex_lock(&traffic->lock);
    bool due = !traffic->searched || now_ms - traffic->searched_ms >= SHOAL_TRAFFIC_RESCAN_MS;
    if (due) {
        search(traffic);
        traffic->searched = true;
        traffic->searched_ms = now_ms;
    }
    for (size_t i = 0; i < traffic->n_connections;) {
        if (take(&traffic->connections[i], ret_up, ret_down)) {
            i++;
        } else {
            traffic->connections[i] = traffic->connections[--traffic->n_connections];
        }
    }
    (void)pthread_mutex_unlock(&traffic->lock);
}

/* A socket of our own is asked. */
static bool kernel_tells(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct tcp_info info;
    uint64_t cookie = 0;
    bool tells = fd >= 0 && info_of(fd, &info) && cookie_of(fd, &cookie);
    if (fd >= 0) {
        (void)close(fd);
    }
    return tells && access("/proc/self/fd", R_OK) == 0;
}

shoal_status shoal_traffic_new(const char *target, shoal_traffic **ret_traffic, shoal_err *err)
{
    if (!kernel_tells()) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "the kernel does not tell what a connection has carried");
    }
    SHOAL_CLEANUP(shoal_free_cleanup) shoal_traffic *traffic = shoal_calloc(1, sizeof *traffic);
    if (!traffic || pthread_mutex_init(&traffic->lock, NULL) != 0) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to count what the link carries");
    }
    shoal_status status = shoal_rpc_target_ports(target, traffic->ports, &traffic->n_ports, err);
    if (status != SHOAL_OK) {
        (void)pthread_mutex_destroy(&traffic->lock);
        return status;
    }
    *ret_traffic = SHOAL_STEAL(traffic);
    return SHOAL_OK;
}

void shoal_traffic_free(shoal_traffic *traffic)
{
    if (!traffic) {
        return;
    }
    (void)pthread_mutex_destroy(&traffic->lock);
    shoal_free(traffic);
}
