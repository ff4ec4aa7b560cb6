/*
 * uring-min.h
 *		The part of Linux's io_uring interface that this addon uses.
 *
 * The kernel's binary interface doesn't change, headers of distributions are often
 * older than the kernel they run on: so what is needed is declared here.
 */
#ifndef URING_MIN_H
#define URING_MIN_H

#include <stdint.h>

/* Numbers of system calls, the same on all architectures */
#define SYS_URING_SETUP 425
#define SYS_URING_ENTER 426
#define SYS_URING_REGISTER 427

typedef struct
{
	uint8_t		opcode;
	uint8_t		flags;
	uint16_t	ioprio;
	int32_t		fd;
	uint64_t	off;
	uint64_t	addr;
	uint32_t	len;
	uint32_t	op_flags;
	uint64_t	user_data;
	uint16_t	buf_group;
	uint16_t	personality;
	int32_t		file_index;
	uint64_t	unused[2];
} Sqe;

typedef struct
{
	uint64_t	user_data;
	int32_t		res;
	uint32_t	flags;
} Cqe;

typedef struct
{
	uint32_t	head,
				tail,
				ring_mask,
				ring_entries,
				flags,
				dropped,
				array,
				resv1;
	uint64_t	user_addr;
} SqOffsets;

typedef struct
{
	uint32_t	head,
				tail,
				ring_mask,
				ring_entries,
				overflow,
				cqes,
				flags,
				resv1;
	uint64_t	user_addr;
} CqOffsets;

typedef struct
{
	uint32_t	sq_entries,
				cq_entries,
				flags,
				sq_thread_cpu,
				sq_thread_idle,
				features,
				wq_fd,
				resv[3];
	SqOffsets	sq_off;
	CqOffsets	cq_off;
} UringParams;

/* A buffer for the kernel; the last field of the first one is the tail of their ring. */
typedef struct
{
	uint64_t	addr;
	uint32_t	len;
	uint16_t	bid;
	uint16_t	tail;
} UringBuffer;

typedef struct
{
	uint64_t	ring_addr;
	uint32_t	ring_entries;
	uint16_t	bgid;
	uint16_t	flags;
	uint64_t	resv[3];
} UringBufferRing;

typedef struct
{
	uint32_t	offset;
	uint32_t	resv;
	uint64_t	data;
} UringUpdate;

typedef struct
{
	int64_t		seconds;
	int64_t		nanoseconds;
} UringTime;

typedef struct
{
	uint64_t	sigmask;
	uint32_t	sigmask_size;
	uint32_t	min_wait_us;
	uint64_t	time;
} UringWait;

_Static_assert(sizeof(Sqe) == 64 && sizeof(Cqe) == 16 && sizeof(UringParams) == 120, "io_uring's layout");
_Static_assert(sizeof(UringBuffer) == 16 && sizeof(UringBufferRing) == 40 && sizeof(UringWait) == 24, "io_uring's layout");

enum
{
	SETUP_CQSIZE = 1 << 3, SETUP_SUBMIT_ALL = 1 << 7, SETUP_SINGLE_ISSUER = 1 << 12, SETUP_DEFER_TASKRUN = 1 << 13
};

enum
{
	FEAT_SINGLE_MMAP = 1 << 0, FEAT_NODROP = 1 << 1, FEAT_EXT_ARG = 1 << 8, FEAT_CQE_SKIP = 1 << 11,
	FEAT_MIN_TIMEOUT = 1 << 15
};

enum
{
	ENTER_GETEVENTS = 1 << 0, ENTER_EXT_ARG = 1 << 3, ENTER_REGISTERED_RING = 1 << 4
};

enum
{
	OP_POLL_ADD = 6, OP_ASYNC_CANCEL = 14, OP_SEND = 26, OP_RECV = 27
};

enum
{
	SQE_BUFFER_SELECT = 1 << 5, SQE_SKIP_SUCCESS = 1 << 6
};

enum
{
	RECV_POLL_FIRST = 1 << 0, RECV_MULTISHOT = 1 << 1
};

enum
{
	CQE_BUFFER = 1 << 0, CQE_MORE = 1 << 1
};

#define CQE_BUFFER_SHIFT 16
#define REGISTER_RING_FDS 20
#define REGISTER_BUFFERS 22
#define OFFSET_SQ_RING UINT64_C(0)
#define OFFSET_SQES UINT64_C(0x10000000)

#endif
