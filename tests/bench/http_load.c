/* The benchmark's clients: CONNECTIONS at once in one process, each asking for one file after the
 * other, until COUNT replies have come. Cheap enough not to be the limit: a fixed request per path,
 * one epoll(7), and large bodies are dropped in the kernel (MSG_TRUNC) without being copied.
 *
 * http_load PORT CONNECTIONS COUNT keep|close STATUS FIELDS PATHS
 *
 * STATUS: what every reply has to have. FIELDS: further request fields, each with \r\n, or "".
 * PATHS: a file with a URL path a line; clients go through it in turn. Prints one line:
 * seconds, own CPU seconds, replies, body bytes. Any other reply, or a body of another length than
 * Content-Length says, is the end with exit code 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 8192, DROP = 1 << 20 };

struct client {
	int fd;
	int used;        /* bytes of `head` */
	long long rest;  /* of the body; -1 while the head is read */
	char head[HEAD];
};

static struct sockaddr_in server;
static char **requests;
static int request_count, turn, keep, epoll;
static const char *status;
static long long wanted, asked, replies, bytes;

static void fail(const char *what, const char *detail)
{
	fprintf(stderr, "http_load: %s: %s\n", what, detail);
	exit(1);
}

static void ask(struct client *client)
{
	const char *request = requests[turn];
	size_t length = strlen(request);

	turn = (turn + 1) % request_count;
	asked++;
	client->used = 0;
	client->rest = -1;
	if (send(client->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length)
		fail("send", strerror(errno));
}

static void begin(struct client *client)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
	int one = 1;

	client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&server, sizeof server))
		fail("connect", strerror(errno));
	setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd, &event))
		fail("epoll_ctl", strerror(errno));
	ask(client);
}

static void finish(struct client *client)
{
	replies++;
	if (!keep) {
		/* Reset, not close: 28,000 ports would soon all be in TIME_WAIT. */
		struct linger now = {.l_onoff = 1, .l_linger = 0};
		setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
		close(client->fd);
		if (asked < wanted)
			begin(client);
	} else if (asked < wanted) {
		ask(client);
	}
}

static void read_head(struct client *client)
{
	ssize_t got = recv(client->fd, client->head + client->used, HEAD - 1 - client->used, MSG_DONTWAIT);
	char *end, *field;

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0)
		fail("reply", got ? strerror(errno) : "the connection was closed");
	client->used += got;
	client->head[client->used] = 0;
	end = strstr(client->head, "\r\n\r\n");
	if (!end) {
		if (client->used == HEAD - 1)
			fail("reply", "the head is too long");
		return;
	}
	if (strncmp(client->head, "HTTP/1.1 ", 9) || strncmp(client->head + 9, status, 3))
		fail("status", client->head);
	end[2] = 0;
	field = strcasestr(client->head, "\r\nContent-Length:");
	client->rest = field ? atoll(field + 17) : 0;
	got = client->used - (end + 4 - client->head);
	bytes += got;
	client->rest -= got;
	if (client->rest < 0)
		fail("reply", "the body is too long");
}

static void drop_body(struct client *client)
{
	static char unused[DROP];
	size_t most = client->rest < DROP ? client->rest : DROP;
	ssize_t got = recv(client->fd, unused, most, MSG_DONTWAIT | MSG_TRUNC);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0)
		fail("body", got ? strerror(errno) : "the connection was closed");
	bytes += got;
	client->rest -= got;
}

static void read_requests(const char *path, const char *fields)
{
	FILE *file = fopen(path, "r");
	char line[4096];

	if (!file)
		fail(path, strerror(errno));
	while (fgets(line, sizeof line, file)) {
		line[strcspn(line, "\n")] = 0;
		requests = realloc(requests, (request_count + 1) * sizeof *requests);
		if (asprintf(&requests[request_count++],
			     "GET %s HTTP/1.1\r\nUser-Agent: Wget/1.21.3\r\nAccept: */*\r\n"
			     "Accept-Encoding: identity\r\nHost: 127.0.0.1\r\n%sConnection: %s\r\n\r\n",
			     line, fields, keep ? "Keep-Alive" : "close") < 0)
			fail("memory", "none left");
	}
	fclose(file);
	if (!request_count)
		fail(path, "no paths");
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct epoll_event events[64];
	struct client *clients;
	struct rusage used;
	double start;
	int count, each;

	if (argc != 8)
		fail("usage", "PORT CONNECTIONS COUNT keep|close STATUS FIELDS PATHS");
	server.sin_family = AF_INET;
	server.sin_port = htons(atoi(argv[1]));
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	count = atoi(argv[2]);
	wanted = atoll(argv[3]);
	keep = !strcmp(argv[4], "keep");
	status = argv[5];
	read_requests(argv[7], argv[6]);
	clients = calloc(count, sizeof *clients);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	start = seconds();
	for (each = 0; each < count && asked < wanted; each++)
		begin(&clients[each]);
	while (replies < wanted) {
		int happened = epoll_wait(epoll, events, 64, 30000);

		if (happened <= 0)
			fail("epoll_wait", happened ? strerror(errno) : "30 seconds without a reply");
		for (each = 0; each < happened; each++) {
			struct client *client = events[each].data.ptr;

			if (client->rest < 0)
				read_head(client);
			else
				drop_body(client);
			if (client->rest == 0)
				finish(client);
		}
	}
	getrusage(RUSAGE_SELF, &used);
	printf("%.6f %.6f %lld %lld\n", seconds() - start,
	       used.ru_utime.tv_sec + used.ru_stime.tv_sec
	       + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6, replies, bytes);
	return 0;
}
