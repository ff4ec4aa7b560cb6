/*
 * delay-proxy LISTEN TARGET MICROSECONDS
 *
 * Forwards connections from one Unix socket to another; what flows is held
 * for that long in each direction, as by a network.  In C because timers in
 * Node.js are no better than a millisecond.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_LINKS 64
#define CHUNK 65536

typedef struct Piece
{
	struct Piece *next;
	long long due;				/* ns */
	size_t len;
	size_t sent;
	char data[];
} Piece;

typedef struct Link				/* one direction of a connection */
{
	int from, to;				/* -1: free */
	Piece *first, *last;
	int ended;
} Link;

static Link links[MAX_LINKS];
static long long delay_ns;

static long long
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static struct sockaddr_un
address(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(a.sun_path))
	{
		fprintf(stderr, "%s: too long for a socket\n", path);
		exit(1);
	}
	strcpy(a.sun_path, path);
	return a;
}

static void
add_link(int from, int to)
{
	for (int i = 0; i < MAX_LINKS; i++)
	{
		if (links[i].from < 0)
		{
			links[i] = (Link) {.from = from, .to = to};
			return;
		}
	}
	fprintf(stderr, "more than %d streams\n", MAX_LINKS);
	exit(1);
}

static void
close_pair(int a, int b)
{
	for (int i = 0; i < MAX_LINKS; i++)
	{
		if (links[i].from != a && links[i].from != b)
			continue;
		while (links[i].first)
		{
			Piece *next = links[i].first->next;

			free(links[i].first);
			links[i].first = next;
		}
		links[i].from = -1;
	}
	close(a);
	close(b);
}

static void
take(Link *l)
{
	Piece *p = malloc(sizeof(Piece) + CHUNK);
	ssize_t n;

	if (p == NULL)
		exit(1);
	n = read(l->from, p->data, CHUNK);
	if (n <= 0)
	{
		free(p);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		l->ended = 1;
		return;
	}
	p->next = NULL;
	p->due = now_ns() + delay_ns;
	p->len = n;
	p->sent = 0;
	if (l->first)
		l->last->next = p;
	else
		l->first = p;
	l->last = p;
}

/* Sends what is due; returns false when the connection has ended. */
static int
give(Link *l, long long now)
{
	while (l->first && l->first->due <= now)
	{
		Piece *p = l->first;
		ssize_t n = send(l->to, p->data + p->sent, p->len - p->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		p->sent += n;
		if (p->sent < p->len)
			return 1;
		l->first = p->next;
		free(p);
	}
	return !(l->ended && l->first == NULL);
}

int
main(int argc, char **argv)
{
	struct sockaddr_un here, there;
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);

	if (argc != 4)
	{
		fprintf(stderr, "usage: delay-proxy LISTEN TARGET MICROSECONDS\n");
		return 2;
	}
	here = address(argv[1]);
	there = address(argv[2]);
	delay_ns = atoll(argv[3]) * 1000;
	for (int i = 0; i < MAX_LINKS; i++)
		links[i].from = -1;
	if (bind(listener, (struct sockaddr *) &here, sizeof(here)) != 0 || listen(listener, 16) != 0)
	{
		perror(argv[1]);
		return 1;
	}
	chmod(argv[1], 0777);
	for (;;)
	{
		struct pollfd fds[MAX_LINKS + 1];
		int link_of[MAX_LINKS + 1];
		int nfds = 1;
		long long now = now_ns(), wake = -1;
		struct timespec wait, *timeout = NULL;

		fds[0] = (struct pollfd) {.fd = listener, .events = POLLIN};
		for (int i = 0; i < MAX_LINKS; i++)
		{
			if (links[i].from < 0)
				continue;
			if (links[i].first)
			{
				/* one that is due and was not taken waits a little */
				long long due = links[i].first->due > now ? links[i].first->due : now + 50000;

				if (wake < 0 || due < wake)
					wake = due;
			}
			link_of[nfds] = i;
			fds[nfds++] = (struct pollfd) {.fd = links[i].from, .events = links[i].ended ? 0 : POLLIN};
		}
		if (wake >= 0)
		{
			wait = (struct timespec) {.tv_sec = (wake - now) / 1000000000, .tv_nsec = (wake - now) % 1000000000};
			timeout = &wait;
		}
		if (ppoll(fds, nfds, timeout, NULL) < 0 && errno != EINTR)
		{
			perror("ppoll");
			return 1;
		}
		for (int i = 1; i < nfds; i++)
		{
			if (fds[i].revents & (POLLIN | POLLHUP | POLLERR) && !links[link_of[i]].ended)
				take(&links[link_of[i]]);
		}
		now = now_ns();
		for (int i = 0; i < MAX_LINKS; i++)
		{
			if (links[i].from >= 0 && !give(&links[i], now))
				close_pair(links[i].from, links[i].to);
		}
		if (fds[0].revents & POLLIN)
		{
			int client = accept(listener, NULL, NULL);
			int server = socket(AF_UNIX, SOCK_STREAM, 0);

			if (client < 0)
				continue;
			if (connect(server, (struct sockaddr *) &there, sizeof(there)) != 0)
			{
				close(client);
				close(server);
				continue;
			}
			add_link(client, server);
			add_link(server, client);
		}
	}
}
