/*
 * uring.c
 *		The system calls of a turn in one: io_uring, where the kernel has it.
 *
 * A connection that is up and brings small pieces ("streamed") leaves the epoll set; the
 * kernel receives for it into buffers that it takes from a ring, while we wait.  What
 * JavaScript has listed to be sent goes to the kernel with the call that waits.  So a
 * turn costs one system call, not one per message and one to wait.  All else (listeners,
 * connections that begin, TLS, large results, those that are paused) stays in the epoll
 * set, which the ring watches as one descriptor; see loop.c.
 *
 * What may be in the kernel's hands, and when:
 *
 * - Sends are listed after JavaScript has had its turn and are done when the call that
 *	 submits them returns (MSG_DONTWAIT; those that failed or went in part tell so), before
 *	 JavaScript runs again: the output area and the descriptors are what they were.  One
 *	 connection has at most one send in a batch; more go the direct way, later.
 * - A receive is asked for at the same point, never while JavaScript may close or reuse
 *	 its descriptor.  It ends with a completion that has no CQE_MORE, and until then the
 *	 connection isn't read in any other way.  Who doesn't want it any more cancels it.
 * - Completions say whose they are by a number that isn't given twice: what comes for a
 *	 connection that has gone is thrown away.
 */
#define _GNU_SOURCE
#include "uring.h"

#include <errno.h>
#include <string.h>

static void
cancel(Uring *u, uint32_t serial, int32_t id)
{
	Sqe		   *sqe = ring_add(u, OP_ASYNC_CANCEL, -1, NUMBER(OF_CANCEL, serial, id));

	sqe->addr = NUMBER(OF_RECV, serial, id);
	sqe->flags = SQE_SKIP_SUCCESS;
}

/* A small piece has come, or a large one: is this connection to be streamed? */
void
uring_consider(Batch *b, int32_t id, size_t length)
{
	Uring	   *u = b->uring;
	Conn	   *c = &b->conns[id];

	if (u == NULL || c->tls != NULL || c->stream != NOT_STREAMED)
		return;
	c->calm = length < BUFFER_BYTES / 2 ? c->calm + 1 : 0;
	if (c->calm < CALM || u->receives + u->chosen_count >= MOST_RECEIVES)
		return;
	c->calm = CALM - 1;
	c->stream = CHOSEN;
	u->chosen[u->chosen_count++] = id;
}

/* Those that were chosen and still are what they were. */
static void
begin_chosen(Batch *b)
{
	Uring	   *u = b->uring;

	for (int32_t i = 0; i < u->chosen_count; i++)
	{
		int32_t		id = u->chosen[i];
		Conn	   *c = &b->conns[id];
		Sqe		   *sqe;

		if (c->stream != CHOSEN)
			continue;
		c->stream = NOT_STREAMED;
		if (c->state != OPEN || c->tls != NULL || c->paused)
			continue;
		c->stream = STREAMED;
		c->serial = u->serial = (u->serial + 1) & SERIALS;
		conn_watch(b, id);
		u->receives++;
		sqe = ring_add(u, OP_RECV, c->fd, NUMBER(OF_RECV, c->serial, id));
		sqe->ioprio = RECV_MULTISHOT | RECV_POLL_FIRST;
		sqe->flags = SQE_BUFFER_SELECT;
	}
	u->chosen_count = 0;
}

uint32_t
uring_streams(const Batch *b)
{
	return b->uring == NULL ? 0 : b->uring->serial;
}

/* Its receive is to end; what has come by then is still delivered. */
void
uring_leave(Batch *b, int32_t id)
{
	Conn	   *c = &b->conns[id];

	c->calm = 0;
	if (c->stream == CHOSEN)
		c->stream = NOT_STREAMED;
	if (c->stream != STREAMED)
		return;
	c->stream = LEAVING;
	cancel(b->uring, c->serial, id);
}

/* It is being closed: the kernel lets go of it with the next call. */
void
uring_drop(Batch *b, int32_t id)
{
	Conn	   *c = &b->conns[id];

	if (c->stream >= STREAMED)
	{
		/* The receive keeps the file, and so its place in the epoll set, a moment longer than its number. */
		if (c->watched)
			epoll_ctl(b->epoll, EPOLL_CTL_DEL, c->fd, NULL);
		cancel(b->uring, c->serial, id);
	}
	c->stream = NOT_STREAMED;
}

/* Sends the ranges that JavaScript has listed: they go with the next call. */
void
uring_send(Batch *b, int32_t count)
{
	Uring	   *u = b->uring;

	u->ranges = count;
	for (int32_t i = 0; i < count; i++)
	{
		int32_t		id = b->ops[3 * i];
		Conn	   *c = &b->conns[id];
		Sqe		   *sqe;

		if (c->sending)
		{
			u->later[u->later_count++] = i;
			continue;
		}
		if (c->state != OPEN || c->tls != NULL || c->queue_end > c->queue_at)
		{
			send_range(b, i);
			continue;
		}
		c->sending = 1;
		u->sends++;
		sqe = ring_add(u, OP_SEND, c->fd, NUMBER(OF_SEND, 0, i));
		sqe->addr = (uint64_t) (uintptr_t) (b->out + b->ops[3 * i + 1]);
		sqe->len = (uint32_t) (b->ops[3 * i + 2] - b->ops[3 * i + 1]);
		sqe->op_flags = MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL;
		sqe->flags = SQE_SKIP_SUCCESS;
	}
}

