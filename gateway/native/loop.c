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
 * the output area.
 */
#define _GNU_SOURCE
#include "batch.h"

#include <stdlib.h>

static void
nothing(void *handle)
{
	(void) handle;
}

static void
call_javascript(Batch *b)
{
	napi_handle_scope scope;
	napi_value	wake;

	napi_open_handle_scope(b->env, &scope);
	napi_get_reference_value(b->env, b->wake, &wake);
	napi_make_callback(b->env, NULL, wake, wake, 0, NULL, NULL);
	napi_close_handle_scope(b->env, scope);
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

static void
on_check(void *handle)
{
	Batch	   *b = uv_handle_get_data(handle);
	struct epoll_event ready[MAX_EVENTS];

	while (b->running)
	{
		bool		outer = false;
		int			timeout_ms,
					count;
		int32_t		events;

		uv_update_time(b->loop);
		uv_idle_stop(b->idle);	/* it would make the timeout 0 */
		timeout_ms = uv_backend_timeout(b->loop);
		uv_idle_start(b->idle, nothing);
		count = epoll_wait(b->epoll, ready, MAX_EVENTS, b->again_count > 0 ? 0 : timeout_ms);
		for (int i = 0; i < count; i++)
			outer |= ready[i].data.u32 == OUTER;

		conn_free_dead(b);
		b->in_used = 0;
		events = take_again(b, 0);
		if (count > 0)
			events = take_ready(b, ready, count, events);
		if (events > 0)
		{
			b->counts[0] = events;
			b->counts[1] = 0;
			call_javascript(b);
			send_ranges(b, b->counts[1]);
			b->counts[1] = 0;
		}
		if (outer || timeout_ms == 0 || count <= 0)
			break;
	}
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
