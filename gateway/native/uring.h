/*
 * uring.h
 *		The ring itself, for uring.c, which says what is done with it, and ring.c.
 */
#ifndef URING_H
#define URING_H

#include "batch.h"
#include "uring-min.h"

#define SQ_ENTRIES 1024
/*
 * Completions that find no room wait in the kernel, where sends_done() doesn't see what
 * became of a send.  So there is room for all that can come in one turn: the end of each
 * receive, twice an answer about its cancellation, all buffers, and the sends.
 */
#define CQ_ENTRIES 16384
#define MOST_RECEIVES 4096
#define BUFFERS 256
/* One that is filled is the sign of a large result, which larger receives serve better. */
#define BUFFER_BYTES 4096
/* Not a power of two: their beginnings, which are used most, would share the sets of a cache. */
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
	int32_t		receives;		/* in the kernel's hands */
};

/* ring.c */
extern uint32_t ring_pending(const Uring *u);
extern void ring_enter(Uring *u, uint32_t flags, uint32_t wait, int timeout_ms);
extern Sqe *ring_add(Uring *u, uint8_t opcode, int fd, uint64_t number);
extern void ring_give_back(Uring *u, char *area);

#endif
