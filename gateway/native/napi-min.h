/*
 * napi-min.h
 *		The few declarations of Node-API (version 8) and libuv that this addon uses.
 *
 * Both promise a stable ABI, so the addon builds with nothing but a C compiler:
 * no headers of Node have to be installed or fetched.
 */
#ifndef NAPI_MIN_H
#define NAPI_MIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct napi_env__ *napi_env;
typedef struct napi_value__ *napi_value;
typedef struct napi_ref__ *napi_ref;
typedef struct napi_callback_info__ *napi_callback_info;
typedef struct napi_handle_scope__ *napi_handle_scope;
typedef struct napi_async_context__ *napi_async_context;
typedef struct napi_callback_scope__ *napi_callback_scope;
typedef int napi_status;		/* 0: ok */
#define NAPI_PENDING_EXCEPTION 10
typedef napi_value (*napi_callback) (napi_env env, napi_callback_info info);
typedef void (*napi_finalize) (napi_env env, void *data, void *hint);

extern napi_status napi_create_function(napi_env, const char *, size_t, napi_callback, void *, napi_value *);
extern napi_status napi_create_object(napi_env, napi_value *);
extern napi_status napi_set_named_property(napi_env, napi_value, const char *, napi_value);
extern napi_status napi_get_cb_info(napi_env, napi_callback_info, size_t *, napi_value *, napi_value *, void **);
extern napi_status napi_get_value_int32(napi_env, napi_value, int32_t *);
extern napi_status napi_create_int32(napi_env, int32_t, napi_value *);
extern napi_status napi_get_value_string_utf8(napi_env, napi_value, char *, size_t, size_t *);
extern napi_status napi_create_string_utf8(napi_env, const char *, size_t, napi_value *);
extern napi_status napi_get_arraybuffer_info(napi_env, napi_value, void **, size_t *);
extern napi_status napi_create_reference(napi_env, napi_value, uint32_t, napi_ref *);
extern napi_status napi_get_reference_value(napi_env, napi_ref, napi_value *);
extern napi_status napi_get_undefined(napi_env, napi_value *);
extern napi_status napi_open_handle_scope(napi_env, napi_handle_scope *);
extern napi_status napi_close_handle_scope(napi_env, napi_handle_scope);
extern napi_status napi_make_callback(napi_env, napi_async_context, napi_value, napi_value, size_t, const napi_value *, napi_value *);
extern napi_status napi_call_function(napi_env, napi_value, napi_value, size_t, const napi_value *, napi_value *);
extern napi_status napi_get_and_clear_last_exception(napi_env, napi_value *);
extern napi_status napi_fatal_exception(napi_env, napi_value);
extern napi_status napi_throw_error(napi_env, const char *, const char *);
extern napi_status napi_get_uv_event_loop(napi_env, void **);
extern napi_status napi_add_env_cleanup_hook(napi_env, void (*) (void *), void *);
extern napi_status napi_get_buffer_info(napi_env, napi_value, void **, size_t *);

/* libuv 1.x */
#define UV_CHECK_TYPE 2
#define UV_IDLE_TYPE 6
extern size_t uv_handle_size(int type);
extern int	uv_check_init(void *loop, void *handle);
extern int	uv_check_start(void *handle, void (*cb) (void *handle));
extern int	uv_check_stop(void *handle);
extern int	uv_idle_init(void *loop, void *handle);
extern int	uv_idle_start(void *handle, void (*cb) (void *handle));
extern int	uv_idle_stop(void *handle);
extern int	uv_backend_fd(const void *loop);
extern int	uv_backend_timeout(const void *loop);
extern void uv_update_time(void *loop);
extern uint64_t uv_now(const void *loop);
extern void uv_close(void *handle, void (*cb) (void *handle));
extern void uv_handle_set_data(void *handle, void *data);
extern void *uv_handle_get_data(const void *handle);

#endif
