/*
 * sockets.c
 *		Sockets are made here; hosts are numeric, or the path of a Unix socket.
 *
 * Functions that give a descriptor give -errno when they can't.
 */
#define _GNU_SOURCE
#include "batch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static int
address_of(const char *host, int port, struct sockaddr_storage *address, socklen_t *size)
{
	char		service[12];
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,.ai_socktype = SOCK_STREAM};
	struct addrinfo *found;

	if (host[0] == '/')
	{
		struct sockaddr_un *local = (struct sockaddr_un *) address;

		memset(local, 0, sizeof *local);
		local->sun_family = AF_UNIX;
		if (strlen(host) >= sizeof local->sun_path)
			return -ENAMETOOLONG;
		strcpy(local->sun_path, host);
		*size = sizeof *local;
		return 0;
	}
	snprintf(service, sizeof service, "%d", port);
	if (getaddrinfo(host, service, &hints, &found) != 0)
		return -EINVAL;
	memcpy(address, found->ai_addr, found->ai_addrlen);
	*size = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static int
failed(int fd)
{
	int			error = errno;

	close(fd);
	return -error;
}

/* A socket that fits the host, not blocking; its address is filled in. */
static int
socket_for(const char *host, int port, struct sockaddr_storage *address, socklen_t *size)
{
	int			error = address_of(host, port, address, size);
	int			fd;

	if (error != 0)
		return error;
	fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static void
turn_on(int fd, int level, int option)
{
	int			one = 1;

	setsockopt(fd, level, option, &one, sizeof one);
}

int
socket_listen(const char *host, int port, int backlog, bool reuse_port)
{
	struct sockaddr_storage address;
	socklen_t	size;
	int			fd = socket_for(host, port, &address, &size);

	if (fd < 0)
		return fd;
	turn_on(fd, SOL_SOCKET, SO_REUSEADDR);
	if (reuse_port)
		turn_on(fd, SOL_SOCKET, SO_REUSEPORT);
	if (bind(fd, (struct sockaddr *) &address, size) != 0 || listen(fd, backlog) != 0)
		return failed(fd);
	return fd;
}

int
socket_connect(const char *host, int port)
{
	struct sockaddr_storage address;
	socklen_t	size;
	int			fd = socket_for(host, port, &address, &size);

	if (fd < 0)
		return fd;
	if (address.ss_family != AF_UNIX)
	{
		turn_on(fd, IPPROTO_TCP, TCP_NODELAY);
		turn_on(fd, SOL_SOCKET, SO_KEEPALIVE);
	}
	if (connect(fd, (struct sockaddr *) &address, size) != 0 && errno != EINPROGRESS)
		return failed(fd);
	return fd;
}

/* The port of this end. */
int
socket_port(int fd)
{
	struct sockaddr_storage address = {0};
	socklen_t	size = sizeof address;

	getsockname(fd, (struct sockaddr *) &address, &size);
	if (address.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *) &address)->sin6_port);
	return ntohs(((struct sockaddr_in *) &address)->sin_port);
}

/* The other end as text. */
void
socket_peer(int fd, char *text, size_t text_size)
{
	struct sockaddr_storage address = {0};
	socklen_t	size = sizeof address;
	char		host[INET6_ADDRSTRLEN];

	getpeername(fd, (struct sockaddr *) &address, &size);
	if (address.ss_family == AF_INET)
	{
		struct sockaddr_in *in = (struct sockaddr_in *) &address;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
		snprintf(text, text_size, "%s:%d", host, ntohs(in->sin_port));
	}
	else if (address.ss_family == AF_INET6)
	{
		struct sockaddr_in6 *in = (struct sockaddr_in6 *) &address;

		inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
		snprintf(text, text_size, "[%s]:%d", host, ntohs(in->sin6_port));
	}
	else
		snprintf(text, text_size, "local");
}
