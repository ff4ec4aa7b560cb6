/*
 * binding.c
 *		Batched socket I/O for the gateway: what JavaScript calls.
 *
 * A Node process pays one crossing from C++ to JavaScript per socket event and one
 * back per write; this addon pays one for all events of a turn (see loop.c).  It knows
 * nothing of the protocol: bytes in, bytes out, connections by number.  What a socket
 * doesn't take is kept here, and its size is published in an array that JavaScript
 * reads for back-pressure.
 *
 * start() gives an object of functions; each such instance is one thread's, and but for
 * TLS contexts nothing is shared between instances.
 */
#define _GNU_SOURCE
#include "batch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The arguments of a call, and the instance that it is of. */
static Batch *
arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values)
{
	void	   *b = NULL;

	napi_get_cb_info(env, info, &count, values, NULL, &b);
	return b;
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
fail(napi_env env, const char *what, const char *why)
{
	char		text[400];

	snprintf(text, sizeof text, "%s: %s", what, why);
	napi_throw_error(env, NULL, text);
	return NULL;
}

static size_t
table_size(int32_t most, size_t page)
{
	return ((size_t) most * sizeof(Conn) + page - 1) / page * page;
}

/*
 * The table of connections, zeroed, between pages that can't be touched: a number that
 * is none ends the process here and now, not on the day when nothing lies beside it.
 */
static Conn *
table_make(int32_t most)
{
	size_t		page = (size_t) sysconf(_SC_PAGESIZE);
	size_t		size = table_size(most, page);
	char	   *map = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED || mprotect(map + page, size, PROT_READ | PROT_WRITE) != 0)
		return NULL;
	return (Conn *) (map + page);
}

static void
table_free(Conn *conns, int32_t most)
{
	size_t		page = (size_t) sysconf(_SC_PAGESIZE);

	munmap((char *) conns - page, table_size(most, page) + 2 * page);
}

static void
clean_up(void *arg)
{
	Batch	   *b = arg;

	loop_stop(b);
	for (int32_t id = 0; id < b->used; id++)
		conn_drop(b, id, true);
	uring_stop(b);
	close(b->epoll);
	table_free(b->conns, b->most);
	free(b->free_ids);
	free(b->dying);
	free(b->again);
	free(b);
}

/* send(number of ranges): at once, for what is sent outside of a turn */
static napi_value
js_send(napi_env env, napi_callback_info info)
{
	napi_value	args[1];
	Batch	   *b = arguments(env, info, 1, args);

	send_ranges(b, integer(env, args[0]));
	return NULL;
}

/* The new connection of this descriptor, or -errno: its own, or EMFILE. */
static int32_t
add_fd(Batch *b, int fd, int state, uint32_t events)
{
	int32_t		id;

	if (fd < 0)
		return fd;
	id = conn_add(b, fd, state, events);
	if (id >= 0)
		return id;
	close(fd);
	return -EMFILE;
}

/* listen(numeric host, port, backlog, reuse port) -> id */
static napi_value
js_listen(napi_env env, napi_callback_info info)
{
	napi_value	args[4];
	char		host[256];
	int			fd;
	int32_t		id;
	Batch	   *b = arguments(env, info, 4, args);

	napi_get_value_string_utf8(env, args[0], host, sizeof host, NULL);
	fd = socket_listen(host, integer(env, args[1]), integer(env, args[2]), integer(env, args[3]) != 0);
	id = add_fd(b, fd, LISTENING, EPOLLIN);
	return id < 0 ? fail(env, host, strerror(-id)) : number(env, id);
}

/* The port that a listener or connection has. */
static napi_value
js_port(napi_env env, napi_callback_info info)
{
	napi_value	args[1];
	Batch	   *b = arguments(env, info, 1, args);

	return number(env, socket_port(b->conns[integer(env, args[0])].fd));
}

/* connect(numeric host or path, port) -> id, or -errno */
static napi_value
js_connect(napi_env env, napi_callback_info info)
{
	napi_value	args[2];
	char		host[256];
	int			fd;
	Batch	   *b = arguments(env, info, 2, args);

	napi_get_value_string_utf8(env, args[0], host, sizeof host, NULL);
	fd = socket_connect(host, integer(env, args[1]));
	return number(env, add_fd(b, fd, CONNECTING, EPOLLOUT));
}

/* pause(id, on) */
static napi_value
js_pause(napi_env env, napi_callback_info info)
{
	napi_value	args[2];
	Batch	   *b;
	int32_t		id;
	Conn	   *c;

	b = arguments(env, info, 2, args);
	id = integer(env, args[0]);
	c = &b->conns[id];
	c->paused = integer(env, args[1]) != 0;
	if (c->paused)
		uring_leave(b, id);
	if (c->state == OPEN)
		conn_watch(b, id);
	if (!c->paused && c->tls != NULL)
		conn_read_again(b, id);
	return NULL;
}

/* close(id, at once) -> 1 if it is closed now, 0 if an event will tell */
static napi_value
js_close(napi_env env, napi_callback_info info)
{
	napi_value	args[2];
	Batch	   *b;
	Conn	   *c;
	int32_t		id;

	b = arguments(env, info, 2, args);
	id = integer(env, args[0]);
	c = &b->conns[id];
	if (!integer(env, args[1]) && c->state == OPEN && c->queue_end > c->queue_at &&
		!(c->tls != NULL && tls_handshaking(c->tls)))
	{
		c->state = CLOSING;
		uring_leave(b, id);
		conn_watch(b, id);
		return number(env, 0);
	}
	conn_drop(b, id, true);
	return number(env, 1);
}

