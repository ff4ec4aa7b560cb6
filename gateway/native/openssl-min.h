/*
 * openssl-min.h
 *		The few declarations of OpenSSL (1.1 to 3.x) that tls.c uses.
 *
 * Node's program has OpenSSL in it and exports it; no library and no headers are
 * needed.  All symbols are weak: where a Node has been built without them, TLS goes by
 * Node's own sockets.
 */
#ifndef OPENSSL_MIN_H
#define OPENSSL_MIN_H

#include <stddef.h>
#include <stdint.h>

#pragma weak SSL_CTX_new
#pragma weak SSL_new
#pragma weak BIO_new_socket
#pragma weak PEM_read_bio_X509
#pragma weak SSL_has_pending
#pragma weak SSL_set0_rbio
#pragma weak SSL_CTX_set_num_tickets

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_method_st SSL_METHOD;
typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;
typedef struct x509_st X509;
typedef struct evp_pkey_st EVP_PKEY;

#define SSL_CTRL_EXTRA_CHAIN_CERT 14
#define SSL_CTRL_MODE 33
#define SSL_CTRL_SET_READ_AHEAD 41
#define SSL_CTRL_SET_SESS_CACHE_MODE 44
#define SSL_CTRL_SET_MIN_PROTO_VERSION 123
#define TLS1_2_VERSION 0x0303
#define SSL_MODE_ENABLE_PARTIAL_WRITE 1
#define SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER 2
#define SSL_MODE_AUTO_RETRY 4
#define SSL_MODE_RELEASE_BUFFERS 16
#define SSL_OP_NO_COMPRESSION 0x00020000U
#define SSL_OP_NO_TICKET 0x00004000U
#define SSL_OP_NO_RENEGOTIATION 0x40000000U
#define SSL_ERROR_WANT_READ 2
#define SSL_ERROR_WANT_WRITE 3
#define SSL_ERROR_SYSCALL 5
#define SSL_ERROR_ZERO_RETURN 6
#define SSL_TLSEXT_ERR_OK 0
#define SSL_TLSEXT_ERR_ALERT_FATAL 2
#define BIO_CTRL_PENDING 10
#define BIO_C_SET_BUF_MEM_EOF_RETURN 130

extern const SSL_METHOD *TLS_server_method(void);
extern SSL_CTX *SSL_CTX_new(const SSL_METHOD *);
extern void SSL_CTX_free(SSL_CTX *);
extern long SSL_CTX_ctrl(SSL_CTX *, int, long, void *);
extern uint64_t SSL_CTX_set_options(SSL_CTX *, uint64_t);
extern int	SSL_CTX_set_num_tickets(SSL_CTX *, size_t);
extern int	SSL_CTX_use_certificate(SSL_CTX *, X509 *);
extern int	SSL_CTX_use_PrivateKey(SSL_CTX *, EVP_PKEY *);
extern int	SSL_CTX_check_private_key(const SSL_CTX *);
extern void SSL_CTX_set_alpn_select_cb(SSL_CTX *, int (*) (SSL *, const unsigned char **, unsigned char *,
														   const unsigned char *, unsigned int, void *), void *);
extern SSL *SSL_new(SSL_CTX *);
extern void SSL_free(SSL *);
extern void SSL_set_bio(SSL *, BIO *, BIO *);
extern void SSL_set0_rbio(SSL *, BIO *);
extern BIO *SSL_get_rbio(const SSL *);
extern void SSL_set_accept_state(SSL *);
extern int	SSL_do_handshake(SSL *);
extern int	SSL_read(SSL *, void *, int);
extern int	SSL_write(SSL *, const void *, int);
extern int	SSL_has_pending(const SSL *);
extern int	SSL_shutdown(SSL *);
extern int	SSL_get_error(const SSL *, int);
extern void SSL_get0_alpn_selected(const SSL *, const unsigned char **, unsigned int *);
extern BIO *BIO_new(const BIO_METHOD *);
extern const BIO_METHOD *BIO_s_mem(void);
extern BIO *BIO_new_socket(int, int);
extern BIO *BIO_new_mem_buf(const void *, int);
extern int	BIO_write(BIO *, const void *, int);
extern long BIO_ctrl(BIO *, int, long, void *);
extern int	BIO_free(BIO *);
extern X509 *PEM_read_bio_X509(BIO *, X509 **, void *, void *);
extern EVP_PKEY *PEM_read_bio_PrivateKey(BIO *, EVP_PKEY **, void *, void *);
extern void X509_free(X509 *);
extern void EVP_PKEY_free(EVP_PKEY *);
extern void ERR_clear_error(void);
extern unsigned long ERR_peek_last_error(void);
extern const char *ERR_reason_error_string(unsigned long);

#endif
