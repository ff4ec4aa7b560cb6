/*-------------------------------------------------------------------------
 *
 * ruleset.c
 *	  The applied ruleset: shared memory and PGDATA/quorate/ruleset.
 *
 * A ruleset is a record in the log (ruleset_rmgr.c).  Recovery starts at a
 * checkpoint and may not meet that record again, so the newest one that was
 * applied lies in a file, which is replaced (written aside, fsynced, renamed)
 * before the record can be forgotten: by the startup process when it redoes
 * the record, and by the leader's control worker when the record is committed,
 * while it holds up checkpoints (ruleset_leader.c).
 *
 * Rulesets are ordered by position, (term, LSN): the record with an older one
 * that crash recovery meets again changes nothing.
 *
 * The file is a RulesetFile followed by the rule and the text, in the byte
 * order of the machine, like the rest of the data directory.
 *
 * Locks: quorate_shared->lock for the memory.  The file has one writer: the
 * startup process until recovery ends, the control worker from then on; the
 * postmaster reads it before either runs.
 *
 *-------------------------------------------------------------------------
 */
#include "quorate.h"

#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/wait_event.h"

#define RULESET_DIR		"quorate"
#define RULESET_FILE	RULESET_DIR "/ruleset"
#define RULESET_TEMP	RULESET_DIR "/ruleset.tmp"

#define RULESET_MAGIC	0x51525354	/* "QRST" */
#define RULESET_FORMAT	1

typedef struct RulesetFile
{
	uint32		magic;
	uint32		format;
	RulesetId	id;
	pg_crc32c	crc;			/* of all before, and of rule and text */
} RulesetFile;

static pg_crc32c
file_crc(const RulesetFile *header, const char *rule, const char *text)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, offsetof(RulesetFile, crc));
	COMP_CRC32C(crc, rule, header->id.rulelen);
	COMP_CRC32C(crc, text, header->id.textlen);
	FIN_CRC32C(crc);
	return crc;
}

static void
write_all(int fd, const void *data, size_t len)
{
	errno = 0;
	if (write(fd, data, len) != (ssize_t) len)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", RULESET_TEMP)));
	}
}

static void
write_file(const RulesetId *id, const char *rule, const char *text)
{
	RulesetFile header;
	int			fd;

	memset(&header, 0, sizeof(header));
	header.magic = RULESET_MAGIC;
	header.format = RULESET_FORMAT;
	header.id.term = id->term;
	header.id.version = id->version;
	header.id.lsn = id->lsn;
	header.id.rulelen = id->rulelen;
	header.id.textlen = id->textlen;
	header.crc = file_crc(&header, rule, text);

	fd = OpenTransientFile(RULESET_TEMP, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", RULESET_TEMP)));
	write_all(fd, &header, sizeof(header));
	write_all(fd, rule, id->rulelen);
	write_all(fd, text, id->textlen);
	if (pg_fsync(fd) != 0)
		ereport(data_sync_elevel(ERROR),
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", RULESET_TEMP)));
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", RULESET_TEMP)));
	durable_rename(RULESET_TEMP, RULESET_FILE, ERROR);
}

/*
 * Is this ruleset newer than the applied one?  After a crash the file may be
 * ahead of the position from which recovery replays.
 */
bool
quorate_ruleset_is_news(const RulesetId *id)
{
	RulesetId	applied;

	LWLockAcquire(quorate_shared->lock, LW_SHARED);
	applied = quorate_shared->applied.id;
	LWLockRelease(quorate_shared->lock);

	if (applied.version == 0)
		return true;
	if (id->term != applied.term)
		return id->term > applied.term;
	return id->lsn > applied.lsn;
}

/*
 * A ruleset record is committed: make it the applied one, in the file first.
 * Returns false if a newer one was already applied.
 */
bool
quorate_ruleset_apply(const RulesetId *id, const char *rule, const char *text)
{
	Ruleset    *applied = &quorate_shared->applied;

	if (!quorate_ruleset_is_news(id))
		return false;

	write_file(id, rule, text);

	LWLockAcquire(quorate_shared->lock, LW_EXCLUSIVE);
	applied->id = *id;
	memcpy(applied->rule, rule, id->rulelen);
	applied->rule[id->rulelen] = '\0';
	memcpy(applied->text, text, id->textlen);
	applied->text[id->textlen] = '\0';
	quorate_shared->applied_count++;
	LWLockRelease(quorate_shared->lock);

	quorate_wake_control();
	return true;
}

/* A palloc'd copy of a ruleset in shared memory; NULL if there's none. */
Ruleset *
quorate_ruleset_copy(const Ruleset *shared)
{
	Ruleset    *copy = palloc(sizeof(Ruleset));

	LWLockAcquire(quorate_shared->lock, LW_SHARED);
	copy->id = shared->id;
	if (copy->id.version != 0)
	{
		memcpy(copy->rule, shared->rule, shared->id.rulelen + 1);
		memcpy(copy->text, shared->text, shared->id.textlen + 1);
	}
	LWLockRelease(quorate_shared->lock);

	if (copy->id.version == 0)
	{
		pfree(copy);
		return NULL;
	}
	return copy;
}

static void
corrupt(const char *why)
{
	ereport(FATAL,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is corrupt: %s", RULESET_FILE, why),
			 errdetail("It holds the durability rules that this server has applied."),
			 errhint("Restore this server from another node or from a backup.")));
}

/* Read the file when the server starts (postmaster or stand-alone process). */
void
quorate_ruleset_load(void)
{
	Ruleset    *applied = &quorate_shared->applied;
	RulesetFile header;
	struct stat st;
	char	   *contents;
	int			fd;
	ssize_t		len;

	if (MakePGDirectory(RULESET_DIR) < 0 && errno != EEXIST)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", RULESET_DIR)));

	fd = OpenTransientFile(RULESET_FILE, O_RDONLY | PG_BINARY);
	if (fd < 0)
	{
		if (errno == ENOENT)
			return;
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", RULESET_FILE)));
	}
	if (fstat(fd, &st) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", RULESET_FILE)));
	if (st.st_size < (off_t) sizeof(header) ||
		st.st_size > (off_t) (sizeof(header) + RULE_MAX_TEXT + QUORATE_MAX_TEXT))
		corrupt("its size is wrong");
	contents = palloc(st.st_size);
	len = read(fd, contents, st.st_size);
	if (len < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", RULESET_FILE)));
	CloseTransientFile(fd);

	memcpy(&header, contents, sizeof(header));
	if (len != st.st_size)
		corrupt("it is cut off");
	if (header.magic != RULESET_MAGIC)
		corrupt("it does not begin as it should");
	if (header.format != RULESET_FORMAT)
		corrupt("its format is not known");
	if (header.id.rulelen > RULE_MAX_TEXT || header.id.textlen > QUORATE_MAX_TEXT ||
		sizeof(header) + header.id.rulelen + header.id.textlen != (size_t) len)
		corrupt("its lengths are wrong");
	if (file_crc(&header, contents + sizeof(header),
				 contents + sizeof(header) + header.id.rulelen) != header.crc)
		corrupt("its checksum does not match");

	/* Nobody else has this memory yet. */
	applied->id = header.id;
	memcpy(applied->rule, contents + sizeof(header), header.id.rulelen);
	applied->rule[header.id.rulelen] = '\0';
	memcpy(applied->text, contents + sizeof(header) + header.id.rulelen, header.id.textlen);
	applied->text[header.id.textlen] = '\0';
	pfree(contents);
}
