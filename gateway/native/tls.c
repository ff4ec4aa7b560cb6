/*
 * tls.c
 *		The server's side of TLS, by the OpenSSL that Node has in it.
 *
 * Records are read ahead, so a message costs one recv and one send as without TLS; what
 * OpenSSL holds then without epoll knowing it is told by `more`.  An idle connection
 * holds no buffers (SSL_MODE_RELEASE_BUFFERS).  As in PostgreSQL there are no session
 * tickets and no renegotiation, TLS 1.2 is the oldest version, and ALPN, if the client
 * offers any, must be "postgresql".
 */
#define _GNU_SOURCE
#include "batch.h"
#include "openssl-min.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct Tls
{
	SSL		   *ssl;
	int			fd;
	bool		handshaking;
	bool		wants_write;
	bool		early;			/* reads what had come before TLS began */
};

/* Shared by the threads; contexts are made at start and at a reload, and stay. */
#define MOST_CONTEXTS 4096
static SSL_CTX *contexts[MOST_CONTEXTS];
static int32_t context_count;

bool
tls_possible(void)
{
	return SSL_CTX_new != NULL && SSL_new != NULL && BIO_new_socket != NULL && PEM_read_bio_X509 != NULL &&
		SSL_has_pending != NULL && SSL_set0_rbio != NULL && SSL_CTX_set_num_tickets != NULL;
}

