/*
 * connections.c
 *		The table of connections: what is queued for each, what each has brought.
 *
 * A number is not given out again before the next turn, so that an event of the turn
 * in which a connection was closed can't be taken for one of its successor.
 */
#define _GNU_SOURCE
#include "batch.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint32_t
wanted(const Conn *c)
{
	uint32_t	interest = 0;

	/* The kernel receives for it. */
	if (c->stream >= STREAMED)
		return c->queue_end > c->queue_at ? EPOLLOUT : 0;
	/* Of a paused connection, too, it must be known that its peer has gone. */
	if (c->state == OPEN)
		interest = c->paused ? EPOLLRDHUP : EPOLLIN;
	if (c->tls != NULL && tls_handshaking(c->tls))
		interest = tls_wants_write(c->tls) ? EPOLLOUT : EPOLLIN;
	else if (c->queue_end > c->queue_at || c->state == CONNECTING)
		interest |= EPOLLOUT;
	return interest;
}

/* Tells epoll what is wanted of this connection now. */
void
conn_watch(Batch *b, int32_t id)
{
	Conn	   *c = &b->conns[id];
	struct epoll_event e = {.events = wanted(c),.data.u32 = (uint32_t) id};
	int			change = EPOLL_CTL_MOD;

	if (c->state == FREE || c->state == DEAD)
		return;
	/* A streamed one that has nothing to wait for isn't in the set: there its end would be told again and again. */
	if (c->stream >= STREAMED && e.events == 0)
	{
		if (c->watched)
			epoll_ctl(b->epoll, EPOLL_CTL_DEL, c->fd, NULL);
		c->watched = 0;
		return;
	}
	if (!c->watched)
		change = EPOLL_CTL_ADD;
	else if (c->interest == e.events)
		return;
	c->interest = e.events;
	c->watched = epoll_ctl(b->epoll, change, c->fd, &e) == 0;
}

int32_t
conn_add(Batch *b, int fd, uint8_t state, uint32_t interest)
{
	struct epoll_event e = {.events = interest};
	int32_t		id;
	uint8_t		again;
	Conn	   *c;

	if (b->free_count > 0)
		id = b->free_ids[--b->free_count];
	else if (b->used < b->most)
		id = b->used++;
	else
		return -1;
	e.data.u32 = (uint32_t) id;
	if (epoll_ctl(b->epoll, EPOLL_CTL_ADD, fd, &e) != 0)
	{
		b->free_ids[b->free_count++] = id;
		return -1;
	}
	c = &b->conns[id];
	again = c->again;			/* it may be in the list yet by its old owner */
	memset(c, 0, sizeof *c);
	c->again = again;
	c->fd = fd;
	c->state = state;
	c->interest = interest;
	c->watched = 1;
	b->queued[id] = 0;
	return id;
}

/* The number is free from the next turn on. */
void
conn_drop(Batch *b, int32_t id, bool close_fd)
{
	Conn	   *c = &b->conns[id];

	if (c->state == FREE || c->state == DEAD)
		return;
	if (c->tls != NULL)
		tls_end(c->tls, c->state == CLOSING || c->queue_end == c->queue_at);
	c->tls = NULL;
	uring_drop(b, id);
	if (close_fd)
		close(c->fd);
	else
		epoll_ctl(b->epoll, EPOLL_CTL_DEL, c->fd, NULL);
	free(c->queue);
	c->queue = NULL;
	c->queue_at = c->queue_end = c->queue_size = 0;
	c->state = DEAD;
	b->queued[id] = 0;
	b->dying[b->dying_count++] = id;
}

void
conn_free_dead(Batch *b)
{
	while (b->dying_count > 0)
	{
		int32_t		id = b->dying[--b->dying_count];

		b->conns[id].state = FREE;
		b->free_ids[b->free_count++] = id;
	}
}

/* Something is there to be read that epoll doesn't know of. */
void
conn_read_again(Batch *b, int32_t id)
{
	Conn	   *c = &b->conns[id];

	if (c->again)
		return;
	c->again = 1;
	b->again[b->again_count++] = id;
}

int32_t
put_event(Batch *b, int32_t n, int32_t kind, int32_t id, int32_t start, int32_t end)
{
	int32_t    *e = b->events + 4 * n;

	e[0] = kind;
	e[1] = id;
	e[2] = start;
	e[3] = end;
	return n + 1;
}

