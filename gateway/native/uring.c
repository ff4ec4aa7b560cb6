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
 *	 its descriptor.	 It ends with a completion that has no CQE_MORE, and until then the
 *	 connection isn't read in any other way.  Who doesn't want it any more cancels it.
 * - Completions say whose they are by a number that isn't given twice: what comes for a
 *	 connection that has gone is thrown away.
 */
#define _GNU_SOURCE
#include "batch.h"
#include "uring-min.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SQ_ENTRIES 1024
#define CQ_ENTRIES 8192
#define BUFFERS 256
/* One that is filled is the sign of a large result, which larger receives serve better. */
#define BUFFER_BYTES 4096
/* Not a power of two: their beginnings, of which most is used, share the sets of a cache. */
#define BUFFER_STRIDE (BUFFER_BYTES + 64)
#define AREA_BYTES ((size_t) BUFFERS * BUFFER_STRIDE)
/* So many small pieces in a row, and a connection is streamed. */
#define CALM 8

/* What a completion is of, in the highest bits of its number */
enum
{
	OF_NOTHING = 0, OF_SEND, OF_RECV, OF_CANCEL, OF_EPOLL
};
#define NUMBER(kind, serial, id) ((uint64_t) (kind) << 60 | (uint64_t) (serial) << 32 | (uint32_t) (id))
#define SERIALS ((1u << 28) - 1)

struct Uring
{
	int			fd;
	int			enter_fd;
	uint32_t	enter_flags;
	char	   *rings;			/* both queues */
	size_t		rings_size;
	uint32_t   *sq_head,
			   *sq_tail,
			   *cq_head,
			   *cq_tail;
	uint32_t	sq_mask,
				cq_mask,
				sq_entries;
	uint32_t	tail;			/* ours, of the submission queue */
	Sqe		   *sqes;
	Cqe		   *cqes;
	UringBuffer *buffers;
	uint16_t	buffers_tail;
	size_t		area;			/* where the buffers begin in the input */
	uint16_t	held[BUFFERS];	/* JavaScript is looking at them */
	int32_t		held_count;
	uint32_t	serial;
	bool		watching;		/* the epoll set */
	bool		ready;			/* it has something */
	int32_t		ranges;			/* of the batch of sends */
	int32_t		sends;			/* of these in the queue */
	int32_t    *later;			/* ranges behind another one of the same connection */
	int32_t		later_count;
	int32_t    *chosen;			/* connections that are to be streamed */
	int32_t		chosen_count;
};

static uint32_t
pending(const Uring *u)
{
	return u->tail - __atomic_load_n(u->sq_head, __ATOMIC_ACQUIRE);
}

/* Submits all that is in the queue; with ENTER_GETEVENTS what is done is completed, `wait`: at least one, if it comes in time. */
static void
enter(Uring *u, uint32_t flags, uint32_t wait, int timeout_ms)
{
	UringTime	time = {.seconds = timeout_ms / 1000,.nanoseconds = (int64_t) (timeout_ms % 1000) * 1000000};
	UringWait	how = {.time = timeout_ms > 0 ? (uint64_t) (uintptr_t) &time : 0};

	__atomic_store_n(u->sq_tail, u->tail, __ATOMIC_RELEASE);
	do
	{
		long		result = syscall(SYS_URING_ENTER, u->enter_fd, pending(u), wait,
									 flags | ENTER_EXT_ARG | u->enter_flags, &how, sizeof how);

		/* Where completions might have been lost nobody knows any more what was sent. */
		if (result < 0 && errno != ETIME && errno != EINTR && errno != EAGAIN && errno != EBUSY)
			abort();
	} while (pending(u) > 0);
}

static Sqe *
add_sqe(Uring *u, uint8_t opcode, int fd, uint64_t number)
{
	Sqe		   *sqe;

	if (pending(u) == u->sq_entries)
		enter(u, 0, 0, 0);
	sqe = &u->sqes[u->tail++ & u->sq_mask];
	memset(sqe, 0, sizeof *sqe);
	sqe->opcode = opcode;
	sqe->fd = fd;
	sqe->user_data = number;
	return sqe;
}

static void
cancel(Uring *u, uint32_t serial, int32_t id)
{
	Sqe		   *sqe = add_sqe(u, OP_ASYNC_CANCEL, -1, NUMBER(OF_CANCEL, serial, id));

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
	if (c->calm < CALM)
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
		sqe = add_sqe(u, OP_RECV, c->fd, NUMBER(OF_RECV, c->serial, id));
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
		sqe = add_sqe(u, OP_SEND, c->fd, NUMBER(OF_SEND, 0, i));
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
	if (pending(b->uring) == 0 && b->uring->ranges == 0)
		return;
	enter(b->uring, ENTER_GETEVENTS, 0, 0);
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

/* The kernel may have the buffers again that JavaScript has looked at. */
static void
give_back(Uring *u, char *area)
{
	for (int32_t i = 0; i < u->held_count; i++)
	{
		UringBuffer *buffer = &u->buffers[u->buffers_tail++ & (BUFFERS - 1)];

		buffer->addr = (uint64_t) (uintptr_t) (area + (size_t) u->held[i] * BUFFER_STRIDE);
		buffer->len = BUFFER_BYTES;
		buffer->bid = u->held[i];
	}
	if (u->held_count > 0)
		__atomic_store_n(&u->buffers[0].tail, u->buffers_tail, __ATOMIC_RELEASE);
	u->held_count = 0;
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

	give_back(u, b->in + u->area);
	begin_chosen(b);
	if (!u->watching)
	{
		Sqe		   *sqe = add_sqe(u, OP_POLL_ADD, b->epoll, NUMBER(OF_EPOLL, 0, 0));

		sqe->op_flags = EPOLLIN;
		u->watching = true;
	}
	if (u->later_count > 0)
		uring_settle(b);		/* these must not wait */
	enter(u, ENTER_GETEVENTS, wait ? 1 : 0, timeout_ms);
	sends_done(b);

	conn_free_dead(b);
	b->in_used = 0;
	*something = *u->cq_head != __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE);
	n = take_completions(b, 0);
	*count = u->ready ? epoll_wait(b->epoll, ready, MAX_EVENTS, 0) : 0;
	u->ready = false;
	return n;
}