/*
 * All sends have been submitted, and so are done: what became of those that tell, and
 * those that had to be behind them.
 */
static void
sends_done(Batch *b)
{
	Uring	   *u = b->uring;
	uint32_t	tail = __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);

	for (uint32_t at = *u->cq_head; u->sends > 0 && at != tail; at++)
	{
		Cqe		   *cqe = &u->cqes[at & u->cq_mask];
		int32_t		range = (int32_t) (uint32_t) cqe->user_data;

		if (cqe->user_data >> 60 != OF_SEND)
			continue;
		cqe->user_data = NUMBER(OF_NOTHING, 0, 0);
		if (cqe->res < 0)
			errno = -cqe->res;
		send_went(b, range, cqe->res < 0 ? -1 : cqe->res);
	}
	for (int32_t i = 0; i < u->ranges; i++)
		b->conns[b->ops[3 * i]].sending = 0;
	for (int32_t i = 0; i < u->later_count; i++)
		send_range(b, u->later[i]);
	u->ranges = u->sends = u->later_count = 0;
}

/* Everything that was listed is with the kernel; nothing is waited for. */
void
uring_settle(Batch *b)
{
	begin_chosen(b);
	if (ring_pending(b->uring) == 0 && b->uring->ranges == 0)
		return;
	ring_enter(b->uring, ENTER_GETEVENTS, 0, 0);
	sends_done(b);
}

static int32_t
received(Batch *b, const Cqe *cqe, int32_t n)
{
	Uring	   *u = b->uring;
	int32_t		id = (int32_t) (uint32_t) cqe->user_data;
	uint32_t	serial = (uint32_t) (cqe->user_data >> 32) & SERIALS;
	Conn	   *c = &b->conns[id];
	uint16_t	buffer = (uint16_t) (cqe->flags >> CQE_BUFFER_SHIFT);
	bool		more = (cqe->flags & CQE_MORE) != 0;
	int32_t		start = (int32_t) (u->area + (size_t) buffer * BUFFER_STRIDE);

	if (!more)
		u->receives--;
	if (cqe->flags & CQE_BUFFER)
		u->held[u->held_count++] = buffer;
	if (c->stream < STREAMED || c->serial != serial)
	{
		/* Its connection has gone. */
		if (more)
			cancel(u, serial, id);
		return n;
	}
	if (!more)
		c->stream = NOT_STREAMED;
	if (cqe->res > 0 && c->state == OPEN)
	{
		n = put_event(b, n, EV_DATA, id, start, start + cqe->res);
		if (cqe->res == BUFFER_BYTES)
			uring_leave(b, id);
	}
	else if (c->state == OPEN &&
			 (cqe->res == 0 || (cqe->res < 0 && cqe->res != -ECANCELED && cqe->res != -ENOBUFS &&
								cqe->res != -EAGAIN && cqe->res != -EINTR)))
	{
		conn_drop(b, id, true);
		return put_event(b, n, EV_CLOSED, id, -cqe->res, 0);
	}
	if (!more)
		conn_watch(b, id);		/* epoll tells what is there by now */
	return n;
}

/* What has come for connections; what there is no room for waits for the next turn. */
static int32_t
take_completions(Batch *b, int32_t n)
{
	Uring	   *u = b->uring;
	uint32_t	at = *u->cq_head;
	uint32_t	tail = __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);

	for (; at != tail && (size_t) n + MAX_ACCEPTS + 4 < b->events_size; at++)
	{
		const Cqe  *cqe = &u->cqes[at & u->cq_mask];
		int32_t		id = (int32_t) (uint32_t) cqe->user_data;
		uint32_t	serial = (uint32_t) (cqe->user_data >> 32) & SERIALS;

		switch (cqe->user_data >> 60)
		{
			case OF_RECV:
				n = received(b, cqe, n);
				break;
			case OF_CANCEL:
				/* It was not to be found just then: as long as it goes on it is asked again to end. */
				if (b->conns[id].stream == LEAVING && b->conns[id].serial == serial)
					cancel(u, serial, id);
				break;
			case OF_EPOLL:
				u->watching = false;
				u->ready = true;
				break;
			default:
				break;
		}
	}
	__atomic_store_n(u->cq_head, at, __ATOMIC_RELEASE);
	return n;
}

/*
 * Sends, and waits until there is something, no longer than that (-1: for ever).  What
 * epoll's set has is in `ready`, `*count` of it.
 */
int32_t
uring_wait(Batch *b, int timeout_ms, struct epoll_event *ready, int *count, bool *something)
{
	Uring	   *u = b->uring;
	bool		wait = b->again_count == 0 && timeout_ms != 0;
	int32_t		n;

	ring_give_back(u, b->in + u->area);
	begin_chosen(b);
	if (!u->watching)
	{
		Sqe		   *sqe = ring_add(u, OP_POLL_ADD, b->epoll, NUMBER(OF_EPOLL, 0, 0));

		sqe->op_flags = EPOLLIN;
		u->watching = true;
	}
	if (u->later_count > 0)
		uring_settle(b);		/* these must not wait */
	ring_enter(u, ENTER_GETEVENTS, wait ? 1 : 0, timeout_ms);
	sends_done(b);

	conn_free_dead(b);
	b->in_used = 0;
	*something = *u->cq_head != __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);
	n = take_completions(b, 0);
	*count = u->ready ? epoll_wait(b->epoll, ready, MAX_EVENTS, 0) : 0;
	u->ready = false;
	return n;
}