static void
enqueue(Batch *b, int32_t id, const char *bytes, size_t length)
{
	Conn	   *c = &b->conns[id];

	if (c->queue_at == c->queue_end)
		c->queue_at = c->queue_end = 0;
	if (c->queue_end + length > c->queue_size)
	{
		size_t		held = c->queue_end - c->queue_at;
		size_t		size = (held + length) * 2;
		char	   *larger = malloc(size);

		if (larger == NULL)
			abort();
		if (held > 0)
			memcpy(larger, c->queue + c->queue_at, held);
		free(c->queue);
		c->queue = larger;
		c->queue_size = size;
		c->queue_at = 0;
		c->queue_end = held;
	}
	memcpy(c->queue + c->queue_end, bytes, length);
	c->queue_end += length;
	b->queued[id] = (uint32_t) (c->queue_end - c->queue_at);
	if (b->queued[id] > HIGH_MARK)
		c->high = 1;
	conn_watch(b, id);
}

static ssize_t
send_some(Conn *c, const char *bytes, size_t length)
{
	if (c->tls != NULL)
		return tls_send(c->tls, bytes, length);
	return send(c->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool
try_later(void)
{
	return errno == EAGAIN || errno == EINTR;
}

/* Nothing can be sent any more: what remains to be read is read, and then its end is seen. */
static void
give_up_sending(Conn *c)
{
	c->queue_at = c->queue_end;
	c->paused = 0;
}

/* What became of the sending of a range: so much has gone, or -1 with errno. The rest is queued. */
void
send_went(Batch *b, int32_t range, ssize_t sent)
{
	int32_t		id = b->ops[3 * range];
	const char *bytes = b->out + b->ops[3 * range + 1];
	size_t		length = (size_t) (b->ops[3 * range + 2] - b->ops[3 * range + 1]);

	if (sent < 0)
	{
		if (!try_later())
		{
			give_up_sending(&b->conns[id]);
			conn_watch(b, id);
			return;
		}
		sent = 0;
	}
	if ((size_t) sent < length)
		enqueue(b, id, bytes + sent, length - (size_t) sent);
}

/* Sends a range that JavaScript has listed. */
void
send_range(Batch *b, int32_t range)
{
	Conn	   *c = &b->conns[b->ops[3 * range]];
	ssize_t		sent = 0;

	if (c->state != OPEN && c->state != CONNECTING)
		return;
	if (c->state == OPEN && c->queue_end == c->queue_at && !(c->tls != NULL && tls_handshaking(c->tls)))
		sent = send_some(c, b->out + b->ops[3 * range + 1],
						 (size_t) (b->ops[3 * range + 2] - b->ops[3 * range + 1]));
	send_went(b, range, sent);
}

/* Those of a turn, or of what happens outside of one. */
void
send_ranges(Batch *b, int32_t count)
{
	for (int32_t range = 0; range < count; range++)
		send_range(b, range);
}

/* What was queued goes out as far as the socket takes it. */
int32_t
flush_queue(Batch *b, int32_t id, int32_t n)
{
	Conn	   *c = &b->conns[id];

	while (c->queue_at < c->queue_end)
	{
		ssize_t		sent = send_some(c, c->queue + c->queue_at, c->queue_end - c->queue_at);

		if (sent < 0)
		{
			if (try_later())
				break;
			give_up_sending(c);
			break;
		}
		c->queue_at += (size_t) sent;
	}
	b->queued[id] = (uint32_t) (c->queue_end - c->queue_at);
	if (c->queue_at < c->queue_end)
		return n;
	free(c->queue);
	c->queue = NULL;
	c->queue_at = c->queue_end = c->queue_size = 0;
	if (c->state == CLOSING)
	{
		conn_drop(b, id, true);
		return put_event(b, n, EV_CLOSED, id, 0, 0);
	}
	conn_watch(b, id);
	if (c->high)
	{
		c->high = 0;
		n = put_event(b, n, EV_DRAIN, id, 0, 0);
	}
	return n;
}

static int32_t
accept_some(Batch *b, int32_t listener, int32_t n)
{
	for (int i = 0; i < MAX_ACCEPTS; i++)
	{
		int			one = 1;
		int32_t		id;
		int			fd = accept4(b->conns[listener].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			break;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		id = conn_add(b, fd, OPEN, EPOLLIN);
		if (id < 0)
			close(fd);
		else
			n = put_event(b, n, EV_ACCEPT, id, listener, 0);
	}
	return n;
}

static int32_t
connected(Batch *b, int32_t id, int32_t n)
{
	Conn	   *c = &b->conns[id];
	int			error = 0;
	socklen_t	size = sizeof error;

	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error != 0)
	{
		conn_drop(b, id, true);
		return put_event(b, n, EV_CLOSED, id, error, 0);
	}
	c->state = OPEN;
	n = put_event(b, n, EV_CONNECTED, id, 0, 0);
	return flush_queue(b, id, n);
}

static int32_t
handshake(Batch *b, int32_t id, int32_t n)
{
	Conn	   *c = &b->conns[id];
	int			result = tls_handshake(c->tls);

	if (result < 0)
	{
		conn_drop(b, id, true);
		return put_event(b, n, EV_CLOSED, id, EPROTO, 0);
	}
	if (result > 0)
	{
		n = put_event(b, n, EV_SECURE, id, tls_alpn(c->tls) ? 1 : 0, 0);
		conn_read_again(b, id); /* what came together with the end of the handshake */
		n = flush_queue(b, id, n);
	}
	conn_watch(b, id);
	return n;
}

/* One piece of what has come; at most RECV_BYTES, so that all get their turn. */
int32_t
receive(Batch *b, int32_t id, int32_t n)
{
	Conn	   *c = &b->conns[id];
	size_t		room = b->in_size - b->in_used;
	char	   *to = b->in + b->in_used;
	ssize_t		got;
	bool		more = false;

	if (room > RECV_BYTES)
		room = RECV_BYTES;
	if (c->tls != NULL)
	{
		if (tls_handshaking(c->tls))
			return handshake(b, id, n);
		got = tls_receive(c->tls, to, room, &more);
	}
	else
		got = recv(c->fd, to, room, MSG_DONTWAIT);
	if (got > 0)
	{
		n = put_event(b, n, EV_DATA, id, (int32_t) b->in_used, (int32_t) (b->in_used + (size_t) got));
		b->in_used += (size_t) got;
		if (more)
			conn_read_again(b, id);
		uring_consider(b, id, (size_t) got);
	}
	else if (got == 0 || !try_later())
	{
		int			error = got == 0 ? 0 : errno;

		conn_drop(b, id, true);
		n = put_event(b, n, EV_CLOSED, id, error, 0);
	}
	return n;
}

/*
 * Handles what epoll has; what there is no room for stays ready for the next turn.
 */
int32_t
take_ready(Batch *b, const struct epoll_event *ready, int count, int32_t n)
{
	for (int i = 0; i < count && (size_t) n + MAX_ACCEPTS + 4 < b->events_size; i++)
	{
		int32_t		id = (int32_t) ready[i].data.u32;
		uint32_t	what = ready[i].events;
		Conn	   *c;

		if (ready[i].data.u32 == OUTER)
			continue;			/* libuv's own, see loop.c */
		c = &b->conns[id];
		if (c->state == LISTENING)
		{
			n = accept_some(b, id, n);
			continue;
		}
		if (c->state == CONNECTING)
		{
			n = connected(b, id, n);
			continue;
		}
		if (c->state == OPEN && c->tls != NULL && tls_handshaking(c->tls))
		{
			n = handshake(b, id, n);
			continue;
		}
		/* A streamed one is here for its queue only: what else befalls it its receive will tell. */
		if ((c->state == OPEN || c->state == CLOSING) && ((what & EPOLLOUT) || c->stream >= STREAMED))
			n = flush_queue(b, id, n);
		if (c->state == CLOSING && (what & (EPOLLHUP | EPOLLERR)))
		{
			conn_drop(b, id, true);
			n = put_event(b, n, EV_CLOSED, id, 0, 0);
			continue;
		}
		if (c->stream >= STREAMED)
			continue;
		if (c->state == OPEN && (what & EPOLLRDHUP) && c->paused)
		{
			c->paused = 0;
			conn_watch(b, id);
		}
		if (c->state == OPEN && (what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		{
			if (b->in_size - b->in_used < LEAST_ROOM)
				break;
			n = receive(b, id, n);
		}
	}
	return n;
}