/* The descriptor, which is the caller's from now on; -1 while the kernel receives for it. */
static napi_value
js_release(napi_env env, napi_callback_info info)
{
	napi_value	args[1];
	Batch	   *b;
	int32_t		id;
	int			fd;

	b = arguments(env, info, 1, args);
	id = integer(env, args[0]);
	if (b->conns[id].stream >= STREAMED)
		return number(env, -1);
	fd = b->conns[id].fd;
	conn_drop(b, id, false);
	return number(env, fd);
}

static napi_value
js_peer(napi_env env, napi_callback_info info)
{
	napi_value	args[1],
				result;
	char		text[80];
	Batch	   *b = arguments(env, info, 1, args);

	socket_peer(b->conns[integer(env, args[0])].fd, text, sizeof text);
	napi_create_string_utf8(env, text, strlen(text), &result);
	return result;
}

/* The loop stays alive, and is ours, as long as this is on. */
static napi_value
js_hold(napi_env env, napi_callback_info info)
{
	napi_value	args[1];
	Batch	   *b = arguments(env, info, 1, args);

	loop_run(b, integer(env, args[0]) != 0);
	return NULL;
}

/* tlsContext(certificates, key) -> number, or -1 where this Node has no OpenSSL to offer */
static napi_value
js_tls_context(napi_env env, napi_callback_info info)
{
	napi_value	args[2];
	void	   *certificates,
			   *key;
	size_t		certificates_size,
				key_size;
	const char *error = NULL;
	int32_t		context;

	if (!tls_possible())
		return number(env, -1);
	arguments(env, info, 2, args);
	napi_get_buffer_info(env, args[0], &certificates, &certificates_size);
	napi_get_buffer_info(env, args[1], &key, &key_size);
	context = tls_context(certificates, certificates_size, key, key_size, &error);
	if (context < 0)
		return fail(env, "certificate or key", error != NULL ? error : "not in PEM");
	return number(env, context);
}

/* tls(id, context, what has come already) -> 1 if it begins */
static napi_value
js_tls(napi_env env, napi_callback_info info)
{
	napi_value	args[3];
	Batch	   *b;
	void	   *early;
	size_t		early_size;
	int32_t		id;
	Conn	   *c;

	b = arguments(env, info, 3, args);
	id = integer(env, args[0]);
	napi_get_buffer_info(env, args[2], &early, &early_size);
	c = &b->conns[id];
	if (c->state != OPEN || c->tls != NULL || c->queue_end > c->queue_at || c->stream >= STREAMED ||
		!tls_begin(c, integer(env, args[1]), early, early_size))
		return number(env, 0);
	conn_watch(b, id);
	conn_read_again(b, id);
	return number(env, 1);
}

/* How often the kernel was asked to receive for a connection. */
static napi_value
js_streams(napi_env env, napi_callback_info info)
{
	napi_value	args[1];

	return number(env, (int32_t) uring_streams(arguments(env, info, 0, args)));
}

static napi_value
functions_of(napi_env env, Batch *b)
{
	static const struct
	{
		const char *name;
		napi_callback function;
	}			functions[] = {
		{"send", js_send}, {"listen", js_listen}, {"port", js_port}, {"connect", js_connect},
		{"pause", js_pause}, {"close", js_close}, {"release", js_release}, {"peer", js_peer},
		{"hold", js_hold}, {"tlsContext", js_tls_context}, {"tls", js_tls},
		{"streams", js_streams},
	};
	napi_value	object;

	napi_create_object(env, &object);
	napi_set_named_property(env, object, "uring", number(env, b->uring != NULL));
	for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
	{
		napi_value	function;

		napi_create_function(env, functions[i].name, (size_t) -1, functions[i].function, b, &function);
		napi_set_named_property(env, object, functions[i].name, function);
	}
	return object;
}

/* start(wake, in, out, ops, events, queued, counts, with io_uring if possible) -> the functions above */
static napi_value
js_start(napi_env env, napi_callback_info info)
{
	napi_value	args[8];
	Batch	   *b = calloc(1, sizeof *b);
	size_t		size,
				ops_size;

	if (b == NULL)
		return fail(env, "could not start", strerror(ENOMEM));
	arguments(env, info, 8, args);
	b->env = env;
	napi_create_reference(env, args[0], 1, &b->wake);
	napi_get_arraybuffer_info(env, args[1], (void **) &b->in, &b->in_size);
	napi_get_arraybuffer_info(env, args[2], (void **) &b->out, &size);
	napi_get_arraybuffer_info(env, args[3], (void **) &b->ops, &ops_size);
	napi_get_arraybuffer_info(env, args[4], (void **) &b->events, &size);
	b->events_size = size / 16;
	napi_get_arraybuffer_info(env, args[5], (void **) &b->queued, &size);
	napi_get_arraybuffer_info(env, args[6], (void **) &b->counts, NULL);
	b->most = (int32_t) (size / 4);
	b->conns = table_make(b->most);
	b->free_ids = calloc((size_t) b->most, sizeof(int32_t));
	b->dying = calloc((size_t) b->most, sizeof(int32_t));
	b->again = calloc((size_t) b->most, sizeof(int32_t));
	if (b->conns == NULL || b->free_ids == NULL || b->dying == NULL || b->again == NULL || !loop_start(b))
		return fail(env, "could not start", strerror(errno));
	if (integer(env, args[7]) != 0)
		uring_start(b, ops_size / 12);
	napi_add_env_cleanup_hook(env, clean_up, b);
	return functions_of(env, b);
}

__attribute__((visibility("default")))
napi_value
napi_register_module_v1(napi_env env, napi_value exports)
{
	napi_value	function;

	napi_create_function(env, "start", (size_t) -1, js_start, NULL, &function);
	napi_set_named_property(env, exports, "start", function);
	return exports;
}

__attribute__((visibility("default")))
int32_t
node_api_module_get_api_version_v1(void)
{
	return 8;
}
