/*
 * batch.c
 *		Batched socket I/O for the gateway: one call per turn of the loop.
 *
 * A Node process pays one crossing from C++ to JavaScript per socket event and one
 * back per write; this addon pays one of each per turn.  It knows nothing of the
 * protocol: bytes in, bytes out, connections by number.
 *
 * All descriptors are in one epoll set, which libuv watches (uv_poll).  When it has
 * something, JavaScript is called once; it calls turn(), which first sends what
 * JavaScript has put into the output area (a list of ranges), then takes what epoll
 * has and receives into the input area, filling a list of events.  What a socket
 * doesn't take is kept here, and its size is published in an array that JavaScript
 * reads for back-pressure.
 *
 * One instance per JavaScript thread; nothing is shared between threads.  A number
 * is not given out again before the next turn, so that an event of the turn in which
 * a connection was closed can't be taken for one of its successor.
 */
#define _GNU_SOURCE
#include "napi-min.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { EV_ACCEPT = 1, EV_CONNECTED, EV_DATA, EV_DRAIN, EV_CLOSED };
enum { FREE = 0, LISTENING, CONNECTING, OPEN, CLOSING, DEAD };

#define MAX_EVENTS 256
#define MAX_ACCEPTS 32
#define RECV_BYTES (64 * 1024)
#define LEAST_ROOM (16 * 1024)
#define HIGH_MARK (256 * 1024)

typedef struct
{
	int			fd;
	uint8_t		state;
	uint8_t		paused;
	uint8_t		high;			/* more than HIGH_MARK was queued: tell when it's gone */
	uint32_t	interest;		/* as epoll has it */
	char	   *queue;			/* what the socket has not taken */
	size_t		queue_at,
				queue_end,
				queue_size;
} Conn;

typedef struct
{
	napi_env	env;
	napi_ref	wake;
	napi_async_context context;
	void	   *poll;
	int			epoll;
	char	   *in;
	size_t		in_size;
	char	   *out;
	int32_t    *ops;			/* id, start, end */
	int32_t    *events;			/* kind, id, start or errno, end */
	size_t		events_size;	/* in events */
	uint32_t   *queued;
	int32_t		most;
	Conn	   *conns;
	int32_t    *free_ids;
	int32_t		free_count;
	int32_t    *dying;
	int32_t		dying_count;
	int32_t		used;
} Batch;

static void
watch(Batch *b, int32_t id, uint32_t interest)
{
	Conn	   *c = &b->conns[id];
	struct epoll_event e = {.events = interest,.data.u32 = (uint32_t) id};

	if (c->interest == interest)
		return;
	c->interest = interest;
	epoll_ctl(b->epoll, EPOLL_CTL_MOD, c->fd, &e);
}

static uint32_t
wanted(Conn *c)
{
	/* Of a paused connection, too, it must be known that its peer has gone. */
	uint32_t	interest = c->paused ? EPOLLRDHUP : EPOLLIN;

	if (c->queue_end > c->queue_at || c->state == CONNECTING)
		interest |= EPOLLOUT;
	return interest;
}

static int32_t
add(Batch *b, int fd, uint8_t state, uint32_t interest)
{
	struct epoll_event e = {.events = interest};
	int32_t		id;
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
	memset(c, 0, sizeof *c);
	c->fd = fd;
	c->state = state;
	c->interest = interest;
	b->queued[id] = 0;
	return id;
}