static int
choose_protocol(SSL *ssl, const unsigned char **chosen, unsigned char *length,
				const unsigned char *offered, unsigned int size, void *arg)
{
	static const unsigned char ours[] = "postgresql";
	const unsigned char ours_length = sizeof ours - 1;

	(void) ssl;
	(void) arg;
	for (unsigned int at = 0; at < size && at + 1 + offered[at] <= size; at += 1 + offered[at])
	{
		if (offered[at] == ours_length && memcmp(offered + at + 1, ours, ours_length) == 0)
		{
			*chosen = offered + at + 1;
			*length = ours_length;
			return SSL_TLSEXT_ERR_OK;
		}
	}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static bool
load_certificates(SSL_CTX *context, BIO *pem)
{
	X509	   *certificate = PEM_read_bio_X509(pem, NULL, NULL, NULL);
	bool		ok = certificate != NULL && SSL_CTX_use_certificate(context, certificate) == 1;

	X509_free(certificate);
	while (ok && (certificate = PEM_read_bio_X509(pem, NULL, NULL, NULL)) != NULL)
		ok = SSL_CTX_ctrl(context, SSL_CTRL_EXTRA_CHAIN_CERT, 0, certificate) == 1;
	return ok;
}

/* The number of a new context, or -1. */
int32_t
tls_context(const char *certificates, size_t certificates_size, const char *key, size_t key_size,
			const char **error)
{
	SSL_CTX    *context = SSL_CTX_new(TLS_server_method());
	BIO		   *certificates_pem = BIO_new_mem_buf(certificates, (int) certificates_size);
	BIO		   *key_pem = BIO_new_mem_buf(key, (int) key_size);
	EVP_PKEY   *private_key = PEM_read_bio_PrivateKey(key_pem, NULL, NULL, NULL);
	int32_t		number = -1;

	ERR_clear_error();
	if (private_key != NULL && load_certificates(context, certificates_pem) &&
		SSL_CTX_use_PrivateKey(context, private_key) == 1 && SSL_CTX_check_private_key(context) == 1)
	{
		SSL_CTX_ctrl(context, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
		SSL_CTX_ctrl(context, SSL_CTRL_MODE, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
					 SSL_MODE_AUTO_RETRY | SSL_MODE_RELEASE_BUFFERS, NULL);
		SSL_CTX_ctrl(context, SSL_CTRL_SET_READ_AHEAD, 1, NULL);
		SSL_CTX_ctrl(context, SSL_CTRL_SET_SESS_CACHE_MODE, 0, NULL);
		SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
		SSL_CTX_set_num_tickets(context, 0);
		SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
		number = __atomic_fetch_add(&context_count, 1, __ATOMIC_RELAXED);
	}
	else
	{
		*error = ERR_reason_error_string(ERR_peek_last_error());
		SSL_CTX_free(context);
	}
	if (number >= MOST_CONTEXTS)
	{
		*error = "too many reloads of certificates";
		SSL_CTX_free(context);
		number = -1;
	}
	if (number >= 0)
		contexts[number] = context;
	EVP_PKEY_free(private_key);
	BIO_free(certificates_pem);
	BIO_free(key_pem);
	ERR_clear_error();
	return number;
}

/* From now on the connection speaks TLS; `early` has come already. */
bool
tls_begin(Conn *c, int32_t context, const void *early, size_t early_size)
{
	Tls		   *tls = calloc(1, sizeof *tls);
	BIO		   *socket_bio,
			   *early_bio = NULL;

	if (tls == NULL)
		return false;
	tls->ssl = SSL_new(contexts[context]);
	socket_bio = BIO_new_socket(c->fd, 0);
	if (early_size > 0)
		early_bio = BIO_new(BIO_s_mem());
	if (tls->ssl == NULL || socket_bio == NULL || (early_size > 0 && early_bio == NULL))
	{
		SSL_free(tls->ssl);
		BIO_free(socket_bio);
		BIO_free(early_bio);
		free(tls);
		return false;
	}
	if (early_bio != NULL)
	{
		BIO_write(early_bio, early, (int) early_size);
		BIO_ctrl(early_bio, BIO_C_SET_BUF_MEM_EOF_RETURN, -1, NULL);
	}
	SSL_set_bio(tls->ssl, early_bio != NULL ? early_bio : socket_bio, socket_bio);
	SSL_set_accept_state(tls->ssl);
	tls->fd = c->fd;
	tls->early = early_bio != NULL;
	tls->handshaking = true;
	c->tls = tls;
	return true;
}

void
tls_end(Tls *tls, bool politely)
{
	ERR_clear_error();
	if (politely && !tls->handshaking)
		SSL_shutdown(tls->ssl);
	SSL_free(tls->ssl);
	ERR_clear_error();
	free(tls);
}

bool
tls_handshaking(const Tls *tls)
{
	return tls->handshaking;
}

bool
tls_wants_write(const Tls *tls)
{
	return tls->wants_write;
}

bool
tls_alpn(const Tls *tls)
{
	const unsigned char *chosen;
	unsigned int length;

	SSL_get0_alpn_selected(tls->ssl, &chosen, &length);
	return length > 0;
}

/* What came early has been read: from now on from the socket. */
static bool
early_is_over(Tls *tls)
{
	BIO		   *socket_bio;

	if (!tls->early || BIO_ctrl(SSL_get_rbio(tls->ssl), BIO_CTRL_PENDING, 0, NULL) > 0)
		return false;
	socket_bio = BIO_new_socket(tls->fd, 0);
	if (socket_bio == NULL)
		return false;
	SSL_set0_rbio(tls->ssl, socket_bio);
	tls->early = false;
	return true;
}

int
tls_handshake(Tls *tls)
{
	for (;;)
	{
		int			result;

		ERR_clear_error();
		result = SSL_do_handshake(tls->ssl);
		if (result == 1)
		{
			tls->handshaking = false;
			tls->wants_write = false;
			return 1;
		}
		switch (SSL_get_error(tls->ssl, result))
		{
			case SSL_ERROR_WANT_READ:
				if (early_is_over(tls))
					continue;
				tls->wants_write = false;
				return 0;
			case SSL_ERROR_WANT_WRITE:
				tls->wants_write = true;
				return 0;
			default:
				ERR_clear_error();
				return -1;
		}
	}
}

ssize_t
tls_receive(Tls *tls, char *to, size_t room, bool *more)
{
	size_t		total = 0;

	while (total < room)
	{
		int			got;
		int			error;

		ERR_clear_error();
		errno = 0;
		got = SSL_read(tls->ssl, to + total, (int) (room - total));
		if (got > 0)
		{
			total += (size_t) got;
			if (SSL_has_pending(tls->ssl) || early_is_over(tls))
				continue;
			return (ssize_t) total;
		}
		error = SSL_get_error(tls->ssl, got);
		if (error == SSL_ERROR_WANT_READ && early_is_over(tls))
			continue;
		if (total > 0)
		{
			/* An end or an error shows itself again. */
			*more = error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE;
			return (ssize_t) total;
		}
		switch (error)
		{
			case SSL_ERROR_WANT_READ:
			case SSL_ERROR_WANT_WRITE:
				errno = EAGAIN;
				return -1;
			case SSL_ERROR_ZERO_RETURN:
				return 0;
			case SSL_ERROR_SYSCALL:
				return errno == 0 ? 0 : -1;
			default:
				ERR_clear_error();
				errno = EPROTO;
				return -1;
		}
	}
	*more = true;
	return (ssize_t) total;
}

ssize_t
tls_send(Tls *tls, const char *bytes, size_t length)
{
	size_t		total = 0;

	while (total < length)
	{
		size_t		part = length - total < (1 << 30) ? length - total : (1 << 30);
		int			sent;
		int			error;

		ERR_clear_error();
		sent = SSL_write(tls->ssl, bytes + total, (int) part);
		if (sent > 0)
		{
			total += (size_t) sent;
			continue;
		}
		error = SSL_get_error(tls->ssl, sent);
		if (total > 0)
			return (ssize_t) total;
		errno = error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ ? EAGAIN : EPIPE;
		return -1;
	}
	return (ssize_t) total;
}