static bool
map_rings(Uring *u, const UringParams *p)
{
	size_t		sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
	size_t		cq = p->cq_off.cqes + p->cq_entries * sizeof(Cqe);
	uint32_t   *places;
	void	   *sqes;

	u->rings_size = sq > cq ? sq : cq;
	u->rings = mmap(NULL, u->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, OFFSET_SQ_RING);
	if (u->rings == MAP_FAILED)
	{
		u->rings = NULL;
		return false;
	}
	sqes = mmap(NULL, p->sq_entries * sizeof(Sqe), PROT_READ | PROT_WRITE, MAP_SHARED, u->fd, OFFSET_SQES);
	if (sqes == MAP_FAILED)
		return false;
	u->sqes = sqes;
	u->sq_entries = p->sq_entries;
	u->sq_head = (uint32_t *) (u->rings + p->sq_off.head);
	u->sq_tail = (uint32_t *) (u->rings + p->sq_off.tail);
	u->sq_mask = *(uint32_t *) (u->rings + p->sq_off.ring_mask);
	u->cq_head = (uint32_t *) (u->rings + p->cq_off.head);
	u->cq_tail = (uint32_t *) (u->rings + p->cq_off.tail);
	u->cq_mask = *(uint32_t *) (u->rings + p->cq_off.ring_mask);
	u->cqes = (Cqe *) (u->rings + p->cq_off.cqes);
	places = (uint32_t *) (u->rings + p->sq_off.array);
	for (uint32_t i = 0; i < p->sq_entries; i++)
		places[i] = i;
	return true;
}

static bool
register_buffers(Uring *u, char *area)
{
	UringBufferRing ring = {.ring_entries = BUFFERS};
	void	   *buffers = mmap(NULL, BUFFERS * sizeof(UringBuffer), PROT_READ | PROT_WRITE,
							   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (buffers == MAP_FAILED)
		return false;
	u->buffers = buffers;
	ring.ring_addr = (uint64_t) (uintptr_t) buffers;
	if (syscall(SYS_URING_REGISTER, u->fd, REGISTER_BUFFERS, &ring, 1) != 0)
		return false;
	for (uint16_t i = 0; i < BUFFERS; i++)
		u->held[u->held_count++] = i;
	give_back(u, area);
	return true;
}

/* Saves the look-up of the descriptor at each call; not having it is no loss. */
static void
register_self(Uring *u)
{
	UringUpdate self = {.offset = UINT32_MAX,.data = (uint64_t) u->fd};

	u->enter_fd = u->fd;
	if (syscall(SYS_URING_REGISTER, u->fd, REGISTER_RING_FDS, &self, 1) != 1)
		return;
	u->enter_fd = (int) self.offset;
	u->enter_flags = ENTER_REGISTERED_RING;
}

void
uring_stop(Batch *b)
{
	Uring	   *u = b->uring;

	b->uring = NULL;
	if (u == NULL)
		return;
	if (u->fd >= 0)
		close(u->fd);
	if (u->sqes != NULL)
		munmap(u->sqes, u->sq_entries * sizeof(Sqe));
	if (u->rings != NULL)
		munmap(u->rings, u->rings_size);
	if (u->buffers != NULL)
		munmap(u->buffers, BUFFERS * sizeof(UringBuffer));
	free(u->later);
	free(u->chosen);
	free(u);
}

/*
 * The last part of the input area becomes the buffers.  False: this kernel, or what
 * guards it, doesn't offer what is wanted.  All of it is there since 6.1; the last feature,
 * which isn't used, keeps kernels before 6.12 out, whose receives were mended several times.
 */
bool
uring_start(Batch *b, size_t most_ranges)
{
	const uint32_t wanted = FEAT_SINGLE_MMAP | FEAT_NODROP | FEAT_EXT_ARG | FEAT_CQE_SKIP | FEAT_MIN_TIMEOUT;
	UringParams p = {.flags = SETUP_CQSIZE | SETUP_SUBMIT_ALL | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN};
	Uring	   *u = calloc(1, sizeof *u);

	if (u == NULL || b->in_size < 2 * AREA_BYTES)
	{
		free(u);
		return false;
	}
	p.cq_entries = CQ_ENTRIES;
	u->fd = (int) syscall(SYS_URING_SETUP, SQ_ENTRIES, &p);
	u->area = b->in_size - AREA_BYTES;
	u->later = calloc(most_ranges, sizeof(int32_t));
	u->chosen = calloc((size_t) b->most, sizeof(int32_t));
	b->uring = u;
	if (u->fd < 0 || u->later == NULL || u->chosen == NULL || (p.features & wanted) != wanted ||
		!map_rings(u, &p) || !register_buffers(u, b->in + u->area))
	{
		uring_stop(b);
		return false;
	}
	register_self(u);
	b->in_size = u->area;
	return true;
}
