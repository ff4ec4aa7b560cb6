/*
 * loop.c
 *		Where a thread waits: for our connections and for everything of libuv's at once.
 *
 * libuv's own way (uv_poll on our epoll set) costs a second epoll_wait and a round of
 * its loop per turn.  Instead an idle handle keeps libuv from waiting, and the wait
 * is done here, in the check phase: in our epoll set, which has libuv's set as a
 * member, no longer than uv_backend_timeout() allows.  As long as only our connections
 * have something, libuv's loop doesn't run at all; when it has something (or a timer
 * is due, or a watcher was added, which makes the timeout 0), we go back to it.
 *
 * A turn: receive into the input area, call JavaScript once, send what it has put into
 * the output area.  Where the kernel has io_uring, the waiting is done there, see uring.c.
 */
#define _GNU_SOURCE
#include "batch.h"

#include <stdlib.h>

static void
nothing(void *handle)
{
	(void) handle;
}

/* A plain call: promises and what waits for the next tick go on only with settle_javascript(). */
static void
call_javascript(Batch *b)
{
	napi_handle_scope scope;
	napi_value	wake,
				error;

	napi_open_handle_scope(b->env, &scope);
	napi_get_reference_value(b->env, b->wake, &wake);
	if (napi_call_function(b->env, wake, wake, 0, NULL, NULL) == NAPI_PENDING_EXCEPTION &&
		napi_get_and_clear_last_exception(b->env, &error) == 0)
		napi_fatal_exception(b->env, error);
	napi_close_handle_scope(b->env, scope);
}

/* A turn without events, called in the way that costs more. */
static void
settle_javascript(Batch *b)
{
	napi_handle_scope scope;
	napi_value	wake;

	if (b->uring != NULL)
		uring_settle(b);		/* what runs now may close what is to be sent to */
	b->counts[0] = b->counts[1] = 0;
	napi_open_handle_scope(b->env, &scope);
	napi_get_reference_value(b->env, b->wake, &wake);
	napi_make_callback(b->env, NULL, wake, wake, 0, NULL, NULL);
	napi_close_handle_scope(b->env, scope);
	b->settled_ms = uv_now(b->loop);
	b->unsettled = false;
}

static int32_t
take_again(Batch *b, int32_t n)
{
	int32_t		count = b->again_count;

	for (int32_t at = 0; at < count; at++)
	{
		int32_t		id = b->again[at];
		Conn	   *c = &b->conns[id];

		if (b->in_size - b->in_used < LEAST_ROOM || (size_t) n + 4 >= b->events_size)
		{
			/* The rest keeps its place. */
			for (int32_t rest = at; rest < b->again_count; rest++)
				b->again[rest - at] = b->again[rest];
			b->again_count -= at;
			return n;
		}
		c->again = 0;
		if (c->state == OPEN && !c->paused)
			n = receive(b, id, n);
	}
	for (int32_t rest = count; rest < b->again_count; rest++)
		b->again[rest - count] = b->again[rest];
	b->again_count -= count;
	return n;
}

/* Waits, and receives: how many events JavaScript gets. `back`: libuv has something, or nothing has come in time. */
static int32_t
wait_turn(Batch *b, int timeout_ms, bool *back)
{
	struct epoll_event ready[MAX_EVENTS];
	bool		something;
	int			count;
	int32_t		events;

	if (b->uring != NULL)
		events = uring_wait(b, timeout_ms, ready, &count, &something);
	else
	{
		count = epoll_wait(b->epoll, ready, MAX_EVENTS, b->again_count > 0 ? 0 : timeout_ms);
		something = count > 0;
		conn_free_dead(b);
		b->in_used = 0;
		events = 0;
	}
	*back = timeout_ms == 0 || !something;
	for (int i = 0; i < count; i++)
		*back |= ready[i].data.u32 == OUTER;
	events = take_again(b, events);
	if (count > 0)
		events = take_ready(b, ready, count, events);
	return events;
}

/*
 * Most turns begin nothing asynchronous, and JavaScript says of the others that they may
 * have.  Should it be wrong about one, that is settled within SETTLE_MS all the same.
 */
static int
prepare_wait(Batch *b)
{
	int			timeout_ms;

	uv_update_time(b->loop);
	if (b->unsettled && uv_now(b->loop) - b->settled_ms >= SETTLE_MS)
		settle_javascript(b);
	uv_idle_stop(b->idle);		/* it would make the timeout 0 */
	timeout_ms = uv_backend_timeout(b->loop);
	uv_idle_start(b->idle, nothing);
	if (b->unsettled && (timeout_ms < 0 || timeout_ms > SETTLE_MS))
		timeout_ms = SETTLE_MS;
	return timeout_ms;
}

static void
on_check(void *handle)
{
	Batch	   *b = uv_handle_get_data(handle);
	bool		back = false;

	while (b->running && !back)
	{
		int32_t		events = wait_turn(b, prepare_wait(b), &back);

		if (events == 0)
			continue;
		b->counts[0] = events;
		b->counts[1] = 0;
		b->counts[2] = 1;
		call_javascript(b);
		if (b->uring != NULL)
			uring_send(b, b->counts[1]);
		else
			send_ranges(b, b->counts[1]);
		b->unsettled = true;
		if (b->counts[2] != 0)
			settle_javascript(b);
	}
	/* Whoever runs next may close what is to be sent to, and write where it lies. */
	if (b->uring != NULL)
		uring_settle(b);
}

bool
loop_start(Batch *b)
{
	struct epoll_event e = {.events = EPOLLIN,.data.u32 = OUTER};

	napi_get_uv_event_loop(b->env, &b->loop);
	b->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (b->epoll < 0 || epoll_ctl(b->epoll, EPOLL_CTL_ADD, uv_backend_fd(b->loop), &e) != 0)
		return false;
	b->check = calloc(1, uv_handle_size(UV_CHECK_TYPE));
	b->idle = calloc(1, uv_handle_size(UV_IDLE_TYPE));
	if (b->check == NULL || b->idle == NULL)
		return false;
	uv_check_init(b->loop, b->check);
	uv_idle_init(b->loop, b->idle);
	uv_handle_set_data(b->check, b);
	return true;
}

/* While it runs, the loop stays alive. */
void
loop_run(Batch *b, bool on)
{
	if (b->check == NULL || on == b->running)
		return;
	b->running = on;
	if (on)
	{
		uv_check_start(b->check, on_check);
		uv_idle_start(b->idle, nothing);
	}
	else
	{
		uv_check_stop(b->check);
		uv_idle_stop(b->idle);
		if (b->uring != NULL)
			uring_settle(b);	/* what was closed last */
	}
}

/*
 * The handles are freed by libc itself: when a thread ends, Node unloads this addon
 * before libuv calls back.
 */
void
loop_stop(Batch *b)
{
	loop_run(b, false);
	if (b->check != NULL)
		uv_close(b->check, free);
	if (b->idle != NULL)
		uv_close(b->idle, free);
	b->check = b->idle = NULL;
}
