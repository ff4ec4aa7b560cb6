/*
 * ring.c
 *		The queues that io_uring's kernel side and ours share: made, filled, submitted.
 */
#define _GNU_SOURCE
#include "uring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

uint32_t
ring_pending(const Uring *u)
{
	return u->tail - __atomic_load_n(u->sq_head, __ATOMIC_ACQUIRE);
}

/* Submits all that is in the queue; with ENTER_GETEVENTS what is done is completed, `wait`: at least one, if it comes in time. */
void
ring_enter(Uring *u, uint32_t flags, uint32_t wait, int timeout_ms)
{
	UringTime	time = {.seconds = timeout_ms / 1000,.nanoseconds = (int64_t) (timeout_ms % 1000) * 1000000};
	UringWait	how = {.time = timeout_ms > 0 ? (uint64_t) (uintptr_t) &time : 0};

	__atomic_store_n(u->sq_tail, u->tail, __ATOMIC_RELEASE);
	do
	{
		long		result = syscall(SYS_URING_ENTER, u->enter_fd, ring_pending(u), wait,
									 flags | ENTER_EXT_ARG | u->enter_flags, &how, sizeof how);

		/* Where completions might have been lost nobody knows any more what was sent. */
		if (result < 0 && errno != ETIME && errno != EINTR && errno != EAGAIN && errno != EBUSY)
			abort();
	} while (ring_pending(u) > 0);
}

Sqe *
ring_add(Uring *u, uint8_t opcode, int fd, uint64_t number)
{
	Sqe		   *sqe;

	if (ring_pending(u) == u->sq_entries)
		ring_enter(u, 0, 0, 0);
	sqe = &u->sqes[u->tail++ & u->sq_mask];
	memset(sqe, 0, sizeof *sqe);
	sqe->opcode = opcode;
	sqe->fd = fd;
	sqe->user_data = number;
	return sqe;
}

/* The kernel may have the buffers again that JavaScript has looked at. */
void
ring_give_back(Uring *u, char *area)
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
	ring_give_back(u, area);
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
