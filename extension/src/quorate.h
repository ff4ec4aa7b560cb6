/*-------------------------------------------------------------------------
 *
 * quorate.h
 *	  Shared by the parts of the extension.
 *
 * Processes and what they do here:
 *
 *	  postmaster		loads the library, reads the ruleset file
 *	  quorate control	answers the sidecar; the only writer of the rules in
 *						force and of the pending ruleset
 *	  startup			redo of ruleset records: writes the applied ruleset
 *	  walsenders, ...	evaluate the rules in force (quorum_routine.evaluate)
 *	  client backends	wait while quiesced; SQL functions read
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUORATE_H
#define QUORATE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "access/xlogreader.h"
#include "lib/stringinfo.h"
#include "port/atomics.h"
#include "replication/quorum.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "rule.h"

/* SQLSTATEs of class QR, see docs/errors.md */
#define ERRCODE_QUORATE_NOT_IN_TIME	MAKE_SQLSTATE('Q','R','0','0','1')
#define ERRCODE_QUORATE_CANNOT_READ	MAKE_SQLSTATE('Q','R','0','0','3')

#define QUORATE_MAX_JOINT		8
#define QUORATE_MAX_TEXT		(64 * 1024) /* of a ruleset */

/* A ruleset as it lies in the log, in memory and in the file. */
typedef struct RulesetId
{
	uint32		term;			/* whose leader wrote it */
	uint64		version;
	XLogRecPtr	lsn;			/* end of its record; 0 if there's none */
	uint32		rulelen;
	uint32		textlen;
} RulesetId;

typedef struct Ruleset
{
	RulesetId	id;				/* version 0: there is none */
	char		rule[RULE_MAX_TEXT + 1];
	char		text[QUORATE_MAX_TEXT + 1];
} Ruleset;

/* The rules that a commit LSN of "term" must meet, all of them. */
typedef struct RulesInForce
{
	uint32		term;			/* 0: none */
	int			njoint;
	Rule		rule;
	Rule		joint[QUORATE_MAX_JOINT];
} RulesInForce;

/* Where the ruleset that this leader writes has got to */
typedef enum PendingStage
{
	PENDING_NONE = 0,
	PENDING_ELECTION,			/* to be written as soon as we lead */
	PENDING_WRITTEN,			/* in the log, not yet known to be committed */
} PendingStage;

typedef struct QuorateShared
{
	/*
	 * Protects what follows up to the next comment.  Held for short, never
	 * while a function of quorum.h is called: those call evaluate(), which
	 * takes it in shared mode.
	 */
	LWLock	   *lock;
	RulesInForce rules;			/* written by the control worker */
	PendingStage stage;			/* written by the control worker */
	Ruleset		pending;		/* written by the control worker */
	Ruleset		applied;		/* written by startup and control worker */
	uint64		applied_count;	/* grows with each change of "applied" */

	/* Latch of the control worker or NULL; a pointer that is read atomically. */
	pg_atomic_uint64 control_latch;

	/* Quiesce, see quiesce.c */
	pg_atomic_uint32 quiesced;
	pg_atomic_uint64 quiesced_until;	/* QuorumClock(), or 0: no end */
	ConditionVariable quiesce_cv;
	int			nadmitted;		/* constant */
	pg_atomic_uint32 admitted[FLEXIBLE_ARRAY_MEMBER];	/* by proc number */
} QuorateShared;

/* NULL unless the library was loaded by shared_preload_libraries */
extern QuorateShared *quorate_shared;

/* settings (guc.c) */
extern char *quorate_node_id;
extern char *quorate_control_socket;
extern bool quorate_member;
extern bool quorate_observer;
extern bool quorate_restoring;
extern bool quorate_control;
extern int	quorate_max_clients;

extern void quorate_define_settings(void);
extern void quorate_check_settings(void);
extern void quorate_warn_settings(void);
extern const char *quorate_socket_path(void);

/* rules in force (cohort.c) */
extern XLogRecPtr quorate_evaluate(TimeLineID tli, XLogRecPtr local,
								   int npeers, const QuorumPeer *peers);
extern void quorate_install_rules(uint32 term, const Rule *rule,
								  int njoint, Rule *const *joint);
extern void quorate_add_rule(const Rule *rule);
extern void quorate_drop_joint(void);
extern uint32 quorate_rules_term(void);
extern int	quorate_rules_text(uint32 term, char **rule, char **joint);

/* rulesets (ruleset.c, ruleset_rmgr.c); the id is the experimental one */
#define RM_QUORATE_ID			RM_EXPERIMENTAL_ID
extern void quorate_ruleset_load(void);
extern bool quorate_ruleset_is_news(const RulesetId *id);
extern bool quorate_ruleset_apply(const RulesetId *id, const char *rule, const char *text);
extern Ruleset *quorate_ruleset_copy(const Ruleset *shared);
extern void quorate_register_rmgr(void);
extern XLogRecPtr quorate_ruleset_insert(const Ruleset *ruleset);
extern bool quorate_ruleset_decode(XLogReaderState *record, RulesetId *id,
								   const char **rule, const char **text);

/* quiesce.c */
extern void quorate_install_quiesce_hooks(void);
extern void quorate_quiesce(bool on, int timeout_ms);
extern bool quorate_is_quiesced(void);
extern QuorumResult quorate_fence(uint32 term);
extern int	quorate_in_flight(void);

/* reads.c */
extern int	quorate_lease_ms;
extern void quorate_install_reads(void);
extern void quorate_install_read_hooks(void);
extern void quorate_check_read(void);

/* report.c */
extern void quorate_install_report(void);
extern XLogRecPtr quorate_visible_here(void);
extern void quorate_note_read(void);
extern void quorate_note_function(Oid function);
extern void quorate_note_utility(Node *statement);

/* status.c */
extern const char *quorate_state_name(const QuorumInfo *info, bool stopping);
extern void quorate_status_json(StringInfo buf, bool stopping);
extern uint64 quorate_status_signature(bool stopping);
extern void quorate_position(const QuorumInfo *info, TimeLineID *tli, XLogRecPtr *lsn);
extern void quorate_json_lsn(StringInfo buf, const char *key, XLogRecPtr lsn);
extern void quorate_json_position(StringInfo buf, TimeLineID tli, XLogRecPtr lsn);
extern void quorate_json_ruleset(StringInfo buf, const RulesetId *id, const char *text);

/* control.c */
extern void quorate_register_control_worker(void);
extern void quorate_wake_control(void);
extern PGDLLEXPORT void quorate_control_main(Datum arg);

#endif							/* QUORATE_H */