/* The number is free from the next turn on. */
static void
drop(Batch *b, int32_t id, bool close_fd)
{
	Conn	   *c = &b->conns[id];

	if (c->state == FREE || c->state == DEAD)
		return;
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

static void
enqueue(Batch *b, int32_t id, const char *bytes, size_t length)
{
	Conn	   *c = &b->conns[id];

	if (c->queue_at > 0 && c->queue_at == c->queue_end)
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
	watch(b, id, wanted(c));
}

/* Sends the ranges that JavaScript has listed. */
static void
send_all(Batch *b, int32_t count)
{
	for (int32_t i = 0; i < count; i++)
	{
		int32_t		id = b->ops[3 * i];
		const char *bytes = b->out + b->ops[3 * i + 1];
		size_t		length = (size_t) (b->ops[3 * i + 2] - b->ops[3 * i + 1]);
		Conn	   *c = &b->conns[id];
		ssize_t		sent = 0;

		if (c->state != OPEN && c->state != CONNECTING)
			continue;
		if (c->state == OPEN && c->queue_end == c->queue_at)
		{
			sent = send(c->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (sent < 0)
			{
				if (errno != EAGAIN && errno != EINTR)
				{
					c->paused = 0;	/* the read side will tell */
					watch(b, id, wanted(c));
					continue;
				}
				sent = 0;
			}
		}
		if ((size_t) sent < length)
			enqueue(b, id, bytes + sent, length - (size_t) sent);
	}
}

static int32_t
put(Batch *b, int32_t n, int32_t kind, int32_t id, int32_t start, int32_t end)
{
	int32_t    *e = b->events + 4 * n;

	e[0] = kind;
	e[1] = id;
	e[2] = start;
	e[3] = end;
	return n + 1;
}

static int32_t
accept_some(Batch *b, int listener, int32_t n)
{
	for (int i = 0; i < MAX_ACCEPTS && (size_t) n < b->events_size; i++)
	{
		int			one = 1;
		int32_t		id;
		int			fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			break;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		id = add(b, fd, OPEN, EPOLLIN);
		if (id < 0)
			close(fd);
		else
			n = put(b, n, EV_ACCEPT, id, 0, 0);
	}
	return n;
}

static int32_t
flush_queue(Batch *b, int32_t id, int32_t n)
{
	Conn	   *c = &b->conns[id];

	while (c->queue_at < c->queue_end)
	{
		ssize_t		sent = send(c->fd, c->queue + c->queue_at, c->queue_end - c->queue_at,
								MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0)
		{
			if (errno == EAGAIN || errno == EINTR)
				break;
			c->queue_at = c->queue_end; /* the read side will tell */
			c->paused = 0;
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
		drop(b, id, true);
		return put(b, n, EV_CLOSED, id, 0, 0);
	}
	watch(b, id, wanted(c));
	if (c->high)
	{
		c->high = 0;
		n = put(b, n, EV_DRAIN, id, 0, 0);
	}
	return n;
}

/* turn(number of ranges to send, wait in ms) -> number of events */
static int32_t
turn(Batch *b, int32_t sends, int32_t wait_ms)
{
	struct epoll_event ready[MAX_EVENTS];
	size_t		at = 0;
	int32_t		n = 0;
	int			count;

	send_all(b, sends);
	while (b->dying_count > 0)
	{
		int32_t		id = b->dying[--b->dying_count];

		b->conns[id].state = FREE;
		b->free_ids[b->free_count++] = id;
	}
	count = epoll_wait(b->epoll, ready, MAX_EVENTS, wait_ms);
	for (int i = 0; i < count && (size_t) n + MAX_ACCEPTS + 4 < b->events_size; i++)
	{
		int32_t		id = (int32_t) ready[i].data.u32;
		uint32_t	what = ready[i].events;
		Conn	   *c = &b->conns[id];

		if (c->state == LISTENING)
		{
			n = accept_some(b, c->fd, n);
			continue;
		}
		if (c->state == CONNECTING)
		{
			int			error = 0;
			socklen_t	size = sizeof error;

			getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
			if (error != 0)
			{
				drop(b, id, true);
				n = put(b, n, EV_CLOSED, id, error, 0);
				continue;
			}
			c->state = OPEN;
			n = put(b, n, EV_CONNECTED, id, 0, 0);
			n = flush_queue(b, id, n);
			watch(b, id, wanted(c));
			continue;
		}
		if (c->state != OPEN && c->state != CLOSING)
			continue;
		if (what & EPOLLOUT)
			n = flush_queue(b, id, n);
		if (c->state == CLOSING && (what & (EPOLLHUP | EPOLLERR)))
		{
			drop(b, id, true);
			n = put(b, n, EV_CLOSED, id, 0, 0);
			continue;
		}
		if (c->state == OPEN && (what & EPOLLRDHUP) && c->paused)
		{
			c->paused = 0;
			watch(b, id, wanted(c));
		}
		if (c->state == OPEN && (what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		{
			size_t		room = b->in_size - at;
			ssize_t		got;

			if (room < LEAST_ROOM)
				break;			/* the rest stays ready for the next turn */
			got = recv(c->fd, b->in + at, room < RECV_BYTES ? room : RECV_BYTES, MSG_DONTWAIT);
			if (got > 0)
			{
				n = put(b, n, EV_DATA, id, (int32_t) at, (int32_t) (at + (size_t) got));
				at += (size_t) got;
			}
			else if (got == 0 || (errno != EAGAIN && errno != EINTR))
			{
				int			error = got == 0 ? 0 : errno;

				drop(b, id, true);
				n = put(b, n, EV_CLOSED, id, error, 0);
			}
		}
	}
	return n;
}

/* --- what JavaScript calls */

static Batch *
batch_of(napi_env env)
{
	Batch	   *b = NULL;

	napi_get_instance_data(env, (void **) &b);
	return b;
}

static void
arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values)
{
	napi_get_cb_info(env, info, &count, values, NULL, NULL);
}

static int32_t
integer(napi_env env, napi_value value)
{
	int32_t		result = 0;

	napi_get_value_int32(env, value, &result);
	return result;
}

static napi_value
number(napi_env env, int32_t value)
{
	napi_value	result;

	napi_create_int32(env, value, &result);
	return result;
}

static napi_value
fail(napi_env env, const char *what)
{
	char		text[400];

	snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
	napi_throw_error(env, NULL, text);
	return NULL;
}

static void
on_ready(void *handle, int status, int events)
{
	Batch	   *b = uv_handle_get_data(handle);
	napi_handle_scope scope;
	napi_value	wake,
				receiver;

	(void) status;
	(void) events;
	napi_open_handle_scope(b->env, &scope);
	napi_get_reference_value(b->env, b->wake, &wake);
	napi_get_undefined(b->env, &receiver);
	napi_make_callback(b->env, b->context, wake, wake, 0, NULL, NULL);
	napi_close_handle_scope(b->env, scope);
}

static void
closed_poll(void *handle)
{
	free(handle);
}

static void
clean_up(void *arg)
{
	Batch	   *b = arg;

	if (b->poll != NULL)
	{
		uv_poll_stop(b->poll);
		uv_close(b->poll, closed_poll);
		b->poll = NULL;
	}
	for (int32_t id = 0; id < b->used; id++)
		drop(b, id, true);
	close(b->epoll);
}

/* start(wake, in, out, ops, events, queued) */
static napi_value
js_start(napi_env env, napi_callback_info info)
{
	napi_value	args[6],
				name;
	Batch	   *b = calloc(1, sizeof *b);
	void	   *loop;
	size_t		size;

	arguments(env, info, 6, args);
	b->env = env;
	napi_create_reference(env, args[0], 1, &b->wake);
	napi_get_arraybuffer_info(env, args[1], (void **) &b->in, &b->in_size);
	napi_get_arraybuffer_info(env, args[2], (void **) &b->out, &size);
	napi_get_arraybuffer_info(env, args[3], (void **) &b->ops, &size);
	napi_get_arraybuffer_info(env, args[4], (void **) &b->events, &size);
	b->events_size = size / 16;
	napi_get_arraybuffer_info(env, args[5], (void **) &b->queued, &size);
	b->most = (int32_t) (size / 4);
	b->conns = calloc((size_t) b->most, sizeof(Conn));
	b->free_ids = calloc((size_t) b->most, sizeof(int32_t));
	b->dying = calloc((size_t) b->most, sizeof(int32_t));
	b->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (b->epoll < 0 || b->conns == NULL || b->free_ids == NULL || b->dying == NULL)
		return fail(env, "could not start");
	napi_create_string_utf8(env, "quorate-batch", 13, &name);
	napi_async_init(env, NULL, name, &b->context);
	napi_get_uv_event_loop(env, &loop);
	b->poll = calloc(1, uv_handle_size(UV_POLL_TYPE));
	if (uv_poll_init(loop, b->poll, b->epoll) != 0)
		return fail(env, "could not watch the epoll set");
	uv_handle_set_data(b->poll, b);
	uv_poll_start(b->poll, UV_READABLE_EVENT, on_ready);
	uv_unref(b->poll);
	napi_set_instance_data(env, b, NULL, NULL);
	napi_add_env_cleanup_hook(env, clean_up, b);
	return NULL;
}

static napi_value
js_turn(napi_env env, napi_callback_info info)
{
	napi_value	args[2];

	arguments(env, info, 2, args);
	return number(env, turn(batch_of(env), integer(env, args[0]), integer(env, args[1])));
}

static napi_value
js_send(napi_env env, napi_callback_info info)
{
	napi_value	args[1];

	arguments(env, info, 1, args);
	send_all(batch_of(env), integer(env, args[0]));
	return NULL;
}

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
			return -1;
		strcpy(local->sun_path, host);
		*size = sizeof *local;
		return 0;
	}
	snprintf(service, sizeof service, "%d", port);
	if (getaddrinfo(host, service, &hints, &found) != 0)
		return -1;
	memcpy(address, found->ai_addr, found->ai_addrlen);
	*size = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

/* listen(numeric host, port, backlog, reuse port) -> id */
static napi_value
js_listen(napi_env env, napi_callback_info info)
{
	napi_value	args[4];
	char		host[256];
	struct sockaddr_storage address;
	socklen_t	size;
	int			fd,
				one = 1;

	arguments(env, info, 4, args);
	napi_get_value_string_utf8(env, args[0], host, sizeof host, NULL);
	errno = EINVAL;
	if (address_of(host, integer(env, args[1]), &address, &size) != 0)
		return fail(env, host);
	fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fail(env, host);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (integer(env, args[3]))
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
	if (bind(fd, (struct sockaddr *) &address, size) != 0 || listen(fd, integer(env, args[2])) != 0)
	{
		int			error = errno;

		close(fd);
		errno = error;
		return fail(env, host);
	}
	return number(env, add(batch_of(env), fd, LISTENING, EPOLLIN));
}

/* The port that a listener or connection has. */
static napi_value
js_port(napi_env env, napi_callback_info info)
{
	napi_value	args[1];
	struct sockaddr_storage address = {0};
	socklen_t	size = sizeof address;

	arguments(env, info, 1, args);
	getsockname(batch_of(env)->conns[integer(env, args[0])].fd, (struct sockaddr *) &address, &size);
	if (address.ss_family == AF_INET6)
		return number(env, ntohs(((struct sockaddr_in6 *) &address)->sin6_port));
	return number(env, ntohs(((struct sockaddr_in *) &address)->sin_port));
}

/* connect(numeric host or path, port) -> id, or -errno */
static napi_value
js_connect(napi_env env, napi_callback_info info)
{
	napi_value	args[2];
	char		host[256];
	struct sockaddr_storage address;
	socklen_t	size;
	int			fd,
				one = 1;
	int32_t		id;

	arguments(env, info, 2, args);
	napi_get_value_string_utf8(env, args[0], host, sizeof host, NULL);
	if (address_of(host, integer(env, args[1]), &address, &size) != 0)
		return number(env, -EINVAL);
	fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return number(env, -errno);
	if (address.ss_family != AF_UNIX)
	{
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	}
	if (connect(fd, (struct sockaddr *) &address, size) != 0 && errno != EINPROGRESS)
	{
		int			error = errno;

		close(fd);
		return number(env, -error);
	}
	id = add(batch_of(env), fd, CONNECTING, EPOLLOUT);
	if (id < 0)
	{
		close(fd);
		return number(env, -EMFILE);
	}
	return number(env, id);
}

static napi_value
js_pause(napi_env env, napi_callback_info info)
{
	napi_value	args[2];
	Batch	   *b = batch_of(env);
	Conn	   *c;
	int32_t		id;

	arguments(env, info, 2, args);
	id = integer(env, args[0]);
	c = &b->conns[id];
	c->paused = (uint8_t) integer(env, args[1]);
	if (c->state == OPEN || c->state == CLOSING)
		watch(b, id, wanted(c));
	return NULL;
}

/* close(id, at once) -> 1 if it is closed now, 0 if an event will tell */
static napi_value
js_close(napi_env env, napi_callback_info info)
{
	napi_value	args[2];
	Batch	   *b = batch_of(env);
	Conn	   *c;
	int32_t		id;

	arguments(env, info, 2, args);
	id = integer(env, args[0]);
	c = &b->conns[id];
	if (!integer(env, args[1]) && c->state == OPEN && c->queue_end > c->queue_at)
	{
		c->state = CLOSING;
		c->paused = 1;
		watch(b, id, wanted(c));
		return number(env, 0);
	}
	drop(b, id, true);
	return number(env, 1);
}

/* The descriptor, which is the caller's from now on. */
static napi_value
js_release(napi_env env, napi_callback_info info)
{
	napi_value	args[1];
	Batch	   *b = batch_of(env);
	int32_t		id;
	int			fd;

	arguments(env, info, 1, args);
	id = integer(env, args[0]);
	fd = b->conns[id].fd;
	drop(b, id, false);
	return number(env, fd);
}

static napi_value
js_peer(napi_env env, napi_callback_info info)
{
	napi_value	args[1],
				result;
	struct sockaddr_storage address = {0};
	socklen_t	size = sizeof address;
	char		host[INET6_ADDRSTRLEN] = "local",
				text[INET6_ADDRSTRLEN + 16];

	arguments(env, info, 1, args);
	getpeername(batch_of(env)->conns[integer(env, args[0])].fd, (struct sockaddr *) &address, &size);
	if (address.ss_family == AF_INET)
	{
		struct sockaddr_in *in = (struct sockaddr_in *) &address;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
		snprintf(text, sizeof text, "%s:%d", host, ntohs(in->sin_port));
	}
	else if (address.ss_family == AF_INET6)
	{
		struct sockaddr_in6 *in = (struct sockaddr_in6 *) &address;

		inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
		snprintf(text, sizeof text, "[%s]:%d", host, ntohs(in->sin6_port));
	}
	else
		snprintf(text, sizeof text, "local");
	napi_create_string_utf8(env, text, strlen(text), &result);
	return result;
}

/* The loop stays alive as long as this is on. */
static napi_value
js_hold(napi_env env, napi_callback_info info)
{
	napi_value	args[1];
	Batch	   *b = batch_of(env);

	arguments(env, info, 1, args);
	if (b->poll != NULL)
	{
		if (integer(env, args[0]))
			uv_ref(b->poll);
		else
			uv_unref(b->poll);
	}
	return NULL;
}

__attribute__((visibility("default")))
napi_value
napi_register_module_v1(napi_env env, napi_value exports)
{
	static const struct
	{
		const char *name;
		napi_callback function;
	}			functions[] = {
		{"start", js_start}, {"turn", js_turn}, {"send", js_send}, {"listen", js_listen},
		{"port", js_port}, {"connect", js_connect}, {"pause", js_pause}, {"close", js_close},
		{"release", js_release}, {"peer", js_peer}, {"hold", js_hold},
	};

	for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
	{
		napi_value	function;

		napi_create_function(env, functions[i].name, (size_t) -1, functions[i].function, NULL, &function);
		napi_set_named_property(env, exports, functions[i].name, function);
	}
	return exports;
}

__attribute__((visibility("default")))
int32_t
node_api_module_get_api_version_v1(void)
{
	return 8;
}
