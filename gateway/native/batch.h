/*
 * batch.h
 *		What the files of the addon share: the table of connections and what is done with them.
 */
#ifndef BATCH_H
#define BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "napi-min.h"

/* Kinds of events, as native-transport.ts has them. */
enum
{
	EV_ACCEPT = 1, EV_CONNECTED, EV_DATA, EV_DRAIN, EV_CLOSED, EV_SECURE
};

enum
{
	FREE = 0, LISTENING, CONNECTING, OPEN, CLOSING, DEAD
};

/* Who receives for a connection: we, when epoll tells; soon the kernel; it; it, but is to stop. See uring.c. */
enum
{
	NOT_STREAMED = 0, CHOSEN, STREAMED, LEAVING
};

#define MAX_EVENTS 256
#define MAX_ACCEPTS 32
#define SETTLE_MS 10
#define RECV_BYTES (64 * 1024)
#define LEAST_ROOM (20 * 1024)
#define HIGH_MARK (256 * 1024)

/* In epoll's events: libuv's set, which is in ours. No connection has this number. */
#define OUTER UINT32_MAX

typedef struct Tls Tls;
typedef struct Uring Uring;

typedef struct
{
	int			fd;
	uint8_t		state;
	uint8_t		paused;
	uint8_t		high;			/* more than HIGH_MARK was queued: tell when it's gone */
	uint8_t		again;			/* is in the list of those that have more without epoll knowing it */
	uint8_t		stream;
	uint8_t		calm;			/* small pieces in a row */
	uint8_t		sending;		/* a send is in the batch */
	uint8_t		watched;		/* is in the epoll set */
	uint32_t	serial;			/* of its receive in the kernel */
	uint32_t	interest;		/* as epoll has it */
	Tls		   *tls;
	char	   *queue;			/* what the socket has not taken */
	size_t		queue_at,
				queue_end,
				queue_size;
} Conn;

typedef struct
{
	napi_env	env;
	napi_ref	wake;
	Uring	   *uring;			/* NULL: epoll for all */
	void	   *loop;
	void	   *check;			/* where the loop waits, see loop.c */
	void	   *idle;
	int			epoll;
	bool		running;
	char	   *in;				/* received bytes of a turn */
	size_t		in_size;
	size_t		in_used;
	char	   *out;			/* bytes to send */
	int32_t    *ops;			/* what of them to whom: id, start, end */
	int32_t    *events;			/* kind, id, start or errno, end */
	size_t		events_size;	/* in events */
	int32_t    *counts;			/* events for JavaScript; ranges from it, and whether it began something asynchronous */
	bool		unsettled;		/* if it was wrong about that, it waits for settle_javascript() */
	uint64_t	settled_ms;
	uint32_t   *queued;			/* per connection, read by JavaScript */
	int32_t		most;
	Conn	   *conns;
	int32_t    *free_ids;
	int32_t		free_count;
	int32_t    *dying;			/* closed in this turn: their numbers are not given out before the next */
	int32_t		dying_count;
	int32_t    *again;
	int32_t		again_count;
	int32_t		used;
} Batch;

/* connections.c */
extern int32_t conn_add(Batch *b, int fd, uint8_t state, uint32_t interest);
extern void conn_drop(Batch *b, int32_t id, bool close_fd);
extern void conn_watch(Batch *b, int32_t id);
extern void conn_read_again(Batch *b, int32_t id);
extern void conn_free_dead(Batch *b);
extern void send_range(Batch *b, int32_t range);
extern void send_ranges(Batch *b, int32_t count);
extern void send_went(Batch *b, int32_t range, ssize_t sent);
extern int32_t flush_queue(Batch *b, int32_t id, int32_t n);
extern int32_t put_event(Batch *b, int32_t n, int32_t kind, int32_t id, int32_t start, int32_t end);
extern int32_t receive(Batch *b, int32_t id, int32_t n);
extern int32_t take_ready(Batch *b, const struct epoll_event *ready, int count, int32_t n);

/* loop.c */
extern bool loop_start(Batch *b);
extern void loop_run(Batch *b, bool on);
extern void loop_stop(Batch *b);

/* uring.c */
extern bool uring_start(Batch *b, size_t most_ranges);
extern void uring_stop(Batch *b);
extern void uring_consider(Batch *b, int32_t id, size_t length);
extern void uring_leave(Batch *b, int32_t id);
extern void uring_drop(Batch *b, int32_t id);
extern void uring_send(Batch *b, int32_t count);
extern uint32_t uring_streams(const Batch *b);
extern void uring_settle(Batch *b);
extern int32_t uring_wait(Batch *b, int timeout_ms, struct epoll_event *ready, int *count, bool *something);

/* sockets.c */
extern int	socket_listen(const char *host, int port, int backlog, bool reuse_port);
extern int	socket_connect(const char *host, int port);
extern int	socket_port(int fd);
extern void socket_peer(int fd, char *text, size_t size);

/* tls.c */
extern bool tls_possible(void);
extern int32_t tls_context(const char *certificates, size_t certificates_size,
						   const char *key, size_t key_size, const char **error);
extern bool tls_begin(Conn *c, int32_t context, const void *early, size_t early_size);
extern void tls_end(Tls *tls, bool politely);
extern bool tls_handshaking(const Tls *tls);
/* 1: done, 0: wants more, -1: failed */
extern int	tls_handshake(Tls *tls);
extern bool tls_wants_write(const Tls *tls);
extern bool tls_alpn(const Tls *tls);
/* As recv and send; the first also tells whether it holds more that epoll doesn't know of. */
extern ssize_t tls_receive(Tls *tls, char *to, size_t room, bool *more);
extern ssize_t tls_send(Tls *tls, const char *bytes, size_t length);

#endif
